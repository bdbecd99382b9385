//! Who sends spans and metrics: the resource that both signals share.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use uuid::Uuid;

/// The name of the service, unless the environment has one. The scope of spans and metrics has it too.
pub(super) const SERVICE: &str = "alim-bridge";

/// Distinguishes this process from others of the service, so that their metrics are not mixed up.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());

/// The SDK's resource, with `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. What they do not name has the bridge's own values.
pub(super) fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let found = Resource::builder().with_attribute(version.clone()).build();
    let name = found.get(&"service.name".into());
    let is_unnamed = name.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let mut builder = Resource::builder().with_attribute(version);
    if is_unnamed {
        builder = builder.with_service_name(SERVICE);
    }
    if found.get(&"service.instance.id".into()).is_none() {
        let instance = KeyValue::new("service.instance.id", INSTANCE.as_str());
        builder = builder.with_attribute(instance);
    }
    builder.build()
}
