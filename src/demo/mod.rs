//! `waltgate demo`: two small nodes, two small images and a gateway in front of them, all on this
//! machine and all gone when it ends.
//!
//! The nodes are real SSH servers in namespaces of their own. The images are the embedded engine's,
//! in the demonstration's own directory, so that nothing that is saved stays.

mod image;
mod leftovers;
mod node;
mod program;

use std::io;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::leftovers::Place;
use self::node::{DemoNode, NodeServer};
use self::program::{ProgramError, run_to_end};
use crate::backend::image::embedded_engine_directory;
use crate::backend::image::engine::embedded::store::StoreError;
use crate::config::{Config, ConfigErrors};
use crate::gateway::{Gateway, GatewayError};

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port to listen on, on 127.0.0.1; 0 takes any free one.
    pub port: u16,
}

/// Why there is no demonstration.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Namespaces and mounts need root.
    #[error("the demonstration makes namespaces for its nodes and containers; run it as root")]
    NotRoot,
    /// A file or directory of the demonstration.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that the demonstration is made of.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The images.
    #[error("cannot make an image: {0}")]
    Image(#[from] StoreError),
    /// A part of this program ended by itself.
    #[error("a part of the demonstration failed: {0}")]
    Task(io::Error),
    /// Signals could not be caught.
    #[error("cannot handle signals: {0}")]
    Signals(#[from] io::Error),
    /// The configuration that the demonstration wrote.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The gateway, for example because the port is taken.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

/// Runs the demonstration until SIGINT, SIGTERM or SIGHUP, and removes everything it made, also
/// when it fails.
///
/// # Errors
/// What it is made of could not be started.
pub async fn run(options: Options) -> Result<(), DemoError> {
    if !rustix::process::geteuid().is_root() {
        return Err(DemoError::NotRoot);
    }
    let shutdown = CancellationToken::new();
    // Signals that come while everything is being stopped change nothing.
    let signals = tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let place =
        Place::new().map_err(|source| DemoError::File { path: std::env::temp_dir(), source })?;

    let mut stage = Stage::default();
    let result = play(&options, place.path(), &mut stage, &shutdown).await;
    stage.close().await;
    let path = place.path().to_owned();
    let removed = place.remove().map_err(|source| DemoError::File { path, source });
    signals.abort();
    result.and(removed)
}

fn cancel_on_signal(
    shutdown: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            shutdown.cancel();
        }
    })
}

/// What runs beside the gateway.
#[derive(Default)]
struct Stage {
    nodes: Vec<DemoNode>,
}

impl Stage {
    async fn close(self) {
        for node in self.nodes {
            node.close().await;
        }
    }
}

/// Sets the stage, then serves until `shutdown`.
async fn play(
    options: &Options,
    directory: &Path,
    stage: &mut Stage,
    shutdown: &CancellationToken,
) -> Result<(), DemoError> {
    let Some(gateway) = set_up(options, directory, stage, shutdown).await? else {
        return Ok(());
    };
    let port = gateway
        .addresses()
        .ok()
        .and_then(|addresses| addresses.first().copied())
        .map_or(options.port, |address| address.port());
    say(&instructions(port));
    gateway.run(shutdown.clone()).await;
    Ok(())
}

/// `None`: it was told to stop. Each step is left to end, so that what it made is known and removed.
async fn set_up(
    options: &Options,
    directory: &Path,
    stage: &mut Stage,
    shutdown: &CancellationToken,
) -> Result<Option<Gateway>, DemoError> {
    say("Preparing two nodes and two images ...\n");
    let keys = directory.join("keys");
    // Where accounts would have their keys; here everybody is a guest.
    make_directory(&keys.join("accounts"))?;
    let node_key = generate_key(&keys, "node_host_key").await?;
    let identity = generate_key(&keys, "identity").await?;

    for (name, address, server) in
        [("rpi1", "127.0.0.21", NodeServer::OpenSsh), ("rpi2", "127.0.0.22", NodeServer::Dropbear)]
    {
        let place = directory.join(name);
        let node = DemoNode::start(name, address, server, &place, &node_key, &identity).await?;
        stage.nodes.push(node);
        if shutdown.is_cancelled() {
            return Ok(None);
        }
    }
    let state = directory.join("state");
    for (kind, reference) in
        [("limited", "waltplatform/demo-limited"), ("os", "waltplatform/demo-os")]
    {
        if shutdown.is_cancelled() {
            return Ok(None);
        }
        image::import(embedded_engine_directory(&state), kind, reference).await?;
    }

    let known_hosts = keys.join("known_hosts");
    let public = read(&keys.join("node_host_key.pub"))?;
    write(&known_hosts, &format!("walt.node {public}"))?;
    let path = directory.join("waltgate.toml");
    write(&path, &configuration(options.port, &state, &stage.nodes))?;
    let (config, _) = Config::load(&path)?;
    Ok(Some(Gateway::start(config).await?))
}

fn configuration(port: u16, state: &Path, nodes: &[DemoNode]) -> String {
    let mut toml = format!(
        "[server]\n\
         listen = [\"127.0.0.1:{port}\"]\n\
         host_keys = [\"keys/gateway_host_key\"]\n\
         state_dir = {state:?}\n\n\
         [auth]\n\
         open_networks = [\"127.0.0.0/8\"]\n\n\
         [node_defaults]\n\
         networks = [\"127.0.0.0/8\"]\n\
         identity = \"keys/identity\"\n\
         known_hosts = \"keys/known_hosts\"\n\
         host_key_alias = \"walt.node\"\n\n\
         [engine]\n\
         kind = \"embedded\"\n",
    );
    for node in nodes {
        toml += &format!("\n[nodes.{}]\naddress = \"{}\"\n", node.name(), node.address(),);
    }
    toml
}

/// The gateway has a new host key each time, which ssh need not remember for localhost.
fn instructions(port: u16) -> String {
    let option = "-o NoHostAuthenticationForLocalhost=yes";
    let ssh = format!("ssh {option} -p {port}");
    format!(
        "\n\
         Paste any of these into another terminal:\n\n\
         a shell on a node (OpenSSH, and dropbear)\n  \
           {ssh} rpi1@localhost\n  \
           {ssh} rpi2@localhost\n\
         a file that survives reboots of the node\n  \
           scp {option} -P {port} /etc/hostname rpi1@localhost:/persist/\n\
         a shell in a fresh container of an OS image, and in one that starts its OS\n  \
           {ssh} image.demo-limited@localhost\n  \
           {ssh} image.demo-os@localhost\n\
         a change of an image, saved when the command succeeds\n  \
           {ssh} image.demo-limited@localhost 'echo hello >/etc/motd'\n\n\
         ctrl-C here ends all of it and leaves nothing behind.\n\n"
    )
}

/// Prints for the person at the terminal; whether anybody reads it changes nothing.
fn say(text: &str) {
    use io::Write;
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// An ed25519 key pair NAME, NAME.pub; returns the private key's path.
async fn generate_key(directory: &Path, name: &str) -> Result<PathBuf, DemoError> {
    let path = directory.join(name);
    let mut command = program::command("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
    run_to_end(command).await?;
    Ok(path)
}

fn make_directory(path: &Path) -> Result<(), DemoError> {
    std::fs::create_dir_all(path)
        .map_err(|source| DemoError::File { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, DemoError> {
    std::fs::read_to_string(path)
        .map_err(|source| DemoError::File { path: path.to_owned(), source })
}

fn write(path: &Path, content: &str) -> Result<(), DemoError> {
    std::fs::write(path, content)
        .map_err(|source| DemoError::File { path: path.to_owned(), source })
}
