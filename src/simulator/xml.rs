//! The inner XML of events: documents 92130, 92005, 90240, 95796, 96302, and for groups the form seen in
//! production.
//!
//! Deliberately absent: what the events report (`event`) and the sealed envelope around them (`seal`).

use super::event::{AppChange, Change, ChatChange, ChatMembers, ContactChange, Leave, MemberChange};
use super::options::ItemForm;
use crate::domain::time::Timestamp;

/// The inner XML of an event of `corp_id`, where the app is `agent_id`.
pub(super) fn inner_xml(
    corp_id: &str,
    agent_id: u64,
    at: Timestamp,
    change: &Change,
    form: ItemForm,
) -> String {
    let mut xml = Xml::open();
    xml.cdata("ToUserName", corp_id)
        .cdata("FromUserName", sender(change))
        .plain("CreateTime", &at.as_secs().to_string())
        .cdata("MsgType", "event");
    match change {
        Change::Contact { user_id, external_userid, change } => xml.contact(user_id, external_userid, change),
        Change::Chat { chat_id, change } => xml.chat(chat_id, change, form),
        Change::Member { user_id, change } => xml.member(user_id, *change, agent_id),
        Change::App(change) => xml.app(change, agent_id),
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

/// A template's event.
#[derive(Debug)]
pub(super) enum SuiteChange {
    Ticket(String),
    CreateAuth {
        auth_code: String,
    },
    ResetPermanentCode {
        auth_code: String,
    },
    ChangeAuth {
        auth_corp_id: String,
    },
    CancelAuth {
        auth_corp_id: String,
    },
    /// Known from third-party apps (document 93373).
    ShareChainChange {
        corp_id: String,
        agent_id: u64,
    },
}

/// The inner XML of a template's event, with the order and the white space of the samples.
pub(super) fn suite_xml(suite_id: &str, at: Timestamp, change: &SuiteChange) -> String {
    let at = at.as_secs().to_string();
    let mut xml = Xml::open();
    xml.cdata("SuiteId", suite_id);
    match change {
        SuiteChange::Ticket(ticket) => xml
            .plain("InfoType", " <![CDATA[suite_ticket]]>")
            .plain("TimeStamp", &at)
            .cdata("SuiteTicket", ticket),
        SuiteChange::CreateAuth { auth_code } => xml
            .cdata("AuthCode", auth_code)
            .cdata("InfoType", "create_auth")
            .plain("TimeStamp", &at)
            .cdata("State", "")
            .plain("ExtraInfo", ""),
        SuiteChange::ResetPermanentCode { auth_code } => {
            xml.cdata("AuthCode", auth_code).cdata("InfoType", "reset_permanent_code").plain("TimeStamp", &at)
        }
        SuiteChange::ChangeAuth { auth_corp_id } => {
            xml.about_corp("change_auth", &at, auth_corp_id).cdata("State", "").plain("ExtraInfo", "")
        }
        SuiteChange::CancelAuth { auth_corp_id } => xml.about_corp("cancel_auth", &at, auth_corp_id),
        SuiteChange::ShareChainChange { corp_id, agent_id } => xml
            .cdata("InfoType", "share_chain_change")
            .plain("TimeStamp", &at)
            .plain("AppId", "1")
            .cdata("CorpId", corp_id)
            .plain("AgentId", &agent_id.to_string()),
    };
    xml.close()
}

/// The `FromUserName`: a member where the document says so, else the system.
fn sender(change: &Change) -> &str {
    match change {
        Change::Member { user_id, change: MemberChange::Subscribed | MemberChange::Unsubscribed }
        | Change::App(AppChange::ReopenInactiveAgent { user_id }) => user_id,
        _ => "sys",
    }
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

    fn about_corp(&mut self, info_type: &str, at: &str, corp_id: &str) -> &mut Self {
        self.cdata("InfoType", info_type).plain("TimeStamp", at).cdata("AuthCorpId", corp_id)
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

    fn chat(&mut self, chat_id: &str, change: &ChatChange, form: ItemForm) -> &mut Self {
        self.cdata("Event", "change_external_chat").cdata("ChatId", chat_id);
        match change {
            ChatChange::Created => self.cdata("ChangeType", "create"),
            ChatChange::Dismissed => self.cdata("ChangeType", "dismiss"),
            ChatChange::Joined { join_scene, members } => {
                self.chat_update("add_member").plain("JoinScene", &join_scene.to_string());
                if form == ItemForm::Plain {
                    self.plain("QuitScene", "0");
                }
                self.chat_members(members, form)
            }
            ChatChange::Left { how, members } => {
                self.chat_update("del_member");
                if form == ItemForm::Plain {
                    self.plain("JoinScene", "0");
                }
                let quit_scene = match how {
                    Leave::BySelf => "0",
                    Leave::Removed => "1",
                };
                self.plain("QuitScene", quit_scene).chat_members(members, form)
            }
            ChatChange::OwnerChanged => self.chat_update("change_owner"),
            ChatChange::NameChanged => self.chat_update("change_name"),
            ChatChange::NoticeChanged => self.chat_update("change_notice"),
        }
    }

    fn chat_update(&mut self, detail: &str) -> &mut Self {
        self.cdata("ChangeType", "update").cdata("UpdateDetail", detail)
    }

    fn chat_members(&mut self, members: &ChatMembers, form: ItemForm) -> &mut Self {
        let mut items = Self(String::new());
        for id in &members.ids {
            items.text("Item", id, form);
        }
        self.plain("MemChangeCnt", &members.count.to_string())
            .plain("MemChangeList", &items.0)
            .text("LastMemVer", &members.last_version, form)
            .text("CurMemVer", &members.version, form)
    }

    fn text(&mut self, name: &str, value: &str, form: ItemForm) -> &mut Self {
        match form {
            ItemForm::Plain => self.plain(name, value),
            ItemForm::Cdata => self.cdata(name, value),
        }
    }

    fn member(&mut self, user_id: &str, change: MemberChange, agent_id: u64) -> &mut Self {
        let change_type = match change {
            MemberChange::Subscribed => return self.app_event("subscribe", agent_id),
            MemberChange::Unsubscribed => return self.app_event("unsubscribe", agent_id),
            MemberChange::Created => "create_user",
            MemberChange::Updated => "update_user",
            MemberChange::Deleted => "delete_user",
        };
        self.cdata("Event", "change_contact").cdata("ChangeType", change_type).cdata("UserID", user_id)
    }

    fn app(&mut self, change: &AppChange, agent_id: u64) -> &mut Self {
        let (event, effect_secs) = match change {
            AppChange::InactiveAlert { effect_secs } => ("inactive_alert", Some(effect_secs)),
            AppChange::CloseInactiveAgent => ("close_inactive_agent", None),
            AppChange::ReopenInactiveAgent { .. } => ("reopen_inactive_agent", None),
            AppChange::LowActiveAlert { effect_secs } => ("low_active_alert", Some(effect_secs)),
            AppChange::LowActive => ("low_active", None),
            AppChange::ActiveRestored => ("active_restored", None),
        };
        self.app_event(event, agent_id);
        match effect_secs {
            Some(effect_secs) => self.plain("EffectTime", &effect_secs.to_string()),
            None => self,
        }
    }

    fn app_event(&mut self, event: &str, agent_id: u64) -> &mut Self {
        self.cdata("Event", event).plain("AgentID", &agent_id.to_string())
    }

    fn close(mut self) -> String {
        self.0.push_str("</xml>");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inner XML after the fields that every event has, of which `FromUserName` is returned apart.
    fn written(change: &Change, form: ItemForm) -> (String, String) {
        let xml = inner_xml("wp1", 7, Timestamp::from_secs(1), change, form);
        let (head, rest) = xml.split_once("<MsgType><![CDATA[event]]></MsgType>").unwrap();
        let from = head.split_once("<FromUserName><![CDATA[").unwrap().1.split_once("]]>").unwrap().0;
        (from.to_owned(), rest.strip_suffix("</xml>").unwrap().to_owned())
    }

    fn chat(change: ChatChange, form: ItemForm) -> String {
        let (from, xml) = written(&Change::Chat { chat_id: "wr1".into(), change }, form);
        assert_eq!(from, "sys");
        let head = "<Event><![CDATA[change_external_chat]]></Event><ChatId><![CDATA[wr1]]></ChatId>";
        xml.strip_prefix(head).unwrap().to_owned()
    }

    fn two_of_three() -> ChatMembers {
        ChatMembers {
            ids: vec!["Jack".into(), "wm1".into()],
            count: 3,
            last_version: "9c".into(),
            version: "71".into(),
        }
    }

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
            inner_xml("toUser", 1, Timestamp::from_secs(1_403_610_513), &change, ItemForm::Plain),
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
    fn group_events_have_the_documented_form_and_the_one_of_production() {
        let joined = || ChatChange::Joined { join_scene: 3, members: two_of_three() };
        assert_eq!(
            chat(joined(), ItemForm::Plain),
            "<ChangeType><![CDATA[update]]></ChangeType><UpdateDetail><![CDATA[add_member]]></UpdateDetail>\
             <JoinScene>3</JoinScene><QuitScene>0</QuitScene><MemChangeCnt>3</MemChangeCnt>\
             <MemChangeList><Item>Jack</Item><Item>wm1</Item></MemChangeList>\
             <LastMemVer>9c</LastMemVer><CurMemVer>71</CurMemVer>"
        );
        assert_eq!(
            chat(joined(), ItemForm::Cdata),
            "<ChangeType><![CDATA[update]]></ChangeType><UpdateDetail><![CDATA[add_member]]></UpdateDetail>\
             <JoinScene>3</JoinScene><MemChangeCnt>3</MemChangeCnt>\
             <MemChangeList><Item><![CDATA[Jack]]></Item><Item><![CDATA[wm1]]></Item></MemChangeList>\
             <LastMemVer><![CDATA[9c]]></LastMemVer><CurMemVer><![CDATA[71]]></CurMemVer>"
        );
        let left = ChatChange::Left { how: Leave::Removed, members: two_of_three() };
        let left = chat(left, ItemForm::Cdata);
        assert!(
            left.contains("[del_member]]></UpdateDetail><QuitScene>1</QuitScene><MemChangeCnt>"),
            "{left}"
        );
    }

    #[test]
    fn group_events_without_members_have_nothing_but_their_type() {
        assert_eq!(chat(ChatChange::Created, ItemForm::Plain), "<ChangeType><![CDATA[create]]></ChangeType>");
        assert_eq!(
            chat(ChatChange::Dismissed, ItemForm::Cdata),
            "<ChangeType><![CDATA[dismiss]]></ChangeType>"
        );
        for (change, detail) in [
            (ChatChange::OwnerChanged, "change_owner"),
            (ChatChange::NameChanged, "change_name"),
            (ChatChange::NoticeChanged, "change_notice"),
        ] {
            let detail = format!("<UpdateDetail><![CDATA[{detail}]]></UpdateDetail>");
            let wanted = format!("<ChangeType><![CDATA[update]]></ChangeType>{detail}");
            assert_eq!(chat(change, ItemForm::Plain), wanted);
        }
    }

    #[test]
    fn events_about_a_member_name_the_member_where_the_documents_do() {
        for (change, from, xml) in [
            (MemberChange::Subscribed, "lisi", "<Event><![CDATA[subscribe]]></Event><AgentID>7</AgentID>"),
            (
                MemberChange::Unsubscribed,
                "lisi",
                "<Event><![CDATA[unsubscribe]]></Event><AgentID>7</AgentID>",
            ),
            (
                MemberChange::Deleted,
                "sys",
                "<Event><![CDATA[change_contact]]></Event><ChangeType><![CDATA[delete_user]]></ChangeType>\
                 <UserID><![CDATA[lisi]]></UserID>",
            ),
        ] {
            let change = Change::Member { user_id: "lisi".into(), change };
            assert_eq!(written(&change, ItemForm::Plain), (from.to_owned(), xml.to_owned()));
        }
    }

    #[test]
    fn events_in_the_life_of_an_app_carry_its_agent_id_and_when_it_takes_effect() {
        for (change, from, xml) in [
            (
                AppChange::InactiveAlert { effect_secs: 1_764_518_400 },
                "sys",
                "<Event><![CDATA[inactive_alert]]></Event><AgentID>7</AgentID>\
                 <EffectTime>1764518400</EffectTime>",
            ),
            (
                AppChange::ReopenInactiveAgent { user_id: "boss".into() },
                "boss",
                "<Event><![CDATA[reopen_inactive_agent]]></Event><AgentID>7</AgentID>",
            ),
            (AppChange::LowActive, "sys", "<Event><![CDATA[low_active]]></Event><AgentID>7</AgentID>"),
        ] {
            let written = written(&Change::App(change), ItemForm::Plain);
            assert_eq!(written, (from.to_owned(), xml.to_owned()));
        }
    }

    #[test]
    fn chain_events_carry_their_corps() {
        let chain = Change::ChangeChain {
            change_type: "corp_join".into(),
            chain_id: "c".into(),
            corp_ids: vec!["wp1".into(), "wp2".into()],
        };
        let (_, xml) = written(&chain, ItemForm::Plain);
        assert!(xml.ends_with(
            "<CorpIds><CorpId><![CDATA[wp1]]></CorpId><CorpId><![CDATA[wp2]]></CorpId></CorpIds>"
        ));
    }
}
