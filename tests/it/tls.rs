//! TLS on both sides: whom callers trust, whom the bridge trusts, and certificates that change.

pub(crate) mod authority;

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    extra::{advance_time, wait_for_file_reload},
    read_all, reply_json, sse_tokens,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::pb::{
    InvokeResponse, graph_service_client::GraphServiceClient, stream_response::Event,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Response, Status,
    transport::{Certificate, Channel, ClientTlsConfig},
};
use url::Url;

use self::authority::{Authority, Files, Identity};

/// The name in the bridge's URL and so in its certificates.
const LOCALHOST: &str = "127.0.0.1";

/// Half of what the bridge allows a handshake.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A bridge with TLS, and an upstream behind it.
async fn behind_tls(files: &Files, client_ca: &str) -> (Upstream, Bridge) {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = with_tls(&upstream, files, client_ca).await;
    (upstream, bridge)
}

async fn with_tls(upstream: &Upstream, files: &Files, client_ca: &str) -> Bridge {
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let settings = [
        ("TLS_CERT_FILE", cert.as_str()),
        ("TLS_KEY_FILE", &key),
        ("TLS_CLIENT_CA_FILE", client_ca),
    ];
    Bridge::with(&upstream.url(), &settings).await
}

pub(crate) fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem))
}

pub(crate) fn showing(tls: ClientTlsConfig, identity: &Identity) -> ClientTlsConfig {
    tls.identity(tonic::transport::Identity::from_pem(
        &identity.cert,
        &identity.key,
    ))
}

pub(crate) fn client(address: SocketAddr, tls: ClientTlsConfig) -> GraphServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("https://{address}")).expect("a URL");
    let endpoint = endpoint.tls_config(tls).expect("usable certificates");
    GraphServiceClient::new(endpoint.connect_lazy())
}

type Answer = Result<Response<InvokeResponse>, Status>;

async fn call(bridge: &Bridge, tls: ClientTlsConfig) -> Answer {
    in_time(client(bridge.address, tls)).await
}

/// Calls, without waiting for the bridge's handshake timeout.
async fn in_time(mut client: GraphServiceClient<Channel>) -> Answer {
    let answer = timeout(TIMEOUT, client.invoke(ask("Salam"))).await;
    answer.expect("a reply or a rejection at once")
}

/// The connection was closed, so no status was sent.
fn assert_closed(status: &Status) {
    let is_closed = matches!(status.code(), Code::Unknown | Code::Unavailable);
    assert!(is_closed && status.source().is_some(), "{status:?}");
}

/// A new connection that offers these protocols.
async fn connect(
    bridge: &Bridge,
    authority: &Authority,
    offered: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
    roots.add(root).expect("an authority");
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().into()).collect();
    let connector = TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(bridge.address).await.expect("a port");
    let name = ServerName::try_from(LOCALHOST).expect("an address");
    connector.connect(name, socket).await
}

/// The certificate that the bridge presents to a new connection.
async fn shown(bridge: &Bridge, authority: &Authority) -> Vec<u8> {
    let connection = connect(bridge, authority, &[]).await.expect("TLS");
    let chain = connection.get_ref().1.peer_certificates().expect("shown");
    chain[0].to_vec()
}

#[tokio::test]
async fn a_caller_that_trusts_the_authority_is_answered_over_tls() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    let (upstream, bridge) = behind_tls(&files, "").await;
    call(&bridge, trusting(&authority)).await.expect("a reply");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_caller_that_trusts_another_authority_sends_no_call() {
    let files = Files::with(&Authority::new().vouch_for(LOCALHOST));
    let (upstream, bridge) = behind_tls(&files, "").await;
    let status = call(&bridge, trusting(&Authority::new())).await;
    assert_closed(&status.expect_err("no trust"));
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_caller_without_tls_is_not_answered() {
    let files = Files::with(&Authority::new().vouch_for(LOCALHOST));
    let (upstream, bridge) = behind_tls(&files, "").await;
    let answer = in_time(bridge.client.clone()).await;
    let status = answer.expect_err("plain HTTP/2");
    assert_closed(&status);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn with_a_client_ca_only_callers_with_its_certificates_are_answered() {
    let (authority, callers) = (Authority::new(), Authority::new());
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    files.put("ca.crt", &callers.pem);
    let (upstream, bridge) = behind_tls(&files, &files.path("ca.crt")).await;
    let tls = || trusting(&authority);
    let stranger = authority.vouch_for("orders");
    for tls in [tls(), showing(tls(), &stranger)] {
        let status = call(&bridge, tls).await.expect_err("not vouched for");
        assert_closed(&status);
    }
    assert!(upstream.requests().is_empty());
    let known = callers.vouch_for("orders");
    let reply = call(&bridge, showing(tls(), &known)).await;
    reply.expect("a reply");
}

#[tokio::test]
async fn a_changed_certificate_serves_new_connections_and_a_bad_change_does_not() {
    let authority = Authority::new();
    let [first, second] = [(); 2].map(|()| authority.vouch_for(LOCALHOST));
    let files = Files::with(&first);
    let (_upstream, bridge) = behind_tls(&files, "").await;
    assert_eq!(shown(&bridge, &authority).await, first.der);
    files.put("tls.crt", &second.cert);
    wait_for_file_reload().await;
    let still = shown(&bridge, &authority).await;
    assert_eq!(still, first.der, "the new key is not there yet");
    files.replace(&second);
    wait_for_file_reload().await;
    assert_eq!(shown(&bridge, &authority).await, second.der);
}

#[tokio::test]
async fn a_stream_continues_while_the_certificate_changes() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate);
    let upstream = Upstream::answering(reply.chunk("event: done\ndata: [DONE]\n\n"));
    let bridge = with_tls(&upstream, &files, "").await;
    let mut client = client(bridge.address, trusting(&authority));
    let events = client.stream(ask_stream("Salam")).await.expect("a token");
    files.replace(&authority.vouch_for(LOCALHOST));
    wait_for_file_reload().await;
    gate.open();
    let (events, ending) = read_all(events.into_inner()).await;
    ending.expect("OK");
    assert!(matches!(events[..], [Event::Token(_), Event::Done(_)]));
}

#[tokio::test]
async fn a_changed_client_ca_applies_to_new_connections() {
    let (authority, callers) = (Authority::new(), Authority::new());
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    files.put("ca.crt", &Authority::new().pem);
    let (_upstream, bridge) = behind_tls(&files, &files.path("ca.crt")).await;
    let tls = || showing(trusting(&authority), &callers.vouch_for("orders"));
    call(&bridge, tls()).await.expect_err("not vouched for yet");
    files.put("ca.crt", &callers.pem);
    wait_for_file_reload().await;
    call(&bridge, tls()).await.expect("a reply");
}

#[tokio::test]
async fn stalled_handshakes_block_nobody() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    let (_upstream, bridge) = behind_tls(&files, "").await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(TcpStream::connect(bridge.address).await.expect("a port"));
    }
    call(&bridge, trusting(&authority)).await.expect("a reply");
}

/// The protocol that the bridge selects from these (ALPN). An error if it supports none.
async fn chosen(bridge: &Bridge, authority: &Authority, offered: &[&str]) -> io::Result<String> {
    let connection = connect(bridge, authority, offered).await?;
    let chosen = connection.get_ref().1.alpn_protocol().unwrap_or_default();
    Ok(String::from_utf8_lossy(chosen).into_owned())
}

#[tokio::test]
async fn http1_is_offered_only_if_pages_can_call() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let off = with_tls(&upstream, &files, "").await;
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let settings = [
        ("TLS_CERT_FILE", cert.as_str()),
        ("TLS_KEY_FILE", &key),
        ("GRPC_WEB", "https://app.example.az"),
    ];
    let on = Bridge::with(&upstream.url(), &settings).await;
    for bridge in [&off, &on] {
        let both = chosen(bridge, &authority, &["http/1.1", "h2"]).await;
        assert_eq!(both.expect("a handshake"), "h2");
    }
    let refused = chosen(&off, &authority, &["http/1.1"]).await;
    refused.expect_err("no protocol in common");
    files.replace(&authority.vouch_for(LOCALHOST));
    wait_for_file_reload().await;
    let http1_only = connect(&on, &authority, &["http/1.1"]).await;
    let mut http1_only = http1_only.expect("a handshake, after a change too");
    assert_eq!(
        http1_only.get_ref().1.alpn_protocol(),
        Some(&b"http/1.1"[..])
    );
    let call = b"GET / HTTP/1.1\r\nhost: bridge\r\nconnection: close\r\n\r\n";
    http1_only.write_all(call).await.expect("open");
    let mut answer = String::new();
    let _ = http1_only.read_to_string(&mut answer).await; // it can close without close_notify
    assert!(answer.starts_with("HTTP/1.1 415 "), "no gRPC-Web: {answer}");
}

#[tokio::test]
async fn an_unfinished_handshake_releases_its_connection_slot() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(LOCALHOST));
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let settings = [
        ("TLS_CERT_FILE", cert.as_str()),
        ("TLS_KEY_FILE", &key),
        ("MAX_CONNECTIONS", "1"),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let mut silent = TcpStream::connect(bridge.address).await.expect("a port");
    silent.write_all(&[22, 3, 1]).await.expect("open"); // a record's first bytes (RFC 8446, 5.1)
    let mut early = TcpStream::connect(bridge.address).await.expect("a port");
    assert_eq!(early.read(&mut [0]).await.ok(), Some(0)); // the silent one holds the only slot
    advance_time(Duration::from_secs(11)).await; // the handshake timeout is 10 s
    let end = timeout(TIMEOUT, silent.read(&mut [0])).await;
    let _ = end.expect("closed"); // by FIN or by RST
    call(&bridge, trusting(&authority))
        .await
        .expect("a free slot");
}

/// TLS in front of a plain upstream: its base URL, and the guard that keeps it running.
pub(crate) async fn tls_before(
    upstream: &Upstream,
    identity: &Identity,
) -> (String, AbortOnDropHandle<()>) {
    let plain = Url::parse(&upstream.url()).expect("a URL");
    let plain = plain.socket_addrs(|| None).expect("an address")[0];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/api/v1", listener.local_addr().expect("bound"));
    let acceptor = acceptor(identity);
    let task = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            if let Ok(mut outer) = acceptor.accept(socket).await {
                let mut inner = TcpStream::connect(plain).await.expect("the upstream");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            }
        }
    });
    (url, AbortOnDropHandle::new(task))
}

fn acceptor(identity: &Identity) -> TlsAcceptor {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let chain = vec![CertificateDer::from(identity.der.clone())];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(chain, key).expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn an_upstream_with_tls_is_reached_if_its_authority_is_given() {
    let authority = Authority::new();
    let identity = authority.vouch_for(LOCALHOST);
    let files = Files::with(&identity);
    files.put("ca.crt", &authority.pem);
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let (url, _front) = tls_before(&upstream, &identity).await;
    let bridge = Bridge::with(&url, &[("UPSTREAM_CA_FILE", &files.path("ca.crt"))]).await;
    bridge.invoke("Salam").await.expect("a reply");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_upstream_of_another_authority_is_unreachable_and_receives_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (name, trusted) in [
        (LOCALHOST, None),
        (LOCALHOST, Some(&other)),
        ("alim.example", Some(&authority)),
    ] {
        let identity = authority.vouch_for(name);
        let files = Files::with(&identity);
        files.put("ca.crt", trusted.map_or("", |trusted| &trusted.pem));
        let ca = trusted.map(|_| files.path("ca.crt")).unwrap_or_default();
        let upstream = Upstream::answering(Reply::json(200, reply_json()));
        let (url, _front) = tls_before(&upstream, &identity).await;
        let bridge = Bridge::with(&url, &[("UPSTREAM_CA_FILE", &ca)]).await;
        let status = bridge.invoke("Salam").await.expect_err("no trust");
        assert_unreachable(&status);
        assert!(upstream.requests().is_empty());
    }
}

fn assert_unreachable(status: &Status) {
    let expected = (Code::Unavailable, "UPSTREAM_UNREACHABLE".to_owned());
    assert_eq!(status.code_and_reason(), expected);
    assert_eq!(status.info("sent").as_deref(), Some("false"));
    assert_eq!(status.pushback(), None);
}

#[tokio::test]
async fn if_a_client_ca_is_removed_connections_made_under_it_end() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = Files::with(&ours.vouch_for(LOCALHOST));
    files.put("ca.crt", &theirs.pem);
    let upstream = Upstream::answering(Reply::sse(sse_tokens(&["a"])).then_hold());
    let ca = files.path("ca.crt");
    let (cert, key) = (files.path("tls.crt"), files.path("tls.key"));
    let settings = [
        ("TLS_CERT_FILE", &*cert),
        ("TLS_KEY_FILE", &key),
        ("TLS_CLIENT_CA_FILE", &ca),
        ("DRAIN_TIMEOUT", "1s"),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    let mut caller = client(
        bridge.address,
        showing(trusting(&ours), &theirs.vouch_for("caller")),
    );
    let open = caller.stream(ask_stream("Salam")).await.expect("a token");
    files.put("ca.crt", &Authority::new().pem);
    wait_for_file_reload().await;
    let (_, ending) = read_all(open.into_inner()).await;
    ending.expect_err("closed after the drain's time");
    let next = caller.stream(ask_stream("Salam")).await;
    next.expect_err("no connection with that certificate any more");
}
