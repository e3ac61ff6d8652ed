//! The verdicts about a customer that is not linked: why there is no pending id, or no fan with the same one.

use super::facts::{Facts, HeldEvent, Place};
use super::verdict::{Verdict, cause, verdict, when};
use crate::domain::dealer::DealerState;
use crate::domain::ids::{AppName, ContactKey};
use crate::domain::link::Source;
use crate::domain::lookup::Lookup;
use crate::domain::text::{Text, text};
use crate::domain::time::Timestamp;

/// An event waits, or a customer is to be looked up, at a dealer where no customer can be looked up.
pub(super) fn dealer_unable(facts: &Facts) -> Option<Verdict> {
    let of_event = |event: &HeldEvent| match event.place {
        Place::Inbox(..) => event.corp.clone(),
        Place::Dead(_) | Place::Quarantined(_) => None,
    };
    let waiting = facts
        .contacts
        .iter()
        .filter(|(_, contact, _)| !contact.is_identified() && contact.lookup.is_some_and(Lookup::is_waiting));
    let of_customers = waiting.map(|(key, ..)| (key.app.clone(), key.corp_id.clone()));
    let mut corps = facts.events.iter().filter_map(of_event).chain(of_customers);
    corps.find_map(|(app, corp_id)| {
        let dealer = facts.dealer(&app, &corp_id)?;
        let Text { en: corp_en, zh: corp_zh } = facts.corp(&app, &corp_id);
        match dealer.state() {
            DealerState::Shared => None,
            DealerState::Left => {
                let (en, zh) = when(dealer.left_at, " since ", " 自 ");
                Some(verdict!(
                    DealerLeft,
                    "the app has not been shared with {corp_en}{en}, so its customers are not looked up",
                    "{corp_zh}{zh} 起未共享此应用，因此不查询其客户",
                    "share the app with this dealer again in WeCom's admin console; the lookups then go on \
                     by themselves",
                    "请在管理后台的“上下游”中重新将应用共享给该经销商；之后会自动继续查询",
                ))
            }
            DealerState::Unverified => Some(verdict!(
                DealerUnverified,
                "WeCom has not verified {corp_en}, so its customers cannot be looked up",
                "{corp_zh} 尚未通过企业微信的验证，因此无法查询其客户",
                "have the dealer get its corp verified in its own admin console; the lookups then go on by \
                 themselves",
                "请经销商在其管理后台完成企业验证；之后会自动继续查询",
            )),
        }
    })
}

/// An event waits, or a customer is to be looked up, at a dealer whose circuit breaker is open.
pub(super) fn dealer_parked(facts: &Facts) -> Option<Verdict> {
    let of_event = facts.events.iter().find_map(|HeldEvent { corp, place, .. }| match place {
        Place::Inbox(_, trouble) => {
            let (app, corp_id) = corp.as_ref()?;
            Some((app, corp_id, trouble.as_ref()?, Source::Callback))
        }
        Place::Dead(_) | Place::Quarantined(_) => None,
    });
    let of_customer =
        facts.contacts.iter().find_map(|(ContactKey { app, corp_id, .. }, contact, trouble)| {
            let has_due_lookup = contact.lookup.is_some_and(|lookup| lookup.due_at.is_some());
            Some((app, corp_id, trouble.as_ref().filter(|_| has_due_lookup)?, contact.source))
        });
    let (app, corp_id, trouble, source) = of_event.or(of_customer)?;
    let Text { en: known_en, zh: known_zh } = known_through(source, &facts.corp(app, corp_id));
    let (en, zh) = cause(trouble);
    Some(verdict!(
        DealerParked,
        "{known_en}, but the dealer's customers cannot be looked up now{en}",
        "{known_zh}，但目前无法查询该经销商的客户{zh}",
        Some(trouble.remedy.clone()),
    ))
}

pub(super) fn unlinked_customer(facts: &Facts) -> Option<Verdict> {
    let (ContactKey { app, corp_id, .. }, contact, _) = facts.contacts.first()?;
    if contact.pending_id.is_some() {
        return Some(verdict!(
            PendingIdUnknown,
            "WeCom returned a pending_id for this customer, but no registered fan has it",
            "企业微信返回了此客户的 pending_id，但它不属于任何已登记的粉丝",
            "register the fan, or import it with the pending_id that another system obtained; the link \
             follows by itself",
            "请登记该粉丝；若其 pending_id 由其他系统获取，请连同 pending_id 一起导入。随后会自动关联",
        ));
    }
    let Text { en: known_en, zh: known_zh } = known_through(contact.source, &facts.corp(app, corp_id));
    Some(match contact.lookup {
        Some(Lookup { refused: Some(errcode), due_at, .. }) => verdict!(
            NotVisible,
            "{known_en}, but the app cannot see them (code {errcode})",
            "{known_zh}，但应用无法查看此客户（错误码 {errcode}）",
            Some(until_visible(facts, app, errcode, due_at)),
        ),
        Some(Lookup { asked: 0, due_at: Some(due_at), .. }) => {
            let at = due_at.in_china();
            verdict!(
                LookupWaiting,
                "{known_en}; the lookup is queued, due at {at}",
                "{known_zh}；查询正在排队，应于 {at} 进行",
                None,
            )
        }
        Some(Lookup { due_at, .. }) => verdict!(
            NoPendingId,
            "{known_en}, but WeCom returned no pending_id for them",
            "{known_zh}，但企业微信没有返回其 pending_id",
            Some(ways_to_link(due_at, !facts.without_existing.contains(app))),
        ),
        None => verdict!(
            NoPendingId,
            "{known_en}, but they parted before WeCom was asked for a pending_id",
            "{known_zh}，但在查询 pending_id 之前客户关系已解除",
            "they are looked up once a member adds them again, or they join a customer group",
            "成员再次添加此客户，或其加入客户群后，会自动查询",
        ),
    })
}

/// How a customer became known, as the beginning of a sentence.
fn known_through(source: Source, Text { en: corp_en, zh: corp_zh }: &Text) -> Text {
    match source {
        Source::Callback | Source::Existing | Source::Import => {
            text!("{corp_en} added this customer", "{corp_zh} 已添加此客户")
        }
        Source::Chat => {
            text!("this customer joined a customer group of {corp_en}", "此客户加入了{corp_zh} 的客户群")
        }
        Source::Reconcile => text!("this person is a customer of {corp_en}", "此人是{corp_zh} 的客户"),
    }
}

/// What to do about a customer whom the app cannot see, and when WeCom is asked again.
fn until_visible(facts: &Facts, app: &AppName, errcode: i64, due_at: Option<Timestamp>) -> Text {
    let unknown = || text!("look up WeCom's code {errcode}", "请查阅企业微信错误码 {errcode}");
    let Text { en: do_en, zh: do_zh } =
        facts.remedies.get(&(app.clone(), errcode)).cloned().unwrap_or_else(unknown);
    match due_at.map(Timestamp::in_china) {
        Some(at) => text!(
            "{do_en}; WeCom is asked again at {at}, or at once after POST /v1/resume",
            "{do_zh}；将于 {at} 再次查询，执行 POST /v1/resume 可立即查询",
        ),
        None => text!(
            "{do_en}; WeCom is asked again when the dealer's visible range or sharing changes, or after POST \
             /v1/resume",
            "{do_zh}；该经销商的可见范围或应用共享变化后，或执行 POST /v1/resume 后，会再次查询",
        ),
    }
}

/// How a customer without a pending id can still be linked: a pending id leads only to customers added after
/// it was obtained, the lookup of existing customers only to those added before.
fn ways_to_link(due_at: Option<Timestamp>, looks_up_existing: bool) -> Text {
    let (again_en, again_zh) = match due_at.map(Timestamp::in_china) {
        Some(at) => (format!("WeCom is asked again at {at}"), format!("将于 {at} 再次查询并关联")),
        None => (
            "WeCom is asked again after POST /v1/resume".to_owned(),
            "请执行 POST /v1/resume 再次查询".to_owned(),
        ),
    };
    let (existing_en, existing_zh) = if looks_up_existing {
        (
            "is found when it is registered: WeCom is then asked once which dealers have this person \
             (existing_customers = true)",
            "登记时会查询一次此人已是哪些经销商的客户（existing_customers = true）",
        )
    } else {
        ("cannot be found: existing_customers = false", "则无法找到：existing_customers = false")
    };
    text!(
        "a fan registered before this person became a customer: {again_en}; a fan registered later \
         {existing_en}",
        "粉丝登记早于成为客户：{again_zh}；粉丝登记晚于成为客户：{existing_zh}",
    )
}
