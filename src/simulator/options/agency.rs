//! The options of agency-developed apps (代开发): what their documents leave open, with the documented
//! behaviour, or the likelier one, as the default.
//!
//! Deliberately absent: the receive id of a dealer's event, which is `SenderOptions::receive_id` for every
//! kind of app.

use super::permission::Permission;

/// The behaviour of templates and of the apps that are developed from them.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct AgencyOptions {
    /// Wait between two tickets, which the platform sends by itself unless it has no sockets.
    pub ticket_every_ms: u64,
    /// The tickets that `get_suite_token` accepts.
    pub ticket_rule: TicketRule,
    /// Whether a successful `get_suite_token` has `errcode` and `errmsg`.
    pub suite_token_errcode: bool,
    /// Time within which events other than tickets have to be acknowledged.
    pub acknowledge_within_ms: u64,
    /// Whether dealers have to install the app. If so, a dealer added from now on has none, and is not listed
    /// as one that the app is shared with, until `Simulator::install`.
    pub dealers_install: bool,
    /// Whether a dealer that has installed the app is also one that the brand shares it with, listed by
    /// `list_app_share_info` and reached by `corp/gettoken`. Otherwise only its own permanent code leads to a
    /// token.
    pub installed_are_shared: bool,
    /// Whether `corp/gettoken` may be called.
    pub corp_gettoken: Permission,
    /// Whether `list_app_share_info` may be called.
    pub list_app_share_info: Permission,
    /// The app URL that receives the events of a dealer with an installation of its own.
    pub event_url: EventUrl,
    /// The receive id with which `Simulator::verify_url` verifies an app URL.
    pub app_url_check: AppUrlCheck,
    /// How a change of the dealers that the app is shared with is reported.
    pub share_change: ShareChange,
    /// When `reset_permanent_code` ends the old permanent code.
    pub reset_ends_old: ResetEndsOld,
    /// The form of the brand's corp id in `shared_from`.
    pub shared_from: SharedFrom,
    /// Whether `/sim/authorize` and `/sim/install` send `change_auth`, and do so before `create_auth`.
    pub change_auth_first: bool,
    /// The `errcode` of an app whose authorization is cancelled: of `gettoken`, and of calls with its tokens.
    /// The documentation is silent; 40001, 40014 and 48003 are likely, too.
    pub cancelled: i64,
}

impl Default for AgencyOptions {
    fn default() -> Self {
        Self {
            ticket_every_ms: 600_000,
            ticket_rule: TicketRule::default(),
            suite_token_errcode: false,
            acknowledge_within_ms: 1_000,
            dealers_install: false,
            installed_are_shared: true,
            corp_gettoken: Permission::default(),
            list_app_share_info: Permission::default(),
            event_url: EventUrl::default(),
            app_url_check: AppUrlCheck::default(),
            share_change: ShareChange::default(),
            reset_ends_old: ResetEndsOld::default(),
            shared_from: SharedFrom::default(),
            change_auth_first: false,
            cancelled: 48_004,
        }
    }
}

/// The tickets that `get_suite_token` accepts. One that is older than 30 minutes never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TicketRule {
    /// Each that has not expired.
    #[default]
    Unexpired,
    /// Only the newest.
    Newest,
}

/// The app URL that receives the events of a dealer with an installation of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventUrl {
    /// The brand's, as with self-built apps.
    #[default]
    Brand,
    /// The dealer's. Dealers without an installation use the brand's.
    Dealer,
}

/// The receive id of the GET that verifies an app URL: reports contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppUrlCheck {
    /// The id of the corp that authorized.
    #[default]
    Corp,
    /// The provider's corp id.
    Provider,
    /// The suite id.
    Suite,
    /// None.
    Empty,
}

/// How a change of the dealers that the app is shared with is reported. The documents of agency-developed
/// apps do not have this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShareChange {
    /// At the app URL, in the form of self-built apps.
    #[default]
    AppUrl,
    /// At the template's URL, in the form of third-party apps.
    TemplateUrl,
    /// Not at all.
    Never,
}

/// When `reset_permanent_code` ends the old permanent code, and the tokens obtained with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResetEndsOld {
    /// With the reset itself: until the exchange there is none.
    #[default]
    AtOnce,
    /// When the auth code of the reset is exchanged.
    AtExchange,
}

/// The form of the brand's corp id in `shared_from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SharedFrom {
    /// The id by which the brand's own authorization is known (`wp…`).
    #[default]
    Visible,
    /// The plain id (`ww…`), which nothing else of the provider's shows.
    Plain,
}
