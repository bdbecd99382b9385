//! The URL of a call as the caller sent it. Starlette's redirects and ALİM's errors contain it.

use http::header::HOST;
use http::{HeaderMap, Uri};

/// The whole URL, with `path` as its path. Without a `Host` header it begins with the path.
pub(super) fn with_path(headers: &HeaderMap, uri: &Uri, path: &str) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = host
        .map(|host| format!("http://{host}"))
        .unwrap_or_default();
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{origin}{path}{query}")
}
