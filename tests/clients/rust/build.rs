//! Makes stubs from proto/; protox stands in for protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "../../../proto";
    println!("cargo:rerun-if-changed={PROTO}");
    let files = protox::compile(
        [
            "alim/v1/graph_service.proto",
            "alim/v1/thread_service.proto",
        ],
        [PROTO],
    )?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(files)?;
    Ok(())
}
