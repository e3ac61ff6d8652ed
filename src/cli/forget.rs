//! `unionlink forget`: erases a person everywhere and prints the receipt.
//!
//! Deliberately absent: a confirmation prompt, because programs run this command.

use std::process::ExitCode;

use clap::ArgGroup;
use indicatif::HumanCount;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::admin::{AdminApi, LONG_TIMEOUT, ServiceArgs};
use super::output::Output;
use super::table::{china_time, plain};
use crate::domain::ids::{ExternalUserid, Unionid};

const AFTER_HELP: &str = "\
The receipt says what was erased and identifies the person only by a salted hash. Keep it as proof. The erased
data leaves log and checkpoint within hours, and the files of the index when they are rewritten; unionlink store
compact does both at once.";

#[derive(Debug, clap::Args)]
#[command(
    after_help = AFTER_HELP,
    group = ArgGroup::new("person").args(["unionid", "external_userid"]).required(true)
)]
pub(super) struct Forget {
    /// The unionid of the person
    #[arg(long, value_name = "ID", value_parser = |id: &str| Unionid::new(id))]
    unionid: Option<Unionid>,
    #[arg(
        long,
        value_name = "ID",
        help = "The external_userid of the person at a dealer",
        value_parser = |id: &str| ExternalUserid::new(id)
    )]
    external_userid: Option<ExternalUserid>,
    /// A reference to the request, recorded in the receipt, such as "ticket 4711"
    #[arg(long, value_name = "TEXT")]
    request: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
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

/// The counts of a receipt in the order in which they are printed; others follow.
const ERASED: [&str; 7] =
    ["fans", "contacts", "links", "events", "dead_letters", "quarantined", "feed_entries"];

impl Forget {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        self.run_with(&self.service.api()?, &mut Output::of_process()).await
    }

    pub(super) async fn run_with(&self, api: &AdminApi, out: &mut Output) -> anyhow::Result<ExitCode> {
        let mut person = Map::new();
        let unionid = self.unionid.as_ref().map(Unionid::as_str);
        let external_userid = self.external_userid.as_ref().map(ExternalUserid::as_str);
        for (name, value) in
            [("unionid", unionid), ("external_userid", external_userid), ("request", self.request.as_deref())]
        {
            person.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        let request = api.request(Method::POST, api.url(&["v1", "forget"], &[])).timeout(LONG_TIMEOUT);
        let body = api.success(api.send(request.json(&person)).await?)?;
        let receipt: Receipt = api.parsed(&body)?;
        if self.json {
            out.print_answer(&body)?;
        } else {
            receipt.print(out)?;
        }
        if receipt.erased.values().all(|number| number.as_u64() == Some(0)) {
            out.say("nothing was stored about this id: check its spelling");
        }
        out.say(
            "keep the receipt as proof; the erased data leaves log and checkpoint within hours, and the files of \
             the index when they are rewritten; unionlink store compact does both at once",
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl Receipt {
    fn print(&self, out: &mut Output) -> anyhow::Result<()> {
        out.print(&format!("receipt       {}", plain(&self.id)))?;
        out.print(&format!("forgotten at  {}", china_time(&self.forgotten_at)))?;
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
                out.print(&format!("{label:<12}  {what:<12}  {number:>7}"))?;
                label = "";
            }
        }
        Ok(())
    }
}
