//! Compiles the protos of connectrpc.com/conformance, a Go module. `CONFORMANCE_PROTOS` is the folder that has them.

use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=CONFORMANCE_PROTOS");
    println!("cargo:rerun-if-changed=build.rs");
    let protos = env::var("CONFORMANCE_PROTOS")
        .map_err(|_| "CONFORMANCE_PROTOS is not set: tests/conformance/suites/connect sets it")?;
    let mut compiler = protox::Compiler::new([protos])?;
    compiler.include_imports(true).open_files([
        "connectrpc/conformance/v1/service.proto",
        "connectrpc/conformance/v1/server_compat.proto",
    ])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .build_client(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
