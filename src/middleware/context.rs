//! What a method knows of its call: the middleware attaches it to the request.

use std::sync::Arc;

use secrecy::SecretString;

use super::{open_calls::OpenCall, timeouts::Deadlines};
use crate::{admission::Rejected, status::Failure, telemetry::Record};

/// The call, and its deadlines.
#[derive(Clone, Debug)]
pub(crate) struct CallContext {
    pub(crate) call: Arc<OpenCall>,
    pub(crate) deadlines: Deadlines,
    /// Bytes of its message, once that is whole.
    pub(crate) message_bytes: usize,
}

impl CallContext {
    /// What the middleware attached to a request.
    pub(crate) fn of(extensions: &tonic::Extensions) -> Self {
        let context = extensions.get::<Self>();
        context.expect("the middleware is round every call").clone()
    }

    /// The key that the caller has for the upstream, by the callers file.
    pub(crate) fn own_key(&self) -> Option<SecretString> {
        let own_key = self.call.caller.as_ref()?.own_key()?;
        Some(own_key.key().clone())
    }

    /// Whether the caller may send what it sent.
    ///
    /// # Errors
    ///
    /// - [`Failure::FieldNotAllowed`], for a field that is there, were it empty.
    pub(crate) fn check_rights(&self, system_prompt_override: Option<&str>) -> Result<(), Failure> {
        let mut caller = self.call.caller.iter();
        let is_allowed = caller.all(|caller| caller.may_override_system_prompt());
        match system_prompt_override {
            Some(_) if !is_allowed => Err(Failure::FieldNotAllowed("system_prompt_override")),
            _ => Ok(()),
        }
    }

    /// Where to note what happens.
    pub(crate) fn record(&self) -> &Record {
        &self.call.record
    }

    /// Holds the question and the JSON that it becomes, which is mostly as long.
    ///
    /// # Errors
    ///
    /// - [`Rejected::Memory`] when there is no room.
    pub(crate) async fn hold_question(&self) -> Result<(), Rejected> {
        let held = self.call.memory.hold_or_reject(2 * self.message_bytes);
        held.await.map_err(Rejected::Memory)
    }
}
