//! Faults that a caller orders, with `scenario_context: {"emulator_fault": "<name>"}`, so that it
//! can see its own handling of them. The table in the module's documentation says what each does.

/// A fault on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The rate limit is used up.
    RateLimited,
    /// A proxy in front finds nothing behind it.
    Unavailable,
    /// The backend stumbles over a value.
    BadValue,
    /// The backend fails in a way that nobody thought of.
    Crashed,
    /// The call gets in, and something goes wrong behind.
    Agent(AgentFault),
}

/// What can go wrong once the call is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AgentFault {
    /// The agent says that it failed.
    Failed,
    /// The answer ends too early.
    Truncated,
    /// No byte of an answer ever comes.
    Silent,
    /// A second for each token.
    Slow,
    /// Something stands in the answer that the guide doesn't know.
    UnknownEvent,
    /// The head says 200, and nothing follows.
    Empty,
}

/// Every fault by the name a caller uses.
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
    /// The fault of that name, if there is one.
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
