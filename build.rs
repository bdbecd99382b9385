//! Compiles `proto/` to messages, services and the descriptor set for reflection, and the protocol of the rate limit service, which
//! reflection does not show. It uses protox and not protoc, so the build needs only Rust and a C compiler.

use std::{env, error::Error, fs, path::PathBuf};

const RATE_LIMIT: &str = "src/quota/service/rate_limit.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed={RATE_LIMIT}");
    println!("cargo:rerun-if-changed=build.rs");

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files([
            "alim/v1/graph_service.proto",
            "alim/v1/thread_service.proto",
        ])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("descriptor_set.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    generate(&compiler)?;
    let mut rate_limit = protox::Compiler::new(["src/quota/service"])?;
    rate_limit.include_imports(true).open_file(RATE_LIMIT)?;
    generate(&rate_limit)
}

fn generate(compiler: &protox::Compiler) -> Result<(), Box<dyn Error>> {
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .codec_path("crate::pb::codec::SmallCodec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
