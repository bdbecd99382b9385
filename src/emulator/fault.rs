//! Faults that a caller requests with `scenario_context: {"emulator_fault": "<name>"}` to test its own
//! error handling. The table in the module's documentation says what each one does.

/// A requested fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The rate limit is used up.
    RateLimited,
    /// A proxy in front can't reach the backend.
    Unavailable,
    /// The backend rejects a value.
    BadValue,
    /// The backend raises an exception that nothing catches.
    Crashed,
    /// The call is accepted, and the agent fails.
    Agent(AgentFault),
}

/// A fault after the call was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AgentFault {
    /// The agent reports that it failed.
    Failed,
    /// The answer ends too early.
    Truncated,
    /// The answer never starts.
    Silent,
    /// One second for each token.
    Slow,
    /// The answer has an element that the guide does not document.
    UnknownEvent,
    /// The status is 200 and the body is empty.
    Empty,
}

/// Every fault, with the name that callers use.
const NAMES: [(&str, Fault); 10] = [
    ("rate_limited", Fault::RateLimited),
    ("unavailable", Fault::Unavailable),
    ("bad_value", Fault::BadValue),
    ("crashed", Fault::Crashed),
    ("agent_failed", Fault::Agent(AgentFault::Failed)),
    ("truncated", Fault::Agent(AgentFault::Truncated)),
    ("silent", Fault::Agent(AgentFault::Silent)),
    ("slow", Fault::Agent(AgentFault::Slow)),
    ("unknown_event", Fault::Agent(AgentFault::UnknownEvent)),
    ("empty", Fault::Agent(AgentFault::Empty)),
];

impl Fault {
    /// The fault of this name, if there is one.
    pub(super) fn parse(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find_map(|(known, fault)| (*known == name).then_some(*fault))
    }

    /// All the names, as pydantic lists what it expects: `'a', 'b' or 'c'`.
    pub(super) fn expected() -> String {
        let quoted = NAMES.map(|(name, _)| format!("'{name}'"));
        let (last, others) = quoted.split_last().expect("there is at least one name");
        format!("{} or {last}", others.join(", "))
    }
}
