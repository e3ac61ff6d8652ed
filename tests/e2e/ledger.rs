//! What the platform and the brand sent and what was acknowledged: kept outside of the process that is killed.
//!
//! At the end it is held against the service: nothing acknowledged may be missing, nothing may be there twice, and
//! nothing may be there that is not true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use unionlink::simulator::{By, Event, Person};

use crate::harness::{PATIENCE, World};
use crate::sinks::caught_up;

/// The API that says whose customer a fan is already.
const ASKING: &str = "unionid_to_external_userid";
const MEMBERS: [&str; 2] = ["zhangsan", "lisi"];

/// Whoever reads the feed: what was read once is never taken back, also by a kill.
#[derive(Default)]
pub struct Reader {
    pub read: Vec<Value>,
}

impl Reader {
    /// Reads one page. Whether there was something on it.
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

/// A callback that was sent, perhaps more than once.
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
    /// Something happens at a dealer to one of these people: the callback that tells of it, and its number.
    pub fn happen(&mut self, world: &World, people: &[Person], rng: &mut StdRng) -> (usize, Event) {
        let again = (!self.sent.is_empty()).then(|| rng.random_range(0..self.sent.len()));
        let what = match (rng.random_range(0..10), again) {
            // Said once more, as WeCom does when it was not answered, and sometimes when it was.
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

    /// A friendship that began with the `nth` callback ends.
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

    /// Callbacks acknowledged, fans accepted.
    pub fn counts(&self) -> (usize, usize) {
        (self.received().count(), self.accepted.len())
    }

    fn received(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(|sent| sent.acknowledged)
    }

    /// Customers who must be linked: acknowledged, and the fan accepted.
    pub fn must_be_linked(&self) -> BTreeSet<String> {
        let known: BTreeSet<_> = self.accepted.iter().map(|fan| &fan.unionid).collect();
        let added = self.received().filter(|sent| sent.what == What::Add);
        let known = added.filter(|sent| known.contains(&sent.person.unionid));
        known.map(|sent| sent.external_userid.clone()).collect()
    }

    /// Whether somebody follows, of every customer and member of whom the newest news was acknowledged.
    fn followed(&self) -> BTreeMap<(&str, &str), bool> {
        // Within one second an add beats a removal.
        let news = |sent: &Sent| (created_at(&sent.event), sent.what != What::Delete);
        let mut newest = BTreeMap::new();
        for sent in &self.sent {
            let known = newest.entry((sent.external_userid.as_str(), sent.member)).or_insert(news(sent));
            *known = news(sent).max(*known);
        }
        let told = self.received().map(|sent| ((sent.external_userid.as_str(), sent.member), news(sent)));
        told.filter(|(who, news)| newest[who] == *news).map(|(who, (_, present))| (who, present)).collect()
    }

    /// Waits until a service that was healed is at rest, and holds it against all of this. `reader` reads the rest of
    /// the feed.
    pub async fn judge(&self, world: &World, reader: &mut Reader) {
        rest(world).await;
        // It can be seen a moment before it is durable and on the feed.
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
        self.judge_links(world, &reader.read).await;
        self.say_everything_again(world).await;
    }

    /// The links and the whole feed.
    async fn judge_links(&self, world: &World, feed: &[Value]) {
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
        assert_eq!(linked.difference(&truth).next(), None, "a wrong link");
        let customers: BTreeSet<_> =
            linked.into_iter().map(|(_, _, external_userid)| external_userid).collect();
        assert_eq!(self.must_be_linked().difference(&customers).next(), None, "lost");

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

    /// What was acknowledged is known, whether anything came of it or not.
    async fn say_everything_again(&self, world: &World) {
        let duplicates = async || world.get("/v1/status").await["callbacks"]["duplicates"].as_u64().unwrap();
        let before = duplicates().await;
        let events: Vec<_> = self.received().map(|sent| sent.event.clone()).collect();
        let count = events.len() as u64;
        assert!(world.wecom.deliver_all(events, 16).await.iter().all(|delivery| delivery.acknowledged));
        assert_eq!(duplicates().await - before, count, "acknowledged callbacks are not known");
        for fans in self.accepted.chunks(500) {
            let (status, receipt) = world.post("/v1/fans", &rows(fans)).await;
            assert_eq!((status, &receipt["known"]), (202, &json!(fans.len())), "accepted fans are not known");
        }
    }
}

/// What the service says of itself, if it does.
async fn status(world: &World) -> Option<Value> {
    world.http.get(format!("{}/v1/status", world.admin)).send().await.ok()?.json().await.ok()
}

/// Whether the service has nothing to do.
pub async fn is_at_rest(world: &World) -> bool {
    status(world).await.is_some_and(|status| left_to_do(&status) == json!([0, 0, 0]))
}

/// Waits for that, however much there is to do, as long as it becomes less.
async fn rest(world: &World) {
    let (mut left, mut since) = (Value::Null, Instant::now());
    while !is_at_rest(world).await {
        let now = status(world).await.map_or(Value::Null, |status| left_to_do(&status));
        if left != now {
            (left, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "this is left to do for ever: {left}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Callbacks to settle, fans to mint, fans to ask about.
fn left_to_do(status: &Value) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    let asking = status["queues"].as_array().map_or(u64::MAX, |queues| {
        queues.iter().filter(|queue| queue["api"] == ASKING).map(|queue| number(&queue["waiting"])).sum()
    });
    let fans = &status["fans"];
    let minting = number(&fans["registered"]).abs_diff(number(&fans["minted"]));
    json!([number(&status["inbox"]["waiting"]), minting, asking])
}

/// Fans as the brand sends them.
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
