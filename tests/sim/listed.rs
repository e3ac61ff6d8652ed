//! The invariant of the comparison with WeCom's lists: in the end every customer whom these show is known,
//! whatever callbacks were lost, is linked if WeCom returns a pending id of ours, and has the right followers.

use unionlink::domain::link::LinkData;
use unionlink::store::People;

use crate::check::Checker;

impl Checker<'_> {
    /// Every customer in WeCom's lists is known, and linked where that is possible.
    pub async fn listed_customers(&mut self, links: &[LinkData]) {
        let schedule = self.schedule;
        let sim = &schedule.machine.sim;
        for ((p, d), pair) in &schedule.cast.pairs {
            let (somebody, dealer) = (&schedule.cast.people[*p], &schedule.cast.dealers[*d].dealer);
            let friends = sim.followers(&dealer.corp_id, &somebody.person);
            let is_listed = !friends.is_empty() || schedule.cast.is_in_a_group(*p, *d);
            // A relation of before a person was erased does not bring the person back.
            if !is_listed || somebody.forgotten {
                continue;
            }
            let data = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            self.expect(!data.contacts.is_empty(), || {
                format!("p{p} is in the lists of d{d} and not known: friends {friends:?}")
            });
            let link = links.iter().find(|link| link.external_userid == pair.external_userid);
            if let Some(link) = link {
                let is_follower = |member: &str| link.followers.iter().any(|f| f.user_id.as_str() == member);
                // Without the time of the newest add, nothing tells whether a customer who deleted the member, and
                // stays in the lists, is back.
                let is_doubtful = |member: &str| {
                    schedule.machine.setup.lists_first_add
                        && pair.events.iter().any(|event| event.by_customer && event.member == member)
                };
                let missing: Vec<_> = friends
                    .iter()
                    .filter(|(member, ..)| !is_follower(member) && !is_doubtful(member))
                    .collect();
                self.expect(missing.is_empty() || schedule.cast.clock_was_off, || {
                    format!("p{p} at d{d} lacks the followers {missing:?}: {:?}", data.contacts)
                });
                continue;
            }
            let found = sim.resolves_to(&dealer.corp_id, &somebody.person);
            let ours = self.pending_ids(somebody).await;
            let is_ours = found.is_some_and(|found| ours.contains(&found));
            let is_owed = is_ours && somebody.is_fan && !pair.given_up && !pair.is_disturbed;
            if is_owed && !self.is_minted_by_another(somebody, pair).await {
                let violation = format!(
                    "p{p} is in the lists of d{d} and not linked: {}",
                    self.known_of(somebody, pair).await
                );
                self.violations.push(violation);
            }
        }
    }
}
