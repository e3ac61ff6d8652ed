//! Mistakes in a request to the simulator itself, through a method of its handle or a `/sim/` route.
//!
//! Deliberately absent: the errors that the simulated platform answers to its API clients (`api::Errcode`).

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SimulatorError {
    #[error("no upstream corp {0}")]
    UnknownUpstream(String),
    /// None is named, and there is not exactly one to choose.
    #[error("name the upstream corp: there is not exactly one")]
    AmbiguousUpstream,
    /// Or it belongs to another upstream corp.
    #[error("no corp {0} here")]
    UnknownCorp(String),
    #[error("no person with the unionid {0}")]
    UnknownPerson(String),
    #[error("{person} is not a customer of member {user_id} of {corp_id}")]
    NotFriends { corp_id: String, user_id: String, person: String },
    #[error("no member {user_id} at {corp_id}")]
    UnknownMember { corp_id: String, user_id: String },
    #[error("no chat {0}")]
    UnknownChat(String),
    #[error("chat {0} is dismissed")]
    ChatDismissed(String),
    #[error("{person} is not in chat {chat_id}")]
    NotInChat { chat_id: String, person: String },
    #[error("no template {0}")]
    UnknownSuite(String),
    /// None is named, and there is not exactly one to choose.
    #[error("name the template: there is not exactly one")]
    AmbiguousSuite,
    /// Or it has a self-built app.
    #[error("{0} has not authorized a template")]
    NotAuthorized(String),
    #[error("{0} is not a dealer of a brand with an agency-developed app")]
    NothingToInstall(String),
    #[error("no callback is configured for {0}")]
    NoCallback(String),
    #[error("an EncodingAESKey has 43 letters and digits")]
    BadAesKey,
}
