//! The evidence of an explanation: the facts that a verdict rests on, in both languages.

use serde::Serialize;
use utoipa::ToSchema;

use super::facts::{Facts, NoAuthorization, Place};
use crate::domain::fan::{Existing, FanState, Mint};
use crate::domain::link::Source;
use crate::domain::lookup::Lookup;
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;

/// A fact that the verdict rests on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Evidence {
    /// When it happened, if that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// What it is, as a stable word for programs.
    pub code: &'static str,
    /// The same for people.
    pub text: Text,
}

/// How a link was found, as the end of a sentence: “linked …”.
pub(super) const fn through(source: Source) -> (&'static str, &'static str) {
    match source {
        Source::Callback => ("through a callback", "通过回调"),
        Source::Chat => ("through a customer group", "通过客户群"),
        Source::Existing => ("as an existing customer", "既有客户"),
        Source::Import => ("through an import", "通过导入"),
        Source::Reconcile => {
            ("through a comparison with WeCom's lists of customers", "通过与企业微信客户列表比对")
        }
    }
}

/// All evidence, earliest first; what happened at an unknown time comes last.
pub(super) fn evidence(facts: &Facts, now: Timestamp) -> Vec<Evidence> {
    let mut all = Vec::new();
    let mut add = |at: Option<Timestamp>, code, text| all.push(Evidence { at, code, text });
    for (key, fan, _) in &facts.fans {
        let app = &key.app;
        let registered = text!("registered as a fan ({app})", "登记为粉丝（{app}）");
        add(Some(fan.registered_at), "fan_registered", registered);
        if let Some(minted) = fan.newest() {
            let end = minted.expires_at().in_china();
            let obtained = text!("pending_id obtained, valid until {end}", "获取 pending_id，有效期至 {end}");
            add(Some(minted.minted_at), "fan_minted", obtained);
        }
        if let Existing::Asked { at, found } = fan.existing {
            let looked_up = text!("existing customers looked up: {found} found", "查询既有客户：{found} 个");
            add(Some(at), "existing_asked", looked_up);
        }
        // A rejected renewal is no reason while the pending id from before is valid.
        if let (FanState::Rejected, Mint::Rejected { errcode, at }) = (fan.state(now), fan.mint) {
            let rejected = text!("rejected by WeCom (code {errcode})", "被企业微信拒绝（错误码 {errcode}）");
            add(Some(at), "fan_rejected", rejected);
        }
    }
    for (key, contact, _) in &facts.contacts {
        let corp = facts.corp(&key.app, &key.corp_id);
        let Text { en: corp_en, zh: corp_zh } = &corp;
        let seen = text!("first seen as a customer of {corp_en}", "首次得知此人是{corp_zh} 的客户");
        add(Some(contact.first_seen_at), "contact_seen", seen);
        if contact.pending_id.is_some() {
            let resolved = text!(
                "WeCom returned a pending_id for the customer of {corp_en}",
                "企业微信返回了{corp_zh} 的客户的 pending_id",
            );
            add(None, "contact_resolved", resolved);
        }
        for chat_id in contact.chats() {
            let joined = text!(
                "joined the customer group {chat_id} of {corp_en}",
                "加入了{corp_zh} 的客户群 {chat_id}",
            );
            add(None, "group_joined", joined);
        }
        if let Some(lookup) = contact.lookup.filter(|lookup| lookup.asked > 0) {
            add(None, "contact_asked", lookups_made(lookup, &corp));
        }
        if let Some(link) = &contact.link {
            let (en, zh) = through(link.source);
            let linked = text!("linked at {corp_en}, {en}", "在{corp_zh} 关联（{zh}）");
            add(Some(link.linked_at), "linked", linked);
        }
    }
    for event in &facts.events {
        let id = &event.id;
        let (code, en, zh) = match event.place {
            Place::Inbox(..) => ("event_waiting", "in the inbox", "正在排队"),
            Place::Dead(_) => ("event_dead", "processing failed permanently", "处理失败，不再重试"),
            Place::Quarantined(_) => ("event_quarantined", "in quarantine", "被隔离"),
        };
        add(Some(event.received_at), code, text!("{id} received; {en}", "收到 {id}；{zh}"));
    }
    for (app, unauthorized) in &facts.unauthorized {
        if let NoAuthorization::Cancelled { at } = unauthorized.why {
            let cancelled =
                text!("authorisation of the app {app} cancelled", "品牌企业取消了应用 {app} 的授权");
            add(Some(at), "app_cancelled", cancelled);
        }
    }
    if let Some(at) = facts.forgotten_at {
        add(Some(at), "forgotten", text!("personal data erased", "已删除个人信息"));
    }
    all.sort_by_key(|item| (item.at.is_none(), item.at));
    all
}

/// The lookups of a customer that WeCom answered without a pending id.
fn lookups_made(lookup: Lookup, Text { en: corp_en, zh: corp_zh }: &Text) -> Text {
    let Lookup { asked, due_at, refused, .. } = lookup;
    let (next_en, next_zh) = match due_at.map(Timestamp::in_china) {
        Some(at) => (format!("next at {at}"), format!("下次 {at}")),
        None => ("none is due".to_owned(), "暂不再查询".to_owned()),
    };
    let (last_en, last_zh) = match refused {
        Some(code) => (format!(", the last refused with code {code}"), format!("，最近一次错误码 {code}")),
        None => (String::new(), String::new()),
    };
    text!(
        "lookups at {corp_en} without a pending_id: {asked}{last_en}; {next_en}",
        "在{corp_zh} 查询 {asked} 次，均无 pending_id{last_zh}；{next_zh}",
    )
}
