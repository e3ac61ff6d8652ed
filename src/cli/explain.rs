//! `unionlink explain`: why a person is, or is not, linked, in both languages.
//!
//! The service finds the verdict and its words; here they are only laid out.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin::{AdminApi, ToService};
use super::output::Output;
use super::table::plain;

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// A unionid or `external_userid`
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    #[command(flatten)]
    service: ToService,
    /// The language of the answer
    #[arg(long, value_enum, value_name = "LANGUAGE", default_value = "both")]
    lang: Lang,
    /// Print what the service answered, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Lang {
    En,
    Zh,
    Both,
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

#[derive(Deserialize)]
struct Text {
    en: String,
    zh: String,
}

/// Spaces around an id are how it was copied, and none within.
fn id(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("is empty".to_owned()),
        id if id.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err("contains white space or a control character".to_owned())
        }
        id => Ok(id.to_owned()),
    }
}

impl Explain {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        self.ask(&self.service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn ask(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let body = api.get(api.address(&["v1", "explain", &self.id], &[])).await?;
        let found: Explanation = api.parsed(&body)?;
        if self.json {
            out.print_answer(&body)?;
            return Ok(ExitCode::SUCCESS);
        }
        out.print(&format!("{}: {}", plain(&found.id), plain(&found.code)))?;
        for line in self.lang.of(&found.text) {
            out.print(&format!("  {line}"))?;
        }
        if let Some(hint) = &found.hint {
            out.print("")?;
            for line in self.lang.of(hint) {
                out.print(&format!("  → {line}"))?;
            }
        }
        if !found.evidence.is_empty() {
            out.print("")?;
        }
        for Evidence { at, text } in &found.evidence {
            let mut at = plain(at.as_deref().unwrap_or("-"));
            for line in self.lang.of(text) {
                out.print(&format!("  {at:<24}  {line}"))?;
                // Said once; what follows says the same in the other language.
                at.clear();
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Lang {
    fn of(self, text: &Text) -> Vec<String> {
        match self {
            Self::En => vec![plain(&text.en)],
            Self::Zh => vec![plain(&text.zh)],
            Self::Both => vec![plain(&text.en), plain(&text.zh)],
        }
    }
}
