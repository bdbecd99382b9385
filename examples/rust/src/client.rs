//! Connections and calls.

use std::{error::Error, time::Duration};

use tokio::time::{Instant, timeout_at};
use tonic::{
    Request, Status, Streaming, TimeoutExpired,
    metadata::{Ascii, MetadataMap, MetadataValue, errors::InvalidMetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    error::{AlimError, REQUEST_ID, is_caused_by},
    pb::{
        DeleteThreadRequest, InvokeRequest, InvokeResponse, StreamRequest, StreamResponse,
        graph_service_client::GraphServiceClient, thread_service_client::ThreadServiceClient,
    },
    retry::retrying,
};

/// How a connection is protected.
pub enum Security {
    /// HTTP/2 in clear, which carries no key.
    Plaintext,
    Tls {
        /// PEM authorities that vouch for the bridge.
        ca: Vec<u8>,
        /// Sent as `authorization: Bearer`.
        key: Option<String>,
    },
}

/// Why a connection can't be opened.
pub type ConnectError = Box<dyn Error + Send + Sync>;

/// What goes with one call.
pub struct Call {
    /// Names the call in the logs. In a service, pass on the id of the request that you serve.
    pub request_id: String,
    /// From here to the end of the answer, with all attempts.
    pub timeout: Duration,
}

/// A client of the bridge; clones share one connection.
#[derive(Clone)]
pub struct Alim {
    graph: GraphServiceClient<InterceptedService<Channel, Bearer>>,
    threads: ThreadServiceClient<InterceptedService<Channel, Bearer>>,
}

impl Alim {
    /// Opens a connection to `host:port`. It is opened again by itself when it breaks.
    ///
    /// # Errors
    ///
    /// - The address, the authorities or the key can't be used.
    /// - Nothing answers there within 5 s.
    pub async fn connect(address: &str, security: Security) -> Result<Self, ConnectError> {
        let (scheme, tls, key) = match security {
            Security::Plaintext => ("http", None, None),
            Security::Tls { ca, key } => {
                let ca = Certificate::from_pem(ca);
                (
                    "https",
                    Some(ClientTlsConfig::new().ca_certificate(ca)),
                    key,
                )
            }
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(Duration::from_secs(5))
            // Finds out within 30 s that the bridge's machine is gone, while a call is open.
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls)?;
        }
        let bearer = Bearer::new(key)?;
        let channel = endpoint.connect().await?;
        Ok(Self {
            graph: GraphServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            threads: ThreadServiceClient::with_interceptor(channel, bearer),
        })
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// - The call did not end with OK.
    pub async fn invoke(
        &self,
        question: InvokeRequest,
        call: Call,
    ) -> Result<InvokeResponse, AlimError> {
        let deadline = Instant::now() + call.timeout;
        retrying(deadline, async || {
            let request = prepare(question.clone(), &call.request_id, deadline)?;
            let answered = timeout_at(deadline, self.graph.clone().invoke(request)).await;
            Ok(within(answered, None)?.into_inner())
        })
        .await
    }

    /// Asks, and gives the answer while it is made. The first event has come when this returns.
    ///
    /// # Errors
    ///
    /// - The call failed before its first event.
    pub async fn stream(&self, question: StreamRequest, call: Call) -> Result<Answer, AlimError> {
        let deadline = Instant::now() + call.timeout;
        retrying(deadline, async || {
            let request = prepare(question.clone(), &call.request_id, deadline)?;
            let begun = timeout_at(deadline, self.graph.clone().stream(request)).await;
            let (headers, events, _) = within(begun, None)?.into_parts();
            Ok(Answer {
                headers,
                events,
                deadline,
            })
        })
        .await
    }

    /// Deletes a thread for good.
    ///
    /// # Errors
    ///
    /// - The call did not end with OK.
    pub async fn delete_thread(&self, thread_id: String, call: Call) -> Result<(), AlimError> {
        let deadline = Instant::now() + call.timeout;
        let question = DeleteThreadRequest { thread_id };
        retrying(deadline, async || {
            let request = prepare(question.clone(), &call.request_id, deadline)?;
            let deleted = timeout_at(deadline, self.threads.clone().delete_thread(request)).await;
            within(deleted, None).map(drop)
        })
        .await
    }
}

/// The events of a stream. Dropping it cancels the call.
pub struct Answer {
    headers: MetadataMap,
    events: Streaming<StreamResponse>,
    deadline: Instant,
}

impl Answer {
    /// The next event; `None` once the answer is complete.
    ///
    /// # Errors
    ///
    /// - The call did not end with OK, or its deadline has passed.
    pub async fn next(&mut self) -> Result<Option<StreamResponse>, AlimError> {
        let next = timeout_at(self.deadline, self.events.message()).await;
        within(next, Some(&self.headers))
    }
}

type Timed<T> = Result<Result<T, Status>, tokio::time::error::Elapsed>;

fn within<T>(answered: Timed<T>, headers: Option<&MetadataMap>) -> Result<T, AlimError> {
    match answered {
        Ok(Ok(answer)) => Ok(answer),
        // tonic has a clock for the head of an answer, and calls its end CANCELLED.
        Ok(Err(status)) if is_caused_by::<TimeoutExpired>(&status) => Err(AlimError::deadline()),
        Ok(Err(status)) => Err(AlimError::new(status, headers)),
        Err(_) => Err(AlimError::deadline()),
    }
}

/// A request with its id, and with what is left of its time as `grpc-timeout`.
fn prepare<T>(message: T, request_id: &str, deadline: Instant) -> Result<Request<T>, AlimError> {
    let mut request = Request::new(message);
    let id = request_id
        .parse()
        .map_err(|_| Status::invalid_argument("a request id must be visible ASCII"));
    let id = id.map_err(|status| AlimError::new(status, None))?;
    request.metadata_mut().insert(REQUEST_ID, id);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    Ok(request)
}

/// Sends the key with each call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(key: Option<String>) -> Result<Self, InvalidMetadataValue> {
        let value = key.map(|key| format!("Bearer {key}").parse()).transpose()?;
        let sensitive = value.map(|mut value: MetadataValue<Ascii>| {
            value.set_sensitive(true); // not in HPACK's table, nor in Debug
            value
        });
        Ok(Self(sensitive))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}
