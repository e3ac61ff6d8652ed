//! `unionlink forget`: erases a person everywhere, and prints the receipt.
//!
//! Deliberately absent: a question whether this is meant. Programs run it, on behalf of whoever asked to be forgotten.

use std::process::ExitCode;

use clap::ArgGroup;
use indicatif::HumanCount;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::admin::{AdminApi, LONG_TIMEOUT, ToService};
use super::output::Output;
use super::table::plain;
use crate::domain::ids::{ExternalUserid, Unionid};

const AFTER_HELP: &str = "\
The receipt says what was erased, and names the person by a salted hash only. Keep it. Old bytes stay in the
store's files until `unionlink store compact`, or until they are rewritten in the course of time.";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    group = ArgGroup::new("person").args(["unionid", "external_userid"]).required(true)
)]
pub(super) struct Forget {
    /// The person, as the brand knows them
    #[arg(long, value_name = "ID", value_parser = |id: &str| Unionid::new(id))]
    unionid: Option<Unionid>,
    /// The person, as a dealer knows them
    #[arg(long, value_name = "ID", value_parser = |id: &str| ExternalUserid::new(id))]
    external_userid: Option<ExternalUserid>,
    /// What asked for it, to be noted on the receipt: "ticket 4711"
    #[arg(long, value_name = "TEXT")]
    request: Option<String>,
    #[command(flatten)]
    service: ToService,
    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Receipt {
    #[serde(rename = "receipt")]
    id: String,
    forgotten_at: String,
    request: Option<String>,
    subject: String,
    erased: Map<String, Value>,
}

/// The order in which a receipt tells what was erased.
const ERASED: [&str; 7] =
    ["fans", "contacts", "links", "events", "dead_letters", "quarantined", "feed_entries"];

impl Forget {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        self.ask(&self.service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn ask(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let mut whom = Map::new();
        let unionid = self.unionid.as_ref().map(Unionid::as_str);
        let external_userid = self.external_userid.as_ref().map(ExternalUserid::as_str);
        for (name, value) in
            [("unionid", unionid), ("external_userid", external_userid), ("request", self.request.as_deref())]
        {
            whom.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        let request = api.request(Method::POST, api.address(&["v1", "forget"], &[])).timeout(LONG_TIMEOUT);
        let body = api.good(api.ask(request.json(&whom)).await?)?;
        let receipt: Receipt = api.parsed(&body)?;
        if self.json {
            out.print_answer(&body)?;
        } else {
            receipt.print(out)?;
        }
        out.say(
            "keep the receipt: it is the proof. Old bytes stay in the store's files until unionlink store compact, or \
             until they are rewritten in the course of time",
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl Receipt {
    fn print(&self, out: &mut Output) -> anyhow::Result<()> {
        out.print(&format!("receipt       {}", plain(&self.id)))?;
        out.print(&format!("forgotten at  {}", plain(&self.forgotten_at)))?;
        if let Some(request) = &self.request {
            out.print(&format!("request       {}", plain(request)))?;
        }
        out.print(&format!("subject       {}", plain(&self.subject)))?;
        let others = self.erased.keys().map(String::as_str).filter(|name| !ERASED.contains(name));
        let mut label = "erased";
        for name in ERASED.into_iter().chain(others) {
            if let Some(number) = self.erased.get(name).and_then(Value::as_u64) {
                let what = plain(name).replace('_', " ");
                let number = HumanCount(number).to_string();
                out.print(&format!("{label:<12}  {number:>7} {what}"))?;
                label = "";
            }
        }
        Ok(())
    }
}
