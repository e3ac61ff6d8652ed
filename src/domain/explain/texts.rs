//! What the verdicts and the evidence say.

use super::{Code, EventIs, Evidence, Facts, FanIs, SinkFacts, Text, Trouble, Verdict};
use crate::domain::ids::CorpId;
use crate::domain::link::Source;
use crate::domain::time::{SECOND_MS, Timestamp};

fn text(en: impl Into<String>, zh: impl Into<String>) -> Text {
    Text { en: en.into(), zh: zh.into() }
}

fn verdict(code: Code, says: Text, hint: Option<Text>) -> Verdict {
    Verdict { code, text: says, hint }
}

fn with_code(trouble: &Trouble) -> (String, String) {
    match trouble.errcode {
        Some(errcode) => (format!(" (code {errcode})"), format!("（错误码 {errcode}）")),
        None => (String::new(), String::new()),
    }
}

fn remedy(trouble: &Trouble) -> Text {
    text(trouble.en.clone(), trouble.zh.clone())
}

pub(super) fn never_registered() -> Verdict {
    verdict(
        Code::NeverRegistered,
        text(
            "this id was never registered as a fan, and no dealer's customer of this id was heard of",
            "该 ID 从未登记为粉丝，也从未收到过以它为客户的回调",
        ),
        Some(text(
            "a unionid: register the fan with POST /v1/fans; an external_userid: look whether callbacks arrive (callbacks in /v1/status) and whether the dealer shares the app",
            "若为 unionid：请通过 POST /v1/fans 登记粉丝；若为 external_userid：请在 /v1/status 查看是否收到回调，并确认下游企业已共享应用",
        )),
    )
}

pub(super) fn waiting_for_quota(until: Option<Timestamp>) -> Verdict {
    let says = match until {
        Some(until) => text(
            format!("the fan is registered and waits for its pending_id; its turn comes by about {until}"),
            format!("粉丝已登记，正在等待获取 pending_id，预计不晚于 {until}"),
        ),
        None => {
            text("the fan is registered and waits for its pending_id", "粉丝已登记，正在等待获取 pending_id")
        }
    };
    let hint = text(
        "nothing to do; quotas in /v1/status shows what is used. Customers added before the pending_id is there are found through unionid_to_external_userid",
        "无需处理；/v1/status 的 quotas 显示额度使用情况。在此之前被添加的客户会通过 unionid_to_external_userid 补查",
    );
    verdict(Code::WaitingForQuota, says, Some(hint))
}

pub(super) fn minting_parked(trouble: &Trouble) -> Verdict {
    let (en, zh) = with_code(trouble);
    let says = text(
        format!("the fan is registered, but no pending_ids are obtained for its app now{en}"),
        format!("粉丝已登记，但该应用目前暂停获取 pending_id{zh}"),
    );
    verdict(Code::MintingParked, says, Some(remedy(trouble)))
}

pub(super) fn rejected(trouble: &Trouble) -> Verdict {
    let (en, zh) = with_code(trouble);
    let says = text(
        format!("WeCom refuses this unionid and openid{en}"),
        format!("企业微信拒绝了这一对 unionid 与 openid{zh}"),
    );
    verdict(Code::RejectedByWecom, says, Some(remedy(trouble)))
}

pub(super) fn not_added(ends: Option<Timestamp>) -> Verdict {
    let says = match ends {
        Some(ends) => text(
            format!("the fan has a pending_id, good until {ends}, and no dealer has added this person since"),
            format!("粉丝已有 pending_id（有效期至 {ends}），此后尚无下游企业添加此人"),
        ),
        None => text("no dealer has added this person", "尚无下游企业添加此人"),
    };
    let hint = text(
        "if a dealer did add this person, ask for the external_userid there: whether its callback arrived is what decides",
        "如果确有下游已添加此人，请用该企业的 external_userid 查询：关键在于回调是否到达",
    );
    verdict(Code::NotAdded, says, Some(hint))
}

pub(super) fn no_pending_id(next: Option<Timestamp>) -> Verdict {
    let says = text(
        "a dealer added this customer, but WeCom knew no pending_id for them at that time",
        "下游企业已添加此客户，但当时企业微信没有对应的 pending_id",
    );
    let hint = match next {
        Some(next) => text(
            format!("WeCom is asked again at {next}; register the fan if the brand knows the unionid"),
            format!("将于 {next} 再次查询；若品牌掌握其 unionid，请登记该粉丝"),
        ),
        None => text(
            "register the fan (POST /v1/fans): with existing_customers = true WeCom is asked which dealers have this person",
            "请登记该粉丝（POST /v1/fans）：existing_customers = true 时会查询其已是哪些下游企业的客户",
        ),
    };
    verdict(Code::NoPendingId, says, Some(hint))
}

pub(super) fn pending_id_unknown() -> Verdict {
    verdict(
        Code::PendingIdUnknown,
        text(
            "WeCom gave a pending_id for this customer, and it belongs to nobody who is registered here",
            "企业微信返回了此客户的 pending_id，但它不属于这里登记的任何粉丝",
        ),
        Some(text(
            "import the fan with the pending_id that another system obtained, or register the fan: the link is made by itself",
            "请连同其他系统获取的 pending_id 一起导入该粉丝，或登记该粉丝；关联会自动完成",
        )),
    )
}

pub(super) fn expired(ended: Option<Timestamp>) -> Verdict {
    let says = match ended {
        Some(ended) => text(
            format!("the fan's pending_id ended at {ended} before any dealer added this person"),
            format!("粉丝的 pending_id 已于 {ended} 到期，此前没有下游企业添加此人"),
        ),
        None => text("the fan's pending_id is over", "粉丝的 pending_id 已到期"),
    };
    let hint = text(
        "register the fan again, or set renew = \"all\" so that pending_ids are obtained again in time",
        "请重新登记该粉丝，或设置 renew = \"all\" 以便按时续期",
    );
    verdict(Code::Expired, says, Some(hint))
}

pub(super) fn dealer_parked(trouble: &Trouble) -> Verdict {
    let (en, zh) = with_code(trouble);
    let (again_en, again_zh) = match trouble.until {
        Some(until) => (format!("; it is tried again at {until}"), format!("；将于 {until} 重试")),
        None => (String::new(), String::new()),
    };
    let says = text(
        format!(
            "a dealer added this customer, but that dealer's customers cannot be asked about now{en}{again_en}"
        ),
        format!("下游企业已添加此客户，但目前无法查询该企业的客户{zh}{again_zh}"),
    );
    verdict(Code::DealerParked, says, Some(remedy(trouble)))
}

pub(super) fn event_quarantined(id: &str, trouble: &Trouble) -> Verdict {
    let says = text(
        format!("a message about this customer is in quarantine: {id}"),
        format!("关于此客户的消息被隔离：{id}"),
    );
    verdict(Code::EventQuarantined, says, Some(remedy(trouble)))
}

pub(super) fn event_dead(id: &str, trouble: &Trouble) -> Verdict {
    let (en, zh) = with_code(trouble);
    let says = text(
        format!("the event about this customer was given up{en}: {id}"),
        format!("关于此客户的事件已放弃处理{zh}：{id}"),
    );
    let hint = text(
        format!("{}; then: unionlink events redrive {id}", trouble.en),
        format!("{}；然后执行：unionlink events redrive {id}", trouble.zh),
    );
    verdict(Code::EventDead, says, Some(hint))
}

pub(super) fn event_waiting(id: &str, due_at: Timestamp) -> Verdict {
    let says = text(
        format!("an event about this customer is in the inbox ({id}) and is worked on from {due_at}"),
        format!("关于此客户的事件在收件箱中（{id}），将于 {due_at} 起处理"),
    );
    verdict(Code::EventWaiting, says, None)
}

pub(super) fn linked(corp_id: &CorpId, since: Timestamp, source: Source, dealers: usize) -> Verdict {
    let (en, zh) = through(source);
    let others = dealers.saturating_sub(1);
    let (others_en, others_zh) = match others {
        0 => (String::new(), String::new()),
        n => (format!(", and at {n} more"), format!("，另有 {n} 处")),
    };
    let says = text(
        format!("linked since {since}, {en}, at {corp_id}{others_en}"),
        format!("自 {since} 起已关联（{zh}），企业 {corp_id}{others_zh}"),
    );
    verdict(Code::Linked, says, None)
}

pub(super) fn sink_behind(sink: &SinkFacts, since: Timestamp, now: Timestamp) -> Verdict {
    let SinkFacts { name, entries, oldest_at, reason } = sink;
    let seconds = oldest_at.map_or(0, |at| now.millis_since(at).max(0) / SECOND_MS);
    let says = text(
        format!("linked since {since}, but the sink {name} is {entries} entries and {seconds} s behind"),
        format!("自 {since} 起已关联，但推送目标 {name} 落后 {entries} 条、{seconds} 秒"),
    );
    let why = reason.as_deref().unwrap_or("see /v1/sinks");
    let hint = text(
        format!("see to its receiver ({why}); it catches up by itself, in order"),
        format!("请检查其接收端（{why}）；恢复后会按顺序自动补齐"),
    );
    verdict(Code::SinkBehind, says, Some(hint))
}

pub(super) fn forgotten(at: Timestamp) -> Verdict {
    verdict(
        Code::Forgotten,
        text(format!("this person was forgotten at {at}"), format!("此人已于 {at} 被遗忘（数据已删除）")),
        Some(text(
            "registered as a fan anew, this person is linked again; not before",
            "只有重新登记为粉丝后才会再次关联",
        )),
    )
}

const fn through(source: Source) -> (&'static str, &'static str) {
    match source {
        Source::Callback => ("through a callback", "通过回调"),
        Source::Chat => ("through a group chat", "通过客户群"),
        Source::Existing => ("as a customer since before", "原有客户"),
        Source::Import => ("through an import", "通过导入"),
        Source::Reconcile => ("through a comparison", "通过对账"),
    }
}

/// What a verdict rests on, earliest first; what has no time comes last.
pub(super) fn evidence(facts: &Facts) -> Vec<Evidence> {
    let mut all = Vec::new();
    let mut add = |at, code, en: String, zh: String| {
        all.push(Evidence { at, code, text: Text { en, zh } });
    };
    for fan in &facts.fans {
        let app = &fan.app;
        add(
            Some(fan.registered_at),
            "fan_registered",
            format!("registered as a fan ({app})"),
            format!("登记为粉丝（{app}）"),
        );
        if let Some((at, ends)) = fan.minted {
            add(
                Some(at),
                "fan_minted",
                format!("pending_id obtained, good until {ends}"),
                format!("获取 pending_id，有效期至 {ends}"),
            );
        }
        if let Some((at, found)) = fan.existing {
            add(
                Some(at),
                "existing_asked",
                format!("WeCom was asked who has this person already: {found} customers"),
                format!("已向企业微信查询此人现有的客户关系：{found} 个"),
            );
        }
        if let FanIs::Rejected { at, trouble } = &fan.state {
            let (en, zh) = with_code(trouble);
            add(Some(*at), "fan_rejected", format!("refused by WeCom{en}"), format!("被企业微信拒绝{zh}"));
        }
    }
    for contact in &facts.contacts {
        let corp = &contact.corp_id;
        add(
            Some(contact.first_seen_at),
            "contact_seen",
            format!("heard of as a customer of {corp}"),
            format!("得知为企业 {corp} 的客户"),
        );
        if contact.has_pending_id {
            add(
                None,
                "contact_resolved",
                format!("WeCom gave a pending_id for the customer of {corp}"),
                format!("企业微信返回了企业 {corp} 客户的 pending_id"),
            );
        }
        if let Some((asked, due_at)) = contact.asked {
            let (en, zh) = match due_at {
                Some(due_at) => (format!("the next at {due_at}"), format!("下次 {due_at}")),
                None => ("the last one".to_owned(), "不再查询".to_owned()),
            };
            add(
                None,
                "contact_asked",
                format!("asked {asked} times without a pending_id at {corp}, {en}"),
                format!("在企业 {corp} 查询 {asked} 次均无 pending_id，{zh}"),
            );
        }
        if let Some((at, source)) = contact.linked {
            let (en, zh) = through(source);
            add(Some(at), "linked", format!("linked at {corp}, {en}"), format!("在企业 {corp} 关联（{zh}）"));
        }
    }
    for event in &facts.events {
        let id = &event.id;
        let (code, en, zh) = match &event.place {
            EventIs::Waiting(_) => ("event_waiting", "in the inbox", "在收件箱中"),
            EventIs::Dead(_) => ("event_dead", "given up", "已放弃处理"),
            EventIs::Quarantined(_) => ("event_quarantined", "in quarantine", "被隔离"),
        };
        add(Some(event.received_at), code, format!("{id} received; {en}"), format!("收到 {id}；{zh}"));
    }
    if let Some(at) = facts.forgotten_at {
        add(Some(at), "forgotten", "forgotten".to_owned(), "被遗忘（数据已删除）".to_owned());
    }
    all.sort_by_key(|item| (item.at.is_none(), item.at));
    all
}
