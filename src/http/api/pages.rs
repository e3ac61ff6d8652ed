//! The newest pages of the feed, rendered as server-sent events and shared by the open streams.
//!
//! Most streams are at the head of the feed and want the same page at the same moment, so each page is read
//! and rendered once for all of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::domain::link::FeedEntry;
use crate::store::{Store, StoreError};

/// Entries per page.
const PAGE_ENTRIES_MAX: usize = 256;
/// How long a page is reused: the welcome codes in it expire.
const PAGE_KEPT: Duration = Duration::from_secs(1);
/// Pages kept: streams at the head of the feed differ by a few positions.
const PAGES_KEPT: usize = 4;

/// A cache of rendered pages.
#[derive(Default)]
pub struct Pages(Mutex<VecDeque<(u64, Instant, Rendered)>>);

/// A rendered page.
#[derive(Clone)]
pub(super) struct Rendered {
    pub(super) text: Bytes,
    /// The sequence number of its last entry.
    pub(super) last: u64,
}

impl Pages {
    /// The page of entries after `after`, if there are any. While one stream reads a page, the others wait
    /// for it.
    pub(super) async fn after(
        &self,
        after: u64,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Option<Rendered>, StoreError> {
        let mut pages = self.0.lock().await;
        pages.retain(|(_, read_at, _)| read_at.elapsed() < PAGE_KEPT);
        if let Some((.., page)) = pages.iter().find(|(from, ..)| *from == after) {
            return Ok(Some(page.clone()));
        }
        let entries = store.feed(after, PAGE_ENTRIES_MAX, clock.now()).await?;
        let Some(last) = entries.last().map(|entry| entry.seq) else { return Ok(None) };
        let page = Rendered { text: entries.iter().map(render).collect::<String>().into(), last };
        if pages.len() >= PAGES_KEPT {
            pages.pop_front();
        }
        pages.push_back((after, Instant::now(), page.clone()));
        Ok(Some(page))
    }

    /// Drops all pages, because a person in them was forgotten.
    pub(super) async fn clear(&self) {
        self.0.lock().await.clear();
    }
}

/// An entry as a server-sent event.
fn render(entry: &FeedEntry) -> String {
    // Neither field can contain a line end: JSON escapes them.
    let name = serde_json::to_value(entry.change).unwrap_or_default();
    let data = serde_json::to_string(entry).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", entry.seq, name.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::entries;

    #[test]
    fn every_entry_is_three_lines_and_an_empty_one_whatever_is_in_it() {
        for entry in entries(1, 7) {
            let text = render(&entry);
            let lines: Vec<_> = text.split('\n').collect();
            let [id, name, data, "", ""] = lines[..] else { panic!("{text:?}") };
            assert_eq!(id, format!("id: {}", entry.seq));
            let sent: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(sent, serde_json::to_value(&entry).unwrap());
            assert_eq!(name.strip_prefix("event: "), sent["type"].as_str());
            // A carriage return ends a line, too.
            assert!(!text.contains('\r'));
        }
    }
}
