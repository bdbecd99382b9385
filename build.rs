//! Compiles `proto/` to messages, services and the descriptor set for reflection. It uses protox and not
//! protoc, so the build needs only Rust and a C compiler.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
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
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .codec_path("crate::pb::codec::SmallCodec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
