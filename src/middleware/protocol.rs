//! gRPC's protocol rules: which requests are gRPC, the response to a rejected one, and reasons for statuses that tonic makes.

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use tonic::{Code, Status, body::Body};

use super::response_body::GRPC_STATUS;
use crate::{
    status::{Credentials, Failure, Protocol},
    telemetry::{Method, Record},
};

/// Whether the messages are protobuf by gRPC. Other content types SHOULD get HTTP 415 (gRPC over HTTP/2, Content-Type). A
/// browser could send them across origins without a preflight.
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

/// A call to a method that no service has.
fn unknown_method() -> Failure {
    let text = "no such method; the bridge serves alim.v1.GraphService and alim.v1.ThreadService";
    Failure::Protocol(Protocol::MethodUnknown, text.into())
}

/// Replaces a status that tonic itself made for the request with the one from the mapping table.
pub(crate) fn with_reason(
    response: Response<Body>,
    method: Method,
    record: &Record,
) -> Response<Body> {
    let failure = match method {
        Method::Unknown if is_unimplemented(response.headers()) => Some(unknown_method()),
        _ => response.extensions().get::<Status>().and_then(violation), // tonic leaves it in a response without messages
    };
    let Some(failure) = failure else {
        return response;
    };
    let mut replaced = reject(failure, record);
    if let Some(accepted) = response.headers().get("grpc-accept-encoding") {
        replaced
            .headers_mut()
            .insert("grpc-accept-encoding", accepted.clone());
    }
    replaced
}

/// Whether tonic's router answered: UNIMPLEMENTED in the head, without a text.
fn is_unimplemented(headers: &HeaderMap) -> bool {
    let code = headers.get(GRPC_STATUS).map(HeaderValue::as_bytes);
    code.map(Code::from_bytes) == Some(Code::Unimplemented) && !headers.contains_key("grpc-message")
}

/// The rule that the request violates, if tonic found the violation. Only the bridge's own statuses have details. Those of
/// tonic differ by code, as gRPC assigns them to its libraries, and those with INTERNAL by text; `tests/it/protocol.rs` checks
/// that they still do. The bridge could check frames itself, but tonic would still check them too.
fn violation(status: &Status) -> Option<Failure> {
    if !status.details().is_empty() {
        return None;
    }
    let found = status.message().trim_start_matches("Error, ");
    let (broken, text) = match status.code() {
        // As sent, and after decompression
        Code::OutOfRange | Code::ResourceExhausted => (
            Protocol::TooLarge,
            format!("the request is too large: {found}"),
        ),
        Code::Internal => internal_violation(found),
        Code::Unimplemented => (Protocol::Encoding, found.to_owned()),
        _ => return None,
    };
    Some(Failure::Protocol(broken, text))
}

fn internal_violation(found: &str) -> (Protocol, String) {
    let breaks_rules = || format!("the request breaks gRPC's rules: {found}");
    match found {
        "Missing request message." => (Protocol::Cardinality, breaks_rules()),
        text if text.contains("compressed-flag but no grpc-encoding") => {
            (Protocol::CompressedFlag, breaks_rules())
        }
        _ => (
            Protocol::Malformed,
            format!("the request can't be decoded: {found}"),
        ),
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
