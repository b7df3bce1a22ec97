//! The typed configuration.
//!
//! [`Config`] is what the rest of the gateway sees: defaults filled in, paths absolute, names
//! parsed, each node's options merged with the defaults. Only [`file`] and the modules below it
//! know TOML.

pub mod file;
mod nodes;
mod reader;
mod sections;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::names::{AccountName, ImageLabel, Login, NodeName};

pub use file::{ConfigErrors, Draft, Warning};
pub use reader::Problem;

/// What is read when no other file is named.
pub const DEFAULT_FILE: &str = "/etc/waltgate/waltgate.toml";

/// Everything the configuration file says.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from, absolute, for commands that are to be pasted.
    pub file: PathBuf,
    /// `[server]`
    pub server: Server,
    /// `[limits]`
    pub limits: Limits,
    /// `[auth]`
    pub auth: Auth,
    /// `[accounts.*]`
    pub accounts: BTreeMap<AccountName, Account>,
    /// `[walt]`, if present.
    pub walt: Option<Walt>,
    /// `[node_defaults]`
    pub node_defaults: NodeOptions,
    /// `[nodes.*]`
    pub nodes: BTreeMap<NodeName, Node>,
    /// `[engine]`
    pub engine: Engine,
    /// `[image_defaults]`
    pub image_defaults: ImageDefaults,
    /// `[images.*]`: alias to image reference, as any container engine reads it.
    pub images: BTreeMap<ImageLabel, String>,
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Addresses to listen on. Port 0 takes any free port.
    pub listen: Vec<SocketAddr>,
    /// Host key files, created when missing.
    pub host_keys: Vec<PathBuf>,
    /// Where the gateway keeps what must survive it.
    pub state_dir: PathBuf,
    /// The username of the gateway itself.
    pub lobby: NodeName,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct Limits {
    /// From TCP accept to authenticated.
    pub login_grace: Duration,
    /// Unauthenticated connections, in all.
    pub max_startups: usize,
    /// Unauthenticated connections from one address.
    pub max_startups_per_source: usize,
    /// Refused attempts before the connection is closed.
    pub max_auth_attempts: usize,
    /// Session channels open at once on one connection.
    pub max_sessions_per_connection: usize,
    /// Containers an account may have at once.
    pub max_containers_per_account: usize,
    /// Containers with unsaved changes that an account may leave; 0: any number.
    pub max_unsaved_per_account: usize,
    /// Cut sessions without traffic after this; `None`: never.
    pub idle: Option<Duration>,
    /// Bytes of one channel that may wait on disk for a receiver that does not read.
    pub spool_bytes: u64,
    /// Bytes in one direction after which the gateway asks a client for new keys; RFC 4253
    /// section 9 advises one gibibyte.
    pub rekey_bytes: usize,
}

/// `[auth]`
#[derive(Debug, Clone)]
pub struct Auth {
    /// `NAME.pub` files in authorized_keys format.
    pub accounts_dir: Option<PathBuf>,
    /// Certification authorities of OpenSSH user certificates, one public key a line.
    pub trusted_user_ca: Option<PathBuf>,
    /// Networks from which no credentials are asked.
    pub open_networks: Vec<IpNetwork>,
    /// The account of a client of an open network that names none.
    pub guest: AccountName,
}

/// `[accounts.NAME]`
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// argon2id hash in PHC string format.
    pub password: Option<PasswordHash>,
    /// Target patterns with `*` and `?`; empty never occurs, the default is `*`.
    pub allow: Vec<String>,
}

/// A PHC string. Prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Wraps a PHC string that was checked by the caller.
    pub fn new(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string, for verifying.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// `[walt]`
#[derive(Debug, Clone)]
pub struct Walt {
    /// Base of the web API, without a trailing slash; plain HTTP.
    pub api: String,
    /// How often the lists are read again.
    pub refresh: Duration,
}

/// How a node's host key is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyPolicy {
    /// Only recorded keys.
    Strict,
    /// An unknown key is recorded at first sight; a changed one is refused.
    AcceptNew,
    /// Any key. For throw-away set-ups.
    Off,
}

/// What happens when a node is used that boots another account's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherOwner {
    /// A shell on a terminal asks; all else goes on, with a warning.
    Warn,
    /// A shell on a terminal asks; all else is refused.
    Refuse,
}

/// `[node_defaults]`, and the same keys in `[nodes.*]`.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Addresses outside are refused, whoever names them.
    pub networks: Vec<IpNetwork>,
    /// The private key that nodes authorise.
    pub identity: PathBuf,
    /// OpenSSH known_hosts file.
    pub known_hosts: PathBuf,
    /// The name to look up in `known_hosts` instead of the address.
    pub host_key_alias: Option<String>,
    /// How a host key is judged.
    pub host_key_policy: HostKeyPolicy,
    /// Bound on TCP connect, and again on handshake with authentication.
    pub connect: Duration,
    /// How long to wait for a node that is booting; zero: not at all.
    pub boot_wait: Duration,
    /// Whether a connection is kept ready for the next client.
    pub spare_connections: bool,
    /// What happens when another account uses the node.
    pub other_owner: OtherOwner,
    /// `<root>/<mac>/persist` is the node's /persist.
    pub persist_root: PathBuf,
    /// Whom the files belong to that are made in /persist; `None`: root.
    pub persist_owner: Option<FileOwner>,
}

/// Numbers of a user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOwner {
    /// The user's.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// How a node keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BootMode {
    /// RAM overlay over the network image: changes are lost at reboot.
    #[default]
    Network,
    /// As `Network`, with a local copy of the image.
    HybridVolatile,
    /// Changes persist.
    HybridPersistent,
}

/// `[nodes.NAME]`: a static node or device.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where its SSH server listens.
    pub address: SocketAddr,
    /// The login when the username names none.
    pub login: Login,
    /// MAC address, lower case with colons.
    pub mac: Option<String>,
    /// Overrides `persist_root`.
    pub persist: Option<PathBuf>,
    /// Decides about the caution line.
    pub boot_mode: BootMode,
    /// Its own keys over `[node_defaults]`.
    pub options: NodeOptions,
}

/// Which engine runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// The first that answers: WalT's podman socket, Docker's, Podman's; else the embedded one.
    Auto,
    /// The Docker API at `socket`, Docker's or Podman's.
    Docker,
    /// The gateway itself.
    Embedded,
}

/// `[engine]`
#[derive(Debug, Clone)]
pub struct Engine {
    /// Which.
    pub kind: EngineKind,
    /// Path of the socket (`unix://` removed); `None`: the usual places.
    pub socket: Option<PathBuf>,
}

/// What happens to a container after a command or transfer that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCommandSuccess {
    /// Save it if it changed anything.
    Save,
    /// Throw it away.
    Discard,
}

/// The network of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerNetwork {
    /// Its own loopback and nothing else.
    #[default]
    Loopback,
    /// One of its own, with a way out.
    Own,
    /// That of the machine itself, or of the engine's.
    Host,
}

/// `[image_defaults]`
#[derive(Debug, Clone)]
pub struct ImageDefaults {
    /// The container's host name.
    pub hostname: String,
    /// Bytes of memory; `None`: no limit.
    pub memory: Option<u64>,
    /// Processes; `None`: no limit.
    pub pids: Option<u64>,
    /// Thousandths of a processor; `None`: no limit.
    pub cpus: Option<u32>,
    /// Bytes that a container may write to disk; `None`: no limit.
    pub disk: Option<u64>,
    /// Which network containers have.
    pub network: ContainerNetwork,
    /// How long an unsaved container is kept.
    pub keep_unsaved: Duration,
    /// What happens after a command that succeeded.
    pub on_command_success: OnCommandSuccess,
}
