//! The environment of the process, which is read nowhere else. Its `UNIONLINK__SECTION__KEY` variables
//! override keys of the configuration file.
//!
//! Deliberately absent: variables that secrets refer to by name; `secret` looks those up.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Environment variables; a value, so that tests bring their own.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// One part of a variable's name, and its value if it is the index of a list item.
type Part = (Option<usize>, String);

impl Environment {
    /// The variables of the process, except those that are not Unicode.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Overrides keys of `table`, or only those of the section `only`. Returns the text of each variable, by
    /// key, and the names of those variables that do not fit into the configuration.
    pub(super) fn overlay(
        &self,
        table: &mut Table,
        only: Option<&str>,
    ) -> (BTreeMap<String, String>, Vec<String>) {
        let ours = self.0.iter().filter_map(|(name, text)| {
            let path = name.strip_prefix("UNIONLINK__")?.to_ascii_lowercase();
            let parts = path.split("__").map(|part| (part.parse().ok(), part.to_owned()));
            Some((parts.collect::<Vec<Part>>(), name, text))
        });
        let mut ours: Vec<_> = ours.filter(|(path, ..)| only.is_none_or(|only| path[0].1 == only)).collect();
        // Item 2 of a list comes before item 10.
        ours.sort();
        let (mut texts, mut misplaced) = (BTreeMap::new(), Vec::new());
        for (path, name, text) in ours {
            let value = text.trim().parse::<Value>().unwrap_or_else(|_| Value::String(text.clone()));
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
        Self(pairs.into_iter().collect())
    }
}

/// Stores a value at a path; creates missing tables and the next list item on the way. Returns the key as
/// problems name it, or `None` if the path does not fit into the table.
fn put(table: &mut Table, path: &[Part], value: Value) -> Option<String> {
    let ((_, key), rest) = path.split_first().filter(|((_, key), _)| !key.is_empty())?;
    match rest {
        [] => {
            // A secret has one source, and the environment's replaces the file's.
            if is_source(key) && table.keys().all(|key| is_source(key)) {
                table.clear();
            }
            table.insert(key.clone(), value);
            Some(key.clone())
        }
        [(Some(index), _), inner @ ..] if !inner.is_empty() => {
            let items = table.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
            if *index == items.len() {
                items.push(Value::Table(Table::new()));
            }
            let inner = put(items.get_mut(*index)?.as_table_mut()?, inner, value)?;
            Some(format!("{key}[{index}].{inner}"))
        }
        rest => {
            let place = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !place.is_table() && matches!(rest, [(_, key)] if is_source(key)) {
                // The same for a secret that the file holds as plain text.
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
