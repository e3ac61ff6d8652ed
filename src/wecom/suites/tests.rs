//! An agency-developed app and its suite: what is sent and what is read, and that no secret leaves the
//! client. Their tokens are in `tokens`. Both over a wire with scripted answers; `sockets` is over the
//! simulated platform's HTTP.

mod sockets;
mod tokens;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::clock::ManualClock;
use crate::domain::ids::SuiteId;
use crate::domain::quota::Budget;
use crate::domain::time::{HOUR_MS, Timestamp};
use crate::telemetry::metrics::Metrics;
use crate::wecom::credentials::{
    AppCredentials, Credentials, DealerCredentials, Development, SuiteCredentials, Unavailable,
};
use crate::wecom::errcode::Class;
use crate::wecom::limiter::Limiter;
use crate::wecom::platform::Platform;
use crate::wecom::scripted::{Request, Scripted, Unlimited, documented_limits};
use crate::wecom::wire::Wire;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// Credentials that a test changes.
struct Known {
    app: Mutex<Result<AppCredentials, Unavailable>>,
    dealer: Mutex<Option<DealerCredentials>>,
    suite: Mutex<Result<SuiteCredentials, Unavailable>>,
}

impl Known {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            app: Mutex::new(Ok(AppCredentials {
                corp_id: corp("wpBRAND"),
                agent_id: 1_000_007,
                secret: secret("CANARY-code-1"),
                generation: 1,
                development: Development::Agency,
            })),
            dealer: Mutex::default(),
            suite: Mutex::new(Ok(SuiteCredentials {
                provider_corp_id: corp("wwPROVIDER"),
                suite_id: SuiteId::new("dkSUITE").unwrap(),
                secret: secret("CANARY-suite-secret"),
                ticket: Ok(secret("CANARY-ticket-1")),
            })),
        })
    }

    fn change_app(&self, change: impl FnOnce(&mut AppCredentials)) {
        change(self.app.lock().unwrap().as_mut().unwrap());
    }

    fn change_suite(&self, change: impl FnOnce(&mut SuiteCredentials)) {
        change(self.suite.lock().unwrap().as_mut().unwrap());
    }
}

impl Credentials for Known {
    fn of_app(&self, app: &AppName) -> Result<AppCredentials, Unavailable> {
        assert_eq!(*app, brand());
        self.app.lock().unwrap().clone()
    }

    fn of_dealer(&self, _app: &AppName, _dealer: &CorpId) -> Option<DealerCredentials> {
        self.dealer.lock().unwrap().clone()
    }

    fn of_suite(&self, suite: &AppName, _now: Timestamp) -> Result<SuiteCredentials, Unavailable> {
        assert_eq!(*suite, agency());
        self.suite.lock().unwrap().clone()
    }
}

fn brand() -> AppName {
    AppName::new("brand").unwrap()
}

fn agency() -> AppName {
    AppName::new("agency").unwrap()
}

fn corp(id: &str) -> CorpId {
    CorpId::new(id).unwrap()
}

fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}

fn of_dealer() -> TokenOf {
    TokenOf::Dealer { corp_id: corp("wpDEALER"), agent_id: 7 }
}

fn client_over(wire: Arc<dyn Wire>, known: Arc<Known>) -> (Arc<Client>, Arc<ManualClock>, Arc<Unlimited>) {
    let (clock, ledgers) = (Arc::new(ManualClock::new(NOW)), Arc::<Unlimited>::default());
    let limiter = Limiter::new(ledgers.clone(), clock.clone(), documented_limits());
    let client = Client::over(wire, known, limiter, clock.clone(), Arc::new(Metrics::default()));
    (Arc::new(client), clock, ledgers)
}

/// WeCom: every token is the number of its fetch, and other calls have this answer.
fn wecom(answer: impl Fn(&Request) -> Value + Send + Sync + 'static) -> Arc<Scripted> {
    let fetched = AtomicU32::new(0);
    Scripted::new(move |request| {
        let token = || format!("CANARY-token-{}", fetched.fetch_add(1, Ordering::SeqCst) + 1);
        match request.path.as_str() {
            "service/get_suite_token" => json!({"suite_access_token": token(), "expires_in": 7_200}),
            "gettoken" => json!({"errcode": 0, "access_token": token(), "expires_in": 7_200}),
            _ => answer(request),
        }
    })
}

const SUITE_TOKEN: &str = "service/get_suite_token";
const PERMANENT_CODE: &str = "service/v2/get_permanent_code";

fn granted() -> Value {
    json!({
        "errcode": 0, "errmsg": "ok", "permanent_code": "CANARY-code-1",
        "auth_corp_info": {"corpid": "wpBRAND", "corp_name": "甲品牌"},
        "auth_user_info": {"userid": "", "name": null},
    })
}

#[tokio::test]
async fn an_auth_code_is_exchanged_with_a_suite_token_whose_answer_has_no_errcode() {
    let wecom = wecom(|_| granted());
    let (client, _, ledgers) = client_over(wecom.clone(), Known::new());
    let exchanged = client.permanent_code(&agency(), &secret("CANARY-auth-code")).await.unwrap();
    assert_eq!(exchanged.code.expose_secret(), "CANARY-code-1");
    assert_eq!((exchanged.corp_id, exchanged.corp_name.as_str()), (corp("wpBRAND"), "甲品牌"));
    let token_body = json!({
        "suite_id": "dkSUITE", "suite_secret": "CANARY-suite-secret", "suite_ticket": "CANARY-ticket-1",
    });
    let request = |path: &str, query: &str, body| Request {
        path: path.to_owned(),
        query: query.to_owned(),
        body: Some(body),
    };
    let with_token = "suite_access_token=CANARY%2Dtoken%2D1";
    assert_eq!(
        wecom.requests(),
        [
            request(SUITE_TOKEN, "", token_body),
            request(PERMANENT_CODE, with_token, json!({"auth_code": "CANARY-auth-code"})),
        ]
    );
    // Both calls count against the base limits of the provider's corp.
    let accounts = [("wwPROVIDER".to_owned(), Budget::Corp), ("address".to_owned(), Budget::Address)];
    let expected = [Api::GetSuiteToken, Api::GetPermanentCode].map(|api| (api, accounts.clone()));
    assert_eq!(*ledgers.charged.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_ticket_is_needed_for_a_new_suite_token_only() {
    let wecom = wecom(|_| granted());
    let known = Known::new();
    let (client, ..) = client_over(wecom.clone(), known.clone());
    assert!(!client.has_suite_token(&agency()));
    client.permanent_code(&agency(), &secret("CANARY-auth-code")).await.unwrap();
    assert!(client.has_suite_token(&agency()));
    known.change_suite(|suite| suite.ticket = Err(Unavailable::NoTicket { until: NOW }));
    client.permanent_code(&agency(), &secret("CANARY-auth-code-2")).await.unwrap();
    let tokens = wecom.requests().iter().filter(|request| request.path == SUITE_TOKEN).count();
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn an_answer_without_a_permanent_code_or_a_corp_is_an_error() {
    for field in ["permanent_code", "auth_corp_info"] {
        let wecom = wecom(move |_| {
            let mut answer = granted();
            answer[field] = json!("");
            answer
        });
        let (client, ..) = client_over(wecom, Known::new());
        let error = client.permanent_code(&agency(), &secret("CANARY-auth-code")).await.unwrap_err();
        assert_eq!((error.class(), error.errcode()), (Class::Unknown, None), "{field}");
    }
}

#[tokio::test]
async fn no_call_is_made_without_credentials() {
    let wecom = wecom(|_| json!({"errcode": 0, "follow_user": []}));
    let known = Known::new();
    let (client, ..) = client_over(wecom.clone(), known.clone());
    let until = NOW.plus_ms(HOUR_MS);
    known.change_suite(|suite| suite.ticket = Err(Unavailable::NoTicket { until }));
    let error = client.permanent_code(&agency(), &secret("CANARY-auth-code")).await.unwrap_err();
    let (api, why) = (Api::GetSuiteToken, Unavailable::NoTicket { until });
    assert_eq!(error, CallError::NotAuthorized { api, app: agency(), why });
    assert_eq!((error.class(), error.errcode()), (Class::Configuration, None));

    // Also while there is a token.
    client.members(&brand(), &TokenOf::Upstream).await.unwrap();
    let requests = wecom.requests().len();
    *known.app.lock().unwrap() = Err(Unavailable::Cancelled);
    for of in [TokenOf::Upstream, of_dealer()] {
        let error = client.members(&brand(), &of).await.unwrap_err();
        let (api, why) = (Api::GetFollowUserList, Unavailable::Cancelled);
        assert_eq!(error, CallError::NotAuthorized { api, app: brand(), why });
    }
    assert_eq!(wecom.requests().len(), requests);
}

#[tokio::test]
async fn what_the_description_of_an_app_leaves_out_is_not_known() {
    let nothing = AuthInfo { corp_name: None, agent_id: None, shared_from: None, is_verified: None };
    let agent = |agent: Value| json!({"auth_info": {"agent": [agent]}});
    let shared = |share_type| Some(SharedFrom { corp_id: corp("wpBRAND"), share_type });
    let shared_by_unknown = |share_type| {
        let shared_from = Some(SharedFrom { corp_id: corp("wpDEALER"), share_type });
        AuthInfo { shared_from, ..nothing.clone() }
    };
    for (answer, expected) in [
        (json!({}), nothing.clone()),
        (json!({"auth_corp_info": null, "auth_info": {"agent": []}}), nothing.clone()),
        (json!({"auth_corp_info": {"corp_type": "other"}, "auth_info": []}), nothing.clone()),
        (
            json!({
                "errcode": 0, "dealer_corp_info": {"corpid": "wwRESELLER", "corp_name": "代理商"},
                "auth_corp_info": {"corpid": "wpDEALER", "corp_name": "上海一店", "corp_type": "verified"},
                "auth_info": {"agent": [{
                    "agentid": 7, "name": "NAME", "is_customized_app": true,
                    "shared_from": {"corpid": "wpBRAND", "share_type": 1},
                }]},
            }),
            AuthInfo {
                corp_name: Some("上海一店".to_owned()),
                agent_id: Some(7),
                shared_from: shared(1),
                is_verified: Some(true),
            },
        ),
        (
            json!({"auth_corp_info": {"corp_type": "unverified"}}),
            AuthInfo { is_verified: Some(false), ..nothing.clone() },
        ),
        (agent(json!({"agentid": "8"})), AuthInfo { agent_id: Some(8), ..nothing.clone() }),
        (agent(json!({"shared_from": {}})), nothing.clone()),
        (agent(json!({"shared_from": {"corpid": ""}})), nothing.clone()),
        // From a corp that is not named, or not by an id: not the corp's own app, as a brand's is.
        (agent(json!({"shared_from": {"corpid": "", "share_type": 1}})), shared_by_unknown(1)),
        (agent(json!({"shared_from": {"share_type": 0}})), shared_by_unknown(0)),
        (agent(json!({"shared_from": {"corpid": "no id!", "share_type": "1"}})), shared_by_unknown(1)),
        (
            agent(json!({"shared_from": {"corpid": "wpBRAND", "share_type": "1"}})),
            AuthInfo { shared_from: shared(1), ..nothing.clone() },
        ),
        (
            agent(json!({"shared_from": {"corpid": "wpBRAND"}})),
            AuthInfo { shared_from: shared(0), ..nothing.clone() },
        ),
    ] {
        let described = answer.clone();
        let wecom = wecom(move |_| described.clone());
        let (client, ..) = client_over(wecom.clone(), Known::new());
        let code = secret("CANARY-code-1");
        assert_eq!(
            client.auth_info(&agency(), &corp("wpDEALER"), &code).await.unwrap(),
            expected,
            "{answer}"
        );
        let sent = wecom.requests().pop().unwrap();
        let body = json!({"auth_corpid": "wpDEALER", "permanent_code": "CANARY-code-1"});
        assert_eq!((sent.path.as_str(), sent.body), ("service/v2/get_auth_info", Some(body)));
    }
}

#[tokio::test]
async fn the_permissions_of_an_app_are_read_with_its_own_token() {
    let wecom = wecom(|_| json!({"errcode": 0, "app_permissions": ["externalcontact:base:base"]}));
    let (client, ..) = client_over(wecom.clone(), Known::new());
    assert_eq!(client.permissions(&brand()).await.unwrap(), ["externalcontact:base:base"]);
    let sent = wecom.requests().pop().unwrap();
    assert_eq!((sent.path.as_str(), sent.body), ("agent/get_permissions", Some(json!({}))));
    assert_eq!(sent.query, "access_token=CANARY%2Dtoken%2D1");
    assert_eq!(wecom.count(SUITE_TOKEN), 0);

    let (client, ..) = client_over(self::wecom(|_| json!({"errcode": 0})), Known::new());
    // Not an app without permissions.
    assert_eq!(client.permissions(&brand()).await.unwrap_err().class(), Class::Unknown);
}

#[tokio::test]
async fn refusals_of_an_agencys_app_have_the_providers_remedies() {
    let (client, ..) = client_over(wecom(|_| json!({"errcode": 60_020})), Known::new());
    let app = client.members(&brand(), &TokenOf::Upstream).await.unwrap_err().to_string();
    let suite = client.permanent_code(&agency(), &secret("x")).await.unwrap_err().to_string();
    for text in [app, suite] {
        assert!(text.contains("服务商管理后台") && !text.contains("企业可信IP"), "{text}");
    }
}

#[tokio::test]
async fn no_secret_is_in_an_error_or_a_debug_output() {
    let known = Known::new();
    *known.dealer.lock().unwrap() =
        Some(DealerCredentials { secret: secret("CANARY-dealer-1"), generation: 1 });
    let mut texts = vec![
        format!("{:?}", known.app.lock().unwrap()),
        format!("{:?}", known.dealer.lock().unwrap()),
        format!("{:?}", known.suite.lock().unwrap()),
    ];
    let (client, ..) = client_over(wecom(|_| granted()), known.clone());
    texts.push(format!("{:?}", client.permanent_code(&agency(), &secret("CANARY-auth-code")).await.unwrap()));
    for errcode in [-1, 40_001, 40_078, 40_080, 40_082, 40_085, 42_009, 45_009, 48_004, 60_020, 99_999] {
        // WeCom repeats what was sent.
        let echo = |request: &Request| format!("{request:?}");
        let everywhere = Scripted::new(move |request| json!({"errcode": errcode, "errmsg": echo(request)}));
        let calls = wecom(move |request| json!({"errcode": errcode, "errmsg": echo(request)}));
        for wire in [everywhere, calls] {
            let (client, ..) = client_over(wire, known.clone());
            let code = secret("CANARY-auth-code");
            for error in [
                client.permanent_code(&agency(), &code).await.unwrap_err(),
                client.auth_info(&agency(), &corp("wpBRAND"), &code).await.unwrap_err(),
                client.permissions(&brand()).await.unwrap_err(),
                client.members(&brand(), &of_dealer()).await.unwrap_err(),
            ] {
                texts.push(format!("{error} {error:?}"));
            }
        }
    }
    assert!(texts.iter().all(|text| !text.contains("CANARY")), "{texts:?}");
}
