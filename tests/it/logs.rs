//! Log lines and whoever reads them: a reader that is slow or gone must not stall a call.

use std::{io::Read, time::Duration};

use alim_bridge::pb::graph_service_client::GraphServiceClient;

use crate::support::{
    SERVICE_KEY, ask,
    extra::channel_to,
    reply_json,
    running::{self, Running},
    upstream::{Reply, Upstream},
};

/// Enough calls, each with the libraries' own lines, for far more lines than may wait.
const CALLS: usize = 400;

fn start(upstream: &Upstream) -> (Running, impl Read + use<>) {
    running::start_unread(
        &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"],
        &[
            ("ALIM_BRIDGE_UPSTREAM_URL", &upstream.url()),
            ("ALIM_BRIDGE_UPSTREAM_API_KEY", SERVICE_KEY),
            ("ALIM_BRIDGE_LOG", "trace"),
        ],
    )
}

async fn call_often(bridge: &mut Running) {
    let address = bridge.address().parse().expect("an address");
    let mut client = GraphServiceClient::new(channel_to(address));
    let calls = async {
        for _ in 0..CALLS {
            client.invoke(ask("Salam")).await.expect("a reply");
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), calls).await;
    ended.expect("no call is stalled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stalls_no_call_and_does_not_keep_the_process() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let (mut bridge, mut unread) = start(&upstream);
    call_often(&mut bridge).await;
    assert_eq!(bridge.stopped().code, Some(0));

    let mut lines = String::new();
    unread.read_to_string(&mut lines).expect("UTF-8");
    let is_lost = !lines.contains("\"stopped\"");
    assert!(
        is_lost,
        "so few lines that nothing stalled: {}",
        lines.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_reader_is_gone_fails_no_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let (mut bridge, unread) = start(&upstream);
    drop(unread);
    call_often(&mut bridge).await;
    assert_eq!(bridge.stopped().code, Some(0));
}
