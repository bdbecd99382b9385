//! What each reason means, who is responsible for it, and what to do: the texts of `docs/errors.md`.
//!
//! Codes, `sent` and pushback are not repeated here. The test maps samples of every failure, and writes what it finds into the
//! page beside these texts (`docs/generate`). The runbook groups the reasons by the same responsibility.

use crate::call::reason::Reason;

/// Who is responsible for a failure, and can end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// ALİM, or a proxy in front of it.
    Alim,
    /// Whoever runs the bridge.
    Operator,
    /// The caller.
    Caller,
    /// The caller was in a hurry, or ALİM slow.
    CallerOrAlim,
    /// A defect of the bridge.
    Bridge,
}

impl Fault {
    /// All of them, each with its heading in `docs/errors.md` and `docs/runbook.md`.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Alim, "ALİM's fault"),
        (Self::Operator, "The fault of whoever runs the bridge"),
        (Self::Caller, "The callers' fault"),
        (Self::CallerOrAlim, "The callers' or ALİM's fault"),
        (Self::Bridge, "The bridge's fault"),
    ];
}

/// One reason, in words.
#[derive(Debug)]
pub struct Entry {
    /// The reason.
    pub reason: Reason,
    /// Who is responsible for it.
    pub fault: Fault,
    /// What happened. If the reason has several codes, it says which is for what.
    pub meaning: &'static str,
    /// What the caller can do, and whoever runs the bridge.
    pub advice: &'static str,
}

const fn entry(reason: Reason, fault: Fault, meaning: &'static str, advice: &'static str) -> Entry {
    Entry {
        reason,
        fault,
        meaning,
        advice,
    }
}

/// Every reason, in the order of the page.
#[rustfmt::skip] // three lines per reason
pub const CATALOG: [Entry; Reason::ALL.len()] = [
    entry(Reason::UpstreamUnreachable, Fault::Alim,
        "No connection to ALİM, after `RETRIES` retries. Nothing was sent.",
        "Ask again. If it lasts, ALİM is down or `UPSTREAM_URL` is wrong."),
    entry(Reason::UpstreamUnavailable, Fault::Alim,
        "ALİM, or a proxy in front of it, answered 408, 425, 502 or 503.",
        "Ask again after the wait. Without one the call may have run, so ask again only if running twice does no harm."),
    entry(Reason::UpstreamTimeout, Fault::Alim,
        "A proxy in front of ALİM answered 504: it stopped waiting.",
        "Ask again only if running twice does no harm. That proxy's timeout should be above `INVOKE_TIMEOUT`."),
    entry(Reason::UpstreamFailed, Fault::Alim,
        "ALİM answered 500 or another 5xx. Today that is also its limit of 30 calls a minute.",
        "Do not ask again at once: ALİM counts rejected calls too. Report the request id. Set `UPSTREAM_QUOTA`."),
    entry(Reason::UpstreamInterrupted, Fault::Alim,
        "The connection to ALİM broke after the call was sent and before the whole answer.",
        "Ask again only if running twice does no harm."),
    entry(Reason::UpstreamStreamFailed, Fault::Alim,
        "ALİM sent an `error` event in the stream.",
        "The text so far is not complete. Report the request id."),
    entry(Reason::UpstreamStreamTruncated, Fault::Alim,
        "The stream ended without `done`.",
        "The text so far is not complete. Ask again only if running twice does no harm."),
    entry(Reason::UpstreamMalformedReply, Fault::Alim,
        "A 200 that can't be read; or a 400 that is not JSON, as a TLS port answers to `http://`.",
        "Check that `UPSTREAM_URL` leads to ALİM. Report the request id."),
    entry(Reason::UpstreamReplyTooLarge, Fault::Alim,
        "An answer above `MAX_REPLY_BYTES`, or an event above `MAX_EVENT_BYTES`.",
        "Ask for less. Raise the limit if callers accept as much."),
    entry(Reason::InitialTimeout, Fault::Alim,
        "No event within `STREAM_INITIAL_TIMEOUT`.",
        "ALİM is slow or hangs. Ask again only if running twice does no harm."),
    entry(Reason::IdleTimeout, Fault::Alim,
        "The stream was silent for `STREAM_IDLE_TIMEOUT`. Heartbeats count as life.",
        "The text so far is not complete. Ask again only if running twice does no harm."),
    entry(Reason::LifetimeExceeded, Fault::Alim,
        "The stream lasted longer than `STREAM_LIFETIME`.",
        "Read faster, or ask for less. Raise the setting if answers are meant to be so long."),
    entry(Reason::InvokeTimeout, Fault::Alim,
        "No whole reply within `INVOKE_TIMEOUT`.",
        "Ask for long answers by Stream."),

    entry(Reason::UpstreamCredentialsRejected, Fault::Operator,
        "ALİM rejects the bridge's key with 401 or 403.",
        "Put the right key in place. Callers can do nothing."),
    entry(Reason::UpstreamRedirected, Fault::Operator,
        "ALİM's address redirects. The bridge never follows, because the key would go along.",
        "Correct `UPSTREAM_URL`."),
    entry(Reason::UpstreamRouteMissing, Fault::Operator,
        "A 405, a 501, or a 404 about the path: FastAPI's own, one that is not JSON, or one where no thread was sent.",
        "Correct `UPSTREAM_URL`. An ALİM without threads answers so to `ThreadService` and `start_thread`."),
    entry(Reason::UpstreamRateLimited, Fault::Operator,
        "ALİM answered 429: the key's limit is used up.",
        "Ask again after the wait. Set `UPSTREAM_QUOTA`."),
    entry(Reason::QuotaExhausted, Fault::Operator,
        "`UPSTREAM_QUOTA` has no room within `QUOTA_WAIT` and the caller's deadline. Nothing was sent.",
        "Ask again after the wait, which is exact."),
    entry(Reason::BridgeSaturated, Fault::Operator,
        "`MAX_CALLS` are open, there is no memory for the request, or a connection has 16 health watches. Nothing was sent.",
        "Ask again: another bridge may have room. Run more bridges."),
    entry(Reason::BridgeDraining, Fault::Operator,
        "The bridge shuts down. It rejected the call (`sent` is `false`), or the call outlasted `DRAIN_TIMEOUT` (`true`).",
        "Ask again if `sent` is `false`: another bridge answers."),
    entry(Reason::OperatorCancelled, Fault::Operator,
        "An operator cancelled the call on the admin page.",
        "Ask why. If `sent` is `true`, ALİM may have run it."),

    entry(Reason::InvalidRequest, Fault::Caller,
        "A field is invalid. BadRequest names each.",
        "Correct the fields."),
    entry(Reason::MalformedRequest, Fault::Caller,
        "The bytes are no message of this method, or the content type is not gRPC's, or the HTTP method is not POST (HTTP status 405). Without exactly one message UNIMPLEMENTED; for a compressed one without `grpc-encoding` INTERNAL.",
        "Use stubs of this contract."),
    entry(Reason::RequestTooLarge, Fault::Caller,
        "The message is above `MAX_REQUEST_BYTES`, or the metadata above 16 KiB.",
        "Send less."),
    entry(Reason::MessageTimeout, Fault::Caller,
        "The request message was not whole within `MESSAGE_TIMEOUT`. Nothing was sent.",
        "Send the message at once, or use a faster network."),
    entry(Reason::MethodUnknown, Fault::Caller,
        "There is no such method.",
        "The contract is newer than the bridge: roll the bridge out first."),
    entry(Reason::EncodingUnsupported, Fault::Caller,
        "The message is compressed, and not by gzip.",
        "Use gzip, or no compression."),
    entry(Reason::CallerCredentialsMissing, Fault::Caller,
        "The caller sent no credentials.",
        "Send `authorization: Bearer KEY`, or `x-api-key` if `CREDENTIALS` is `caller`."),
    entry(Reason::CallerCredentialsRejected, Fault::Caller,
        "The bridge does not know the key or certificate. Or ALİM rejects the caller's own key: UNAUTHENTICATED for 401, PERMISSION_DENIED for 403.",
        "Use a key that the bridge, or ALİM, knows."),
    entry(Reason::CallerSaturated, Fault::Caller,
        "The caller has `max_open_calls` open. Nothing was sent.",
        "Ask again when one of them has ended."),
    entry(Reason::CallerRateLimited, Fault::Caller,
        "The caller has used up its `rate`. Nothing was sent.",
        "Ask again after the wait, which is exact."),
    entry(Reason::FieldNotAllowed, Fault::Caller,
        "The caller set a field that it may not set. BadRequest names it.",
        "Leave the field out, or allow it in the callers file."),
    entry(Reason::OriginRejected, Fault::Caller,
        "A page of an origin that `GRPC_WEB` does not list. The HTTP status is 403.",
        "List the origin, if the page is yours."),
    entry(Reason::CallerStalled, Fault::Caller,
        "The bridge was short of memory, and the caller had neither sent nor read anything for 5 s. Its stream was reset.",
        "Read the stream, or cancel it."),
    entry(Reason::UpstreamRejectedRequest, Fault::Caller,
        "INVALID_ARGUMENT: ALİM answered 400 with JSON, or 422, whose fields BadRequest names. FAILED_PRECONDITION: another 4xx.",
        "Correct the request."),
    entry(Reason::UpstreamNotFound, Fault::Caller,
        "ALİM answered 410, or 404 about a thread that was sent.",
        "Start a new thread."),
    entry(Reason::UpstreamConflict, Fault::Caller,
        "ALİM answered 409.",
        "Usually the thread is busy with another call: send one at a time."),
    entry(Reason::UpstreamPrecondition, Fault::Caller,
        "ALİM answered 412.",
        "Ask ALİM's people."),
    entry(Reason::UpstreamRequestTooLarge, Fault::Caller,
        "ALİM answered 413.",
        "Send less."),

    entry(Reason::CallerDeadline, Fault::CallerOrAlim,
        "The caller's deadline passed. Logs and metrics count a caller who leaves within 100 ms of it too.",
        "Set a longer deadline, or ask by Stream."),

    entry(Reason::BridgeFailed, Fault::Bridge,
        "The bridge panicked in this call.",
        "Report the request id. Ask again only if running twice does no harm."),
];

#[cfg(test)]
#[path = "../../tests/it/support/page.rs"]
mod page;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use http::StatusCode;

    use super::*;
    use crate::{
        admission::Rejected,
        call::{Invalid, deadline::TimeoutKind, reply::ReplyHead},
        quota::{Exhausted, LimitKind, Limits},
        status::{Credentials, Failure, Protocol, mapping::Pushback},
        upstream::{
            Error,
            error::{Malformed, Part, Rejection},
        },
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn rejected(status: u16) -> Vec<Error> {
        let of = |is_route_missing, retry_after| {
            Error::Rejected(Box::new(Rejection {
                status: StatusCode::from_u16(status).expect("a status"),
                detail: None,
                violations: Vec::new(),
                is_route_missing,
                retry_after,
                head: ReplyHead::default(),
            }))
        };
        vec![
            of(false, None),
            of(status == 404, None),
            of(false, Some(SECOND)),
        ]
    }

    fn upstream_errors() -> Vec<Error> {
        let status = StatusCode::TEMPORARY_REDIRECT;
        let network = || {
            let client = reqwest::Client::builder().user_agent("\n");
            client.build().expect_err("no header value")
        };
        let mut errors = vec![
            Error::Unreachable(network()),
            Error::Interrupted(network()),
            Error::Redirected { status },
            Error::Malformed {
                why: Malformed::Empty,
            },
            Error::TooLarge {
                what: Part::Reply,
                limit: 1,
            },
            Error::StreamFailed { detail: None },
            Error::Truncated,
        ];
        errors.extend((400..600).flat_map(rejected));
        errors
    }

    /// A failure of every kind.
    fn samples() -> Vec<Failure> {
        use {Protocol::*, TimeoutKind::*};
        let limits = Limits {
            limit: 1,
            remaining: 0,
            reset: SECOND,
        };
        let rate = "2/s".parse().expect("a rate");
        let limit = 1;
        let mut failures = vec![
            Failure::Invalid(Invalid {
                violations: Vec::new(),
            }),
            Failure::CredentialsMissing,
            Failure::CredentialsRejected,
            Failure::FieldNotAllowed("system_prompt_override"),
            Failure::Exhausted(Exhausted {
                of: LimitKind::Key,
                rate,
                wait: SECOND,
                limits,
            }),
            Failure::MessageTimeout(SECOND),
            Failure::DrainTimeout,
            Failure::CallerStalled,
            Failure::OperatorCancelled,
            Failure::Panicked,
            Rejected::Saturated { limit }.into(),
            Rejected::Watches { limit }.into(),
            Rejected::Probes { limit }.into(),
            Rejected::CallerSaturated { limit }.into(),
            Rejected::CallerRateLimited { wait: SECOND }.into(),
            Rejected::Draining.into(),
        ];
        failures.extend([Caller, Invoke, Initial, Idle, Lifetime].map(Failure::from));
        let broken = [
            TooLarge,
            MethodUnknown,
            Malformed,
            Cardinality,
            CompressedFlag,
            ContentType,
            HttpMethod,
            Encoding,
            Origin,
        ];
        failures.extend(broken.map(|it| Failure::Protocol(it, String::new())));
        failures.extend(upstream_errors().into_iter().map(Failure::from));
        failures
    }

    /// Its spelling in the protocol: `RESOURCE_EXHAUSTED`.
    fn code_name(code: tonic::Code) -> String {
        let name = format!("{code:?}");
        let letters = name.char_indices().flat_map(|(at, letter)| {
            let gap = (at > 0 && letter.is_ascii_uppercase()).then_some('_');
            gap.into_iter().chain([letter.to_ascii_uppercase()])
        });
        letters.collect()
    }

    /// Code, `sent` and pushback of the samples that have this reason.
    fn mapped(reason: Reason) -> [String; 3] {
        let mut cells: [BTreeSet<String>; 3] = Default::default();
        for failure in samples() {
            for credentials in [Credentials::Service, Credentials::Caller] {
                let mapping = failure.mapping(credentials);
                if mapping.reason != reason {
                    continue;
                }
                cells[0].insert(code_name(mapping.code));
                cells[1].insert(format!("`{}`", failure.was_sent()));
                let pushback = match mapping.pushback {
                    Pushback::Never => "-1",
                    Pushback::Unset => "none",
                    Pushback::After(_) => "the wait",
                };
                cells[2].insert(pushback.to_owned());
            }
        }
        cells.map(|cell| Vec::from_iter(cell).join(" or "))
    }

    fn table(fault: Fault) -> String {
        let mut table = String::from(
            "| reason | code | what happened | `sent` | pushback | what to do |\n|---|---|---|---|---|---|\n",
        );
        for entry in CATALOG.iter().filter(|entry| entry.fault == fault) {
            let (name, [code, sent, pushback]) = (entry.reason.name(), mapped(entry.reason));
            assert!(!code.is_empty(), "no sample has the reason {name}");
            let (meaning, advice) = (entry.meaning, entry.advice);
            table +=
                &format!("| `{name}` | {code} | {meaning} | {sent} | {pushback} | {advice} |\n");
        }
        table
    }

    #[test]
    fn the_page_of_errors_is_what_the_code_does() {
        let parts = Fault::ALL.map(|(fault, title)| format!("### {title}\n\n{}", table(fault)));
        page::check("docs/errors.md", "reasons", &parts.join("\n"));
    }

    #[test]
    fn every_reason_has_one_entry() {
        let names: BTreeSet<_> = CATALOG.iter().map(|entry| entry.reason.name()).collect();
        assert_eq!(names, Reason::ALL.map(Reason::name).into());
    }
}
