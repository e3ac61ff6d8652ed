//! The invariant of the comparison with WeCom's lists: in the end every customer whom these show is known,
//! whatever callbacks were lost, and is linked if WeCom returns a pending id of ours.

use unionlink::domain::link::LinkData;
use unionlink::domain::time::Timestamp;

use crate::check::Checker;

impl Checker<'_> {
    /// Every customer in WeCom's lists is known, and linked where that is possible.
    pub async fn listed_customers(&mut self, links: &[LinkData]) {
        let schedule = self.schedule;
        let sim = &schedule.machine.sim;
        let without_groups = self.dealers_without_groups();
        for ((p, d), pair) in &schedule.cast.pairs {
            let (somebody, dealer) = (&schedule.cast.people[*p], &schedule.cast.dealers[*d].dealer);
            let friends = sim.followers(&dealer.corp_id, &somebody.person);
            // A relation from before a person was forgotten does not bring the person back, and some lists
            // have the time of the first add only.
            let began = |member: &str, newest: Timestamp| {
                let first = pair.events.iter().find(|event| event.member == member && event.present);
                let first = first.filter(|_| schedule.machine.setup.lists_first_add);
                first.map_or(newest.as_secs(), |event| event.at_secs)
            };
            let is_back =
                friends.iter().any(|(member, since, _)| began(member, *since) >= somebody.known_from_secs);
            let is_in_a_group = schedule.cast.is_in_a_group(*p, *d) && !without_groups.contains(d);
            if !is_back && !is_in_a_group {
                continue;
            }
            let data = self.service.store.person_data(pair.external_userid.as_str()).await.unwrap();
            self.expect(!data.contacts.is_empty(), || {
                format!("p{p} is in the lists of d{d} and not known: friends {friends:?}")
            });
            let link = links.iter().find(|link| link.external_userid == pair.external_userid);
            if link.is_some() {
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
