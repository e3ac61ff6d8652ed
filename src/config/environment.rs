//! The environment of the process, read only here except for `UNIONLINK_CONFIG`, which clap reads. Variables
//! `UNIONLINK__SECTION__KEY` override keys of the configuration file.
//!
//! Values are overwritten when they are dropped: some are secrets.
//!
//! Deliberately absent: secrets that name a variable (`secret`).

use std::collections::BTreeMap;

use secrecy::zeroize::Zeroizing;
use toml::{Table, Value};

/// Environment variables: those of the process, or others in tests.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, Zeroizing<String>>);

/// One part of a variable's name, such as `APPS` or `0`. The order of parts is numeric for indices.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// If the part is a number: the index of a list item.
    index: Option<usize>,
    /// The part, in lower case.
    key: String,
}

impl Environment {
    /// The variables of the process, except those that are not Unicode.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    /// Overrides keys of `table`, or only those of the section `only`. Returns the text of each variable by
    /// the key that it set, and the names of the variables that do not name a possible key.
    pub(super) fn overlay(
        &self,
        table: &mut Table,
        only: Option<&str>,
    ) -> (BTreeMap<String, Zeroizing<String>>, Vec<String>) {
        let ours = self.0.iter().filter_map(|(name, text)| {
            let path = name.strip_prefix("UNIONLINK__")?.to_ascii_lowercase();
            let parts = path.split("__").map(|part| Part { index: part.parse().ok(), key: part.to_owned() });
            Some((parts.collect::<Vec<Part>>(), name, text))
        });
        let mut ours: Vec<_> =
            ours.filter(|(path, ..)| only.is_none_or(|only| path[0].key == only)).collect();
        // Item 2 of a list before item 10: an item is appended only after those before it.
        ours.sort_by(|(one, ..), (two, ..)| one.cmp(two));
        let (mut texts, mut misplaced) = (BTreeMap::new(), Vec::new());
        for (path, name, text) in ours {
            // The source of a secret is text, even if it looks like a number.
            let is_text = path.last().is_some_and(|part| is_source(&part.key));
            let value = if is_text { None } else { text.trim().parse().ok() };
            let value = value.unwrap_or_else(|| Value::String(text.to_string()));
            match put(table, &path, value) {
                Some(key) => {
                    texts.insert(key, text.clone());
                }
                None => misplaced.push(name.clone()),
            }
        }
        (texts, misplaced)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name, value.into())).collect())
    }
}

/// Stores a value at a path; creates missing tables on the way, and the next item of a list. Returns the full
/// key, such as `apps[0].secret`, or `None` if the path does not fit into the table.
fn put(table: &mut Table, path: &[Part], value: Value) -> Option<String> {
    let (Part { key, .. }, rest) = path.split_first().filter(|(part, _)| !part.key.is_empty())?;
    match rest {
        [] => {
            // In the table of a secret. It has one source: the environment's replaces the file's.
            if is_source(key) && table.keys().all(|key| is_source(key)) {
                table.clear();
            }
            table.insert(key.clone(), value);
            Some(key.clone())
        }
        [Part { index: Some(index), .. }, inner @ ..] if !inner.is_empty() => {
            let items = table.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
            if *index == items.len() {
                items.push(Value::Table(Table::new()));
            }
            let inner = put(items.get_mut(*index)?.as_table_mut()?, inner, value)?;
            Some(format!("{key}[{index}].{inner}"))
        }
        rest => {
            let place = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !place.is_table() && matches!(rest, [part] if is_source(&part.key)) {
                // A secret that the file has as plain text is replaced, too.
                *place = Value::Table(Table::new());
            }
            let inner = put(place.as_table_mut()?, rest, value)?;
            Some(format!("{key}.{inner}"))
        }
    }
}

/// Whether a key names the source of a secret.
fn is_source(key: &str) -> bool {
    ["env", "file", "value"].contains(&key)
}
