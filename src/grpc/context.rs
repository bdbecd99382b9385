//! What a method knows of its call: the edge attaches it to the request.

use std::sync::Arc;

use super::{clocks::Due, open_calls::OpenCall};
use crate::telemetry::Record;

/// The call, and its deadlines.
#[derive(Clone, Debug)]
pub(super) struct CallContext {
    pub(super) call: Arc<OpenCall>,
    pub(super) due: Due,
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
}
