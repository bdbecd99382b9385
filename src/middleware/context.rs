//! The call context that the middleware attaches to each request, for the service to read.

use std::sync::Arc;

use secrecy::SecretString;

use super::{open_calls::OpenCall, timeouts::Deadlines};
use crate::{admission::Rejected, status::Failure, telemetry::Record};

/// The open call and its deadlines.
#[derive(Clone, Debug)]
pub(crate) struct CallContext {
    pub(crate) call: Arc<OpenCall>,
    pub(crate) deadlines: Deadlines,
    /// Bytes of the request message; 0 until it is complete.
    pub(crate) message_bytes: usize,
}

impl CallContext {
    /// Reads the context from a request's extensions.
    pub(crate) fn of(extensions: &tonic::Extensions) -> Self {
        let context = extensions.get::<Self>();
        context.expect("the middleware wraps every call").clone()
    }

    /// The caller's own upstream key from the callers file, if it has one.
    pub(crate) fn own_key(&self) -> Option<SecretString> {
        let own_key = self.call.caller.as_ref()?.own_key()?;
        Some(own_key.key().clone())
    }

    /// Checks that the caller is allowed to set the fields that it set.
    ///
    /// # Errors
    ///
    /// - [`Failure::FieldNotAllowed`] when the field is set, even to an empty value.
    pub(crate) fn check_permissions(
        &self,
        system_prompt_override: Option<&str>,
    ) -> Result<(), Failure> {
        let mut caller = self.call.caller.iter();
        let is_allowed = caller.all(|caller| caller.may_override_system_prompt());
        match system_prompt_override {
            Some(_) if !is_allowed => Err(Failure::FieldNotAllowed("system_prompt_override")),
            _ => Ok(()),
        }
    }

    /// The call's record.
    pub(crate) fn record(&self) -> &Record {
        &self.call.record
    }

    /// Accounts memory for the question and for its JSON, which is usually as long.
    ///
    /// # Errors
    ///
    /// - [`Rejected::Memory`] when there is no memory for them.
    pub(crate) async fn hold_question(&self) -> Result<(), Rejected> {
        let held = self.call.memory.hold_or_reject(2 * self.message_bytes);
        held.await.map_err(Rejected::Memory)
    }
}
