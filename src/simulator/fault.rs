//! Faults on demand: what to do to which API how many more times.
//!
//! Deliberately absent: carrying them out (`server`), and refusals that belong to a person or a dealer
//! (`world`).

use serde::{Deserialize, Serialize};

use super::api::Api;

/// Something that goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The call is handled at once, its answer comes this many milliseconds later. Combines with other
    /// faults.
    Latency(u64),
    /// The call is refused with this code, without effect.
    Errcode(i64),
    /// An empty answer with this HTTP status, without effect.
    HttpStatus(u16),
    /// No answer and no effect. The connection stays open until the client gives up or the faults are
    /// cleared.
    Hang,
    /// The TCP connection is reset without an answer and without effect.
    Reset,
    /// HTTP 200 with a body that is not JSON, without effect.
    Garbage,
    /// The call takes effect, then the TCP connection is reset without an answer.
    ApplyThenDrop,
}

/// Which calls a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Calls of any API.
    Every,
    /// Calls of one API.
    Only(Api),
}

impl Target {
    fn covers(self, api: Api) -> bool {
        match self {
            Self::Every => true,
            Self::Only(only) => only == api,
        }
    }
}

impl From<Api> for Target {
    fn from(api: Api) -> Self {
        Self::Only(api)
    }
}

#[derive(Debug)]
struct Injected {
    target: Target,
    fault: Fault,
    times_left: Option<u32>,
}

/// The faults in force, in the order they were injected.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Injected>);

/// What happens to one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) latency_ms: u64,
    pub(super) fault: Option<Fault>,
}

impl Faults {
    pub(super) fn inject(&mut self, target: Target, fault: Fault, times: Option<u32>) {
        self.0.push(Injected { target, fault, times_left: times });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes what applies to a call of `api`: every latency, and the oldest of the other faults.
    pub(super) fn take(&mut self, api: Api) -> Taken {
        let mut taken = Taken::default();
        for injected in &mut self.0 {
            if !injected.target.covers(api) || injected.times_left == Some(0) {
                continue;
            }
            match injected.fault {
                Fault::Latency(ms) => taken.latency_ms += ms,
                _ if taken.fault.is_some() => continue,
                other => taken.fault = Some(other),
            }
            injected.times_left = injected.times_left.map(|left| left - 1);
        }
        self.0.retain(|injected| injected.times_left != Some(0));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_used_up_in_order_and_latencies_add_up() {
        let mut faults = Faults::default();
        faults.inject(Api::GetToken.into(), Fault::Errcode(-1), Some(1));
        faults.inject(Target::Every, Fault::Latency(5), None);
        faults.inject(Target::Every, Fault::Reset, Some(1));
        let one = faults.take(Api::GetToken);
        assert_eq!(one, Taken { latency_ms: 5, fault: Some(Fault::Errcode(-1)) });
        assert_eq!(faults.take(Api::GetCallbackIp).fault, Some(Fault::Reset));
        assert_eq!(faults.take(Api::GetToken), Taken { latency_ms: 5, fault: None });
        faults.clear();
        assert_eq!(faults.take(Api::GetToken), Taken::default());
    }
}
