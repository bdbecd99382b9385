//! How the servers of the comparison take their port, and say which it is.

use std::io;

use tokio::net::{TcpListener, TcpSocket};

/// Callers that may wait to be accepted: 10,000 streams come at once.
const BACKLOG: u32 = 4096;

/// Listens on a free port of loopback, and says so in one line on standard output.
pub fn listen(name: &str) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(BACKLOG)?;
    println!("{name} listening on {}", listener.local_addr()?);
    Ok(listener)
}
