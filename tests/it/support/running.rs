//! Runs the built command as a child process. Tests wait for a line of its output or for its exit, never for
//! a fixed time. The drop of a [`Running`] kills the child by its id.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

/// The command as it was built for these tests.
const BUILT: &str = env!("CARGO_BIN_EXE_alim-bridge");

/// The timeout of every wait: far longer than a busy machine needs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running command.
pub(crate) struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// The exit code and output of a command.
pub(crate) struct Exited {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One output stream.
struct Output {
    lines: Receiver<String>,
    read: String,
}

/// The command with these arguments, and without `ALIM_` and `OTEL_` variables.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BUILT);
    clean(&mut command);
    command.args(args);
    command
}

fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ALIM_") || text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
}

/// Starts the command with these arguments, and no `ALIM_` and `OTEL_` variables except these.
pub(crate) fn start(args: &[&str], variables: &[(&str, &str)]) -> Running {
    start_reading(Stdio::null(), args, variables)
}

/// Starts it with this limit on open files.
pub(crate) fn start_with_file_limit(
    files: u32,
    args: &[&str],
    variables: &[(&str, &str)],
) -> Running {
    let mut shell = Command::new("sh");
    clean(&mut shell);
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
    shell.arg(BUILT).args(args);
    with_stderr(spawn(shell, Stdio::null(), variables))
}

/// Starts it, and returns its standard error unread.
pub(crate) fn start_unread(args: &[&str], variables: &[(&str, &str)]) -> (Running, ChildStderr) {
    spawn(command(args), Stdio::null(), variables)
}

/// Starts it with both outputs on one pipe. Reads the pipe only up to the line with the address.
pub(crate) fn start_on_one_pipe(
    args: &[&str],
    variables: &[(&str, &str)],
) -> (Running, String, impl Read + use<>) {
    let (pipe, both) = std::io::pipe().expect("a pipe");
    let mut command = command(args);
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command.stdout(both.try_clone().expect("open")).stderr(both);
    let child = command.spawn().expect("the command was built");
    drop(command); // closes our end of the pipe
    let mut pipe = BufReader::new(pipe);
    let mut line = String::new();
    while !line.starts_with("alim-bridge listening on ") {
        line.clear();
        assert!(pipe.read_line(&mut line).expect("UTF-8") > 0, "it ended");
    }
    let address = line.trim_end().rsplit(' ').next().expect("a last word");
    let running = Running {
        stdout: Output::of(std::io::empty()),
        stderr: Output::of(std::io::empty()),
        child,
    };
    (running, address.to_owned(), pipe)
}

fn start_reading(input: Stdio, args: &[&str], variables: &[(&str, &str)]) -> Running {
    with_stderr(spawn(command(args), input, variables))
}

fn with_stderr((mut running, stderr): (Running, ChildStderr)) -> Running {
    running.stderr = Output::of(stderr);
    running
}

fn spawn(mut command: Command, input: Stdio, variables: &[(&str, &str)]) -> (Running, ChildStderr) {
    command.envs(variables.iter().copied()).stdin(input);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command was built");
    let stderr = child.stderr.take().expect("a pipe");
    let running = Running {
        stdout: Output::of(child.stdout.take().expect("a pipe")),
        stderr: Output::of(std::io::empty()),
        child,
    };
    (running, stderr)
}

/// Runs the command until it exits.
pub(crate) fn run(args: &[&str]) -> Exited {
    start(args, &[]).wait()
}

/// Runs the command with this standard input.
pub(crate) fn run_reading(input: &str, args: &[&str]) -> Exited {
    let mut running = start_reading(Stdio::piped(), args, &[]);
    let mut pipe = running.child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes())
        .expect("it reads its input");
    drop(pipe);
    running.wait()
}

impl Running {
    /// Waits for a line on standard output that contains `part`, and returns it.
    pub(crate) fn wait_for_line(&mut self, part: &str) -> String {
        let line = self.stdout.line(part);
        line.unwrap_or_else(|| panic!("no {part:?}:\n{}{}", self.stdout.read, self.stderr.all()))
    }

    /// Waits for a line on standard error that contains `part`, and returns it.
    pub(crate) fn wait_for_log(&mut self, part: &str) -> String {
        let line = self.stderr.line(part);
        line.unwrap_or_else(|| panic!("no {part:?}:\n{}", self.stderr.read))
    }

    /// Waits for the address that it listens on.
    pub(crate) fn address(&mut self) -> String {
        let line = self.wait_for_line(" listening on ");
        line.rsplit(' ').next().expect("a last word").to_owned()
    }

    /// Takes the next line on standard error, if there is one already.
    pub(crate) fn next_log(&mut self) -> Option<String> {
        self.stderr.lines.try_recv().ok()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `TERM`, by its id.
    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("sh");
        kill.args(["-c", "kill -s \"$0\" \"$1\"", name]);
        let sent = kill.arg(self.child.id().to_string()).status();
        assert!(sent.expect("sh").success(), "{name} was not sent");
    }

    /// Sends SIGTERM and waits for the exit.
    pub(crate) fn stop(self) -> Exited {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the exit.
    pub(crate) fn wait(mut self) -> Exited {
        let stdout = self.stdout.all();
        let stderr = self.stderr.all();
        let code = self.child.wait().expect("it is our child").code();
        Exited {
            code,
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    /// Kills it by its id. Has no effect if it has exited.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                if sender.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let read = String::new();
        Self { lines, read }
    }

    /// The next line that contains `part`. `None` if the stream closes or times out before.
    fn line(&mut self, part: &str) -> Option<String> {
        loop {
            let line = self.lines.recv_timeout(TIMEOUT).ok()?;
            self.read += &line;
            if line.contains(part) {
                return Some(line.trim_end().to_owned());
            }
        }
    }

    /// The whole output, after the stream has closed.
    fn all(&mut self) -> String {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        loop {
            match self.lines.recv_timeout(TIMEOUT) {
                Ok(line) => self.read += &line,
                Err(Disconnected) => return std::mem::take(&mut self.read),
                Err(Timeout) => panic!("it still runs, after:\n{}", self.read),
            }
        }
    }
}
