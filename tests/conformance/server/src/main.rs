//! Serves Connect's ConformanceService, and one path for h2spec, on the bridge's own accept loop and layers.
//!
//! Without an argument it is a server under test of `connectconformance`: it reads a ServerCompatRequest from standard input and writes a
//! ServerCompatResponse to standard output. With `listen` it takes the settings of `alim-bridge serve` from the environment.
//!
//! `Unary` passes the layers as `Invoke` and `ServerStream` as `Stream`, with their permits, message limits and deadlines. All other methods
//! pass as unknown ones, because the bridge serves no calls with several request messages.

mod conformance;
mod h2spec;
mod routes;

use std::{
    error::Error,
    io::{Read, Write},
};

use alim_bridge::{
    config::{Config, PREFIX, RawSettings},
    server,
    shutdown::Shutdown,
};
use prost::Message as _;
use tokio::net::TcpListener;

/// What the protos say.
#[allow(dead_code, reason = "the service needs a part of them")]
mod pb {
    tonic::include_proto!("connectrpc.conformance.v1");
}

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let installed = rustls::crypto::ring::default_provider().install_default();
    installed.expect("no provider was installed before");
    match std::env::args().nth(1).as_deref() {
        Some("listen") => {
            let (config, listener) = bind(std::env::vars()).await?;
            println!("listening on {}", listener.local_addr()?);
            serve(config, listener).await
        }
        Some(other) => Err(format!("{other}: only listen is known").into()),
        None => serve_compat().await,
    }
}

/// One server, as a ServerCompatRequest wants it.
async fn serve_compat() -> Result<(), BoxError> {
    let mut request = [0; 4];
    std::io::stdin().read_exact(&mut request)?;
    let mut request = vec![0; u32::from_be_bytes(request) as usize];
    std::io::stdin().read_exact(&mut request)?;
    let request = pb::ServerCompatRequest::decode(&*request)?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, pem: &[u8]| -> Result<String, BoxError> {
        let path = folder.path().join(name);
        std::fs::write(&path, pem)?;
        Ok(path.to_str().ok_or("not UTF-8")?.to_owned())
    };
    let mut settings = vec![
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("ADMIN_LISTEN", "off".to_owned()),
        ("UPSTREAM_API_KEY", "any".to_owned()),
        ("UPSTREAM_URL", "http://127.0.0.1:9/api/v1".to_owned()),
    ];
    if request.protocol() == pb::Protocol::GrpcWeb {
        settings.push(("GRPC_WEB", "*".to_owned()));
    }
    if request.message_receive_limit > 0 {
        let limit = request.message_receive_limit.to_string();
        settings.push(("MAX_REQUEST_BYTES", limit));
    }
    let mut pem_cert = Vec::new();
    if request.use_tls {
        let creds = request.server_creds.ok_or("TLS without a certificate")?;
        settings.push(("TLS_CERT_FILE", write("cert.pem", &creds.cert)?));
        settings.push(("TLS_KEY_FILE", write("key.pem", &creds.key)?));
        if !request.client_tls_cert.is_empty() {
            let ca = write("client.pem", &request.client_tls_cert)?;
            settings.push(("TLS_CLIENT_CA_FILE", ca));
        }
        pem_cert = creds.cert;
    }
    let settings = settings.into_iter();
    let settings = settings.map(|(name, value)| (format!("{PREFIX}{name}"), value));
    let (config, listener) = bind(settings).await?;
    let response = pb::ServerCompatResponse {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr()?.port().into(),
        pem_cert,
    };
    let response = response.encode_to_vec();
    let mut stdout = std::io::stdout();
    stdout.write_all(&u32::try_from(response.len())?.to_be_bytes())?;
    stdout.write_all(&response)?;
    stdout.flush()?;
    serve(config, listener).await
}

async fn bind(
    settings: impl IntoIterator<Item = (String, String)>,
) -> Result<(Config, TcpListener), BoxError> {
    let mut raw = RawSettings::default();
    raw.add_environment(settings);
    let config = Config::parse(&raw)?;
    let listener = TcpListener::bind(config.listen).await?;
    Ok((config, listener))
}

async fn serve(config: Config, listener: TcpListener) -> Result<(), BoxError> {
    let shutdown = Shutdown::default();
    tokio::spawn(shutdown.clone().follow_signals()?);
    let services = routes::Routes::new(config.server.max_request_bytes);
    server::run_other(
        config.server,
        config.upstream,
        listener,
        shutdown,
        services,
        routes::prepare,
    )
    .await?;
    Ok(())
}
