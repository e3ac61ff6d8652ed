//! Requests from addresses that are not on WeCom's list (getcallbackip): counted, or refused.
//!
//! The signature decides whether a callback is genuine; the list only keeps strangers out before that. What
//! cannot be compared, because there is no list or no address, is not refused.
//!
//! Deliberately absent: the list itself (see [`callback_ips`](crate::worker::callback_ips)).

use std::net::IpAddr;
use std::sync::Arc;

use super::callback_log::CallbackLog;
use super::socket::Source;
use super::source::TrustedProxies;
use crate::domain::ids::AppName;
use crate::domain::time::Moment;
use crate::worker::callback_ips::{CallbackIps, Listed};

/// The comparison of sources with WeCom's list.
pub struct SourceCheck {
    /// The list.
    pub ips: Arc<CallbackIps>,
    /// Proxies that are believed: if one is the source of a request, it did not say where that is from.
    pub proxies: TrustedProxies,
    /// Whether requests from other addresses are refused, not only counted.
    pub is_enforced: bool,
}

/// The address of a request that is not on WeCom's list.
#[derive(Clone, Copy)]
pub(super) struct Stranger {
    pub(super) address: IpAddr,
    pub(super) is_refused: bool,
}

impl SourceCheck {
    /// The source of a request if it is not on WeCom's list.
    pub(super) fn stranger(&self, source: Source, now: Moment, log: &CallbackLog) -> Option<Stranger> {
        let address = source.0?;
        match self.ips.listed(address, now) {
            Listed::Yes | Listed::NoList => None,
            Listed::No if !self.proxies.contains(source) => {
                Some(Stranger { address, is_refused: self.is_enforced })
            }
            Listed::No | Listed::Private => {
                log.source_is_a_proxy(address);
                None
            }
        }
    }

    /// Logs an answer to a stranger. `name` is that in the URL if there is one of this name. If the request is
    /// genuine, or nobody knows, the list may be outdated.
    pub(super) fn answered(
        &self,
        stranger: Stranger,
        name: Option<&AppName>,
        is_verified: bool,
        log: &CallbackLog,
    ) {
        let Some(name) = name else { return };
        if is_verified {
            log.stranger_verified(name, stranger.address);
        } else if stranger.is_refused {
            log.stranger_refused(name, stranger.address);
        } else {
            return;
        }
        self.ips.may_be_outdated();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::network::Network;
    use crate::domain::time::Timestamp;

    #[test]
    fn a_source_that_is_not_listed_is_a_stranger_unless_it_is_a_proxy() {
        let network = |text: &str| Network::parse(text).unwrap();
        let (log, now) = (CallbackLog::default(), Moment::on_the_wall(Timestamp::EPOCH, None));
        let check = SourceCheck {
            ips: Arc::new(CallbackIps::with([network("101.226.103.*")], now)),
            proxies: TrustedProxies::new(&[network("198.51.100.0/24")]),
            is_enforced: true,
        };
        let is_stranger = |text: &str| check.stranger(Source(text.parse().ok()), now, &log).is_some();
        assert!(is_stranger("203.0.113.1"));
        for other in ["101.226.103.9", "198.51.100.7", "10.0.0.1", ""] {
            assert!(!is_stranger(other), "{other}");
        }
    }
}
