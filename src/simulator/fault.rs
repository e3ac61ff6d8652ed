//! Fault injection: the faults, the APIs they are for, and the number of calls they still affect.
//!
//! Deliberately absent: carrying faults out (`server`), and errors set for one person or corp (`world`).

use serde::{Deserialize, Serialize};

use super::api::Api;

/// A way in which a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The call takes effect at once, the answer comes this many milliseconds later. Combines with others.
    Latency(u64),
    /// The answer is this `errcode`, without effect.
    Errcode(i64),
    /// An empty answer with this HTTP status, without effect.
    HttpStatus(u16),
    /// No answer, no effect. The connection stays open until the client gives up or the faults are cleared.
    Hang,
    /// The TCP connection is reset without an answer and without effect.
    Reset,
    /// HTTP 200 with a body that is not JSON, without effect.
    Garbage,
    /// The call takes effect, then the TCP connection is reset without an answer.
    ApplyThenDrop,
}

/// The calls that a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Calls of any API.
    Every,
    /// Calls of one API.
    Only(Api),
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

/// The faults of one call.
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

    /// Takes the faults of one call of `api`: every latency, and the oldest of the others.
    pub(super) fn take(&mut self, api: Api) -> Taken {
        let mut taken = Taken::default();
        for injected in &mut self.0 {
            let concerns_others = matches!(injected.target, Target::Only(only) if only != api);
            if concerns_others || injected.times_left == Some(0) {
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
