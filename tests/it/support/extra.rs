//! More words for stories: a bridge with any settings, a second caller, metadata, health, the admin
//! port, and files that the bridge reads again.

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

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The upstream's service in health checks.
pub(crate) const SERVICE: &str = "alim.v1.GraphService";
pub(crate) const THREAD_SERVICE: &str = "alim.v1.ThreadService";

impl Bridge {
    /// A bridge with these settings and no others, not even the service key.
    pub(crate) async fn of(config: Config) -> Self {
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
    pub(crate) fn another_client(&self) -> GraphServiceClient<Channel> {
        GraphServiceClient::new(channel_to(self.address))
    }

    /// A client for threads, over the connection of the other.
    pub(crate) fn threads(&self) -> ThreadServiceClient<Channel> {
        ThreadServiceClient::new(self.channel.clone())
    }

    /// What `grpc.health.v1` says of a service.
    pub(crate) async fn health(&self, service: &str) -> Result<ServingStatus, Status> {
        let mut client = HealthClient::new(self.channel.clone());
        let answer = client.check(health_request(service)).await?;
        Ok(answer.into_inner().status())
    }

    /// What `grpc.health.v1` says of a service, from now on.
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

/// The next thing that a watched service is.
pub(crate) async fn next_health(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let news = tokio::time::timeout(PATIENCE, watch.message()).await;
    let news = news.expect("news in time").expect("no status");
    news.expect("a watch that goes on").status()
}

fn health_request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

/// A connection that is made at its first call.
pub(crate) fn channel_to(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}"));
    endpoint.expect("a URL").connect_lazy()
}

/// A request with this metadata; names and values are any that HTTP/2 can carry.
pub(crate) fn with_metadata<T>(message: T, pairs: &[(&'static str, &[u8])]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in pairs {
        let value = http::HeaderValue::from_bytes(value).expect("a value");
        let headers = request.metadata_mut().as_mut();
        headers.append(http::HeaderName::from_static(name), value);
    }
    request
}

/// Lets the bridge look at its files twice, as it does every two seconds: a change counts then.
pub(crate) async fn files_are_read_again() {
    time_passes(Duration::from_secs(5)).await;
}

/// Lets this much time pass without waiting: paused time runs on as soon as nobody has work, and
/// stands still while a thread reads a file. Only for when no bytes are on their way.
pub(crate) async fn time_passes(duration: Duration) {
    tokio::time::pause();
    tokio::time::sleep(duration).await;
    tokio::time::resume();
}
