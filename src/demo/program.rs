//! Programs of the machine that the demonstration is made of.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a program may take to end, or to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a program was of no use.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be run at all.
    #[error("cannot run {program}: {source}; `make demo` installs what is needed")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// Which.
        program: String,
        /// How.
        status: ExitStatus,
        /// What it said last.
        output: String,
    },
    /// It did not do its part in time.
    #[error("{program} is not {what} after {} s: {output}", PATIENCE.as_secs())]
    TimedOut {
        /// Which.
        program: String,
        /// "ready" or "done".
        what: &'static str,
        /// What it said last.
        output: String,
    },
}

/// A command without standard input, out of reach of the terminal's ctrl-C, and killed if it is
/// abandoned.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

/// A script of the demonstration's own, run by sh(1) under `unshare` with these options. It dies
/// with the demonstration, in whatever way that ends.
pub(super) fn script_in_namespaces(options: &[&str], text: &str) -> Command {
    let mut command = command("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]).args(options).args([
        "sh",
        "-c",
        text,
        "waltgate-demo",
    ]);
    command
}

/// Runs a program that must end with success.
pub(super) async fn run_to_end(command: Command) -> Result<(), ProgramError> {
    run_for_output(command).await.map(drop)
}

/// The same, for what it writes.
pub(super) async fn run_for_output(mut command: Command) -> Result<Vec<u8>, ProgramError> {
    let program = name(&command);
    let finished = timeout(PATIENCE, command.output()).await.map_err(|_| {
        ProgramError::TimedOut { program: program.clone(), what: "done", output: String::new() }
    })?;
    let output =
        finished.map_err(|source| ProgramError::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let output_line = said.lines().last().unwrap_or_default().to_owned();
    Err(ProgramError::Failed { program, status: output.status, output: output_line })
}

/// A program that runs until it is ended.
pub(super) struct Service {
    child: Child,
}

impl Service {
    /// Starts it and waits for a line on its standard error that `is_ready` takes. What it writes
    /// later is read and dropped.
    pub(super) async fn start(
        mut command: Command,
        program: &str,
        is_ready: fn(&str) -> bool,
    ) -> Result<Self, ProgramError> {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ProgramError::Start { program: name(&command), source })?;
        let mut service = Self { child };
        let Some(stderr) = service.child.stderr.take() else {
            return Ok(service);
        };
        let mut stderr = BufReader::new(stderr);
        let mut last = String::new();
        match timeout(PATIENCE, wait_for_line(&mut stderr, is_ready, &mut last)).await {
            Ok(true) => {
                tokio::spawn(drain(stderr));
                Ok(service)
            }
            Ok(false) => {
                let program = program.to_owned();
                match service.child.wait().await {
                    Ok(status) => Err(ProgramError::Failed { program, status, output: last }),
                    Err(source) => Err(ProgramError::Start { program, source }),
                }
            }
            Err(_) => {
                service.kill().await;
                let program = program.to_owned();
                Err(ProgramError::TimedOut { program, what: "ready", output: last })
            }
        }
    }

    /// Kills it.
    pub(super) async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "a program of the demonstration cannot be killed");
        }
    }
}

/// Reads lines until one is taken; false: the end came first. `last` keeps the last line.
async fn wait_for_line(
    lines: &mut (impl AsyncBufReadExt + Unpin),
    is_taken: fn(&str) -> bool,
    last: &mut String,
) -> bool {
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return false,
        }
        String::from_utf8_lossy(&line).trim_end().clone_into(last);
        if is_taken(last) {
            return true;
        }
    }
}

async fn drain(mut source: impl AsyncRead + Unpin) {
    if let Err(error) = tokio::io::copy(&mut source, &mut tokio::io::sink()).await {
        tracing::debug!(%error, "a program's log ended early");
    }
}

fn name(command: &Command) -> String {
    command.as_std().get_program().to_string_lossy().into_owned()
}
