//! The ConformanceService: it echoes what it was asked, and answers as the request's response definition says.

use std::{pin::Pin, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::Any;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::pb::{
    self, ConformancePayload, conformance_payload::RequestInfo,
    conformance_service_server::ConformanceService, unary_response_definition::Response as Defined,
};

/// Trailers that an OK gets too.
#[derive(Clone)]
pub(crate) struct Trailers(pub(crate) HeaderMap);

/// The service. It has no state.
#[derive(Clone)]
pub(crate) struct Conformance;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ConformanceService for Conformance {
    type ServerStreamStream = Replies<pb::ServerStreamResponse>;
    type BidiStreamStream = Replies<pb::BidiStreamResponse>;

    async fn unary(
        &self,
        request: Request<pb::UnaryRequest>,
    ) -> Result<Response<pb::UnaryResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let info = request_info(&metadata, vec![any("UnaryRequest", &message)]);
        let response = unary(message.response_definition, info).await?;
        Ok(response.map(|payload| pb::UnaryResponse {
            payload: Some(payload),
        }))
    }

    async fn idempotent_unary(
        &self,
        request: Request<pb::IdempotentUnaryRequest>,
    ) -> Result<Response<pb::IdempotentUnaryResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let info = request_info(&metadata, vec![any("IdempotentUnaryRequest", &message)]);
        let response = unary(message.response_definition, info).await?;
        Ok(response.map(|payload| pb::IdempotentUnaryResponse {
            payload: Some(payload),
        }))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<pb::ClientStreamRequest>>,
    ) -> Result<Response<pb::ClientStreamResponse>, Status> {
        let (metadata, _, mut messages) = request.into_parts();
        let (mut definition, mut requests) = (None, Vec::new());
        while let Some(message) = messages.message().await? {
            requests.push(any("ClientStreamRequest", &message));
            if requests.len() == 1 {
                definition = message.response_definition;
            }
        }
        let response = unary(definition, request_info(&metadata, requests)).await?;
        Ok(response.map(|payload| pb::ClientStreamResponse {
            payload: Some(payload),
        }))
    }

    async fn server_stream(
        &self,
        request: Request<pb::ServerStreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        let info = request_info(&metadata, vec![any("ServerStreamRequest", &message)]);
        let definition = message.response_definition.unwrap_or_default();
        let (head, trailers) = (
            definition.response_headers.clone(),
            definition.response_trailers.clone(),
        );
        let replies = replies(definition, Some(info)).map(|reply| {
            reply.map(|payload| pb::ServerStreamResponse {
                payload: Some(payload),
            })
        });
        respond(
            Box::pin(replies) as Self::ServerStreamStream,
            &head,
            &trailers,
        )
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<pb::BidiStreamRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        let (metadata, _, mut messages) = request.into_parts();
        let Some(first) = messages.message().await? else {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        };
        let mut requests = vec![any("BidiStreamRequest", &first)];
        let definition = first.response_definition.unwrap_or_default();
        let (head, trailers) = (
            definition.response_headers.clone(),
            definition.response_trailers.clone(),
        );
        let replies: Replies<ConformancePayload> = if first.full_duplex {
            let info = request_info(&metadata, requests);
            full_duplex(definition, info, messages)
        } else {
            while let Some(message) = messages.message().await? {
                requests.push(any("BidiStreamRequest", &message));
            }
            Box::pin(replies(definition, Some(request_info(&metadata, requests))))
        };
        let replies = replies.map(|reply| {
            reply.map(|payload| pb::BidiStreamResponse {
                payload: Some(payload),
            })
        });
        respond(
            Box::pin(replies) as Self::BidiStreamStream,
            &head,
            &trailers,
        )
    }

    async fn unimplemented(
        &self,
        _: Request<pb::UnimplementedRequest>,
    ) -> Result<Response<pb::UnimplementedResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// The one reply of a definition: a payload, or its error.
async fn unary(
    definition: Option<pb::UnaryResponseDefinition>,
    info: RequestInfo,
) -> Result<Response<ConformancePayload>, Status> {
    let definition = definition.unwrap_or_default();
    sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
    let (head, trailers) = (definition.response_headers, definition.response_trailers);
    let data = match definition.response {
        Some(Defined::Error(error)) => {
            let mut metadata = headers(&head)?;
            for (name, value) in &headers(&trailers)? {
                metadata.append(name, value.clone());
            }
            return Err(status(error, Some(&info), metadata));
        }
        Some(Defined::ResponseData(data)) => data,
        None => Vec::new(),
    };
    let payload = ConformancePayload {
        data,
        request_info: Some(info),
    };
    respond(payload, &head, &trailers)
}

/// All replies of a definition, one after the other, then its error. The first reply has the information on the request; without a
/// reply, the error has it.
fn replies(
    definition: pb::StreamResponseDefinition,
    mut info: Option<RequestInfo>,
) -> impl Stream<Item = Result<ConformancePayload, Status>> + Send {
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        for data in definition.response_data {
            sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
            let payload = ConformancePayload {
                data,
                request_info: info.take(),
            };
            if send.send(Ok(payload)).await.is_err() {
                return; // the caller left
            }
        }
        finish(definition.error, info, &send).await;
    });
    ReceiverStream::new(receive)
}

/// A reply to each message, in turn; the replies that are left follow the last message.
fn full_duplex(
    mut definition: pb::StreamResponseDefinition,
    info: RequestInfo,
    mut messages: Streaming<pb::BidiStreamRequest>,
) -> Replies<ConformancePayload> {
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut info = Some(info);
        for data in std::mem::take(&mut definition.response_data) {
            sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
            let payload = ConformancePayload {
                data,
                request_info: info.take(),
            };
            if send.send(Ok(payload)).await.is_err() {
                return;
            }
            match messages.message().await {
                Ok(Some(message)) => {
                    info = Some(RequestInfo {
                        requests: vec![any("BidiStreamRequest", &message)],
                        ..RequestInfo::default()
                    });
                }
                Ok(None) => info = None,
                Err(status) => {
                    let _ = send.send(Err(status)).await;
                    return;
                }
            }
        }
        finish(definition.error, info, &send).await;
    });
    Box::pin(ReceiverStream::new(receive))
}

/// Ends the replies with the definition's error, if it has one.
async fn finish(
    error: Option<pb::Error>,
    info: Option<RequestInfo>,
    send: &mpsc::Sender<Result<ConformancePayload, Status>>,
) {
    let Some(error) = error else { return };
    let status = status(error, info.as_ref(), HeaderMap::new()); // `respond` has set the trailers
    let _ = send.send(Err(status)).await; // the caller may have left
}

fn respond<T>(
    message: T,
    head: &[pb::Header],
    trailers: &[pb::Header],
) -> Result<Response<T>, Status> {
    let mut response = Response::new(message);
    *response.metadata_mut() = MetadataMap::from_headers(headers(head)?);
    response
        .extensions_mut()
        .insert(Trailers(headers(trailers)?));
    Ok(response)
}

fn headers(list: &[pb::Header]) -> Result<HeaderMap, Status> {
    let wrong = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
    let mut map = HeaderMap::new();
    for header in list {
        let name: HeaderName = header.name.parse().map_err(|error| {
            let error: http::header::InvalidHeaderName = error;
            wrong(&error)
        })?;
        for value in &header.value {
            let value = HeaderValue::from_str(value).map_err(|error| wrong(&error))?;
            map.append(name.clone(), value);
        }
    }
    Ok(map)
}

/// What the service saw of the request.
fn request_info(metadata: &MetadataMap, requests: Vec<Any>) -> RequestInfo {
    let headers = metadata.as_ref();
    let request_headers = headers.keys().map(|name| pb::Header {
        name: name.to_string(),
        value: headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect(),
    });
    RequestInfo {
        request_headers: request_headers.collect(),
        timeout_ms: headers.get("grpc-timeout").and_then(timeout_ms),
        requests,
        connect_get_info: None,
    }
}

fn timeout_ms(value: &HeaderValue) -> Option<i64> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: i64 = digits.parse().ok()?;
    Some(match unit {
        "H" => value * 3_600_000,
        "M" => value * 60_000,
        "S" => value * 1000,
        "m" => value,
        "u" => value / 1000,
        "n" => value / 1_000_000,
        _ => return None,
    })
}

/// An error of the protos as a status. With `info`, its details end with that.
fn status(error: pb::Error, info: Option<&RequestInfo>, metadata: HeaderMap) -> Status {
    let code = error.code;
    let mut details = error.details;
    details.extend(info.map(|info| any("ConformancePayload.RequestInfo", info)));
    let message = error.message.unwrap_or_default();
    let encoded = tonic_types::pb::Status {
        code,
        message: message.clone(),
        details,
    };
    let metadata = MetadataMap::from_headers(metadata);
    let encoded = encoded.encode_to_vec().into();
    Status::with_details_and_metadata(Code::from_i32(code), message, encoded, metadata)
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/connectrpc.conformance.v1.{name}"),
        value: message.encode_to_vec(),
    }
}
