//! A session in a container: what runs, and its three ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use rustix::process::Signal;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, interval, sleep, timeout};

use super::container::{Container, Ending, Mode};
use super::engine::{
    EngineError, ExecSpec, OutputChunk, Process, ProcessOutput, ProcessState, ProcessStreams,
};
use super::lent::Lent;
use super::signals;
use crate::backend::{
    BackendSession, Control, ExitStatus, Gone, Output, OutputEvent, Program, SessionRequest, Stdin,
    WindowSize,
};

/// An engine has no call that waits for an exec. Its streams have ended already when this is
/// asked, so it is nearly always over at the first look; the pauses are for a program that closed
/// its output and goes on.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long after a program the end of its container may be seen, when it is what killed it.
const DEATH_NOTICE: Duration = Duration::from_secs(1);
/// For a shell that is process 1 to end when its client is gone.
const HANG_UP: Duration = Duration::from_secs(1);
/// For an engine to tell the process number of a program that runs, and how often it is asked.
const PID_KNOWN: Duration = Duration::from_secs(2);
const PID_LOOK: Duration = Duration::from_millis(20);
/// 128 + SIGKILL: what the programs of a dying container exit with.
const KILLED: u32 = 137;

/// Waits for one line, so that the terminal has its size before the program is started.
const AFTER_A_LINE: &str = "read -r go; ";
/// What a terminal shows of that line.
const ECHO_OF_THE_LINE: &[u8] = b"\r\n";

/// The program and its arguments for a request.
pub(super) fn argv(request: &SessionRequest, shell: &str) -> Vec<String> {
    let (script, argument) = match &request.program {
        Program::Exec(command) => match std::str::from_utf8(command) {
            Ok(command) => (r#"exec "$0" -c "$1""#, Some(command.to_owned())),
            // The engine's API has UTF-8 text only.
            Err(_) => (r#"exec "$0" -c "$(printf "$1")""#, Some(as_printf_format(command))),
        },
        Program::Shell | Program::Subsystem(_) => (r#"exec "$0""#, None),
    };
    let gate = if request.pty.is_some() { AFTER_A_LINE } else { "" };
    let mut argv =
        vec![shell.to_owned(), "-c".to_owned(), format!("{gate}{script}"), shell.to_owned()];
    argv.extend(argument);
    argv
}

/// A printf(1) format that prints these bytes.
fn as_printf_format(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'%' => "%%".to_owned(),
            b' '..=b'~' if *byte != b'\\' => char::from(*byte).to_string(),
            byte => format!("\\{byte:03o}"),
        })
        .collect()
}

/// The variables that a session takes over from its client.
pub(super) fn env(request: &SessionRequest) -> Vec<String> {
    let term = request
        .pty
        .iter()
        .map(|pty| ("TERM", pty.term.as_str()))
        .filter(|(_, term)| !term.is_empty());
    let locale = request.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(
        |(name, _)| {
            let is_name =
                |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            *name == "LANG" || name.strip_prefix("LC_").is_some_and(is_name)
        },
    );
    term.chain(locale)
        .filter(|(_, value)| !value.contains('\0'))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// Runs a request beside process 1.
pub(super) async fn start_beside(
    container: &Arc<Container>,
    request: &SessionRequest,
    lent: Lent,
) -> Result<BackendSession, EngineError> {
    let env = [env(request), lent.env().to_vec()].concat();
    let spec = ExecSpec {
        argv: argv(request, container.shell),
        env,
        working_dir: container.inspection.working_dir.to_owned(),
        tty: request.pty.is_some(),
    };
    let exec = container.engine().create_exec(&container.id, &spec).await?;
    let streams = container.engine().start_exec(&exec, spec.tty).await?;
    Ok(begin(container, Process::Exec(exec), request, streams, lent).await)
}

/// Takes over a process whose streams are connected. What is lent to it is taken back when its
/// output has been read.
pub(super) async fn begin(
    container: &Arc<Container>,
    process: Process,
    request: &SessionRequest,
    streams: ProcessStreams,
    lent: Lent,
) -> BackendSession {
    let mut stdin = streams.stdin;
    if let Some(pty) = &request.pty {
        if let Err(error) = container.engine().resize(&process, pty.size).await {
            tracing::debug!(%error, "initial size of a terminal");
        }
        if let Err(error) = stdin.write_all(b"\n").await {
            // It has ended already; its output says so.
            tracing::debug!(%error, "start of a program on a terminal");
        }
    }
    let closed = Arc::new(AtomicBool::new(false));
    BackendSession {
        stdin: Box::new(ImageStdin { writer: stdin, is_terminal: request.pty.is_some() }),
        control: Arc::new(ImageControl {
            container: Arc::clone(container),
            process: process.clone(),
            ended: Arc::clone(&closed),
        }),
        output: Box::new(ImageOutput {
            container: Arc::clone(container),
            process,
            source: streams.output,
            unwanted: if request.pty.is_some() { ECHO_OF_THE_LINE } else { b"" },
            stage: Stage::Output,
            ended: closed,
            _lent: lent,
        }),
        // Each session has a connection to the engine of its own.
        output_is_shared: false,
    }
}

struct ImageStdin {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    is_terminal: bool,
}

#[async_trait]
impl Stdin for ImageStdin {
    async fn write(&mut self, data: Bytes) -> Result<(), Gone> {
        self.writer.write_all(&data).await.map_err(|_| Gone)
    }

    async fn eof(&mut self) -> Result<(), Gone> {
        // A terminal has no end of input but the key for it; sshd(8) passes none on either.
        if self.is_terminal {
            return Ok(());
        }
        self.writer.shutdown().await.map_err(|_| Gone)
    }
}

struct ImageControl {
    container: Arc<Container>,
    process: Process,
    ended: Arc<AtomicBool>,
}

#[async_trait]
impl Control for ImageControl {
    async fn window_change(&self, size: WindowSize) -> Result<(), Gone> {
        let engine = self.container.engine();
        self.answer(engine.resize(&self.process, size).await)
    }

    async fn signal(&self, name: &str) -> Result<(), Gone> {
        let Some(signal) = signals::named(name) else {
            return Ok(());
        };
        match &self.process {
            Process::First(_) => self.answer(self.container.signal(name).await),
            Process::Exec(exec) => match self.started_state(exec).await {
                Ok(ProcessState::Running { host_pid }) => {
                    self.signal_group(host_pid, signal).await;
                    Ok(())
                }
                Ok(ProcessState::Exited(_)) => Err(Gone),
                Err(error) => self.answer(Err(error)),
            },
        }
    }

    async fn hang_up(&self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        if self.signal("HUP").await.is_err() {
            tracing::debug!("program had ended before its client");
            return;
        }
        // The kernel keeps signals that are not handled from process 1, pid_namespaces(7).
        if matches!(self.process, Process::First(_))
            && timeout(HANG_UP, self.container.ended()).await.is_err()
            && let Err(error) = self.container.signal("KILL").await
        {
            tracing::debug!(%error, "end of a program whose client is gone");
        }
    }
}

impl ImageControl {
    /// The state of an exec, with its process number if the engine tells it in time: it does some
    /// time after the program has begun to run, and announces it by no event.
    async fn started_state(&self, exec: &str) -> Result<ProcessState, EngineError> {
        let deadline = Instant::now() + PID_KNOWN;
        let mut looks = interval(PID_LOOK);
        loop {
            looks.tick().await;
            match self.container.engine().exec_state(exec).await {
                Ok(ProcessState::Running { host_pid: None }) if Instant::now() < deadline => {}
                state => return state,
            }
        }
    }

    fn answer(&self, result: Result<(), EngineError>) -> Result<(), Gone> {
        let Err(error) = result else {
            return Ok(());
        };
        tracing::debug!(%error, "request on a session");
        if self.ended.load(Ordering::Relaxed) || self.container.ending().is_some() {
            Err(Gone)
        } else {
            Ok(())
        }
    }

    /// Engines signal process 1 only; others are signalled from here, if they are where they can
    /// be seen. An exec leads a session and a process group of its own (OCI runtime).
    async fn signal_group(&self, host_pid: Option<i32>, signal: Signal) {
        let container = self.container.id.clone();
        let sending = tokio::task::spawn_blocking(move || {
            signals::send_to_group(host_pid, &container, signal)
        });
        if let Err(error) = sending.await {
            tracing::warn!(%error, "signal to a program");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Output,
    Exit,
    Over,
}

struct ImageOutput {
    container: Arc<Container>,
    process: Process,
    source: Box<dyn ProcessOutput>,
    /// What is still to be taken off the front of the output, if it is there.
    unwanted: &'static [u8],
    stage: Stage,
    ended: Arc<AtomicBool>,
    _lent: Lent,
}

#[async_trait]
impl Output for ImageOutput {
    async fn next(&mut self) -> Option<OutputEvent> {
        while self.stage == Stage::Output {
            match self.source.next().await {
                Some(OutputChunk::Stdout(data)) => {
                    let data = self.without_unwanted(data);
                    if !data.is_empty() {
                        return Some(OutputEvent::Stdout(data));
                    }
                }
                Some(OutputChunk::Stderr(data)) => return Some(OutputEvent::Stderr(data)),
                None => {
                    self.stage = Stage::Exit;
                    return Some(OutputEvent::Eof);
                }
            }
        }
        if self.stage == Stage::Over {
            return None;
        }
        let code = exit_code(&self.container, &self.process).await;
        self.stage = Stage::Over;
        self.ended.store(true, Ordering::Relaxed);
        code.map(|code| OutputEvent::Exit(ExitStatus::Code(code)))
    }
}

impl ImageOutput {
    fn without_unwanted(&mut self, mut data: Bytes) -> Bytes {
        while let Some((first, rest)) = self.unwanted.split_first() {
            match data.first() {
                None => return data,
                Some(byte) if byte == first => {
                    data.advance(1);
                    self.unwanted = rest;
                }
                Some(_) => self.unwanted = b"",
            }
        }
        data
    }
}

/// The exit code, `None` when the program did not end by itself.
async fn exit_code(container: &Container, process: &Process) -> Option<u32> {
    let code = match process {
        Process::First(_) => match container.ended().await {
            Ending::Exited(code) => code,
            Ending::Lost => return None,
        },
        Process::Exec(exec) => {
            let code = exec_exit_code(container, exec).await?;
            if code == KILLED {
                // Perhaps the container died, and is seen to a moment later. When the time is
                // over it did not.
                timeout(DEATH_NOTICE, container.ended()).await.ok();
            }
            code
        }
    };
    let is_over = container.ending().is_some();
    let ended_with_another_shell =
        container.mode == Mode::ShellIsFirst && matches!(process, Process::Exec(_));
    if is_over && (ended_with_another_shell || container.died().await) {
        return None;
    }
    Some(code)
}

async fn exec_exit_code(container: &Container, exec: &str) -> Option<u32> {
    let mut pause = FIRST_PAUSE;
    loop {
        match container.engine().exec_state(exec).await {
            Ok(ProcessState::Exited(code)) => return Some(code),
            Ok(ProcessState::Running { .. }) => {
                if container.ending().is_some() {
                    return None;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => {
                tracing::warn!(%error, "the exit code of a program is not known");
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::PtyRequest;

    fn request(program: Program, pty: bool) -> SessionRequest {
        SessionRequest {
            pty: pty.then(|| PtyRequest {
                term: "xterm".to_owned(),
                size: WindowSize::default(),
                modes: vec![],
            }),
            env: vec![
                ("LANG".to_owned(), "C".to_owned()),
                ("LC_ALL".to_owned(), "fr_FR.UTF-8".to_owned()),
                ("LD_PRELOAD".to_owned(), "/x".to_owned()),
                ("LC_=A".to_owned(), "x".to_owned()),
            ],
            ..SessionRequest::new(program)
        }
    }

    #[test]
    fn only_the_terminal_type_and_the_locale_are_passed_on() {
        assert_eq!(
            env(&request(Program::Shell, true)),
            ["TERM=xterm", "LANG=C", "LC_ALL=fr_FR.UTF-8"]
        );
        assert_eq!(env(&request(Program::Shell, false)), ["LANG=C", "LC_ALL=fr_FR.UTF-8"]);
    }

    #[test]
    fn a_command_of_any_bytes_reaches_the_shell() {
        let command = b"printf 'a\\tb%% \xff\n'; echo \"$HOME\"";
        let argv = argv(&request(Program::Exec(Bytes::from_static(command)), false), "/bin/sh");
        // The shell of the image would be run with the same words.
        let output = std::process::Command::new(&argv[0])
            .args(&argv[1..])
            .env("HOME", "/root")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"a\tb% \xff\n/root\n");
    }
}
