//! The set-up of a schedule, chosen at random: how WeCom behaves where its documents are silent, the
//! configuration of the service, and the participants.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio_util::task::TaskTracker;
use unionlink::clock::Clock;
use unionlink::config::{self, Environment};
use unionlink::domain::ids::AppName;
use unionlink::domain::time::Timestamp;
use unionlink::simulator::{
    AppSpec, ConversionQuota, Invisible, ItemForm, Options, PageFill, Permission, ReceiveId, Remint,
    Simulator, TokenRule, UnknownId, Unminted,
};
use unionlink::store::embedded::Settings;

use crate::agency::{Access, Agency, Delivery, Plan};
use crate::cast::Cast;
use crate::check::Judged;
use crate::receiver::Receiver;
use crate::schedule::Schedule;
use crate::service::{Brand, Machine, Setup};
use crate::time::{Dice, MachineClock, Trace, TrueTime};

impl Schedule {
    /// A schedule set up from a seed, before its first step.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Plan::of(seed), |_| {})
    }

    /// The same, with agency-developed apps if there is a plan for them, and with a change of how WeCom
    /// behaves.
    pub fn with(seed: u64, mut plan: Option<Plan>, change: impl FnOnce(&mut Options)) -> Self {
        let mut dice = Dice::new(seed, 1);
        let time = TrueTime::begin();
        let (trace, clock) = (Trace::new(time), Arc::new(MachineClock::new(time)));
        let mut options = options(seed, &mut dice);
        if let Some(plan) = &mut plan {
            plan.vary(&mut options);
        }
        change(&mut options);
        let sim = Simulator::unplugged(options.clone(), Arc::new(time));
        let (agency, brands, access) = match plan {
            Some(plan) => {
                let (agency, brands, access) = plan.deploy(&sim, &options, time.now());
                (Some(agency), brands, access)
            }
            None => self_built(&sim),
        };
        let mut setup = setup(&options, &brands, access, &mut dice);
        setup.replicas = replicas(seed);
        let asks_existing = !dice.one_in(3);
        let short_waits = dice.one_in(2);
        let lost_percent = dice.among(&[5, 5, 5, 10, 40, 100]);
        let sealed_for_brand = options.sender.receive_id == ReceiveId::Upstream && agency.is_none();
        trace.note(format!(
            "{} processes; {}{:?} {:?} {:?} {:?} {:?}, {} ms, quota {:?}; lists {:?} {:?}, invisible {:?}, lag {} ms; {:?}; \
             existing {asks_existing}, {lost_percent} % are lost",
            setup.replicas,
            agency.as_ref().map(|_| format!("{:?}; ", options.agency)).unwrap_or_default(),
            options.token_rule,
            options.remint,
            options.unknown_id,
            options.unminted,
            options.sender.receive_id,
            options.latency_ms,
            options.quota,
            options.contact_list,
            options.lists_deleted_by_customer,
            options.invisible,
            options.chat_lag_ms,
            setup.config.apps,
        ));
        let receivers = [("crm", 2), ("cdp", 3)];
        let receivers =
            receivers.map(|(name, purpose)| Receiver::new(name, Dice::new(seed, purpose), trace.clone()));
        let machine = Machine::new(seed, sim, brands, setup, clock, receivers.to_vec(), trace);
        let mut schedule = Self {
            machine: Arc::new(machine),
            cast: Cast::default(),
            time,
            asks_existing,
            sealed_for_brand,
            short_waits,
            lost_percent,
            woke_at: Timestamp::EPOCH,
            late: Vec::new(),
            repaired_at: Timestamp::EPOCH,
            judged: Judged::default(),
            compared_before: None,
            deliveries: TaskTracker::new(),
            events_sent: 0,
            events_stored: 0,
            dice,
            agency,
        };
        for _ in 0..schedule.dice.between(1, 3) {
            schedule.add_dealer();
        }
        for brand in schedule.machine.brands.clone() {
            if schedule.cast.dealers.iter().all(|dealer| dealer.brand.corp_id != brand.corp_id) {
                schedule.add_dealer_of(brand, Delivery::Usual);
            }
        }
        for _ in 0..schedule.dice.between(1, 8) {
            schedule.add_somebody();
        }
        schedule
    }
}

/// WeCom's behaviour where its documents are silent.
fn options(seed: u64, dice: &mut Dice) -> Options {
    let mut options = Options {
        seed,
        token_rule: dice.among(&[TokenRule::Downstream, TokenRule::Upstream, TokenRule::Either]),
        unknown_id: dice.among(&[UnknownId::OmitRow, UnknownId::EmptyPendingId, UnknownId::FailBatch40096]),
        unminted: dice.among(&[Unminted::OmitRow, Unminted::EmptyPendingId]),
        remint: dice.among(&[Remint::SameId, Remint::SameIdNotRenewed, Remint::NewId]),
        latency_ms: dice.among(&[0, 30, 400]),
        ..Options::default()
    };
    if dice.one_in(2) {
        let per_hour = dice.between(3, 30);
        let per_day = per_hour * dice.between(2, 10);
        options.quota = ConversionQuota { per_hour, per_day, per_month: per_day * 30 };
    }
    options.sender.receive_id = dice.among(&[ReceiveId::Upstream, ReceiveId::Upstream, ReceiveId::Dealer]);
    let permissions = [Permission::Allowed, Permission::Allowed, Permission::Refused(48_002)];
    options.contact_list = dice.among(&permissions);
    options.chain_calls = dice.among(&permissions);
    options.contact_list_strangers = dice.index(3);
    options.lists_deleted_by_customer = dice.one_in(2);
    options.page_fill = dice.among(&[PageFill::Full, PageFill::PerMember]);
    options.invisible =
        dice.among(&[Invisible::OmitRow, Invisible::FailBatch(60_011), Invisible::FailBatch(84_061)]);
    options.item_form = dice.among(&[ItemForm::Plain, ItemForm::Cdata]);
    options.chat_items_max = dice.among(&[None, None, Some(1)]);
    options.chat_lag_ms = dice.among(&[0, 0, 1_500, 6_000]);
    options.withdrawn_token = dice.among(&[670_001, 40_014]);
    options
}

/// The number of processes: one with a store of its own, or replicas that share one.
fn replicas(seed: u64) -> usize {
    Dice::new(seed, 5).among(&[1, 1, 1, 2, 2, 3])
}

/// A brand with a self-built app.
fn self_built(sim: &Simulator) -> (Option<Agency>, Vec<Brand>, Access) {
    let app = AppSpec { callback: None, ..sim.invent_app() };
    let callback = sim.invent_callback("http://unionlink.invalid/callback/brand");
    sim.add_app(AppSpec { callback: Some(callback.clone()), ..app.clone() });
    let AppSpec { corp_id, agent_id, secret, .. } = app;
    let keys = format!(
        "corp_id = \"{corp_id}\"\nagent_id = {agent_id}\nsecret = {{ value = \"{secret}\" }}\n\
         callback_token = {{ value = \"{}\" }}\nencoding_aes_key = {{ value = \"{}\" }}\n",
        callback.token, callback.aes_key,
    );
    let brand = Brand { app: AppName::new("brand").unwrap(), corp_id, agent_id };
    (None, vec![brand], Access { suites: String::new(), apps: vec![keys], sealed_for: None })
}

/// The configuration of the service, consistent with that behaviour.
fn setup(options: &Options, brands: &[Brand], access: Access, dice: &mut Dice) -> Setup {
    let token = match options.token_rule {
        TokenRule::Downstream => dice.among(&["auto", "downstream"]),
        TokenRule::Upstream => dice.among(&["auto", "upstream"]),
        TokenRule::Either => "auto",
    };
    let same_id_extends = options.remint == Remint::SameId && dice.one_in(2);
    let reserve_percent = dice.among(&[0, 5, 20]);
    let reconcile_hours = dice.among(&[0, 24, 24, 100]);
    let settings = Settings {
        inbox_events_max: dice.among(&[5, 1_000, 1_000]),
        dedupe_days: u32::try_from(dice.between(1, 7)).unwrap(),
        // Schedules sleep for months, and what expires unseen in the meantime is not linked.
        quarantine_days: 3_650,
        ..Settings::default()
    };
    let calls_max = dice.between(1, 8);
    let ConversionQuota { per_hour, per_day, per_month } = options.quota;
    let Access { suites, apps, sealed_for } = access;
    let is_agency = !suites.is_empty();
    let mut text = format!("[admin]\nopen = true\n[wecom]\ncalls_max = {calls_max}\n{suites}");
    for (Brand { app, .. }, keys) in brands.iter().zip(apps) {
        write!(
            text,
            "[[apps]]\nname = \"{app}\"\n{keys}conversion_token = \"{token}\"\n\
             same_id_extends = {same_id_extends}\nreconcile_hours = {reconcile_hours}\n\
             quota = {{ per_hour = {per_hour}, per_day = {per_day}, per_month = {per_month}, \
             reserve_percent = {reserve_percent} }}\n",
        )
        .unwrap();
    }
    let config = config::parse(&text, "schedule".as_ref(), &Environment::default())
        .unwrap_or_else(|e| panic!("{e}: {text}"));
    Setup {
        config,
        reconciles_by_itself: reconcile_hours > 0,
        // Agency-developed apps may not call it.
        lists_first_add: options.contact_list == Permission::Allowed && !is_agency,
        lists_deleted_by_customer: options.lists_deleted_by_customer,
        chat_lag_ms: options.chat_lag_ms,
        sealed_for,
        settings,
        replicas: 1,
    }
}
