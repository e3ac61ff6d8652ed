//! The test oracle: a record, outside the process, of what was sent and acknowledged, and the comparison of a
//! running service with it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use unionlink::simulator::{Event, Person};

use crate::service::{PATIENCE, Service};

/// A dealer's new customer, with the event about it.
#[derive(Clone)]
pub struct Customer {
    pub unionid: String,
    pub external_userid: String,
    pub event: Event,
    /// This person is never registered as a fan, so the event makes no link.
    pub is_stranger: bool,
}

impl Customer {
    fn pair(&self) -> Pair {
        (self.unionid.clone(), self.external_userid.clone())
    }
}

/// A unionid and an `external_userid`.
type Pair = (String, String);

/// The parts of a feed entry that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: String,
    kind: String,
    pair: Pair,
}

impl Entry {
    fn of(entry: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let data = &entry["data"];
        Self {
            id: text(&entry["id"]),
            kind: text(&entry["type"]),
            pair: (text(&data["unionid"]), text(&data["external_userid"])),
        }
    }
}

#[derive(Default)]
struct Records {
    sent_fans: Vec<Person>,
    sent_customers: Vec<Customer>,
    /// Answered 202.
    fans: Vec<Person>,
    /// Answered 200 `success`.
    customers: Vec<Customer>,
    /// Read from the feed, in order from the first.
    feed: Vec<Entry>,
    /// The lengths of `fans`, `customers` and `feed` at the power cut; what came later must not count.
    at_cut: Option<(usize, usize, usize)>,
    /// The numbers of fans and customers that an earlier check looked up one by one.
    checked: (usize, usize),
}

/// The record of what was sent and what was acknowledged.
#[derive(Default)]
pub struct Ledger(Mutex<Records>);

impl Ledger {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap()
    }

    pub fn sends_fans(&self, people: &[Person]) {
        self.records().sent_fans.extend_from_slice(people);
    }

    pub fn accepted_fans(&self, people: &[Person]) {
        self.records().fans.extend_from_slice(people);
    }

    pub fn sends(&self, customer: &Customer) {
        self.records().sent_customers.push(customer.clone());
    }

    pub fn acknowledged(&self, customer: &Customer) {
        self.records().customers.push(customer.clone());
    }

    pub fn acknowledgements(&self) -> usize {
        self.records().customers.len()
    }

    /// The number of feed entries read.
    pub fn feed_read(&self) -> usize {
        self.records().feed.len()
    }

    /// Records a page of the feed read after position `after`.
    pub fn reads(&self, after: usize, page: &Value) {
        let entries = page["entries"].as_array().into_iter().flatten();
        for (entry, seq) in entries.zip(after as u64 + 1..) {
            assert_eq!(entry["seq"], seq, "the feed has a gap while it is read");
            self.records().feed.push(Entry::of(entry));
        }
    }

    /// Records that the power is cut at this moment.
    pub fn power_cut(&self) {
        let mut records = self.records();
        records.at_cut = Some((records.fans.len(), records.customers.len(), records.feed.len()));
    }

    /// Drops what was acknowledged after the power cut.
    pub fn truncate_at_cut(&self) {
        let mut records = self.records();
        if let Some((fans, customers, feed)) = records.at_cut.take() {
            records.fans.truncate(fans);
            records.customers.truncate(customers);
            records.feed.truncate(feed);
        }
    }

    /// What was sent and not acknowledged, to be sent again.
    pub fn unanswered(&self) -> (Vec<Person>, Vec<Customer>) {
        let records = self.records();
        let fans: BTreeSet<_> = records.fans.iter().map(|fan| &fan.unionid).collect();
        let customers: BTreeSet<_> = records.customers.iter().map(|c| &c.external_userid).collect();
        let is_unaccepted = |fan: &&Person| !fans.contains(&fan.unionid);
        let is_unacknowledged = |customer: &&Customer| !customers.contains(&customer.external_userid);
        (
            records.sent_fans.iter().filter(is_unaccepted).cloned().collect(),
            records.sent_customers.iter().filter(is_unacknowledged).cloned().collect(),
        )
    }

    /// Checks a running service: everything acknowledged is there, every link is true and made once, and the
    /// feed has no gap and still begins with what was read before.
    ///
    /// # Errors
    /// The first difference found.
    pub async fn check(&self, service: &Service) -> Result<(), String> {
        let status = settled(service).await?;
        let feed = read_feed(service, status["feed_head"].as_u64().unwrap_or_default()).await?;
        let linked = created(service, &feed)?;
        if status["links"] != linked.len() {
            return Err(format!("{} links, {} of them on the feed", status["links"], linked.len()));
        }
        let new = self.compare(&status, feed, &linked)?;
        let lookups = stream::iter(new.iter().map(|lookup| lookup.check(service)));
        lookups.buffer_unordered(8).try_collect::<()>().await
    }

    /// Compares totals, links and the feed. Returns what must be looked up one by one.
    fn compare(
        &self,
        status: &Value,
        feed: Vec<Entry>,
        linked: &BTreeSet<Pair>,
    ) -> Result<Vec<Lookup>, String> {
        let mut records = self.records();
        if !feed.starts_with(&records.feed) {
            let (before, now) = (records.feed.len(), feed.len());
            return Err(format!("the feed has changed: {before} entries were read before, {now} now"));
        }
        for (what, count, is) in [
            ("fans", records.fans.len(), &status["fans"]["registered"]),
            ("customers", records.customers.len(), &status["contacts"]["known"]),
        ] {
            if is.as_u64().unwrap_or_default() < count as u64 {
                return Err(format!("{count} {what} were acknowledged, {is} are there"));
            }
        }
        let is_missing = |c: &&Customer| !c.is_stranger && !linked.contains(&c.pair());
        let missing = records.customers.iter().filter(is_missing).count();
        if missing > 0 {
            return Err(format!("{missing} of {} acknowledged events made no link", records.customers.len()));
        }
        let (fans, customers) = records.checked;
        let new_fans = records.fans[fans..].iter().map(|fan| Lookup::Fan(fan.unionid.clone()));
        let strangers = records.customers[customers..].iter().filter(|customer| customer.is_stranger);
        let new_strangers = strangers.map(|customer| Lookup::Stranger(customer.external_userid.clone()));
        let lookups = new_fans.chain(new_strangers).collect();
        records.checked = (records.fans.len(), records.customers.len());
        records.feed = feed;
        Ok(lookups)
    }
}

/// A fan or a customer to be looked up.
enum Lookup {
    Fan(String),
    Stranger(String),
}

impl Lookup {
    async fn check(&self, service: &Service) -> Result<(), String> {
        let (path, what) = match self {
            Self::Fan(unionid) => (format!("/v1/fans/{unionid}"), "fan"),
            Self::Stranger(id) => (format!("/v1/explain/{id}"), "customer"),
        };
        let (status, found) = service.get(&path).await?;
        if status == 200 && found["code"] != "never_registered" {
            return Ok(());
        }
        Err(format!("an acknowledged {what} is not there: {status} {found}"))
    }
}

/// The status, once inbox and fan queue are empty.
async fn settled(service: &Service) -> Result<Value, String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let (_, status) = service.get("/v1/status").await?;
        if status["inbox"]["waiting"] == 0 && status["fans"]["queued"] == 0 {
            return Ok(status);
        }
        if Instant::now() > give_up {
            return Err(format!("it does not settle: {} {}", status["inbox"], status["fans"]));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The feed up to `head`. Entries behind it are left out: a comparison of a dealer's customers may add them at
/// any time, and the status that names this head does not count them.
async fn read_feed(service: &Service, head: u64) -> Result<Vec<Entry>, String> {
    let mut feed = Vec::new();
    while (feed.len() as u64) < head {
        let limit = (head - feed.len() as u64).min(1000);
        let (_, page) = service.get(&format!("/v1/links/feed?after={}&limit={limit}", feed.len())).await?;
        let entries = page["entries"].as_array().filter(|entries| !entries.is_empty());
        for entry in entries.ok_or_else(|| format!("the feed ends after {} of {head}", feed.len()))? {
            if entry["seq"] != feed.len() + 1 {
                return Err(format!("the feed has a gap: {} after {}", entry["seq"], feed.len()));
            }
            feed.push(Entry::of(entry));
        }
    }
    Ok(feed)
}

/// The pairs linked on the feed; an error if one is repeated or unknown to the platform.
fn created(service: &Service, feed: &[Entry]) -> Result<BTreeSet<Pair>, String> {
    let truth: BTreeSet<Pair> =
        service.wecom.truth().into_iter().map(|t| (t.unionid, t.external_userid)).collect();
    let mut linked = BTreeSet::new();
    for entry in feed.iter().filter(|entry| entry.kind == "link.created") {
        if !truth.contains(&entry.pair) {
            return Err("a link is wrong".to_owned());
        }
        if !linked.insert(entry.pair.clone()) {
            return Err("a pair is linked twice".to_owned());
        }
    }
    Ok(linked)
}
