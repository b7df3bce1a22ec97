//! The stock ssh, scp and sftp.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::log::Log;
use super::process::{Process, bound_command};
use super::{DEADLINE, Terminal};

/// A client to be run.
pub(crate) struct Client {
    program: &'static str,
    password: Option<String>,
    options: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    stdin: Input,
    patience: Duration,
}

#[derive(Clone)]
enum Input {
    Bytes(Vec<u8>),
    File(PathBuf),
}

impl Client {
    /// `PROGRAM -F config`
    pub(crate) fn plain(program: &'static str, config: &Path) -> Self {
        Self {
            program,
            password: None,
            options: vec!["-F".to_owned(), config.display().to_string()],
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Input::Bytes(Vec::new()),
            patience: DEADLINE,
        }
    }

    /// `ssh -F config -p PORT user@ADDRESS`
    pub(crate) fn ssh(config: &Path, gateway: SocketAddr, user: &str) -> Self {
        Self::plain("ssh", config)
            .option(&["-p", &gateway.port().to_string(), "-l", user])
            .arguments([gateway.ip().to_string()])
    }

    /// scp or sftp: `PROGRAM -F config -P PORT`
    pub(crate) fn copy(program: &'static str, config: &Path, gateway: SocketAddr) -> Self {
        Self::plain(program, config).option(&["-P", &gateway.port().to_string()])
    }

    /// `rsync -e "ssh -F config -p PORT"`
    pub(crate) fn rsync(config: &Path, gateway: SocketAddr) -> Self {
        let (config, port) = (config.display(), gateway.port());
        let ssh = format!("ssh -F {config} -p {port} -o BatchMode=yes");
        Self { options: vec!["-e".to_owned(), ssh], ..Self::plain("rsync", Path::new("")) }
    }

    /// Further options, before the host.
    pub(crate) fn option(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Further arguments, after the options.
    pub(crate) fn arguments(
        mut self,
        arguments: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// The command to run.
    pub(crate) fn command(self, command: &str) -> Self {
        self.arguments([command])
    }

    /// Logs in with this private key.
    pub(crate) fn identity(self, key: &Path) -> Self {
        self.option(&["-i", &key.display().to_string()])
    }

    /// Logs in with this password.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.option(&["-o", "NumberOfPasswordPrompts=1"])
    }

    /// A variable in the client's own environment; `SendEnv` passes it on.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// What it reads from standard input.
    pub(crate) fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = Input::Bytes(bytes.as_ref().to_owned());
        self
    }

    /// Reads its standard input from a file.
    pub(crate) fn stdin_file(mut self, path: &Path) -> Self {
        self.stdin = Input::File(path.to_owned());
        self
    }

    /// May take longer than everything else does.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn to_command(&self, interactive: bool) -> Command {
        let mut command = match &self.password {
            Some(password) => {
                let mut command = bound_command("sshpass");
                command.arg("-e").env("SSHPASS", password).arg(self.program);
                command
            }
            None => {
                let mut command = bound_command(self.program);
                // rsync passes it to ssh itself.
                if !interactive && self.program != "rsync" {
                    command.args(["-o", "BatchMode=yes"]);
                }
                command
            }
        };
        command.args(&self.options).args(&self.arguments);
        for name in ["SSH_AUTH_SOCK", "SSH_ASKPASS", "DISPLAY"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Finished {
        match &self.stdin {
            Input::Bytes(bytes) => run(self.to_command(false), bytes),
            Input::File(_) => self.start().finish(),
        }
    }

    /// Starts it, with pipes.
    #[track_caller]
    pub(crate) fn start(self) -> Running {
        let stdin = match &self.stdin {
            Input::Bytes(_) => Stdio::piped(),
            Input::File(path) => File::open(path).unwrap().into(),
        };
        Running::start(self.to_command(false), stdin, self.patience)
    }

    /// Starts it, with a pipe for standard output that nobody reads but the caller.
    #[track_caller]
    pub(crate) fn start_unread(self) -> Process {
        let mut command = self.to_command(false);
        Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()))
    }

    /// Starts it on a terminal of 80 by 24.
    #[track_caller]
    pub(crate) fn on_terminal(self) -> Terminal {
        Terminal::open(&mut self.to_command(true))
    }
}

/// A client that runs.
pub(crate) struct Running {
    description: String,
    /// The process; its `stdin` is a pipe, `None` once closed.
    pub(crate) process: Process,
    /// Its standard output so far.
    pub(crate) stdout: Log,
    /// Its standard error so far.
    pub(crate) stderr: Log,
    patience: Duration,
}

impl Running {
    #[track_caller]
    fn start(mut command: Command, stdin: Stdio, patience: Duration) -> Self {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let stdout = Log::collect(process.stdout.take().unwrap());
        let stderr = Log::collect(process.stderr.take().unwrap());
        Self { description: format!("{command:?}"), process, stdout, stderr, patience }
    }

    /// Writes to its standard input.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.process.stdin.as_mut().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    /// Waits until its standard output has `text`.
    #[track_caller]
    pub(crate) fn expect_stdout(&self, text: &str) {
        let found = self.stdout.wait_for(0, DEADLINE, |out| super::log::end_of(out, text));
        assert!(found.is_some(), "{} never wrote {text:?}\n{}", self.description, self.so_far());
    }

    /// Waits until its standard error has `text`.
    #[track_caller]
    pub(crate) fn expect_stderr(&self, text: &str) {
        let found = self.stderr.wait_for(0, DEADLINE, |out| super::log::end_of(out, text));
        assert!(found.is_some(), "{} never wrote {text:?}\n{}", self.description, self.so_far());
    }

    fn so_far(&self) -> String {
        format!("stdout: {}\nstderr: {}", self.stdout.text(), self.stderr.text())
    }

    /// Kills the client: to the gateway, its connection is lost.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Closes its standard input and waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        self.process.stdin = None;
        let Some(status) = self.process.wait(self.patience) else {
            self.process.kill();
            panic!("{} does not end\n{}", self.description, self.so_far());
        };
        self.stdout.wait_for_end(DEADLINE);
        self.stderr.wait_for_end(DEADLINE);
        Finished {
            description: self.description,
            code: status.code(),
            stdout: self.stdout.bytes(),
            stderr: self.stderr.text(),
        }
    }
}

/// Runs `command` to its end, with `stdin` as its standard input.
#[track_caller]
pub(crate) fn run(command: Command, stdin: &[u8]) -> Finished {
    let mut running = Running::start(command, Stdio::piped(), DEADLINE);
    let mut pipe = running.process.stdin.take().unwrap();
    let input = stdin.to_owned();
    let writer = thread::spawn(move || {
        // The program may end without reading everything; its exit code tells.
        pipe.write_all(&input).ok();
    });
    let finished = running.finish();
    writer.join().unwrap();
    finished
}

/// How a program ended and what it wrote.
pub(crate) struct Finished {
    description: String,
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// It exited with `code`.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// It exited with 0.
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        self.expect_code(0)
    }

    /// Its standard output is exactly `text`.
    #[track_caller]
    pub(crate) fn expect_stdout(self, text: &str) -> Self {
        assert_eq!(self.text(), text, "{self:?}");
        self
    }

    /// Its standard error is exactly `text`.
    #[track_caller]
    pub(crate) fn expect_stderr(self, text: &str) -> Self {
        assert_eq!(self.stderr, text, "{self:?}");
        self
    }

    /// Its standard error has each of `words`, in whatever case.
    #[track_caller]
    pub(crate) fn expect_stderr_with(self, words: &[&str]) -> Self {
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(stderr.contains(&word.to_lowercase()), "no {word:?} in the stderr of {self:?}");
        }
        self
    }

    /// Standard error is one line of the gateway's own.
    #[track_caller]
    pub(crate) fn expect_one_gateway_line(self) -> Self {
        let mut lines = self.stderr.lines();
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with("waltgate: ") && lines.next().is_none(), "{self:?}");
        self
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\nexit code {:?}", self.description, self.code)?;
        let text = self.text();
        let shown: String = text.chars().take(2000).collect();
        writeln!(f, "stdout ({} bytes): {shown}", self.stdout.len())?;
        write!(f, "stderr: {}", self.stderr)
    }
}
