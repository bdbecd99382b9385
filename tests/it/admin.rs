//! The admin page: who may see it, what `/status` contains, and what an operator can do.

mod access;
mod cancel;
mod log;
mod status;

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::Bridge;

/// The timeout of every wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer of the admin port.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request with exactly these headers.
async fn send(admin: SocketAddr, request: &str, headers: &[(&str, &str)]) -> Answer {
    let mut socket = TcpStream::connect(admin).await.expect("a port");
    let headers = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers: String = headers.collect();
    let request = format!("{request} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.expect("open");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status line");
    Answer {
        status: status.parse().expect("a status"),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// Sends a request as a program on this machine does.
async fn local(admin: SocketAddr, request: &str) -> Answer {
    send(admin, request, &[("host", "localhost")]).await
}

async fn status(bridge: &Bridge) -> Value {
    local(bridge.admin, "GET /status").await.json()
}

/// Reads `/status` until it is as expected.
async fn status_when(bridge: &Bridge, is_expected: impl Fn(&Value) -> bool) -> Value {
    let until = async {
        loop {
            let status = status(bridge).await;
            if is_expected(&status) {
                return status;
            }
        }
    };
    match timeout(TIMEOUT, until).await {
        Ok(status) => status,
        Err(_) => panic!("not as expected: {:#}", status(bridge).await),
    }
}

/// Waits until the only open call is in this state, and returns it.
async fn only_call(bridge: &Bridge, state: &str) -> Value {
    let is_only = |status: &Value| {
        let open = &status["openCalls"];
        open["total"] == 1 && open["calls"][0]["state"] == state
    };
    status_when(bridge, is_only).await["openCalls"]["calls"][0].clone()
}
