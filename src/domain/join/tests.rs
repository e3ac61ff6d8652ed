//! The join on random histories: any order, any repetition, the same links.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::contact::Contact;
use super::super::ids::{AppName, CorpId, ExternalUserid};
use super::super::link::Source;
use super::*;

#[derive(Debug, Clone)]
enum Input {
    /// Fan `.0` was minted at `.1` and got pending id `.2`.
    Minted(u8, i64, u8),
    /// Contact `.0` of dealer `.1` has pending id `.2`.
    Resolved(u8, u8, u8),
    /// WeCom reported at `.2` that contact `.0` of dealer `.1` is fan `.3`.
    Existing(u8, u8, i64, u8),
}

fn contact_key(person: u8, dealer: u8) -> ContactKey {
    ContactKey {
        app: AppName::new("brand").unwrap(),
        corp_id: CorpId::new(format!("wpDEALER{dealer}")).unwrap(),
        external_userid: ExternalUserid::new(format!("wm{person}at{dealer}")).unwrap(),
    }
}

#[derive(Default)]
struct World {
    states: BTreeMap<u8, JoinState>,
    contacts: BTreeMap<ContactKey, Contact>,
    created: BTreeMap<ContactKey, u32>,
}

impl World {
    fn apply(&mut self, input: &Input) {
        match *input {
            Input::Minted(fan, at, pending) => {
                let fan = FanSide { minted_at: Timestamp::from_secs(at), unionid: unionid(fan) };
                let claims = fan_arrives(self.states.entry(pending).or_default(), &pending_id(pending), fan);
                for claim in &claims {
                    self.accept(claim);
                }
            }
            Input::Resolved(person, dealer, pending) => {
                let key = contact_key(person, dealer);
                let state = self.states.entry(pending).or_default();
                let claim = contact_arrives(state, &pending_id(pending), &key);
                if let Some(claim) = &claim {
                    self.accept(claim);
                }
            }
            Input::Existing(person, dealer, at, fan) => self.accept(&Claim {
                contact: contact_key(person, dealer),
                unionid: unionid(fan),
                pending_id: None,
                source: Some(Source::Existing),
                evidence_at: Timestamp::from_secs(at),
            }),
        }
    }

    fn accept(&mut self, claim: &Claim) {
        let contact = self
            .contacts
            .entry(claim.contact.clone())
            .or_insert_with(|| Contact::new(Source::Callback, Timestamp::EPOCH));
        if contact.accept(claim, "lnk".to_owned(), Timestamp::EPOCH)
            == Some(super::super::link::ChangeType::Created)
        {
            *self.created.entry(claim.contact.clone()).or_default() += 1;
        }
    }

    fn links(&self) -> Vec<(ContactKey, Unionid)> {
        let link = |(key, contact): (&ContactKey, &Contact)| {
            contact.link.as_ref().map(|link| (key.clone(), link.unionid.clone()))
        };
        self.contacts.iter().filter_map(link).collect()
    }
}

fn unionid(n: u8) -> Unionid {
    Unionid::new(format!("oFAN{n}")).unwrap()
}

fn pending_id(n: u8) -> PendingId {
    PendingId::new(format!("pend{n}")).unwrap()
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let one = prop_oneof![
        (0_u8..4, 0_i64..6, 0_u8..4).prop_map(|(fan, at, p)| Input::Minted(fan, at, p)),
        (0_u8..4, 0_u8..2, 0_u8..4).prop_map(|(c, d, p)| Input::Resolved(c, d, p)),
        (0_u8..4, 0_u8..2, 0_i64..6, 0_u8..4).prop_map(|(c, d, at, fan)| Input::Existing(c, d, at, fan)),
    ];
    proptest::collection::vec(one, 0..16)
}

fn world(inputs: &[Input]) -> World {
    let mut world = World::default();
    for input in inputs {
        world.apply(input);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Even if WeCom contradicts itself: two fans with one pending id, two pending ids for one contact.
    #[test]
    fn any_order_and_repetition_of_the_same_inputs_ends_in_the_same_links(
        inputs in inputs(), swaps in proptest::collection::vec((any::<usize>(), any::<usize>()), 32)
    ) {
        let mut other: Vec<_> = inputs.iter().chain(&inputs).cloned().collect();
        if !other.is_empty() {
            for (a, b) in swaps {
                let len = other.len();
                other.swap(a % len, b % len);
            }
        }
        let (first, second) = (world(&inputs), world(&other));
        prop_assert_eq!(first.links(), second.links());
        prop_assert!(first.created.values().chain(second.created.values()).all(|n| *n == 1));
    }

    #[test]
    fn equal_pending_ids_and_nothing_else_make_a_link(
        minted in proptest::collection::btree_map(0_u8..8, 0_u8..1, 0..8),
        resolved in proptest::collection::btree_set((0_u8..8, 0_u8..3), 0..16)
    ) {
        // Here fan n always has pending id n, as it is with WeCom.
        let inputs: Vec<_> = minted.keys().map(|n| Input::Minted(*n, 1, *n))
            .chain(resolved.iter().map(|(n, d)| Input::Resolved(*n, *d, *n))).collect();
        let mut expected: Vec<_> = resolved.iter().filter(|(n, _)| minted.contains_key(n))
            .map(|(n, d)| (contact_key(*n, *d), unionid(*n))).collect();
        expected.sort();
        prop_assert_eq!(world(&inputs).links(), expected);
    }
}

#[test]
fn one_person_at_two_dealers_is_two_links() {
    let world = world(&[Input::Resolved(1, 0, 7), Input::Minted(3, 1, 7), Input::Resolved(1, 1, 7)]);
    assert_eq!(world.links().len(), 2);
}
