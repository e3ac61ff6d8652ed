//! `unionlink explain`: prints why a person is or is not linked, in English, Chinese or both.
//!
//! Deliberately absent: the diagnosis and its texts, which come from the service.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin::{AdminApi, ServiceArgs};
use super::lang::Lang;
use super::output::Output;
use super::table::{china_time, plain};
use crate::domain::ids::ExternalUserid;
use crate::domain::text::Text;

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    // Every unionid is valid as an `ExternalUserid`, too. Copied ids often have spaces around them.
    #[arg(
        value_name = "ID",
        help = "A unionid or external_userid",
        value_parser = |id: &str| ExternalUserid::new(id.trim())
    )]
    id: ExternalUserid,
    #[command(flatten)]
    service: ServiceArgs,
    /// The language of the answer
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value = "both")]
    lang: Lang,
    /// Print the service's answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Explanation {
    id: String,
    code: String,
    text: Text,
    hint: Option<Text>,
    evidence: Vec<Evidence>,
}

#[derive(Deserialize)]
struct Evidence {
    at: Option<String>,
    text: Text,
}

impl Explain {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        self.run_with(&self.service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn run_with(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let body = api.get(api.url(&["v1", "explain", self.id.as_str()], &[])).await?;
        let Explanation { id, code, text, hint, evidence } = api.parsed(&body)?;
        if self.json {
            out.print_answer(&body)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut lines = vec![format!("{}: {}", plain(&id), plain(&code))];
        lines.extend(self.lang.lines(&text).iter().map(|line| format!("  {line}")));
        if let Some(hint) = &hint {
            lines.push(String::new());
            lines.extend(self.lang.lines(hint).iter().map(|line| format!("  → {line}")));
        }
        if !evidence.is_empty() {
            lines.push(String::new());
        }
        for Evidence { at, text } in &evidence {
            let at = at.as_deref().map_or_else(|| "-".to_owned(), china_time);
            // With both languages, the time is printed before the first only.
            let labels = [at.as_str(), ""];
            let texts = self.lang.lines(text);
            lines.extend(labels.iter().zip(&texts).map(|(label, line)| format!("  {label:<26}  {line}")));
        }
        lines.iter().try_for_each(|line| out.print(line))?;
        Ok(ExitCode::SUCCESS)
    }
}
