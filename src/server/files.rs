//! The files that a running server reads again, and what follows from a change.
//!
//! Certificates, the callers file with the keys that it names, and the bridge's own key.

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

/// Reads all files of the settings again when they change, and acts on what they hold now.
pub(super) fn watch(
    settings: &Settings,
    upstream: &upstream::Settings,
    metrics: &Arc<Metrics>,
    connections: &Connections,
    background: &mut JoinSet<()>,
) {
    let watched = |files: Files| {
        metrics.state.watched(files);
        let metrics = Arc::clone(metrics);
        move |outcome| metrics.state.reloaded(files, outcome)
    };
    if let Some(tls) = settings.tls.clone() {
        let (count, shown, metrics) = (watched(Files::Tls), tls.clone(), Arc::clone(metrics));
        let note_end = move || metrics.state.certificate_ends(shown.load().ends);
        note_end();
        let retire = retire_connections(tls.clone(), connections.clone(), settings.drain_timeout);
        background.spawn(tls.watch(move |outcome| {
            count(outcome);
            note_end();
            retire();
        }));
    }
    let note_callers = callers_noted(settings, upstream, metrics);
    note_callers();
    if let Some(callers) = settings.callers.clone() {
        let (count, note_callers) = (watched(Files::Callers), note_callers.clone());
        background.spawn(callers.watch(move |outcome| {
            count(outcome);
            note_callers();
        }));
    }
    if let Some(key) = upstream.key.clone().filter(Reload::is_from_files) {
        let count = watched(Files::UpstreamKey);
        background.spawn(key.watch(move |outcome| {
            count(outcome);
            note_callers();
        }));
    }
}

/// What keeps the metrics to the callers that are listed, and warns of keys that ALİM counts as one.
fn callers_noted(
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

/// What withdraws the connections that were made under other client authorities than those of now: they get GOAWAY, and are closed
/// after `patience`.
fn retire_connections(
    tls: Reload<Tls>,
    connections: Connections,
    patience: Duration,
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
        let leaving = connections.go_away();
        tokio::spawn(async move {
            sleep(patience).await;
            leaving.close();
        });
    }
}
