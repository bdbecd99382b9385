//! ThreadService: each method as Invoke, with its own words for what is asked and what is answered.

use std::convert::identity;

use tonic::{Request, Response, Status};

use super::{Bridge, context::CallContext, request, response};
use crate::{
    pb::{self, thread_service_server::ThreadService},
    upstream::Upstream,
};

#[tonic::async_trait]
impl ThreadService for Bridge {
    async fn create_thread(
        &self,
        request: Request<pb::CreateThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let context = CallContext::of(request.extensions());
        let answer = async {
            let call = request::parse(request, request::new_thread, self.credentials)?;
            self.unary(&context, call, Upstream::create_thread, response::thread)
                .await
        };
        self.told(answer.await, &context)
    }

    async fn get_thread(
        &self,
        request: Request<pb::GetThreadRequest>,
    ) -> Result<Response<pb::Thread>, Status> {
        let context = CallContext::of(request.extensions());
        let answer = async {
            let thread_id = |message: pb::GetThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials)?;
            self.unary(&context, call, Upstream::get_thread, response::thread)
                .await
        };
        self.told(answer.await, &context)
    }

    async fn delete_thread(
        &self,
        request: Request<pb::DeleteThreadRequest>,
    ) -> Result<Response<()>, Status> {
        let context = CallContext::of(request.extensions());
        let answer = async {
            let thread_id =
                |message: pb::DeleteThreadRequest| request::thread_id(&message.thread_id);
            let call = request::parse(request, thread_id, self.credentials)?;
            self.unary(&context, call, Upstream::delete_thread, identity)
                .await
        };
        self.told(answer.await, &context)
    }
}
