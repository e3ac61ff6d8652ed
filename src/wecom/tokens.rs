//! The cache of access tokens: one per app and corp, and one per suite.
//!
//! Fetches are single-flight: one caller fetches while the others wait for its result. A failed fetch is
//! cached for a moment too; otherwise every waiting caller would repeat it, and WeCom bans an IP address for
//! an hour after repeated wrong secrets (document 90313). A token that WeCom refuses is replaced once,
//! however many callers report it. A `suite_ticket` that WeCom refuses is not used again, and a permanent
//! code not for a while.
//!
//! Entries are valid from when they were made: if the wall clock is set back before that, they are fetched
//! again. They are dropped when the credentials change, see [`Generation`].
//!
//! Deliberately absent: the calls that fetch a token (see `obtain`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};

use super::errcode::{Class, INVALID_TICKET};
use super::error::CallError;
use super::platform::TokenOf;
use crate::clock::Clock;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{MINUTE_MS, Moment, SECOND_MS, Timestamp};

/// How long a permanent code that WeCom refused is not used. After a few wrong secrets WeCom bans our address
/// for an hour, and with it all other corps (document 90313).
const REFUSED_CODE_FOR_MS: i64 = 10 * MINUTE_MS;

/// Names a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum TokenKey {
    /// A token of an app.
    App(AppName, TokenOf),
    /// The token of a suite.
    Suite(AppName),
}

impl TokenKey {
    const fn name(&self) -> &AppName {
        match self {
            Self::App(name, _) | Self::Suite(name) => name,
        }
    }
}

/// The generation of the credentials that a token is obtained with. A suite has only one: its token remains
/// valid when another ticket arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Generation {
    /// Of the app's credentials. It only increases.
    pub(super) app: u32,
    /// Of a dealer's own authorisation, if there is one.
    pub(super) dealer: Option<u32>,
}

/// An access token in the cache.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) value: Arc<SecretString>,
    issued_at: Timestamp,
    refresh_at: Timestamp,
    /// The number of the fetch that it came from, which no other token of the cache has. Identifies the
    /// token, because WeCom may return the same text again.
    fetched: u64,
}

impl Token {
    /// A token that WeCom issued at `now`. It is refreshed five minutes before it expires, or after half of
    /// its lifetime if that is later.
    pub(super) fn new(value: String, expires_in_secs: i64, now: Timestamp) -> Self {
        let life_ms = expires_in_secs.clamp(1, 86_400) * SECOND_MS;
        let refresh_at = now.plus_ms((life_ms - 300 * SECOND_MS).max(life_ms / 2));
        Self { value: Arc::new(value.into()), issued_at: now, refresh_at, fetched: 0 }
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        (self.issued_at..self.refresh_at).contains(&now)
    }
}

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Full(Token),
    Failed {
        error: CallError,
        /// When the fetch failed.
        at: Timestamp,
        /// How long it is cached.
        until: Timestamp,
        /// The epoch of failures in which the fetch began.
        epoch: u64,
    },
}

/// The place of one token in the cache.
#[derive(Default)]
struct Place {
    /// Failures of earlier epochs are forgotten.
    epoch: AtomicU64,
    /// Held while a token is fetched, which makes the fetch single-flight.
    state: tokio::sync::Mutex<State>,
}

/// The cache.
#[derive(Default)]
pub(super) struct Tokens {
    places: Mutex<HashMap<TokenKey, (Generation, Arc<Place>)>>,
    fetches: AtomicU64,
    /// The last ticket of each suite that WeCom refused.
    refused_tickets: Mutex<HashMap<AppName, SecretString>>,
    /// The last permanent code of each app at each corp that WeCom refused, and when.
    refused_codes: Mutex<HashMap<(AppName, CorpId), (SecretString, Moment)>>,
}

impl Tokens {
    fn places(&self) -> MutexGuard<'_, HashMap<TokenKey, (Generation, Arc<Place>)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused_tickets(&self) -> MutexGuard<'_, HashMap<AppName, SecretString>> {
        self.refused_tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused_codes(&self) -> MutexGuard<'_, HashMap<(AppName, CorpId), (SecretString, Moment)>> {
        self.refused_codes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a token; an empty one if the credentials have changed.
    fn place(&self, key: &TokenKey, generation: Generation) -> Arc<Place> {
        let mut places = self.places();
        match places.get(key) {
            Some((known, place)) if *known == generation => place.clone(),
            // A call that began before the credentials changed: its token is not cached.
            Some((known, _)) if known.app > generation.app => Arc::default(),
            Some(_) | None => {
                let place = Arc::<Place>::default();
                places.insert(key.clone(), (generation, place.clone()));
                place
            }
        }
    }

    /// The cached token, or a new one from `fetch`.
    pub(super) async fn get(
        &self,
        key: &TokenKey,
        generation: Generation,
        clock: &dyn Clock,
        fetch: impl AsyncFnOnce() -> Result<Token, CallError>,
    ) -> Result<Token, CallError> {
        let place = self.place(key, generation);
        let mut state = place.state.lock().await;
        let current_epoch = place.epoch.load(Ordering::Relaxed);
        let now = clock.now();
        match &*state {
            State::Full(token) if token.is_valid(now) => return Ok(token.clone()),
            State::Failed { error, at, until, epoch }
                if (*at..*until).contains(&now) && *epoch == current_epoch =>
            {
                return Err(error.clone());
            }
            State::Empty | State::Full(_) | State::Failed { .. } => {}
        }
        match fetch().await {
            Ok(token) => {
                let token = Token { fetched: self.fetches.fetch_add(1, Ordering::Relaxed), ..token };
                *state = State::Full(token.clone());
                Ok(token)
            }
            Err(error) => {
                let pause_ms = match error.class() {
                    // With another ticket there may be a token at once; the same one is not used again.
                    _ if error.errcode() == Some(INVALID_TICKET) => 0,
                    Class::Transient | Class::Token => SECOND_MS / 4,
                    Class::Rate | Class::Item | Class::Invisible | Class::Configuration | Class::Unknown => {
                        5 * SECOND_MS
                    }
                };
                let at = clock.now();
                let until = match error {
                    // With a permit there may be a token.
                    CallError::NoPermit { retry_at, .. } => retry_at.min(at.plus_ms(pause_ms)),
                    _ => at.plus_ms(pause_ms),
                };
                *state = State::Failed { error: error.clone(), at, until, epoch: current_epoch };
                Err(error)
            }
        }
    }

    /// Whether a valid token is in the cache; false while one is being fetched.
    pub(super) fn has(&self, key: &TokenKey, now: Timestamp) -> bool {
        let place = self.places().get(key).map(|(_, place)| place.clone());
        place.is_some_and(|place| {
            let state = place.state.try_lock();
            state.is_ok_and(|state| matches!(&*state, State::Full(token) if token.is_valid(now)))
        })
    }

    /// Forgets failed fetches of one app or suite, or of all: the next caller fetches again.
    pub(super) fn forget_failures(&self, name: Option<&AppName>) {
        let is_meant = |of: &AppName| name.is_none_or(|name| name == of);
        for (key, (_, place)) in self.places().iter() {
            if is_meant(key.name()) {
                place.epoch.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.refused_tickets().retain(|suite, _| !is_meant(suite));
    }

    /// Forgets the permanent codes of one app, or of all, that WeCom refused.
    pub(super) fn forget_refused_codes(&self, app: Option<&AppName>) {
        self.refused_codes().retain(|(of, _), _| app.is_some_and(|app| app != of));
    }

    /// Drops a token that WeCom refused from the cache, unless a newer one is there already.
    pub(super) async fn invalidate(&self, key: &TokenKey, refused: &Token) {
        let Some((_, place)) = self.places().get(key).cloned() else { return };
        let mut state = place.state.lock().await;
        if matches!(&*state, State::Full(token) if token.fetched == refused.fetched) {
            *state = State::Empty;
        }
    }

    /// Records that WeCom refused a suite's ticket.
    pub(super) fn refuse_ticket(&self, suite: &AppName, ticket: &SecretString) {
        self.refused_tickets().insert(suite.clone(), ticket.clone());
    }

    /// Whether WeCom has refused this ticket.
    pub(super) fn has_refused_ticket(&self, suite: &AppName, ticket: &SecretString) -> bool {
        let refused_tickets = self.refused_tickets();
        refused_tickets.get(suite).is_some_and(|refused| refused.expose_secret() == ticket.expose_secret())
    }

    /// Records that WeCom refused the permanent code of an app at a corp.
    pub(super) fn refuse_code(&self, app: &AppName, corp_id: &CorpId, code: &SecretString, now: Moment) {
        self.refused_codes().insert((app.clone(), corp_id.clone()), (code.clone(), now));
    }

    /// Whether WeCom has refused this permanent code within the last [`REFUSED_CODE_FOR_MS`].
    pub(super) fn is_refused_code(
        &self,
        app: &AppName,
        corp_id: &CorpId,
        code: &SecretString,
        now: Moment,
    ) -> bool {
        let refused_codes = self.refused_codes();
        refused_codes.get(&(app.clone(), corp_id.clone())).is_some_and(|(refused, at)| {
            refused.expose_secret() == code.expose_secret() && now.millis_since(*at) < REFUSED_CODE_FOR_MS
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::time::HOUR_MS;
    use crate::wecom::api::Api;
    use crate::wecom::error::Transport;

    const FIRST: Generation = Generation { app: 1, dealer: None };

    fn key() -> TokenKey {
        TokenKey::App(AppName::new("brand").unwrap(), TokenOf::Upstream)
    }

    #[tokio::test]
    async fn twenty_callers_with_one_refused_token_fetch_one_new_one() {
        let (tokens, fetched) = (Arc::new(Tokens::default()), Arc::new(AtomicU32::new(0)));
        let now = Timestamp::from_secs(1_000);
        let get = async |tokens: &Tokens, fetched: &AtomicU32| {
            let fetch = async || {
                fetched.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                // WeCom returns the same text while the token is valid.
                Ok(Token::new("token".to_owned(), 7_200, now))
            };
            tokens.get(&key(), FIRST, &ManualClock::new(now), fetch).await.unwrap()
        };
        let first = get(&tokens, &fetched).await;
        let invalidate_and_get = || async {
            tokens.invalidate(&key(), &first).await;
            get(&tokens, &fetched).await
        };
        for _ in 0..20 {
            let token = invalidate_and_get().await;
            assert_eq!(token.value.expose_secret(), "token");
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_failed_fetch_is_not_repeated_by_every_waiting_caller() {
        let (tokens, fetched) = (Tokens::default(), AtomicU32::new(0));
        let now = Timestamp::from_secs(1_000);
        let failing = async || {
            fetched.fetch_add(1, Ordering::SeqCst);
            Err(CallError::Transport { api: Api::GetToken, cause: Transport::Timeout })
        };
        let key = key();
        for _ in 0..20 {
            assert!(tokens.get(&key, FIRST, &ManualClock::new(now), failing).await.is_err());
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        assert!(tokens.get(&key, FIRST, &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        tokens.forget_failures(Some(&AppName::new("other").unwrap()));
        assert!(tokens.get(&key, FIRST, &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        tokens.forget_failures(Some(key.name()));
        assert!(tokens.get(&key, FIRST, &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_fetch_without_a_permit_is_repeated_once_there_may_be_one() {
        let (tokens, fetched) = (Tokens::default(), AtomicU32::new(0));
        let now = Timestamp::from_secs(1_000);
        let without_permit = async || {
            fetched.fetch_add(1, Ordering::SeqCst);
            Err(CallError::NoPermit { api: Api::GetToken, retry_at: now.plus_ms(900) })
        };
        for (after_ms, expected) in [(0, 1), (899, 1), (900, 2)] {
            let clock = ManualClock::new(now.plus_ms(after_ms));
            assert!(tokens.get(&key(), FIRST, &clock, without_permit).await.is_err());
            assert_eq!(fetched.load(Ordering::SeqCst), expected, "after {after_ms} ms");
        }
    }

    #[test]
    fn refused_codes_are_of_one_app_at_one_corp() {
        let tokens = Tokens::default();
        let (now, code) =
            (ManualClock::new(Timestamp::from_secs(1_000)).moment(), SecretString::from("code"));
        let name = |name: &str| AppName::new(name).unwrap();
        let corp = CorpId::new("wpBRAND").unwrap();
        let is_refused = |app: &str| tokens.is_refused_code(&name(app), &corp, &code, now);
        tokens.refuse_code(&name("one"), &corp, &code, now);
        tokens.refuse_code(&name("two"), &corp, &SecretString::from("another"), now);
        assert!(is_refused("one") && !is_refused("two"));
        tokens.refuse_code(&name("two"), &corp, &code, now);
        // Only an operator's resume ends this; the resume of a new dealer does not.
        tokens.forget_failures(None);
        tokens.forget_refused_codes(Some(&name("two")));
        assert!(is_refused("one") && !is_refused("two"));
        tokens.forget_refused_codes(None);
        assert!(!is_refused("one"));
    }

    #[tokio::test]
    async fn a_token_is_replaced_before_it_expires() {
        let tokens = Tokens::default();
        let start = Timestamp::from_secs(1_000);
        let fetch = |name: &'static str, at| async move || Ok(Token::new(name.to_owned(), 7_200, at));
        let get = async |at, name| {
            let clock = ManualClock::new(at);
            tokens.get(&key(), FIRST, &clock, fetch(name, at)).await.unwrap().value
        };
        assert_eq!(get(start, "first").await.expose_secret(), "first");
        assert_eq!(get(start.plus_ms(6_899_999), "second").await.expose_secret(), "first");
        assert_eq!(get(start.plus_ms(6_900_000), "second").await.expose_secret(), "second");
    }

    #[tokio::test]
    async fn what_was_cached_before_the_clock_was_set_back_is_fetched_again() {
        let (tokens, fetched) = (Tokens::default(), AtomicU32::new(0));
        let start = Timestamp::from_secs(100_000);
        let clock = ManualClock::new(start);
        let key = key();
        let failing = async || {
            fetched.fetch_add(1, Ordering::SeqCst);
            Err(CallError::Transport { api: Api::GetToken, cause: Transport::Timeout })
        };
        assert!(tokens.get(&key, FIRST, &clock, failing).await.is_err());
        clock.advance_ms(-HOUR_MS);
        assert!(tokens.get(&key, FIRST, &clock, failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);

        let first = async || Ok(Token::new("first".to_owned(), 7_200, start));
        let second = async || Ok(Token::new("second".to_owned(), 7_200, clock.now()));
        clock.advance_ms(2 * HOUR_MS);
        tokens.get(&key, FIRST, &clock, first).await.unwrap();
        clock.advance_ms(-8 * HOUR_MS);
        let token = tokens.get(&key, FIRST, &clock, second).await.unwrap();
        assert_eq!(token.value.expose_secret(), "second");
    }

    #[tokio::test]
    async fn a_token_of_earlier_credentials_is_not_used_again() {
        let tokens = Tokens::default();
        let now = Timestamp::from_secs(1_000);
        let clock = ManualClock::new(now);
        let get = async |generation, name: &str| {
            let fetch = async || Ok(Token::new(name.to_owned(), 7_200, now));
            tokens.get(&key(), generation, &clock, fetch).await.unwrap()
        };
        let text = |token: &Token| token.value.expose_secret().to_owned();
        let second = Generation { app: 2, dealer: None };
        let old = get(FIRST, "old").await;
        assert_eq!(text(&get(FIRST, "unused").await), "old");
        assert_eq!(text(&get(second, "new").await), "new");
        // A call that is still under way with the old credentials changes nothing for the others.
        assert_eq!(text(&get(FIRST, "late").await), "late");
        tokens.invalidate(&key(), &old).await;
        assert_eq!(text(&get(second, "unused").await), "new");
        // A dealer authorised, authorised again, and cancelled.
        for dealer in [Some(1), Some(2), None] {
            let generation = Generation { app: 2, dealer };
            let name = format!("{dealer:?}");
            assert_eq!(text(&get(generation, &name).await), name);
            assert_eq!(text(&get(generation, "unused").await), name);
        }
        assert_eq!(tokens.places().len(), 1);
    }
}
