//! The URL of a call, as the caller wrote it: Starlette names it in redirects and ALİM in errors.

use http::header::HOST;
use http::{HeaderMap, Uri};

/// The whole URL with `path` in place of the call's own; without a `Host` it begins with the path.
pub(super) fn with_path(headers: &HeaderMap, uri: &Uri, path: &str) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let before = host
        .map(|host| format!("http://{host}"))
        .unwrap_or_default();
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{before}{path}{query}")
}
