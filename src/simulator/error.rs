//! What callers of the simulator can get wrong.
//!
//! Deliberately absent: the refusals the simulated platform answers to its own clients (`api::Errcode`).

/// A request to the simulator that makes no sense in its present state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimulatorError {
    /// No such upstream corp.
    #[error("no upstream corp {0}")]
    UnknownUpstream(String),
    /// The request names no upstream corp, and there is not exactly one to choose.
    #[error("name the upstream corp: there is not exactly one")]
    AmbiguousUpstream,
    /// No such corp, or it belongs to another upstream corp.
    #[error("no corp {0} here")]
    UnknownCorp(String),
    /// No such person.
    #[error("no person with the unionid {0}")]
    UnknownPerson(String),
    /// The member and the person were never friends.
    #[error("{person} is not a customer of member {user_id} of {corp_id}")]
    NotFriends {
        /// The member's corp.
        corp_id: String,
        /// The member.
        user_id: String,
        /// The person's unionid.
        person: String,
    },
    /// No such customer group.
    #[error("no chat {0}")]
    UnknownChat(String),
    /// The app has no callback configured.
    #[error("no callback is configured for {0}")]
    NoCallback(String),
    /// The `EncodingAESKey` is not 43 letters and digits.
    #[error("an EncodingAESKey has 43 letters and digits")]
    BadAesKey,
}
