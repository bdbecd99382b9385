//! The files that a running server reloads, and the effects of a change.
//!
//! These are the certificates, the callers file with the keys that it names, the bridge's own key and the admin port's token.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use super::{Settings, connections::Connections, tls::Tls};
use crate::{
    reload::Reload,
    telemetry::{metrics::Metrics, state::Files},
    upstream,
};

/// Reloads all files of the settings when they change, and applies their new contents.
pub(super) fn watch(
    settings: &Settings,
    upstream: &upstream::Settings,
    metrics: &Arc<Metrics>,
    connections: &Connections,
    background: &mut JoinSet<()>,
) {
    let watched = |files: Files| {
        metrics.state.watch(files);
        let metrics = Arc::clone(metrics);
        move |outcome| metrics.state.reloaded(files, outcome)
    };
    if let Some(tls) = settings.tls.clone() {
        let (count, current, metrics) = (watched(Files::Tls), tls.clone(), Arc::clone(metrics));
        let record_expiry = move || {
            let tls = current.load();
            metrics.state.set_certificate_expiry(tls.expires);
            tls.warn_about_expiry();
        };
        record_expiry();
        let retire = retire_connections(tls.clone(), connections.clone(), settings.drain_timeout);
        background.spawn(tls.watch(move |outcome| {
            count(outcome);
            record_expiry();
            retire();
        }));
    }
    let update_callers = callers_updater(settings, upstream, metrics);
    update_callers();
    if let Some(callers) = settings.callers.clone() {
        let (count, update_callers) = (watched(Files::Callers), update_callers.clone());
        background.spawn(callers.watch(move |outcome| {
            count(outcome);
            update_callers();
        }));
    }
    if let Some(token) = settings.admin_token.clone() {
        background.spawn(token.watch(watched(Files::AdminToken)));
    }
    if let Some(key) = upstream.key.clone().filter(Reload::is_from_files) {
        let count = watched(Files::UpstreamKey);
        background.spawn(key.watch(move |outcome| {
            count(outcome);
            update_callers();
        }));
    }
}

/// Returns a function that updates the metrics' list of callers. It warns of keys that ALİM counts as one.
fn callers_updater(
    settings: &Settings,
    upstream: &upstream::Settings,
    metrics: &Arc<Metrics>,
) -> impl Fn() + Clone + Send + 'static {
    let (callers, key) = (settings.callers.clone(), upstream.key.clone());
    let metrics = Arc::clone(metrics);
    move || {
        let Some(callers) = &callers else { return };
        let callers = callers.load();
        metrics
            .callers
            .list(callers.iter().map(|caller| caller.name()));
        let key = key.as_ref().map(Reload::load);
        for shared in callers.shared_counts(key.as_deref()) {
            tracing::warn!("{shared}");
        }
    }
}

/// Returns a function that retires connections made under other client authorities than the current ones. They get GOAWAY, and are
/// closed after `drain_timeout`.
fn retire_connections(
    tls: Reload<Tls>,
    connections: Connections,
    drain_timeout: Duration,
) -> impl Fn() + Send {
    let last = Mutex::new(tls.load().client_ca.clone());
    move || {
        let client_ca = tls.load().client_ca.clone();
        let mut last = last.lock().unwrap_or_else(|held| held.into_inner());
        if *last == client_ca {
            return;
        }
        *last = client_ca;
        tracing::info!("the client authorities changed: connections made under the old ones end");
        let retiring = connections.go_away();
        tokio::spawn(async move {
            sleep(drain_timeout).await;
            retiring.close();
        });
    }
}
