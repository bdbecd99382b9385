//! The generated types of `alim.v1` and the descriptor set that reflection serves; in [`rate_limit`], Envoy's rate limit service.
//!
//! `build.rs` generates the types from `.proto` files, which have their documentation. Only the conversion here is written by hand.
#![allow(missing_docs, unreachable_pub, clippy::all)]

pub mod codec;

/// The rate limit service that bridges share a quota by. Tests serve it; the bridge only asks.
pub mod rate_limit {
    tonic::include_proto!("envoy.service.ratelimit.v3");
}

tonic::include_proto!("alim.v1");

/// The contract as an encoded `google.protobuf.FileDescriptorSet`, comments included.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));

/// Both have the same question. Only a stream can also start a thread.
impl From<StreamRequest> for InvokeRequest {
    fn from(request: StreamRequest) -> Self {
        let StreamRequest {
            message,
            user_id,
            thread_id,
            farm_id,
            language,
            system_prompt_override,
            scenario_context,
            start_thread: _,
        } = request;
        Self {
            message,
            user_id,
            thread_id,
            farm_id,
            language,
            system_prompt_override,
            scenario_context,
        }
    }
}
