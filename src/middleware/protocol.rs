//! gRPC's own rules: what is a call, how a rejected one is answered, and a reason for the statuses that tonic itself makes.

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

/// Anything else SHOULD be told with HTTP's 415 (gRPC over HTTP/2, Content-Type); a browser could
/// send it across origins without asking.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let suffix = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(['+', ';']))
}

/// RFC 9113, 6.5.2, `SETTINGS_MAX_HEADER_LIST_SIZE`.
pub(crate) fn field_bytes(fields: &HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32);
    sizes.sum()
}

/// Puts the table's row in place of a status that tonic made of the request itself.
pub(crate) fn with_reason(answer: Response<Body>, record: &Record) -> Response<Body> {
    let headers = answer.headers();
    if !headers.contains_key(GRPC_STATUS) || headers.contains_key(GRPC_DETAILS) {
        return answer;
    }
    let Some(found) = Status::from_header_map(headers) else {
        return answer;
    };
    let Some(broken) = broken_rule(&found) else {
        return answer;
    };
    let failure = Failure::Protocol(broken, protocol_text(broken, &found));
    let mut replaced = reject(failure, record);
    if let Some(accepted) = headers.get("grpc-accept-encoding") {
        replaced
            .headers_mut()
            .insert("grpc-accept-encoding", accepted.clone());
    }
    replaced
}

/// tonic tells these apart by code and text alone; `tests/it/protocol.rs` holds it to that.
fn broken_rule(found: &Status) -> Option<Protocol> {
    match found.code() {
        Code::OutOfRange => Some(Protocol::TooLarge),
        Code::ResourceExhausted => Some(Protocol::TooLarge),
        Code::Unimplemented if found.message().is_empty() => Some(Protocol::MethodUnknown),
        Code::Unimplemented => Some(Protocol::Encoding),
        Code::Internal => Some(Protocol::Malformed),
        _ => None,
    }
}

fn protocol_text(broken: Protocol, found: &Status) -> String {
    match broken {
        Protocol::MethodUnknown => {
            "no such method; the bridge serves alim.v1.GraphService and alim.v1.ThreadService"
                .into()
        }
        Protocol::TooLarge => format!("the request is too large: {}", found.message()),
        Protocol::Malformed => format!("the request can't be decoded: {}", found.message()),
        Protocol::Encoding | Protocol::ContentType | Protocol::HttpMethod | Protocol::Origin => {
            found.message().to_owned()
        }
    }
}

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
