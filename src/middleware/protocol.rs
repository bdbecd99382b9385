//! gRPC's protocol rules: which requests are gRPC, the response to a rejected one, and reasons for statuses that tonic makes.

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use tonic::{Code, Status, body::Body};

use super::response_body::GRPC_STATUS;
use crate::{
    status::{Credentials, Failure, Protocol},
    telemetry::Record,
};

const GRPC_DETAILS: &str = "grpc-status-details-bin";

/// Whether the messages are protobuf by gRPC. Other content types SHOULD get HTTP 415 (gRPC over HTTP/2, Content-Type). A browser could send them across
/// origins without a preflight.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let suffix = content_type.and_then(|text| text.strip_prefix("application/grpc"));
    let format = suffix.map(|suffix| suffix.strip_prefix("+proto").unwrap_or(suffix));
    format.is_some_and(|rest| rest.is_empty() || rest.starts_with(';'))
}

/// The size of the fields as `SETTINGS_MAX_HEADER_LIST_SIZE` counts it (RFC 9113, 6.5.2).
pub(crate) fn field_bytes(fields: &HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum()
}

/// Replaces a status that tonic itself made for the request with the one from the mapping table.
pub(crate) fn with_reason(response: Response<Body>, record: &Record) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(GRPC_STATUS) || headers.contains_key(GRPC_DETAILS) {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return response;
    };
    let Some(broken) = broken_rule(&status) else {
        return response;
    };
    let failure = Failure::Protocol(broken, protocol_text(broken, &status));
    let mut replaced = reject(failure, record);
    if let Some(accepted) = headers.get("grpc-accept-encoding") {
        replaced
            .headers_mut()
            .insert("grpc-accept-encoding", accepted.clone());
    }
    replaced
}

/// tonic distinguishes these only by code and text; `tests/it/protocol.rs` checks that it still does.
fn broken_rule(status: &Status) -> Option<Protocol> {
    match status.code() {
        Code::OutOfRange => Some(Protocol::TooLarge),
        Code::ResourceExhausted => Some(Protocol::TooLarge),
        Code::Unimplemented if status.message().is_empty() => Some(Protocol::MethodUnknown),
        Code::Unimplemented => Some(Protocol::Encoding),
        Code::Internal => Some(match status.message() {
            "Missing request message." => Protocol::Cardinality,
            text if text.contains("compressed-flag but no grpc-encoding") => {
                Protocol::CompressedFlag
            }
            _ => Protocol::Malformed,
        }),
        _ => None,
    }
}

fn protocol_text(broken: Protocol, status: &Status) -> String {
    match broken {
        Protocol::MethodUnknown => {
            "no such method; the bridge serves alim.v1.GraphService and alim.v1.ThreadService"
                .into()
        }
        Protocol::TooLarge => format!("the request is too large: {}", status.message()),
        Protocol::Malformed => format!("the request can't be decoded: {}", status.message()),
        Protocol::Cardinality | Protocol::CompressedFlag => {
            format!("the request breaks gRPC's rules: {}", status.message())
        }
        Protocol::Encoding | Protocol::ContentType | Protocol::HttpMethod | Protocol::Origin => {
            status.message().to_owned()
        }
    }
}

/// The response to a rejected request.
pub(crate) fn reject(failure: Failure, record: &Record) -> Response<Body> {
    let status = match failure {
        Failure::Protocol(Protocol::ContentType, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Failure::Protocol(Protocol::HttpMethod, _) => StatusCode::METHOD_NOT_ALLOWED,
        Failure::Protocol(Protocol::Origin, _) => StatusCode::FORBIDDEN,
        _ => StatusCode::OK,
    };
    let mut rejection = failure
        .into_status(record, Credentials::Service, None)
        .into_http();
    *rejection.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let post = HeaderValue::from_static("POST");
        rejection.headers_mut().insert(ALLOW, post); // RFC 9110, 15.5.6
    }
    rejection
}
