//! Shared by all tests: a bridge on a real socket, and accessors for its statuses.

pub(crate) mod bare;
pub(crate) mod callers;
pub(crate) mod deployed;
pub(crate) mod extra;
pub(crate) mod faults;
pub(crate) mod frames;
pub(crate) mod page;
pub(crate) mod running;
pub(crate) mod upstream;

use std::net::SocketAddr;

use alim_bridge::{
    config::{Config, RawSettings},
    pb::{
        self, InvokeRequest, InvokeResponse, StreamRequest, StreamResponse,
        graph_service_client::GraphServiceClient, stream_response::Event,
    },
    server::Drained,
    shutdown::Shutdown,
};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt};

/// The service key of these bridges.
pub(crate) const SERVICE_KEY: &str = "service-key";

/// A running bridge and a client for it. Its drop stops the bridge at once.
pub(crate) struct Bridge {
    pub(crate) client: GraphServiceClient<Channel>,
    pub(crate) channel: Channel,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) shutdown: Shutdown,
    task: JoinHandle<Drained>,
}

impl Bridge {
    /// Starts a bridge with default settings.
    pub(crate) async fn start(upstream_url: &str) -> Self {
        Self::with(upstream_url, &[]).await
    }

    /// Starts a bridge with these settings, named as in the environment without the prefix.
    pub(crate) async fn with(upstream_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("UPSTREAM_URL", upstream_url), ("LOG", "off")];
        if !settings.contains(&("CREDENTIALS", "caller")) {
            all.push(("UPSTREAM_API_KEY", SERVICE_KEY));
        }
        all.extend(settings);
        Self::from_config(config(&all)).await
    }

    pub(crate) async fn invoke(&self, message: &str) -> Result<Response<InvokeResponse>, Status> {
        self.client.clone().invoke(ask(message)).await
    }

    pub(crate) async fn stream(
        &self,
        message: &str,
    ) -> Result<Response<Streaming<StreamResponse>>, Status> {
        self.client.clone().stream(ask_stream(message)).await
    }

    /// The status of a stream that fails before its first event.
    pub(crate) async fn stream_failure(&self, message: &str) -> Status {
        let (events, ending) = self.stream_all(message).await;
        assert_eq!(events, []);
        ending.expect_err("a failure")
    }

    /// All events of a stream, and how it ended.
    pub(crate) async fn stream_all(&self, message: &str) -> (Vec<Event>, Result<(), Status>) {
        match self.stream(message).await {
            Ok(response) => read_all(response.into_inner()).await,
            Err(status) => (Vec::new(), Err(status)),
        }
    }

    /// A client that enforces no deadlines itself, as tonic's channel does.
    pub(crate) async fn bare_client(&self) -> GraphServiceClient<bare::Connection> {
        let connection = bare::Connection::open(self.address).await;
        let origin = format!("http://{}", self.address).parse().expect("a URL");
        GraphServiceClient::with_origin(connection, origin)
    }

    /// Starts the drain and waits until the bridge has stopped.
    pub(crate) async fn drain(mut self) -> Drained {
        self.shutdown.drain.cancel();
        (&mut self.task).await.expect("no panic")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings as `serve` reads them from this environment.
pub(crate) fn config(settings: &[(&str, &str)]) -> Config {
    let vars = settings
        .iter()
        .map(|(name, value)| (format!("ALIM_BRIDGE_{name}"), (*value).to_owned()));
    let mut raw = RawSettings::default();
    raw.add_environment(vars);
    Config::parse(&raw).unwrap_or_else(|invalid| panic!("{invalid}"))
}

pub(crate) fn ask(message: &str) -> InvokeRequest {
    InvokeRequest {
        message: message.into(),
        user_id: "u-1".into(),
        ..InvokeRequest::default()
    }
}

pub(crate) fn ask_stream(message: &str) -> StreamRequest {
    StreamRequest {
        message: message.into(),
        user_id: "u-1".into(),
        ..StreamRequest::default()
    }
}

/// A request with a deadline.
pub(crate) fn with_timeout<T>(millis: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(std::time::Duration::from_millis(millis));
    request
}

pub(crate) async fn read_all(
    mut events: Streaming<StreamResponse>,
) -> (Vec<Event>, Result<(), Status>) {
    let mut all = Vec::new();
    loop {
        match events.message().await {
            Ok(Some(message)) => all.push(message.event.expect("an event")),
            Ok(None) => return (all, Ok(())),
            Err(status) => return (all, Err(status)),
        }
    }
}

/// The concatenated text of all tokens.
pub(crate) fn text(events: &[Event]) -> String {
    let texts = events.iter().map(|event| match event {
        Event::Token(token) => token.text.as_str(),
        Event::Node(_) | Event::Done(_) | Event::Other(_) => "",
    });
    texts.collect()
}

pub(crate) fn token(text: &str) -> Event {
    Event::Token(pb::Token { text: text.into() })
}

/// A complete SSE body: these tokens, framed as ALİM does, and `done`.
pub(crate) fn sse_answer(tokens: &[&str]) -> String {
    sse_tokens(tokens) + "event: done\ndata: [DONE]\n\n"
}

/// These tokens, framed as ALİM does.
pub(crate) fn sse_tokens(tokens: &[&str]) -> String {
    tokens
        .iter()
        .map(|text| format!("event: token\ndata: {text}\n\n"))
        .collect()
}

/// A complete reply to an Invoke.
pub(crate) fn reply_json() -> String {
    r#"{"response":"Suvarın.","thread_id":"6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b","model":"m"}"#
        .into()
}

/// The parts of a status, as callers read them.
pub(crate) trait RichStatus {
    /// The code, and the reason of its ErrorInfo.
    fn code_and_reason(&self) -> (Code, String);
    /// A value in the metadata of its ErrorInfo.
    fn info(&self, name: &str) -> Option<String>;
    /// `grpc-retry-pushback-ms`.
    fn pushback(&self) -> Option<String>;
    /// All its details.
    fn error_details(&self) -> ErrorDetails;
}

impl RichStatus for Status {
    fn code_and_reason(&self) -> (Code, String) {
        let info = self.get_error_details().error_info().cloned();
        let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {self:?}"));
        assert_eq!(info.domain, "alim-bridge");
        (self.code(), info.reason)
    }

    fn info(&self, name: &str) -> Option<String> {
        self.get_error_details()
            .error_info()?
            .metadata
            .get(name)
            .cloned()
    }

    fn pushback(&self) -> Option<String> {
        let value = self.metadata().get("grpc-retry-pushback-ms")?;
        Some(value.to_str().expect("ASCII").to_owned())
    }

    fn error_details(&self) -> ErrorDetails {
        self.get_error_details()
    }
}
