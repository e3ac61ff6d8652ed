//! `unionlink fans list`: prints fans as NDJSON or CSV, page by page as they arrive.

use std::process::ExitCode;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::admin::{AdminApi, ServiceArgs};
use crate::cli::output::{Output, counted};
use crate::domain::ids::AppName;

/// Fans in one answer of the admin API.
const PAGE_FANS_MAX: u64 = 1_000;

/// The columns of CSV: those that an import reads, and the reason for a refusal.
const COLUMNS: [&str; 10] = [
    "app",
    "unionid",
    "openid",
    "state",
    "errcode",
    "remedy",
    "registered_at",
    "pending_id",
    "minted_at",
    "expires_at",
];

const AFTER_HELP: &str = "\
The CSV can be corrected and imported again: unionlink fans import FILE. WeCom is asked again about a fan that
it refused if the openid is another one, or with --retry-rejected.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct List {
    /// Only fans in this state
    #[arg(long, value_name = "STATE", value_parser = ["queued", "minted", "expired", "rejected"])]
    state: Option<String>,
    /// Only fans that WeCom refused with this error code
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    errcode: Option<i64>,
    /// Only fans of this app
    #[arg(long, value_name = "NAME", value_parser = |name: &str| AppName::new(name))]
    app: Option<AppName>,
    /// The format
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Ndjson)]
    format: Format,
    /// At most N fans
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    pub(super) service: ServiceArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Ndjson,
    Csv,
}

#[derive(Deserialize)]
struct Page {
    fans: Vec<Value>,
    next: Option<String>,
}

impl List {
    pub(super) async fn run(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let (mut listed, mut left) = (0_u64, self.limit.unwrap_or(u64::MAX));
        let mut after: Option<String> = None;
        if self.format == Format::Csv {
            out.write(&csv_text([COLUMNS.map(str::to_owned)])?)?;
        }
        let stopped = loop {
            let Page { fans, next } = self.page(api, after.as_deref(), left).await?;
            match self.format {
                Format::Ndjson => fans.iter().try_for_each(|fan| out.print(&fan.to_string()))?,
                Format::Csv => out.write(&csv_text(fans.iter().map(columns))?)?,
            }
            listed += fans.len() as u64;
            left = left.saturating_sub(fans.len() as u64);
            match next {
                None => break "",
                Some(_) if left == 0 => break "; stopped at --limit",
                // A cursor that does not move would make this loop endless.
                Some(_) if next == after => return Err(api.unexpected_answer(StatusCode::OK)),
                Some(_) => after = next,
            }
        };
        out.flush()?;
        out.say(&format!("{}{stopped}", counted(listed, ["fan", "fans"])));
        Ok(ExitCode::SUCCESS)
    }

    async fn page(&self, api: &AdminApi, after: Option<&str>, left: u64) -> anyhow::Result<Page> {
        let (errcode, limit) = (self.errcode.map(|n| n.to_string()), left.min(PAGE_FANS_MAX).to_string());
        let url = api.url(
            &["v1", "fans"],
            &[
                ("state", self.state.as_deref()),
                ("errcode", errcode.as_deref()),
                ("app", self.app.as_ref().map(AppName::as_str)),
                ("after", after),
                ("limit", Some(&limit)),
            ],
        );
        api.parsed(&api.get(url).await?)
    }
}

fn columns(fan: &Value) -> [String; COLUMNS.len()] {
    COLUMNS.map(|column| match &fan[column] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

fn csv_text(rows: impl IntoIterator<Item = [String; COLUMNS.len()]>) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut csv = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(&mut text);
    for row in rows {
        csv.write_record(row)?;
    }
    csv.flush()?;
    drop(csv);
    Ok(text)
}
