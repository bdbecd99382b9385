//! `/status`: the state of the bridge as JSON, for the admin page and for `alim-bridge top`.
//!
//! It has names and figures only: never a message, a reply or a key. Its lists are bounded. `docs/admin.md` describes it.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::Admin;
use crate::{
    callers::Caller,
    middleware::open_calls::Report,
    quota,
    telemetry::{
        failed::FailedCall,
        log_filter,
        metrics::figures::{MethodFigures, Quantiles},
    },
};

/// Open calls that are listed, the oldest first.
const MAX_LISTED_CALLS: usize = 1000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: f64,
    draining: bool,
    upstream: UpstreamStatus,
    limits: Limits,
    quota: Option<QuotaStatus>,
    methods: Vec<MethodStatus>,
    failures: Vec<Count>,
    first_token: Latency,
    inter_token: Latency,
    tokens: u64,
    callers: Option<Vec<CallerStatus>>,
    open_calls: Report,
    last_failures: Vec<Failed>,
    log: Option<String>,
    settings: Vec<SettingStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UpstreamStatus {
    url: String,
    /// Absent until the first probe or call has shown it.
    reachable: Option<bool>,
    fault: Option<String>,
    rate_limit_remaining: Option<i64>,
}

/// What is limited: how much is in use, and the limit.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    calls: Used,
    connections: Used,
    buffered_bytes: Used,
    memory_limit_bytes: usize,
}

#[derive(Debug, Serialize)]
struct Used {
    used: usize,
    limit: usize,
}

#[derive(Debug, Serialize)]
struct QuotaStatus {
    limit: u32,
    waiting: usize,
    keys: Vec<KeyStatus>,
}

#[derive(Debug, Serialize)]
struct KeyStatus {
    name: String,
    remaining: u32,
    requests: u64,
}

#[derive(Debug, Serialize)]
struct MethodStatus {
    method: &'static str,
    started: u64,
    codes: Vec<Count>,
}

#[derive(Debug, Serialize)]
struct Count {
    name: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Latency {
    count: u64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallerStatus {
    name: String,
    weight: u32,
    open_calls: usize,
    max_open_calls: Option<usize>,
    rate: Option<String>,
    has_own_key: bool,
    started: u64,
    failed: u64,
    tokens: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    /// Milliseconds of Unix time.
    ended_at: u64,
    method: &'static str,
    code: &'static str,
    reason: &'static str,
    request_id: String,
    caller: Option<String>,
    peer: Option<SocketAddr>,
    duration_seconds: f64,
}

#[derive(Debug, Serialize)]
struct SettingStatus {
    name: &'static str,
    value: String,
}

impl Status {
    pub(super) fn of(admin: &Admin) -> Self {
        let metrics = &admin.metrics;
        let used = |used, limit| Used { used, limit };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: admin.started.elapsed().as_secs_f64(),
            draining: admin.drain.is_cancelled(),
            upstream: UpstreamStatus {
                url: admin.upstream_url.clone(),
                reachable: admin.health.is_up(),
                fault: admin.health.fault().map(|fault| fault.to_string()),
                rate_limit_remaining: metrics.reported_ratelimit(),
            },
            limits: Limits {
                calls: used(admin.admission.open_calls(), admin.admission.limit()),
                connections: used(admin.connections.open(), admin.connections.limit()),
                buffered_bytes: used(admin.budget.used(), admin.budget.limit()),
                memory_limit_bytes: admin.memory_limit,
            },
            quota: admin.quota.report().map(QuotaStatus::from),
            methods: metrics.by_method().into_iter().map(Into::into).collect(),
            failures: metrics.by_reason().into_iter().map(Into::into).collect(),
            first_token: metrics.first_token_quantiles().into(),
            inter_token: metrics.inter_token_quantiles().into(),
            tokens: metrics.tokens(),
            callers: callers(admin),
            open_calls: admin.open_calls.report(MAX_LISTED_CALLS),
            last_failures: metrics
                .failed_calls
                .list()
                .into_iter()
                .map(Into::into)
                .collect(),
            log: log_filter::current(),
            settings: settings(admin),
        }
    }
}

fn callers(admin: &Admin) -> Option<Vec<CallerStatus>> {
    let listed = admin.callers.as_ref()?.load();
    let mut figures = admin.metrics.callers.figures();
    let status = |caller: &std::sync::Arc<Caller>| {
        let figures = figures.remove(caller.name()).unwrap_or_default();
        CallerStatus {
            name: caller.name().to_string(),
            weight: caller.weight(),
            open_calls: caller.open_calls(),
            max_open_calls: caller.max_open_calls(),
            rate: caller.rate(),
            has_own_key: caller.own_key().is_some(),
            started: figures.started,
            failed: figures.failed,
            tokens: figures.tokens,
        }
    };
    Some(listed.iter().map(status).collect())
}

fn settings(admin: &Admin) -> Vec<SettingStatus> {
    let settings = admin.settings.iter().cloned();
    settings
        .map(|(name, value)| SettingStatus { name, value })
        .collect()
}

impl From<quota::Report> for QuotaStatus {
    fn from(report: quota::Report) -> Self {
        let keys = report.keys.into_iter().map(|key| KeyStatus {
            name: key.name.to_string(),
            remaining: key.remaining,
            requests: key.requests,
        });
        Self {
            limit: report.limit,
            waiting: report.waiting,
            keys: keys.collect(),
        }
    }
}

impl From<MethodFigures> for MethodStatus {
    fn from(figures: MethodFigures) -> Self {
        Self {
            method: figures.method,
            started: figures.started,
            codes: figures.ended.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<(&'static str, u64)> for Count {
    fn from((name, count): (&'static str, u64)) -> Self {
        Self { name, count }
    }
}

impl From<Quantiles> for Latency {
    fn from(quantiles: Quantiles) -> Self {
        Self {
            count: quantiles.count,
            p50_seconds: quantiles.p50,
            p99_seconds: quantiles.p99,
        }
    }
}

impl From<FailedCall> for Failed {
    fn from(call: FailedCall) -> Self {
        let since_epoch = call.ended.duration_since(SystemTime::UNIX_EPOCH);
        let since_epoch = since_epoch.unwrap_or(Duration::ZERO).as_millis();
        Self {
            ended_at: u64::try_from(since_epoch).unwrap_or(u64::MAX),
            method: call.method,
            code: call.code,
            reason: call.reason,
            request_id: call.request_id,
            caller: call.caller.map(|name| name.to_string()),
            peer: call.peer,
            duration_seconds: call.duration.as_secs_f64(),
        }
    }
}
