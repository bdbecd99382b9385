//! The upstream's bank: the only place that names reqwest and eventsource-stream.
//!
//! [`Upstream::invoke`], [`Upstream::stream`] and, in `threads`, the three for threads send a [`Call`]
//! and judge the head of the answer. What is promised: a call that may have reached the upstream is never sent twice; no answer is
//! read without a bound; redirects are never followed, since the key would go along.

pub mod error;
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
    request::{Ask, Expected, JSON, SSE, Unknown},
    response::Head,
    retry::Retries,
    sse::Events,
};
use crate::{
    call::{
        Call, Question, headers,
        reply::{Reply, ReplyHead},
    },
    quota::{self, Answer, Quota, Slot},
    reload::Reload,
};

/// What hyper reads at once, at most: it makes its buffer twice as large each time that it was full.
pub(crate) const MAX_CHUNK_BYTES: usize = 416 * 1024;

/// How to reach the upstream, and how far to trust it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The base that `/graph/invoke`, `/graph/stream` and `/threads` are appended to.
    pub url: Url,
    /// The bridge's own key; `None` when callers bring theirs.
    pub key: Option<Reload<SecretString>>,
    /// Certificate authorities in PEM that may vouch for the upstream, in place of the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// From the start of a connection attempt to its end, TLS included.
    pub connect_timeout: Duration,
    /// How long a connection without a call is kept; under the upstream's own 5.0 s.
    pub pool_idle_timeout: Duration,
    /// Bytes of a unary answer; exactly as many pass.
    pub max_reply_bytes: usize,
    /// How streamed bodies are read.
    pub sse: sse::Settings,
    /// How many times a call that found no connection is tried again, while the budget of all calls
    /// lasts.
    pub retries: u32,
    /// What [`Upstream::probe`] asks with GET; without it, it opens a connection.
    pub health_url: Option<Url>,
    /// How many requests each key may send.
    pub quota: quota::Settings,
}

/// ALİM, as the bridge reaches it.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// For calls and probes with the bridge's key.
    client: Client,
    /// For calls with a caller's key. Each has a connection of its own, so that a late answer can't meet another key. ALİM
    /// lets a key ask 30 times a minute and closes a connection after 5 s, so there would be little to use again.
    single_use: Client,
    invoke_url: Url,
    stream_url: Url,
    threads_url: Url,
    retries: Retries,
    health: Health,
    quota: Quota,
    /// For probes that only connect.
    tls: Option<Arc<rustls::ClientConfig>>,
    settings: Settings,
}

/// Why there can be no client for these settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The certificate authorities can't be read as PEM.
    #[error("the certificate authorities can't be used")]
    Authorities(#[source] reqwest::Error),
    /// There are no system roots, or TLS can't be set up otherwise.
    #[error("the HTTP client can't be set up")]
    Client(#[source] reqwest::Error),
}

impl Upstream {
    /// Sets up the client; nothing is connected yet, so the upstream may be down.
    ///
    /// # Errors
    ///
    /// - [`BuildError`] when TLS can't be set up.
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
            quota: Quota::new(settings.quota),
            tls: probe::tls(&settings),
            settings,
        })
    }

    /// Asks for the whole answer; also gives what the head says beside its status. No attempt is
    /// begun after `until`; who calls bounds the whole.
    ///
    /// # Errors
    ///
    /// - [`Error`], any but [`Error::StreamFailed`] and [`Error::Truncated`].
    pub async fn invoke(
        &self,
        call: Call<Question>,
        until: Instant,
    ) -> Result<(Reply, ReplyHead), Error> {
        let ask = Ask::post(self.invoke_url.clone(), &call.asked, expected(&call, JSON));
        self.reply(ask, call, until, "response and thread_id").await
    }

    /// Asks for the events of the answer; also gives what the head says beside its status. A head
    /// alone proves nothing: the first event may be a failure.
    ///
    /// # Errors
    ///
    /// - [`Error`], any but [`Error::StreamFailed`], [`Error::Truncated`] and [`Error::TooLarge`].
    pub async fn stream(
        &self,
        call: Call<Question>,
        until: Instant,
    ) -> Result<(Events, ReplyHead), Error> {
        let ask = Ask::post(self.stream_url.clone(), &call.asked, expected(&call, SSE));
        let (head, fields) = self.ask(ask, call, until).await?;
        Ok((head.into_events(self.settings.sse), fields))
    }

    /// What is known of the upstream's health.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// How many requests each key may send: who calls takes the slots, and gives them with the call.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Asks for a whole answer with the `required` fields.
    async fn reply<T: DeserializeOwned, Q>(
        &self,
        ask: Ask,
        call: Call<Q>,
        until: Instant,
        required: &'static str,
    ) -> Result<(T, ReplyHead), Error> {
        let (head, fields) = self.ask(ask, call, until).await?;
        let limit = self.settings.max_reply_bytes;
        Ok((head.into_reply(limit, required).await?, fields))
    }

    async fn ask<Q>(
        &self,
        ask: Ask,
        call: Call<Q>,
        until: Instant,
    ) -> Result<(Head, ReplyHead), Error> {
        let (key, call) = (self.key(&call), call.written());
        let body_bytes = ask.body_bytes();
        call.memory.hold_or_reject(body_bytes).await?;
        call.memory.release_to(body_bytes);
        let client = match call.caller_key {
            Some(_) => &self.single_use,
            None => &self.client,
        };
        let slot = call.slots.current().cloned();
        let unknown = Unknown::new(slot.as_ref().filter(|_| !ask.has_body()));
        let request = || request::build(&ask, &call, key.as_ref());
        let sent = self.send(client, request, until).await;
        if matches!(sent, Err(Error::Unreachable(_))) {
            unknown.unsent();
        }
        let (url, expected) = ask.answered();
        call.memory.release_to(0);
        let judged = match sent {
            Ok(response) => response::judge(response, expected, call, key).await,
            Err(error) => Err(error),
        };
        let mut judged = judged.map(|head| {
            let fields = head.fields();
            (head, fields)
        });
        if let Some(slot) = slot {
            learn(&slot, &mut judged);
        }
        let is_graphs = [&self.invoke_url, &self.stream_url].contains(&&url);
        let url = if is_graphs { &url } else { &self.threads_url };
        self.health.note_call(url, is_graphs, judged.as_ref().err());
        judged
    }

    /// The key that the upstream is shown: the caller's own, else the bridge's as it is now.
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
        self.retries.begin();
        for attempt in 1.. {
            let error = match client.execute(request()).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() => Error::Unreachable(error),
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
        unreachable!("attempts are counted without end")
    }
}

/// A client that keeps so many connections without a call.
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

/// Takes what the answer's head says of ALİM's limit, and puts the bridge's own in its place.
fn learn(slot: &Slot, judged: &mut Result<(Head, ReplyHead), Error>) {
    let (stop, fields) = match judged {
        Ok((_, fields)) => (None, fields),
        Err(Error::Rejected(rejection)) => {
            let is_limited = rejection.status == StatusCode::TOO_MANY_REQUESTS;
            let stop = rejection.retry_after.filter(|_| is_limited);
            (stop, &mut rejection.head)
        }
        Err(_) => return,
    };
    let remaining = fields.remaining;
    let limits = slot.learn(Answer { remaining, stop });
    headers::set_limits(&mut fields.headers, limits);
}

fn expected(call: &Call<Question>, accept: &'static str) -> Expected {
    Expected {
        accept,
        names_thread: call.asked.names_thread(),
    }
}

/// Whether a GET of `url` answers 200 within five seconds.
pub async fn answers(url: Url) -> bool {
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build();
    let Ok(client) = client else { return false };
    let answer = client.get(url).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}
