//! What a bridge reports of itself: its drain, its connections, its files.

use std::{fs, time::Duration};

use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{samples, scraped};
use crate::{
    support::{
        Bridge, ask,
        callers::entry,
        extra::{advance_time, wait_for_file_reload},
        sse_tokens,
        upstream::{Reply, Upstream, refused_url},
    },
    tls::authority::{Authority, Files},
};

const EXPIRY: &str = "alim_bridge_tls_certificate_expiry_timestamp_seconds";

fn refused(cause: &str) -> String {
    format!(r#"alim_bridge_refused_connections_total{{cause="{cause}"}}"#)
}

fn reloads(files: &str, outcome: &str) -> String {
    format!(r#"alim_bridge_file_reloads_total{{files="{files}",outcome="{outcome}"}}"#)
}

fn last_reload(files: &str) -> String {
    format!(r#"alim_bridge_file_last_reload_successful{{files="{files}"}}"#)
}

/// A bridge that presents the certificate of these files.
async fn with_tls(files: &Files) -> Bridge {
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let settings = [("TLS_CERT_FILE", &*cert), ("TLS_KEY_FILE", &key)];
    Bridge::with(&refused_url(), &settings).await
}

#[tokio::test]
async fn a_draining_bridge_reports_it() {
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let bridge = Bridge::start(&upstream.url()).await;
    assert_eq!(samples(&bridge).await["alim_bridge_draining"], 0.0);
    let _open = bridge.stream("Salam").await.expect("a token"); // so that the drain does not end at once
    bridge.shutdown.drain.cancel();
    assert_eq!(samples(&bridge).await["alim_bridge_draining"], 1.0);
}

#[tokio::test]
async fn open_connections_are_exported_and_those_over_the_limit_are_counted() {
    let bridge = Bridge::with(&refused_url(), &[("MAX_CONNECTIONS", "2")]).await;
    let before = samples(&bridge).await;
    assert_eq!(before["alim_bridge_open_connections"], 0.0);
    assert_eq!(before["alim_bridge_max_connections"], 2.0);
    for cause in [
        "limit",
        "evicted",
        "tls_failed",
        "tls_timeout",
        "opening_timeout",
    ] {
        assert_eq!(before.get(&refused(cause)), Some(&0.0), "{cause}");
    }
    let mut callers = [bridge.new_client(), bridge.new_client()];
    for caller in &mut callers {
        let status = caller.invoke(ask("Salam")).await;
        status.expect_err("nobody is there");
    }
    let connect = async || TcpStream::connect(bridge.address).await.expect("a port");
    assert_eq!(
        connect().await.read(&mut [0]).await.ok(),
        Some(0),
        "no free slot"
    );
    let full = samples(&bridge).await;
    assert_eq!(full["alim_bridge_open_connections"], 2.0);
    assert_eq!(full[&refused("limit")], 1.0);
    drop(callers);
    scraped(&bridge, "alim_bridge_open_connections", 0.0).await;
    let silent = [connect().await, connect().await, connect().await];
    scraped(&bridge, &refused("evicted"), 1.0).await;
    drop(silent);
    scraped(&bridge, "alim_bridge_open_connections", 0.0).await;
}

#[tokio::test]
async fn a_connection_without_a_preface_is_counted() {
    let bridge = Bridge::start(&refused_url()).await;
    let mut slow = TcpStream::connect(bridge.address).await.expect("a port");
    slow.write_all(b"PRI * HT").await.expect("open");
    scraped(&bridge, "alim_bridge_open_connections", 1.0).await;
    advance_time(Duration::from_secs(11)).await; // the timeout is 10 s
    let late = scraped(&bridge, &refused("opening_timeout"), 1.0).await;
    assert_eq!(late[&refused("tls_timeout")], 0.0);
}

#[tokio::test]
async fn failed_and_slow_tls_handshakes_are_counted_separately() {
    let bridge = with_tls(&Files::with(&Authority::new().vouch_for("127.0.0.1"))).await;
    let mut plain = TcpStream::connect(bridge.address).await.expect("a port");
    plain.write_all(b"PRI * HTTP/2.0\r\n").await.expect("open");
    scraped(&bridge, &refused("tls_failed"), 1.0).await;
    let _silent = TcpStream::connect(bridge.address).await.expect("a port");
    scraped(&bridge, "alim_bridge_open_connections", 1.0).await;
    advance_time(Duration::from_secs(11)).await;
    let late = scraped(&bridge, &refused("tls_timeout"), 1.0).await;
    assert_eq!(late[&refused("tls_failed")], 1.0);
    assert_eq!(late[&refused("opening_timeout")], 0.0);
}

#[tokio::test]
async fn reloads_are_counted_and_a_failed_one_shows_until_it_is_fixed() {
    let file = NamedTempFile::new().expect("a file");
    let list = |names: &[&str]| {
        let entries: String = names.iter().map(|it| entry(it, it)).collect();
        fs::write(&file, entries).expect("written");
    };
    list(&["orders"]);
    let path = file.path().to_str().expect("UTF-8");
    let bridge = Bridge::with(&refused_url(), &[("CALLERS_FILE", path)]).await;
    for (names, taken_over, failed, last) in [
        (None, 0.0, 0.0, 1.0),
        (Some(&["orders", "farms"][..]), 1.0, 0.0, 1.0),
        (Some(&[]), 1.0, 1.0, 0.0),
        (Some(&["farms"]), 2.0, 1.0, 1.0),
    ] {
        if let Some(names) = names {
            list(names);
            wait_for_file_reload().await;
        }
        let samples = samples(&bridge).await;
        assert_eq!(samples[&reloads("callers", "taken_over")], taken_over);
        assert_eq!(samples[&reloads("callers", "failed")], failed);
        assert_eq!(samples[&last_reload("callers")], last);
        assert!(!samples.contains_key(&last_reload("tls")), "not in use");
        assert!(!samples.contains_key(&last_reload("upstream_key")), "text");
    }
}

#[tokio::test]
async fn the_earliest_certificate_expiry_is_exported_and_follows_a_change() {
    let (authority, plain) = (Authority::new(), Bridge::start(&refused_url()).await);
    assert!(!samples(&plain).await.contains_key(EXPIRY), "no TLS");
    let files = Files::with(&authority.vouch_until("127.0.0.1", (2030, 1, 2)));
    let bridge = with_tls(&files).await;
    assert_eq!(samples(&bridge).await[EXPIRY], 1_893_542_400.0);

    let mut chain = authority.vouch_until("127.0.0.1", (2061, 1, 2)); // as GeneralizedTime
    chain.cert += &authority.vouch_until("between", (2060, 1, 2)).cert;
    files.replace(&chain);
    wait_for_file_reload().await;
    let samples = samples(&bridge).await;
    assert_eq!(samples[EXPIRY], 2_840_227_200.0);
    assert_eq!(samples[&reloads("tls", "taken_over")], 1.0);
}
