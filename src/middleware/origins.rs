//! Whose pages may call: origins as browsers send them (RFC 6454, 6.2), and the `origin` that a request
//! shows.
//!
//! A page can't forge its `origin`, and what is no page has none: whoever is not a browser is judged by its
//! key, not here.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header::ORIGIN};
use url::Url;

/// The origins whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Every page of every site.
    Any,
    /// The pages of these.
    Listed(Arc<[HeaderValue]>),
}

impl Origins {
    /// Reads `*`, or origins separated by commas.
    ///
    /// # Errors
    ///
    /// - The places of those that are none as browsers send them, counted from 1.
    pub fn parse(text: &str) -> Result<Self, Vec<usize>> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let parsed: Vec<_> = text.split(',').map(|item| parse_one(item.trim())).collect();
        let places = parsed.iter().zip(1..);
        let wrong = places.filter_map(|(origin, place)| origin.is_none().then_some(place));
        let wrong: Vec<_> = wrong.collect();
        match wrong.is_empty() {
            true => Ok(Self::Listed(parsed.into_iter().flatten().collect())),
            false => Err(wrong),
        }
    }

    /// Whether the request that bears these headers may go on.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(ORIGIN) || self.shared_with(headers).is_some()
    }

    /// What `access-control-allow-origin` tells the page that sent these headers; `None` where there is no
    /// page, or where its origin may not call.
    pub(crate) fn shared_with(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut shown = headers.get_all(ORIGIN).iter();
        let (Some(origin), None) = (shown.next(), shown.next()) else {
            return None;
        };
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Listed(origins) => origins.contains(origin).then(|| origin.clone()),
        }
    }
}

/// Exactly what a browser would send, or the page would be refused for a letter that nobody sees.
fn parse_one(text: &str) -> Option<HeaderValue> {
    let url = Url::parse(text).ok()?;
    let is_page = matches!(url.scheme(), "http" | "https");
    let is_as_sent = url.origin().ascii_serialization() == text;
    let is_one = !text.contains('*'); // a URL's host may hold it, and it would match nothing
    let origin = HeaderValue::from_str(text).ok();
    origin.filter(|_| is_page && is_as_sent && is_one)
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
    fn an_origin_is_judged_by_every_letter_and_only_one_may_be_shown() {
        let origins = Origins::parse("https://a.example,http://localhost:3000").expect("valid");
        for (shown, admitted) in [
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
            assert_eq!(origins.admit(&headers(shown)), admitted, "{shown:?}");
        }
    }

    #[test]
    fn any_admits_every_page_and_names_none() {
        let shown = headers(&["null"]);
        assert!(Origins::Any.admit(&shown));
        let told = Origins::Any.shared_with(&shown).expect("shared");
        assert_eq!(told, "*");
        assert_eq!(Origins::Any.shared_with(&headers(&[])), None);
    }
}
