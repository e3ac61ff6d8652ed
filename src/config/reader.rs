//! Reads TOML tables key by key and collects every problem instead of stopping at the first.
//!
//! Deliberately absent: the keys and their valid values, which are in `sections` and `sinks`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use secrecy::zeroize::Zeroizing;
use serde::de::DeserializeOwned;
use serde::de::value::StringDeserializer;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::environment::Environment;

/// What a problem prevents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing. It is a risk, which `check` and `serve` report.
    Warning,
    /// `check` refuses the configuration, because this is very probably a mistake. `serve` only reports it: a
    /// service that runs must not fail to start after an update because of a new check.
    Suspect,
    /// The service cannot work like this: `check` and `serve` refuse the configuration.
    Error,
}

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it prevents.
    #[serde(skip)]
    pub severity: Severity,
    /// Where: `apps[0].secret`.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What is wrong with a key that does not exist.
const UNKNOWN_KEY: &str = "is not a known key";

/// What is wrong with a file that others can read.
pub(super) const OPEN_TO_ALL: &str = "is open to every user of the machine";

impl Problem {
    /// Whether the key does not exist.
    #[must_use]
    pub fn is_unknown_key(&self) -> bool {
        self.reason == UNKNOWN_KEY
    }

    /// Whether a file with secrets is open to everybody.
    #[must_use]
    pub fn is_open_file(&self) -> bool {
        self.reason.contains(OPEN_TO_ALL)
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.reason)
    }
}

/// What is wrong with a value, and what to do.
pub(super) type Invalid = (String, Option<String>);

/// The state that all sections of a configuration share while it is read.
pub(super) struct Reading<'a> {
    pub(super) environment: &'a Environment,
    /// The text of values that came from the environment, by key.
    overrides: BTreeMap<String, Zeroizing<String>>,
    problems: RefCell<Vec<Problem>>,
    /// Whether a secret is written in the file itself.
    pub(super) holds_a_secret: Cell<bool>,
    /// The files that secrets were read from.
    pub(super) secret_files: RefCell<Vec<PathBuf>>,
}

impl<'a> Reading<'a> {
    /// Overrides `table` with the environment, or only with its variables for the section `only`.
    pub(super) fn new(table: &mut Table, environment: &'a Environment, only: Option<&str>) -> Self {
        let (overrides, misplaced) = environment.overlay(table, only);
        let problems = misplaced.into_iter().map(|key| Problem {
            severity: Severity::Error,
            key,
            reason: "does not name a place in the configuration".to_owned(),
            hint: Some("write UNIONLINK__SECTION__KEY, or UNIONLINK__APPS__0__KEY".to_owned()),
        });
        let problems = RefCell::new(problems.collect());
        let (holds_a_secret, secret_files) = (Cell::new(false), RefCell::default());
        Self { environment, overrides, problems, holds_a_secret, secret_files }
    }

    /// All problems, sorted by key.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }
}

/// A table being read. A key that is still in it when it is dropped is unknown, which is a problem.
pub(super) struct Section<'a> {
    path: String,
    table: Table,
    defaults: Table,
    known: Vec<&'static str>,
    /// Where a person finds the value of a key, by key. Part of the hint of each problem with that key.
    pub(super) places: &'static [(&'static str, &'static str)],
    pub(super) reading: &'a Reading<'a>,
}

impl<'a> Section<'a> {
    /// The table that holds all others.
    pub(super) fn root(table: Table, defaults: Table, reading: &'a Reading<'a>) -> Self {
        Self { path: String::new(), table, defaults, known: Vec::new(), places: &[], reading }
    }

    /// The full key of `name`, or that of the section itself if `name` is empty.
    fn key(&self, name: &str) -> String {
        let dot = if self.path.is_empty() || name.is_empty() { "" } else { "." };
        format!("{}{dot}{name}", self.path)
    }

    pub(super) fn problem(&self, name: &str, reason: impl Into<String>, hint: Option<&str>) {
        self.report(Severity::Error, name, reason, hint);
    }

    pub(super) fn report(
        &self,
        severity: Severity,
        name: &str,
        reason: impl Into<String>,
        hint: Option<&str>,
    ) {
        let place = self.places.iter().find(|(key, _)| *key == name);
        let place = place.map(|(_, place)| format!("you find it under {place}"));
        let hints: Vec<String> = hint.map(str::to_owned).into_iter().chain(place).collect();
        let hint = (!hints.is_empty()).then(|| hints.join("; "));
        let problem = Problem { severity, key: self.key(name), reason: reason.into(), hint };
        self.reading.problems.borrow_mut().push(problem);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Reports a problem if `name` is missing.
    pub(super) fn require(&self, name: &str, hint: &str) {
        if !self.has(name) {
            self.problem(name, "is missing", Some(hint));
        }
    }

    /// The text of a value that came from the environment.
    pub(super) fn overridden(&self, name: &str) -> Option<&'a str> {
        self.reading.overrides.get(&self.key(name)).map(|text| text.as_str())
    }

    /// The value of `name`, or else its default. An invalid value is reported, and replaced with the default
    /// so that the rest of the table is checked too. `None` if there is no default either.
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        convert: impl Fn(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        self.known.push(name);
        let default = self.defaults.remove(name);
        let given = self.table.remove(name).and_then(|value| self.checked(name, convert(value)));
        given.or_else(|| convert(default?).ok())
    }

    /// The value if it is valid; otherwise the problem is reported.
    pub(super) fn checked<T>(&self, name: &str, value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|(reason, hint)| self.problem(name, reason, hint.as_deref())).ok()
    }

    /// Like [`take`](Self::take), for text. A variable's value is text here even if it looks like a number.
    pub(super) fn parse<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(String) -> Result<T, Invalid>,
    ) -> Option<T> {
        let overridden = self.overridden(name);
        self.take(name, |value| match (value, overridden) {
            (Value::String(text), _) => parse(text),
            (_, Some(text)) => parse(text.to_owned()),
            (other, None) => Err(instead_of(&other, "text", None)),
        })
    }

    /// Like [`take`](Self::take), for what serde reads from text: a path, an id, one of a few words.
    pub(super) fn text<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        self.parse(name, |text| {
            Deserialize::deserialize(StringDeserializer::<Unfit>::new(text)).map_err(|Unfit(why)| (why, None))
        })
    }

    pub(super) fn number<T: TryFrom<i64> + PartialOrd + Display>(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<T>,
    ) -> Option<T> {
        let (min, max) = (bounds.start(), bounds.end());
        self.take(name, |value| match value {
            Value::Integer(number) => {
                let within = T::try_from(number).ok().filter(|number| bounds.contains(number));
                within.ok_or_else(|| (format!("{number} is not between {min} and {max}"), None))
            }
            other => Err(instead_of(&other, "a whole number", None)),
        })
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.take(name, |value| value.as_bool().ok_or_else(|| instead_of(&value, "true or false", None)))
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Option<Vec<String>> {
        let hint = Some("write [\"…\", \"…\"]");
        let text = |item| match item {
            Value::String(text) => Ok(text),
            other => Err((format!("has {} in it instead of text", kind(&other)), hint.map(str::to_owned))),
        };
        self.take(name, |value| match value {
            Value::Array(items) => items.into_iter().map(text).collect(),
            other => Err(instead_of(&other, "a list", hint)),
        })
    }

    /// The table `[name]` within this one, empty if it is missing.
    pub(super) fn section(&mut self, name: &'static str) -> Self {
        let path = self.key(name);
        let defaults = match self.defaults.remove(name) {
            Some(Value::Table(defaults)) => defaults,
            _ => Table::new(),
        };
        let table = self.take(name, |value| match value {
            Value::Table(table) => Ok(table),
            other => Err(instead_of(&other, "a table", Some(&format!("write [{path}]")))),
        });
        let (table, known) = (table.unwrap_or_default(), Vec::new());
        Self { path, table, defaults, known, places: &[], reading: self.reading }
    }

    /// The tables of the list `[[name]]`. Each has the defaults of the first `[[name]]` that is not of
    /// another `kind`.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Self> {
        let hint = format!("write [[{name}]]");
        let templates = self.defaults.remove(name);
        let templates = templates.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let items = self.take(name, |value| match value {
            Value::Array(items) => Ok(items),
            other => Err(instead_of(&other, "a list of tables", Some(&hint))),
        });
        let mut sections = Vec::new();
        for (n, item) in items.unwrap_or_default().into_iter().enumerate() {
            let Value::Table(table) = item else {
                self.problem(name, format!("has {} in it", kind(&item)), Some(&hint));
                continue;
            };
            let fits = |template: &&Table| match (template.get("kind"), table.get("kind")) {
                (Some(its), Some(own)) => its == own,
                _ => true,
            };
            let template = templates.iter().filter_map(Value::as_table).find(fits);
            let (path, defaults) = (self.key(&format!("{name}[{n}]")), template.cloned().unwrap_or_default());
            let (known, reading) = (Vec::new(), self.reading);
            sections.push(Self { path, table, defaults, known, places: &[], reading });
        }
        sections
    }

    /// Drops a key that does not belong here and was reported.
    pub(super) fn discard(&mut self, name: &str) {
        self.table.remove(name);
    }

    /// Takes all remaining keys, whatever their names.
    pub(super) fn rest(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// The hint for an unknown key: the known key that it is a typing error or two away from, or else all of
    /// them.
    fn suggestion(&self, unknown: &str) -> String {
        let distances = self.known.iter().map(|known| (strsim::osa_distance(known, unknown), known));
        match distances.filter(|(distance, known)| *distance <= known.len().div_ceil(4).min(2)).min() {
            Some((_, known)) => format!("did you mean {known}?"),
            None => format!("known here: {}", self.known.join(", ")),
        }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for name in self.table.keys() {
            self.problem(name, UNKNOWN_KEY, Some(&self.suggestion(name)));
        }
    }
}

/// Why serde rejects a text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(String);

impl serde::de::Error for Unfit {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self(format!("{word:?} is not one of {}", known.join(", ")))
    }
}

fn instead_of(value: &Value, wanted: &str, hint: Option<&str>) -> Invalid {
    (format!("is {} instead of {wanted}", kind(value)), hint.map(str::to_owned))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
