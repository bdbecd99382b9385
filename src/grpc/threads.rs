//! ThreadService: each method as Invoke, with its own words for what is asked and what is answered.

use std::pin::pin;

use tonic::{Request, Response, Status};

use super::{Bridge, edge::Begun, failure::Failure, received, request, response};
use crate::{
    call::{Call, NewThread, Question, ThreadId},
    pb::{self, thread_service_server::ThreadService},
    upstream::{Error, Upstream, error::Malformed},
};

impl Bridge {
    /// Makes a thread for a stream's question, within the stream's own time for its head.
    pub(super) async fn start_thread(
        &self,
        begun: &Begun,
        call: &mut Call<Question>,
    ) -> Result<(), Failure> {
        let new = call.with(NewThread::default());
        let made = pin!(self.upstream.create_thread(&new, begun.due.head.at));
        let (made, headers) = self.within(begun, made).await??;
        self.note_head(&begun.record, &headers);
        let id = ThreadId::parse(&made.thread_id).ok_or(Error::Malformed {
            why: Malformed::Json("a UUID as thread_id"),
        })?;
        call.asked.ask_in(id);
        begun.record.thread(Some(id));
        Ok(())
    }
}

#[tonic::async_trait]
impl ThreadService for Bridge {
    async fn create_thread(
        &self,
        request: Request<pb::CreateThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let begun = received(&request);
        let answer = async {
            let call = request::parse(request, request::new_thread, self.credentials)?;
            self.unary(&begun, call, Upstream::create_thread, response::thread)
                .await
        };
        self.told(answer.await, &begun)
    }

    async fn get_thread(
        &self,
        request: Request<pb::GetThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let begun = received(&request);
        let answer = async {
            let thread_id = |message: pb::GetThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials)?;
            self.unary(&begun, call, Upstream::get_thread, response::thread)
                .await
        };
        self.told(answer.await, &begun)
    }

    async fn delete_thread(
        &self,
        request: Request<pb::DeleteThreadRequest>,
    ) -> Result<Response<()>, Status> {
        let begun = received(&request);
        let answer = async {
            let thread_id =
                |message: pb::DeleteThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials)?;
            self.unary(&begun, call, Upstream::delete_thread, Ok).await
        };
        self.told(answer.await, &begun)
    }
}
