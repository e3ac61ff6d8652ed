//! Over the HTTP of the simulated platform, written by others from the same documents: from a ticket to the
//! members of a dealer, both ways.

use super::*;
use crate::simulator::{Event, Options, Permission, Scanned, Simulator};
use crate::telemetry::address::Address;
use crate::wecom::wire::{ClientSettings, Https};

/// The text of an element of an event.
fn element(event: &Event, name: &str) -> SecretString {
    let (_, rest) = event.inner.split_once(&format!("<{name}><![CDATA[")).unwrap();
    secret(rest.split_once("]]>").unwrap().0)
}

#[tokio::test]
async fn a_brand_and_its_dealer_are_reached_with_their_permanent_codes() {
    let mut options = Options::default();
    options.agency.dealers_install = true;
    options.agency.corp_gettoken = Permission::Refused(48_002);
    let sim = Simulator::start(options, Arc::new(ManualClock::new(NOW))).await.unwrap();
    let template = sim.invent_template("http://127.0.0.1:9/callback");
    sim.add_template(template.clone());
    let timeout = std::time::Duration::from_secs(10);
    let settings = ClientSettings {
        api_base: Address(sim.base_url().parse().unwrap()),
        proxy: None,
        connect_timeout: timeout,
        timeout,
    };
    let known = Known::new();
    known.change_suite(|suite| {
        suite.provider_corp_id = corp(&template.provider_corp_id);
        suite.suite_id = SuiteId::new(template.suite_id.as_str()).unwrap();
        suite.secret = secret(&template.suite_secret);
    });
    let (client, ..) = client_over(Arc::new(Https::new(&settings).unwrap()), known.clone());

    let Scanned { corp_id, event } = sim.scan(&template.suite_id, "甲品牌");
    let auth_code = element(&event, "AuthCode");
    let refused = client.permanent_code(&agency(), &auth_code).await.unwrap_err();
    assert_eq!(refused.errcode(), Some(40_085));
    let ticket = element(&sim.ticket(&template.suite_id), "SuiteTicket");
    known.change_suite(|suite| suite.ticket = Ok(ticket));
    client.forget_failures(None);
    let granted = client.permanent_code(&agency(), &auth_code).await.unwrap();
    assert_eq!((granted.corp_id.as_str(), granted.corp_name.as_str()), (corp_id.as_str(), "甲品牌"));
    let again = client.permanent_code(&agency(), &auth_code).await.unwrap_err();
    assert_eq!((again.class(), again.errcode()), (Class::Item, Some(40_078)));
    let info = client.auth_info(&agency(), &granted.corp_id, &granted.code).await.unwrap();
    assert_eq!((info.corp_name.as_deref(), &info.shared_from), (Some("甲品牌"), &None));
    known.change_app(|app| {
        (app.corp_id, app.secret) = (granted.corp_id.clone(), granted.code.clone());
        app.agent_id = info.agent_id.unwrap();
    });
    let permissions = client.permissions(&brand()).await.unwrap();
    assert!(permissions.iter().any(|name| name == "externalcontact:base:base"), "{permissions:?}");

    let dealer = sim.add_dealer(&corp_id, "上海一店");
    let agent_id = i64::try_from(dealer.agent_id).unwrap();
    let of = TokenOf::Dealer { corp_id: corp(&dealer.corp_id), agent_id };
    assert_eq!(client.members(&brand(), &of).await.unwrap_err().errcode(), Some(48_002));
    let auth_code = element(&sim.install(&dealer.corp_id), "AuthCode");
    let granted = client.permanent_code(&agency(), &auth_code).await.unwrap();
    let info = client.auth_info(&agency(), &granted.corp_id, &granted.code).await.unwrap();
    assert_eq!(info.shared_from, Some(SharedFrom { corp_id: corp(&corp_id), share_type: 1 }));
    *known.dealer.lock().unwrap() = Some(DealerCredentials { secret: granted.code, generation: 1 });
    let found = client.members(&brand(), &of).await;
    assert!(found.is_ok(), "{found:?}");
    sim.configure(|options| options.agency.corp_gettoken = Permission::Allowed);
    *known.dealer.lock().unwrap() = None;
    assert_eq!(client.members(&brand(), &of).await, found);
}
