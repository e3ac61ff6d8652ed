//! Reads a TOML table key by key and gathers every problem instead of stopping at the first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use toml::{Table, Value};

/// One thing wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where: `apps[0].secret`.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What all sections share.
#[derive(Default)]
pub(super) struct Shared {
    problems: RefCell<Vec<Problem>>,
    /// Text of values that came from the environment, by key.
    overrides: BTreeMap<String, String>,
    /// Whether a secret stands in the file itself.
    holds_a_secret: Cell<bool>,
}

/// A table being read. What is left in it when it is dropped is unknown.
pub(super) struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
    shared: Rc<Shared>,
}

impl Section {
    /// The whole file, with `overrides` (`[("SERVER__LISTEN", …)]`) put over it.
    pub(super) fn root(mut table: Table, overrides: Vec<(String, String)>) -> (Self, Rc<Shared>) {
        let mut shared = Shared::default();
        let paths = overrides.into_iter().map(|(name, raw)| {
            (name.split("__").map(str::to_ascii_lowercase).collect::<Vec<_>>(), name, raw)
        });
        let mut paths: Vec<_> = paths.collect();
        // The tenth of a list behind the second.
        let place = |path: &[String]| -> Vec<_> {
            path.iter().map(|part| (part.parse::<usize>().ok(), part.clone())).collect()
        };
        paths.sort_by_cached_key(|(path, ..)| place(path));
        for (path, name, raw) in paths {
            match put(&mut table, &path, literal(&raw)) {
                Some(key) => {
                    shared.overrides.insert(key, raw);
                }
                None => shared.problems.borrow_mut().push(Problem {
                    key: format!("UNIONLINK__{name}"),
                    reason: "does not name a place in the configuration".to_owned(),
                    hint: Some("write UNIONLINK__SECTION__KEY, or UNIONLINK__APPS__0__KEY".to_owned()),
                }),
            }
        }
        let shared = Rc::new(shared);
        (Self { path: String::new(), table, known: Vec::new(), shared: shared.clone() }, shared)
    }

    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn problem(&self, name: &str, reason: impl Into<String>, hint: Option<&str>) {
        let key = if name.is_empty() { self.path.clone() } else { self.key(name) };
        let problem = Problem { key, reason: reason.into(), hint: hint.map(str::to_owned) };
        self.shared.problems.borrow_mut().push(problem);
    }

    /// Notes that a secret stands in the file itself.
    pub(super) fn holds_a_secret(&self) {
        self.shared.holds_a_secret.set(true);
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.table.remove(name)
    }

    /// A table below this one; an empty one if it is not there.
    pub(super) fn section(&mut self, name: &'static str) -> Self {
        let path = self.key(name);
        let table = match self.take(name) {
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.problem(
                    name,
                    format!("is {} instead of a table", kind(&other)),
                    Some("write [section]"),
                );
                Table::new()
            }
            None => Table::new(),
        };
        Self { path, table, known: Vec::new(), shared: self.shared.clone() }
    }

    /// The tables of an array: `[[name]]`.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<Self> {
        let array = match self.take(name) {
            Some(Value::Array(array)) => array,
            Some(other) => {
                self.problem(
                    name,
                    format!("is {} instead of a list of tables", kind(&other)),
                    Some("write [[…]]"),
                );
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut sections = Vec::new();
        for (n, item) in array.into_iter().enumerate() {
            let path = format!("{}[{n}]", self.key(name));
            match item {
                Value::Table(table) => {
                    sections.push(Self { path, table, known: Vec::new(), shared: self.shared.clone() });
                }
                other => self.problem(name, format!("has {} in it", kind(&other)), Some("write [[…]]")),
            }
        }
        sections
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => {
                // A value from the environment that looks like a number is still text where text is wanted.
                if let Some(raw) = self.shared.overrides.get(&self.key(name)) {
                    return Some(raw.clone());
                }
                self.problem(name, format!("is {} instead of text", kind(&other)), None);
                None
            }
        }
    }

    /// A whole number between two bounds, or the default.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        default: u64,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        match self.take(name) {
            None => default,
            Some(Value::Integer(number)) if u64::try_from(number).is_ok_and(|n| bounds.contains(&n)) => {
                u64::try_from(number).unwrap_or(default)
            }
            Some(other) => {
                let reason = match &other {
                    Value::Integer(number) => {
                        format!("{number} is not between {} and {}", bounds.start(), bounds.end())
                    }
                    other => format!("is {} instead of a whole number", kind(other)),
                };
                self.problem(name, reason, None);
                default
            }
        }
    }

    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        match self.take(name) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.problem(name, format!("is {} instead of true or false", kind(&other)), None);
                default
            }
        }
    }

    /// One of a few words, or the first of them.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> T {
        self.one_of(name, choices).unwrap_or(choices[0].1)
    }

    /// One of a few words, the first of them if it is not there; `None`, noted as a problem, if it is another.
    pub(super) fn one_of<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        if !self.value_is_there(name) {
            self.known.push(name);
            return Some(choices[0].1);
        }
        let word = self.text(name)?;
        let found = choices.iter().find(|(choice, _)| *choice == word);
        if found.is_none() {
            let words: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            self.problem(name, format!("{word:?} is not one of {}", words.join(", ")), None);
        }
        found.map(|(_, value)| *value)
    }

    /// All that is left, whatever its names.
    pub(super) fn rest(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    pub(super) fn texts(&mut self, name: &'static str) -> Vec<String> {
        let array = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(array)) => array,
            Some(other) => {
                self.problem(
                    name,
                    format!("is {} instead of a list", kind(&other)),
                    Some("write [\"…\", \"…\"]"),
                );
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for item in array {
            match item {
                Value::String(text) => texts.push(text),
                other => self.problem(name, format!("has {} in it instead of text", kind(&other)), None),
            }
        }
        texts
    }

    pub(super) fn value(&mut self, name: &'static str) -> Option<Value> {
        self.take(name)
    }

    pub(super) fn value_is_there(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// The text of a value that came from the environment.
    pub(super) fn overridden(&self, name: &str) -> Option<String> {
        self.shared.overrides.get(&self.key(name)).cloned()
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        for name in self.table.keys() {
            let nearest = self.known.iter().find(|known| near(known, name));
            let hint = match nearest {
                Some(known) => format!("did you mean {known}?"),
                None if self.known.is_empty() => continue,
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.problem(name, "is not a known key", Some(&hint));
        }
    }
}

impl Shared {
    /// Whether a secret stands in the file itself.
    pub(super) fn has_a_secret(&self) -> bool {
        self.holds_a_secret.get()
    }

    pub(super) fn into_problems(self: Rc<Self>) -> Vec<Problem> {
        let mut problems = self.problems.take();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }
}

/// Whether one could be a slip of the other: a few characters changed, added or dropped, fewer for short names.
fn near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<_>, Vec<_>) = (a.chars().collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()] <= b.len().min(a.len()).div_ceil(4).min(2)
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

/// `raw` as TOML if it is a TOML value, else as text.
fn literal(raw: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("v = {raw}")).ok();
    parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(raw.to_owned()))
}

/// Whether a key says where a secret is.
fn says_where(key: &str) -> bool {
    ["env", "file", "value"].contains(&key)
}

/// Puts a value at a path, making tables and the next array item on the way. The key as problems name it.
fn put(table: &mut Table, path: &[String], value: Value) -> Option<String> {
    let (first, rest) = path.split_first().filter(|(first, _)| !first.is_empty())?;
    match rest {
        [] => {
            if says_where(first) && table.keys().all(|key| says_where(key)) {
                // A secret comes from one place: this one, whatever the file says.
                table.clear();
            }
            table.insert(first.clone(), value);
            Some(first.clone())
        }
        [index, inner @ ..] if !inner.is_empty() && index.parse::<usize>().is_ok() => {
            let index = index.parse::<usize>().ok()?;
            let array = table.entry(first).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
            if index == array.len() {
                array.push(Value::Table(Table::new()));
            }
            let key = put(array.get_mut(index)?.as_table_mut()?, inner, value)?;
            Some(format!("{first}[{index}].{key}"))
        }
        rest => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() && matches!(rest, [place] if says_where(place)) {
                // A secret that stands in the file as text.
                *inner = Value::Table(Table::new());
            }
            let inner = inner.as_table_mut()?;
            Some(format!("{first}.{}", put(inner, rest, value)?))
        }
    }
}
