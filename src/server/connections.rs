//! The open connections of one listener, up to its limit.
//!
//! A full listener still admits new connections. For each it closes the oldest connection that never carried a whole call to ALİM,
//! whether that one is silent, slow or holds a health watch. All others stay.

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard},
};

use slab::Slab;

use crate::{
    inbound::{Connection, Ending},
    memory::Budget,
};

/// The open connections, including those still in their TLS handshake. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    open: Arc<Mutex<Slab<Arc<Connection>>>>,
    limit: usize,
    budget: Budget,
}

/// An open connection. If it is dropped, it is no longer counted.
#[derive(Debug)]
pub(super) struct Open {
    connections: Connections,
    key: usize,
    connection: Arc<Connection>,
}

/// Connections that were sent GOAWAY.
#[derive(Debug)]
pub(super) struct Retiring(Vec<Arc<Connection>>);

impl Retiring {
    /// Closes those that are still open.
    pub(super) fn close(self) {
        for connection in self.0 {
            connection.end(Ending::Close);
        }
    }
}

/// Whether a new connection was admitted.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It was admitted.
    Yes(Open),
    /// It was admitted, and another connection was closed for it.
    Evicting(Open),
    /// It was not: the listener is full, and all of its connections have carried calls.
    No,
}

impl Connections {
    /// At most `limit` connections, whose calls share `budget`.
    pub(super) fn new(limit: usize, budget: Budget) -> Self {
        Self {
            open: Arc::default(),
            limit,
            budget,
        }
    }

    /// Admits a connection from `peer` if the limit allows it.
    pub(super) fn admit(&self, peer: SocketAddr) -> Admitted {
        let mut open = self.lock();
        if open.len() < self.limit {
            return Admitted::Yes(self.insert(&mut open, peer));
        }
        let unused = open.iter().filter(|(_, it)| !it.was_called());
        let oldest = unused.min_by_key(|(_, it)| it.accepted());
        let Some(key) = oldest.map(|(key, _)| key) else {
            return Admitted::No;
        };
        open.remove(key).end(Ending::Close);
        Admitted::Evicting(self.insert(&mut open, peer))
    }

    /// Sends GOAWAY over all connections that are open now.
    pub(super) fn go_away(&self) -> Retiring {
        let open: Vec<_> = self.lock().iter().map(|(_, it)| Arc::clone(it)).collect();
        for connection in &open {
            connection.end(Ending::GoAway);
        }
        Retiring(open)
    }

    /// The maximum of open connections.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The number of open connections.
    pub(super) fn open(&self) -> usize {
        self.lock().len()
    }

    fn insert(&self, open: &mut Slab<Arc<Connection>>, peer: SocketAddr) -> Open {
        let connection = Connection::new(peer, &self.budget);
        Open {
            connections: self.clone(),
            key: open.insert(Arc::clone(&connection)),
            connection,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Deref for Open {
    type Target = Arc<Connection>;

    fn deref(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        // If this connection was evicted, another one can have its key now.
        let is_ours = |it: &Arc<Connection>| Arc::ptr_eq(it, &self.connection);
        if open.get(self.key).is_some_and(is_ours) {
            open.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn admit(connections: &Connections) -> Option<Open> {
        match connections.admit(([127, 0, 0, 1], 1).into()) {
            Admitted::Yes(open) | Admitted::Evicting(open) => Some(open),
            Admitted::No => None,
        }
    }

    fn ending(open: &Open) -> Option<Ending> {
        open.ended(None).now_or_never()
    }

    #[test]
    fn the_oldest_connection_without_a_call_is_closed_for_a_new_one() {
        let connections = Connections::new(3, Budget::unlimited());
        let used = admit(&connections).expect("a free slot");
        used.open_request(true).message_completed();
        let (oldest, younger) = (admit(&connections), admit(&connections));
        let (oldest, younger) = (oldest.expect("a free slot"), younger.expect("a free slot"));
        let _watch = oldest.open_request(false);
        let newest = admit(&connections).expect("closed for it");
        assert_eq!(ending(&oldest), Some(Ending::Close));
        drop(oldest);
        assert_eq!(connections.open(), 3, "its slot belongs to the new one");
        assert_eq!((ending(&used), ending(&younger)), (None, None));
        drop(newest);
        assert_eq!(connections.open(), 2);
    }

    #[test]
    fn if_all_connections_are_in_use_the_new_one_is_closed() {
        let connections = Connections::new(1, Budget::unlimited());
        let used = admit(&connections).expect("a free slot");
        used.open_request(true).message_completed();
        assert!(admit(&connections).is_none());
        assert_eq!(ending(&used), None);
    }
}
