//! The open connections of one listener, as many as its limit.
//!
//! A full listener stays open to newcomers: the oldest connection over which no whole call to ALİM ever came is closed for the next
//! one, whether it is silent, slow or holds a health watch. All others stay.

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

/// The open connections, those whose TLS handshake is not done included; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    open: Arc<Mutex<Slab<Arc<Connection>>>>,
    limit: usize,
    budget: Budget,
}

/// A connection among the open ones; dropping it takes it out.
#[derive(Debug)]
pub(super) struct Open {
    connections: Connections,
    key: usize,
    connection: Arc<Connection>,
}

/// Connections that were asked to go.
#[derive(Debug)]
pub(super) struct Leaving(Vec<Arc<Connection>>);

impl Leaving {
    /// Closes those that are still there.
    pub(super) fn close(self) {
        for connection in self.0 {
            connection.end(Ending::Close);
        }
    }
}

/// A newcomer was admitted, or not.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It was.
    Yes(Open),
    /// It was, and another was closed for it.
    ForAnother(Open),
    /// The listener is full, and calls have come over all of its connections.
    No,
}

impl Connections {
    /// At most `limit`, whose calls share `budget`.
    pub(super) fn new(limit: usize, budget: Budget) -> Self {
        Self {
            open: Arc::default(),
            limit,
            budget,
        }
    }

    /// Takes in a connection from `peer`.
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
        Admitted::ForAnother(self.insert(&mut open, peer))
    }

    /// Asks all connections that are open now to go.
    pub(super) fn go_away(&self) -> Leaving {
        let open: Vec<_> = self.lock().iter().map(|(_, it)| Arc::clone(it)).collect();
        for connection in &open {
            connection.end(Ending::GoAway);
        }
        Leaving(open)
    }

    /// How many may be open.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// How many are.
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
        // Its key may be another's, if it was closed for a newcomer.
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
            Admitted::Yes(open) | Admitted::ForAnother(open) => Some(open),
            Admitted::No => None,
        }
    }

    fn ending(open: &Open) -> Option<Ending> {
        open.ended(None).now_or_never()
    }

    #[test]
    fn the_oldest_connection_without_a_call_is_closed_for_a_newcomer() {
        let connections = Connections::new(3, Budget::unlimited());
        let used = admit(&connections).expect("room");
        used.open_request(true).message_completed();
        let (oldest, younger) = (admit(&connections), admit(&connections));
        let (oldest, younger) = (oldest.expect("room"), younger.expect("room"));
        let _watch = oldest.open_request(false);
        let newcomer = admit(&connections).expect("closed for it");
        assert_eq!(ending(&oldest), Some(Ending::Close));
        drop(oldest);
        assert_eq!(connections.open(), 3, "its slot is the newcomer's");
        assert_eq!((ending(&used), ending(&younger)), (None, None));
        drop(newcomer);
        assert_eq!(connections.open(), 2);
    }

    #[test]
    fn where_all_connections_are_in_use_the_newcomer_is_closed() {
        let connections = Connections::new(1, Budget::unlimited());
        let used = admit(&connections).expect("room");
        used.open_request(true).message_completed();
        assert!(admit(&connections).is_none());
        assert_eq!(ending(&used), None);
    }
}
