//! Agency-developed apps: tickets, auth codes, permanent codes, tokens and what they allow.

use super::super::{Event, Fault, Permission, ResetEndsOld, Scanned, SharedFrom, TemplateSpec, TicketRule};
use super::*;

const MINUTE_MS: i64 = 60_000;

/// A platform with a template, next to the self-built app of [`Bench`].
pub(super) struct Agency {
    pub(super) bench: Bench,
    pub(super) template: TemplateSpec,
}

impl Agency {
    pub(super) async fn start(options: Options) -> Self {
        Self::at(options, "http://127.0.0.1:9/cb").await
    }

    pub(super) async fn at(options: Options, url: &str) -> Self {
        let bench = Bench::start(options).await;
        let template = bench.sim.invent_template(url);
        bench.sim.add_template(template.clone());
        Self { bench, template }
    }

    fn sim(&self) -> &Simulator {
        &self.bench.sim
    }

    pub(super) fn scan(&self) -> Scanned {
        self.sim().scan(&self.template.suite_id, "Brand")
    }

    fn new_ticket(&self) -> String {
        let event = self.sim().ticket(&self.template.suite_id);
        element(&event.inner, "SuiteTicket").unwrap().to_owned()
    }

    async fn suite_token_answer(&self, ticket: &str) -> Value {
        let TemplateSpec { suite_id, suite_secret, .. } = &self.template;
        let body = json!({ "suite_id": suite_id, "suite_secret": suite_secret, "suite_ticket": ticket });
        self.bench.post(Api::GetSuiteToken, "", body).await
    }

    async fn suite_token(&self) -> String {
        let answer = self.suite_token_answer(&self.new_ticket()).await;
        answer["suite_access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn suite_call(&self, api: Api, suite_token: &str, body: Value) -> Value {
        let base = self.sim().base_url();
        let url = format!("{base}{}?suite_access_token={suite_token}", api.path());
        self.bench.http.post(url).json(&body).send().await.unwrap().json().await.unwrap()
    }

    /// Exchanges the auth code of an event.
    async fn exchange(&self, event: &Event) -> Value {
        let auth_code = element(&event.inner, "AuthCode").unwrap();
        let body = json!({ "auth_code": auth_code });
        self.suite_call(Api::GetPermanentCode, &self.suite_token().await, body).await
    }

    async fn permanent_code(&self, event: &Event) -> String {
        let answer = self.exchange(event).await;
        answer["permanent_code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn auth_info(&self, corp_id: &str, permanent_code: &str) -> Value {
        let body = json!({ "auth_corpid": corp_id, "permanent_code": permanent_code });
        self.suite_call(Api::GetAuthInfo, &self.suite_token().await, body).await
    }

    async fn gettoken(&self, corp_id: &str, permanent_code: &str) -> Value {
        self.bench.get(Api::GetToken, &format!("corpid={corp_id}&corpsecret={permanent_code}")).await
    }

    async fn token(&self, corp_id: &str, permanent_code: &str) -> String {
        let answer = self.gettoken(corp_id, permanent_code).await;
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// A brand with its permanent code and access token.
    async fn brand(&self) -> (String, String, String) {
        let Scanned { corp_id, event } = self.scan();
        let code = self.permanent_code(&event).await;
        let token = self.token(&corp_id, &code).await;
        (corp_id, code, token)
    }
}

fn errcode(answer: &Value) -> i64 {
    answer["errcode"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn a_suite_token_needs_a_ticket_that_is_not_older_than_thirty_minutes() {
    let agency = Agency::start(Options::default()).await;
    assert_eq!(errcode(&agency.suite_token_answer("none").await), 40_085);
    let first = agency.new_ticket();
    let answer = agency.suite_token_answer(&first).await;
    // A success has no errcode.
    assert_eq!((answer.get("errcode"), answer.get("errmsg")), (None, None));
    assert_eq!(answer["expires_in"], 7_200);
    assert!(!agency.suite_token_answer(&first).await["suite_access_token"].is_null());
    agency.bench.clock.advance_ms(30 * MINUTE_MS - 1);
    let second = agency.new_ticket();
    assert_eq!(agency.suite_token_answer(&first).await.get("errcode"), None);
    agency.sim().configure(|options| options.agency.ticket_rule = TicketRule::Newest);
    assert_eq!(errcode(&agency.suite_token_answer(&first).await), 40_085);
    agency.sim().configure(|options| options.agency.ticket_rule = TicketRule::Unexpired);
    agency.bench.clock.advance_ms(1);
    assert_eq!(errcode(&agency.suite_token_answer(&first).await), 40_085);
    agency.sim().configure(|options| options.agency.suite_token_errcode = true);
    let answer = agency.suite_token_answer(&second).await;
    assert_eq!((errcode(&answer), &answer["errmsg"]), (0, &json!("ok")));
}

#[tokio::test]
async fn a_wrong_suite_or_secret_and_a_wrong_or_old_suite_token_have_their_codes() {
    let agency = Agency::start(Options::default()).await;
    let ticket = agency.new_ticket();
    let body = json!({ "suite_id": "dk0", "suite_secret": "x", "suite_ticket": ticket });
    assert_eq!(errcode(&agency.bench.post(Api::GetSuiteToken, "", body).await), 40_083);
    agency.sim().set_suite_secret(&agency.template.suite_id, "another");
    assert_eq!(errcode(&agency.suite_token_answer(&ticket).await), 40_080);
    agency.sim().set_suite_secret(&agency.template.suite_id, &agency.template.suite_secret);

    let body = json!({ "auth_code": "x" });
    let ask =
        async |token: &str| errcode(&agency.suite_call(Api::GetPermanentCode, token, body.clone()).await);
    assert_eq!(ask("").await, 40_082);
    assert_eq!(ask("x").await, 40_082);
    let token = agency.suite_token().await;
    assert_eq!(ask(&token).await, 40_078);
    agency.bench.clock.advance_ms(7_200_000);
    assert_eq!(ask(&token).await, 42_009);
    // It is no access token.
    assert_eq!(errcode(&agency.bench.post(Api::GetByUser, &token, json!({})).await), 40_014);
    let calls = agency.sim().calls();
    assert_eq!(calls.last().unwrap().suite_id, None);
    let exchange = calls.iter().rev().find(|call| call.api == Api::GetPermanentCode).unwrap();
    assert_eq!(exchange.suite_id.as_ref(), Some(&agency.template.suite_id));
}

#[tokio::test]
async fn an_auth_code_is_exchanged_once_and_within_ten_minutes() {
    let agency = Agency::start(Options::default()).await;
    let Scanned { corp_id, event } = agency.scan();
    assert_eq!(element(&event.inner, "AuthCorpId"), None);
    agency.bench.clock.advance_ms(10 * MINUTE_MS - 1);
    let answer = agency.exchange(&event).await;
    assert_eq!((errcode(&answer), &answer["auth_corp_info"]["corpid"]), (0, &json!(corp_id)));
    assert_eq!((answer.get("auth_info"), answer.get("access_token")), (None, None));
    assert!(corp_id.starts_with("wp") && corp_id.len() == 32);
    assert_eq!(errcode(&agency.exchange(&event).await), 40_078);

    let late = agency.scan();
    agency.bench.clock.advance_ms(10 * MINUTE_MS);
    assert_eq!(errcode(&agency.exchange(&late.event).await), 40_078);
    // Scanning again heals it.
    let again = agency.sim().authorize_again(&late.corp_id);
    let code = agency.permanent_code(&again).await;
    assert_eq!(errcode(&agency.auth_info(&late.corp_id, &code).await), 0);
    assert_eq!(errcode(&agency.auth_info(&corp_id, &code).await), 40_084);
}

#[tokio::test]
async fn an_exchange_whose_answer_is_lost_has_used_up_the_code() {
    let agency = Agency::start(Options::default()).await;
    let Scanned { event, .. } = agency.scan();
    let suite_token = agency.suite_token().await;
    agency.sim().inject(Api::GetPermanentCode, Fault::ApplyThenDrop, Some(1));
    let base = agency.sim().base_url();
    let url = format!("{base}{}?suite_access_token={suite_token}", Api::GetPermanentCode.path());
    let body = json!({ "auth_code": element(&event.inner, "AuthCode") });
    assert!(agency.bench.http.post(url).json(&body).send().await.is_err());
    assert_eq!(errcode(&agency.exchange(&event).await), 40_078);
}

#[tokio::test]
async fn the_permanent_code_is_the_secret_of_the_brands_app() {
    let agency = Agency::start(Options::default()).await;
    let Scanned { corp_id, event } = agency.scan();
    assert_eq!(errcode(&agency.gettoken(&corp_id, "unknown yet").await), 40_001);
    let code = agency.permanent_code(&event).await;
    let token = agency.token(&corp_id, &code).await;
    let info = agency.auth_info(&corp_id, &code).await;
    let agent = &info["auth_info"]["agent"][0];
    assert_eq!(agent["agentid"], agency.sim().agent_id(&corp_id));
    assert_eq!((&agent["is_customized_app"], agent.get("shared_from")), (&json!(true), None));
    assert_eq!(info["auth_corp_info"]["corp_name"], "Brand");

    let permissions = agency.bench.post(Api::GetPermissions, &token, json!({})).await;
    assert_eq!(permissions["app_permissions"], json!(["externalcontact:base:base"]));
    // No agency-developed app may call it.
    assert_eq!(errcode(&agency.bench.post(Api::ContactList, &token, json!({})).await), 48_002);
    let list =
        async || errcode(&agency.bench.get(Api::GetFollowUserList, &format!("access_token={token}")).await);
    assert_eq!(list().await, 0);
    agency.sim().set_permissions(&corp_id, &[]);
    assert_eq!(list().await, 48_002);
    // The self-built app next to it is as ever.
    let own = agency.bench.token().await;
    assert_eq!(errcode(&agency.bench.post(Api::ContactList, &own, json!({})).await), 0);
    assert_eq!(errcode(&agency.bench.post(Api::GetPermissions, &own, json!({})).await), 48_002);
}

#[tokio::test]
async fn a_dealer_of_the_brand_links_with_encrypted_ids() {
    let agency = Agency::start(Options::default()).await;
    let (corp_id, _, token) = agency.brand().await;
    let dealer = agency.sim().add_dealer(&corp_id, "Dealer");
    assert_eq!(dealer.corp_id[..10], corp_id[..10]);
    let person = agency.sim().add_person();
    let body = json!({ "unionid": person.unionid, "openid": person.openid });
    let minted = agency.bench.post(Api::UnionidToPendingId, &token, body).await;
    let friendship = agency.sim().befriend(&dealer.corp_id, &person, "zhangsan", None);
    let member = agency.sim().user_id(&dealer.corp_id, "zhangsan");
    assert_eq!((member.len(), &member[..10]), (32, format!("wo{}", &corp_id[2..10]).as_str()));
    assert_eq!(agency.sim().user_id(&dealer.corp_id, &member), member);
    assert_eq!(element(&friendship.event.inner, "UserID"), Some(member.as_str()));
    assert_eq!(friendship.external_userid[2..10], corp_id[2..10]);

    let body = json!({ "agentid": agency.sim().agent_id(&corp_id), "business_type": 1 });
    let listed = agency.bench.post(Api::ListAppShareInfo, &token, body.clone()).await;
    assert_eq!(listed["corp_list"][0]["corpid"], json!(dealer.corp_id));
    let swap = json!({ "corpid": dealer.corp_id, "agentid": dealer.agent_id, "business_type": 1 });
    let swapped = agency.bench.post(Api::CorpGetToken, &token, swap.clone()).await;
    let of_dealer = swapped["access_token"].as_str().unwrap();
    let follow = agency.bench.get(Api::GetFollowUserList, &format!("access_token={of_dealer}")).await;
    assert_eq!(follow["follow_user"], json!([member]));
    let ids = json!({ "external_userid": [friendship.external_userid] });
    let resolved = agency.bench.post(Api::ExternalUseridToPendingId, of_dealer, ids).await;
    assert_eq!(rows(&resolved)[0].1, minted["pending_id"].as_str().unwrap());

    agency.sim().configure(|options| {
        options.agency.list_app_share_info = Permission::Refused(48_002);
        options.agency.corp_gettoken = Permission::Refused(48_002);
    });
    assert_eq!(errcode(&agency.bench.post(Api::ListAppShareInfo, &token, body).await), 48_002);
    assert_eq!(errcode(&agency.bench.post(Api::CorpGetToken, &token, swap).await), 48_002);
    // The self-built app does not know these options.
    let own = agency.bench.dealer();
    agency.bench.dealer_token(&own).await;
}

#[tokio::test]
async fn a_dealer_that_has_to_install_has_no_app_before_and_a_code_of_its_own_after() {
    let mut options = Options::default();
    options.agency.dealers_install = true;
    let agency = Agency::start(options).await;
    let (corp_id, _, token) = agency.brand().await;
    let dealer = agency.sim().add_dealer(&corp_id, "Dealer");
    let swap = json!({ "corpid": dealer.corp_id, "agentid": dealer.agent_id, "business_type": 1 });
    let swapped = async || errcode(&agency.bench.post(Api::CorpGetToken, &token, swap.clone()).await);
    assert_eq!(swapped().await, 670_001);
    assert_eq!(errcode(&agency.gettoken(&dealer.corp_id, "x").await), 40_013);

    let code = agency.permanent_code(&agency.sim().install(&dealer.corp_id)).await;
    assert_eq!(swapped().await, 0);
    let of_dealer = agency.token(&dealer.corp_id, &code).await;
    // It may be that only this code leads to the dealer.
    let listed = async || {
        let body = json!({ "agentid": agency.sim().agent_id(&corp_id), "business_type": 1 });
        let answer = agency.bench.post(Api::ListAppShareInfo, &token, body).await;
        answer["corp_list"].as_array().unwrap().len()
    };
    assert_eq!(listed().await, 1);
    agency.sim().configure(|options| options.agency.installed_are_shared = false);
    assert_eq!((listed().await, swapped().await), (0, 670_001));
    assert_eq!(agency.token(&dealer.corp_id, &code).await, of_dealer);
    agency.sim().configure(|options| options.agency.installed_are_shared = true);
    let mint = agency.bench.post(Api::UnionidToPendingId, &of_dealer, json!({})).await;
    assert_eq!(errcode(&mint), 301_002);
    let shared_from = async || {
        let info = agency.auth_info(&dealer.corp_id, &code).await;
        let agent = &info["auth_info"]["agent"][0];
        assert_eq!(agent["agentid"], dealer.agent_id);
        assert_eq!(agent["shared_from"]["share_type"], 1);
        agent["shared_from"]["corpid"].as_str().unwrap().to_owned()
    };
    assert_eq!(shared_from().await, corp_id);
    agency.sim().configure(|options| options.agency.shared_from = SharedFrom::Plain);
    assert!(shared_from().await.starts_with("ww"));

    // The dealer keeps its app when the brand's is cancelled, and loses it when its own is.
    let list = async || {
        errcode(&agency.bench.get(Api::GetFollowUserList, &format!("access_token={of_dealer}")).await)
    };
    let _ = agency.sim().cancel(&corp_id);
    assert_eq!((list().await, swapped().await), (0, 48_004));
    let _ = agency.sim().authorize_again(&corp_id);
    let _ = agency.sim().cancel(&dealer.corp_id);
    assert_eq!(list().await, 48_004);
    assert_eq!(errcode(&agency.gettoken(&dealer.corp_id, &code).await), 48_004);
}

#[tokio::test]
async fn a_reset_replaces_the_code_at_once_or_with_the_exchange() {
    for ends_old in [ResetEndsOld::AtOnce, ResetEndsOld::AtExchange] {
        let mut options = Options::default();
        options.agency.reset_ends_old = ends_old;
        let agency = Agency::start(options).await;
        let (corp_id, old, token) = agency.brand().await;
        let reset = agency.sim().reset_code(&corp_id);
        assert_eq!(element(&reset.inner, "InfoType"), Some("reset_permanent_code"));
        let is_old_valid = ends_old == ResetEndsOld::AtExchange;
        assert_eq!(errcode(&agency.gettoken(&corp_id, &old).await) == 0, is_old_valid);
        let address =
            async || errcode(&agency.bench.get(Api::GetCallbackIp, &format!("access_token={token}")).await);
        assert_eq!(address().await == 0, is_old_valid);

        let new = agency.permanent_code(&reset).await;
        assert_ne!(new, old);
        assert_eq!(errcode(&agency.gettoken(&corp_id, &old).await), 40_001);
        assert_eq!(address().await, 40_014);
        assert_eq!(errcode(&agency.auth_info(&corp_id, &old).await), 40_084);
        agency.token(&corp_id, &new).await;
    }
}

#[tokio::test]
async fn cancelling_ends_codes_and_tokens_of_the_brand_and_of_its_dealers_until_it_authorizes_again() {
    let agency = Agency::start(Options::default()).await;
    let (corp_id, code, token) = agency.brand().await;
    let (other_corp_id, other_code, _) = agency.brand().await;
    let dealer = agency.sim().add_dealer(&corp_id, "Dealer");
    let swap = json!({ "corpid": dealer.corp_id, "agentid": dealer.agent_id, "business_type": 1 });
    let swapped = agency.bench.post(Api::CorpGetToken, &token, swap).await;
    let tokens = [token.as_str(), swapped["access_token"].as_str().unwrap()];
    let unused = agency.sim().authorize_again(&corp_id);

    let event = agency.sim().cancel(&corp_id);
    assert_eq!(element(&event.inner, "AuthCorpId"), Some(corp_id.as_str()));
    let ask = async |token: &str| {
        errcode(&agency.bench.get(Api::GetCallbackIp, &format!("access_token={token}")).await)
    };
    for token in tokens {
        assert_eq!(ask(token).await, 48_004);
    }
    assert_eq!(errcode(&agency.gettoken(&corp_id, &code).await), 48_004);
    assert_eq!(errcode(&agency.auth_info(&corp_id, &code).await), 48_003);
    assert_eq!(errcode(&agency.exchange(&unused).await), 40_078);

    let new = agency.permanent_code(&agency.sim().authorize_again(&corp_id)).await;
    assert_ne!(new, code);
    for token in tokens {
        assert_eq!(ask(token).await, 40_014);
    }
    agency.token(&corp_id, &new).await;
    agency.token(&other_corp_id, &other_code).await;
}

#[tokio::test]
async fn everything_that_was_issued_is_among_the_secrets() {
    let agency = Agency::start(Options::default()).await;
    let ticket = agency.new_ticket();
    let suite = agency.suite_token_answer(&ticket).await["suite_access_token"].clone();
    let Scanned { corp_id, event } = agency.scan();
    let old = agency.permanent_code(&event).await;
    let token = agency.token(&corp_id, &old).await;
    let new = agency.permanent_code(&agency.sim().reset_code(&corp_id)).await;
    let secrets = agency.sim().secrets();
    let auth_code = element(&event.inner, "AuthCode").unwrap();
    for secret in [&ticket, suite.as_str().unwrap(), auth_code, &old, &new, &token] {
        assert!(secrets.iter().any(|known| known == secret), "{secret}");
    }
}
