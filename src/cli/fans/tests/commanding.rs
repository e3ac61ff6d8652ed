//! The command line, and the progress it shows.

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use indicatif::HumanCount;

use super::super::import::{End, Job, Report};
use super::super::progress::Counts;
use super::super::{Command, Fans, Import};
use crate::cli::Cli;
use crate::cli::progress_display::ProgressDisplay;
use crate::config::Environment;

fn import(arguments: &[&str]) -> Result<Box<Import>, String> {
    let all = ["unionlink", "fans", "import"].iter().chain(arguments);
    match Cli::try_parse_from(all).map_err(|error| error.to_string())?.command {
        crate::cli::Command::Fans(Fans { command: Command::Import(import) }) => Ok(import),
        other => panic!("{other:?}"),
    }
}

fn job(arguments: &[&str]) -> Result<Job, String> {
    let environment: Environment =
        [("UNIONLINK_ADMIN_TOKEN".to_owned(), "CANARY".to_owned())].into_iter().collect();
    import(arguments)?.job(&environment).map_err(|error| error.to_string())
}

#[test]
fn a_named_service_and_a_dry_run_need_no_configuration() {
    let none = ["--config", "/no/such/file"];
    assert!(job(&[&["fans.csv"][..], &none].concat()).is_err());
    let named = job(&[&["-", "--admin", "https://fans.example.com/"][..], &none].concat()).unwrap();
    assert_eq!(named.file, Path::new("-"));
    let access = named.access.unwrap();
    assert_eq!(access.base_url, "https://fans.example.com");
    assert!(access.token.is_some() && !format!("{access:?}").contains("CANARY"));
    assert!(job(&[&["fans.csv", "--dry-run"][..], &none].concat()).unwrap().access.is_none());
    assert!(!named.retry_rejected && job(&["-", "--dry-run", "--retry-rejected"]).unwrap().retry_rejected);
}

#[test]
fn an_invalid_url_is_refused_on_the_command_line() {
    for (url, reason) in [
        ("http://user:CANARY@host", "no password"),
        ("ftp://host", "http://"),
        ("http://host/?a=b", "no ?"),
        ("host", "relative URL"),
    ] {
        let error = import(&["fans.csv", "--admin", url]).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert!(import(&["fans.csv", "--app", "two words"]).is_err());
}

#[test]
fn an_import_fails_if_every_row_or_more_rows_than_allowed_are_rejected() {
    let file = import(&["fans.csv", "--max-rejects", "3"]).unwrap();
    let report = |end, rows: u64, rejected: u64| Report {
        end,
        counts: Counts { rows, accepted: rows - rejected, known: 0, rejected },
        line: rows + 1,
        first_rejects: vec!["line 2: openid is missing".to_owned()],
        ..Report::default()
    };
    for (rows, rejected) in [(10, 3), (0, 0)] {
        let done = report(End::Complete, rows, rejected);
        assert!(file.verdict(&done).is_ok());
        assert_eq!(file.summary_json(&done).unwrap()["complete"], true);
    }
    let none_valid = file.verdict(&report(End::Complete, 10, 10)).unwrap_err().to_string();
    assert!(
        none_valid.starts_with("every row was rejected\n  line 2: openid is missing\nhint: "),
        "{none_valid}"
    );
    let stopped = report(End::TooManyRejects, 10, 4);
    let error = file.verdict(&stopped).unwrap_err().to_string();
    for part in [
        "stopped after line 11: 4 rows were rejected, and --max-rejects is 3; what follows was not ",
        "  line 2: openid is missing\nhint: correct the file and import it with --restart",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let summary = file.summary_json(&stopped).unwrap();
    assert_eq!(summary["complete"], false);
    assert_eq!(summary["rejected"], 4);
    let piped = import(&["-", "--max-rejects", "3"]).unwrap();
    let error = piped.verdict(&stopped).unwrap_err().to_string();
    assert!(!error.contains("--restart"), "{error}");
}

#[test]
fn a_plain_line_shows_rows_rate_share_and_time_left() {
    let ten = Duration::from_secs(10);
    let line = |display: &ProgressDisplay| display.line(120_000, 4_000, ten);
    assert_eq!(
        line(&ProgressDisplay::new(false, Some(10_000), 0)),
        "120,000 rows · 12,000/s · 40 % · about 15 seconds left"
    );
    assert_eq!(line(&ProgressDisplay::new(false, None, 0)), "120,000 rows · 12,000/s");
    // Only what this run did counts for its rate.
    let resumed = ProgressDisplay::new(false, Some(10_000), 100_000);
    resumed.advance(100_000, 3_000);
    assert_eq!(line(&resumed), "120,000 rows · 2,000/s · 40 % · about 60 seconds left");
    let counts = [0, 999, 1_000, 1_234_567].map(|number| HumanCount(number).to_string());
    assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
}
