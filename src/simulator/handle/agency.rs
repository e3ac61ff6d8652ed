//! The methods of [`Simulator`] about agency-developed apps (代开发): templates and authorizations.
//!
//! Deliberately absent: what happens in an authorization (`agency` of the simulator), sending and verifying
//! (`sender`).

use super::{Simulator, known};
use crate::simulator::agency::Scanned;
use crate::simulator::event::Event;
use crate::simulator::ids;
use crate::simulator::model::{CallbackSpec, TemplateSpec};
use crate::simulator::seal::Sealer;

/// Templates and authorizations. No event is sent, except that a platform with sockets sends tickets.
impl Simulator {
    /// A template with random ids, keys and this callback URL; [`Self::add_template`] adds it.
    #[must_use]
    pub fn invent_template(&self, url: &str) -> TemplateSpec {
        let callback = self.invent_callback(url);
        let rng = &mut self.world().rng;
        TemplateSpec {
            provider_corp_id: ids::upstream_corp_id(rng),
            suite_id: ids::suite_id(rng),
            suite_secret: ids::secret(rng),
            callback,
        }
    }

    /// Adds a template. It has no ticket until [`Self::ticket`], or until the platform sends one.
    ///
    /// # Panics
    /// If the callback's `aes_key` is not 43 letters and digits.
    pub fn add_template(&self, template: TemplateSpec) {
        known(Sealer::new(&template.callback));
        self.world().add_template(template);
    }

    /// Changes the callback configuration of a template, and of its apps that have none of their own.
    ///
    /// # Panics
    /// If the `aes_key` is not 43 letters and digits.
    pub fn set_template_callback(&self, suite_id: &str, callback: CallbackSpec) {
        known(Sealer::new(&callback));
        let mut world = self.world();
        let template = known(world.template(suite_id));
        world.templates[template].spec.callback = callback;
    }

    /// Changes the secret of a template.
    pub fn set_suite_secret(&self, suite_id: &str, secret: &str) {
        let mut world = self.world();
        let template = known(world.template(suite_id));
        secret.clone_into(&mut world.templates[template].spec.suite_secret);
    }

    /// A new ticket, valid for 30 minutes from now on whether it arrives or not.
    #[must_use]
    pub fn ticket(&self, suite_id: &str) -> Event {
        let mut world = self.world();
        let template = known(world.template(suite_id));
        world.ticket(template)
    }

    /// A new brand scans the QR code of a template. Its auth code expires in ten minutes.
    #[must_use]
    pub fn scan(&self, suite_id: &str, name: &str) -> Scanned {
        let mut world = self.world();
        let template = known(world.template(suite_id));
        let (corp, event) = world.scan(template, name);
        Scanned { corp_id: world.corps[corp].id.clone(), event }
    }

    /// A brand or dealer authorizes again. Unless it had cancelled, the permanent code stays the same.
    /// Returns `create_auth`.
    #[must_use]
    pub fn authorize_again(&self, corp_id: &str) -> Event {
        known(self.world().authorize_again(corp_id))
    }

    /// A dealer of such a brand installs the shared app. Returns `create_auth`, whose exchange leads to a
    /// `shared_from`.
    #[must_use]
    pub fn install(&self, dealer_corp_id: &str) -> Event {
        known(self.world().install(dealer_corp_id))
    }

    /// A brand or dealer ends its authorization. Returns `cancel_auth`.
    #[must_use]
    pub fn cancel(&self, corp_id: &str) -> Event {
        known(self.world().cancel(corp_id))
    }

    /// The provider resets the permanent code of a brand or dealer. Returns `reset_permanent_code`.
    #[must_use]
    pub fn reset_code(&self, corp_id: &str) -> Event {
        known(self.world().reset_code(corp_id))
    }

    /// `change_auth` of a brand or dealer.
    #[must_use]
    pub fn change_auth(&self, corp_id: &str) -> Event {
        known(self.world().change_auth(corp_id))
    }

    /// Sets the custom permissions of an app. The default is `externalcontact:base:base`; without it, the
    /// APIs about customers and groups answer 48002.
    pub fn set_permissions(&self, corp_id: &str, permissions: &[&str]) {
        let permissions = permissions.iter().map(|name| (*name).to_owned()).collect();
        known(self.world().agency_mut(corp_id)).1.permissions = permissions;
    }

    /// Gives the app of a brand, or of a dealer that installed it, a callback configuration of its own; with
    /// `None`, it is the template's again.
    ///
    /// # Panics
    /// If the `aes_key` is not 43 letters and digits.
    pub fn set_own_callback(&self, corp_id: &str, callback: Option<CallbackSpec>) {
        if let Some(callback) = &callback {
            known(Sealer::new(callback));
        }
        known(self.world().agency_mut(corp_id)).1.own_callback = callback;
    }

    /// The id by which the app sees a member: encrypted at the corps of an agency-developed app, else the
    /// name. Methods that take a user id take either; a [`Change`](crate::simulator::Change) takes the id.
    #[must_use]
    pub fn user_id(&self, corp_id: &str, name: &str) -> String {
        let world = self.world();
        world.user_id(known(world.corp(corp_id)), name)
    }

    /// The permanent code of a brand or dealer that is valid now; `None` before the first exchange, and between
    /// a reset and its exchange.
    #[must_use]
    pub fn permanent_code(&self, corp_id: &str) -> Option<String> {
        known(self.world().agency_mut(corp_id)).1.code.clone()
    }

    /// The auth codes that were exchanged, or are void because the corp cancelled.
    #[must_use]
    pub fn spent_auth_codes(&self) -> Vec<String> {
        let world = self.world();
        let codes = world.templates.iter().flat_map(|template| &template.codes);
        codes.filter(|code| code.is_spent).map(|code| code.value.clone()).collect()
    }

    /// Every ticket, auth code, permanent code, suite token and access token that was ever issued. None of
    /// them belongs in a log.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        self.world().issued_secrets()
    }
}
