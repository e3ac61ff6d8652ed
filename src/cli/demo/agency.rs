//! The part of the story that only an agency-developed app (代开发) has: the service provider's template, its
//! tickets, and the authorisations of the brand and of dealers.
//!
//! Deliberately absent: the part that it has in common with a self-built app (`story`).

use anyhow::ensure;

use super::stage::{LATENCY_MS, Stage};
use super::summary::AgencySummary;
use super::template::{Agency, INSTALLED};
use crate::cli::output::say;
use crate::clock::{Clock as _, SystemClock};
use crate::simulator::{Api, TemplateSpec};

/// Auth codes to exchange: of the brand, of each dealer that installs the app, of the reset of the permanent
/// code, and of the brand that authorises again.
const AUTH_CODES: usize = 1 + INSTALLED + 1 + 1;

impl Agency {
    /// Saves the template's callback URL and sends the first ticket.
    pub(super) async fn open(&self, stage: &Stage) -> anyhow::Result<()> {
        let TemplateSpec { provider_corp_id, suite_id, .. } = &self.template;
        let is_verified = stage.wecom.verify_template_url(suite_id, provider_corp_id).await;
        ensure!(is_verified, "the template's callback URL could not be verified");
        say("✓ callback URL of the template verified, as the provider's console does it");
        stage.deliver(vec![stage.wecom.ticket(suite_id)]).await?;
        say("✓ suite_ticket received");
        Ok(())
    }

    /// Reports the authorisations of the brand and of the dealers that install the app. Returns the time from
    /// `create_auth` to the first pending id, in milliseconds.
    pub(super) async fn authorise(&self, stage: &Stage) -> anyhow::Result<i64> {
        let sent_at = SystemClock.now();
        stage.deliver(vec![self.create_auth.clone()]).await?;
        let is_minted = |status: &serde_json::Value| status["fans"]["minted"].as_u64() > Some(0);
        stage.until("the first pending id", is_minted).await?;
        let calls = stage.wecom.calls();
        let minted = calls.iter().find(|call| call.api == Api::UnionidToPendingId && call.errcode == Some(0));
        let asked_ms = minted.map_or(0, |call| call.at.millis_since(sent_at));
        let took_ms = asked_ms.saturating_add_unsigned(LATENCY_MS);
        say(&format!("✓ the brand has authorised: first pending id {took_ms} ms after create_auth"));
        ensure!(stage.wecom.verify_url(&stage.brand).await, "the app's callback URL could not be verified");
        stage.deliver(self.installs.clone()).await?;
        let shared = stage.dealers.len() - INSTALLED;
        say(&format!("✓ {INSTALLED} dealers have installed the app; {shared} are reached by corp/gettoken"));
        Ok(took_ms)
    }

    /// Resets the permanent code of the brand, which ends the old one and its tokens at once.
    pub(super) async fn reset(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.deliver(vec![stage.wecom.reset_code(&stage.brand)]).await
    }

    /// Ends the brand's authorisation.
    pub(super) async fn cancel(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.deliver(vec![stage.wecom.cancel(&stage.brand)]).await
    }

    /// Lets the brand authorise again.
    pub(super) async fn renew(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.deliver(vec![stage.wecom.authorize_again(&stage.brand)]).await
    }

    /// The part of the summary.
    ///
    /// # Errors
    /// When an auth code was not exchanged.
    pub(super) fn summary(stage: &Stage, first_pending_id_ms: i64) -> anyhow::Result<AgencySummary> {
        let calls = stage.wecom.calls();
        let answered = calls.iter().filter(|call| call.api == Api::GetPermanentCode);
        let exchanged = answered.filter(|call| call.errcode == Some(0)).count();
        ensure!(exchanged == AUTH_CODES, "{exchanged} of {AUTH_CODES} auth codes were exchanged");
        Ok(AgencySummary { tickets: 1, auth_codes: exchanged, installed: INSTALLED, first_pending_id_ms })
    }
}
