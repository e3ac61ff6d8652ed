//! The three conversions: of a unionid into a pending id, of `external_userid`s into pending ids (both
//! document 97357), and of a unionid into the `external_userid`s of existing customers (document 95818).
//!
//! What the documents leave open is decided by `Options`; the rest follows their wording. Access tokens and
//! call limits are checked by `endpoints`, before.

use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::api::{Answer, Errcode, Request, texts};
use super::model::{ChatIdx, CorpIdx, Customer, PersonIdx, UNVERIFIED};
use super::options::{Invisible, TokenRule, UnknownId, Unminted};
use super::world::World;

/// The documented size limit of a batch.
const BATCH_IDS_MAX: usize = 100;

/// What the caller of a conversion sees of an id.
enum Sight<'a> {
    /// No customer that the caller could convert.
    Unknown,
    /// A customer, but all their followers are outside of the visible range.
    Invisible,
    Customer(&'a Customer),
}

impl World {
    pub(super) fn unionid_to_pending_id(&mut self, caller: CorpIdx, request: &Request) -> Answer {
        let person = self.requested_person(caller, request)?;
        if let Some(code) = self.people[person].reject_code {
            return Err(Errcode(code));
        }
        Ok(json!({ "pending_id": self.mint(caller, person) }))
    }

    pub(super) fn unionid_to_external_userid(&self, caller: CorpIdx, request: &Request) -> Answer {
        let only_corp = request.optional_text("corpid")?;
        let person = self.requested_person(caller, request)?;
        let corps: Vec<CorpIdx> = match only_corp {
            Some(corp_id) => vec![self.member_corp(caller, corp_id).map_err(|_| Errcode::NOT_IN_CHAIN)?],
            None => std::iter::once(caller).chain(self.dealers(caller)).collect(),
        };
        let rows: Vec<Value> = corps
            .into_iter()
            .filter(|corp| self.corps[*corp].is_shared)
            .filter_map(|corp| self.customer_of.get(&(corp, person)))
            .map(|index| &self.customers[*index])
            .filter(|customer| customer.since.is_some())
            .map(|customer| {
                json!({ "corpid": self.corps[customer.corp].id, "external_userid": customer.external_userid })
            })
            .collect();
        Ok(json!({ "external_userid_info": rows }))
    }

    fn requested_person(&self, caller: CorpIdx, request: &Request) -> Result<PersonIdx, Errcode> {
        let unionid = request.text("unionid")?;
        let openid = request.text("openid")?;
        if let Some(code) = self.corps[caller].error {
            return Err(Errcode(code));
        }
        let person = self.person(unionid).map_err(|_| Errcode::UNKNOWN_UNIONID)?;
        if self.people[person].person.openid != openid {
            return Err(Errcode::OPENID_MISMATCH);
        }
        Ok(person)
    }

    pub(super) fn external_userid_to_pending_id(&mut self, caller: CorpIdx, request: &Request) -> Answer {
        let ids = texts(&request.body["external_userid"], BATCH_IDS_MAX)?;
        let chat_id = request.optional_text("chat_id")?;
        if self.corps[caller].qualification == UNVERIFIED {
            return Err(Errcode::UNVERIFIED_CORP);
        }
        self.check_token_kind(caller, &ids)?;
        let unknown_chat = Errcode(self.options.unknown_chat);
        let chat = chat_id
            .map(|chat_id| self.named_chat(chat_id, unknown_chat, |corp| self.is_in_scope(caller, corp)))
            .transpose()?;
        let ids = self.ids_in_chat(ids, chat);
        self.check_corp_errors(caller, &ids)?;
        if let Some(code) = ids.iter().find_map(|id| self.poisoned.get(*id)) {
            return Err(Errcode(*code));
        }

        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            let pending_id = match self.sight(caller, id, chat) {
                Sight::Unknown => match self.options.unknown_id {
                    UnknownId::OmitRow => None,
                    UnknownId::EmptyPendingId => Some(String::new()),
                    UnknownId::FailBatch40096 => return Err(Errcode::INVALID_EXTERNAL_USERID),
                },
                Sight::Invisible => match self.options.invisible {
                    Invisible::OmitRow => None,
                    Invisible::FailBatch(code) => return Err(Errcode(code)),
                },
                Sight::Customer(customer) => match (self.resolve(customer), self.options.unminted) {
                    (Some(pending_id), _) => Some(pending_id.to_owned()),
                    (None, Unminted::OmitRow) => None,
                    (None, Unminted::EmptyPendingId) => Some(String::new()),
                },
            };
            let is_hidden = self.take_hidden_row(id);
            if let Some(pending_id) = pending_id.filter(|_| !is_hidden) {
                rows.push(json!({ "external_userid": id, "pending_id": pending_id }));
            }
        }
        // The documents promise no order.
        rows.shuffle(&mut self.noise);
        Ok(json!({ "result": rows }))
    }

    /// Whether the caller's token is of the right kind: the upstream corp's own customers need the upstream
    /// corp's token; a dealer's need the one of the token rule.
    fn check_token_kind(&self, caller: CorpIdx, ids: &[&str]) -> Result<(), Errcode> {
        let is_own = |id: &&str| self.customer_with_id(id).is_some_and(|customer| customer.corp == caller);
        let is_right = match (self.corps[caller].is_upstream, self.options.token_rule) {
            (true, TokenRule::Downstream) => ids.iter().all(is_own),
            (false, TokenRule::Upstream) => false,
            (true, TokenRule::Upstream | TokenRule::Either)
            | (false, TokenRule::Downstream | TokenRule::Either) => true,
        };
        if is_right { Ok(()) } else { Err(Errcode::WRONG_TOKEN_KIND) }
    }

    /// The ids that are in the group; all of them if none is named.
    fn ids_in_chat<'a>(&self, mut ids: Vec<&'a str>, chat: Option<ChatIdx>) -> Vec<&'a str> {
        if let Some(chat) = chat {
            ids.retain(|id| self.chats[chat].list.members.contains_key(*id));
        }
        ids
    }

    /// Fails with the error that is set for the caller, its upstream corp or the dealer of one of the ids.
    fn check_corp_errors(&self, caller: CorpIdx, ids: &[&str]) -> Result<(), Errcode> {
        let dealers = ids
            .iter()
            .filter_map(|id| self.customer_with_id(id))
            .map(|customer| customer.corp)
            .filter(|corp| self.corps[*corp].upstream == caller);
        let mut corps = [self.corps[caller].upstream, caller].into_iter().chain(dealers);
        match corps.find_map(|corp| self.corps[corp].error) {
            Some(code) => Err(Errcode(code)),
            None => Ok(()),
        }
    }

    fn customer_with_id(&self, external_userid: &str) -> Option<&Customer> {
        self.customer_by_id.get(external_userid).map(|index| &self.customers[*index])
    }

    /// Whether the caller may ask about customers of this corp: its own, or those of a dealer of the caller.
    fn is_in_scope(&self, caller: CorpIdx, corp: CorpIdx) -> bool {
        corp == caller || self.corps[corp].upstream == caller
    }

    /// With a group, its owner has to be visible; without one, a member that has confirmed the customer.
    fn sight(&self, caller: CorpIdx, external_userid: &str, chat: Option<ChatIdx>) -> Sight<'_> {
        let customer = self.customer_with_id(external_userid);
        let Some(customer) = customer.filter(|customer| self.is_in_scope(caller, customer.corp)) else {
            return Sight::Unknown;
        };
        let is_visible = match chat {
            Some(chat) => self.is_in_range(customer.corp, &self.chats[chat].owner),
            None if !customer.has_follower() => return Sight::Unknown,
            None => customer
                .followers
                .iter()
                .any(|(user_id, follower)| follower.is_confirmed && self.is_in_range(customer.corp, user_id)),
        };
        if is_visible { Sight::Customer(customer) } else { Sight::Invisible }
    }

    /// Whether the row of this id is to be left out of this answer, which uses up one of its hidden rows.
    fn take_hidden_row(&mut self, external_userid: &str) -> bool {
        let Some(rows_left) = self.hidden_rows.get_mut(external_userid) else {
            return false;
        };
        *rows_left = rows_left.saturating_sub(1);
        if *rows_left == 0 {
            self.hidden_rows.remove(external_userid);
        }
        true
    }
}
