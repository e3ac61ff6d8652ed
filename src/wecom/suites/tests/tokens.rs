//! The tokens of a suite, its apps and their dealers: when they are fetched, and with which credentials.

use super::*;

#[tokio::test]
async fn twenty_callers_whose_suite_token_is_refused_fetch_one_new_one() {
    for errcode in [42_009, 40_082] {
        let wecom = wecom(move |request| {
            let is_first = request.query.ends_with("token%2D1");
            if is_first { json!({"errcode": errcode, "errmsg": "expired"}) } else { granted() }
        });
        let (client, ..) = client_over(wecom.clone(), Known::new());
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let client = client.clone();
            calls.spawn(async move { client.permanent_code(&agency(), &secret("CANARY-auth-code")).await });
        }
        assert!(calls.join_all().await.iter().all(Result::is_ok));
        assert_eq!((wecom.count(SUITE_TOKEN), wecom.count(PERMANENT_CODE)), (2, 40), "{errcode}");
    }
}

#[tokio::test]
async fn a_suite_token_that_is_refused_again_is_not_fetched_a_third_time_by_one_call() {
    let wecom = wecom(|_| json!({"errcode": 40_082}));
    let (client, ..) = client_over(wecom.clone(), Known::new());
    let error = client.permanent_code(&agency(), &secret("CANARY-auth-code")).await.unwrap_err();
    assert_eq!((error.class(), error.errcode()), (Class::Token, Some(40_082)));
    assert_eq!((wecom.count(SUITE_TOKEN), wecom.count(PERMANENT_CODE)), (2, 2));
}

#[tokio::test]
async fn a_ticket_that_wecom_refuses_is_not_used_again() {
    let wecom = Scripted::new(|request| match request.path.as_str() {
        SUITE_TOKEN if request.body.as_ref().unwrap()["suite_ticket"] == "CANARY-ticket-1" => {
            json!({"errcode": 40_085, "errmsg": "invalid suite_ticket"})
        }
        SUITE_TOKEN => json!({"suite_access_token": "CANARY-token", "expires_in": 7_200}),
        _ => granted(),
    });
    let known = Known::new();
    let (client, clock, _) = client_over(wecom.clone(), known.clone());
    let exchange = async || client.permanent_code(&agency(), &secret("CANARY-auth-code")).await;
    for _ in 0..3 {
        let error = exchange().await.unwrap_err();
        assert_eq!((error.class(), error.errcode()), (Class::Configuration, Some(40_085)));
        assert!(error.to_string().starts_with("get_suite_token answered 40085: wait: "), "{error}");
        clock.advance_ms(HOUR_MS);
    }
    assert_eq!(wecom.count(SUITE_TOKEN), 1);
    client.forget_failures(Some(&brand()));
    assert!(exchange().await.is_err());
    assert_eq!(wecom.count(SUITE_TOKEN), 1);
    // An operator who resumes the suite has it tried again.
    client.forget_failures(Some(&agency()));
    assert!(exchange().await.is_err());
    assert_eq!(wecom.count(SUITE_TOKEN), 2);
    clock.advance_ms(HOUR_MS);
    known.change_suite(|suite| suite.ticket = Ok(secret("CANARY-ticket-2")));
    assert!(exchange().await.is_ok());
    // The token remains valid when the next ticket arrives.
    known.change_suite(|suite| suite.ticket = Ok(secret("CANARY-ticket-3")));
    assert!(exchange().await.is_ok());
    assert_eq!((wecom.count(SUITE_TOKEN), wecom.count(PERMANENT_CODE)), (3, 2));
}

#[tokio::test]
async fn a_new_permanent_code_replaces_the_tokens_of_the_old_one() {
    let wecom = wecom(|request| match request.path.as_str() {
        "corpgroup/corp/gettoken" => json!({"access_token": "CANARY-dealer", "expires_in": 7_200}),
        _ => json!({"errcode": 0, "follow_user": ["wo1"]}),
    });
    let known = Known::new();
    let (client, ..) = client_over(wecom.clone(), known.clone());
    let secrets = || {
        let requests = wecom.requests().into_iter().filter(|request| request.path == "gettoken");
        requests.map(|request| request.query).collect::<Vec<_>>()
    };
    for of in [TokenOf::Upstream, of_dealer(), of_dealer()] {
        client.members(&brand(), &of).await.unwrap();
    }
    assert_eq!(secrets(), ["corpid=wpBRAND&corpsecret=CANARY%2Dcode%2D1"]);
    assert_eq!(wecom.count("corpgroup/corp/gettoken"), 1);
    known.change_app(|app| (app.secret, app.generation) = (secret("CANARY-code-2"), 2));
    for of in [of_dealer(), TokenOf::Upstream] {
        client.members(&brand(), &of).await.unwrap();
    }
    assert_eq!(secrets()[1..], ["corpid=wpBRAND&corpsecret=CANARY%2Dcode%2D2"]);
    assert_eq!(wecom.count("corpgroup/corp/gettoken"), 2);
}

#[tokio::test]
async fn a_call_whose_token_a_reset_ends_goes_on_with_the_new_code() {
    let known = Known::new();
    let reset = known.clone();
    let wecom = wecom(move |request| {
        if request.query.ends_with("token%2D1") {
            reset.change_app(|app| (app.secret, app.generation) = (secret("CANARY-code-2"), 2));
            return json!({"errcode": 40_014});
        }
        json!({"errcode": 0, "follow_user": ["wo1"]})
    });
    let (client, ..) = client_over(wecom.clone(), known);
    assert!(client.members(&brand(), &TokenOf::Upstream).await.is_ok());
    let secrets: Vec<_> = wecom.requests().into_iter().filter(|request| request.path == "gettoken").collect();
    assert_eq!(secrets.len(), 2);
    assert!(secrets[1].query.ends_with("code%2D2"));
}

#[tokio::test]
async fn a_dealers_own_authorisation_is_the_second_way_to_its_token() {
    const SWAP: &str = "corpgroup/corp/gettoken";
    let wecom = wecom(|request| match request.path.as_str() {
        SWAP => json!({"errcode": 48_002, "errmsg": "api forbidden"}),
        _ => json!({"errcode": 0, "follow_user": ["wo1"]}),
    });
    let known = Known::new();
    let (client, clock, ledgers) = client_over(wecom.clone(), known.clone());
    let members = async || client.members(&brand(), &of_dealer()).await;
    assert_eq!(members().await.unwrap_err().errcode(), Some(48_002));
    // Its authorisation is used at once, and its token as long as it lives.
    *known.dealer.lock().unwrap() =
        Some(DealerCredentials { secret: secret("CANARY-dealer-1"), generation: 1 });
    for _ in 0..3 {
        assert!(members().await.is_ok());
        clock.advance_ms(HOUR_MS / 4);
    }
    let own = "corpid=wpDEALER&corpsecret=CANARY%2Ddealer%2D1";
    let own_requests = wecom.requests().iter().filter(|request| request.query == own).count();
    assert_eq!((own_requests, wecom.count(SWAP)), (1, 2));
    // With another code of the dealer, another token.
    *known.dealer.lock().unwrap() =
        Some(DealerCredentials { secret: secret("CANARY-dealer-2"), generation: 2 });
    assert!(members().await.is_ok());
    assert!(wecom.requests().iter().any(|request| request.query.ends_with("dealer%2D2")));
    // Every call counts against the brand's quota.
    assert!(ledgers.charged.lock().unwrap().iter().all(|(_, [(corp, _), _])| corp == "wpBRAND"));
}

#[tokio::test]
async fn a_dealer_whose_token_is_refused_both_ways_has_the_refusal_that_is_about_it() {
    for (swap, own, expected) in [
        (670_001, 40_001, (Api::CorpGetToken, 670_001)),
        // Worth another try.
        (670_001, -1, (Api::GetToken, -1)),
        (670_001, 45_009, (Api::GetToken, 45_009)),
        // The brand's way may work next time.
        (-1, 0, (Api::CorpGetToken, -1)),
        (45_009, 0, (Api::CorpGetToken, 45_009)),
    ] {
        let wecom = Scripted::new(move |request| match request.path.as_str() {
            "corpgroup/corp/gettoken" => json!({"errcode": swap}),
            _ if request.query.starts_with("corpid=wpDEALER") => {
                json!({"errcode": own, "access_token": "CANARY-own"})
            }
            _ => json!({"errcode": 0, "access_token": "CANARY-brand", "follow_user": []}),
        });
        let known = Known::new();
        *known.dealer.lock().unwrap() = Some(DealerCredentials { secret: secret("x"), generation: 1 });
        let (client, ..) = client_over(wecom, known);
        match client.members(&brand(), &of_dealer()).await.unwrap_err() {
            CallError::Refused { api, errcode, .. } => assert_eq!((api, errcode), expected),
            other => panic!("{other}"),
        }
    }
    // A brand whose own token is refused is not the dealer's trouble.
    let wecom = Scripted::new(|_| json!({"errcode": 40_001}));
    let known = Known::new();
    *known.dealer.lock().unwrap() = Some(DealerCredentials { secret: secret("x"), generation: 1 });
    let (client, ..) = client_over(wecom.clone(), known);
    assert!(client.members(&brand(), &of_dealer()).await.is_err());
    assert_eq!(wecom.count("gettoken"), 1);
}

#[tokio::test]
async fn a_permanent_code_that_wecom_refuses_is_not_used_again_for_a_while() {
    let wecom = Scripted::new(|request| match request.path.as_str() {
        "gettoken" if request.query.ends_with("code%2D1") => json!({"errcode": 40_001}),
        _ => json!({"errcode": 0, "access_token": "CANARY-token", "follow_user": []}),
    });
    let known = Known::new();
    let (client, clock, _) = client_over(wecom.clone(), known.clone());
    let members = async || client.members(&brand(), &TokenOf::Upstream).await;
    // Otherwise WeCom would ban the address for an hour.
    for _ in 0..9 {
        assert_eq!(members().await.unwrap_err().errcode(), Some(40_001));
        clock.advance_ms(HOUR_MS / 60);
    }
    assert_eq!(wecom.count("gettoken"), 1);
    clock.advance_ms(HOUR_MS / 60);
    assert!(members().await.is_err());
    assert_eq!(wecom.count("gettoken"), 2);
    // It is tried at once after an operator's resume, but not after any other, such as that of a new dealer.
    client.forget_failures(Some(&brand()));
    assert!(members().await.is_err());
    assert_eq!(wecom.count("gettoken"), 2);
    client.forget_failures(None);
    client.forget_refused_codes(Some(&brand()));
    assert!(members().await.is_err());
    assert_eq!(wecom.count("gettoken"), 3);
    known.change_app(|app| (app.secret, app.generation) = (secret("CANARY-code-2"), 2));
    assert!(members().await.is_ok());
}
