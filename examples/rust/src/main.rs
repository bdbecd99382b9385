//! Asks ALİM in every way that a service needs: whole, typed, in a thread, with a deadline, cancelled, failing.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs,
    io::{Write, stdout},
    time::Duration,
};

use alim_client::{
    Alim, AlimError, Call, Security,
    pb::{InvokeRequest, StreamRequest, stream_response::Event},
};
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;
use uuid::Uuid;

type Done = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Done {
    let address = env::var("ALIM_ADDRESS").unwrap_or_else(|_| "127.0.0.1:50051".into());
    let key = env::var("ALIM_CALLER_KEY").ok();
    let security = match env::var("ALIM_CA_FILE") {
        Ok(path) => Security::Tls {
            ca: fs::read(path)?,
            key,
        },
        Err(_) if key.is_some() => return Err("a key needs TLS: set ALIM_CA_FILE too".into()),
        Err(_) => Security::Plaintext,
    };
    let alim = Alim::connect(&address, security).await?;
    invoke(&alim).await?;
    conversation(&alim).await?;
    failures(&alim).await?;
    deadline(&alim).await?;
    cancel(&alim).await?;
    retry(&alim).await
}

fn call(name: &str, timeout: Duration) -> Call {
    Call {
        request_id: format!("{}-{name}", Uuid::new_v4()),
        timeout,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

async fn invoke(alim: &Alim) -> Done {
    println!("== A whole answer");
    let question = InvokeRequest {
        message: "Nə vaxt suvarım?".into(),
        ..Default::default()
    };
    let reply = alim.invoke(question, call("invoke", MINUTE)).await?;
    println!("{}", reply.response);
    println!("model: {}", reply.model);
    Ok(())
}

async fn conversation(alim: &Alim) -> Done {
    println!("== A conversation, typed");
    let first = StreamRequest {
        message: "Nə vaxt suvarım?".into(),
        start_thread: true,
        ..Default::default()
    };
    let thread_id = type_answer(alim, first).await?;
    let second = StreamRequest {
        message: "Bəs sabah?".into(),
        thread_id: Some(thread_id.clone()),
        ..Default::default()
    };
    let again = type_answer(alim, second).await?;
    match !thread_id.is_empty() && again == thread_id {
        true => println!("in the same thread"),
        false => println!("in another thread"),
    }
    let within = Duration::from_secs(10);
    Ok(alim
        .delete_thread(thread_id, call("delete", within))
        .await?)
}

/// Prints the answer while it is made; gives the thread that it belongs to.
async fn type_answer(
    alim: &Alim,
    question: StreamRequest,
) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut answer = alim.stream(question, call("stream", MINUTE)).await?;
    let mut thread_id = String::new();
    while let Some(next) = answer.next().await? {
        match next.event {
            Some(Event::Token(token)) => {
                print!("{}", token.text);
                stdout().flush()?;
            }
            Some(Event::Done(done)) => {
                println!("\n{} tokens", done.token_count);
                thread_id = done.thread_id;
            }
            _ => {} // a step of the graph, or an event of a newer bridge
        }
    }
    Ok(thread_id)
}

async fn failures(alim: &Alim) -> Done {
    println!("== A question that is not valid");
    let invalid = InvokeRequest {
        thread_id: Some("x".into()),
        ..Default::default()
    };
    let within = Duration::from_secs(10);
    show(
        alim.invoke(invalid, call("invalid", within))
            .await
            .map(drop),
    )?;

    // The embedded ALİM fails on request.
    println!("== A stream that fails on its way");
    let failing = StreamRequest {
        message: "Salam".into(),
        scenario_context: Some(fault("agent_failed")),
        ..Default::default()
    };
    show(drain(alim, failing, call("failing", within)).await)?;

    println!("== Too many questions");
    let limited = InvokeRequest {
        message: "Salam".into(),
        scenario_context: Some(fault("rate_limited")),
        ..Default::default()
    };
    let within = Duration::from_millis(1500);
    show(
        alim.invoke(limited, call("limited", within))
            .await
            .map(drop),
    )
}

fn show(answer: Result<(), AlimError>) -> Done {
    let failure = answer.err().ok_or("the call did not fail")?;
    println!("{} {}", name_of(failure.code), failure.reason);
    for field in &failure.fields {
        println!("  {}: {}", field.name, field.description);
    }
    if let Some(time) = failure.retry_after {
        println!("  retry after: {} s", time.as_secs_f64());
    }
    if let Some(sent) = failure.sent {
        println!("  sent: {sent}");
    }
    if let Some(events) = failure.events_delivered {
        println!("  events delivered: {events}");
    }
    println!(
        "  request id: {}",
        failure.request_id.as_deref().unwrap_or_default()
    );
    Ok(())
}

async fn deadline(alim: &Alim) -> Done {
    println!("== A deadline that passes");
    let ended = drain(alim, slow(), call("deadline", Duration::from_millis(500))).await;
    let failure = ended.err().ok_or("the call did not fail")?;
    println!("{}", name_of(failure.code));
    Ok(())
}

async fn cancel(alim: &Alim) -> Done {
    println!("== A stream that is cancelled");
    let mut answer = alim.stream(slow(), call("cancel", MINUTE)).await?;
    if answer.next().await?.is_some() {
        println!("left after the first event");
    }
    drop(answer); // cancels the call
    Ok(())
}

async fn retry(alim: &Alim) -> Done {
    println!("== A call that is retried");
    let question = InvokeRequest {
        message: "Salam".into(),
        ..Default::default()
    };
    let reply = alim.invoke(question, call("retry", MINUTE)).await?;
    println!(
        "{}",
        if reply.response.is_empty() {
            "empty"
        } else {
            "answered"
        }
    );
    Ok(())
}

async fn drain(alim: &Alim, question: StreamRequest, call: Call) -> Result<(), AlimError> {
    let mut answer = alim.stream(question, call).await?;
    while answer.next().await?.is_some() {}
    Ok(())
}

fn slow() -> StreamRequest {
    StreamRequest {
        message: "Salam".into(),
        scenario_context: Some(fault("slow")),
        ..Default::default()
    }
}

fn fault(name: &str) -> Struct {
    let kind = Some(Kind::StringValue(name.into()));
    Struct {
        fields: BTreeMap::from([("emulator_fault".into(), Value { kind })]),
    }
}

/// The protocol's name of a code; Rust's own is `InvalidArgument`.
fn name_of(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
