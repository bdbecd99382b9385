//! ThreadService: each method as Invoke, with its own words for what is asked and what is answered.

use tonic::{Request, Response, Status};

use super::{Bridge, received, request, response};
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
