//! The embedded ALİM: the integration guide's endpoints, their errors and their unescaped events. It
//! answers with canned farming advice and runs no model.
//!
//! A call can request the model's tokens with `"emulator_tokens": ["...", ...]` in its
//! `scenario_context`, and a fault with `"emulator_fault": "<name>"`. An unknown name is a 422.
//!
//! | name | invoke | stream |
//! |---|---|---|
//! | `rate_limited` | 429, `Retry-After: 2` | the same |
//! | `unavailable` | 503 with an HTML body | the same |
//! | `bad_value` | 400 with `error`, `detail` and `path` | the same |
//! | `crashed` | 500 with `error`, `detail` and `path` | the same |
//! | `agent_failed` | 500 | an `error` event after the first token |
//! | `truncated` | half a body, then an aborted connection | half the tokens, then an end without `done` |
//! | `silent` | no answer | the head, then nothing |
//! | `slow` | as long as its tokens take | 1 s for each event |
//! | `unknown_event` | a field `citations` | one `citation` event with JSON data |
//! | `empty` | 200 with an empty body | 200 without an event |

mod answers;
mod tokens;

mod fault;
mod rejection;
mod url;

mod rate_limit;

mod body;
mod validate;

mod connection;
mod threads;
mod wire;

mod alim;
mod graph;
mod routes;

use std::future::IntoFuture;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::alim::Alim;
use self::connection::{Idle, UvicornListener};
use self::rate_limit::Limiter;
pub use self::rate_limit::{OverLimit, RateLimit};
use self::threads::Threads;

/// From the stop signal until open calls are aborted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

/// From the abort until [`run`] returns, if a connection does not notice the abort.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How the embedded ALİM behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key that callers must send as `X-API-Key`.
    pub api_key: SecretString,
    /// Time between two events of a stream. `invoke` answers after the time that all its events would
    /// have taken. Zero answers at once.
    pub token_delay: Duration,
    /// How many requests each key may send. `None` is no limit, as ALİM without its Redis.
    pub rate_limit: Option<RateLimit>,
}

/// The guide's key, and a token delay at which a person can read along.
impl Default for Settings {
    fn default() -> Self {
        Self {
            api_key: "dev-api-key-change-in-production".into(),
            token_delay: Duration::from_millis(30),
            rate_limit: None,
        }
    }
}

/// Serves callers on `listener` until `shutdown`. Then it accepts no new connection, waits 4 s for open
/// calls and aborts the rest. It returns 5 s after the signal at the latest. If it is dropped, all
/// connections are aborted at once.
///
/// # Errors
/// - The error of the listener. Errors of single connections are not reported.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let abort = CancellationToken::new();
    let _abort_on_drop = abort.clone().drop_guard();
    let alim = Alim {
        api_key: settings.api_key,
        token_delay: settings.token_delay,
        threads: Threads::default(),
    };
    let router = routes::router(Arc::new(alim), settings.rate_limit.map(Limiter::new));
    let app = router.into_make_service_with_connect_info::<Idle>();
    let mut serving = pin!(
        axum::serve(UvicornListener::new(listener, abort.clone()), app)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future()
    );
    let drained = async {
        shutdown.cancelled().await;
        sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        ended = &mut serving => return ended,
        () = drained => abort.cancel(),
    }
    timeout(ABORT_TIMEOUT, serving).await.unwrap_or(Ok(()))
}
