//! The life of a session channel, RFC 4254 section 6: requests, program, relay, end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use russh::server::{Handle, Msg};
use tracing::{debug, error, info, warn};

use super::channel::{self, ChannelOutput, Kind, SessionChannel, SetupRequest};
use super::connection::{Connection, Slot};
use super::console::ChannelConsole;
use super::forced_command;
use super::refusal::Refusal;
use crate::auth::Restrictions;
use crate::backend::image::ImageError;
use crate::backend::{BackendError, Console, ExitStatus, Program, SessionEnd, SessionRequest};
use crate::error_chain::chain;
use crate::relay::{self, Counters, Notices};

/// The most `env` requests kept; OpenSSH's sshd has the same bound.
const MOST_ENV: usize = 128;
/// The most bytes in names and values of `env` requests.
const MOST_ENV_BYTES: usize = 256 * 1024;

/// Runs a session channel from its opening to its close.
pub(super) async fn run(
    channel: russh::Channel<Msg>,
    handle: Handle,
    connection: Arc<Connection>,
    slot: Slot,
) {
    let (channel, reader) = channel::open(channel, handle, &connection, Kind::Session);
    tokio::select! {
        () = reader => {}
        () = serve(channel, &connection) => {}
    }
    drop(slot);
}

async fn serve(mut channel: SessionChannel, connection: &Arc<Connection>) {
    let output = channel.output.clone();
    let Some(mut request) = read_requests(&mut channel, &output).await else {
        debug!("the session channel was closed before anything was started on it");
        return;
    };
    if let Some(identity) = connection.identity() {
        restrict(&mut request, &identity.restrictions);
    }
    if let Some(pty) = &request.pty {
        output.is_a_terminal(pty.size.columns);
    }

    let started = Instant::now();
    let counters = Counters::default();
    let result = attempt(&mut channel, connection, &request, &counters).await;
    let (status, told) = match &result {
        Ok(status) => (status.clone(), None),
        Err(refusal) => (ExitStatus::Code(refusal.status), Some(refusal.line.as_str())),
    };
    info!(
        program = ?request.program,
        terminal = request.pty.is_some(),
        milliseconds = started.elapsed().as_millis(),
        received_bytes = counters.received.load(Ordering::Relaxed),
        sent_bytes = counters.sent.load(Ordering::Relaxed),
        result = %status,
        refusal = told.filter(|line| !line.is_empty()),
        "session ended"
    );
    output.conclude(&status).await;
}

/// Takes out what the credentials do not allow; the handler refused it to the client.
fn restrict(request: &mut SessionRequest, restrictions: &Restrictions) {
    if restrictions.no_pty {
        request.pty = None;
    }
    request.agent &= !restrictions.no_agent_forwarding;
    if restrictions.no_x11_forwarding {
        request.x11 = None;
    }
    if let Some(command) = &restrictions.forced_command {
        request.program = forced_command::in_place_of(&request.program, command);
        request.env.retain(|(name, _)| name != forced_command::ORIGINAL_COMMAND);
    }
}

/// Collects what the client asks for until it starts a program; `None`: it closed the channel.
async fn read_requests(
    channel: &mut SessionChannel,
    output: &ChannelOutput,
) -> Option<SessionRequest> {
    use crate::relay::ClientOutput;

    let mut request = SessionRequest::new(Program::Shell);
    let mut env_bytes = 0;
    loop {
        let next = tokio::select! {
            next = channel.setup.recv() => next?,
            () = output.gone() => return None,
        };
        match next {
            SetupRequest::Pty(pty) => request.pty = Some(pty),
            SetupRequest::Env(name, value) => {
                env_bytes += name.len() + value.len();
                if request.env.len() < MOST_ENV && env_bytes <= MOST_ENV_BYTES {
                    request.env.push((name, value));
                }
            }
            SetupRequest::Agent => request.agent = true,
            SetupRequest::X11(x11) => request.x11 = Some(x11),
            SetupRequest::Start(program) => {
                request.program = program;
                return Some(request);
            }
        }
    }
}

/// Opens the target, relays, and finishes; a failure was told to the client.
async fn attempt(
    channel: &mut SessionChannel,
    connection: &Arc<Connection>,
    request: &SessionRequest,
    counters: &Counters,
) -> Result<ExitStatus, Refusal> {
    let SessionChannel { output, input, control, keys, .. } = channel;
    let columns = request.pty.as_ref().map(|pty| pty.size.columns);
    let mut console = ChannelConsole::new(output, input, keys, columns);

    let attachment = match connection.attach() {
        Ok(attachment) => attachment,
        Err(refusal) => return Err(tell(&mut console, refusal).await),
    };
    keys.arm(true);
    let session = match attachment.start(request, &mut console).await {
        Ok(session) => session,
        Err(error) => return Err(fail(&mut console, connection, &error).await),
    };
    console.end_status().await;
    keys.arm(false);

    connection.touch();
    let mut notices = match request.pty {
        Some(_) => Notices::from(connection.notices()),
        None => Notices::none(),
    };
    let client = relay::Client { input, control, output: output.as_ref(), notices: &mut notices };
    let end = relay::run(client, session, &connection.output_spool(), counters).await;

    keys.arm(true);
    let mut console = ChannelConsole::new(output, input, keys, columns);
    if !matches!(end, SessionEnd::Exited(_)) && console.is_terminal() {
        // Whatever the program left the cursor behind, what is said now starts on its own line.
        console.say("").await;
    }
    if let Err(error) = attachment.finish(request, &end, &mut console).await {
        return Err(fail(&mut console, connection, &error).await);
    }
    match end {
        SessionEnd::Exited(status) => Ok(status),
        SessionEnd::BackendLost => {
            // A backend that goes away without an exit status words it in `finish`.
            Err(tell(&mut console, Refusal::ended("the session's program went away")).await)
        }
        SessionEnd::ClientGone => {
            let reason = connection.ending_reason().unwrap_or("the client went away");
            Err(tell(&mut console, Refusal::ended(reason)).await)
        }
    }
}

async fn fail(
    console: &mut ChannelConsole<'_>,
    connection: &Connection,
    error: &BackendError,
) -> Refusal {
    match error {
        BackendError::Interrupted => debug!("the client interrupted the wait"),
        BackendError::Image(_) => error!(error = chain(error), "session failed"),
        _ => warn!(error = chain(error), "session failed"),
    }
    let mut refusal = Refusal::from(error);
    if let (BackendError::Interrupted, Some(reason)) = (error, connection.ending_reason()) {
        refusal = Refusal::ended(reason);
    }
    if let (BackendError::Image(ImageError::Undecided { .. }), Some(reason)) =
        (error, connection.ending_reason())
    {
        refusal.line = format!("{reason}; {}", refusal.line);
    }
    tell(console, refusal).await
}

async fn tell(console: &mut ChannelConsole<'_>, refusal: Refusal) -> Refusal {
    console.end_status().await;
    if !refusal.line.is_empty() {
        console.say(&format!("waltgate: {}", refusal.line)).await;
    }
    refusal
}
