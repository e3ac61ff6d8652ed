//! The WeCom APIs this program calls: path, name, WeCom document.
//!
//! What is sent and how the answer is read is in `calls`, `suites` and `obtain`.

use strum::{IntoStaticStr, VariantArray};

/// One API of WeCom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Api {
    /// `GET gettoken` (document 91039).
    #[strum(serialize = "gettoken")]
    GetToken,
    /// `POST corpgroup/corp/list_app_share_info` (document 95813).
    ListAppShareInfo,
    /// `POST corpgroup/corp/gettoken` (document 95816).
    #[strum(serialize = "corp_gettoken")]
    CorpGetToken,
    /// `POST corpgroup/unionid_to_pending_id` (document 97357).
    UnionidToPendingId,
    /// `POST corpgroup/batch/external_userid_to_pending_id` (document 97357).
    ExternalUseridToPendingId,
    /// `POST corpgroup/unionid_to_external_userid` (document 95818).
    UnionidToExternalUserid,
    /// `POST externalcontact/contact_list` (document 99434).
    ContactList,
    /// `POST externalcontact/batch/get_by_user` (document 92994).
    GetByUser,
    /// `GET externalcontact/get_follow_user_list` (document 92571).
    GetFollowUserList,
    /// `POST externalcontact/groupchat/list` (document 92120).
    GroupchatList,
    /// `POST externalcontact/groupchat/get` (document 92122).
    GroupchatGet,
    /// `GET corpgroup/corp/get_chain_list` (document 95820).
    GetChainList,
    /// `POST corpgroup/corp/get_chain_corpinfo` (document 95820).
    GetChainCorpinfo,
    /// `POST service/get_suite_token` (document 97162).
    GetSuiteToken,
    /// `POST service/v2/get_permanent_code` (document 97163).
    GetPermanentCode,
    /// `POST service/v2/get_auth_info` (document 100795).
    GetAuthInfo,
    /// `POST agent/get_permissions` (document 99108).
    GetPermissions,
    /// `GET getcallbackip` (document 92521).
    #[strum(serialize = "getcallbackip")]
    GetCallbackIp,
}

/// `business_type` of 上下游 (documents 95813 and 95816). WeCom's default is 0, 企业互联, whose list is empty here.
pub(super) const BUSINESS_TYPE_CHAIN: u8 = 1;

impl Api {
    /// The name used in metrics, messages and the keys of the quota ledgers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The path below the API's host.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::GetToken => "/cgi-bin/gettoken",
            Self::ListAppShareInfo => "/cgi-bin/corpgroup/corp/list_app_share_info",
            Self::CorpGetToken => "/cgi-bin/corpgroup/corp/gettoken",
            Self::UnionidToPendingId => "/cgi-bin/corpgroup/unionid_to_pending_id",
            Self::ExternalUseridToPendingId => "/cgi-bin/corpgroup/batch/external_userid_to_pending_id",
            Self::UnionidToExternalUserid => "/cgi-bin/corpgroup/unionid_to_external_userid",
            Self::ContactList => "/cgi-bin/externalcontact/contact_list",
            Self::GetByUser => "/cgi-bin/externalcontact/batch/get_by_user",
            Self::GetFollowUserList => "/cgi-bin/externalcontact/get_follow_user_list",
            Self::GroupchatList => "/cgi-bin/externalcontact/groupchat/list",
            Self::GroupchatGet => "/cgi-bin/externalcontact/groupchat/get",
            Self::GetChainList => "/cgi-bin/corpgroup/corp/get_chain_list",
            Self::GetChainCorpinfo => "/cgi-bin/corpgroup/corp/get_chain_corpinfo",
            Self::GetSuiteToken => "/cgi-bin/service/get_suite_token",
            Self::GetPermanentCode => "/cgi-bin/service/v2/get_permanent_code",
            Self::GetAuthInfo => "/cgi-bin/service/v2/get_auth_info",
            Self::GetPermissions => "/cgi-bin/agent/get_permissions",
            Self::GetCallbackIp => "/cgi-bin/getcallbackip",
        }
    }

    /// Whether WeCom limits this API per hour, day and month (documents 97357 and 95818), on top of the
    /// limits per minute and hour that every API has (document 90312).
    #[must_use]
    pub const fn has_own_quota(self) -> bool {
        matches!(self, Self::UnionidToPendingId | Self::UnionidToExternalUserid)
    }
}
