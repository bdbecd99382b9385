//! What a method knows of its call: the edge attaches it to the request.

use std::sync::Arc;

use super::{clocks::Due, open_calls::OpenCall};
use crate::{admission::Rejected, telemetry::Record};

/// The call, and its deadlines.
#[derive(Clone, Debug)]
pub(super) struct CallContext {
    pub(super) call: Arc<OpenCall>,
    pub(super) due: Due,
    /// Bytes of its message, once that is whole.
    pub(super) message_bytes: usize,
}

impl CallContext {
    /// What the edge attached to a request.
    pub(super) fn of(extensions: &tonic::Extensions) -> Self {
        let context = extensions.get::<Self>();
        context.expect("the edge is round every call").clone()
    }

    /// Where to note what happens.
    pub(super) fn record(&self) -> &Record {
        &self.call.record
    }

    /// Holds the question and the JSON that it becomes, which is mostly as long.
    ///
    /// # Errors
    ///
    /// - [`Rejected::Memory`] when there is no room.
    pub(super) async fn hold_question(&self) -> Result<(), Rejected> {
        let held = self.call.memory.hold_or_reject(2 * self.message_bytes);
        held.await.map_err(Rejected::Memory)
    }
}
