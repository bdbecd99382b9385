//! The web origins that can call, compared with a request's `origin` header (RFC 6454, 6.2).
//!
//! A page cannot forge its `origin`. A client that is not a browser sends no `origin`, so its key decides, not this list.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header::ORIGIN};
use url::Url;

/// The origins whose pages can call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every origin.
    Any,
    /// Only these origins.
    Listed(Arc<[HeaderValue]>),
}

impl Origins {
    /// Parses `*`, or origins separated by commas.
    ///
    /// # Errors
    ///
    /// - The positions, counted from 1, of items that are not origins in the form that browsers send.
    pub fn parse(text: &str) -> Result<Self, Vec<usize>> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let parsed: Vec<_> = text.split(',').map(|item| parse_one(item.trim())).collect();
        let numbered = parsed.iter().zip(1..);
        let invalid = numbered.filter_map(|(origin, number)| origin.is_none().then_some(number));
        let invalid: Vec<_> = invalid.collect();
        match invalid.is_empty() {
            true => Ok(Self::Listed(parsed.into_iter().flatten().collect())),
            false => Err(invalid),
        }
    }

    /// Whether a request with these headers is allowed.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(ORIGIN) || self.allow_origin(headers).is_some()
    }

    /// The value of `access-control-allow-origin` for a request with these headers. `None` if there is no `origin`, or if it
    /// is not allowed.
    pub(crate) fn allow_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut values = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (values.next(), values.next()) else {
            return None;
        };
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Listed(origins) => origins.contains(origin).then(|| origin.clone()),
        }
    }
}

/// Accepts only the exact text that a browser sends. Otherwise an invisible difference would reject every page of the origin.
fn parse_one(text: &str) -> Option<HeaderValue> {
    let url = Url::parse(text).ok()?;
    let is_page = matches!(url.scheme(), "http" | "https");
    let is_as_sent = url.origin().ascii_serialization() == text;
    let has_wildcard = text.contains('*'); // valid in a URL's host, but it would match nothing
    let origin = HeaderValue::from_str(text).ok();
    origin.filter(|_| is_page && is_as_sent && !has_wildcard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(origins: &[&'static str]) -> HeaderMap {
        let origins = origins.iter();
        origins
            .map(|origin| (ORIGIN, HeaderValue::from_static(origin)))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }

    #[test]
    fn an_origin_must_match_exactly_and_come_once() {
        let origins = Origins::parse("https://a.example,http://localhost:3000").expect("valid");
        for (sent, allowed) in [
            (&[][..], true),
            (&["https://a.example"], true),
            (&["http://localhost:3000"], true),
            (&["http://a.example"], false),
            (&["https://a.example:8443"], false),
            (&["https://a.example.evil.example"], false),
            (&["https://A.example"], false),
            (&["null"], false),
            (&[""], false),
            (&["https://a.example", "https://a.example"], false),
        ] {
            assert_eq!(origins.allow(&headers(sent)), allowed, "{sent:?}");
        }
    }

    #[test]
    fn any_allows_every_origin_and_returns_a_star() {
        let sent = headers(&["null"]);
        assert!(Origins::Any.allow(&sent));
        let allow_origin = Origins::Any.allow_origin(&sent).expect("allowed");
        assert_eq!(allow_origin, "*");
        assert_eq!(Origins::Any.allow_origin(&headers(&[])), None);
    }
}
