//! What the service answered for, kept outside of it, and the judgement of a store by it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use unionlink::simulator::{Event, Person};

use crate::service::{PATIENCE, Service};

/// A dealer's new customer, as the platform tells it.
#[derive(Clone)]
pub struct Customer {
    pub unionid: String,
    pub external_userid: String,
    pub event: Event,
    /// Nobody registers this person: the event waits for a fan.
    pub is_stranger: bool,
}

impl Customer {
    fn pair(&self) -> Pair {
        (self.unionid.clone(), self.external_userid.clone())
    }
}

/// A unionid and an `external_userid`.
type Pair = (String, String);

/// An entry of the feed, as far as it is told here.
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
struct Books {
    sent_fans: Vec<Person>,
    sent_customers: Vec<Customer>,
    /// Answered 202.
    fans: Vec<Person>,
    /// Answered 200 `success`.
    customers: Vec<Customer>,
    /// Read from the feed, in order from the first.
    feed: Vec<Entry>,
    /// How much of each was there when the power went; what came after proves nothing.
    at_cut: Option<(usize, usize, usize)>,
    /// Fans and customers looked up one by one by an earlier judgement.
    judged: (usize, usize),
}

/// What was sent and what was acknowledged.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    pub fn sends_fans(&self, people: &[Person]) {
        self.books().sent_fans.extend_from_slice(people);
    }

    pub fn accepted_fans(&self, people: &[Person]) {
        self.books().fans.extend_from_slice(people);
    }

    pub fn sends(&self, customer: &Customer) {
        self.books().sent_customers.push(customer.clone());
    }

    pub fn acknowledged(&self, customer: &Customer) {
        self.books().customers.push(customer.clone());
    }

    pub fn acknowledgements(&self) -> usize {
        self.books().customers.len()
    }

    /// How far the feed was read.
    pub fn feed_read(&self) -> usize {
        self.books().feed.len()
    }

    /// Entries of the feed after `after`, as they are served.
    pub fn reads(&self, after: usize, page: &Value) {
        let entries = page["entries"].as_array().into_iter().flatten();
        for (entry, seq) in entries.zip(after as u64 + 1..) {
            assert_eq!(entry["seq"], seq, "the feed has a gap while it is read");
            self.books().feed.push(Entry::of(entry));
        }
    }

    /// The power goes at this moment.
    pub fn power_goes(&self) {
        let mut books = self.books();
        books.at_cut = Some((books.fans.len(), books.customers.len(), books.feed.len()));
    }

    /// Forgets what was answered after the power went.
    pub fn close_at_cut(&self) {
        let mut books = self.books();
        if let Some((fans, customers, feed)) = books.at_cut.take() {
            books.fans.truncate(fans);
            books.customers.truncate(customers);
            books.feed.truncate(feed);
        }
    }

    /// What was sent and not acknowledged: whoever got no answer sends again.
    pub fn unanswered(&self) -> (Vec<Person>, Vec<Customer>) {
        let books = self.books();
        let fans: BTreeSet<_> = books.fans.iter().map(|fan| &fan.unionid).collect();
        let customers: BTreeSet<_> = books.customers.iter().map(|c| &c.external_userid).collect();
        let is_open = |fan: &&Person| !fans.contains(&fan.unionid);
        let is_unknown = |customer: &&Customer| !customers.contains(&customer.external_userid);
        (
            books.sent_fans.iter().filter(is_open).cloned().collect(),
            books.sent_customers.iter().filter(is_unknown).cloned().collect(),
        )
    }

    /// Judges the store of a running service: everything acknowledged is there, nobody is linked twice or wrongly, the
    /// feed has no gap and says what it said before.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn judge(&self, service: &Service) -> Result<(), String> {
        let status = settled(service).await?;
        let feed = read_feed(service, status["feed_head"].as_u64().unwrap_or_default()).await?;
        let linked = created(service, &feed)?;
        if status["links"] != linked.len() {
            return Err(format!("{} links, {} of them on the feed", status["links"], linked.len()));
        }
        let new = self.compare(&status, feed, &linked)?;
        let looks = stream::iter(new.iter().map(|look| look.made(service)));
        looks.buffer_unordered(8).try_collect::<()>().await
    }

    /// Compares all that can be seen at once; what is left is to be looked up one by one.
    fn compare(
        &self,
        status: &Value,
        feed: Vec<Entry>,
        linked: &BTreeSet<Pair>,
    ) -> Result<Vec<Look>, String> {
        let mut books = self.books();
        if !feed.starts_with(&books.feed) {
            let (said, says) = (books.feed.len(), feed.len());
            return Err(format!("the feed no longer says what it said: {said} entries then, {says} now"));
        }
        for (what, count, is) in [
            ("fans", books.fans.len(), &status["fans"]["registered"]),
            ("customers", books.customers.len(), &status["contacts"]["known"]),
        ] {
            if is.as_u64().unwrap_or_default() < count as u64 {
                return Err(format!("{count} {what} were acknowledged, {is} are there"));
            }
        }
        let is_missing = |c: &&Customer| !c.is_stranger && !linked.contains(&c.pair());
        let missing = books.customers.iter().filter(is_missing).count();
        if missing > 0 {
            return Err(format!("{missing} of {} acknowledged events made no link", books.customers.len()));
        }
        let (fans, customers) = books.judged;
        let new_fans = books.fans[fans..].iter().map(|fan| Look::Fan(fan.unionid.clone()));
        let strangers = books.customers[customers..].iter().filter(|customer| customer.is_stranger);
        let new_strangers = strangers.map(|customer| Look::Stranger(customer.external_userid.clone()));
        let looks = new_fans.chain(new_strangers).collect();
        books.judged = (books.fans.len(), books.customers.len());
        books.feed = feed;
        Ok(looks)
    }
}

/// Something to be looked up.
enum Look {
    Fan(String),
    Stranger(String),
}

impl Look {
    async fn made(&self, service: &Service) -> Result<(), String> {
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

/// The status, once nothing is under way.
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

async fn read_feed(service: &Service, head: u64) -> Result<Vec<Entry>, String> {
    let mut feed = Vec::new();
    while (feed.len() as u64) < head {
        let (_, page) = service.get(&format!("/v1/links/feed?after={}&limit=1000", feed.len())).await?;
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

/// Who was linked, each once, and each as the platform knows it.
fn created(service: &Service, feed: &[Entry]) -> Result<BTreeSet<Pair>, String> {
    let truth: BTreeSet<Pair> =
        service.wecom.truth().into_iter().map(|t| (t.unionid, t.external_userid)).collect();
    let mut linked = BTreeSet::new();
    for entry in feed.iter().filter(|entry| entry.kind == "link.created") {
        if !truth.contains(&entry.pair) {
            return Err("somebody is linked wrongly".to_owned());
        }
        if !linked.insert(entry.pair.clone()) {
            return Err("somebody is linked twice".to_owned());
        }
    }
    Ok(linked)
}
