//! The access log: one record per call. `ACCESS_LOG` selects the records, independent of the filter `LOG`.
//!
//! A record contains names and figures only: never a message, a reply or a key. It uses the queue and the two
//! formats of the application log, but not tracing: formatting a record with tracing costs a tenth of an Invoke's
//! instructions.

use std::{
    cell::RefCell,
    io::Write,
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use tracing_appender::non_blocking::NonBlocking;

use super::{Method, codes};
use crate::sanitize;

/// Which calls are recorded: the setting `ACCESS_LOG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Every call except those of health and reflection, which arrive every few seconds.
    On,
    /// Every call, those of health and reflection too.
    All,
    /// The calls of [`AccessLog::On`] that did not end with OK.
    Errors,
    /// No calls.
    Off,
}

impl AccessLog {
    fn records(self, call: &Call<'_>) -> bool {
        let is_api_call = call.method.is_api_call();
        match self {
            Self::On => is_api_call,
            Self::All => true,
            Self::Errors => is_api_call && call.code != codes::go_name(0),
            Self::Off => false,
        }
    }
}

/// The destination of records.
#[derive(Debug)]
struct Sink {
    queue: NonBlocking,
    is_json: bool,
    access_log: AccessLog,
}

static SINK: OnceLock<Sink> = OnceLock::new();

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Sends records to `queue`. Without this call, none are written. Later calls in the same process have no effect.
pub(super) fn init(queue: NonBlocking, is_json: bool, access_log: AccessLog) {
    let _ = SINK.set(Sink {
        queue,
        is_json,
        access_log,
    });
}

/// The contents of a call's record.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) code: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) upstream_status: Option<u16>,
    pub(super) upstream_request_id: Option<&'a str>,
    pub(super) duration: Duration,
    /// The time that the caller allowed.
    pub(super) deadline: Option<Duration>,
    pub(super) first_token: Option<Duration>,
    pub(super) tokens: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) request_id: &'a str,
    pub(super) trace_id: Option<&'a str>,
    pub(super) caller: Option<&'a str>,
    pub(super) peer: Option<SocketAddr>,
}

enum Value<'a> {
    Text(&'a str),
    Address(SocketAddr),
    Count(u64),
    /// In milliseconds, rounded to the microsecond.
    Time(Duration),
}

impl Call<'_> {
    /// The fields by name, in the order of the line. Dashboards depend on the names.
    fn fields(&self) -> impl Iterator<Item = (&'static str, Value<'_>)> {
        let tokens = (self.method == Method::Stream).then_some(self.tokens);
        let fields = [
            ("rpc.method", Some(Value::Text(self.method.labels()[2]))),
            ("grpc.code", Some(Value::Text(self.code))),
            ("reason", self.reason.map(Value::Text)),
            (
                "upstream.status",
                self.upstream_status.map(|it| Value::Count(it.into())),
            ),
            (
                "upstream.request_id",
                self.upstream_request_id.map(Value::Text),
            ),
            ("duration_ms", Some(Value::Time(self.duration))),
            ("deadline_ms", self.deadline.map(Value::Time)),
            ("ttft_ms", self.first_token.map(Value::Time)),
            ("tokens", tokens.map(Value::Count)),
            ("bytes_in", Some(Value::Count(self.bytes_in))),
            ("bytes_out", Some(Value::Count(self.bytes_out))),
            ("request_id", Some(Value::Text(self.request_id))),
            ("trace_id", self.trace_id.map(Value::Text)),
            ("caller", self.caller.map(Value::Text)),
            ("peer", self.peer.map(Value::Address)),
        ];
        let fields = fields.into_iter();
        fields.filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Writes the record of a call that has ended, if `ACCESS_LOG` selects it.
pub(super) fn record(call: &Call<'_>) {
    let Some(sink) = SINK.get().filter(|sink| sink.access_log.records(call)) else {
        return;
    };
    LINE.with_borrow_mut(|line| {
        line.clear();
        format(line, call, SystemTime::now(), sink.is_json);
        let _ = sink.queue.clone().write_all(line); // lines that exceed the queue are dropped and counted
    });
}

/// Formats the line as tracing would, in either format.
fn format(line: &mut Vec<u8>, call: &Call<'_>, now: SystemTime, is_json: bool) {
    let now = humantime::format_rfc3339_micros(now);
    if is_json {
        write(
            line,
            format_args!(r#"{{"timestamp":"{now}","level":"INFO","message":"call ended""#),
        );
        for (name, value) in call.fields() {
            write(line, format_args!(r#","{name}":"#));
            value.write(line);
        }
        line.extend_from_slice(br#","target":"alim_bridge::call"}"#);
    } else {
        write(
            line,
            format_args!("{now}  INFO alim_bridge::call: call ended"),
        );
        for (name, value) in call.fields() {
            write(line, format_args!(" {name}="));
            match value {
                Value::Text(text) => Value::Text(&sanitize::line(text)).write(line),
                other => other.write(line),
            }
        }
    }
    line.push(b'\n');
}

fn write(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a Vec takes all");
}

impl Value<'_> {
    /// JSON in both formats: quoted text keeps a record on one line.
    fn write(&self, line: &mut Vec<u8>) {
        let written = match self {
            Self::Text(text) => serde_json::to_writer(line, text),
            Self::Address(address) => serde_json::to_writer(line, address),
            Self::Count(count) => serde_json::to_writer(line, count),
            Self::Time(time) => {
                let millis = (time.as_secs_f64() * 1e6).round() / 1e3;
                serde_json::to_writer(line, &millis)
            }
        };
        written.expect("text and figures are JSON");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: Method, code: &'static str) -> Call<'static> {
        Call {
            method,
            code,
            reason: None,
            upstream_status: Some(200),
            upstream_request_id: None,
            duration: Duration::from_micros(5_000),
            deadline: Some(Duration::from_secs(20)),
            first_token: None,
            tokens: 3,
            bytes_in: 7,
            bytes_out: 40,
            request_id: "a \"b\"\u{1b}[31m\n",
            trace_id: None,
            caller: Some("orders"),
            peer: Some(([127, 0, 0, 1], 40_000).into()),
        }
    }

    fn line(call: &Call<'_>, is_json: bool) -> String {
        let mut line = Vec::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(1);
        format(&mut line, call, now, is_json);
        String::from_utf8(line).expect("UTF-8")
    }

    #[test]
    fn a_record_is_one_line_in_both_formats_whatever_it_contains() {
        let call = call(Method::Stream, "OK");
        let id = r#""a \"b\"\u001b[31m\n""#;
        assert_eq!(
            line(&call, true),
            format!(
                r#"{{"timestamp":"1970-01-01T00:00:00.000001Z","level":"INFO","message":"call ended","rpc.method":"Stream","grpc.code":"OK","upstream.status":200,"duration_ms":5.0,"deadline_ms":20000.0,"tokens":3,"bytes_in":7,"bytes_out":40,"request_id":{id},"caller":"orders","peer":"127.0.0.1:40000","target":"alim_bridge::call"}}"#
            ) + "\n"
        );
        assert_eq!(
            line(&call, false),
            String::from(
                r#"1970-01-01T00:00:00.000001Z  INFO alim_bridge::call: call ended rpc.method="Stream" grpc.code="OK" upstream.status=200 duration_ms=5.0 deadline_ms=20000.0 tokens=3 bytes_in=7 bytes_out=40 request_id="a \"b\" [31m " caller="orders" peer="127.0.0.1:40000""#
            ) + "\n"
        );
    }

    #[test]
    fn each_setting_records_only_its_calls() {
        let calls = [
            (Method::Invoke, "OK"),
            (Method::Invoke, "Canceled"),
            (Method::Unknown, "Unimplemented"),
            (Method::HealthCheck, "OK"),
            (Method::Reflection, "Unavailable"),
        ];
        for (choice, expected) in [
            (AccessLog::On, [true, true, true, false, false]),
            (AccessLog::All, [true; 5]),
            (AccessLog::Errors, [false, true, true, false, false]),
            (AccessLog::Off, [false; 5]),
        ] {
            let recorded = calls.map(|(method, code)| choice.records(&call(method, code)));
            assert_eq!(recorded, expected, "{choice:?}");
        }
    }
}
