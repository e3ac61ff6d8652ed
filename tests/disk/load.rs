//! Load: fans are registered and minted, dealers add customers and a reader follows the feed, all at once.
//!
//! Fans are registered faster than customers are added, so that acknowledged writes and background writes
//! always share the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use unionlink::simulator::Person;

use crate::ledger::{Customer, Ledger};
use crate::service::{PATIENCE, Service};

const FANS_AT_ONCE: usize = 40;
/// The most fans registered before a dealer adds them.
const FANS_AHEAD: usize = 160;
const DEALERS_AT_ONCE: usize = 4;
const PAUSE: Duration = Duration::from_millis(5);

/// Runs until stopped.
pub async fn run_load(service: &Service, ledger: &Arc<Ledger>, stop: &CancellationToken) {
    let (registered, fans) = mpsc::channel(FANS_AHEAD);
    let fans = Mutex::new(fans);
    let adding = async {
        let dealers = (0..DEALERS_AT_ONCE).map(|dealer| add_customers(service, ledger, dealer, &fans));
        futures_util::future::join_all(dealers).await;
    };
    let load = async {
        tokio::join!(register(service, ledger, registered), adding, read(service, ledger));
    };
    tokio::select! {
        () = load => {}
        () = stop.cancelled() => {}
    }
}

async fn register(service: &Service, ledger: &Ledger, registered: mpsc::Sender<Person>) {
    loop {
        let people = service.wecom.add_people(FANS_AT_ONCE);
        ledger.sends_fans(&people);
        if service.register(&people).await {
            ledger.accepted_fans(&people);
            for person in people {
                if registered.send(person).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A dealer who adds every third fan, and now and then a person who is no fan.
async fn add_customers(
    service: &Service,
    ledger: &Ledger,
    dealer: usize,
    fans: &Mutex<mpsc::Receiver<Person>>,
) {
    for turn in 0_u32.. {
        let Some(person) = fans.lock().await.recv().await else { return };
        while !service.is_minted(&person) {
            tokio::time::sleep(PAUSE).await;
        }
        if turn % 3 == 0 {
            add(service, ledger, dealer, &person, false).await;
        }
        if turn % 12 == 0 {
            add(service, ledger, dealer, &service.wecom.add_person(), true).await;
        }
    }
}

/// A dealer adds a person. Returns whether the callback was acknowledged, and its status.
pub async fn add(
    service: &Service,
    ledger: &Ledger,
    dealer: usize,
    person: &Person,
    is_stranger: bool,
) -> (bool, Option<u16>) {
    let (external_userid, event) = service.befriend(dealer, person);
    let customer = Customer { unionid: person.unionid.clone(), external_userid, event, is_stranger };
    ledger.sends(&customer);
    let (is_acknowledged, status) = service.send(&customer.event).await;
    if is_acknowledged {
        ledger.acknowledged(&customer);
    }
    (is_acknowledged, status)
}

async fn read(service: &Service, ledger: &Ledger) {
    loop {
        let after = ledger.feed_read();
        if let Ok((200, page)) = service.get(&format!("/v1/links/feed?after={after}&limit=500")).await {
            ledger.reads(after, &page);
        }
        tokio::time::sleep(PAUSE * 4).await;
    }
}

/// Sends again until everything is acknowledged. A 503 in between is not an error: on a slow machine a commit
/// may take too long.
///
/// # Errors
/// When something is still not acknowledged after [`PATIENCE`].
pub async fn send_again(service: &Service, ledger: &Ledger) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let (people, customers) = ledger.unanswered();
        if people.is_empty() && customers.is_empty() {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(format!("{} fans and {} events are still refused", people.len(), customers.len()));
        }
        for people in people.chunks(FANS_AT_ONCE) {
            if service.register(people).await {
                ledger.accepted_fans(people);
            }
        }
        for customer in customers {
            if service.send(&customer.event).await.0 {
                ledger.acknowledged(&customer);
            }
        }
    }
}
