//! The loads over gRPC. Each is a number of calls, so many at a time, spread over some connections.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use prost_types::{Struct, Value, value::Kind};
use tonic::{
    Code, Request, Status,
    transport::{Certificate as Authority, Channel, ClientTlsConfig},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    AnyError,
    pb::{InvokeRequest, StreamRequest, graph_service_client::GraphServiceClient},
    server::Certificate,
};

/// Each has a canned answer of its own, of 60 to 200 tokens with line ends and letters beyond ASCII.
const QUESTIONS: [&str; 5] = [
    "Salam!",
    "Nə vaxt suvarım?",
    "Buğdaya hansı gübrə lazımdır?",
    "Taxılda xəstəlik var, nə edim?",
    "Sabah hava necə olacaq?",
];

/// Faults of the emulator that end at once.
const FAULTS: [&str; 6] = [
    "rate_limited",
    "unavailable",
    "bad_value",
    "crashed",
    "agent_failed",
    "truncated",
];

pub(crate) async fn channels(address: &str, connections: usize) -> Result<Vec<Channel>, AnyError> {
    let mut channels = Vec::new();
    for _ in 0..connections {
        let endpoint = Channel::from_shared(format!("http://{address}"))?;
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

pub(crate) async fn secure_channel(
    address: &str,
    certificate: &Certificate,
) -> Result<Channel, AnyError> {
    let (_, port) = address.rsplit_once(':').ok_or("no port")?;
    let tls = ClientTlsConfig::new().ca_certificate(Authority::from_pem(&certificate.pem));
    let endpoint = Channel::from_shared(format!("https://localhost:{port}"))?.tls_config(tls)?;
    Ok(endpoint.connect().await?)
}

/// Invokes of short questions.
pub(crate) async fn invokes(
    channels: &[Channel],
    calls: usize,
    at_a_time: usize,
) -> Result<(), AnyError> {
    each(channels, calls, at_a_time, async |mut client, at| {
        let reply = client.invoke(question(at)).await?.into_inner();
        match reply.response.is_empty() {
            true => Err("an empty reply".into()),
            false => Ok(()),
        }
    })
    .await
}

/// Streams that are read to their end.
pub(crate) async fn streams(
    channels: &[Channel],
    calls: usize,
    at_a_time: usize,
) -> Result<(), AnyError> {
    each(channels, calls, at_a_time, async |mut client, at| {
        let mut events = client.stream(stream_question(at)).await?.into_inner();
        while events.message().await?.is_some() {}
        Ok(())
    })
    .await
}

/// Each fault, by both methods, and requests that the bridge itself rejects.
pub(crate) async fn faults(channels: &[Channel], rounds: usize) -> Result<(), AnyError> {
    let calls = rounds * (FAULTS.len() + 1);
    each(channels, calls, 32, async |mut client, at| {
        let fault = FAULTS.get(at % (FAULTS.len() + 1));
        let (mut invoke, mut stream) = (question(at), stream_question(at));
        match fault {
            Some(fault) => {
                invoke.scenario_context = Some(meets(fault));
                stream.scenario_context = Some(meets(fault));
            }
            None => (invoke.message, stream.message) = Default::default(),
        }
        let _ = client.invoke(invoke).await; // "truncated" is a fault of streams alone
        let ending = match client.stream(stream).await {
            Ok(events) => events.into_inner().try_collect::<Vec<_>>().await.map(drop),
            Err(status) => Err(status),
        };
        match ending {
            Ok(()) => Err(format!("{fault:?} did not fail").into()),
            Err(_) => Ok(()),
        }
    })
    .await
}

/// Streams that end by their caller's deadline.
pub(crate) async fn deadlines(channels: &[Channel], calls: usize) -> Result<(), AnyError> {
    each(channels, calls, 50, async |mut client, at| {
        let mut request = Request::new(stream_question(at));
        request.set_timeout(Duration::from_millis(40));
        let ending: Result<Vec<_>, Status> = match client.stream(request).await {
            Ok(events) => events.into_inner().try_collect().await,
            Err(status) => Err(status),
        };
        match ending {
            Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => {
                Ok(())
            }
            other => Err(format!("no deadline: {other:?}").into()),
        }
    })
    .await
}

/// Health checks, as probes send them.
pub(crate) async fn health(channels: &[Channel], calls: usize) -> Result<(), AnyError> {
    for at in 0..calls {
        let mut client = HealthClient::new(channels[at % channels.len()].clone());
        client.check(HealthCheckRequest::default()).await?;
    }
    Ok(())
}

async fn each(
    channels: &[Channel],
    calls: usize,
    at_a_time: usize,
    call: impl AsyncFn(GraphServiceClient<Channel>, usize) -> Result<(), AnyError>,
) -> Result<(), AnyError> {
    let call = &call;
    let all = (0..calls).map(|at| {
        let client = GraphServiceClient::new(channels[at % channels.len()].clone());
        async move { call(client, at).await }
    });
    stream::iter(all)
        .buffer_unordered(at_a_time)
        .try_collect()
        .await
}

fn question(at: usize) -> InvokeRequest {
    InvokeRequest {
        message: QUESTIONS[at % QUESTIONS.len()].into(),
        user_id: format!("farmer-{}", at % 100),
        ..InvokeRequest::default()
    }
}

fn stream_question(at: usize) -> StreamRequest {
    StreamRequest {
        message: QUESTIONS[at % QUESTIONS.len()].into(),
        user_id: format!("farmer-{}", at % 100),
        ..StreamRequest::default()
    }
}

fn meets(fault: &str) -> Struct {
    let kind = Some(Kind::StringValue(fault.to_owned()));
    Struct {
        fields: BTreeMap::from([("emulator_fault".to_owned(), Value { kind })]),
    }
}
