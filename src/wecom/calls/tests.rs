//! What each call sends, and what it takes from an answer, over a wire with scripted answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::*;
use crate::clock::ManualClock;
use crate::domain::chat::MemberVersion;
use crate::domain::quota::{Budget, Grant};
use crate::domain::sighting::{Sighting, SightingPlace};
use crate::domain::time::{Moment, Timestamp};
use crate::telemetry::metrics::Metrics;
use crate::wecom::client::AppCredentials;
use crate::wecom::error::Transport;
use crate::wecom::limiter::{Ledgers, Limiter};
use crate::wecom::wire::{Reply, Wire};

/// WeCom with scripted answers. Access tokens are always granted: `UPSTREAM` and `DEALER`.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Value>>,
    sent: Mutex<Vec<(String, Option<Value>)>>,
}

#[async_trait]
impl Wire for Script {
    async fn exchange(&self, target: &str, body: Option<&Value>) -> Result<Reply, Transport> {
        let answer = match target.split('?').next().unwrap() {
            "/cgi-bin/gettoken" => json!({"errcode": 0, "access_token": "UPSTREAM", "expires_in": 7_200}),
            "/cgi-bin/corpgroup/corp/gettoken" => json!({"access_token": "DEALER", "expires_in": "7200"}),
            _ => {
                self.sent.lock().unwrap().push((target.to_owned(), body.cloned()));
                self.answers.lock().unwrap().pop_front().expect("an answer for every call")
            }
        };
        Ok(Reply { status: 200, body: serde_json::to_vec(&answer).unwrap() })
    }
}

struct Unlimited;

#[async_trait]
impl Ledgers for Unlimited {
    async fn reserve(
        &self,
        _accounts: &[(String, Budget)],
        _api: Api,
        _share: Share,
        want: u32,
        _now: Moment,
    ) -> Result<Grant, String> {
        Ok(Grant::Permits(want))
    }

    async fn rate_limited(
        &self,
        _account: &str,
        _budget: Budget,
        _api: Api,
        _now: Moment,
    ) -> Result<i64, String> {
        Ok(0)
    }
}

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A client over a script with these answers.
fn client(answers: impl IntoIterator<Item = Value>) -> (Client, Arc<Script>) {
    let script = Arc::new(Script { answers: Mutex::new(answers.into_iter().collect()), ..Script::default() });
    let clock = Arc::new(ManualClock::new(NOW));
    let credentials =
        AppCredentials { corp_id: corp("wwBRAND"), agent_id: 1_000_002, secret: "secret".to_owned().into() };
    let limiter = Limiter::new(Arc::new(Unlimited), clock.clone(), HashMap::new());
    let apps = HashMap::from([(app(), credentials)]);
    (Client::over(script.clone(), apps, limiter, clock, Arc::new(Metrics::default())), script)
}

impl Script {
    /// The calls so far: path with query, and body.
    fn sent(&self) -> Vec<(String, Option<Value>)> {
        self.sent.lock().unwrap().clone()
    }
}

fn post(target: &str, body: Value) -> (String, Option<Value>) {
    (format!("/cgi-bin/{target}"), Some(body))
}

fn app() -> AppName {
    AppName::new("brand").unwrap()
}

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn dealer() -> TokenOf {
    TokenOf::Dealer { corp_id: corp("wpDEALER"), agent_id: 7 }
}

fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

fn chat(id: &str) -> ChatId {
    ChatId::new(id).unwrap()
}

fn customer(id: &str) -> ExternalUserid {
    ExternalUserid::new(id).unwrap()
}

fn followed(id: &str, by: &str, state: Option<&str>, since: Option<i64>) -> Sighting {
    let place = SightingPlace::Follower { user_id: user(by), state: state.map(str::to_owned) };
    Sighting { external_userid: customer(id), place, since: since.map(Timestamp::from_secs) }
}

fn in_group(id: &str, chat_id: &str, since: Option<i64>) -> Sighting {
    let place = SightingPlace::Chat(chat(chat_id));
    Sighting { external_userid: customer(id), place, since: since.map(Timestamp::from_secs) }
}

#[tokio::test]
async fn dealers_are_complete_only_if_wecom_says_so_and_every_row_was_read() {
    let row = |id: &str| json!({"corpid": id, "corp_name": "上海一店", "agentid": "1111"});
    let first = json!({"errcode": 0, "ending": 0, "corp_list": [row("wpA")], "next_cursor": "NEXT"});
    let body = json!({"agentid": 1_000_002, "business_type": 1, "limit": 100});
    let mut second_body = body.clone();
    second_body["cursor"] = "NEXT".into();
    for (last, ids, is_complete) in [
        (json!({"ending": 1, "corp_list": [row("wpB")], "next_cursor": "MORE"}), &["wpA", "wpB"][..], true),
        (json!({"ending": "1", "corp_list": null}), &["wpA"], true),
        (json!({"corp_list": [row("wpB")], "next_cursor": ""}), &["wpA", "wpB"], false),
        (json!({"ending": 0, "corp_list": [], "next_cursor": "NEXT"}), &["wpA"], false),
        (json!({"ending": 1, "corp_list": [row("wpB"), {"corpid": ""}]}), &["wpA", "wpB"], false),
    ] {
        let (client, script) = client([first.clone(), last]);
        let list = client.dealers(&app(), None).await.unwrap();
        assert_eq!(list.dealers.iter().map(|dealer| dealer.corp_id.as_str()).collect::<Vec<_>>(), ids);
        assert_eq!(list.is_complete, is_complete);
        let found = &list.dealers[0];
        assert_eq!((found.agent_id, found.name.as_str(), found.listed_at), (1_111, "上海一店", NOW));
        let target = "corpgroup/corp/list_app_share_info?access_token=UPSTREAM";
        assert_eq!(script.sent(), [post(target, body.clone()), post(target, second_body.clone())]);
    }

    let (client, script) = client([json!({"errcode": 0, "ending": 1})]);
    let list = client.dealers(&app(), Some(&corp("wpA"))).await.unwrap();
    assert!(list.is_complete && list.dealers.is_empty());
    assert_eq!(script.sent()[0].1.as_ref().unwrap()["corpid"], "wpA");
}

#[tokio::test]
async fn chains_are_read_with_a_get() {
    let (client, script) = client([
        json!({"errcode": 0, "chains": [{"chain_id": "Ch1", "chain_name": "能源"}, {"chain_id": ""}, 7]}),
        json!({"errcode": 0}),
    ]);
    assert_eq!(client.chains(&app()).await.unwrap(), ["Ch1"]);
    assert!(client.chains(&app()).await.unwrap().is_empty());
    let target = "/cgi-bin/corpgroup/corp/get_chain_list?access_token=UPSTREAM".to_owned();
    assert_eq!(script.sent()[0], (target, None));
}

#[tokio::test]
async fn the_qualification_of_a_corp_is_one_of_three_or_not_known() {
    for (status, expected) in [
        (json!(1), Some(Qualification::Unverified)),
        (json!("2"), Some(Qualification::Verified)),
        (json!(3), Some(Qualification::Certified)),
        (json!(0), None),
        (json!(null), None),
    ] {
        let (client, script) = client([json!({"errcode": 0, "qualification_status": status})]);
        assert_eq!(client.qualification(&app(), "Ch1", &corp("wpA")).await.unwrap(), expected);
        let target = "corpgroup/corp/get_chain_corpinfo?access_token=UPSTREAM";
        assert_eq!(script.sent(), [post(target, json!({"chain_id": "Ch1", "corpid": "wpA"}))]);
    }
}

#[tokio::test]
async fn members_are_read_with_a_get_and_come_in_the_order_of_their_ids() {
    let (client, script) = client([json!({"errcode": 0, "follow_user": ["woB", "woA", "", 7, "woB"]})]);
    let members = client.members(&app(), &dealer()).await.unwrap();
    assert_eq!(members, [user("woA"), user("woB")]);
    let target = "/cgi-bin/externalcontact/get_follow_user_list?access_token=DEALER".to_owned();
    assert_eq!(script.sent(), [(target, None)]);
}

#[tokio::test]
async fn every_pair_of_member_and_customer_is_a_row() {
    let row = |id: &str, follow_info: Value| {
        let external_contact = json!({"external_userid": id, "type": 2});
        json!({"external_contact": external_contact, "follow_info": follow_info})
    };
    let (client, script) = client([
        json!({
            "errcode": 0,
            "external_contact_list": [
                row("wmA", json!({"userid": "woM1", "createtime": 1_525_881_637, "state": "外联二维码1"})),
                row("wmA", json!({"userid": "woM2", "createtime": "1525881638", "state": ""})),
                row("wmB", json!({"userid": "woM1", "state": "x".repeat(257)})),
                row("", json!({"userid": "woM1"})),
                {"external_contact": {"external_userid": "wmC"}},
            ],
            "next_cursor": "NEXT",
            "fail_info": {"unlicensed_userid_list": ["woM3"]},
        }),
        json!({"errcode": 0, "external_contact_list": null, "next_cursor": "", "fail_info": []}),
    ]);
    let members = [user("woM1"), user("woM2"), user("woM3")];
    let page = client.customers_of(&app(), &dealer(), &members, "").await.unwrap();
    let rows = vec![
        followed("wmA", "woM1", Some("外联二维码1"), Some(1_525_881_637)),
        followed("wmA", "woM2", None, Some(1_525_881_638)),
        followed("wmB", "woM1", None, None),
    ];
    let next_cursor = "NEXT".to_owned();
    assert_eq!(page, CustomerPage { rows, next_cursor, unlicensed: vec![user("woM3")] });
    let last = client.customers_of(&app(), &dealer(), &members, "NEXT").await.unwrap();
    assert_eq!(last, CustomerPage::default());

    let target = "externalcontact/batch/get_by_user?access_token=DEALER";
    let body = json!({"userid_list": ["woM1", "woM2", "woM3"], "limit": 100});
    let mut last_body = body.clone();
    last_body["cursor"] = "NEXT".into();
    assert_eq!(script.sent(), [post(target, body), post(target, last_body)]);
}

#[tokio::test]
async fn a_row_of_a_group_is_a_membership_and_never_a_follower() {
    let (client, script) = client([json!({
        "errcode": 0,
        "info_list": [
            {"is_customer": false, "name": "***开", "follow_userid": "woM1", "chat_name": "外联群1"},
            {"is_customer": true, "external_userid": "wmA", "follow_userid": "woM1", "add_time": 1_694_418},
            {"is_customer": 1, "external_userid": "wmA", "chat_id": "wrG", "add_time": "1694418700"},
            {"is_customer": true, "external_userid": "wmB", "follow_userid": "woM1", "chat_id": "wrG"},
            {"is_customer": true, "external_userid": "wmC", "follow_userid": "woM1", "chat_name": ""},
            {"is_customer": false, "external_userid": "wmD", "follow_userid": "woM1"},
            {"is_customer": true, "follow_userid": "woM1"},
            {"is_customer": true, "external_userid": "wmE"},
            "malformed",
        ],
        "next_cursor": "NEXT",
    })]);
    let page = client.contacts(&app(), &dealer(), "BEFORE").await.unwrap();
    let rows = vec![
        followed("wmA", "woM1", None, Some(1_694_418)),
        in_group("wmA", "wrG", Some(1_694_418_700)),
        in_group("wmB", "wrG", None),
    ];
    assert_eq!(page, CustomerPage { rows, next_cursor: "NEXT".to_owned(), unlicensed: vec![] });
    let target = "externalcontact/contact_list?access_token=DEALER";
    assert_eq!(script.sent(), [post(target, json!({"limit": 1_000, "cursor": "BEFORE"}))]);
}

#[tokio::test]
async fn lists_answer_84061_if_there_are_no_customers() {
    for refusal in [
        json!({"errcode": 84_061, "errmsg": "not external contact", "external_userid": []}),
        json!({"errcode": 84_061, "follow_user": [], "external_contact_list": [], "info_list": []}),
        json!({"errcode": 84_061}),
    ] {
        let (client, _) = client(vec![refusal; 4]);
        assert!(client.members(&app(), &dealer()).await.unwrap().is_empty());
        let page = client.customers_of(&app(), &dealer(), &[user("woM1")], "").await.unwrap();
        assert_eq!(page, CustomerPage::default());
        assert_eq!(client.contacts(&app(), &dealer(), "").await.unwrap(), CustomerPage::default());
        // Of a group it says something else.
        assert!(client.chat(&app(), &dealer(), &chat("wrG")).await.is_err());
    }
}

#[tokio::test]
async fn groups_are_listed_in_the_order_of_the_answer() {
    let (client, script) = client([
        json!({
            "errcode": 0,
            "group_chat_list": [{"chat_id": "wrB", "status": 0}, {"chat_id": ""}, {"chat_id": "wrA"}],
            "next_cursor": "NEXT",
        }),
        json!({"errcode": 0}),
    ]);
    let page = client.chats(&app(), &dealer(), "").await.unwrap();
    assert_eq!(page, (vec![chat("wrB"), chat("wrA")], "NEXT".to_owned()));
    assert_eq!(client.chats(&app(), &dealer(), "NEXT").await.unwrap(), (vec![], String::new()));
    let target = "externalcontact/groupchat/list?access_token=DEALER";
    let bodies = [
        json!({"status_filter": 0, "limit": 1_000}),
        json!({"status_filter": 0, "limit": 1_000, "cursor": "NEXT"}),
    ];
    assert_eq!(script.sent(), bodies.map(|body| post(target, body)));
}

#[tokio::test]
async fn of_a_group_the_customers_are_read_and_the_version() {
    for (version, expected) in [
        (json!("71217227bbd112ecfe3a49c482195cb4"), Some("71217227bbd112ecfe3a49c482195cb4")),
        (json!(""), None),
        (json!("v".repeat(129)), None),
        (json!(null), None),
    ] {
        let (client, script) = client([json!({"errcode": 0, "group_chat": {
            "chat_id": "wrG",
            "owner": "woM1",
            "member_list": [
                {"userid": "woM1", "type": 1, "join_time": 1_572_505_491},
                {"userid": "wmA", "type": 2, "join_time": 1_572_505_491, "join_scene": 1},
                {"userid": "wmB", "type": "2", "join_time": 0},
                {"userid": "", "type": 2},
                {"userid": "wmC"},
            ],
            "member_version": version,
        }})]);
        let members = client.chat(&app(), &dealer(), &chat("wrG")).await.unwrap();
        assert_eq!(
            members.customers,
            [in_group("wmA", "wrG", Some(1_572_505_491)), in_group("wmB", "wrG", None)]
        );
        assert_eq!(members.version, expected.map(|text| MemberVersion(text.to_owned())));
        let target = "externalcontact/groupchat/get?access_token=DEALER";
        assert_eq!(script.sent(), [post(target, json!({"chat_id": "wrG", "need_name": 0}))]);
    }
    // An answer without the group is not an empty group.
    let (client, _) = client([json!({"errcode": 0})]);
    assert!(client.chat(&app(), &dealer(), &chat("wrG")).await.is_err());
}

#[tokio::test]
async fn members_of_a_group_are_converted_with_its_id() {
    let (client, script) = client([json!({"errcode": 0, "result": [
        {"external_userid": "wmB", "pending_id": "pB"},
        {"external_userid": "wmA", "pending_id": ""},
        {"external_userid": "wmC"},
        null,
    ]})]);
    let ids = [customer("wmA"), customer("wmB")];
    let found = client.external_userid_to_pending_id(&app(), &dealer(), Some(&chat("wrG")), &ids).await;
    assert_eq!(found.unwrap(), [(customer("wmB"), PendingId::new("pB").unwrap())]);
    let target = "corpgroup/batch/external_userid_to_pending_id?access_token=DEALER";
    let body = json!({"external_userid": ["wmA", "wmB"], "chat_id": "wrG"});
    assert_eq!(script.sent(), [post(target, body)]);
}

#[tokio::test]
async fn fans_are_converted_with_the_brands_token() {
    let (client, script) = client([
        json!({"errcode": 0, "pending_id": "pA"}),
        json!({"errcode": 0, "external_userid_info": [
            {"corpid": "wpA", "external_userid": "wmA"}, {"corpid": "", "external_userid": "wmB"},
        ]}),
    ]);
    let (unionid, openid) = (Unionid::new("oUNION").unwrap(), Openid::new("oOPEN").unwrap());
    let pending_id = client.unionid_to_pending_id(&app(), &unionid, &openid, Share::Whole).await.unwrap();
    assert_eq!(pending_id.as_str(), "pA");
    let found = client.unionid_to_external_userid(&app(), &unionid, &openid, Share::Whole).await.unwrap();
    assert_eq!(found, [(corp("wpA"), customer("wmA"))]);
    let body = json!({"unionid": "oUNION", "openid": "oOPEN"});
    assert_eq!(
        script.sent(),
        [
            post("corpgroup/unionid_to_pending_id?access_token=UPSTREAM", body.clone()),
            post("corpgroup/unionid_to_external_userid?access_token=UPSTREAM", body),
        ]
    );
}

#[tokio::test]
async fn a_refusal_with_the_arrays_of_an_answer_is_a_refusal() {
    let refusal = json!({
        "errcode": 48_002, "errmsg": "api forbidden", "corp_list": [], "chains": [], "follow_user": [],
        "external_contact_list": [], "info_list": [], "group_chat_list": [], "group_chat": {}, "result": [],
    });
    let (client, _) = client(vec![refusal; 8]);
    let (app, dealer) = (app(), dealer());
    let errors = [
        client.dealers(&app, None).await.unwrap_err(),
        client.chains(&app).await.unwrap_err(),
        client.qualification(&app, "Ch1", &corp("wpA")).await.unwrap_err(),
        client.members(&app, &dealer).await.unwrap_err(),
        client.customers_of(&app, &dealer, &[], "").await.unwrap_err(),
        client.contacts(&app, &dealer, "").await.unwrap_err(),
        client.chats(&app, &dealer, "").await.unwrap_err(),
        client.chat(&app, &dealer, &chat("wrG")).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.errcode() == Some(48_002)), "{errors:?}");
}

#[tokio::test]
async fn a_page_that_is_followed_by_itself_or_has_an_endless_cursor_is_an_error() {
    let endless = "x".repeat(4_097);
    for next in ["SAME", endless.as_str()] {
        let (client, _) = client(vec![json!({"errcode": 0, "next_cursor": next}); 3]);
        let results = [
            client.customers_of(&app(), &dealer(), &[], "SAME").await.map(drop),
            client.contacts(&app(), &dealer(), "SAME").await.map(drop),
            client.chats(&app(), &dealer(), "SAME").await.map(drop),
        ];
        let is_body = |result: &Result<(), CallError>| {
            matches!(result, Err(CallError::Transport { cause: Transport::Body, .. }))
        };
        assert!(results.iter().all(is_body), "{results:?}");
    }
}
