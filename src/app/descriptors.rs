//! How many connections the process can afford. Each takes a file descriptor, and the store must never find that there
//! is none left for it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the store, its files, calls to WeCom, sinks, and whatever a library opens.
const KEPT: u64 = 256;
/// Readers of the feed, importers, operators.
const ADMIN_CONNECTIONS_MAX: u64 = 2_048;

/// Connections of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) public: u64,
    pub(super) admin: u64,
}

/// Raises the limit as far as the system lets us, and shares out what it allows.
pub(super) fn connections(wanted: u64) -> Connections {
    let limit = raised();
    let shared = share(wanted, limit);
    if shared.public < wanted {
        tracing::warn!(
            connections = shared.public,
            wanted,
            descriptors = limit,
            "the limit of open files allows fewer connections than server.connections_max; raise it (LimitNOFILE=, ulimit -n)"
        );
    }
    shared
}

/// The soft limit of open files, made as high as the hard one.
fn raised() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Without a limit there is none to raise.
    let Some(soft) = current else { return u64::MAX };
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum.unwrap_or(u64::MAX) } else { soft }
}

fn share(wanted: u64, limit: u64) -> Connections {
    let room = limit.saturating_sub(KEPT).max(2);
    let admin = ADMIN_CONNECTIONS_MAX.min(wanted).min((room / 4).max(1));
    Connections { public: wanted.min(room - admin), admin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        for (wanted, limit, public, admin) in [
            (4_096, 1_048_576, 4_096, 2_048),
            (4_096, u64::MAX, 4_096, 2_048),
            (4_096, 20_000, 4_096, 2_048),
            (4_096, 4_096, 2_880, 960),
            (4_096, 1_024, 576, 192),
            (3, 1_024, 3, 3),
            (4_096, 64, 1, 1),
        ] {
            assert_eq!(share(wanted, limit), Connections { public, admin }, "{wanted} {limit}");
        }
    }
}
