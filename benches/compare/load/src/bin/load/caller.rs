//! A caller of either kind: over gRPC to a subject, or over HTTP straight to the upstream.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use alim_bridge_compare::{
    AnyError,
    clock::{age, now},
    grpc::{self, Messages, Reading},
    http::{self, Line},
    tally::Tally,
};

use crate::flags::{Flags, Over};

/// The callers of one run share their connections.
pub enum Callers {
    Grpc(Vec<grpc::Connection>),
    Http {
        to: SocketAddr,
        kept: RefCell<Vec<http::Connection>>,
    },
}

impl Callers {
    /// Opens gRPC's connections; HTTP's are opened as streams need them.
    pub async fn open(flags: &Flags, reading: Reading) -> Result<Rc<Self>, AnyError> {
        Ok(Rc::new(match flags.over {
            Over::Http => Self::Http {
                to: flags.to,
                kept: RefCell::default(),
            },
            Over::Grpc => {
                let mut connections = Vec::new();
                for _ in 0..flags.connections {
                    connections.push(grpc::Connection::open(flags.to, reading).await?);
                }
                Self::Grpc(connections)
            }
        }))
    }

    /// One stream to its end, counted.
    pub async fn stream(
        &self,
        number: usize,
        message: &str,
        tally: &Tally,
    ) -> Result<(), AnyError> {
        let start = now();
        let mut first = true;
        let mut began = false;
        let mut begin = || {
            if !std::mem::replace(&mut began, true) {
                tally.begun.set(tally.begun.get() + 1);
            }
        };
        let mut token = |text: &[u8]| {
            tally.add(&tally.tokens, 1);
            if std::mem::take(&mut first) {
                tally.keep(&tally.firsts, now() - start);
            }
            if let Some(age) = age(text) {
                tally.keep(&tally.delays, age);
            }
        };
        match self {
            Self::Grpc(connections) => {
                let mut body = connections[number % connections.len()]
                    .call("Stream", message)
                    .await?;
                let mut messages = Messages::default();
                while let Some(piece) = body.data().await {
                    let piece = piece?;
                    tally.add(&tally.pieces, 1);
                    body.flow_control().release_capacity(piece.len())?;
                    begin();
                    messages.each(piece, |event| {
                        if let grpc::Event::Token(text) = event {
                            token(text);
                        }
                    });
                }
                grpc::end(&mut body).await?;
            }
            Self::Http { to, kept } => {
                let mut connection = take(*to, kept).await?;
                connection.ask("stream", message).await?;
                let mut is_over = false;
                while !is_over {
                    let is_open = connection
                        .read(|line| {
                            begin();
                            match line {
                                Line::Token(text) => token(text),
                                Line::Node => {}
                                Line::End => is_over = true,
                            }
                        })
                        .await?;
                    tally.add(&tally.pieces, 1);
                    if !is_open {
                        return Err("the upstream closed".into());
                    }
                }
                kept.borrow_mut().push(connection);
            }
        }
        tally.keep(&tally.whole, now() - start);
        Ok(())
    }

    /// One Invoke, counted.
    pub async fn invoke(&self, number: usize, tally: &Tally) -> Result<(), AnyError> {
        let start = now();
        match self {
            Self::Grpc(connections) => {
                let mut body = connections[number % connections.len()]
                    .call("Invoke", "invoke")
                    .await?;
                let mut bytes = 0;
                while let Some(piece) = body.data().await {
                    let piece = piece?;
                    body.flow_control().release_capacity(piece.len())?;
                    bytes += piece.len();
                }
                grpc::end(&mut body).await?;
                if bytes < 100 {
                    return Err("an empty answer".into());
                }
            }
            Self::Http { to, kept } => {
                let mut connection = take(*to, kept).await?;
                connection.ask("invoke", "invoke").await?;
                connection.read_reply().await?;
                kept.borrow_mut().push(connection);
            }
        }
        tally.keep(&tally.whole, now() - start);
        Ok(())
    }

    /// Opens a stream, waits for its first event and reads no further, without end.
    pub async fn hold(&self, number: usize, message: &str, tally: &Tally) -> Result<(), AnyError> {
        let begun = || tally.begun.set(tally.begun.get() + 1);
        match self {
            Self::Grpc(connections) => {
                let mut body = connections[number % connections.len()]
                    .call("Stream", message)
                    .await?;
                let piece = body.data().await.ok_or("an empty stream")??;
                drop(piece);
                begun();
                std::future::pending::<()>().await;
                drop(body);
            }
            Self::Http { to, .. } => {
                let mut connection = http::Connection::open(*to).await?;
                connection.ask("stream", message).await?;
                connection.read(|_| {}).await?;
                begun();
                std::future::pending::<()>().await;
                drop(connection);
            }
        }
        Ok(())
    }
}

async fn take(
    to: SocketAddr,
    kept: &RefCell<Vec<http::Connection>>,
) -> Result<http::Connection, AnyError> {
    let kept = kept.borrow_mut().pop();
    Ok(match kept {
        Some(connection) => connection,
        None => http::Connection::open(to).await?,
    })
}
