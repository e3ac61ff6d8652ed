//! Reloading the configuration: all that can be taken over while the service runs, or nothing.
//!
//! Everything is read, checked and built first. Then the parts are replaced one after the other, without
//! waiting for anything in between. A request in progress keeps what it began with.
//!
//! Deliberately absent: which keys can be taken over (see [`Values`]).

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::assemble::SinkPart;
use super::deliveries::{Deliveries, sink_part};
use super::{apps, tokens};
use crate::config::{self, Changes, Config, Environment, Problem, Values};
use crate::domain::audit::{AuditAction, AuditBy, AuditEntry};
use crate::domain::finding::ConfigDifference;
use crate::domain::ids::AppName;
use crate::http::api::{Guard, Token};
use crate::http::doors::Doors;
use crate::http::{ConfigurationProblem, DoorSet, Reload, Reloaded};
use crate::telemetry::audit::log_audit;
use crate::telemetry::causes::with_causes;
use crate::telemetry::logs::FilterHandle;
use crate::worker::Context;
use crate::worker::apps::ReloadedSettings;
use crate::worker::breaker::Scope;
use crate::worker::resume::{Lookups, Paused, Resumer};

/// Where the configuration of a running service comes from, and the log filter that it sets.
pub struct ConfigSource {
    /// The configuration file.
    pub path: PathBuf,
    /// Notified when it is to be reloaded; the admin API can ask for it, too.
    pub changed: Arc<Notify>,
    /// Replaces the log filter.
    pub filter: FilterHandle,
}

/// Reloads the configuration of a running service.
pub(super) struct Reloader {
    source: Arc<ConfigSource>,
    parts: Replaceable,
    /// The values that the service has now. Locked during a reload.
    values: Mutex<Values>,
}

/// The parts of the service that a reload replaces.
pub(super) struct Replaceable {
    pub(super) context: Context,
    pub(super) doors: Arc<DoorSet>,
    pub(super) guard: Arc<Guard>,
    pub(super) deliveries: Deliveries,
}

/// What the parts are replaced with.
struct Replacement {
    doors: Doors,
    apps: BTreeMap<AppName, ReloadedSettings>,
    /// The hosts and tokens of the admin API; `None`: they stay.
    admin: Option<(Vec<String>, Vec<Token>)>,
    /// The sinks that are added or changed.
    sinks: Vec<SinkPart>,
}

impl Reloader {
    /// A reloader of the service that was started with `config`.
    pub(super) fn new(config: &Config, source: ConfigSource, parts: Replaceable) -> Self {
        Self { source: Arc::new(source), parts, values: Mutex::new(config.values()) }
    }

    /// Reloads whenever the source is said to have changed, until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(self.source.changed.notified()).await.is_some() {
            // The result is logged.
            let _ = self.reload(AuditBy { token: "signal".to_owned(), source: None }).await;
        }
    }

    async fn read(&self) -> Result<(Config, Values), Vec<Problem>> {
        let source = self.source.clone();
        let read = move || {
            let config = config::load(&source.path, &Environment::of_process())?;
            let values = config.values();
            Ok((config, values))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(read) => read.map_err(config::ConfigError::into_problems),
            Err(panic) => Err(vec![problem("", &panic)]),
        }
    }

    async fn reload_all(&self) -> Result<Reloaded, Vec<Problem>> {
        let mut values = self.values.lock().await;
        let (config, new) = self.read().await?;
        let changes = values.changes(&new);
        let replacement = self.parts.build(&config, &changes).map_err(|problem| vec![problem])?;
        // The only step that can fail comes first.
        if changes.changed.contains("log.filter") {
            let replaced = self.source.filter.replace(&config.log.filter);
            replaced.map_err(|error| vec![problem("log.filter", &error)])?;
        }
        let with_new_secret = self.parts.replace(replacement, &changes);
        let Changes { changed, needs_restart, values: after, .. } = changes;
        *values = after;
        drop(values);
        self.parts.resume(&with_new_secret).await;
        Ok(Reloaded {
            changed: changed.into_iter().collect(),
            needs_restart: needs_restart.into_iter().collect(),
            warnings: config.warnings.into_iter().map(view).collect(),
        })
    }
}

impl Replaceable {
    fn build(&self, config: &Config, changes: &Changes) -> Result<Replacement, Problem> {
        let Self { context, doors, .. } = self;
        let kept = (&*doors.current(), &changes.held);
        let doors = apps::doors(config, &context.apps, kept).map_err(|error| problem("apps", &error))?;
        let sinks = config.sinks.iter().filter(|sink| changes.sinks.contains(&sink.name));
        let build = |sink| {
            sink_part(sink, context.clock.clone())
                .map_err(|error| problem(&format!("sinks.{}", sink.name), &error))
        };
        Ok(Replacement {
            doors,
            apps: apps::reloaded(config, &changes.held),
            admin: (!changes.holds_admin).then(|| (config.admin.hosts.clone(), tokens::of(&config.admin))),
            sinks: sinks.map(build).collect::<Result<_, _>>()?,
        })
    }

    /// Replaces everything. Returns the apps whose secret is another now.
    fn replace(&self, replacement: Replacement, changes: &Changes) -> Vec<AppName> {
        let Self { context, doors, guard, deliveries } = self;
        let Replacement { doors: new_doors, apps, admin, sinks } = replacement;
        for name in new_doors.keys() {
            context.metrics.callbacks.url_configured(name);
        }
        doors.replace(new_doors);
        let with_new_secret = context.apps.reconfigure(apps);
        if let Some((hosts, tokens)) = admin {
            guard.replace(hosts, tokens);
        }
        for name in changes.sinks.iter().filter(|name| !sinks.iter().any(|sink| sink.name == **name)) {
            deliveries.stop(name);
        }
        for sink in sinks {
            deliveries.start(sink);
        }
        if changes.changed.iter().any(|key| key.strip_suffix(".quota").is_some()) {
            context.breakers.quotas_changed(context.clock.now());
            context.wake.calls_resumed();
        }
        with_new_secret
    }

    /// Resumes the calls of apps with another secret: failures with the one before do not count.
    async fn resume(&self, with_new_secret: &[AppName]) {
        let Context { store, breakers, directory, wake, clock, .. } = &self.context;
        for app in with_new_secret {
            let resumer = Resumer { store: &**store, breakers, directory, wake, now: clock.now() };
            let paused = Paused { app: Some(app), corps: &[], lookups: Lookups::None };
            if let Err(error) = resumer.run(paused, |scope: &Scope| scope.app() == app).await {
                tracing::warn!(%app, error = error.to_string(),
                    "calls with another secret are late: what waits for them could not be brought forward");
            }
        }
    }
}

impl Reloader {
    /// Adds a reload, or that there was none, to the audit trail.
    async fn record(&self, by: AuditBy, result: &Result<Reloaded, Vec<Problem>>) {
        let Context { store, clock, .. } = &self.parts.context;
        let entry = AuditEntry::new(clock.now(), by, AuditAction::Reload);
        let entry = match result {
            Ok(Reloaded { changed, needs_restart, .. }) => entry
                .count("changed", changed.len() as u64)
                .count("needs_restart", needs_restart.len() as u64)
                .about_some("changed", (!changed.is_empty()).then(|| changed.join(", "))),
            Err(problems) => entry.count("problems", problems.len() as u64),
        };
        log_audit(&entry);
        if let Err(error) = store.record(entry).await {
            tracing::warn!(error = error.to_string(), "the reload is not in the audit trail");
        }
    }
}

#[async_trait]
impl Reload for Reloader {
    async fn difference(&self) -> Option<ConfigDifference> {
        let (_, new) = match self.read().await {
            Ok(read) => read,
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                return Some(ConfigDifference::Invalid(problems.join("; ")));
            }
        };
        let Changes { changed, needs_restart, .. } = self.values.lock().await.changes(&new);
        let keys: Vec<_> = changed.into_iter().chain(needs_restart).collect();
        (!keys.is_empty()).then_some(ConfigDifference::Keys(keys))
    }

    async fn reload(&self, by: AuditBy) -> Result<Reloaded, Vec<ConfigurationProblem>> {
        let result = self.reload_all().await;
        self.record(by, &result).await;
        match result {
            Ok(reloaded) => {
                let Reloaded { changed, needs_restart, warnings } = &reloaded;
                for ConfigurationProblem { key, reason, hint } in warnings {
                    tracing::warn!(hint, "configuration: {key} {reason}");
                }
                if !needs_restart.is_empty() {
                    let keys = needs_restart.join(", ");
                    tracing::warn!(keys, "these keys of the configuration take effect after a restart");
                }
                let changed = if changed.is_empty() { "nothing".to_owned() } else { changed.join(", ") };
                tracing::info!(changed, "configuration reloaded");
                Ok(reloaded)
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(hint = problem.hint, "configuration: {problem}");
                }
                tracing::error!(
                    "the configuration was not reloaded: the service goes on with the one before"
                );
                Err(problems.into_iter().map(view).collect())
            }
        }
    }
}

fn view(problem: Problem) -> ConfigurationProblem {
    let Problem { key, reason, hint, .. } = problem;
    ConfigurationProblem { key, reason, hint }
}

/// A problem that the checks of the configuration do not find.
fn problem(key: &str, error: &dyn Error) -> Problem {
    let reason = with_causes(error);
    Problem { severity: config::Severity::Error, key: key.to_owned(), reason, hint: None }
}
