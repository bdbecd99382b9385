//! Implements ThreadService. Each method works like Invoke, with its own request and reply types.

use std::convert::identity;

use tonic::{Request, Response, Status};

use super::{Bridge, context_of, request, response};
use crate::{
    call::{Call, NewThread, Question, ThreadId},
    middleware::context::CallContext,
    pb::{self, thread_service_server::ThreadService},
    status::Failure,
    upstream::{Error, Upstream, error::Malformed},
};

impl Bridge {
    /// Creates a thread for a stream's question, within the deadline for the stream's head.
    pub(super) async fn start_thread(
        &self,
        context: &CallContext,
        call: &mut Call<Question>,
    ) -> Result<(), Failure> {
        let new = call.with(NewThread::default());
        let (created, head) = self
            .upstream
            .create_thread(new, context.deadlines.head.at)
            .await?;
        self.record_head(context, &head);
        let id = ThreadId::parse(&created.thread_id).ok_or(Error::Malformed {
            why: Malformed::Json("a UUID as thread_id"),
        })?;
        call.request.set_thread(id);
        context.record().thread(Some(id));
        Ok(())
    }
}

#[tonic::async_trait]
impl ThreadService for Bridge {
    async fn create_thread(
        &self,
        request: Request<pb::CreateThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let context = context_of(&request);
        let response = async {
            let call = request::parse(request, request::new_thread, self.credentials, &context)?;
            self.unary(&context, call, Upstream::create_thread, response::thread)
                .await
        };
        self.or_status(response.await, &context)
    }

    async fn get_thread(
        &self,
        request: Request<pb::GetThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let context = context_of(&request);
        let response = async {
            let thread_id = |message: pb::GetThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials, &context)?;
            self.unary(&context, call, Upstream::get_thread, response::thread)
                .await
        };
        self.or_status(response.await, &context)
    }

    async fn delete_thread(
        &self,
        request: Request<pb::DeleteThreadRequest>,
    ) -> Result<Response<()>, Status> {
        let context = context_of(&request);
        let response = async {
            let thread_id =
                |message: pb::DeleteThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials, &context)?;
            self.unary(&context, call, Upstream::delete_thread, identity)
                .await
        };
        self.or_status(response.await, &context)
    }
}
