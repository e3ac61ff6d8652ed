//! Why a person is, or is not, linked: one verdict with a hint, and the evidence, in English and Chinese.
//!
//! A pure function of [`Facts`]; each rule has the texts of its verdicts. The codes are stable. The texts are
//! for people and give instants in China time; the fields for programs give UTC.
//!
//! Deliberately absent: collecting the facts, which is the task of the admin API.

use serde::Serialize;
use utoipa::ToSchema;

use super::fan::{ASK_AGAIN, Existing, Fan, FanState, Minted};
use super::ids::ContactKey;
use super::text::{Text, text};
use super::time::{SECOND_MS, Timestamp};
use agency::app_unauthorized;
use customer::{dealer_parked, dealer_unable, unlinked_customer};
use evidence::{evidence, through};
use verdict::{Verdict, cause, verdict, when};

mod agency;
mod customer;
mod evidence;
mod facts;
mod verdict;

pub use evidence::Evidence;
pub use facts::{Facts, HeldEvent, NoAuthorization, Place, SinkLag, Trouble, Unauthorized};
pub use verdict::Code;

/// Why an id is, or is not, linked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Explanation {
    /// The id asked about.
    #[schema(example = "oINVENTED-unionid-0001")]
    pub id: String,
    /// The verdict, for programs.
    pub code: Code,
    /// The verdict, for people.
    pub text: Text,
    /// What to do, if anything.
    pub hint: Option<Text>,
    /// What the verdict rests on, earliest first.
    pub evidence: Vec<Evidence>,
}

/// Why `id` is, or is not, linked as of `now`. The first rule that applies decides.
#[must_use]
pub fn explain(id: String, facts: &Facts, now: Timestamp) -> Explanation {
    let (code, text, hint) = linked(facts, now)
        .or_else(|| forgotten(facts))
        .or_else(|| app_unauthorized(facts))
        .or_else(|| dealer_unable(facts))
        .or_else(|| dealer_parked(facts))
        .or_else(|| event(facts))
        .or_else(|| unlinked_customer(facts))
        .or_else(|| unlinked_fan(facts, now))
        .unwrap_or_else(never_registered);
    Explanation { id, code, text, hint, evidence: evidence(facts, now) }
}

fn linked(facts: &Facts, now: Timestamp) -> Option<Verdict> {
    let links = facts.contacts.iter().filter_map(|(key, contact, _)| Some((key, contact.link.as_ref()?)));
    let mut links: Vec<_> = links.collect();
    links.sort_by_key(|(_, link)| link.linked_at);
    let ((ContactKey { app, corp_id, .. }, first), (_, newest)) = (*links.first()?, *links.last()?);
    let since = first.linked_at.in_china();
    // A sink that lacks one of the links has a backlog from that link or earlier.
    let lacks_one = |sink: &&SinkLag| sink.entries > 0 && sink.oldest_at <= Some(newest.linked_at);
    if let Some(SinkLag { name, entries, oldest_at, is_stopped, reason }) = facts.sinks.iter().find(lacks_one)
    {
        let seconds = oldest_at.map_or(0, |at| now.millis_since(at).max(0) / SECOND_MS);
        let unit = if *entries == 1 { "entry" } else { "entries" };
        if *is_stopped {
            return Some(verdict!(
                SinkBehind,
                "linked since {since}, but the sink {name} is stopped, {entries} {unit} and {seconds} s behind",
                "自 {since} 起已关联，但推送目标 {name} 已停止，落后 {entries} 条、{seconds} 秒",
                "once its receiver works, resume it: POST /v1/sinks/{name}/resume",
                "接收端恢复后，请执行 POST /v1/sinks/{name}/resume",
            ));
        }
        let (en, zh) = reason.as_deref().map_or(("see /v1/sinks", "见 /v1/sinks"), |why| (why, why));
        return Some(verdict!(
            SinkBehind,
            "linked since {since}, but the sink {name} is {entries} {unit} and {seconds} s behind",
            "自 {since} 起已关联，但推送目标 {name} 落后 {entries} 条、{seconds} 秒",
            "check its receiver ({en}); the sink then catches up by itself, in order",
            "请检查其接收端（{zh}）；恢复后会按顺序自动补齐",
        ));
    }
    let (en, zh) = through(first.source);
    let Text { en: corp_en, zh: corp_zh } = facts.corp(app, corp_id);
    let (more_en, more_zh) = match links.len() - 1 {
        0 => (String::new(), String::new()),
        others => (format!(", and of {others} more"), format!("，另有 {others} 条关联")),
    };
    Some(verdict!(
        Linked,
        "linked since {since}, {en}, as a customer of {corp_en}{more_en}",
        "自 {since} 起已关联（{zh}），为{corp_zh} 的客户{more_zh}",
        None,
    ))
}

fn forgotten(facts: &Facts) -> Option<Verdict> {
    let at = facts.forgotten_at.filter(|at| facts.fans.iter().all(|(_, fan, _)| fan.registered_at < *at))?;
    let at = at.in_china();
    Some(verdict!(
        Forgotten,
        "this person's data was erased at {at}",
        "已于 {at} 删除此人的个人信息",
        "this person is linked again only after being registered as a fan again",
        "只有重新登记为粉丝，才会再次关联",
    ))
}

/// Of several events, the newest decides.
fn event(facts: &Facts) -> Option<Verdict> {
    let HeldEvent { id, place, .. } = facts.events.iter().max_by_key(|event| event.received_at)?;
    Some(match place {
        Place::Inbox(due_at, _) => {
            let at = due_at.in_china();
            verdict!(
                EventWaiting,
                "an event of this customer is in the inbox ({id}), to be processed at {at}",
                "关于此客户的事件正在排队（{id}），将于 {at} 处理",
                None,
            )
        }
        Place::Dead(trouble) => {
            let ((en, zh), Text { en: do_en, zh: do_zh }) = (cause(trouble), &trouble.remedy);
            verdict!(
                EventDead,
                "processing an event of this customer failed permanently{en}: {id}",
                "关于此客户的事件处理失败，不再重试{zh}：{id}",
                "{do_en}; then run: unionlink events redrive {id}",
                "{do_zh}；然后运行：unionlink events redrive {id}",
            )
        }
        Place::Quarantined(remedy) => verdict!(
            EventQuarantined,
            "a message about this customer is in quarantine: {id}",
            "关于此客户的消息被隔离：{id}",
            Some(remedy.clone()),
        ),
    })
}

/// Of the fans of a person in several apps, the one nearest to a link decides.
fn unlinked_fan(facts: &Facts, now: Timestamp) -> Option<Verdict> {
    let steps_left = |fan: &Fan| match fan.state(now) {
        FanState::Minted => 0,
        FanState::Queued => 1,
        FanState::Expired => 2,
        FanState::Rejected => 3,
    };
    let (_, fan, trouble) = facts.fans.iter().min_by_key(|(_, fan, _)| steps_left(fan))?;
    let (end, trouble) = (fan.newest().map(Minted::expires_at), trouble.as_ref());
    let (cause_en, cause_zh) = trouble.map(cause).unwrap_or_default();
    let remedy = trouble.map(|trouble| trouble.remedy.clone());
    Some(match fan.state(now) {
        FanState::Minted => {
            let (en, zh) = when(end, ", valid until ", "，有效期至 ");
            let (before_en, before_zh) = match fan.existing {
                Existing::Off => (
                    "; dealers that had added this person before the pending_id was obtained are not found: \
                     existing_customers = false",
                    "；获取 pending_id 之前已添加此人的经销商无法找到：existing_customers = false",
                ),
                Existing::Due(_) | Existing::Asked { .. } | Existing::Refused { .. } => ("", ""),
            };
            verdict!(
                NotAdded,
                "the fan has a pending_id{en}; no dealer is known to have added this person",
                "粉丝已有 pending_id{zh}；尚未收到经销商添加此人的记录",
                "if a dealer did add this person, run explain with the external_userid: it shows whether the \
                 callback arrived{before_en}",
                "如果确有经销商添加了此人，请改查其 external_userid，确认回调是否到达{before_zh}",
            )
        }
        FanState::Queued if trouble.is_some() => verdict!(
            MintingParked,
            "the fan is registered, but no pending_id can be obtained for its app now{cause_en}",
            "粉丝已登记，但该应用目前无法获取 pending_id{cause_zh}",
            remedy,
        ),
        FanState::Queued => {
            let (en, zh) = when(facts.turn_at, ", expected by about ", "，预计不晚于 ");
            verdict!(
                WaitingForQuota,
                "the fan is registered and queued for a pending_id{en}",
                "粉丝已登记，正在排队获取 pending_id{zh}",
                "nothing to do; quotas in /v1/status shows the usage. With existing_customers = true, \
                 dealers that add this person before then are found too",
                "无需处理；配额用量见 /v1/status 的 quotas。existing_customers = true 时，\
                 在此之前添加此人的经销商也会补查到",
            )
        }
        FanState::Expired => {
            let (en, zh) = when(end, " at ", "，到期时间 ");
            verdict!(
                Expired,
                "the fan's pending_id expired{en} before any dealer added this person",
                "粉丝的 pending_id 已到期，此前没有经销商添加此人{zh}",
                "register the fan again, or set renew = \"all\" so that pending_ids are renewed in time",
                "请重新登记该粉丝，或设置 renew = \"all\" 以便到期前自动续期",
            )
        }
        FanState::Rejected => {
            let (again_en, again_zh) = ASK_AGAIN;
            let hint = remedy.map(|Text { en, zh }| text!("{en}; {again_en}", "{zh}；{again_zh}"));
            verdict!(
                RejectedByWecom,
                "WeCom rejects this pair of unionid and openid{cause_en}",
                "企业微信拒绝这一对 unionid 和 openid{cause_zh}",
                hint,
            )
        }
    })
}

fn never_registered() -> Verdict {
    verdict!(
        NeverRegistered,
        "no fan and no customer of this id is known",
        "没有此 ID 的粉丝，也没有此 ID 的客户",
        "a unionid: register the fan with POST /v1/fans; an external_userid: check that callbacks arrive \
         (callbacks in /v1/status) and that the app is shared with the dealer",
        "若为 unionid：请通过 POST /v1/fans 登记粉丝；若为 external_userid：请确认回调已到达\
         （/v1/status 的 callbacks），并确认应用已共享给该经销商",
    )
}

#[cfg(test)]
mod tests;
