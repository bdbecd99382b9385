//! The client side towards ALİM: only here are reqwest and eventsource-stream used.
//!
//! [`Upstream::invoke`], [`Upstream::stream`] and the three methods of `threads` send a [`Call`] and check the head of the
//! response. Three rules hold. A call that may have reached the upstream is never sent twice. No response is read without a
//! limit. Redirects are never followed, because the key would go along.

mod descriptors;
pub mod error;
pub mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod health;
mod key;
mod probe;
mod request;
mod response;
mod retry;
pub mod sse;
mod threads;

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use reqwest::{Certificate, Client, Request, Url, redirect};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use self::{error::Error, health::Health, key::parse_key};
use self::{
    request::{Expected, JSON, MarkSentOnDrop, Outgoing, SSE},
    response::Head,
    retry::Retries,
    sse::Events,
};
use crate::{
    call::{
        Call, Question, headers,
        reply::{Reply, ReplyHead},
    },
    quota::{self, Quota, ReportedLimit, Slot},
    reload::Reload,
};

/// Maximum size of one read by hyper, in bytes. hyper doubles its buffer each time that a read filled it.
pub(crate) const MAX_CHUNK_BYTES: usize = 416 * 1024;

/// How to reach the upstream, and the limits on what it sends.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The base URL. `/graph/invoke`, `/graph/stream` and `/threads` are appended to it.
    pub url: Url,
    /// The bridge's own key. `None` if callers bring theirs.
    pub key: Option<Reload<SecretString>>,
    /// Certificate authorities in PEM that replace the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// From the start of a connection attempt to its end, TLS included.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept. It must be less than the upstream's own 5.0 s.
    pub pool_idle_timeout: Duration,
    /// Maximum size of a unary response in bytes, inclusive.
    pub max_reply_bytes: usize,
    /// How streamed bodies are read.
    pub sse: sse::Settings,
    /// Retries of one call that found no connection. All calls together share a retry budget.
    pub retries: u32,
    /// The URL that [`Upstream::probe`] requests with GET. Without it, the probe opens a connection.
    pub health_url: Option<Url>,
    /// The request limit of each key.
    pub quota: quota::Settings,
}

/// ALİM, as the bridge reaches it.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Sends calls and probes with the bridge's key.
    client: Client,
    /// Sends calls with a caller's key, each over its own connection, so that a late response can't reach a call with another key.
    /// Reuse would gain little: ALİM allows a key 30 requests a minute and closes an idle connection after 5 s.
    single_use: Client,
    invoke_url: Url,
    stream_url: Url,
    threads_url: Url,
    retries: Retries,
    health: Health,
    quota: Quota,
    /// TLS for probes that only connect.
    tls: Option<Arc<rustls::ClientConfig>>,
    settings: Settings,
}

/// Why no client can be built from the settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The certificate authorities can't be read as PEM.
    #[error("the certificate authorities can't be used")]
    Authorities(#[source] reqwest::Error),
    /// There are no system roots, or TLS can't be set up.
    #[error("the HTTP client can't be set up")]
    Client(#[source] reqwest::Error),
    /// The client of the rate limit service can't be set up.
    #[error(transparent)]
    QuotaService(#[from] quota::service::SetupError),
}

impl Upstream {
    /// Builds the client. It does not connect yet, so the upstream can be down.
    ///
    /// # Errors
    ///
    /// - [`BuildError`] if TLS can't be set up.
    pub fn new(settings: Settings) -> Result<Self, BuildError> {
        let single_use = client(&settings, 0)?;
        let client = match settings.key {
            Some(_) => client(&settings, usize::MAX)?,
            None => single_use.clone(),
        };
        let join = |path: &str| {
            let mut url = settings.url.clone();
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}{path}"));
            url
        };
        Ok(Self {
            client,
            single_use,
            invoke_url: join("/graph/invoke"),
            stream_url: join("/graph/stream"),
            threads_url: join("/threads"),
            retries: Retries::new(settings.retries),
            health: Health::unknown(),
            quota: Quota::new(&settings.quota)?,
            tls: probe::tls(&settings),
            settings,
        })
    }

    /// Requests the whole reply. Also returns the fields of the response's head. No attempt starts after `until`; the caller
    /// must limit the whole call.
    ///
    /// # Errors
    ///
    /// - [`Error`], except [`Error::StreamFailed`] and [`Error::Truncated`].
    pub async fn invoke(
        &self,
        call: Call<Question>,
        until: Instant,
    ) -> Result<(Reply, ReplyHead), Error> {
        let outgoing = Outgoing::post(
            self.invoke_url.clone(),
            &call.request,
            expected(&call, JSON),
        );
        self.reply(outgoing, call, until, "response and thread_id")
            .await
    }

    /// Requests the events of the reply. Also returns the fields of the response's head. A good head proves nothing: the first
    /// event can be a failure.
    ///
    /// # Errors
    ///
    /// - [`Error`], except [`Error::StreamFailed`], [`Error::Truncated`] and [`Error::TooLarge`].
    pub async fn stream(
        &self,
        call: Call<Question>,
        until: Instant,
    ) -> Result<(Events, ReplyHead), Error> {
        let outgoing = Outgoing::post(self.stream_url.clone(), &call.request, expected(&call, SSE));
        let (head, fields) = self.send_and_check(outgoing, call, until).await?;
        Ok((head.into_events(self.settings.sse), fields))
    }

    /// The known health of the upstream.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The request limits of all keys. The caller of a method acquires the slots, and passes them with the call.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Requests a whole reply with the `required` fields.
    async fn reply<T: DeserializeOwned, Q>(
        &self,
        outgoing: Outgoing,
        call: Call<Q>,
        until: Instant,
        required: &'static str,
    ) -> Result<(T, ReplyHead), Error> {
        let (head, fields) = self.send_and_check(outgoing, call, until).await?;
        let limit = self.settings.max_reply_bytes;
        Ok((head.into_reply(limit, required).await?, fields))
    }

    async fn send_and_check<Q>(
        &self,
        outgoing: Outgoing,
        call: Call<Q>,
        until: Instant,
    ) -> Result<(Head, ReplyHead), Error> {
        let (key, call) = (self.key(&call), call.without_request());
        let body_bytes = outgoing.body_bytes();
        call.memory.hold_or_reject(body_bytes).await?;
        call.memory.release_to(body_bytes);
        let client = match call.caller_key {
            Some(_) => &self.single_use,
            None => &self.client,
        };
        let slot = call.slots.current().cloned();
        let mark = MarkSentOnDrop::new(slot.as_ref().filter(|_| !outgoing.has_body()));
        let request = || request::build(&outgoing, &call, key.as_ref());
        let sent = self.send(client, request, until).await;
        if sent.as_ref().is_err_and(|error| !error.was_sent()) {
            mark.disarm();
        }
        let (url, expected) = outgoing.into_parts();
        call.memory.release_to(0);
        let checked = match sent {
            Ok(response) => response::check(response, expected, call, key).await,
            Err(error) => Err(error),
        };
        let mut checked = checked.map(|head| {
            let fields = head.fields();
            (head, fields)
        });
        if let Some(slot) = slot {
            exchange_limits(&slot, &mut checked);
        }
        let is_graph_route = [&self.invoke_url, &self.stream_url].contains(&&url);
        let url = if is_graph_route {
            &url
        } else {
            &self.threads_url
        };
        self.health
            .record_call(url, is_graph_route, checked.as_ref().err());
        checked
    }

    /// The key that is sent to the upstream: the caller's own, otherwise the current key of the bridge.
    fn key<Q>(&self, call: &Call<Q>) -> Option<SecretString> {
        let service_key = || {
            self.settings
                .key
                .as_ref()
                .map(|key| key.load().as_ref().clone())
        };
        call.caller_key.clone().or_else(service_key)
    }

    async fn send(
        &self,
        client: &Client,
        request: impl Fn() -> Request,
        until: Instant,
    ) -> Result<reqwest::Response, Error> {
        self.retries.record_call();
        for attempt in 1.. {
            let error = match client.execute(request()).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() => {
                    match descriptors::are_exhausted(Some(&error)) {
                        true => Error::NoDescriptors(error),
                        false => Error::Unreachable(error),
                    }
                }
                Err(error) => Error::Interrupted(error),
            };
            match self
                .retries
                .backoff(&error, attempt, until, fastrand::f64())
            {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
        unreachable!("the loop has no last attempt")
    }
}

/// A client that keeps at most `max_idle` idle connections.
fn client(settings: &Settings, max_idle: usize) -> Result<Client, BuildError> {
    let mut client = Client::builder()
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .tcp_nodelay(true)
        .http1_only()
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(settings.pool_idle_timeout)
        .pool_max_idle_per_host(max_idle);
    if let Some(pem) = &settings.ca_pem {
        let roots = Certificate::from_pem_bundle(pem).map_err(BuildError::Authorities)?;
        client = client.tls_certs_only(roots);
    }
    client.build().map_err(BuildError::Client)
}

/// Reports ALİM's limit from the response's head to the quota, and replaces it by the bridge's own limit.
fn exchange_limits(slot: &Slot, checked: &mut Result<(Head, ReplyHead), Error>) {
    let (stop, fields) = match checked {
        Ok((_, fields)) => (None, fields),
        Err(Error::Rejected(rejection)) => {
            let is_limited = rejection.status == StatusCode::TOO_MANY_REQUESTS;
            let stop = rejection.retry_after.filter(|_| is_limited);
            (stop, &mut rejection.head)
        }
        Err(_) => return,
    };
    let remaining = fields.remaining;
    let limits = slot.reconcile(ReportedLimit { remaining, stop });
    headers::set_limits(&mut fields.headers, limits);
}

fn expected(call: &Call<Question>, accept: &'static str) -> Expected {
    Expected {
        accept,
        names_thread: call.request.names_thread(),
    }
}

/// Whether a GET of `url` returns 200 within five seconds.
pub async fn answers(url: Url) -> bool {
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build();
    let Ok(client) = client else { return false };
    let answer = client.get(url).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}
