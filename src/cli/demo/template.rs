//! The template of an agency-developed app at the simulated platform.
//!
//! Deliberately absent: what happens with it (`agency`).

use crate::simulator::{CallbackSpec, Dealer, Event, Simulator, TemplateSpec};

/// Number of dealers, the last ones, that install the app: a permanent code of their own is the only way to
/// their tokens. The others are reached with the brand's.
pub(super) const INSTALLED: usize = 2;

/// A template, and the authorisations that are still to be reported.
pub(super) struct Agency {
    pub(super) template: TemplateSpec,
    pub(super) create_auth: Event,
    /// `create_auth` of the dealers that install the app.
    pub(super) installs: Vec<Event>,
}

impl Agency {
    /// A template without a callback URL yet, and the corp id of a brand whose administrator has scanned its
    /// QR code.
    pub(super) fn new(wecom: &Simulator) -> (Self, String) {
        wecom.configure(|options| options.agency.installed_are_shared = false);
        let template = wecom.invent_template("http://127.0.0.1/");
        wecom.add_template(template.clone());
        let brand = wecom.scan(&template.suite_id, "Brand");
        (Self { template, create_auth: brand.event, installs: Vec::new() }, brand.corp_id)
    }

    /// Sets the template's callback URL, and lets dealers install the app.
    pub(super) fn prepare(&mut self, wecom: &Simulator, callback: CallbackSpec, dealers: &[Dealer]) {
        wecom.set_template_callback(&self.template.suite_id, callback);
        let installing = dealers.iter().skip(dealers.len().saturating_sub(INSTALLED));
        self.installs = installing.map(|dealer| wecom.install(&dealer.corp_id)).collect();
    }
}
