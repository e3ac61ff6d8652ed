//! The test oracle for kills and faults: a record, outside the process, of what the platform and the brand
//! sent and what the service acknowledged.
//!
//! At the end the service is compared with it: nothing acknowledged may be missing, and every link must be
//! there once and be true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use unionlink::simulator::{By, Event, Person};

use crate::harness::{PATIENCE, World};
use crate::sinks::caught_up;

/// The API that returns a fan's existing customers.
const EXISTING_API: &str = "unionid_to_external_userid";
const MEMBERS: [&str; 2] = ["zhangsan", "lisi"];

/// A reader of the feed. What it has read must never be taken back, not even by a kill.
#[derive(Default)]
pub struct Reader {
    pub read: Vec<Value>,
}

impl Reader {
    /// Reads one page. Returns whether it had entries.
    pub async fn read_on(&mut self, world: &World) -> bool {
        let url = format!("{}/v1/links/feed?after={}&limit=1000", world.admin, self.read.len());
        let Ok(answer) = world.http.get(url).send().await else { return false };
        let Ok(page) = answer.json::<Value>().await else { return false };
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        let some = !entries.is_empty();
        self.read.extend(entries);
        some
    }

    pub async fn read_all(&mut self, world: &World) {
        while self.read_on(world).await {}
    }
}

/// A callback that was sent, possibly more than once.
#[derive(Clone)]
struct Sent {
    event: Event,
    what: What,
    person: Person,
    dealer: usize,
    member: &'static str,
    external_userid: String,
    acknowledged: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Add,
    HalfAdd,
    Delete,
}

/// Everything that was sent.
#[derive(Clone, Default)]
pub struct Ledger {
    sent: Vec<Sent>,
    accepted: Vec<Person>,
}

impl Ledger {
    /// Makes a random change at a dealer about one of these people. Returns its callback and the callback's
    /// number.
    pub fn random_change(&mut self, world: &World, people: &[Person], rng: &mut StdRng) -> (usize, Event) {
        let again = (!self.sent.is_empty()).then(|| rng.random_range(0..self.sent.len()));
        let what = match (rng.random_range(0..10), again) {
            // Sent again, as WeCom does without an answer, and sometimes with one.
            (0, Some(nth)) => return (nth, self.sent[nth].event.clone()),
            (1, Some(nth)) => return self.delete(world, nth, rng.random()),
            (2, _) => What::HalfAdd,
            _ => What::Add,
        };
        let person = people[rng.random_range(0..people.len())].clone();
        let (dealer, member) =
            (rng.random_range(0..world.dealers.len()), MEMBERS[rng.random_range(0..MEMBERS.len())]);
        let corp_id = &world.dealers[dealer].corp_id;
        let friendship = match what {
            What::HalfAdd => world.wecom.befriend_half(corp_id, &person, member, None),
            _ => world.wecom.befriend(corp_id, &person, member, Some("spring")),
        };
        let (event, external_userid) = (friendship.event, friendship.external_userid);
        self.note(Sent { event, what, person, dealer, member, external_userid, acknowledged: false })
    }

    /// Ends the friendship that the `nth` callback was about.
    fn delete(&mut self, world: &World, nth: usize, by_member: bool) -> (usize, Event) {
        let Sent { ref person, dealer, member, ref external_userid, .. } = self.sent[nth];
        let (person, external_userid) = (person.clone(), external_userid.clone());
        let by = if by_member { By::Member } else { By::Customer };
        let event = world.wecom.unfriend(&world.dealers[dealer].corp_id, &person, member, by);
        let what = What::Delete;
        self.note(Sent { event, what, person, dealer, member, external_userid, acknowledged: false })
    }

    fn note(&mut self, sent: Sent) -> (usize, Event) {
        let event = sent.event.clone();
        self.sent.push(sent);
        (self.sent.len() - 1, event)
    }

    pub fn acknowledged(&mut self, nth: usize) {
        self.sent[nth].acknowledged = true;
    }

    pub fn accepted(&mut self, fans: &[Person]) {
        self.accepted.extend_from_slice(fans);
    }

    /// The numbers of acknowledged callbacks and of accepted fans.
    pub fn counts(&self) -> (usize, usize) {
        (self.all_acknowledged().count(), self.accepted.len())
    }

    fn all_acknowledged(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(|sent| sent.acknowledged)
    }

    /// Customers that must be linked: the callback was acknowledged and the fan accepted.
    pub fn must_be_linked(&self) -> BTreeSet<String> {
        let known: BTreeSet<_> = self.accepted.iter().map(|fan| &fan.unionid).collect();
        let added = self.all_acknowledged().filter(|sent| sent.what == What::Add);
        let known = added.filter(|sent| known.contains(&sent.person.unionid));
        known.map(|sent| sent.external_userid.clone()).collect()
    }

    /// Whether the member follows the customer, for each pair whose newest event was acknowledged.
    fn followed(&self) -> BTreeMap<(&str, &str), bool> {
        // Within one second an add wins over a removal.
        let order = |sent: &Sent| (created_at(&sent.event), sent.what != What::Delete);
        let mut newest = BTreeMap::new();
        for sent in &self.sent {
            let known = newest.entry((sent.external_userid.as_str(), sent.member)).or_insert(order(sent));
            *known = order(sent).max(*known);
        }
        let acknowledged =
            self.all_acknowledged().map(|sent| ((sent.external_userid.as_str(), sent.member), order(sent)));
        let known = acknowledged.filter(|(pair, order)| newest[pair] == *order);
        known.map(|(pair, (_, present))| (pair, present)).collect()
    }

    /// Waits until the service, with all faults removed, is idle, then asserts that it agrees with this
    /// ledger. `reader` reads the rest of the feed.
    pub async fn check(&self, world: &World, reader: &mut Reader) {
        wait_until_idle(world).await;
        // A link can be read a moment before it is durable and on the feed.
        world.durable().await;
        caught_up(world).await;
        reader.read_all(world).await;
        let (missing, give_up) = (self.must_be_linked(), Instant::now() + PATIENCE);
        let linked = |feed: &[Value]| {
            let created = feed.iter().filter(|entry| entry["type"] == "link.created");
            created
                .filter(|entry| missing.contains(entry["data"]["external_userid"].as_str().unwrap()))
                .count()
        };
        while linked(&reader.read) < missing.len() && Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
            reader.read_all(world).await;
        }
        self.check_links(world, &reader.read).await;
        self.check_duplicates(world).await;
    }

    /// Asserts that links and feed agree with each other, with the platform and with this ledger.
    async fn check_links(&self, world: &World, feed: &[Value]) {
        let mut announced = BTreeSet::new();
        for (entry, seq) in feed.iter().zip(1..) {
            assert_eq!(entry["seq"], seq, "the feed has a gap");
            if entry["type"] == "link.created" {
                assert!(announced.insert(identity(&entry["data"])), "linked twice: {entry}");
            }
        }
        let links = every_link(world).await;
        let truth = world.wecom.truth().into_iter().map(|t| (t.unionid, t.corp_id, t.external_userid));
        let (truth, linked): (BTreeSet<_>, BTreeSet<_>) =
            (truth.collect(), links.iter().map(identity).collect());
        assert_eq!((links.len(), &linked), (announced.len(), &announced), "links and feed differ");
        assert_eq!(linked.difference(&truth).next(), None, "a link the platform does not know of");
        let customers: BTreeSet<_> =
            linked.into_iter().map(|(_, _, external_userid)| external_userid).collect();
        assert_eq!(
            self.must_be_linked().difference(&customers).next(),
            None,
            "an acknowledged customer is not linked"
        );

        let followed = self.followed();
        for link in &links {
            let follows =
                |member: &str| link["followers"].as_array().unwrap().iter().any(|f| f["user_id"] == member);
            for member in MEMBERS {
                let wanted = followed.get(&(link["external_userid"].as_str().unwrap(), member));
                assert!(
                    wanted.is_none_or(|wanted| *wanted == follows(member)),
                    "{member}, {wanted:?}: {link}"
                );
            }
        }
    }

    /// Sends everything acknowledged again and asserts that the service knows all of it, linked or not.
    async fn check_duplicates(&self, world: &World) {
        let duplicates = async || world.get("/v1/status").await["callbacks"]["duplicates"].as_u64().unwrap();
        let before = duplicates().await;
        let events: Vec<_> = self.all_acknowledged().map(|sent| sent.event.clone()).collect();
        let count = events.len() as u64;
        assert!(world.wecom.deliver_all(events, 16).await.iter().all(|delivery| delivery.acknowledged));
        assert_eq!(duplicates().await - before, count, "acknowledged callbacks are not known");
        for fans in self.accepted.chunks(500) {
            let (status, receipt) = world.post("/v1/fans", &rows(fans)).await;
            assert_eq!((status, &receipt["known"]), (202, &json!(fans.len())), "accepted fans are not known");
        }
    }
}

/// The service's status, if it answers.
async fn status(world: &World) -> Option<Value> {
    world.http.get(format!("{}/v1/status", world.admin)).send().await.ok()?.json().await.ok()
}

/// Whether the service has nothing left to do.
pub async fn is_idle(world: &World) -> bool {
    status(world).await.is_some_and(|status| left_to_do(&status) == json!([0, 0, 0]))
}

/// Waits until the service is idle, for as long as it makes progress.
async fn wait_until_idle(world: &World) {
    let (mut left, mut since) = (Value::Null, Instant::now());
    while !is_idle(world).await {
        let now = status(world).await.map_or(Value::Null, |status| left_to_do(&status));
        if left != now {
            (left, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "no progress, still to do: {left}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The numbers of events to settle, fans to mint, and fans whose existing customers are to be queried.
fn left_to_do(status: &Value) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    let asking = status["queues"].as_array().map_or(u64::MAX, |queues| {
        queues
            .iter()
            .filter(|queue| queue["api"] == EXISTING_API)
            .map(|queue| number(&queue["waiting"]))
            .sum()
    });
    let fans = &status["fans"];
    let minting = number(&fans["registered"]).abs_diff(number(&fans["minted"]));
    json!([number(&status["inbox"]["waiting"]), minting, asking])
}

/// Fans as rows of a registration.
pub fn rows(fans: &[Person]) -> Value {
    fans.iter().map(|fan| json!({"unionid": fan.unionid, "openid": fan.openid})).collect()
}

fn created_at(event: &Event) -> u64 {
    let text = event.inner.split("<CreateTime>").nth(1).and_then(|rest| rest.split('<').next());
    text.unwrap().parse().unwrap()
}

fn identity(link: &Value) -> (String, String, String) {
    let text = |name: &str| link[name].as_str().unwrap().to_owned();
    (text("unionid"), text("corp_id"), text("external_userid"))
}

async fn every_link(world: &World) -> Vec<Value> {
    let (status, text) = world.text("/v1/links/export").await;
    assert_eq!(status, 200, "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
