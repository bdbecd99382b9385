//! The servers: the emulator and the bridges, each a process on a port that the system chose.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::AnyError;

const KEY: &str = "dev-api-key-change-in-production";

/// A process that printed its address.
pub(crate) struct Server {
    /// Host and port, or a URL for the emulator.
    pub(crate) address: String,
    process: Child,
}

/// The files of a certificate for `localhost`.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    chain: PathBuf,
    key: PathBuf,
}

impl Server {
    pub(crate) async fn emulator(bridge: &Path, token_delay: &str) -> Result<Self, AnyError> {
        let mut command = Command::new(bridge);
        command.args([
            "emulate",
            "--listen",
            "127.0.0.1:0",
            "--token-delay",
            token_delay,
        ]);
        command
            .args(["--log", "warn"])
            .env("LLVM_PROFILE_FILE", "/dev/null");
        Self::start(command).await
    }

    pub(crate) async fn bridge(
        bridge: &Path,
        upstream: &str,
        settings: &[(&str, String)],
    ) -> Result<Self, AnyError> {
        let mut command = Command::new(bridge);
        command
            .arg("serve")
            .env("ALIM_BRIDGE_LISTEN", "127.0.0.1:0")
            .env("ALIM_BRIDGE_ADMIN_LISTEN", "off")
            .env("ALIM_BRIDGE_UPSTREAM_URL", format!("{upstream}/api/v1"))
            .env("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY)
            .stderr(Stdio::null()); // the access log is written, as JSON
        for (name, value) in settings {
            command.env(format!("ALIM_BRIDGE_{name}"), value);
        }
        Self::start(command).await
    }

    async fn start(mut command: Command) -> Result<Self, AnyError> {
        let mut process = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = process.stdout.take().ok_or("no standard output")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let line = line.ok_or("it ended before it listened")?;
        let address = line.rsplit(' ').next().ok_or("no address")?.to_owned();
        Ok(Self { address, process })
    }

    /// Stops the process, and waits until it has written its profile.
    pub(crate) async fn stop(mut self) -> Result<(), AnyError> {
        let id = self.process.id().ok_or("it ended too early")?;
        let killed = Command::new("sh")
            .args(["-c", &format!("kill {id}")])
            .status()
            .await?;
        let ended = self.process.wait().await?;
        match killed.success() && ended.success() {
            true => Ok(()),
            false => Err(format!("it ended with {ended}").into()),
        }
    }
}

impl Certificate {
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        [
            ("TLS_CERT_FILE", self.chain.display().to_string()),
            ("TLS_KEY_FILE", self.key.display().to_string()),
        ]
    }
}

pub(crate) fn certificate(folder: &Path) -> Result<Certificate, AnyError> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    fs::write(&chain, made.cert.pem())?;
    fs::write(&key, made.signing_key.serialize_pem())?;
    Ok(Certificate {
        pem: made.cert.pem(),
        chain,
        key,
    })
}
