//! An answer's body, with what must last as long as it does: the call's record, and what it holds.
//!
//! However it ends, it ends with trailers: a panic in what makes it becomes a status too, for a bare
//! reset would tell the caller nothing.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{
    failure::{Credentials, Failure},
    hold::Hold,
};
use crate::{
    admission::Refused,
    telemetry::{Ongoing, Record},
};

pub(super) const GRPC_STATUS: &str = "grpc-status";

pin_project! {
    /// The body of every answer. The fields are dropped in this order: what the answer is made by can
    /// still note what it did.
    pub struct EdgeBody {
        #[pin]
        inner: Body,
        ongoing: Ongoing,
        _hold: Option<Arc<Hold>>,
        goaway: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
        is_over: bool,
    }
}

impl EdgeBody {
    /// A body that ends by itself, or, with `goaway`, when that comes: a health watch would else keep
    /// its connection, and with it the drain, open for good.
    pub(super) fn new(
        inner: Body,
        ongoing: Ongoing,
        hold: Option<Arc<Hold>>,
        goaway: Option<CancellationToken>,
    ) -> Self {
        Self {
            inner,
            ongoing,
            _hold: hold,
            goaway: goaway.map(|token| Box::pin(token.cancelled_owned())),
            is_over: false,
        }
    }
}

impl HttpBody for EdgeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        // What a panic leaves behind is never polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| this.inner.poll_frame(cx)));
        let outcome = match polled {
            Ok(Poll::Ready(frame)) => Ok(frame),
            Ok(Poll::Pending) => {
                let Some(goaway) = this.goaway else {
                    return Poll::Pending;
                };
                ready!(goaway.as_mut().poll(cx));
                Err(Failure::Refused(Refused::Draining))
            }
            Err(_panic) => Err(Failure::Panicked),
        };
        let frame = outcome.unwrap_or_else(|failure| {
            *this.is_over = true;
            Some(Ok(Frame::trailers(trailers(
                failure,
                this.ongoing.record(),
            ))))
        });
        if let Some(Ok(frame)) = &frame {
            let record = this.ongoing.record();
            if let Some(data) = frame.data_ref() {
                record.bytes_sent(data.len());
            }
            if let Some(trailers) = frame.trailers_ref() {
                note_status(record, trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Notes the code that goes to the caller, where these are the fields that bear it.
pub(super) fn note_status(record: &Record, fields: &HeaderMap) {
    let code = fields.get(GRPC_STATUS);
    if let Some(code) = code.and_then(|code| code.to_str().ok()?.parse().ok()) {
        record.status(code);
    }
}

fn trailers(failure: Failure, record: &Record) -> HeaderMap {
    let status = failure.tell(record, Credentials::Service, None);
    let mut trailers = status.into_http::<()>().into_parts().0.headers;
    trailers.remove(http::header::CONTENT_TYPE);
    trailers
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio_stream::{StreamExt, iter};

    use super::*;
    use crate::telemetry::{Method, metrics::Metrics, traces::Trace};

    #[tokio::test]
    async fn a_panic_after_the_head_ends_the_body_with_a_status_and_is_not_met_again() {
        let metrics = Arc::new(Metrics::new().expect("fresh"));
        let method = Method::of("/alim.v1.GraphService/Stream");
        let trace = Trace::begin(None, method, &HeaderMap::new());
        let ongoing = Ongoing::begin(metrics, method, "id".into(), trace);
        let frames = iter([true, false]).map(|is_whole| {
            assert!(is_whole, "the fault that is tried");
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"event")))
        });
        let mut body = EdgeBody::new(Body::new(StreamBody::new(frames)), ongoing, None, None);

        let event = body.frame().await.expect("a frame").expect("no error");
        assert!(event.is_data());
        let last = body.frame().await.expect("a frame").expect("no error");
        let trailers = last.into_trailers().expect("trailers");
        assert_eq!(trailers[GRPC_STATUS], "13", "INTERNAL");
        assert_eq!(trailers["grpc-retry-pushback-ms"], "-1");
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }
}
