//! The lists of members and customers: `get_follow_user_list` (document 92571), `externalcontact/list`
//! (92113), `batch/get_by_user` (92994) and `contact_list` (99434).
//!
//! Each answers for the corp of the token, and about members in the app's visible range only.
//!
//! Deliberately absent: customer groups by themselves (`chats`).

use std::collections::BTreeSet;
use std::ops::Bound;

use serde_json::{Value, json};

use super::api::{Answer, Errcode, Request, texts};
use super::cursor::{ContactPlace, Cursor};
use super::ids;
use super::model::{Chat, ChatMemberKind, CorpIdx, Customer, CustomerIdx, Follower, Member};
use super::options::{Invisible, PageFill};
use super::world::World;
use crate::domain::time::{HOUR_MS, Timestamp};

/// The documented limits of `batch/get_by_user`: members in a call, rows of a page.
const MEMBERS_MAX: usize = 100;
const CUSTOMERS_DEFAULT: usize = 50;
const CUSTOMERS_MAX: usize = 100;
/// The documented life of a cursor of `contact_list`.
const CONTACTS_CURSOR_LIFE_MS: i64 = 4 * HOUR_MS;
/// `add_way` of a customer who scanned a QR code, and of one found by their phone number.
const ADDED_BY_QR_CODE: u8 = 1;
const ADDED_BY_PHONE: u8 = 2;
/// The name of a person that is not a customer.
const MASKED_NAME: &str = "***开";

/// A row of `contact_list`.
enum Contact<'a> {
    Stranger {
        nth: usize,
        user_id: &'a str,
    },
    Friend {
        user_id: &'a str,
        member: &'a Member,
        index: CustomerIdx,
        customer: &'a Customer,
        follower: &'a Follower,
    },
    InChat {
        nth: usize,
        chat: &'a Chat,
        index: CustomerIdx,
        customer: &'a Customer,
        joined_at: Timestamp,
    },
}

impl World {
    pub(super) fn get_follow_user_list(&self, caller: CorpIdx) -> Value {
        let members = self.corps[caller].members.iter().filter(|(_, member)| member.is_in_range());
        let user_ids: Vec<&String> = members.map(|(user_id, _)| user_id).collect();
        json!({ "follow_user": user_ids })
    }

    pub(super) fn externalcontact_list(&self, caller: CorpIdx, request: &Request) -> Answer {
        let user_id = request.param("userid").ok_or(Errcode::INVALID_PARAMETER)?;
        let member = self.corps[caller].members.get(user_id).ok_or(Errcode::UNKNOWN_USER_ID)?;
        if !member.is_visible {
            return Err(Errcode::NOT_VISIBLE);
        }
        let external_userids: Vec<&str> = self
            .relations_of(user_id, member, 0)
            .filter(|(_, _, follower)| member.has_customer_contact && follower.is_confirmed)
            .map(|(_, customer, _)| customer.external_userid.as_str())
            .collect();
        if external_userids.is_empty() {
            return Err(Errcode::NO_RELATION);
        }
        Ok(json!({ "external_userid": external_userids }))
    }

    pub(super) fn get_by_user(&self, caller: CorpIdx, request: &Request) -> Answer {
        let user_ids: BTreeSet<&str> =
            texts(&request.body["userid_list"], MEMBERS_MAX)?.into_iter().collect();
        let limit = request.optional_rows("limit")?.unwrap_or(CUSTOMERS_DEFAULT).min(CUSTOMERS_MAX);
        let (first_user, first_customer) = match Cursor::requested(request)? {
            None => (String::new(), 0),
            Some(Cursor::Customers { user_id, from }) => (user_id, from),
            Some(_) => return Err(Errcode::INVALID_CURSOR),
        };
        if let Invisible::FailBatch(code) = self.options.unlisted_member
            && !user_ids.iter().all(|user_id| self.is_in_range(caller, user_id))
        {
            return Err(Errcode(code));
        }
        let mut rows = Vec::with_capacity(limit);
        let mut next = None;
        let members_left = user_ids.into_iter().filter(|user_id| *user_id >= first_user.as_str());
        'members: for (nth, user_id) in members_left.enumerate() {
            let from = if user_id == first_user { first_customer } else { 0 };
            if nth > 0 && self.options.page_fill == PageFill::PerMember {
                next = Some(Cursor::Customers { user_id: user_id.to_owned(), from });
                break;
            }
            let member = self.corps[caller].members.get(user_id).filter(|member| member.is_in_range());
            let Some(member) = member else { continue };
            for (index, customer, follower) in self.relations_of(user_id, member, from) {
                if !follower.is_confirmed {
                    continue;
                }
                if rows.len() == limit {
                    next = Some(Cursor::Customers { user_id: user_id.to_owned(), from: index });
                    break 'members;
                }
                rows.push(customer_row(user_id, customer, follower));
            }
        }
        Ok(json!({
            "external_contact_list": rows,
            "next_cursor": next.map_or_else(String::new, Cursor::into_text),
        }))
    }

    /// The relations of a member that lists contain, confirmed or not, in the order of the customers, from
    /// one customer on.
    fn relations_of<'a>(
        &'a self,
        user_id: &'a str,
        member: &'a Member,
        from: CustomerIdx,
    ) -> impl Iterator<Item = (CustomerIdx, &'a Customer, &'a Follower)> {
        let keeps_deleted = self.options.lists_deleted_by_customer;
        member.customers.range(from..).filter_map(move |&index| {
            let customer = &self.customers[index];
            let follower = customer.followers.get(user_id)?;
            let is_listed =
                !follower.is_deleted_by_member && (keeps_deleted || !follower.is_deleted_by_customer);
            is_listed.then_some((index, customer, follower))
        })
    }

    pub(super) fn contact_list(&mut self, caller: CorpIdx, request: &Request) -> Answer {
        let rows_max = self.options.contact_list_rows_max;
        let limit = request.optional_rows("limit")?.unwrap_or(rows_max).min(rows_max);
        let now = self.now();
        let (traversal, place) = match Cursor::requested(request)? {
            None => (ids::number(&mut self.noise, u64::MAX), ContactPlace::Stranger(0)),
            Some(Cursor::Contacts { issued_at_ms, traversal, place }) => {
                if now.as_millis().saturating_sub(issued_at_ms) >= CONTACTS_CURSOR_LIFE_MS {
                    return Err(Errcode::EXPIRED_CURSOR);
                }
                (traversal, place)
            }
            Some(_) => return Err(Errcode::INVALID_CURSOR),
        };
        let mut contacts = self.contacts_from(caller, &place);
        let rows: Vec<Value> =
            contacts.by_ref().take(limit).map(|contact| contact_row(&contact, traversal, now)).collect();
        let next = contacts.next().map(|contact| Cursor::Contacts {
            issued_at_ms: now.as_millis(),
            traversal,
            place: contact_place(&contact),
        });
        Ok(json!({
            "info_list": rows,
            "next_cursor": next.map_or_else(String::new, Cursor::into_text),
        }))
    }

    /// The rows of `contact_list` from a place on: people who are no customers, people whom members added,
    /// and people in groups.
    fn contacts_from<'a>(
        &'a self,
        caller: CorpIdx,
        place: &'a ContactPlace,
    ) -> impl Iterator<Item = Contact<'a>> {
        let (first_stranger, first_friend, (first_chat, first_id)) = match place {
            ContactPlace::Stranger(nth) => (*nth, Some(("", 0)), (0, "")),
            ContactPlace::Friend { user_id, customer } => {
                (usize::MAX, Some((user_id.as_str(), *customer)), (0, ""))
            }
            ContactPlace::InChat { nth, id } => (usize::MAX, None, (*nth, id.as_str())),
        };
        let corp = &self.corps[caller];
        let finder = corp.members.iter().find(|(_, member)| member.is_visible);
        let strangers = finder.into_iter().flat_map(move |(user_id, _)| {
            (first_stranger..self.options.contact_list_strangers)
                .map(move |nth| Contact::Stranger { nth, user_id: user_id.as_str() })
        });
        let friends = first_friend.into_iter().flat_map(move |(first_user, first_customer)| {
            corp.members
                .range::<str, _>((Bound::Included(first_user), Bound::Unbounded))
                .filter(|(_, member)| member.is_visible)
                .flat_map(move |(user_id, member)| {
                    let user_id = user_id.as_str();
                    let from = if user_id == first_user { first_customer } else { 0 };
                    self.relations_of(user_id, member, from).map(move |(index, customer, follower)| {
                        Contact::Friend { user_id, member, index, customer, follower }
                    })
                })
        });
        let in_chats = corp
            .chats
            .iter()
            .enumerate()
            .skip(first_chat)
            .map(move |(nth, chat)| (nth, &self.chats[*chat]))
            .filter(move |(_, chat)| !chat.is_dismissed && self.is_in_range(caller, &chat.owner))
            .flat_map(move |(nth, chat)| {
                let from = if nth == first_chat { first_id } else { "" };
                chat.list.members.range::<str, _>((Bound::Included(from), Bound::Unbounded)).filter_map(
                    move |(_, member)| match member.kind {
                        ChatMemberKind::Internal => None,
                        ChatMemberKind::Customer(index) => Some(Contact::InChat {
                            nth,
                            chat,
                            index,
                            customer: &self.customers[index],
                            joined_at: member.joined_at,
                        }),
                    },
                )
            });
        strangers.chain(friends).chain(in_chats)
    }
}

/// A row of `batch/get_by_user`: one member and one customer.
fn customer_row(user_id: &str, customer: &Customer, follower: &Follower) -> Value {
    let add_way = if follower.state.is_some() { ADDED_BY_QR_CODE } else { ADDED_BY_PHONE };
    let mut follow_info = json!({
        "userid": user_id,
        "remark": "",
        "description": "",
        "createtime": follower.since.as_secs(),
        "tag_id": [],
        "oper_userid": customer.external_userid,
        "add_way": add_way,
    });
    if let Some(state) = &follower.state {
        follow_info["state"] = json!(state);
    }
    json!({
        "external_contact": {
            "external_userid": customer.external_userid,
            "name": "顾客",
            "type": 1,
            "gender": 0,
        },
        "follow_info": follow_info,
    })
}

fn contact_place(contact: &Contact<'_>) -> ContactPlace {
    match contact {
        Contact::Stranger { nth, .. } => ContactPlace::Stranger(*nth),
        Contact::Friend { user_id, index, .. } => {
            ContactPlace::Friend { user_id: (*user_id).to_owned(), customer: *index }
        }
        Contact::InChat { nth, customer, .. } => {
            ContactPlace::InChat { nth: *nth, id: customer.external_userid.clone() }
        }
    }
}

/// A row of `contact_list`. Ids in `tmp_openid` are those of this traversal only.
fn contact_row(contact: &Contact<'_>, traversal: u64, now: Timestamp) -> Value {
    let tmp_openid = |kind: char, number: usize| format!("tmp{traversal:016x}{kind}{number:x}");
    match contact {
        Contact::Stranger { nth, user_id } => {
            let mut row = json!({
                "is_customer": false,
                "name": MASKED_NAME,
                "tmp_openid": tmp_openid('s', *nth),
                "follow_userid": user_id,
                "add_time": now.as_secs(),
            });
            if nth % 2 == 1 {
                row["chat_name"] = json!("外联群1");
            }
            row
        }
        Contact::Friend { user_id, member, index, customer, follower } => {
            let is_customer = member.has_customer_contact && follower.is_confirmed;
            let mut row = json!({
                "is_customer": is_customer,
                "tmp_openid": tmp_openid('c', *index),
                "follow_userid": user_id,
                "add_time": follower.first_since.as_secs(),
            });
            if is_customer {
                row["external_userid"] = json!(customer.external_userid);
            } else {
                row["name"] = json!(MASKED_NAME);
            }
            row
        }
        Contact::InChat { chat, index, customer, joined_at, .. } => {
            let mut row = json!({
                "is_customer": true,
                "tmp_openid": tmp_openid('c', *index),
                "external_userid": customer.external_userid,
                "chat_id": chat.id,
                "add_time": joined_at.as_secs(),
            });
            // By the field's description a group's row has its owner here; the sample leaves the field out.
            if index % 2 == 1 {
                row["follow_userid"] = json!(chat.owner);
            }
            row
        }
    }
}
