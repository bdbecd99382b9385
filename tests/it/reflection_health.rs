//! What tools and balancers request: which services exist, and whether they serve.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{FileDescriptorProto, source_code_info::Location};
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus::{
    NotServing, ServiceUnknown, Serving, Unknown,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{
    Bridge, RichStatus,
    extra::{SERVICE, THREAD_SERVICE, next_health},
    reply_json,
    upstream::{Gate, Reply, Upstream, refused_url},
};

/// A bridge whose upstream is never called.
async fn bridge() -> Bridge {
    Bridge::start(&refused_url()).await
}

/// The response of reflection v1 to one request.
async fn reflect(
    bridge: &Bridge,
    asked: v1::server_reflection_request::MessageRequest,
) -> Result<v1::server_reflection_response::MessageResponse, Status> {
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(bridge.channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(asked),
    };
    let answers = client.server_reflection_info(tokio_stream::iter([request]));
    let answer = answers.await?.into_inner().message().await?;
    Ok(answer
        .and_then(|it| it.message_response)
        .expect("an answer"))
}

/// The files that define a symbol, first the one that contains it.
async fn files_with(bridge: &Bridge, symbol: &str) -> Vec<FileDescriptorProto> {
    use v1::{server_reflection_request as request, server_reflection_response as response};
    let asked = request::MessageRequest::FileContainingSymbol(symbol.into());
    let answer = reflect(bridge, asked).await.expect("a known symbol");
    let response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    let files = files.file_descriptor_proto.iter();
    files
        .map(|file| FileDescriptorProto::decode(&file[..]).expect("a descriptor"))
        .collect()
}

/// The comment above this part of the file. The path is protobuf's own (descriptor.proto).
fn comment_above<'a>(file: &'a FileDescriptorProto, path: &[i32]) -> &'a str {
    let found = |location: &&Location| location.path == path;
    let mut locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let location = locations.find(found).expect("a part of the file");
    location.leading_comments().trim()
}

/// The services that both versions list.
const ALL_SERVICES: [&str; 5] = [
    SERVICE,
    THREAD_SERVICE,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

#[tokio::test]
async fn reflection_v1_answers_unknown_names_in_band_and_continues() {
    use v1::{server_reflection_request as request, server_reflection_response as response};
    let bridge = bridge().await;
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(bridge.channel.clone());
    let asked = [
        Some(request::MessageRequest::FileContainingSymbol(
            "alim.v1.Nothing".into(),
        )),
        Some(request::MessageRequest::FileByFilename(
            "alim/v1/nothing.proto".into(),
        )),
        Some(request::MessageRequest::FileContainingExtension(
            v1::ExtensionRequest::default(),
        )),
        None,
        Some(request::MessageRequest::ListServices(String::new())),
    ];
    let asked = asked.map(|message_request| v1::ServerReflectionRequest {
        host: "a host".into(),
        message_request,
    });
    let answers = client
        .server_reflection_info(tokio_stream::iter(asked.clone()))
        .await;
    let mut answers = answers.expect("a stream").into_inner();
    let mut next = async || {
        answers
            .message()
            .await
            .expect("no status")
            .expect("an answer")
    };
    for (asked, code) in asked.into_iter().zip([5, 5, 5, 3]) {
        let answer = next().await;
        assert_eq!(
            (&*answer.valid_host, answer.original_request),
            ("a host", Some(asked))
        );
        let Some(response::MessageResponse::ErrorResponse(error)) = answer.message_response else {
            panic!("{:?}", answer.message_response)
        };
        assert_eq!(error.error_code, code, "{}", error.error_message);
    }
    let Some(response::MessageResponse::ListServicesResponse(list)) = next().await.message_response
    else {
        panic!("no list")
    };
    let names: BTreeSet<_> = list.service.iter().map(|service| &*service.name).collect();
    assert_eq!(names, BTreeSet::from(ALL_SERVICES));
    assert_eq!(answers.message().await.expect("OK"), None);
}

#[tokio::test]
async fn reflection_v1alpha_does_the_same_for_older_tools() {
    use v1alpha::{server_reflection_request as request, server_reflection_response as response};
    let bridge = bridge().await;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(bridge.channel.clone());
    let asked = [
        request::MessageRequest::FileContainingSymbol("alim.v1.Nothing".into()),
        request::MessageRequest::FileContainingSymbol(SERVICE.into()),
        request::MessageRequest::ListServices(String::new()),
    ];
    let asked = asked.map(|asked| v1alpha::ServerReflectionRequest {
        message_request: Some(asked),
        ..v1alpha::ServerReflectionRequest::default()
    });
    let answers = client
        .server_reflection_info(tokio_stream::iter(asked))
        .await;
    let mut answers = answers.expect("a stream").into_inner();
    let mut next = async || {
        let answer = answers.message().await.expect("no status");
        answer
            .and_then(|answer| answer.message_response)
            .expect("an answer")
    };
    let unknown = next().await;
    assert!(
        matches!(&unknown, response::MessageResponse::ErrorResponse(error) if error.error_code == 5),
        "{unknown:?}"
    );
    let known = next().await;
    assert!(
        matches!(&known, response::MessageResponse::FileDescriptorResponse(_)),
        "{known:?}"
    );
    let response::MessageResponse::ListServicesResponse(list) = next().await else {
        panic!("no list")
    };
    let names: BTreeSet<_> = list.service.iter().map(|service| &*service.name).collect();
    assert_eq!(names, BTreeSet::from(ALL_SERVICES));
}

#[tokio::test]
async fn the_contract_comes_with_its_comments() {
    let files = files_with(&bridge().await, SERVICE).await;
    let file = &files[0];
    assert_eq!(file.package(), "alim.v1");
    let (service, method) = (&[6, 0], &[6, 0, 2, 1]);
    let above = comment_above(file, service);
    assert!(above.starts_with("Asks the ALİM assistant"), "{above}");
    let above = comment_above(file, method);
    assert!(above.contains("exactly one Done and OK"), "{above}");
    let files = files_with(&bridge().await, THREAD_SERVICE).await;
    let above = comment_above(&files[0], service);
    assert!(above.starts_with("Creates, returns and deletes"), "{above}");
}

#[tokio::test]
async fn the_imports_of_the_contract_can_be_resolved() {
    let bridge = bridge().await;
    for service in [SERVICE, THREAD_SERVICE] {
        for import in &files_with(&bridge, service).await[0].dependency {
            use v1::server_reflection_request::MessageRequest::FileByFilename;
            let answer = reflect(&bridge, FileByFilename(import.clone())).await;
            answer.unwrap_or_else(|status| panic!("{import}: {status:?}"));
        }
    }
}

#[tokio::test]
async fn the_details_of_statuses_can_be_resolved_by_name() {
    let bridge = bridge().await;
    for name in ["ErrorInfo", "BadRequest", "RetryInfo"] {
        let files = files_with(&bridge, &format!("google.rpc.{name}")).await;
        let has_it = |file: &FileDescriptorProto| {
            file.message_type
                .iter()
                .any(|message| message.name() == name)
        };
        assert!(files.iter().any(has_it), "{name}");
    }
}

#[tokio::test]
async fn the_process_serves_whether_the_upstream_does_or_not() {
    let bridge = bridge().await;
    bridge.invoke("Salam").await.expect_err("unreachable");
    assert_eq!(bridge.health("").await.expect("known"), Serving);
}

#[tokio::test]
async fn the_service_serves_while_the_upstream_accepts_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/api/v1", listener.local_addr().expect("bound"));
    let bridge = Bridge::with(&url, &[("UPSTREAM_HEALTH_INTERVAL", "10ms")]).await;
    for _ in 0..2 {
        listener.accept().await.expect("a probe"); // at the second probe, the first has a result
    }
    assert_eq!(bridge.health(SERVICE).await.expect("known"), Serving);
}

#[tokio::test]
async fn the_service_does_not_serve_while_the_upstream_is_unreachable() {
    let bridge = bridge().await;
    bridge.invoke("Salam").await.expect_err("unreachable"); // so the first probe has failed too
    assert_eq!(bridge.health(SERVICE).await.expect("known"), NotServing);
    let ready = bridge.admin("/readyz").await;
    assert_eq!(ready.0, 200, "taking it out of balancers would not help");
    assert!(
        ready.1.contains(r#""upstreamReachable":false"#),
        "{ready:?}"
    );
}

#[tokio::test]
async fn an_unknown_service_is_not_found() {
    for service in ["alim.v1.Graph", "grpc.health.v1.Health"] {
        let status = bridge().await.health(service).await;
        assert_eq!(status.expect_err("unknown").code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_watch_of_an_unknown_service_reports_it_and_stays_open() {
    let bridge = bridge().await;
    let mut watch = bridge.watch("alim.v1.Graph").await;
    assert_eq!(next_health(&mut watch).await, ServiceUnknown);
    bridge.shutdown.drain.cancel();
    let end = watch
        .message()
        .await
        .expect_err("it was open until the drain");
    let draining = (Code::Unavailable, "BRIDGE_DRAINING".to_owned());
    assert_eq!(end.code_and_reason(), draining);
}

/// An empty response to a probe, once the gate is open.
fn probed(status: u16, gate: &Gate) -> Reply {
    let answer = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n");
    Reply::nothing().wait(gate).send(answer)
}

fn opened() -> Gate {
    let gate = Gate::default();
    gate.open();
    gate
}

/// A bridge that probes a path of this upstream continuously.
async fn probing(upstream: &Upstream) -> Bridge {
    let health = upstream.url().replace("/api/v1", "/health");
    let settings = [
        ("UPSTREAM_HEALTH_URL", health.as_str()),
        ("UPSTREAM_HEALTH_INTERVAL", "10ms"),
        ("CONNECT_TIMEOUT", "1m"), // the last probe gets no response
    ];
    Bridge::with(&upstream.url(), &settings).await
}

#[tokio::test]
async fn a_health_url_must_answer_200() {
    for (http, expected) in [
        (200, Serving),
        (204, NotServing),
        (302, NotServing),
        (404, NotServing),
        (500, NotServing),
    ] {
        let upstream = Upstream::answering(probed(http, &opened()));
        let bridge = probing(&upstream).await;
        let probe = upstream.wait_for_requests(2).await.remove(0); // at the second probe, the first has a result
        assert_eq!((&*probe.method, &*probe.path), ("GET", "/health"));
        assert!(!probe.headers.contains_key("x-api-key"), "no key needed");
        let health = bridge.health(SERVICE).await;
        assert_eq!(health.expect("known"), expected, "{http}");
    }
}

#[tokio::test]
async fn until_the_first_probe_ends_the_service_is_known_with_status_unknown() {
    let first = Gate::default();
    let upstream = Upstream::scripted([probed(200, &first), Reply::nothing().then_hold()]);
    let bridge = probing(&upstream).await;
    upstream.wait_for_requests(1).await;
    let mut watch = bridge.watch(SERVICE).await;
    assert_eq!(next_health(&mut watch).await, Unknown);
    first.open();
    assert_eq!(next_health(&mut watch).await, Serving);
}

#[tokio::test]
async fn a_watch_sees_the_service_go_after_three_failures_and_return_after_one_success() {
    let [failing, recovering] = [Gate::default(), Gate::default()];
    let upstream = Upstream::scripted([
        probed(200, &opened()),
        probed(500, &failing),
        probed(500, &failing),
        probed(500, &failing),
        probed(200, &recovering),
        Reply::nothing().then_hold(),
    ]);
    let bridge = probing(&upstream).await;
    upstream.wait_for_requests(2).await; // at the second probe, the first has a result
    let mut watch = bridge.watch(SERVICE).await;
    assert_eq!(next_health(&mut watch).await, Serving);
    failing.open();
    assert_eq!(next_health(&mut watch).await, NotServing);
    recovering.open();
    assert_eq!(next_health(&mut watch).await, Serving);
    assert_eq!(bridge.health("").await.expect("known"), Serving);
}

#[tokio::test]
async fn two_failures_in_a_row_do_not_flip_the_service() {
    let open = opened();
    let upstream = Upstream::scripted([
        probed(200, &open),
        probed(500, &open),
        probed(500, &open),
        Reply::nothing().then_hold(),
    ]);
    let bridge = probing(&upstream).await;
    upstream.wait_for_requests(4).await;
    assert_eq!(bridge.health(SERVICE).await.expect("known"), Serving);
}

#[tokio::test]
async fn a_failing_probe_rejects_no_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let probed = Upstream::answering(probed(500, &opened()));
    let settings = [
        ("UPSTREAM_HEALTH_URL", &*probed.url()),
        ("UPSTREAM_HEALTH_INTERVAL", "10ms"),
    ];
    let bridge = Bridge::with(&upstream.url(), &settings).await;
    probed.wait_for_requests(2).await; // at the second probe, the first has a result
    bridge.invoke("Salam").await.expect("a reply");
}
