//! Warns at startup about settings that are valid but probably not intended.

use super::Config;
use crate::server::{
    self,
    descriptors::{self, Shortage},
};

impl Config {
    /// Logs a warning about each setting that is probably not intended. Raises the limit on open files.
    pub fn warn(&self) {
        if let Some(variable) = self.ignored_variable {
            tracing::warn!(
                variable,
                "no traces are sent: this variable selects a protocol other than grpc, and the bridge supports only grpc. Set it to grpc and the endpoint to the collector's gRPC port (usually 4317), or set ALIM_BRIDGE_OTLP_ENDPOINT"
            );
        }
        if let Some(variable) = self.ignored_metrics_variable {
            tracing::warn!(
                variable,
                "no metrics are sent by OTLP: this variable selects a protocol other than grpc, and the bridge supports only grpc. Set OTEL_METRICS_EXPORTER=none if Prometheus scrapes them"
            );
        }
        if self.is_open_to_the_network() {
            tracing::warn!(
                listen = %self.listen,
                "anyone who reaches this address may call, because TLS alone authenticates nobody: set TLS_CLIENT_CA_FILE, CALLERS_FILE or CREDENTIALS=caller"
            );
        }
        if self.is_open_to_every_page() {
            tracing::warn!(
                listen = %self.listen,
                "any page in a browser that reaches this address may call: list origins in GRPC_WEB, or set CALLERS_FILE"
            );
        }
        let (admitted, max_calls) = (self.admitted_calls(), self.server.max_calls);
        if admitted < max_calls {
            tracing::warn!(
                memory_limit = self.server.memory_limit,
                admitted_calls = admitted,
                max_calls,
                "MEMORY_LIMIT is too low for MAX_CALLS calls: raise it, or lower MAX_CALLS"
            );
        }
        if self.sends_keys_in_clear() {
            tracing::warn!(
                upstream = %self.upstream.url,
                "keys for ALİM are sent over the network in clear text: set UPSTREAM_URL to https, or let a mesh add TLS"
            );
        }
        warn_about_file_limit(&self.server);
    }

    /// How many idle calls the bridge can have open at once.
    pub fn admitted_calls(&self) -> usize {
        let settings = &self.server;
        settings.max_calls.min(settings.budget().idle_calls())
    }
}

fn warn_about_file_limit(settings: &server::Settings) {
    match descriptors::raise_limit(settings.max_calls, settings.max_connections) {
        Ok(None) => {}
        Ok(Some(Shortage { limit, needed })) => tracing::warn!(
            limit,
            needed,
            "the limit on open files is below MAX_CALLS + MAX_CONNECTIONS: raise it (ulimit -Hn) or lower them"
        ),
        Err(error) => tracing::warn!(%error, "the limit on open files can't be read"),
    }
}
