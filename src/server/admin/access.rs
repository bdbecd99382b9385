//! Who may see the admin page and act on it. `/metrics`, `/livez` and `/readyz` are open to all.
//!
//! Without a token, only loopback peers may. A mesh's sidecar is one too, so a request with a field that proxies add is rejected.
//! A page of another site can make a browser on this machine send requests too. So their `Host` must name loopback, which defeats
//! DNS rebinding, and a write must come from the page itself or from no page.
//!
//! With a token, anyone who sends it may, from anywhere. Then the page itself is open, because it has no data and asks for the token.

use std::net::{IpAddr, SocketAddr};

use axum::{
    body::Body,
    extract::State,
    http::{
        HeaderMap, HeaderValue, Method, Request, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, HOST, ORIGIN, REFERRER_POLICY, WWW_AUTHENTICATE,
            X_CONTENT_TYPE_OPTIONS,
        },
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::reload::Reload;

/// Fields that proxies add. Behind a proxy, the peer's address says nothing.
const PROXY_FIELDS: [&str; 5] = [
    "forwarded",
    "l5d-client-id",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
];

/// The peer of a request's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The rules. Without a token, they admit loopback peers only.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) token: Option<Reload<SecretString>>,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Denied {
    #[error("only loopback peers are served without ADMIN_TOKEN_FILE")]
    Peer,
    #[error("requests through a proxy are served only with ADMIN_TOKEN_FILE")]
    Proxy,
    #[error("the Host must be localhost or a loopback address without ADMIN_TOKEN_FILE")]
    Host,
    #[error("pages of other sites can't change anything here")]
    Site,
    #[error("send the content of ADMIN_TOKEN_FILE as authorization: Bearer")]
    Token,
}

/// Serves what the rules admit, and forbids to cache or embed it.
pub(super) async fn guard(
    State(access): State<Access>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let mut response = match access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(denied) => denied.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Access {
    fn check<B>(&self, request: &Request<B>) -> Result<(), Denied> {
        let headers = request.headers();
        if let Some(token) = &self.token {
            let is_page = request.uri().path() == "/";
            let is_admitted = is_page || has_token(headers, &token.load());
            return is_admitted.then_some(()).ok_or(Denied::Token);
        }
        let peer = request.extensions().get::<Peer>();
        if !peer.is_some_and(|Peer(peer)| peer.ip().to_canonical().is_loopback()) {
            return Err(Denied::Peer);
        }
        if PROXY_FIELDS.iter().any(|name| headers.contains_key(*name)) {
            return Err(Denied::Proxy);
        }
        let host = only(headers, &HOST).filter(|host| is_loopback(host));
        let host = host.ok_or(Denied::Host)?;
        let target = request.uri().authority();
        if target.is_some_and(|target| !is_loopback(target.as_str())) {
            return Err(Denied::Host);
        }
        let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
        match is_write && !is_from_own_page(headers, host) {
            true => Err(Denied::Site),
            false => Ok(()),
        }
    }
}

/// The value of a field that must occur once.
fn only<'a>(headers: &'a HeaderMap, name: &axum::http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Compares in constant time, whatever the length of the sent token.
fn has_token(headers: &HeaderMap, token: &SecretString) -> bool {
    let sent = only(headers, &AUTHORIZATION).and_then(|value| value.split_once(' '));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    sent.is_some_and(|(_, sent)| {
        let (sent, token) = (hash(sent.trim()), hash(token.expose_secret()));
        sent.as_ref().ct_eq(token.as_ref()).into()
    })
}

/// Whether a host, with or without a port, can only be this machine.
fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let host = authority.host().to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = host == "localhost" || host.ends_with(".localhost");
    let is_address = address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    !authority.as_str().contains('@') && (is_name || is_address)
}

/// Whether a request comes from a page that was served at `host`, or from no page at all.
fn is_from_own_page(headers: &HeaderMap, host: &str) -> bool {
    let site = headers.get("sec-fetch-site");
    let is_same_site = site.is_none_or(|site| site == "same-origin" || site == "none");
    let mut origins = headers.get_all(ORIGIN).into_iter();
    is_same_site && origins.all(|origin| origin == &*format!("http://{host}"))
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let text = format!("{self}\n");
        match self {
            Self::Token => {
                let scheme = [(WWW_AUTHENTICATE, "Bearer")];
                (StatusCode::UNAUTHORIZED, scheme, text).into_response()
            }
            Self::Peer | Self::Proxy | Self::Host | Self::Site => {
                (StatusCode::FORBIDDEN, text).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "a.localhost",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:9464",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "bridge",
            "localhost.example.az",
            "127.0.0.1.example.az",
            "xlocalhost",
            "10.0.0.1",
            "[::]",
            "0.0.0.0",
            "user@localhost",
            "localhost/",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    /// A loopback address, which tests of the socket always have.
    fn request(peer: &str, host: &str) -> Request<()> {
        let request = Request::get("/status").header(HOST, host);
        let request = request.extension(Peer(peer.parse().expect("an address")));
        request.body(()).expect("a request")
    }

    #[test]
    fn without_a_token_only_loopback_peers_are_served() {
        let access = Access { token: None };
        let check = |peer, host| access.check(&request(peer, host));
        for peer in [
            "127.0.0.1:1",
            "127.1.2.3:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(check(peer, "localhost"), Ok(()), "{peer}");
            assert_eq!(
                check(peer, "bridge.example.az"),
                Err(Denied::Host),
                "{peer}"
            );
        }
        for name in PROXY_FIELDS {
            let mut forwarded = request("127.0.0.1:1", "localhost");
            let value = HeaderValue::from_static("10.0.0.1");
            forwarded.headers_mut().insert(name, value);
            assert_eq!(access.check(&forwarded), Err(Denied::Proxy), "{name}");
        }
        for peer in ["10.0.0.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert_eq!(check(peer, "localhost"), Err(Denied::Peer), "{peer}");
        }
    }
}
