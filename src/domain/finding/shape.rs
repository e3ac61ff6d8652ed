//! The form of a finding.

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use super::code::FindingCode;
use crate::domain::ids::{AppName, CorpId, SinkName};
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;

/// What was found when one thing was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "FindingView")]
pub struct Finding {
    /// What was looked at.
    pub code: FindingCode,
    /// How it is.
    pub state: FindingState,
    /// What it is about.
    pub subject: Subject,
    /// Since when it is so, if that is known.
    pub since: Option<Timestamp>,
    /// What was seen.
    pub seen: Text,
    /// What others said, as they said it.
    pub raw: Raw,
    /// What follows from it; nothing if all is well.
    pub means: Text,
    /// What to do.
    pub todo: Todo,
}

impl Finding {
    /// That all is well.
    #[must_use]
    pub fn ok(code: FindingCode, subject: Subject, seen: Text) -> Self {
        Self::without_task(code, FindingState::Ok, subject, seen)
    }

    /// That it could not be looked at, and why.
    #[must_use]
    pub fn unknown(code: FindingCode, subject: Subject, why: Text) -> Self {
        Self::without_task(code, FindingState::Unknown, subject, why)
    }

    /// That it was not looked at, because of the finding that it depends on.
    #[must_use]
    pub fn skipped(code: FindingCode, subject: Subject, because_of: FindingCode) -> Self {
        let because_of: &str = because_of.into();
        let seen = text!("skipped: it depends on {because_of}", "跳过：取决于 {because_of}");
        Self::without_task(code, FindingState::Skip, subject, seen)
    }

    /// That something is wrong; what follows from it and what to do is still to be [said](Self::that).
    #[must_use]
    pub fn trouble(code: FindingCode, state: FindingState, subject: Subject, seen: Text) -> Self {
        Self::without_task(code, state, subject, seen)
    }

    /// The same, with what follows from it and what to do.
    #[must_use]
    pub fn that(self, means: Text, todo: Text) -> Self {
        Self { means, todo: Todo { text: todo }, ..self }
    }

    fn without_task(code: FindingCode, state: FindingState, subject: Subject, seen: Text) -> Self {
        let (raw, means, todo) = (Raw::default(), Text::default(), Todo::default());
        Self { code, state, subject, since: None, seen, raw, means, todo }
    }

    /// Whether somebody has to see to it.
    #[must_use]
    pub const fn is_trouble(&self) -> bool {
        matches!(self.state, FindingState::Warn | FindingState::Fail)
    }
}

/// What to do about a finding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Todo {
    /// For people.
    pub text: Text,
}

/// What others said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Raw {
    /// WeCom's error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
}

/// A finding as JSON.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Finding)]
pub struct FindingView {
    /// What was looked at, for programs. The codes are stable.
    #[schema(value_type = String, example = "suite.app_waiting")]
    code: FindingCode,
    /// How it is.
    state: FindingState,
    /// What it is about.
    subject: Subject,
    /// Since when it is so, if that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// What was looked at, for people.
    checked: Text,
    /// What was seen.
    seen: Text,
    /// What follows from it; empty if all is well.
    means: Text,
    /// What to do.
    todo: TodoView,
    /// The codes of the causes; while one of them fails, this is `skip`.
    #[schema(value_type = Vec<String>)]
    depends_on: &'static [FindingCode],
    /// What others said.
    raw: Raw,
}

/// What to do, as JSON.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Todo)]
struct TodoView {
    /// For people; empty if there is nothing to do.
    text: Text,
    /// Commands that help.
    commands: Vec<String>,
    /// Where in WeCom's console; empty if it is not there.
    #[serde(rename = "where")]
    place: &'static str,
    /// Where the documents say more.
    #[schema(example = "docs/troubleshooting.md#suiteapp_waiting")]
    link: String,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        let Finding { code, state, subject, since, seen, raw, means, todo: Todo { text } } = finding;
        let (commands, place) = match state {
            FindingState::Warn | FindingState::Fail => (code.commands(), code.place()),
            FindingState::Ok | FindingState::Skip | FindingState::Unknown => (&[] as &[&str], ""),
        };
        let commands = commands.iter().map(|command| (*command).to_owned()).collect();
        let todo = TodoView { text, commands, place, link: code.link() };
        let (checked, depends_on) = (code.checked(), code.depends_on());
        Self { code, state, subject, since, checked, seen, means, todo, depends_on, raw }
    }
}

/// The worst of several findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// Something may end by itself, or stops only a part.
    Warn,
    /// Something does not work until somebody acts.
    Fail,
}

impl Verdict {
    /// The verdict on some findings.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let is = |state| findings.iter().any(|finding| finding.state == state);
        match (is(FindingState::Fail), is(FindingState::Warn)) {
            (true, _) => Self::Fail,
            (false, true) => Self::Warn,
            (false, false) => Self::Ok,
        }
    }
}

/// What a finding is about; what does not apply is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Subject {
    /// The suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "agency")]
    pub suite: Option<AppName>,
    /// The app.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "brand")]
    pub app: Option<AppName>,
    /// The corp; absent if it is about several.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub corp_id: Option<CorpId>,
    /// The corp's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corp_name: Option<String>,
    /// The sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "crm")]
    pub sink: Option<SinkName>,
}

impl Subject {
    /// An app.
    #[must_use]
    pub fn app(app: &AppName) -> Self {
        Self { app: Some(app.clone()), ..Self::default() }
    }
}

/// How a finding is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, IntoStaticStr, VariantArray, ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum FindingState {
    /// All is well.
    Ok,
    /// It was not looked at, because of a cause.
    Skip,
    /// It could not be looked at.
    Unknown,
    /// It may end by itself, or stops only a part.
    Warn,
    /// Something does not work until somebody acts.
    Fail,
}
