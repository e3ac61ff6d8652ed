//! Agency-developed apps (代开发) in a schedule: the suite and its tickets, the corps that authorise it, and
//! what these and the provider do about it.
//!
//! Everything here is drawn from a stream of its own, so that schedules with self-built apps do not depend on
//! it.
//!
//! Deliberately absent: what an operator sees and does about authorisations (`authorizations`), and verdicts
//! (`isolation`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use unionlink::clock::Clock;
use unionlink::domain::ids::AppName;
use unionlink::domain::suite::{CodeId, ExchangeEnd, TICKET_EVERY_MS};
use unionlink::domain::time::{HOUR_MS, SECOND_MS, Timestamp};
use unionlink::simulator::{
    Api, Event, EventUrl, Fault, Options, Permission, ResetEndsOld, Scanned, ShareChange, SharedFrom,
    Simulator, TemplateSpec, TicketRule,
};

use crate::schedule::Schedule;
use crate::service::Brand;
use crate::time::{Dice, pass};

/// One in this many schedules has agency-developed apps. They take half as long again as others.
const ONE_IN: u64 = 6;
/// The name of the suite, which is that of its callback URL.
const SUITE: &str = "agency";
/// How long it may take until a dealer that installs the app is known: the dealers are read at most once a
/// minute.
const UNTIL_LISTED: Duration = Duration::from_secs(70);
const FORBIDDEN: Permission = Permission::Refused(48_002);

/// How an event of the suite is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Late, repeated or never, as others.
    Usual,
    /// At once.
    Sure,
}

/// What is decided about a deployment before the platform exists.
pub struct Plan {
    brands: &'static [&'static str],
    is_sealed_for_suite: bool,
    dice: Dice,
}

/// The parts of the configuration that say how apps are developed.
pub struct Access {
    pub suites: String,
    /// The keys of each app, in the order of the brands.
    pub apps: Vec<String>,
    /// The suite id, if the events of apps are sealed for it.
    pub sealed_for: Option<String>,
}

/// A suite, and all that happened to it.
pub struct Agency {
    pub suite: AppName,
    pub template: TemplateSpec,
    /// The corps that have authorised it, and whether they do now.
    pub corps: BTreeMap<String, bool>,
    /// Every auth code, oldest first.
    pub codes: Vec<IssuedCode>,
    /// How exchanges ended that are known to have failed.
    pub ends: BTreeMap<CodeId, ExchangeEnd>,
    /// The first event of each brand.
    scans: Vec<(String, Event)>,
    dealers_install: bool,
    ticket_due: Timestamp,
    dice: Dice,
}

/// An auth code.
pub struct IssuedCode {
    pub id: CodeId,
    pub value: String,
    pub corp_id: String,
    pub issued_at: Timestamp,
    /// The service has acknowledged its event.
    pub acknowledged: Arc<AtomicBool>,
    /// The corp cancelled before it was exchanged.
    pub is_void: bool,
}

impl Plan {
    /// The plan of a schedule with agency-developed apps; `None` for one with self-built apps.
    pub fn of(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(seed, 4);
        dice.one_in(ONE_IN).then(|| Self {
            brands: if dice.one_in(3) { &["brand", "second"] } else { &["brand"] },
            is_sealed_for_suite: dice.one_in(3),
            dice,
        })
    }

    /// Chooses how WeCom behaves where its documents are silent about such apps.
    pub fn vary(&mut self, options: &mut Options) {
        let (agency, dice) = (&mut options.agency, &mut self.dice);
        agency.ticket_rule = dice.among(&[TicketRule::Unexpired, TicketRule::Newest]);
        agency.suite_token_errcode = dice.one_in(2);
        agency.dealers_install = dice.one_in(2);
        if agency.dealers_install {
            agency.corp_gettoken = dice.among(&[Permission::Allowed, FORBIDDEN]);
            agency.list_app_share_info = dice.among(&[Permission::Allowed, Permission::Allowed, FORBIDDEN]);
        }
        agency.event_url = dice.among(&[EventUrl::Brand, EventUrl::Dealer]);
        agency.share_change =
            dice.among(&[ShareChange::AppUrl, ShareChange::TemplateUrl, ShareChange::Never]);
        agency.reset_ends_old = dice.among(&[ResetEndsOld::AtOnce, ResetEndsOld::AtExchange]);
        // With several brands, nothing would tell whose dealer it is.
        if self.brands.len() == 1 {
            agency.shared_from = dice.among(&[SharedFrom::Visible, SharedFrom::Plain]);
        }
        agency.cancelled = dice.among(&[48_004, 48_003, 40_014, 40_001]);
    }

    /// Adds the suite and its brands, which scan the QR code now.
    pub fn deploy(
        mut self,
        sim: &Simulator,
        options: &Options,
        now: Timestamp,
    ) -> (Agency, Vec<Brand>, Access) {
        let url = |name: &str| format!("http://unionlink.invalid/callback/{name}");
        let template = sim.invent_template(&url(SUITE));
        sim.add_template(template.clone());
        let (mut brands, mut scans, mut apps) = (Vec::new(), Vec::new(), Vec::new());
        for (n, name) in self.brands.iter().enumerate() {
            let Scanned { corp_id, event } = sim.scan(&template.suite_id, name);
            let mut keys = format!("suite = \"{SUITE}\"\n");
            // The last app may take the only brand that is left.
            if n + 1 < self.brands.len() || self.dice.one_in(2) {
                writeln!(keys, "corp_id = \"{corp_id}\"").unwrap();
            }
            if self.dice.one_in(3) {
                let own = sim.invent_callback(&url(name));
                writeln!(keys, "callback_token = {{ value = \"{}\" }}", own.token).unwrap();
                writeln!(keys, "encoding_aes_key = {{ value = \"{}\" }}", own.aes_key).unwrap();
                sim.set_own_callback(&corp_id, Some(own));
            }
            apps.push(keys);
            let agent_id = sim.agent_id(&corp_id);
            brands.push(Brand { app: AppName::new(*name).unwrap(), corp_id: corp_id.clone(), agent_id });
            scans.push((corp_id, event));
        }
        let TemplateSpec { provider_corp_id, suite_id, suite_secret, callback } = &template;
        let suites = format!(
            "[[suites]]\nname = \"{SUITE}\"\nprovider_corp_id = \"{provider_corp_id}\"\n\
             suite_id = \"{suite_id}\"\nsuite_secret = {{ value = \"{suite_secret}\" }}\ncallback_token = {{ value = \"{}\" }}\n\
             encoding_aes_key = {{ value = \"{}\" }}\n",
            callback.token, callback.aes_key,
        );
        let access = Access { suites, apps, sealed_for: self.is_sealed_for_suite.then(|| suite_id.clone()) };
        let agency = Agency {
            suite: AppName::new(SUITE).unwrap(),
            template,
            corps: BTreeMap::new(),
            codes: Vec::new(),
            ends: BTreeMap::new(),
            scans,
            dealers_install: options.agency.dealers_install,
            ticket_due: now,
            dice: self.dice,
        };
        (agency, brands, access)
    }
}

impl Agency {
    /// The newest auth code of a corp.
    pub fn newest_code(&self, corp_id: &str) -> Option<&IssuedCode> {
        self.codes.iter().rfind(|code| code.corp_id == corp_id)
    }

    fn some_corp(&mut self) -> Option<String> {
        let corps: Vec<_> = self.corps.keys().cloned().collect();
        (!corps.is_empty()).then(|| corps[self.dice.index(corps.len())].clone())
    }

    /// Records the auth code of an event. Returns the flag to set when the event is acknowledged.
    fn issued(&mut self, corp_id: &str, event: &Event, issued_at: Timestamp) -> Arc<AtomicBool> {
        const BEFORE: &str = "<AuthCode><![CDATA[";
        let from = event.inner.find(BEFORE).unwrap() + BEFORE.len();
        let value = event.inner[from..].split(']').next().unwrap().to_owned();
        let (id, acknowledged) = (CodeId::of(&self.suite, &value), Arc::<AtomicBool>::default());
        let (corp_id, flag) = (corp_id.to_owned(), acknowledged.clone());
        self.corps.insert(corp_id.clone(), true);
        self.codes.push(IssuedCode { id, value, corp_id, issued_at, acknowledged, is_void: false });
        flag
    }
}

/// Brands.
impl Schedule {
    pub fn any_brand(&mut self) -> Brand {
        let brands = &self.machine.brands;
        match &mut self.agency {
            Some(agency) => brands[agency.dice.index(brands.len())].clone(),
            None => brands[0].clone(),
        }
    }

    /// A dealer of whom the person becomes a customer, `d` if possible: of another brand than the person's
    /// only now and then, unless `always` of the same.
    pub fn dealer_for(&mut self, p: usize, d: usize, always: bool) -> usize {
        let Some(agency) = &mut self.agency else { return d };
        let brand = &self.cast.people[p].brand.corp_id;
        let is_ours = |d: &usize| self.cast.dealers[*d].brand.corp_id == *brand;
        if is_ours(&d) || !always && agency.dice.one_in(4) {
            return d;
        }
        let ours: Vec<_> = (0..self.cast.dealers.len()).filter(is_ours).collect();
        agency.dice.among(&ours)
    }
}

/// Authorisations.
impl Schedule {
    /// The events of the QR codes that the brands have scanned are delivered.
    pub fn scan_the_codes(&mut self) {
        let Some(agency) = &mut self.agency else { return };
        for (corp_id, event) in std::mem::take(&mut agency.scans) {
            self.deliver_code(&corp_id, &event, "scans the QR code", Delivery::Usual);
        }
    }

    /// Whether a corp has authorised the suite, now or before.
    pub fn has_installed(&self, corp_id: &str) -> bool {
        self.agency.as_ref().is_some_and(|agency| agency.corps.contains_key(corp_id))
    }

    pub fn dealers_install(&self) -> bool {
        self.agency.as_ref().is_some_and(|agency| agency.dealers_install)
    }

    /// A new dealer installs the app, if that is how WeCom works.
    pub fn has_to_install(&mut self, dealer: &str, delivery: Delivery) {
        if self.dealers_install() {
            self.install(dealer, delivery);
        }
    }

    /// Adds a dealer that installs the app some time before it has customers. Returns its position.
    pub async fn install_in_time(&mut self, brand: Brand) -> usize {
        self.ticket_now().await;
        let d = self.add_dealer_of(brand, Delivery::Sure);
        // It is authorised, and then listed.
        for wait in [Duration::ZERO, UNTIL_LISTED] {
            pass(wait).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        d
    }

    fn install(&mut self, dealer: &str, delivery: Delivery) {
        let event = self.machine.sim.install(dealer);
        self.deliver_code(dealer, &event, "installs the app", delivery);
    }

    /// A corp authorises again.
    pub fn authorize(&mut self, corp_id: &str, delivery: Delivery) {
        if self.has_a_code_of_this_second(corp_id) {
            return;
        }
        let event = self.machine.sim.authorize_again(corp_id);
        self.deliver_code(corp_id, &event, "authorises", delivery);
    }

    /// The provider resets the permanent code of a corp.
    fn reset(&mut self, corp_id: &str) {
        if self.agency.as_ref().is_some_and(|agency| agency.corps[corp_id])
            && !self.has_a_code_of_this_second(corp_id)
        {
            let event = self.machine.sim.reset_code(corp_id);
            self.deliver_code(corp_id, &event, "has its permanent code reset", Delivery::Usual);
        }
    }

    /// WeCom's times are whole seconds: of two codes of one second, nothing tells which is the newer one.
    fn has_a_code_of_this_second(&self, corp_id: &str) -> bool {
        let newest = self.agency.as_ref().and_then(|agency| agency.newest_code(corp_id));
        newest.is_some_and(|code| !code.is_void && code.issued_at.as_secs() == self.time.now().as_secs())
    }

    /// A corp ends its authorisation.
    pub fn cancel(&mut self, corp_id: &str, delivery: Delivery) {
        let Some(agency) = &mut self.agency else { return };
        let spent = self.machine.sim.spent_auth_codes();
        for code in agency.codes.iter_mut().filter(|code| code.corp_id == corp_id) {
            code.is_void |= !spent.contains(&code.value);
        }
        agency.corps.insert(corp_id.to_owned(), false);
        let event = self.machine.sim.cancel(corp_id);
        let what = format!("{} cancels", self.name_of(corp_id));
        self.deliver_of_suite(&event, &Arc::default(), &what, delivery);
    }

    fn deliver_code(&mut self, corp_id: &str, event: &Event, what: &str, delivery: Delivery) {
        let now = self.time.now();
        let Some(agency) = &mut self.agency else { return };
        let flag = agency.issued(corp_id, event, now);
        let what = format!("{} {what}", self.name_of(corp_id));
        self.deliver_of_suite(event, &flag, &what, delivery);
    }

    fn name_of(&self, corp_id: &str) -> String {
        if let Some(d) = self.dealer_of_corp(corp_id) {
            return format!("d{d}");
        }
        let brand = self.machine.brands.iter().find(|brand| brand.corp_id == corp_id);
        brand.map_or_else(|| corp_id.to_owned(), |brand| brand.app.to_string())
    }

    fn dealer_of_corp(&self, corp_id: &str) -> Option<usize> {
        self.cast.dealers.iter().position(|dealer| dealer.dealer.corp_id == corp_id)
    }

    fn deliver_of_suite(&mut self, event: &Event, flag: &Arc<AtomicBool>, what: &str, delivery: Delivery) {
        let Some(agency) = &mut self.agency else { return };
        let dice = &mut agency.dice;
        let copies = if delivery == Delivery::Usual && dice.one_in(6) { 2 } else { 1 };
        let delays: Vec<_> = (0..copies)
            .map(|_| match (delivery, dice.below(20)) {
                (Delivery::Sure, _) | (_, 0..13) => Some(Duration::ZERO),
                (_, 13..16) => Some(dice.millis(1, 3_000)),
                (_, 16..18) => Some(dice.millis(3_000, 90_000)),
                _ => None,
            })
            .collect();
        let reseals = dice.one_in(2);
        self.note(format!("{what}, delivered after {delays:?}"));
        for delay in delays.into_iter().flatten() {
            self.send(event, flag, what, delay, reseals);
        }
    }
}

/// Tickets.
impl Schedule {
    /// From now on, tickets come in time.
    pub fn tickets_come(&mut self) {
        let now = self.time.now();
        if let Some(agency) = &mut self.agency {
            agency.ticket_due = now;
        }
    }

    /// WeCom sends a ticket.
    pub async fn ticket_now(&mut self) {
        if self.agency.is_some() {
            self.ticket(Delivery::Sure);
            // It arrives.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn ticket(&mut self, delivery: Delivery) {
        let now = self.time.now();
        let Some(agency) = &mut self.agency else { return };
        agency.ticket_due = now.plus_ms(TICKET_EVERY_MS);
        let event = self.machine.sim.ticket(&agency.template.suite_id);
        self.deliver_of_suite(&event, &Arc::default(), "a ticket", delivery);
    }

    /// WeCom sends a ticket if one is due, unless the next ones are lost.
    fn ticket_if_due(&mut self) {
        let now = self.time.now();
        let Some(agency) = &mut self.agency else { return };
        if now < agency.ticket_due {
            return;
        }
        if agency.dice.one_in(8) {
            let until_ms = i64::try_from(agency.dice.below(HOUR_MS.unsigned_abs())).unwrap();
            agency.ticket_due = now.plus_ms(until_ms);
            return self.note(format!("tickets are lost for {} s", until_ms / SECOND_MS));
        }
        self.ticket(Delivery::Usual);
    }
}

/// The random steps of the agency.
impl Schedule {
    pub async fn step_of_the_agency(&mut self) {
        if self.agency.is_none() {
            return;
        }
        self.note_ends().await;
        self.ticket_if_due();
        let Some(agency) = &mut self.agency else { return };
        let Some(corp_id) = agency.some_corp() else { return };
        match agency.dice.below(32) {
            0 | 1 => self.authorize_or_share(&corp_id),
            2 | 3 => self.reset(&corp_id),
            4 => match self.dealer_of_corp(&corp_id) {
                Some(d) => self.share(d, false),
                None => self.cancel(&corp_id, Delivery::Usual),
            },
            5 => {
                let event = self.machine.sim.change_auth(&corp_id);
                self.deliver_of_suite(&event, &Arc::default(), "an authorisation changes", Delivery::Usual);
            }
            6..9 => self.trouble_at_the_suite(),
            9 => self.install_somewhere(),
            10..13 => self.interrupt_an_exchange(&corp_id).await,
            13..18 => {
                let mut corps = agency.corps.iter();
                let cancelled = corps.find(|(_, is_authorized)| !**is_authorized);
                if let Some(corp_id) = cancelled.map(|(corp_id, _)| corp_id.clone()) {
                    self.authorize_or_share(&corp_id);
                }
            }
            _ => {}
        }
    }

    fn authorize_or_share(&mut self, corp_id: &str) {
        match self.dealer_of_corp(corp_id) {
            Some(d) if !self.cast.dealers[d].is_shared => self.share(d, true),
            _ => self.authorize(corp_id, Delivery::Usual),
        }
    }

    /// A dealer installs the app although it need not.
    fn install_somewhere(&mut self) {
        let Some(agency) = &mut self.agency else { return };
        let d = agency.dice.index(self.cast.dealers.len());
        let corp_id = self.cast.dealers[d].dealer.corp_id.clone();
        if self.cast.dealers[d].is_shared && !self.has_installed(&corp_id) {
            self.install(&corp_id, Delivery::Usual);
        }
    }

    /// A corp authorises, and something happens between two steps of the exchange.
    async fn interrupt_an_exchange(&mut self, corp_id: &str) {
        self.ticket(Delivery::Sure);
        self.authorize_or_share(corp_id);
        let Some(agency) = &mut self.agency else { return };
        let how = agency.dice.below(4);
        if how < 3 {
            let fault = agency.dice.among(&[Fault::ApplyThenDrop, Fault::Latency(3_000), Fault::Hang]);
            self.note(format!("the exchange meets {fault:?}"));
            self.machine.sim.inject(Api::GetPermanentCode, fault, Some(1));
        }
        if how > 0 {
            let Some(agency) = &mut self.agency else { return };
            let (wait, crash) = (agency.dice.millis(0, 2_500), (agency.dice.below(8), agency.dice.one_in(2)));
            if how == 1 {
                *self.machine.disk.crash.lock().unwrap() = Some(crash);
            }
            pass(wait).await;
            if how > 1 {
                self.note("killed in an exchange");
                self.machine.kill();
            }
        }
    }

    /// Calls of the suite fail a few times.
    fn trouble_at_the_suite(&mut self) {
        const CODES: [i64; 7] = [-1, 45_009, 60_020, 99_999, 40_082, 42_009, 40_001];
        let Some(agency) = &mut self.agency else { return };
        let dice = &mut agency.dice;
        let api = dice.among(&[
            Api::GetSuiteToken,
            Api::GetPermanentCode,
            Api::GetPermanentCode,
            Api::GetAuthInfo,
            Api::GetPermissions,
            Api::GetToken,
        ]);
        let fault = match dice.below(8) {
            0..3 => Fault::ApplyThenDrop,
            3 | 4 => Fault::Errcode(dice.among(&CODES)),
            5 => Fault::Latency(dice.between(1, 15_000)),
            6 => dice.among(&[Fault::Hang, Fault::Reset]),
            _ => dice.among(&[Fault::Garbage, Fault::HttpStatus(502)]),
        };
        let times = dice.among(&[1, 1, 2, 4]);
        self.note(format!("the suite: {api:?} {fault:?} {times}"));
        self.machine.sim.inject(api, fault, Some(times));
    }
}
