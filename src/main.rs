//! The command line.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use waltgate::config::Config;
use waltgate::gateway::Gateway;
use waltgate::image_command::ImageCommand;

/// One SSH server in front of a WalT testbed.
#[derive(Parser)]
#[command(name = "waltgate", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// How log lines are written to standard error.
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Check the configuration file, keys, engine and inventory; say what is wrong.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Try everything on this machine: two small nodes, two small images, nothing to configure.
    Demo {
        /// The port to listen on.
        #[arg(long, default_value_t = 2222)]
        port: u16,
    },
    /// Record that a node's new host key, which the gateway refused, is the right one.
    AcceptHostKey {
        /// The node's name.
        node: String,
        /// The key's fingerprint, as the refusal shows it: SHA256:...
        fingerprint: String,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Images of the embedded engine: list, import, export, remove.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Look after one container of the embedded engine; the gateway runs this.
    #[command(hide = true)]
    ContainerSupervisor {
        /// The container's directory.
        directory: PathBuf,
    },
    /// Run this machine's rsync on one directory alone; the gateway runs this.
    #[command(hide = true)]
    ConfinedRsync(waltgate::rsync::confinement::Arguments),
    /// Read a password and print its argon2id hash, for [accounts.NAME] password.
    HashPassword,
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(short = 'c', long = "config", default_value = waltgate::config::DEFAULT_FILE)]
    path: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve { config, log_format } => {
            start_logging(log_format);
            run(serve(config.path))
        }
        Command::Check { config } => run(check(config.path)),
        Command::Demo { port } => {
            start_logging(LogFormat::Text);
            run(demo(port))
        }
        Command::AcceptHostKey { node, fingerprint, config } => {
            run(accept_host_key(config.path, node, fingerprint))
        }
        Command::Image { command, config } => run(image(config.path, command)),
        Command::ContainerSupervisor { directory } => container_supervisor(&directory),
        Command::ConfinedRsync(arguments) => confined_rsync(&arguments),
        Command::HashPassword => hash_password(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("waltgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    // Connections have threads of their own (src/workers.rs).
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?
        .block_on(work)
}

/// `WALTGATE_LOG` takes tracing-subscriber's filter directives.
fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("WALTGATE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,waltgate=info,russh=error"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            subscriber.with_ansi(io::stderr().is_terminal()).with_target(false).init();
        }
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

async fn serve(path: PathBuf) -> anyhow::Result<ExitCode> {
    let (config, warnings) = Config::load(&path)?;
    for warning in warnings {
        warn!("{warning}");
    }
    raise_descriptor_limit();
    heed_quotas();
    let gateway = Gateway::start(config).await?;
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    gateway.run(shutdown).await;
    Ok(ExitCode::SUCCESS)
}

/// Each session takes several descriptors; the soft limit is often 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// Quotas hold for what is written to /persist, also by root: capabilities(7), CAP_SYS_RESOURCE. All
/// threads come from this one; programs that it runs have the capability again.
fn heed_quotas() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let given_up = capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets)
    });
    if let Err(error) = given_up {
        warn!(%error, "quotas may not hold for files in /persist");
    }
}

/// The first SIGTERM or SIGINT shuts down in good order, a second one at once.
fn cancel_on_signal(
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {}
            }
            if shutdown.is_cancelled() {
                std::process::exit(1);
            }
            info!("shutting down; once more to stop at once");
            shutdown.cancel();
        }
    })
}

async fn check(path: PathBuf) -> anyhow::Result<ExitCode> {
    let draft = Config::draft(&path);
    for error in &draft.errors {
        eprintln!("{error}");
    }
    for warning in &draft.warnings {
        println!("warning: {warning}");
    }
    let findings = waltgate::check::run(&draft).await;
    for line in &findings.fine {
        println!("ok: {line}");
    }
    for line in &findings.notes {
        println!("note: {line}");
    }
    for line in &findings.problems {
        eprintln!("problem: {line}");
    }
    let all_is_fine = draft.errors.is_empty() && findings.problems.is_empty();
    Ok(if all_is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn accept_host_key(
    path: PathBuf,
    node: String,
    fingerprint: String,
) -> anyhow::Result<ExitCode> {
    let (config, _) = Config::load(&path)?;
    let accepted = waltgate::accept_host_key::run(&config, &node, &fingerprint).await?;
    println!(
        "{fingerprint} is accepted for {node} from now on; recorded in {}",
        accepted.recorded_in.display()
    );
    for place in accepted.still_accepted {
        println!("the key at {place} is accepted as well; remove that line if it is out of use");
    }
    Ok(ExitCode::SUCCESS)
}

async fn demo(port: u16) -> anyhow::Result<ExitCode> {
    waltgate::demo::run(waltgate::demo::Options { port }).await?;
    Ok(ExitCode::SUCCESS)
}

async fn image(config: PathBuf, command: ImageCommand) -> anyhow::Result<ExitCode> {
    let (config, _) = Config::load(&config)?;
    let stop = CancellationToken::new();
    if let ImageCommand::Pull { .. } = command {
        // The others block; they end at once, and the next command cleans up after them.
        tokio::spawn(cancel_on_signal(stop.clone())?);
    }
    waltgate::image_command::run(&config, &command, &stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn container_supervisor(directory: &Path) -> anyhow::Result<ExitCode> {
    waltgate::backend::image::engine::embedded::supervisor::run(directory)
        .context("the supervisor of a container")?;
    Ok(ExitCode::SUCCESS)
}

fn confined_rsync(arguments: &waltgate::rsync::confinement::Arguments) -> anyhow::Result<ExitCode> {
    let code = waltgate::rsync::confinement::run(arguments).context("the process for rsync")?;
    Ok(ExitCode::from(code))
}

fn hash_password() -> anyhow::Result<ExitCode> {
    let password = if io::stdin().is_terminal() {
        let first = ask_without_echo("Password: ")?;
        // Also what ctrl-D leaves: there is nothing to repeat.
        refuse_empty(&first)?;
        if ask_without_echo("The same again: ")? != first {
            bail!("the two passwords differ");
        }
        first
    } else {
        let line = read_line()?;
        if !read_line()?.is_empty() {
            bail!("more than one line was given; a password is one line");
        }
        line
    };
    refuse_empty(&password)?;
    println!("{}", waltgate::auth::hash_password(&password)?);
    Ok(ExitCode::SUCCESS)
}

fn refuse_empty(password: &str) -> anyhow::Result<()> {
    if password.is_empty() {
        bail!("an empty password is not accepted");
    }
    Ok(())
}

fn ask_without_echo(prompt: &str) -> anyhow::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    eprint!("{prompt}");
    io::stderr().flush()?;
    let terminal = io::stdin();
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let line = read_line();
    tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    eprintln!();
    line
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
