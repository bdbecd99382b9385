//! Who calls: by key, by certificate, or by the header of a trusted proxy. The first one that is present decides.

use tonic::Request;

use super::{invoke, invoked_by, knowing, missing, rejected, replying};
use crate::{
    support::{
        Bridge, RichStatus, ask,
        callers::{CallersFile, entry},
        extra::with_metadata,
        upstream::Upstream,
    },
    tls::{
        authority::{Authority, Files},
        client, showing, trusting,
    },
};

const ORDERS: &str = "spiffe://mesh/ns/orders/sa/orders";
const BILLING: &str = "billing.example";

fn callers() -> String {
    let keys = entry("keyed", "k-1");
    format!(
        "{keys}[[caller]]\nname = \"orders\"\nsan = [\"{ORDERS}\"]\n[[caller]]\nname = \"billing\"\nsan = [\"{BILLING}\"]\n"
    )
}

/// How many calls each caller has started.
async fn begun(bridge: &Bridge) -> [u64; 3] {
    let (_, text) = bridge.admin("/metrics").await;
    ["keyed", "orders", "billing"].map(|name| {
        let series = format!("alim_bridge_caller_started_total{{caller=\"{name}\"}} ");
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix(&*series));
        count.expect("listed").parse().expect("a count")
    })
}

/// A bridge with mutual TLS, and what callers need for it.
async fn with_mutual_tls(
    upstream: &Upstream,
    settings: &[(&str, &str)],
) -> (Bridge, CallersFile, Files, Authority) {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for("127.0.0.1"));
    files.put("ca.crt", &authority.pem);
    let [cert, key, ca] = ["tls.crt", "tls.key", "ca.crt"].map(|name| files.path(name));
    let tls = [
        ("TLS_CERT_FILE", &*cert),
        ("TLS_KEY_FILE", &key),
        ("TLS_CLIENT_CA_FILE", &ca),
    ];
    let settings = [&tls, settings].concat();
    let (bridge, file) = knowing(upstream, &callers(), &settings).await;
    (bridge, file, files, authority)
}

#[tokio::test]
async fn a_verified_certificate_identifies_by_its_uri_or_its_dns_name() {
    let upstream = replying();
    let (bridge, _file, _files, authority) = with_mutual_tls(&upstream, &[]).await;
    for (shown, expected) in [
        (authority.vouch_for_uri(ORDERS), [0, 1, 0]),
        (authority.vouch_for("Billing.example"), [0, 1, 1]),
    ] {
        let tls = showing(trusting(&authority), &shown);
        let answer = client(bridge.address, tls).invoke(ask("Salam")).await;
        answer.expect("a reply");
        assert_eq!(begun(&bridge).await, expected);
    }
    let stranger = authority.vouch_for("other.example");
    let tls = showing(trusting(&authority), &stranger);
    let status = client(bridge.address, tls).invoke(ask("Salam")).await;
    assert_eq!(status.expect_err("unknown").code_and_reason(), rejected());
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_key_takes_precedence_over_a_certificate() {
    let upstream = replying();
    let (bridge, _file, _files, authority) = with_mutual_tls(&upstream, &[]).await;
    let tls = showing(trusting(&authority), &authority.vouch_for_uri(ORDERS));
    let mut client = client(bridge.address, tls);
    let wrong = client.invoke(invoked_by("wrong")).await;
    assert_eq!(
        wrong.expect_err("a wrong key").code_and_reason(),
        rejected()
    );
    client.invoke(invoked_by("k-1")).await.expect("a right key");
    assert_eq!(begun(&bridge).await, [1, 0, 0]);
    let tls = showing(trusting(&authority), &authority.vouch_for("other.example"));
    let mut stranger = self::client(bridge.address, tls);
    stranger
        .invoke(invoked_by("k-1"))
        .await
        .expect("a right key");
}

#[tokio::test]
async fn an_unknown_certificate_never_falls_back_to_a_proxys_header() {
    let upstream = replying();
    let trusted = [("TRUSTED_PROXIES", "127.0.0.1")];
    let (bridge, _file, _files, authority) = with_mutual_tls(&upstream, &trusted).await;
    let header = format!("URI={ORDERS}");
    let header = [("x-forwarded-client-cert", header.as_bytes())];
    let stranger = authority.vouch_for("other.example");
    let mut client = client(bridge.address, showing(trusting(&authority), &stranger));
    let status = client.invoke(with_metadata(ask("Salam"), &header)).await;
    assert_eq!(status.expect_err("unknown").code_and_reason(), rejected());
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_header_counts_only_from_a_trusted_proxy() {
    let upstream = replying();
    let xfcc = format!("By=spiffe://mesh/bridge;Hash=1;Subject=\"\";URI={ORDERS}");
    let headers = [
        ("x-forwarded-client-cert", xfcc.as_bytes()),
        ("l5d-client-id", ORDERS.as_bytes()),
    ];
    for (proxies, is_trusted) in [
        (&[][..], false),
        (&[("TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.2,::1")], false),
        (&[("TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.0/8")], true),
    ] {
        let (bridge, _file) = knowing(&upstream, &callers(), proxies).await;
        for header in headers {
            let answer = invoke(&bridge, with_metadata(ask("Salam"), &[header])).await;
            match is_trusted {
                true => drop(answer.expect("a reply")),
                false => assert_eq!(answer.expect_err("forged").code_and_reason(), missing()),
            }
        }
        let expected = if is_trusted { 2 } else { 0 };
        assert_eq!(begun(&bridge).await, [0, expected, 0], "{proxies:?}");
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn only_the_last_element_comes_from_the_trusted_proxy() {
    let upstream = replying();
    let trusted = [("TRUSTED_PROXIES", "127.0.0.1")];
    let (bridge, _file) = knowing(&upstream, &callers(), &trusted).await;
    let uri = format!("URI={ORDERS}");
    for (fields, is_known) in [
        (vec![uri.clone()], true),
        (vec![format!("URI=spiffe://mesh/other,{uri}")], true),
        (vec![format!("{uri},URI=spiffe://mesh/other")], false),
        (vec![uri.clone(), "URI=spiffe://mesh/other".into()], false),
        (vec!["URI=spiffe://mesh/other".into(), uri.clone()], true),
        (vec![format!("Subject=\"CN=x,{uri}\"")], false),
        (vec![format!("Subject=\"CN=\\\",y\";DNS=x;{uri}")], true),
        (vec![format!("Subject=\"CN=x;{uri}")], false),
        (vec![String::new()], false),
    ] {
        let mut request = Request::new(ask("Salam"));
        for field in &fields {
            let value = field.parse().expect("ASCII");
            request
                .metadata_mut()
                .append("x-forwarded-client-cert", value);
        }
        let answer = invoke(&bridge, request).await;
        match is_known {
            true => drop(answer.unwrap_or_else(|status| panic!("{fields:?}: {status:?}"))),
            false => {
                let status = answer.expect_err("nobody");
                assert_eq!(status.code_and_reason(), rejected(), "{fields:?}");
            }
        }
    }
    assert_eq!(begun(&bridge).await, [0, 4, 0]);
}

#[tokio::test]
async fn a_wrong_key_and_two_headers_that_disagree_are_rejected() {
    let upstream = replying();
    let trusted = [("TRUSTED_PROXIES", "127.0.0.1")];
    let (bridge, _file) = knowing(&upstream, &callers(), &trusted).await;
    let uri = format!("URI={ORDERS}");
    let xfcc = ("x-forwarded-client-cert", uri.as_bytes());
    for other in [
        ("authorization", &b"Bearer wrong"[..]),
        ("authorization", b"Basic eDp5"),
        ("l5d-client-id", BILLING.as_bytes()),
        ("l5d-client-id", b"nobody"),
    ] {
        let answer = invoke(&bridge, with_metadata(ask("Salam"), &[xfcc, other])).await;
        assert_eq!(answer.expect_err("wrong").code_and_reason(), rejected());
    }
    let same = ("l5d-client-id", ORDERS.as_bytes());
    let answer = invoke(&bridge, with_metadata(ask("Salam"), &[xfcc, same])).await;
    answer.expect("both say the same");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_proxys_header_never_reaches_the_upstream() {
    let upstream = replying();
    let trusted = [("TRUSTED_PROXIES", "127.0.0.1")];
    let (bridge, _file) = knowing(&upstream, &callers(), &trusted).await;
    let header = [("l5d-client-id", ORDERS.as_bytes())];
    let answer = invoke(&bridge, with_metadata(ask("Salam"), &header)).await;
    answer.expect("a reply");
    assert!(!format!("{:?}", upstream.requests()).contains("spiffe"));
}
