//! ThreadService: each method as Invoke, with its own words for what is asked and what is answered.

use std::convert::identity;

use tonic::{Request, Response, Status};

use super::{Bridge, received, request, response};
use crate::{
    call::{Call, NewThread, Question, ThreadId},
    middleware::context::CallContext,
    pb::{self, thread_service_server::ThreadService},
    status::Failure,
    upstream::{Error, Upstream, error::Malformed},
};

impl Bridge {
    /// Makes a thread for a stream's question, within the stream's own time for its head.
    pub(super) async fn start_thread(
        &self,
        context: &CallContext,
        call: &mut Call<Question>,
    ) -> Result<(), Failure> {
        let new = call.with(NewThread::default());
        let (made, head) = self
            .upstream
            .create_thread(new, context.deadlines.head.at)
            .await?;
        self.note_head(context, &head);
        let id = ThreadId::parse(&made.thread_id).ok_or(Error::Malformed {
            why: Malformed::Json("a UUID as thread_id"),
        })?;
        call.asked.ask_in(id);
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
        let context = received(&request);
        let answer = async {
            let call = request::parse(request, request::new_thread, self.credentials, &context)?;
            self.unary(&context, call, Upstream::create_thread, response::thread)
                .await
        };
        self.or_status(answer.await, &context)
    }

    async fn get_thread(
        &self,
        request: Request<pb::GetThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let context = received(&request);
        let answer = async {
            let thread_id = |message: pb::GetThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials, &context)?;
            self.unary(&context, call, Upstream::get_thread, response::thread)
                .await
        };
        self.or_status(answer.await, &context)
    }

    async fn delete_thread(
        &self,
        request: Request<pb::DeleteThreadRequest>,
    ) -> Result<Response<()>, Status> {
        let context = received(&request);
        let answer = async {
            let thread_id =
                |message: pb::DeleteThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials, &context)?;
            self.unary(&context, call, Upstream::delete_thread, identity)
                .await
        };
        self.or_status(answer.await, &context)
    }
}
