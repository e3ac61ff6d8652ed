//! The maximum number of connections. Each takes a file descriptor, and the store must always be able to get
//! one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors reserved for the store, calls to WeCom, sinks, and whatever a library opens.
const RESERVED: u64 = 256;
/// Maximum connections of the admin listener: readers of the feed, importers, operators.
const ADMIN_CONNECTIONS_MAX: u64 = 2_048;

/// Connections of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) public: u64,
    pub(super) admin: u64,
}

/// The file descriptors that this many connections need, with the listener of the admin API and the reserve.
pub(super) fn files_for(wanted: u64) -> u64 {
    wanted + ADMIN_CONNECTIONS_MAX.min(wanted) + RESERVED
}

/// Raises the limit of open files as far as the system allows and divides it between the listeners.
pub(super) fn connections(wanted: u64) -> Connections {
    let limit = raised();
    let shared = share(wanted, limit);
    if shared.public < wanted {
        tracing::warn!(
            connections = shared.public,
            wanted,
            descriptors = limit,
            "the limit of open files allows fewer connections than server.connections_max; raise it \
             (LimitNOFILE=, ulimit -n)"
        );
    }
    shared
}

/// Raises the soft limit of open files to the hard one and returns it.
fn raised() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // There is no limit.
    let Some(soft) = current else { return u64::MAX };
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum.unwrap_or(u64::MAX) } else { soft }
}

fn share(wanted: u64, limit: u64) -> Connections {
    let room = limit.saturating_sub(RESERVED).max(2);
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
