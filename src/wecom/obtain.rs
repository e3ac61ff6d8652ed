//! Obtaining access tokens: of an app (documents 91039 and 97164), of a dealer (95816), of a suite (97162).
//!
//! Deliberately absent: when a token is fetched and when it is replaced (see `tokens`).

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{number, parse};
use super::api::{Api, BUSINESS_TYPE_CHAIN};
use super::client::{Account, Client};
use super::credentials::{AppCredentials, DealerCredentials, Development, SuiteCredentials, Unavailable};
use super::errcode::{Class, INVALID_TICKET};
use super::error::CallError;
use super::platform::TokenOf;
use super::tokens::{Generation, Token, TokenKey};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::quota::Share;

/// The code for a wrong secret.
const INVALID_SECRET: i64 = 40_001;

impl Client {
    /// An access token, from the cache or fetched. `api` is the call that it is for.
    pub(super) async fn token(&self, key: &TokenKey, api: Api) -> Result<Token, CallError> {
        match key {
            TokenKey::App(app, TokenOf::Upstream) => {
                let AppCredentials { corp_id, secret, generation, development, .. } = self.app(app, api)?;
                let account = Account { corp_id: corp_id.clone(), development };
                let generation = Generation { app: generation, dealer: None };
                let fetch = || self.gettoken(app, &account, &corp_id, &secret);
                self.tokens.get(key, generation, &*self.clock, fetch).await
            }
            TokenKey::App(app, TokenOf::Dealer { corp_id, agent_id }) => {
                let AppCredentials { corp_id: brand, generation, development, .. } = self.app(app, api)?;
                let account = Account { corp_id: brand, development };
                let own = self.credentials.of_dealer(app, corp_id);
                let dealer = own.as_ref().map(|own| own.generation);
                let generation = Generation { app: generation, dealer };
                let fetch = || self.dealer_token(app, &account, corp_id, *agent_id, own.as_ref());
                self.tokens.get(key, generation, &*self.clock, fetch).await
            }
            TokenKey::Suite(suite) => {
                let credentials = self.suite(suite, api)?;
                let fetch = || self.suite_token(suite, &credentials);
                self.tokens.get(key, Generation::default(), &*self.clock, fetch).await
            }
        }
    }

    /// The token of an app at a corp, with the app's secret there.
    async fn gettoken(
        &self,
        app: &AppName,
        account: &Account,
        corp_id: &CorpId,
        secret: &SecretString,
    ) -> Result<Token, CallError> {
        let query = [("corpid", corp_id.as_str()), ("corpsecret", secret.expose_secret())];
        let (api, development) = (Api::GetToken, account.development);
        // The secret of a self-built app is in the configuration: only an operator can replace it.
        let is_agency = development == Development::Agency;
        if is_agency && self.tokens.is_refused_code(app, corp_id, secret, self.clock.moment()) {
            return Err(CallError::Refused { api, errcode: INVALID_SECRET, from_ip: None, development });
        }
        let answer = self.call(account, api, Share::Whole, &query, None).await;
        if is_agency && matches!(answer, Err(CallError::Refused { errcode: INVALID_SECRET, .. })) {
            self.tokens.refuse_code(app, corp_id, secret, self.clock.moment());
        }
        self.parse_token(api, answer?)
    }

    /// The token of a dealer, with the brand's or, where WeCom refuses that, with the dealer's `own`
    /// authorisation. If WeCom refuses both, the error is that of the first: it is about this dealer.
    async fn dealer_token(
        &self,
        app: &AppName,
        account: &Account,
        corp_id: &CorpId,
        agent_id: i64,
        own: Option<&DealerCredentials>,
    ) -> Result<Token, CallError> {
        let body = json!({
            "corpid": corp_id.as_str(), "business_type": BUSINESS_TYPE_CHAIN, "agentid": agent_id,
        });
        let (api, brand) = (Api::CorpGetToken, TokenKey::App(app.clone(), TokenOf::Upstream));
        // Boxed: `call_with` calls this function's caller, for the brand's token.
        let answer = Box::pin(self.call_with(&brand, api, Share::Whole, Some(&body))).await;
        match (answer, own) {
            (Err(refusal), Some(own)) if is_final(&refusal, api) => {
                let token = self.gettoken(app, account, corp_id, &own.secret).await;
                token.map_err(|error| if is_final(&error, Api::GetToken) { refusal } else { error })
            }
            (answer, _) => self.parse_token(api, answer?),
        }
    }

    async fn suite_token(&self, suite: &AppName, credentials: &SuiteCredentials) -> Result<Token, CallError> {
        let SuiteCredentials { provider_corp_id, suite_id, secret, ticket } = credentials;
        let (api, development) = (Api::GetSuiteToken, Development::Agency);
        let no_ticket = |why: &Unavailable| CallError::NotAuthorized { api, app: suite.clone(), why: *why };
        let ticket = ticket.as_ref().map_err(no_ticket)?;
        if self.tokens.has_refused_ticket(suite, ticket) {
            return Err(CallError::Refused { api, errcode: INVALID_TICKET, from_ip: None, development });
        }
        let account = Account { corp_id: provider_corp_id.clone(), development };
        let body = json!({
            "suite_id": suite_id.as_str(),
            "suite_secret": secret.expose_secret(),
            "suite_ticket": ticket.expose_secret(),
        });
        let answer = self.call(&account, api, Share::Whole, &[], Some(&body)).await;
        if matches!(answer, Err(CallError::Refused { errcode: INVALID_TICKET, .. })) {
            self.tokens.refuse_ticket(suite, ticket);
        }
        self.parse_token(api, answer?)
    }

    fn parse_token(&self, api: Api, answer: Value) -> Result<Token, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(alias = "suite_access_token")]
            access_token: String,
            #[serde(deserialize_with = "number", default = "documented_life_secs")]
            expires_in: i64,
        }
        /// For an answer without it (documents 91039 and 97162).
        const fn documented_life_secs() -> i64 {
            7_200
        }
        let answer: Answer = parse(api, answer)?;
        Ok(Token::new(answer.access_token, answer.expires_in, self.clock.now()))
    }
}

/// Whether WeCom refused `api` itself, and would again.
fn is_final(error: &CallError, api: Api) -> bool {
    let is_refused = matches!(error, CallError::Refused { api: refused, .. } if *refused == api);
    is_refused
        && match error.class() {
            Class::Item | Class::Invisible | Class::Configuration | Class::Unknown => true,
            Class::Transient | Class::Token | Class::Rate => false,
        }
}
