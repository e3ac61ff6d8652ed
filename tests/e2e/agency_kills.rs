//! The exchange of an auth code across SIGKILL: the code is durable before any call, a try without an answer is
//! repeated, and one code is never two authorisations.

use unionlink::simulator::{Api, Fault};

use crate::agency::agency;
use crate::process::Process;

/// The answers of `get_permanent_code` so far; `None` if there was none.
fn exchanges(process: &Process) -> Vec<Option<i64>> {
    process.world.calls_of(Api::GetPermanentCode).iter().map(|call| call.errcode).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_every_two_steps_of_an_exchange_it_goes_on_and_authorises_once() {
    let mut process = Process::with(agency(|_| {})).await;
    let wecom = process.world.wecom.clone();
    let fans = wecom.add_people(1);
    let (brand, create_auth) = process.world.scan("Brand");
    process.world.add_dealers(&brand, 1);
    process.start().await;
    process.world.ticket().await;
    for step in
        [Api::GetSuiteToken, Api::GetPermanentCode, Api::GetAuthInfo, Api::GetToken, Api::GetPermissions]
    {
        // The call has no effect and no answer.
        wecom.inject(step, Fault::Hang, None);
        if step != Api::GetSuiteToken {
            process.start().await;
        }
        // The first time, and as WeCom repeats it.
        process.world.deliver(&create_auth).await;
        process.world.called(step, 1).await;
        process.kill().await;
        wecom.clear_faults();
    }
    process.start().await;
    process.world.register(&fans).await;
    process.world.minted(&fans).await;
    process.world.add(0, &fans[0], "zhangsan").await;
    process.world.linked(&fans[0], 1).await;
    assert_eq!(exchanges(&process), [None, Some(0)]);
    assert_eq!(process.world.successes_of(Api::GetAuthInfo), 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_was_used_up_by_a_lost_answer_is_reported_and_authorising_again_helps() {
    let mut process = Process::with(agency(|_| {})).await;
    let wecom = process.world.wecom.clone();
    let fans = wecom.add_people(2);
    let (brand, create_auth) = process.world.scan("Brand");
    process.start().await;
    process.world.register(&fans[..1]).await;
    process.world.ticket().await;
    // The code is used up at once, and the answer does not come before the process is killed.
    wecom.inject(Api::GetPermanentCode, Fault::Latency(600_000), Some(1));
    process.world.deliver(&create_auth).await;
    process.world.called(Api::GetPermanentCode, 1).await;
    process.kill().await;
    process.start().await;
    process.logged("kind=\"create\" how=\"lost\"").await;
    assert!(process.read_log().contains("authorise again"), "{}", process.read_log());
    process.world.deliver(&create_auth).await;
    process.world.parked().await;
    assert_eq!(exchanges(&process), [Some(0), Some(40_078)]);
    process.world.deliver(&wecom.authorize_again(&brand)).await;
    process.world.minted(&fans[..1]).await;

    // The same without a kill, when the provider chooses 重新获取 secret.
    wecom.inject(Api::GetPermanentCode, Fault::ApplyThenDrop, Some(1));
    process.world.deliver(&wecom.reset_code(&brand)).await;
    process.logged("kind=\"reset\" how=\"lost\"").await;
    process.world.deliver(&wecom.reset_code(&brand)).await;
    process.world.register(&fans[1..]).await;
    process.world.minted(&fans).await;
    assert_eq!(exchanges(&process)[2..], [Some(0), None, Some(40_078), Some(0)]);
    process.stop().await;
}
