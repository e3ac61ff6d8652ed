//! Access tokens: one per (app, corp), fetched by one caller while the others wait, replaced once per token
//! value that WeCom refused.
//!
//! A fetch that failed is remembered for a moment too: without that, every caller in line behind it would try
//! for itself, and WeCom bans an address for an hour after repeated wrong secrets (document 90313).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::SecretString;

use super::{CallError, Class};
use crate::clock::Clock;
use crate::domain::ids::{AppName, CorpId};
use crate::domain::time::{SECOND_MS, Timestamp};

/// Whose token: the app's own (`None`), or that of the shared app at a dealer.
pub(super) type TokenKey = (AppName, Option<(CorpId, i64)>);

/// An access token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) value: Arc<SecretString>,
    refresh_at: Timestamp,
    /// Which fetch it came from. WeCom may give the same text again; it is another token all the same.
    fetched: u64,
}

impl Token {
    /// A token that WeCom gave at `now` for so many seconds. It is replaced five minutes before its end, or
    /// after half its life if that is shorter.
    pub(super) fn new(value: String, expires_in_secs: i64, now: Timestamp) -> Self {
        let life_ms = expires_in_secs.clamp(1, 86_400) * SECOND_MS;
        let refresh_at = now.plus_ms((life_ms - 300 * SECOND_MS).max(life_ms / 2));
        Self { value: Arc::new(value.into()), refresh_at, fetched: 0 }
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
    Failed(CallError, Timestamp),
}

#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<TokenKey, Arc<tokio::sync::Mutex<Slot>>>>,
}

impl Tokens {
    fn slot(&self, key: &TokenKey) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(key.clone()).or_default().clone()
    }

    /// The token, fetched with `fetch` if there is none that is still good.
    pub(super) async fn get(
        &self,
        key: &TokenKey,
        clock: &dyn Clock,
        fetch: impl AsyncFnOnce() -> Result<Token, CallError>,
    ) -> Result<Token, CallError> {
        let slot = self.slot(key);
        // Held while fetching: that is the single flight.
        let mut slot = slot.lock().await;
        let now = clock.now();
        match &slot.state {
            State::Full(token) if now < token.refresh_at => return Ok(token.clone()),
            State::Failed(error, until) if now < *until => return Err(error.clone()),
            State::Empty | State::Full(_) | State::Failed(..) => {}
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
                slot.state = State::Failed(error.clone(), clock.now().plus_ms(pause_ms));
                Err(error)
            }
        }
    }

    /// Notes that WeCom refused this token. Whoever comes with an older one changes nothing.
    pub(super) async fn refuse(&self, key: &TokenKey, refused: &Token) {
        let slot = self.slot(key);
        let mut slot = slot.lock().await;
        if matches!(&slot.state, State::Full(token) if token.fetched == refused.fetched) {
            slot.state = State::Empty;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use secrecy::ExposeSecret;

    use super::*;
    use crate::clock::ManualClock;
    use crate::wecom::{Api, Transport};

    fn key() -> TokenKey {
        (AppName::new("brand").unwrap(), None)
    }

    #[tokio::test]
    async fn twenty_callers_with_one_refused_token_fetch_one_new_one() {
        let (tokens, fetched) = (Arc::new(Tokens::default()), Arc::new(AtomicU32::new(0)));
        let now = Timestamp::from_secs(1_000);
        let get = async |tokens: &Tokens, fetched: &AtomicU32| {
            let fetch = async || {
                fetched.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                // WeCom gives the same text while it believes it to be valid.
                Ok(Token::new("token".to_owned(), 7_200, now))
            };
            tokens.get(&key(), &ManualClock::new(now), fetch).await.unwrap()
        };
        let first = get(&tokens, &fetched).await;
        let refuse_and_get = || async {
            tokens.refuse(&key(), &first).await;
            get(&tokens, &fetched).await
        };
        for _ in 0..20 {
            let token = refuse_and_get().await;
            assert_eq!(token.value.expose_secret(), "token");
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_failed_fetch_is_not_repeated_by_everybody_in_line() {
        let (tokens, fetched) = (Tokens::default(), AtomicU32::new(0));
        let now = Timestamp::from_secs(1_000);
        let failing = async || {
            fetched.fetch_add(1, Ordering::SeqCst);
            Err(CallError::Transport { api: Api::GetToken, cause: Transport::Timeout })
        };
        for _ in 0..20 {
            assert!(tokens.get(&key(), &ManualClock::new(now), failing).await.is_err());
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 1);
        assert!(tokens.get(&key(), &ManualClock::new(now.plus_ms(250)), failing).await.is_err());
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_token_is_replaced_before_its_end() {
        let tokens = Tokens::default();
        let start = Timestamp::from_secs(1_000);
        let fetch = |name: &'static str, at| async move || Ok(Token::new(name.to_owned(), 7_200, at));
        let get =
            async |at, name| tokens.get(&key(), &ManualClock::new(at), fetch(name, at)).await.unwrap().value;
        assert_eq!(get(start, "first").await.expose_secret(), "first");
        assert_eq!(get(start.plus_ms(6_899_999), "second").await.expose_secret(), "first");
        assert_eq!(get(start.plus_ms(6_900_000), "second").await.expose_secret(), "second");
    }
}
