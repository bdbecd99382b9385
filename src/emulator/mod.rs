//! The embedded ALİM: the integration guide's endpoints, their errors and their unescaped events,
//! with canned farming advice in place of a model. In its `scenario_context` a call orders the model's
//! text with `"emulator_tokens": ["...", ...]`, and a fault with `"emulator_fault": "<name>"`; another
//! name is a 422.
//!
//! | name | invoke | stream |
//! |---|---|---|
//! | `rate_limited` | 429, `Retry-After: 2` | the same |
//! | `unavailable` | 503 with an HTML body | the same |
//! | `bad_value` | 400 with `error`, `detail` and `path` | the same |
//! | `crashed` | 500 with `error`, `detail` and `path` | the same |
//! | `agent_failed` | 500 | an `error` event after the first token |
//! | `truncated` | half a body, then a cut connection | half the tokens, then an end without `done` |
//! | `silent` | nothing, ever | the head, then nothing |
//! | `slow` | as long as its tokens take | 1 s for each event |
//! | `unknown_event` | a field `citations` | one `citation` event with JSON data |
//! | `empty` | 200 with an empty body | 200 without an event |

mod answers;
mod tokens;

mod fault;
mod refusal;
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
use self::connection::{Gate, Idle};
use self::rate_limit::Limiter;
pub use self::rate_limit::{Beyond, RateLimit};
use self::threads::Threads;

/// From the stop signal to the moment when calls that are still open are cut.
const DRAIN: Duration = Duration::from_secs(4);

/// From the cut to the return, should a connection not take notice of it.
const CUT: Duration = Duration::from_millis(500);

/// How the embedded ALİM behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key that callers bring as `X-API-Key`.
    pub api_key: SecretString,
    /// From one event of a stream to the next. `invoke` answers after as long as all its events
    /// would have taken; zero answers at once.
    pub token_delay: Duration,
    /// How many requests each key may send; `None` for as many as it likes, as ALİM without its Redis.
    pub rate_limit: Option<RateLimit>,
}

/// The guide's key, and a pace at which one can read along.
impl Default for Settings {
    fn default() -> Self {
        Self {
            api_key: "dev-api-key-change-in-production".into(),
            token_delay: Duration::from_millis(30),
            rate_limit: None,
        }
    }
}

/// Answers callers on `listener` until `shutdown`, then takes no new connection and lets open calls
/// end for 4 s, and cuts those that did not. It returns 5 s after the signal at the latest; when it
/// is dropped, all connections are cut at once.
///
/// # Errors
/// - Whatever the listener itself fails with; what a single connection fails with is not told.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    let alim = Alim {
        api_key: settings.api_key,
        token_delay: settings.token_delay,
        threads: Threads::default(),
    };
    let router = routes::router(Arc::new(alim), settings.rate_limit.map(Limiter::new));
    let app = router.into_make_service_with_connect_info::<Idle>();
    let mut serving = pin!(
        axum::serve(Gate::new(listener, cut.clone()), app)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned())
            .into_future()
    );
    let drained = async {
        shutdown.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        ended = &mut serving => return ended,
        () = drained => cut.cancel(),
    }
    timeout(CUT, serving).await.unwrap_or(Ok(()))
}
