//! A bridge in a child process, as it is deployed.
//!
//! This shows what an in-process bridge hides: the memory of the bridge alone, and everything that it
//! writes.

use std::{fs, net::SocketAddr, time::Duration};

use alim_bridge::pb::graph_service_client::GraphServiceClient;
use tonic::transport::Channel;

use super::{
    SERVICE_KEY,
    extra::{channel_to, get},
    running::{Running, start},
};

/// The timeout of every wait: far longer than a busy machine needs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two reads of a metric.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A running bridge. Its drop kills the process.
pub(crate) struct Deployed {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Deployed {
    /// A bridge with some settings, named as in the environment without the prefix.
    pub(crate) fn with(upstream_url: &str, settings: &[(&str, &str)]) -> Self {
        let mut running = serve(upstream_url, settings);
        let serving = running.wait_for_log("serving"); // as text or as JSON
        let bound = |name: &str| address_after(&serving, name);
        Self {
            running,
            address: bound("address"),
            admin: bound("admin"),
        }
    }

    /// A bridge without an admin port, whose log may be off.
    pub(crate) fn with_log(upstream_url: &str, settings: &[(&str, &str)]) -> Self {
        let settings = [settings, &[("ADMIN_LISTEN", "off")]].concat();
        let mut running = serve(upstream_url, &settings);
        let address = running.address().parse().expect("an address");
        Self {
            running,
            address,
            admin: SocketAddr::from(([0; 4], 0)),
        }
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> GraphServiceClient<Channel> {
        GraphServiceClient::new(channel_to(self.address))
    }

    /// The current resident memory in KiB (proc(5), VmRSS).
    pub(crate) fn resident_kib(&self) -> u64 {
        self.kib("VmRSS:")
    }

    /// The peak resident memory in KiB (proc(5), VmHWM).
    pub(crate) fn peak_kib(&self) -> u64 {
        self.kib("VmHWM:")
    }

    fn kib(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.id()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with(figure));
        let figure = line.and_then(|line| line.split_whitespace().nth(1));
        figure.expect("a figure").parse().expect("KiB")
    }

    /// All metrics, as a scrape reads them.
    pub(crate) async fn metrics(&self) -> String {
        get(self.admin, "/metrics").await.1
    }

    /// The sum of a metric's series whose line contains `part`.
    pub(crate) async fn metric(&self, name: &str, part: &str) -> u64 {
        let all = self.metrics().await;
        let lines = all.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with([' ', '{']) && line.contains(part)
        });
        let figures = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        figures.sum()
    }

    /// Waits until this many calls hold a permit.
    ///
    /// # Panics
    /// After a minute.
    pub(crate) async fn wait_for_open_calls(&self, count: u64) {
        let waiting = async {
            while self.metric("alim_bridge_open_calls", "").await != count {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(TIMEOUT, waiting).await.is_err() {
            let open = self.metric("alim_bridge_open_calls", "").await;
            panic!("{open} calls are open, {count} were expected");
        }
    }
}

/// Starts the command with these settings, and defaults for the others that a test needs.
fn serve(upstream_url: &str, settings: &[(&str, &str)]) -> Running {
    let usual = [
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("LISTEN", "127.0.0.1:0"),
        ("UPSTREAM_URL", upstream_url),
        ("UPSTREAM_API_KEY", SERVICE_KEY),
    ];
    let own = |name: &str| settings.iter().any(|(own, _)| *own == name);
    let usual = usual.iter().filter(|(name, _)| !own(name));
    let named = usual.chain(settings);
    let named: Vec<_> = named
        .map(|(name, value)| (format!("ALIM_BRIDGE_{name}"), *value))
        .collect();
    let variables: Vec<_> = named
        .iter()
        .map(|(name, value)| (&**name, *value))
        .collect();
    start(&["serve"], &variables)
}

/// The first address after `name` in `line`.
fn address_after(line: &str, name: &str) -> SocketAddr {
    let rest = line.split_once(name).map(|(_, rest)| rest);
    let rest = rest
        .expect("the name is in the line")
        .trim_start_matches(|char: char| !char.is_ascii_digit());
    let end = rest.find(|char: char| !"0123456789.:".contains(char));
    let address = &rest[..end.unwrap_or(rest.len())];
    address.parse().expect("an address")
}
