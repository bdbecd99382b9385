//! Whether the upstream is healthy, checked by probes and by the results of calls.
//!
//! Probes: the first one decides. Then three failures in a row mark the upstream down, and one success marks it up.
//! Calls: five failures in a row mark it down, each at most 30 s after the one before. A failure is a missing connection or a
//! 5xx. One success, or 30 s without a failure, marks it up again. Only calls see behind a proxy, which accepts connections
//! even if ALİM is down.
//!
//! Until a call has reached the graph's routes, a 404 from them, or a 400 that is not JSON, means a wrong base URL, and marks the
//! upstream down at once.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::StatusCode;
use reqwest::Url;
use tokio::{sync::Notify, time::Instant};

use super::error::{Error, Malformed, Rejection};

/// Probes in a row that must fail to mark the upstream down.
const FAILED_PROBES: u32 = 3;
/// Calls in a row that must fail to mark the upstream down.
const FAILED_CALLS: u32 = 5;
/// How long a failed call counts.
const WINDOW: Duration = Duration::from_secs(30);

/// The known health of the upstream. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

/// What is wrong with the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The requested URL.
    pub url: String,
    /// The result of the request.
    pub cause: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.cause)
    }
}

impl Health {
    /// Before the first probe.
    pub(super) fn unknown() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// Whether the upstream is healthy now. `None` if nothing is known yet.
    pub fn is_up(&self) -> Option<bool> {
        self.state().is_up(Instant::now())
    }

    /// What is wrong now, or what was wrong when the base URL last returned 404 for every route.
    pub fn fault(&self) -> Option<Fault> {
        self.state().fault(Instant::now())
    }

    /// Waits until a call may have changed [`is_up`](Self::is_up).
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Records a probe of `url`; `failed` has the cause of a failure.
    pub(super) fn record_probe(&self, url: &Url, failed: Option<String>) {
        let fault = failed.map(|cause| Fault {
            url: url.to_string(),
            cause,
        });
        self.state().probes.record(fault);
    }

    /// Records the result of a call; `is_graph_route` if `url` is a route that every ALİM has.
    pub(super) fn record_call(&self, url: &Url, is_graph_route: bool, failed: Option<&Error>) {
        let now = Instant::now();
        let mut state = self.state();
        let before = state.is_up(now);
        match failed.map_or(Evidence::Upstream, Evidence::of) {
            Evidence::Upstream => {
                state.calls = Calls::default();
                if is_graph_route {
                    (state.has_routes, state.misrouted) = (true, None);
                }
            }
            Evidence::Failure(cause) => state.calls.fail(url, &cause, now),
            Evidence::None => {}
            Evidence::NoRoute(_) if !is_graph_route || state.has_routes => {}
            Evidence::NoRoute(cause) => state.misrouted = Some((fault(url, &cause), now)),
        }
        let is_changed = state.is_up(now) != before;
        drop(state);
        if is_changed {
            self.0.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(|held| held.into_inner())
    }
}

fn fault(url: &Url, cause: &str) -> Fault {
    Fault {
        url: url.to_string(),
        cause: cause.to_owned(),
    }
}

/// What the result of a call shows about the upstream's health.
enum Evidence {
    /// The upstream itself answered, even if it rejected the call.
    Upstream,
    Failure(String),
    NoRoute(String),
    /// The bridge did not get as far as the upstream.
    None,
}

impl Evidence {
    fn of(error: &Error) -> Self {
        match error {
            Error::Unreachable(error) | Error::Interrupted(error) => {
                Self::Failure(root_cause(error))
            }
            Error::NoDescriptors(_) | Error::NoMemory(_) => Self::None,
            Error::Malformed {
                why: Malformed::Foreign400,
            } => Self::NoRoute(misrouted(StatusCode::BAD_REQUEST)),
            Error::Redirected { status } => Self::NoRoute(misrouted(*status)),
            Error::Rejected(rejection) if lacks_route(rejection) => {
                Self::NoRoute(misrouted(rejection.status))
            }
            Error::Rejected(rejection) if rejection.status.is_server_error() => {
                Self::Failure(format!("answered {}", rejection.status.as_u16()))
            }
            _ => Self::Upstream,
        }
    }
}

/// Whether ALİM lacks the route. If a 404 has its own `detail`, ALİM itself reports that something does not exist.
fn lacks_route(rejection: &Rejection) -> bool {
    match rejection.status {
        StatusCode::NOT_FOUND => rejection.is_route_missing || rejection.detail.is_none(),
        status => matches!(
            status,
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        ),
    }
}

fn misrouted(status: StatusCode) -> String {
    format!(
        "answered {}: UPSTREAM_URL does not lead to ALİM",
        status.as_u16()
    )
}

/// The innermost cause, such as a refused connection. The outer errors only name libraries and repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut first: &dyn StdError = error;
    while let Some(cause) = first.source() {
        first = cause;
    }
    explained(first.to_string())
}

/// rustls's words for an answer in clear text name only its own type.
pub(super) fn explained(cause: String) -> String {
    match cause.contains("InvalidContentType") {
        true => "it does not speak TLS: UPSTREAM_URL has https".into(),
        false => cause,
    }
}

#[derive(Debug, Default)]
struct State {
    probes: Probes,
    calls: Calls,
    has_routes: bool,
    misrouted: Option<(Fault, Instant)>,
}

impl State {
    fn is_up(&self, now: Instant) -> Option<bool> {
        let is_down = self.calls.are_failing(now) || self.is_misrouted(now);
        match self.probes.is_up {
            _ if is_down => Some(false),
            is_up => is_up,
        }
    }

    fn fault(&self, now: Instant) -> Option<Fault> {
        let misrouted = self.misrouted.as_ref().map(|(fault, _)| fault);
        let failing = self.calls.fault.as_ref();
        let failing = failing.filter(|_| self.calls.are_failing(now));
        let unreached = self.probes.fault.as_ref();
        let unreached = unreached.filter(|_| self.probes.is_up == Some(false));
        failing.or(unreached).or(misrouted).cloned()
    }

    fn is_misrouted(&self, now: Instant) -> bool {
        let misrouted = self.misrouted.as_ref();
        misrouted.is_some_and(|(_, at)| now.duration_since(*at) < WINDOW)
    }
}

#[derive(Debug, Default)]
struct Probes {
    is_up: Option<bool>,
    failures: u32,
    fault: Option<Fault>,
}

impl Probes {
    fn record(&mut self, fault: Option<Fault>) {
        let was_reached = fault.is_none();
        self.failures = if was_reached { 0 } else { self.failures + 1 };
        self.fault = fault;
        self.is_up = Some(match self.is_up {
            None => was_reached,
            Some(_) if was_reached => true,
            Some(was_up) => was_up && self.failures < FAILED_PROBES,
        });
    }
}

/// Consecutive failed calls.
#[derive(Debug, Default)]
struct Calls {
    failures: u32,
    last: Option<Instant>,
    fault: Option<Fault>,
}

impl Calls {
    fn fail(&mut self, url: &Url, cause: &str, now: Instant) {
        if !self.is_recent(now) {
            self.failures = 0;
        }
        self.failures += 1;
        self.last = Some(now);
        let cause = format!("{} calls in a row failed, the last: {cause}", self.failures);
        self.fault = Some(fault(url, &cause));
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|last| now.duration_since(last) < WINDOW)
    }

    fn are_failing(&self, now: Instant) -> bool {
        self.failures >= FAILED_CALLS && self.is_recent(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("http://alim/api/v1/graph/invoke").expect("a URL")
    }

    fn rejected(status: u16, detail: Option<&str>) -> Error {
        Error::Rejected(Box::new(Rejection {
            status: StatusCode::from_u16(status).expect("a status"),
            detail: detail.map(Into::into),
            violations: Vec::new(),
            is_route_missing: detail == Some("Not Found"),
            retry_after: None,
            head: crate::call::reply::ReplyHead::default(),
        }))
    }

    #[test]
    fn the_first_probe_decides_then_three_failures_or_one_success() {
        let verdicts = |probes: &[bool]| -> Vec<bool> {
            let health = Health::unknown();
            let probes = probes.iter();
            let verdicts = probes.map(|reached| {
                health.record_probe(&url(), (!reached).then(|| "no".into()));
                health.is_up().expect("known")
            });
            verdicts.collect()
        };
        let probes = [true, false, false, true, false, false, false, false, true];
        let expected = [true, true, true, true, true, true, false, false, true];
        assert_eq!(verdicts(&probes), expected);
        assert_eq!(verdicts(&[false]), [false]);
    }

    #[tokio::test(start_paused = true)]
    async fn five_failed_calls_in_a_row_count_for_thirty_seconds_even_if_probes_succeed() {
        let health = Health::unknown();
        health.record_probe(&url(), None);
        let call = |failed: Option<&Error>| health.record_call(&url(), true, failed);
        let failure = rejected(503, None);
        let fail = |times: usize| (0..times).for_each(|_| call(Some(&failure)));
        fail(4);
        call(None);
        fail(4);
        assert_eq!(health.is_up(), Some(true), "one got through");
        fail(1);
        assert_eq!(health.is_up(), Some(false));
        let fault = health.fault().expect("a fault").to_string();
        let expected =
            "http://alim/api/v1/graph/invoke: 5 calls in a row failed, the last: answered 503";
        assert_eq!(fault, expected);
        tokio::time::sleep(WINDOW).await;
        assert_eq!((health.is_up(), health.fault()), (Some(true), None));
        fail(4);
        assert_eq!(health.is_up(), Some(true), "the others are too old");
        fail(1);
        call(Some(&rejected(422, None)));
        assert_eq!(health.is_up(), Some(true), "the upstream itself answered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_404_from_the_graph_means_a_wrong_base_url_until_the_graph_has_answered() {
        for answer in [
            rejected(404, None),
            rejected(404, Some("Not Found")),
            rejected(405, None),
            Error::Malformed {
                why: Malformed::Foreign400,
            },
        ] {
            let health = Health::unknown();
            health.record_probe(&url(), None);
            health.record_call(&url(), false, Some(&answer));
            assert_eq!(health.is_up(), Some(true), "an ALİM can lack threads");
            health.record_call(&url(), true, Some(&answer));
            assert_eq!(health.is_up(), Some(false));
            tokio::time::sleep(WINDOW).await;
            assert_eq!(health.is_up(), Some(true), "callers can try again");
            assert!(
                health
                    .fault()
                    .expect("a fault")
                    .cause
                    .contains("UPSTREAM_URL")
            );
            health.record_call(&url(), true, None);
            assert_eq!(health.fault(), None);
            health.record_call(&url(), true, Some(&answer));
            assert_eq!((health.is_up(), health.fault()), (Some(true), None));
        }
        let health = Health::unknown();
        health.record_call(&url(), true, Some(&rejected(404, Some("no such farm"))));
        assert_eq!((health.is_up(), health.fault()), (None, None));
    }
}
