//! Further helpers: a bridge with any settings, a second client, metadata, health, the admin port and
//! paused time.

use std::{net::SocketAddr, time::Duration};

use alim_bridge::{
    config::Config,
    pb::{graph_service_client::GraphServiceClient, thread_service_client::ThreadServiceClient},
    server,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::{Request, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use super::Bridge;

/// The timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The upstream's service in health checks.
pub(crate) const SERVICE: &str = "alim.v1.GraphService";
pub(crate) const THREAD_SERVICE: &str = "alim.v1.ThreadService";

impl Bridge {
    /// Starts a bridge with exactly these settings.
    pub(crate) async fn from_config(config: Config) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let admin_listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let admin = admin_listener.local_addr().expect("bound");
        let shutdown = alim_bridge::shutdown::Shutdown::default();
        let (server, upstream) = (config.server, config.upstream);
        let stages = shutdown.clone();
        let running = server::run(server, upstream, listener, Some(admin_listener), stages);
        let task = tokio::spawn(async move { running.await.expect("a bridge that runs") });
        let channel = channel_to(address);
        Self {
            client: GraphServiceClient::new(channel.clone()),
            channel,
            address,
            admin,
            shutdown,
            task,
        }
    }

    /// A client with a connection of its own.
    pub(crate) fn new_client(&self) -> GraphServiceClient<Channel> {
        GraphServiceClient::new(channel_to(self.address))
    }

    /// A client for threads, on the connection of [`Bridge::client`].
    pub(crate) fn threads(&self) -> ThreadServiceClient<Channel> {
        ThreadServiceClient::new(self.channel.clone())
    }

    /// The health of a service, by `grpc.health.v1`.
    pub(crate) async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let mut client = HealthClient::new(self.channel.clone());
        let answer = client.check(health_request(service)).await?;
        Ok(answer.into_inner().status())
    }

    /// Watches the health of a service, by `grpc.health.v1`.
    pub(crate) async fn watch(&self, service: &str) -> Streaming<HealthCheckResponse> {
        let mut client = HealthClient::new(self.channel.clone());
        let answer = client.watch(health_request(service)).await;
        answer.expect("a known service").into_inner()
    }

    /// GET of this path on the admin port: the status, and the head with the body.
    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        get(self.admin, path).await
    }
}

/// GET of this path on an admin port: the status, and the head with the body.
pub(crate) async fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(admin).await.expect("a port");
    let request = format!("GET {path} HTTP/1.1\r\nhost: bridge\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("open");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("UTF-8");
    let status = answer.split(' ').nth(1).expect("a status line");
    (status.parse().expect("a status"), answer)
}

/// The next status of a watched service.
pub(crate) async fn next_health(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let next = tokio::time::timeout(TIMEOUT, watch.message()).await;
    let next = next.expect("a message in time").expect("no error");
    next.expect("the watch does not end").status()
}

fn health_request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

/// A channel that connects at its first call.
pub(crate) fn channel_to(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}"));
    endpoint.expect("a URL").connect_lazy()
}

/// A request with this metadata. Names and values can be any that HTTP/2 allows.
pub(crate) fn with_metadata<T>(message: T, pairs: &[(&'static str, &[u8])]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in pairs {
        let value = http::HeaderValue::from_bytes(value).expect("a value");
        let headers = request.metadata_mut().as_mut();
        headers.append(http::HeaderName::from_static(name), value);
    }
    request
}

/// Advances time so that the bridge checks its files twice, as it does every two seconds. It applies a change at the second check.
pub(crate) async fn wait_for_file_reload() {
    advance_time(Duration::from_secs(5)).await;
}

/// Advances the paused clock. Paused time advances when no task has work, and stops while a thread reads a
/// file. Use it only while no bytes are in flight.
pub(crate) async fn advance_time(duration: Duration) {
    tokio::time::pause();
    tokio::time::sleep(duration).await;
    tokio::time::resume();
}
