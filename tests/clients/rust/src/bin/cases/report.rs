//! Planned calls, and what the witness tells of them.

use std::{
    env,
    future::Future,
    io::{Read, Write},
    net::TcpStream,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use caller::{
    Failure,
    pb::{InvokeRequest, StreamRequest},
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::{Code, Request, Status};

static CALLS: AtomicUsize = AtomicUsize::new(0);

pub fn surroundings(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// A call that the witness knows by its id, whose attempts meet what is planned for them.
pub struct Call {
    id: String,
    context: Struct,
}

impl Call {
    pub fn new<const N: usize>(meets: [&str; N]) -> Self {
        let text = |kind| Value { kind: Some(kind) };
        let values = meets
            .map(|word| text(Kind::StringValue(word.to_owned())))
            .into();
        let list = text(Kind::ListValue(ListValue { values }));
        Self {
            id: format!(
                "{}-{}",
                process::id(),
                CALLS.fetch_add(1, Ordering::Relaxed)
            ),
            context: Struct {
                fields: [("witness".to_owned(), list)].into(),
            },
        }
    }

    pub fn invoke(&self) -> Request<InvokeRequest> {
        self.request(InvokeRequest {
            message: "Fermada susuzluq var, nə edim?".to_owned(),
            scenario_context: Some(self.context.clone()),
            ..Default::default()
        })
    }

    pub fn stream(&self) -> Request<StreamRequest> {
        self.request(StreamRequest {
            message: "Fermada susuzluq var, nə edim?".to_owned(),
            scenario_context: Some(self.context.clone()),
            ..Default::default()
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(60));
        let id = self.id.parse().expect("ASCII");
        request.metadata_mut().insert("x-request-id", id);
        request
    }

    pub fn must_be_sent(&self, times: u64) {
        assert_eq!(self.ask("seen")["posts"], times);
    }

    /// Waits until the bridge has hung up.
    pub fn must_be_closed(&self) {
        assert_eq!(self.ask("closed")["closed"], 1);
    }

    /// Blocks, but not the connection's own task, which may stand behind this one.
    fn ask(&self, question: &str) -> serde_json::Value {
        tokio::task::block_in_place(|| self.get(question))
    }

    fn get(&self, question: &str) -> serde_json::Value {
        let witness = surroundings("ALIM_WITNESS");
        let address = witness.trim_start_matches("http://");
        let mut witness = TcpStream::connect(address).expect("the witness");
        write!(witness, "GET /{question}/{} HTTP/1.1\r\n\r\n", self.id).expect("sent");
        let mut reply = String::new();
        witness.read_to_string(&mut reply).expect("an answer");
        let (_, body) = reply.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }
}

pub fn must_fail<T>(answer: Result<T, Status>, code: Code, reason: &str) -> Failure {
    let failure = Failure::from(answer.err().expect("it must fail"));
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        (code, reason),
        "{failure:?}"
    );
    failure
}

/// Runs a case in a task of its own, so that a panic ends only that.
pub async fn run(name: &str, body: impl Future<Output = ()> + Send + 'static) {
    match tokio::spawn(body).await {
        Ok(()) => println!("ok\t{name}"),
        Err(panicked) => {
            let why = panicked.into_panic();
            let text = why.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or(why.downcast_ref::<&str>().copied())
                .unwrap_or("it panicked");
            println!("failed\t{name}\t{}", text.replace('\n', " | "));
        }
    }
}

pub fn skip(name: &str, why: &str) {
    println!("skipped\t{name}\t{why}");
}
