//! gRPC-Web over HTTP/1.1, as a browser's page sends it: one call after the other on a kept connection.

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    AnyError,
    pb::{InvokeRequest, StreamRequest},
};

/// The last chunk of a response.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Invokes, and every tenth call a Stream.
pub(crate) async fn calls(address: &str, calls: usize) -> Result<(), AnyError> {
    let mut socket = TcpStream::connect(address).await?;
    let message = String::from("Nə vaxt suvarım?");
    for at in 0..calls {
        let (method, message) = match at % 10 {
            0 => (
                "Stream",
                StreamRequest {
                    message: message.clone(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            _ => (
                "Invoke",
                InvokeRequest {
                    message: message.clone(),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
        };
        let head = format!(
            "POST /alim.v1.GraphService/{method} HTTP/1.1\r\nhost: {address}\r\norigin: https://app.example.az\r\n\
             content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\ncontent-length: {}\r\n\r\n",
            5 + message.len()
        );
        let length = u32::try_from(message.len())?.to_be_bytes();
        socket
            .write_all(&[head.as_bytes(), &[0], &length, &message].concat())
            .await?;
        let mut response = Vec::new();
        while !response.ends_with(LAST_CHUNK) {
            if socket.read_buf(&mut response).await? == 0 {
                return Err("the bridge closed the connection".into());
            }
        }
        if !response.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&response).into());
        }
    }
    Ok(())
}
