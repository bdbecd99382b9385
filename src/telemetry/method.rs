//! The methods by which calls are counted, and their names.

/// A method by which calls are counted. The set is bounded, whatever callers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `alim.v1.GraphService/Invoke`
    Invoke,
    /// `alim.v1.GraphService/Stream`
    Stream,
    /// `alim.v1.ThreadService/CreateThread`
    CreateThread,
    /// `alim.v1.ThreadService/GetThread`
    GetThread,
    /// `alim.v1.ThreadService/DeleteThread`
    DeleteThread,
    /// `grpc.health.v1.Health/Check`
    HealthCheck,
    /// `grpc.health.v1.Health/Watch`
    HealthWatch,
    /// `ServerReflectionInfo` of either version
    Reflection,
    /// Anything else
    Unknown,
}

impl Method {
    /// The methods of `alim.v1`, each at the index of its discriminant.
    pub(crate) const OURS: [Self; 5] = [
        Self::Invoke,
        Self::Stream,
        Self::CreateThread,
        Self::GetThread,
        Self::DeleteThread,
    ];
    /// All of them, each at the index of its discriminant.
    pub(super) const ALL: [Self; 9] = [
        Self::Invoke,
        Self::Stream,
        Self::CreateThread,
        Self::GetThread,
        Self::DeleteThread,
        Self::HealthCheck,
        Self::HealthWatch,
        Self::Reflection,
        Self::Unknown,
    ];

    /// The method named by an HTTP/2 path.
    pub fn of(path: &str) -> Self {
        match path {
            "/alim.v1.GraphService/Invoke" => Self::Invoke,
            "/alim.v1.GraphService/Stream" => Self::Stream,
            "/alim.v1.ThreadService/CreateThread" => Self::CreateThread,
            "/alim.v1.ThreadService/GetThread" => Self::GetThread,
            "/alim.v1.ThreadService/DeleteThread" => Self::DeleteThread,
            "/grpc.health.v1.Health/Check" => Self::HealthCheck,
            "/grpc.health.v1.Health/Watch" => Self::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Reflection,
            _ => Self::Unknown,
        }
    }

    /// Whether it counts as a call of the API. Probes and tools do not: they would outnumber real calls.
    pub(super) fn is_api_call(self) -> bool {
        self.is_ours() || self == Self::Unknown
    }

    /// The labels `grpc_type`, `grpc_service` and `grpc_method`.
    pub fn labels(self) -> [&'static str; 3] {
        match self {
            Self::Invoke => ["unary", "alim.v1.GraphService", "Invoke"],
            Self::Stream => ["server_stream", "alim.v1.GraphService", "Stream"],
            Self::CreateThread => ["unary", "alim.v1.ThreadService", "CreateThread"],
            Self::GetThread => ["unary", "alim.v1.ThreadService", "GetThread"],
            Self::DeleteThread => ["unary", "alim.v1.ThreadService", "DeleteThread"],
            Self::HealthCheck => ["unary", "grpc.health.v1.Health", "Check"],
            Self::HealthWatch => ["server_stream", "grpc.health.v1.Health", "Watch"],
            Self::Reflection => ["bidi_stream", "grpc.reflection", "ServerReflectionInfo"],
            Self::Unknown => ["unknown", "unknown", "unknown"],
        }
    }

    /// Whether ALİM's agent answers it.
    pub(super) fn is_generation(self) -> bool {
        matches!(self, Self::Invoke | Self::Stream)
    }

    /// The full name in OpenTelemetry's conventions, and `_OTHER` for what no service has.
    pub(super) fn full_name(self) -> String {
        match self.labels() {
            [_, _, "unknown"] => "_OTHER".into(),
            [_, service, name] => format!("{service}/{name}"),
        }
    }

    /// The HTTP method and the route below the upstream's base, for span names.
    pub(super) fn route(self) -> (&'static str, &'static str) {
        match self {
            Self::Invoke => ("POST", "/graph/invoke"),
            Self::Stream => ("POST", "/graph/stream"),
            Self::CreateThread => ("POST", "/threads"),
            Self::GetThread => ("GET", "/threads/{thread_id}"),
            Self::DeleteThread => ("DELETE", "/threads/{thread_id}"),
            Self::HealthCheck | Self::HealthWatch | Self::Reflection | Self::Unknown => {
                ("_OTHER", "")
            }
        }
    }

    /// Whether it is a method of `alim.v1`, and not one of probes or tools.
    pub fn is_ours(self) -> bool {
        Self::OURS.contains(&self)
    }
}
