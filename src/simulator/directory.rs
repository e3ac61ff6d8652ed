//! The dealer directory: `list_app_share_info` (document 95813) and the chain (document 95820).
//!
//! Every upstream corp has one chain of all its dealers, whether the app is shared with them or not. Its root
//! group is empty; the dealers are spread over two groups below it, so that a client has to walk the groups.
//!
//! Deliberately absent: dealers' tokens (`endpoints`), and corps that are invited and have not joined.

use serde_json::{Value, json};

use super::api::{Answer, Errcode, Request};
use super::model::{Corp, CorpIdx};
use super::world::World;

/// The `business_type` of 上下游; 0, the default, is 企业互联.
pub(super) const BUSINESS_TYPE_CHAIN: u64 = 1;
/// The documented page size limit of `list_app_share_info`.
const PAGE_CORPS_MAX: usize = 100;
/// The groups of a chain: id, name, parent.
const GROUPS: [(u64, &str, u64); 3] = [(ROOT, "供应链", 0), (2, "一级经销商", ROOT), (3, "二级经销商", ROOT)];
const ROOT: u64 = 1;

/// A corp in a chain.
struct Listed<'a> {
    corp: &'a Corp,
    /// From 0, in the order in which the dealers were added.
    nth: usize,
}

impl Listed<'_> {
    const fn group(&self) -> u64 {
        if self.nth.is_multiple_of(2) { 2 } else { 3 }
    }

    /// The brand's own number of a dealer.
    fn custom_id(&self) -> String {
        format!("D{:04}", self.nth + 1)
    }
}

impl World {
    pub(super) fn list_app_share_info(&mut self, caller: CorpIdx, request: &Request) -> Answer {
        let agent_id = request.optional_number("agentid")?.ok_or(Errcode::INVALID_PARAMETER)?;
        let business_type = request.optional_number("business_type")?.unwrap_or(0);
        let only_corp = request.optional_text("corpid")?;
        let limit = request.optional_rows("limit")?;
        let offset = requested_offset(request)?;
        if agent_id != self.corps[caller].agent_id {
            return Err(Errcode::INVALID_AGENT_ID);
        }
        if limit.is_some_and(|limit| limit > PAGE_CORPS_MAX) {
            return Err(Errcode::INVALID_PARAMETER);
        }
        if self.options.empty_dealer_lists > 0 {
            self.options.empty_dealer_lists -= 1;
            return Ok(json!({ "ending": 1, "corp_list": [], "next_cursor": "" }));
        }
        let listed: Vec<&Corp> = self
            .dealers(caller)
            .filter(|dealer| business_type == BUSINESS_TYPE_CHAIN && self.is_reached_by_brand(*dealer))
            .map(|dealer| &self.corps[dealer])
            .filter(|dealer| only_corp.is_none_or(|only| dealer.id == only))
            .collect();
        let (page, next_cursor) = page_of(&listed, offset, limit, |dealer| {
            json!({
                "corpid": dealer.id,
                "corp_name": dealer.name,
                "agentid": dealer.agent_id,
                "corp_status": 1,
            })
        });
        Ok(json!({
            "ending": u8::from(next_cursor.is_empty()),
            "corp_list": page,
            "next_cursor": next_cursor,
        }))
    }

    pub(super) fn get_chain_list(&self, caller: CorpIdx) -> Value {
        json!({ "chains": [{ "chain_id": self.chain_id(caller), "chain_name": "供应链" }] })
    }

    pub(super) fn get_chain_group(&self, caller: CorpIdx, request: &Request) -> Answer {
        self.check_chain(caller, request)?;
        let only_group = requested_group(request)?;
        let groups: Vec<Value> = GROUPS
            .iter()
            .filter(|(id, _, _)| only_group.is_none_or(|only| *id == only))
            .map(|(id, name, parent)| {
                json!({ "groupid": id, "group_name": name, "parentid": parent, "order": id })
            })
            .collect();
        Ok(json!({ "groups": groups }))
    }

    pub(super) fn get_chain_corpinfo_list(&self, caller: CorpIdx, request: &Request) -> Answer {
        self.check_chain(caller, request)?;
        let group = requested_group(request)?.unwrap_or(ROOT);
        let limit = request.optional_rows("limit")?;
        let offset = requested_offset(request)?;
        let listed: Vec<Listed<'_>> = self.chain(caller).filter(|listed| listed.group() == group).collect();
        let (page, next_cursor) = page_of(&listed, offset, limit, |listed| {
            json!({
                "groupid": group,
                "corpid": listed.corp.id,
                "corp_name": listed.corp.name,
                "custom_id": listed.custom_id(),
                "is_joined": 1,
            })
        });
        Ok(json!({ "has_more": !next_cursor.is_empty(), "next_cursor": next_cursor, "group_corps": page }))
    }

    pub(super) fn get_chain_corpinfo(&self, caller: CorpIdx, request: &Request) -> Answer {
        self.check_chain(caller, request)?;
        let corp_id = request.text("corpid")?;
        let listed = self.chain(caller).find(|listed| listed.corp.id == corp_id);
        let listed = listed.ok_or(Errcode::NOT_IN_CHAIN)?;
        Ok(json!({
            "corp_name": listed.corp.name,
            "qualification_status": listed.corp.qualification,
            "custom_id": listed.custom_id(),
            "groupid": listed.group(),
            "is_joined": true,
        }))
    }

    fn chain(&self, upstream: CorpIdx) -> impl Iterator<Item = Listed<'_>> {
        self.dealers(upstream).enumerate().map(move |(nth, dealer)| Listed { corp: &self.corps[dealer], nth })
    }

    /// The id of the chain of an upstream corp.
    fn chain_id(&self, upstream: CorpIdx) -> String {
        format!("Ch{}", self.corps[upstream].id_stem)
    }

    fn check_chain(&self, caller: CorpIdx, request: &Request) -> Result<(), Errcode> {
        if request.text("chain_id")? == self.chain_id(caller) { Ok(()) } else { Err(Errcode::UNKNOWN_CHAIN) }
    }
}

fn requested_group(request: &Request) -> Result<Option<u64>, Errcode> {
    let group = request.optional_number("groupid")?;
    match group {
        Some(group) if GROUPS.iter().all(|(id, _, _)| *id != group) => Err(Errcode::UNKNOWN_CHAIN_GROUP),
        _ => Ok(group),
    }
}

fn requested_offset(request: &Request) -> Result<usize, Errcode> {
    match request.optional_text("cursor")? {
        None => Ok(0),
        Some(cursor) => offset_of(cursor).ok_or(Errcode::INVALID_PARAMETER),
    }
}

/// The rows from `offset` on, all without a limit, and the cursor of the next page, empty at the end.
fn page_of<T>(
    listed: &[T],
    offset: usize,
    limit: Option<usize>,
    row: impl Fn(&T) -> Value,
) -> (Vec<Value>, String) {
    let page: Vec<Value> = listed.iter().skip(offset).take(limit.unwrap_or(usize::MAX)).map(row).collect();
    let next = offset.saturating_add(page.len());
    let next_cursor = if next >= listed.len() { String::new() } else { cursor_at(next) };
    (page, next_cursor)
}

// A cursor is opaque to the client; the prefix keeps a client from passing an offset instead.
fn cursor_at(offset: usize) -> String {
    format!("next_cursor_{offset:x}")
}

fn offset_of(cursor: &str) -> Option<usize> {
    usize::from_str_radix(cursor.strip_prefix("next_cursor_")?, 16).ok()
}
