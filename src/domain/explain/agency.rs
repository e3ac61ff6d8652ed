//! The verdict about a fan or customer of an agency-developed app without a usable authorisation.

use std::collections::BTreeSet;

use super::facts::{Facts, NoAuthorization, Place, Unauthorized};
use super::verdict::{Verdict, verdict};
use crate::domain::dealer::named;
use crate::domain::ids::AppName;
use crate::domain::text::{Text, text};

/// Every app that has this person as a fan or customer is unable to call WeCom. While another app can, that
/// one decides.
pub(super) fn app_unauthorized(facts: &Facts) -> Option<Verdict> {
    let concerned = apps_of(facts);
    if concerned.iter().any(|app| !facts.unauthorized.contains_key(*app)) {
        return None;
    }
    let app = *concerned.first()?;
    let Unauthorized { why, remedy } = facts.unauthorized.get(app)?;
    let Text { en: known_en, zh: known_zh } = known(facts);
    Some(match why {
        NoAuthorization::Waiting => verdict!(
            AppNotAuthorized,
            "{known_en}, but the app {app} has no usable authorisation, and no call is made for it",
            "{known_zh}，但应用 {app} 没有可用的授权，暂不调用企业微信",
            Some(remedy.clone()),
        ),
        NoAuthorization::Ambiguous(brands) => {
            let brands: Vec<_> =
                brands.iter().map(|(corp_id, name)| named(Some(name), corp_id.as_str())).collect();
            let (en, zh) = (brands.join(", "), brands.join("、"));
            verdict!(
                AppNotAuthorized,
                "{known_en}, but several brands have authorised the suite of the app {app}, which serves \
                 none of them: {en}",
                "{known_zh}，但已有多个品牌企业授权应用 {app} 的模版，无法确定由其服务哪一个：{zh}",
                Some(remedy.clone()),
            )
        }
        NoAuthorization::Cancelled { at } => {
            let at = at.in_china();
            verdict!(
                AppCancelled,
                "{known_en}, but the brand cancelled the authorisation of the app {app} at {at}; nothing is \
                 lost, and everything goes on once it authorises again",
                "{known_zh}，但品牌企业已于 {at} 取消应用 {app} 的授权；数据保留，重新授权后自动继续",
                Some(remedy.clone()),
            )
        }
    })
}

/// The apps of the person's fans and customers, and of events that are in the inbox.
fn apps_of(facts: &Facts) -> BTreeSet<&AppName> {
    let of_fans = facts.fans.iter().map(|(key, ..)| &key.app);
    let of_customers = facts.contacts.iter().map(|(key, ..)| &key.app);
    let in_inbox = facts.events.iter().filter(|event| matches!(event.place, Place::Inbox(..)));
    let of_events = in_inbox.filter_map(|event| event.corp.as_ref()).map(|(app, _)| app);
    of_fans.chain(of_customers).chain(of_events).collect()
}

/// What the person is known as, as the beginning of a sentence.
fn known(facts: &Facts) -> Text {
    match (facts.fans.is_empty(), facts.contacts.is_empty()) {
        (false, _) => text!("the fan is registered", "粉丝已登记"),
        (true, false) => text!("the customer is known", "已知此客户"),
        (true, true) => text!("an event of this customer is in the inbox", "关于此客户的事件正在排队"),
    }
}
