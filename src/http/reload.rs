//! Reloading the configuration, as the admin API sees it.
//!
//! Deliberately absent: the configuration, which this module does not know. The application implements
//! [`Reload`].

use async_trait::async_trait;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::ConfigurationProblem;
use crate::domain::audit::AuditBy;
use crate::domain::finding::ConfigDifference;

/// Reloads the configuration.
#[async_trait]
pub trait Reload: Send + Sync {
    /// Takes over from the configuration file what can be taken over, or nothing. Either is added to the audit
    /// trail.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration; nothing has changed then.
    async fn reload(&self, by: AuditBy) -> Result<Reloaded, Vec<ConfigurationProblem>>;

    /// What the file says otherwise than the service has it; `None` if nothing.
    async fn difference(&self) -> Option<ConfigDifference>;
}

/// The configuration was reloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reloaded {
    /// The keys that have other values now. A changed sink or token is named as a whole.
    #[schema(example = json!(["apps.brand.secret", "log.filter", "sinks.crm"]))]
    pub changed: Vec<String>,
    /// The keys whose values in the file take effect after a restart only.
    #[schema(example = json!(["server.listen"]))]
    pub needs_restart: Vec<String>,
    /// Risks and probable mistakes, which did not prevent the reload.
    pub warnings: Vec<ConfigurationProblem>,
}
