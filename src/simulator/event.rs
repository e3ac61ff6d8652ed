//! Events as the platform writes them: the inner XML of documents 92130, 92005, 90240 and 95796.
//!
//! Deliberately absent: the changes that events report (`relations`), sealing (`seal`), sending (`delivery`).

use crate::domain::time::Timestamp;

/// An event ready to be sealed and sent, any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The upstream corp whose callback URL receives it.
    pub upstream_corp_id: String,
    /// The corp it is about: inner and outer `ToUserName`.
    pub to_user_name: String,
    /// That corp's agent id, for the outer `AgentID`.
    pub agent_id: u64,
    /// The inner XML.
    pub inner: String,
}

/// What an event reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `change_external_contact`: something between a member and a customer.
    Contact {
        /// The member.
        user_id: String,
        /// The customer.
        external_userid: String,
        /// What happened between the two.
        change: ContactChange,
    },
    /// People joined a customer group.
    ChatMembersAdded {
        /// The group.
        chat_id: String,
        /// The ids of the customers and members who joined.
        member_ids: Vec<String>,
    },
    /// The set of corps that an app is shared with changed. An event of the upstream corp.
    ShareChainChange {
        /// The upstream corp's agent id.
        agent_id: u64,
    },
    /// The chain itself changed. An event of the upstream corp.
    ChangeChain {
        /// `corp_join`, `update_corp`, `remove_corp` …
        change_type: String,
        /// The chain.
        chain_id: String,
        /// The dealers concerned.
        corp_ids: Vec<String>,
    },
}

/// What happened between a member and a customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactChange {
    /// They are now friends.
    Add {
        /// The `state` of the contact-me way, if any.
        state: Option<String>,
        /// Permission to send one welcome message within 20 seconds, if any.
        welcome_code: Option<String>,
    },
    /// The customer added the member, who has not confirmed yet.
    AddHalf {
        /// The `state` of the contact-me way, if any.
        state: Option<String>,
        /// Permission to send one welcome message within 20 seconds, if any.
        welcome_code: Option<String>,
    },
    /// The member edited the remark, phone or tags of the customer.
    Edit,
    /// The member deleted the customer.
    Del {
        /// `DELETE_BY_TRANSFER` if the customer was transferred to another member.
        source: Option<String>,
    },
    /// The customer deleted the member.
    DelFollowUser,
    /// Transferring the customer to another member failed.
    TransferFail {
        /// `customer_refused` or `customer_limit_exceed`.
        fail_reason: String,
    },
    /// The customer agreed to message archiving.
    MsgAuditApproved {
        /// Permission to send one welcome message within 20 seconds, if any.
        welcome_code: Option<String>,
    },
}

impl ContactChange {
    const fn change_type(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add_external_contact",
            Self::AddHalf { .. } => "add_half_external_contact",
            Self::Edit => "edit_external_contact",
            Self::Del { .. } => "del_external_contact",
            Self::DelFollowUser => "del_follow_user",
            Self::TransferFail { .. } => "transfer_fail",
            Self::MsgAuditApproved { .. } => "msg_audit_approved",
        }
    }
}

/// The inner XML of an event of `corp_id`.
pub(super) fn inner_xml(corp_id: &str, at: Timestamp, change: &Change) -> String {
    let mut xml = Xml::open();
    xml.cdata("ToUserName", corp_id)
        .cdata("FromUserName", "sys")
        .plain("CreateTime", &at.as_secs().to_string())
        .cdata("MsgType", "event");
    match change {
        Change::Contact { user_id, external_userid, change } => xml.contact(user_id, external_userid, change),
        Change::ChatMembersAdded { chat_id, member_ids } => xml.chat_members(chat_id, member_ids),
        Change::ShareChainChange { agent_id } => {
            xml.cdata("Event", "share_chain_change").plain("AgentID", &agent_id.to_string())
        }
        Change::ChangeChain { change_type, chain_id, corp_ids } => xml
            .cdata("Event", "change_chain")
            .cdata("ChangeType", change_type)
            .cdata("ChainId", chain_id)
            .cdata_list("CorpIds", "CorpId", corp_ids),
    };
    xml.close()
}

/// An XML document under construction.
struct Xml(String);

impl Xml {
    fn open() -> Self {
        Self("<xml>".to_owned())
    }

    fn plain(&mut self, name: &str, value: &str) -> &mut Self {
        for part in ["<", name, ">", value, "</", name, ">"] {
            self.0.push_str(part);
        }
        self
    }

    fn cdata(&mut self, name: &str, value: &str) -> &mut Self {
        // The only text that CDATA cannot carry is its own end.
        let value = value.replace("]]>", "]]]]><![CDATA[>");
        self.plain(name, &format!("<![CDATA[{value}]]>"))
    }

    fn cdata_if(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.cdata(name, value),
            None => self,
        }
    }

    fn cdata_list(&mut self, list: &str, item: &str, values: &[String]) -> &mut Self {
        let mut items = Self(String::new());
        for value in values {
            items.cdata(item, value);
        }
        self.plain(list, &items.0)
    }

    fn contact(&mut self, user_id: &str, external_userid: &str, change: &ContactChange) -> &mut Self {
        self.cdata("Event", "change_external_contact").cdata("ChangeType", change.change_type());
        if let ContactChange::TransferFail { fail_reason } = change {
            self.cdata("FailReason", fail_reason);
        }
        self.cdata("UserID", user_id).cdata("ExternalUserID", external_userid);
        match change {
            ContactChange::Add { state, welcome_code } | ContactChange::AddHalf { state, welcome_code } => {
                self.cdata_if("State", state.as_deref()).cdata_if("WelcomeCode", welcome_code.as_deref())
            }
            ContactChange::Del { source } => self.cdata_if("Source", source.as_deref()),
            ContactChange::MsgAuditApproved { welcome_code } => {
                self.cdata_if("WelcomeCode", welcome_code.as_deref())
            }
            ContactChange::Edit | ContactChange::DelFollowUser | ContactChange::TransferFail { .. } => self,
        }
    }

    fn chat_members(&mut self, chat_id: &str, member_ids: &[String]) -> &mut Self {
        let mut items = Self(String::new());
        for id in member_ids {
            items.plain("Item", id);
        }
        self.cdata("Event", "change_external_chat")
            .cdata("ChatId", chat_id)
            .cdata("ChangeType", "update")
            .cdata("UpdateDetail", "add_member")
            .plain("JoinScene", "1")
            .plain("QuitScene", "0")
            .plain("MemChangeCnt", &member_ids.len().to_string())
            .plain("MemChangeList", &items.0)
            .cdata("LastMemVer", "9c3f97c2ada667dfb5f6d03308d963e1")
            .cdata("CurMemVer", "71217227bbd112ecfe3a49c482195cb4")
    }

    fn close(mut self) -> String {
        self.0.push_str("</xml>");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_event_has_the_documented_shape() {
        let change = Change::Contact {
            user_id: "zhangsan".into(),
            external_userid: "woAJ2GCAAAXtWyujaWJHDDGi0mAAAA".into(),
            change: ContactChange::Add {
                state: Some("test]]>state".into()),
                welcome_code: Some("WELCOMECODE".into()),
            },
        };
        assert_eq!(
            inner_xml("toUser", Timestamp::from_secs(1_403_610_513), &change),
            "<xml><ToUserName><![CDATA[toUser]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>\
             <CreateTime>1403610513</CreateTime><MsgType><![CDATA[event]]></MsgType>\
             <Event><![CDATA[change_external_contact]]></Event>\
             <ChangeType><![CDATA[add_external_contact]]></ChangeType><UserID><![CDATA[zhangsan]]></UserID>\
             <ExternalUserID><![CDATA[woAJ2GCAAAXtWyujaWJHDDGi0mAAAA]]></ExternalUserID>\
             <State><![CDATA[test]]]]><![CDATA[>state]]></State>\
             <WelcomeCode><![CDATA[WELCOMECODE]]></WelcomeCode></xml>"
        );
    }

    #[test]
    fn chat_and_chain_events_carry_their_lists() {
        let at = Timestamp::from_secs(1);
        let chat =
            Change::ChatMembersAdded { chat_id: "wr1".into(), member_ids: vec!["Jack".into(), "wm1".into()] };
        let xml = inner_xml("wp1", at, &chat);
        assert!(xml.contains(
            "<MemChangeCnt>2</MemChangeCnt><MemChangeList><Item>Jack</Item><Item>wm1</Item></MemChangeList>"
        ));
        let chain = Change::ChangeChain {
            change_type: "corp_join".into(),
            chain_id: "c".into(),
            corp_ids: vec!["wp1".into(), "wp2".into()],
        };
        let xml = inner_xml("ww1", at, &chain);
        assert!(xml.ends_with(
            "<CorpIds><CorpId><![CDATA[wp1]]></CorpId><CorpId><![CDATA[wp2]]></CorpId></CorpIds></xml>"
        ));
    }
}
