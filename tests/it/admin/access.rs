//! Who is served: loopback peers with a loopback `Host`, or whoever sends the token.

use std::fs;

use tempfile::NamedTempFile;

use super::{local, send};
use crate::support::{Bridge, extra::wait_for_file_reload, upstream::refused_url};

const TOKEN: &str = "a-token-of-32-characters-for-test";
const GUARDED: [&str; 4] = [
    "GET /",
    "GET /status",
    "PUT /log?filter=info",
    "POST /calls/1/cancel",
];

fn token_file() -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, format!("{TOKEN}\n")).expect("written");
    file
}

async fn with_token(file: &NamedTempFile) -> Bridge {
    let path = file.path().to_str().expect("UTF-8");
    Bridge::with(&refused_url(), &[("ADMIN_TOKEN_FILE", path)]).await
}

#[tokio::test]
async fn without_a_token_the_host_must_be_loopback() {
    let bridge = Bridge::start(&refused_url()).await;
    let own = bridge.admin.to_string();
    for host in [
        "localhost",
        "LOCALHOST:9464",
        "127.0.0.1",
        "[::1]:9464",
        &own,
    ] {
        for request in ["GET /", "GET /status"] {
            let answer = send(bridge.admin, request, &[("host", host)]).await;
            assert_eq!(answer.status, 200, "{request} {host}: {answer:?}");
        }
    }
    for host in [
        "bridge",
        "rebound.example.az:9464",
        "10.0.0.1",
        "localhost.example.az",
        "a@localhost",
    ] {
        for request in GUARDED {
            let answer = send(bridge.admin, request, &[("host", host)]).await;
            assert_eq!(answer.status, 403, "{request} {host}: {answer:?}");
            assert!(answer.body.starts_with("the Host must be "), "{answer:?}");
        }
    }
    let two = [("host", "localhost"), ("host", "rebound.example.az")];
    let answer = send(bridge.admin, "GET /status", &two).await;
    assert!([400, 403].contains(&answer.status), "{answer:?}");
    let answer = local(bridge.admin, "GET http://rebound.example.az/status").await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test]
async fn metrics_and_probes_are_open_to_any_host() {
    let file = token_file();
    for bridge in [Bridge::start(&refused_url()).await, with_token(&file).await] {
        for path in ["/metrics", "/livez", "/readyz"] {
            let answer = send(bridge.admin, &format!("GET {path}"), &[("host", "bridge")]).await;
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_page_of_another_site_can_not_act() {
    let bridge = Bridge::start(&refused_url()).await;
    let host = bridge.admin.to_string();
    let own = format!("http://{host}");
    let act = async |headers: &[(&str, &str)]| {
        let headers = [&[("host", &*host)], headers].concat();
        send(bridge.admin, "POST /calls/1/cancel", &headers)
            .await
            .status
    };
    for foreign in [
        ("origin", "http://example.az"),
        ("origin", "null"),
        ("origin", "http://localhost:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        assert_eq!(act(&[foreign]).await, 403, "{foreign:?}");
    }
    assert_eq!(
        act(&[("origin", &own), ("origin", "http://example.az")]).await,
        403
    );
    let not_open = 404;
    assert_eq!(act(&[]).await, not_open, "a program");
    assert_eq!(
        act(&[("origin", &own), ("sec-fetch-site", "same-origin")]).await,
        not_open
    );
    let read = [("host", &*host), ("sec-fetch-site", "none")];
    assert_eq!(send(bridge.admin, "GET /", &read).await.status, 200);
}

#[tokio::test]
async fn with_a_token_only_who_sends_it_is_served() {
    let file = token_file();
    let bridge = with_token(&file).await;
    let right = format!("Bearer {TOKEN}");
    let (long, short) = (format!("{right}x"), right[..right.len() - 1].to_owned());
    let basic = format!("Basic {TOKEN}");
    for request in &GUARDED[1..] {
        let plain = local(bridge.admin, request).await;
        assert_eq!(plain.status, 401, "{plain:?}");
        assert!(plain.head.contains("www-authenticate: bearer"), "{plain:?}");
        for wrong in ["Bearer", "Bearer ", TOKEN, &basic, &long, &short] {
            let headers = [("host", "localhost"), ("authorization", wrong)];
            let answer = send(bridge.admin, request, &headers).await;
            assert_eq!(answer.status, 401, "{request} {wrong:?}");
        }
    }
    let headers = [("host", "bridge"), ("authorization", &*right)];
    assert_eq!(
        send(bridge.admin, "GET /status", &headers).await.status,
        200
    );
    let twice = [headers[0], headers[1], headers[1]];
    assert_eq!(send(bridge.admin, "GET /status", &twice).await.status, 401);
    let page = send(bridge.admin, "GET /", &[("host", "bridge")]).await;
    assert_eq!(page.status, 200, "it has no data, and asks for the token");
}

#[tokio::test]
async fn a_changed_token_replaces_the_old_one() {
    let file = token_file();
    let bridge = with_token(&file).await;
    let with = async |token: &str| {
        let token = format!("bearer {token}");
        let headers = [("host", "bridge"), ("authorization", &*token)];
        send(bridge.admin, "GET /status", &headers).await.status
    };
    let new = TOKEN.to_uppercase();
    assert_eq!((with(TOKEN).await, with(&new).await), (200, 401));
    fs::write(&file, &new).expect("written");
    wait_for_file_reload().await;
    assert_eq!((with(TOKEN).await, with(&new).await), (401, 200));
    let (_, metrics) = bridge.admin("/metrics").await;
    let reload = r#"alim_bridge_file_reloads_total{files="admin_token",outcome="taken_over"} 1"#;
    assert!(metrics.lines().any(|line| line == reload), "{metrics}");
}

#[tokio::test]
async fn the_page_loads_nothing_else_and_is_not_cached_or_framed() {
    let bridge = Bridge::start(&refused_url()).await;
    let [one, other] = [
        local(bridge.admin, "GET /").await,
        local(bridge.admin, "GET /").await,
    ];
    let nonce = |page: &str| {
        let (_, rest) = page.split_once("script-src 'nonce-").expect("a nonce");
        rest[..32].to_owned()
    };
    let (first, second) = (nonce(&one.head), nonce(&other.head));
    assert_ne!(first, second);
    for part in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(one.head.contains(part), "{}", one.head);
    }
    for part in [
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(one.head.contains(part), "{}", one.head);
    }
    assert!(!one.head.contains("unsafe"), "{}", one.head);
    assert_eq!(one.body.matches(&format!("nonce=\"{first}\"")).count(), 2);
    for part in [
        "http://",
        "https://",
        "{style}",
        "{script}",
        "{nonce}",
        "innerHTML",
        "insertAdjacentHTML",
    ] {
        assert!(!one.body.contains(part), "{part}");
    }
    let status = local(bridge.admin, "GET /status").await;
    assert!(
        status.head.contains("cache-control: no-store"),
        "{}",
        status.head
    );
}
