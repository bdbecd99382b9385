//! The built command as a child: what it says is read line by line, and a test waits for a line, for
//! the end, never for time to pass. A child is killed by its id when it is dropped.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

/// The command as it was built for these tests.
const BUILT: &str = env!("CARGO_BIN_EXE_alim-bridge");

/// How long a test waits for what must happen: far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// A command that ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One of its outputs.
struct Output {
    lines: Receiver<String>,
    told: String,
}

/// The command with these arguments, and with no variable of ours.
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

/// Starts the command with these arguments, and with no variable of ours but these.
pub(crate) fn start(args: &[&str], variables: &[(&str, &str)]) -> Running {
    start_reading(Stdio::null(), args, variables)
}

/// Starts it where no more than `files` may be open at a time.
pub(crate) fn start_among(files: u32, args: &[&str], variables: &[(&str, &str)]) -> Running {
    let mut shell = Command::new("sh");
    clean(&mut shell);
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
    shell.arg(BUILT).args(args);
    heard(spawn(shell, Stdio::null(), variables))
}

/// Starts it with a standard error that nobody reads, until the test does.
pub(crate) fn start_unread(args: &[&str], variables: &[(&str, &str)]) -> (Running, ChildStderr) {
    spawn(command(args), Stdio::null(), variables)
}

/// Starts it with both outputs on one pipe, which nobody reads beyond the line that tells its address.
pub(crate) fn start_on_one_pipe(
    args: &[&str],
    variables: &[(&str, &str)],
) -> (Running, String, impl Read + use<>) {
    let (pipe, both) = std::io::pipe().expect("a pipe");
    let mut command = command(args);
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command.stdout(both.try_clone().expect("open")).stderr(both);
    let child = command.spawn().expect("the command was built");
    drop(command); // and with it our end of the pipe
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
    heard(spawn(command(args), input, variables))
}

fn heard((mut running, stderr): (Running, ChildStderr)) -> Running {
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

/// Runs the command to its end.
pub(crate) fn run(args: &[&str]) -> Ended {
    start(args, &[]).ended()
}

/// Runs the command with this for its standard input.
pub(crate) fn run_reading(input: &str, args: &[&str]) -> Ended {
    let mut running = start_reading(Stdio::piped(), args, &[]);
    let mut pipe = running.child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("it reads");
    drop(pipe);
    running.ended()
}

impl Running {
    /// Waits for a line on standard output that holds `part`, and gives it.
    pub(crate) fn says(&mut self, part: &str) -> String {
        let line = self.stdout.line(part);
        line.unwrap_or_else(|| panic!("no {part:?}:\n{}{}", self.stdout.told, self.stderr.all()))
    }

    /// Waits for a line on standard error that holds `part`, and gives it.
    pub(crate) fn logs(&mut self, part: &str) -> String {
        let line = self.stderr.line(part);
        line.unwrap_or_else(|| panic!("no {part:?}:\n{}", self.stderr.told))
    }

    /// The address that it says it listens on.
    pub(crate) fn address(&mut self) -> String {
        let line = self.says(" listening on ");
        line.rsplit(' ').next().expect("a last word").to_owned()
    }

    /// The next line on standard error, if there is one already; it is told by nothing else then.
    pub(crate) fn next_log(&mut self) -> Option<String> {
        self.stderr.lines.try_recv().ok()
    }

    /// Its id among the system's processes.
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

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stopped(self) -> Ended {
        self.signal("TERM");
        self.ended()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> Ended {
        let stdout = self.stdout.all();
        let stderr = self.stderr.all();
        let code = self.child.wait().expect("it is our child").code();
        Ended {
            code,
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    /// By its id; one that has ended is no longer there to be killed.
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
        let told = String::new();
        Self { lines, told }
    }

    /// The next line that holds `part`; none when it is closed, or silent for too long, before.
    fn line(&mut self, part: &str) -> Option<String> {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).ok()?;
            self.told += &line;
            if line.contains(part) {
                return Some(line.trim_end().to_owned());
            }
        }
    }

    /// All of it, once it is closed.
    fn all(&mut self) -> String {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.told += &line,
                Err(Disconnected) => return std::mem::take(&mut self.told),
                Err(Timeout) => panic!("it goes on, after:\n{}", self.told),
            }
        }
    }
}
