//! The calls about dealers: their list, the chains and the verification of a corp.

use super::*;

#[tokio::test]
async fn dealers_are_complete_only_if_wecom_says_so_and_every_row_was_read() {
    let row = |id: &str| json!({"corpid": id, "corp_name": "上海一店", "agentid": "1111"});
    let first = json!({"errcode": 0, "ending": 0, "corp_list": [row("wpA")], "next_cursor": "NEXT"});
    let body = json!({"agentid": 1_000_002, "business_type": 1, "limit": 100});
    let mut second_body = body.clone();
    second_body["cursor"] = "NEXT".into();
    for (last, ids, is_complete) in [
        (json!({"ending": 1, "corp_list": [row("wpB")], "next_cursor": "MORE"}), &["wpA", "wpB"][..], true),
        (json!({"ending": "1", "corp_list": null}), &["wpA"], true),
        (json!({"corp_list": [row("wpB")], "next_cursor": ""}), &["wpA", "wpB"], false),
        (json!({"ending": 0, "corp_list": [], "next_cursor": "NEXT"}), &["wpA"], false),
        (json!({"ending": 1, "corp_list": [row("wpB"), {"corpid": ""}]}), &["wpA", "wpB"], false),
    ] {
        let (client, script) = client([first.clone(), last]);
        let list = client.dealers(&app(), None).await.unwrap();
        assert_eq!(list.dealers.iter().map(|dealer| dealer.corp_id.as_str()).collect::<Vec<_>>(), ids);
        assert_eq!(list.is_complete, is_complete);
        let found = &list.dealers[0];
        assert_eq!((found.agent_id, found.name.as_str(), found.listed_at), (1_111, "上海一店", NOW));
        let target = "corpgroup/corp/list_app_share_info?access_token=UPSTREAM";
        assert_eq!(script.sent(), [post(target, body.clone()), post(target, second_body.clone())]);
    }

    let (client, script) = client([json!({"errcode": 0, "ending": 1})]);
    let list = client.dealers(&app(), Some(&corp("wpA"))).await.unwrap();
    assert!(list.is_complete && list.dealers.is_empty());
    assert_eq!(script.sent()[0].1.as_ref().unwrap()["corpid"], "wpA");
}

#[tokio::test]
async fn chains_are_read_with_a_get() {
    let (client, script) = client([
        json!({"errcode": 0, "chains": [{"chain_id": "Ch1", "chain_name": "能源"}, {"chain_id": ""}, 7]}),
        json!({"errcode": 0}),
    ]);
    assert_eq!(client.chains(&app()).await.unwrap(), ["Ch1"]);
    assert!(client.chains(&app()).await.unwrap().is_empty());
    let target = "/cgi-bin/corpgroup/corp/get_chain_list?access_token=UPSTREAM".to_owned();
    assert_eq!(script.sent()[0], (target, None));
}

#[tokio::test]
async fn the_qualification_of_a_corp_is_one_of_three_or_not_known() {
    for (status, expected) in [
        (json!(1), Some(Qualification::Unverified)),
        (json!("2"), Some(Qualification::Verified)),
        (json!(3), Some(Qualification::Certified)),
        (json!(0), None),
        (json!(null), None),
    ] {
        let (client, script) = client([json!({"errcode": 0, "qualification_status": status})]);
        assert_eq!(client.qualification(&app(), "Ch1", &corp("wpA")).await.unwrap(), expected);
        let target = "corpgroup/corp/get_chain_corpinfo?access_token=UPSTREAM";
        assert_eq!(script.sent(), [post(target, json!({"chain_id": "Ch1", "corpid": "wpA"}))]);
    }
}
