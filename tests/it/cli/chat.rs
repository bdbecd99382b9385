//! The command `chat`, with a script and at a terminal. The upstream is scripted, because the embedded one
//! does not record its requests.

use rexpect::{
    process::WaitStatus,
    session::{PtySession, spawn_command},
};
use serde_json::{Value, json};

use crate::support::{
    Bridge,
    running::{Exited, command, run_reading},
    sse_answer, sse_tokens,
    upstream::{Reply, Upstream},
};

const THREAD: &str = "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b";
const TIMEOUT_MS: u64 = 60_000;

/// Text with control sequences: red text, a cleared screen, a bell.
const WITH_CONTROLS: &str = "\u{1b}[31mSu\u{9b}2Jvar\u{7}ın";

fn a_thread() -> Reply {
    Reply::json(200, json!({ "thread_id": THREAD }))
}

fn an_answer(text: &str) -> Reply {
    Reply::sse(format!(
        "event: node\ndata: plan\n\n{}",
        sse_answer(&[text])
    ))
}

fn a_failure() -> Reply {
    Reply::sse("event: error\ndata: Graf yıxıldı\n\n")
}

/// The upstream, a bridge in front of it, and the bridge's address.
async fn answering(replies: impl IntoIterator<Item = Reply>) -> (Upstream, Bridge, String) {
    let upstream = Upstream::scripted(replies);
    let bridge = Bridge::start(&upstream.url()).await;
    let address = bridge.address.to_string();
    (upstream, bridge, address)
}

/// The bodies of the questions, without requests about threads.
fn questions(upstream: &Upstream) -> Vec<Value> {
    let requests = upstream.requests().into_iter();
    let questions = requests.filter(|request| request.path.ends_with("/graph/stream"));
    questions.map(|request| request.json()).collect()
}

/// Runs a conversation with these lines on standard input.
fn script(lines: &str, address: &str, args: &[&str]) -> Exited {
    run_reading(lines, &[&["chat", "--address", address], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scripts_lines_are_questions_in_one_new_thread() {
    let replies = [a_thread(), an_answer(WITH_CONTROLS), an_answer("Bəli.\n")];
    let (upstream, _bridge, address) = answering(replies).await;
    let about = ["--user-id", "u-1", "--language", "az"];
    let ended = script("Salam!\n\n  \r\nBəs sabah?", &address, &about);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(
        ended.stdout,
        format!("{WITH_CONTROLS}\nBəli.\n"),
        "piped text is not changed"
    );
    assert_eq!(ended.stderr, format!("· thread {THREAD}\n· plan\n· plan\n"));
    let question = |message| json!({"message": message, "user_id": "u-1", "language": "az", "thread_id": THREAD});
    assert_eq!(
        questions(&upstream),
        [question("Salam!"), question("Bəs sabah?")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_thread_is_continued_and_none_is_created() {
    let (upstream, _bridge, address) = answering([an_answer("Salam.")]).await;
    let ended = script("Salam!\n", &address, &["--thread-id", THREAD]);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), "Salam.\n"));
    assert_eq!(questions(&upstream)[0]["thread_id"], THREAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_threads_the_conversation_continues_and_warns_once() {
    let missing = Reply::json(404, json!({"detail": "Not Found"}));
    let replies = [missing, an_answer("Salam."), an_answer("Bəli.")];
    let (upstream, _bridge, address) = answering(replies).await;
    let ended = script("Salam!\nBəs sabah?\n", &address, &[]);
    assert_eq!((ended.code, &*ended.stdout), (Some(0), "Salam.\nBəli.\n"));
    let warnings = ended.stderr.matches("has no threads").count();
    assert_eq!(
        (warnings, ended.stderr.lines().count()),
        (1, 3),
        "{}",
        ended.stderr
    );
    let expected = [
        json!({"message": "Salam!"}),
        json!({"message": "Bəs sabah?"}),
    ];
    assert_eq!(questions(&upstream), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_answer_is_reported_and_the_exit_code_is_that_of_the_last_failure() {
    let unavailable = Reply::json(503, "{}");
    let replies = [a_thread(), unavailable, a_failure(), an_answer("Bəli.")];
    let (_upstream, _bridge, address) = answering(replies).await;
    let ended = script("a\nb\nc\n", &address, &[]);
    assert_eq!((ended.code, &*ended.stdout), (Some(77), "Bəli.\n"));
    for reason in ["(UPSTREAM_UNAVAILABLE)", "(UPSTREAM_STREAM_FAILED)"] {
        assert_eq!(ended.stderr.matches(reason).count(), 1, "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_no_thread_can_be_created_no_question_is_sent() {
    let (upstream, _bridge, address) = answering([Reply::json(503, "{}")]).await;
    let ended = script("Salam!\n", &address, &[]);
    assert_eq!((ended.code, &*ended.stdout), (Some(78), ""));
    assert!(
        ended.stderr.contains("(UPSTREAM_UNAVAILABLE)"),
        "{}",
        ended.stderr
    );
    assert!(questions(&upstream).is_empty());
}

/// A command with a pseudo-terminal.
struct Terminal(PtySession);

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let mut command = command(args);
        command.env("TERM", "xterm");
        Self(spawn_command(command, Some(TIMEOUT_MS)).expect("a terminal"))
    }

    /// Waits for this text on the screen, and returns the text before it. The session reads bytes as characters.
    fn wait_for(&mut self, text: &str) -> String {
        let bytes: String = text.bytes().map(char::from).collect();
        let before = self.0.exp_string(&bytes);
        before.unwrap_or_else(|error| panic!("no {text:?}: {error}"))
    }

    fn send_keys(&mut self, keys: &str) {
        self.0.send(keys).expect("it is open");
        self.0.flush().expect("it is open");
    }

    fn exit_code(mut self) -> i32 {
        self.0.exp_eof().expect("it ends");
        match self.0.process().wait().expect("it is our child") {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }
}

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const ENTER: &str = "\r";
const LEFT: &str = "\u{1b}[D";
const UP: &str = "\u{1b}[A";
const BACKSPACE: &str = "\u{7f}";

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_answer_and_not_the_conversation() {
    let endless = Reply::sse(sse_tokens(&["Suvarin"])).then_hold();
    let replies = [a_thread(), endless, an_answer("Salam."), an_answer("Xos.")];
    let (upstream, _bridge, address) = answering(replies).await;
    let mut chat = Terminal::start(&["chat", "--address", &address]);
    chat.wait_for("> ");
    chat.send_keys(&format!("bir{ENTER}"));
    chat.wait_for("Suvarin");
    chat.send_keys(CTRL_C);
    upstream.wait_for_close().await;
    chat.wait_for("(stopped)");
    chat.wait_for("> ");
    chat.send_keys(&format!("iki{ENTER}"));
    chat.wait_for("Salam.");
    chat.wait_for("> ");
    chat.send_keys(&format!("{UP}{UP}{BACKSPACE}{ENTER}")); // the first line, without its last letter
    chat.wait_for("Xos.");
    chat.wait_for("> ");
    chat.send_keys(CTRL_D);
    assert_eq!(chat.exit_code(), 0);
    let questions = questions(&upstream);
    let messages: Vec<_> = questions.iter().map(|it| &it["message"]).collect();
    assert_eq!(messages, ["bir", "iki", "bi"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn editing_handles_utf_8_and_ctrl_c_clears_a_line_before_it_ends_the_conversation() {
    let (upstream, _bridge, address) = answering([a_thread(), a_failure()]).await;
    let mut chat = Terminal::start(&["chat", "--address", &address]);
    chat.wait_for("> ");
    chat.send_keys(&format!("yox{CTRL_C}"));
    chat.send_keys(&format!("Şəkiğdə{LEFT}{LEFT}{BACKSPACE}{ENTER}"));
    chat.wait_for("(UPSTREAM_STREAM_FAILED)");
    chat.wait_for("> ");
    chat.send_keys(CTRL_C);
    assert_eq!(
        chat.exit_code(),
        0,
        "failures don't change it at a terminal"
    );
    assert_eq!(questions(&upstream)[0]["message"], "Şəkidə");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_text_does_not_control_the_terminal() {
    let replies = [
        an_answer(WITH_CONTROLS),
        a_thread(),
        an_answer(WITH_CONTROLS),
    ];
    let (_upstream, _bridge, address) = answering(replies).await;
    let mut stream = Terminal::start(&["stream", "Salam", "--address", &address]);
    stream.wait_for("[31mSu2Jvarın");
    assert_eq!(stream.exit_code(), 0);
    let mut chat = Terminal::start(&["chat", "--address", &address]);
    chat.wait_for("> ");
    chat.send_keys(&format!("Salam{ENTER}"));
    chat.wait_for("· plan\u{1b}[0m\r\u{1b}[2K[31mSu2Jvarın\r\n"); // the step is erased before the answer
    chat.wait_for("> ");
    chat.send_keys(CTRL_D);
    assert_eq!(chat.exit_code(), 0);
}

#[test]
fn a_failure_as_json_does_not_control_the_terminal() {
    let address = "http://owned\u{202e}\u{9b}2J";
    let mut failed = Terminal::start(&["invoke", "Salam", "--json", "--address", address]);
    failed.wait_for("http://owned2J");
    assert_eq!(failed.exit_code(), 64);
}
