//! The cache of access tokens, one per app and corp.
//!
//! Fetches are single-flight: one caller fetches while the others wait for its result. A failed fetch is
//! cached for a moment too; otherwise every waiting caller would repeat it, and WeCom bans an IP address for
//! an hour after repeated wrong secrets (document 90313). A token that WeCom refuses is replaced once,
//! however many callers report it.
//!
//! Entries are valid from when they were made: if the wall clock is set back before that, they are fetched
//! again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::SecretString;

use super::errcode::Class;
use super::error::CallError;
use super::platform::TokenOf;
use crate::clock::Clock;
use crate::domain::ids::AppName;
use crate::domain::time::{SECOND_MS, Timestamp};

type TokenKey = (AppName, TokenOf);

/// An access token in the cache.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) value: Arc<SecretString>,
    issued_at: Timestamp,
    refresh_at: Timestamp,
    /// The number of the fetch that it came from. Identifies the token, because WeCom may return the same
    /// text again.
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
}

#[derive(Default)]
struct Slot {
    fetches: u64,
    state: State,
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
    slot: tokio::sync::Mutex<Slot>,
}

/// The cache.
#[derive(Default)]
pub(super) struct Tokens {
    places: Mutex<HashMap<TokenKey, Arc<Place>>>,
}

impl Tokens {
    fn places(&self) -> MutexGuard<'_, HashMap<TokenKey, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, app: &AppName, of: &TokenOf) -> Arc<Place> {
        self.places().entry((app.clone(), of.clone())).or_default().clone()
    }

    /// The cached token, or a new one from `fetch`.
    pub(super) async fn get(
        &self,
        app: &AppName,
        of: &TokenOf,
        clock: &dyn Clock,
        fetch: impl AsyncFnOnce() -> Result<Token, CallError>,
    ) -> Result<Token, CallError> {
        let place = self.place(app, of);
        let mut slot = place.slot.lock().await;
        let current_epoch = place.epoch.load(Ordering::Relaxed);
        let now = clock.now();
        match &slot.state {
            State::Full(token) if (token.issued_at..token.refresh_at).contains(&now) => {
                return Ok(token.clone());
            }
            State::Failed { error, at, until, epoch }
                if (*at..*until).contains(&now) && *epoch == current_epoch =>
            {
                return Err(error.clone());
            }
            State::Empty | State::Full(_) | State::Failed { .. } => {}
        }
        slot.fetches += 1;
        match fetch().await {
            Ok(token) => {
                let token = Token { fetched: slot.fetches, ..token };
                slot.state = State::Full(token.clone());
                Ok(token)
            }
            Err(error) => {
                let pause_ms = match error.class() {
                    Class::Transient | Class::Token => SECOND_MS / 4,
                    Class::Rate | Class::Item | Class::Invisible | Class::Configuration | Class::Unknown => {
                        5 * SECOND_MS
                    }
                };
                let at = clock.now();
                let until = at.plus_ms(pause_ms);
                slot.state = State::Failed { error: error.clone(), at, until, epoch: current_epoch };
                Err(error)
            }
        }
    }

    /// Forgets failed fetches of one app, or of all: the next caller fetches again.
    pub(super) fn forget_failures(&self, app: Option<&AppName>) {
        for ((of_app, _), place) in self.places().iter() {
            if app.is_none_or(|app| app == of_app) {
                place.epoch.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Drops a token that WeCom refused from the cache, unless a newer one is there already.
    pub(super) async fn invalidate(&self, app: &AppName, of: &TokenOf, refused: &Token) {
        let place = self.place(app, of);
        let mut slot = place.slot.lock().await;
        if matches!(&slot.state, State::Full(token) if token.fetched == refused.fetched) {
            slot.state = State::Empty;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::time::HOUR_MS;
    use crate::wecom::api::Api;
    use crate::wecom::error::Transport;

    fn app() -> AppName {
        AppName::new("brand").unwrap()
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
            tokens.get(&app(), &TokenOf::Upstream, &ManualClock::new(now), fetch).await.unwrap()
        };
        let first = get(&tokens, &fetched).await;
        let invalidate_and_get = || async {
            tokens.invalidate(&app(), &TokenOf::Upstream, &first).await;
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
        let (app, of) = (app(), TokenOf::Upstream);
        for _ in 0..20 {
            assert!(tokens.get(&app, &of, &ManualClock::new(now), failing).await.is_err());
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        assert!(tokens.get(&app, &of, &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        tokens.forget_failures(Some(&AppName::new("other").unwrap()));
        assert!(tokens.get(&app, &of, &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        tokens.forget_failures(Some(&app));
        assert!(tokens.get(&app, &of, &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_token_is_replaced_before_it_expires() {
        let tokens = Tokens::default();
        let start = Timestamp::from_secs(1_000);
        let fetch = |name: &'static str, at| async move || Ok(Token::new(name.to_owned(), 7_200, at));
        let get = async |at, name| {
            let clock = ManualClock::new(at);
            tokens.get(&app(), &TokenOf::Upstream, &clock, fetch(name, at)).await.unwrap().value
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
        let (app, of) = (app(), TokenOf::Upstream);
        let failing = async || {
            fetched.fetch_add(1, Ordering::SeqCst);
            Err(CallError::Transport { api: Api::GetToken, cause: Transport::Timeout })
        };
        assert!(tokens.get(&app, &of, &clock, failing).await.is_err());
        clock.advance_ms(-HOUR_MS);
        assert!(tokens.get(&app, &of, &clock, failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);

        let first = async || Ok(Token::new("first".to_owned(), 7_200, start));
        let second = async || Ok(Token::new("second".to_owned(), 7_200, clock.now()));
        clock.advance_ms(2 * HOUR_MS);
        tokens.get(&app, &of, &clock, first).await.unwrap();
        clock.advance_ms(-8 * HOUR_MS);
        let token = tokens.get(&app, &of, &clock, second).await.unwrap();
        assert_eq!(token.value.expose_secret(), "second");
    }
}
