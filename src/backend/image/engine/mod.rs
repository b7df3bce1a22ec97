//! What runs containers, in plain types.
//!
//! An [`Engine`] is told what to do with images and containers by identifier. Identifiers are
//! hexadecimal, without a "sha256:" in front, so that they compare equal whoever printed them.

pub mod docker;
pub mod embedded;
mod overlay;
pub(super) mod usage;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use crate::backend::WindowSize;
use crate::config::ContainerNetwork;

/// Who answers, as told by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Product and version, for messages: "Docker 20.10.24".
    pub product: String,
    /// The CPU architecture in Go's words: `amd64`, `arm64`, `386`, `arm`.
    pub architecture: String,
    /// Where it answers, or keeps everything when it is no other process.
    pub place: PathBuf,
    /// What it cannot do on this machine.
    pub lacks: Vec<Lack>,
}

/// What an engine cannot do, and what would help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Containers have their loopback only.
    #[error(
        "containers have no network; the package {package} on this machine would give them one"
    )]
    Network {
        /// The Debian package.
        package: &'static str,
    },
    /// Programs in containers may make any system call.
    #[error(
        "programs in containers may make any system call: this waltgate was built without its \
         feature seccomp"
    )]
    Filter,
    /// What a container may use is not limited, whatever the configuration says.
    #[error("containers have no limits of {}: {reason}", in_a_row(limits))]
    Limits {
        /// Which limits.
        limits: Vec<Limit>,
        /// Why.
        reason: &'static str,
    },
}

/// What a container may be limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of memory.
    Memory,
    /// The number of processes.
    Processes,
    /// The share of the processors.
    Processors,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Processors => "processor time",
        })
    }
}

/// "memory, processes and processor time"
fn in_a_row(limits: &[Limit]) -> String {
    let names: Vec<String> = limits.iter().map(Limit::to_string).collect();
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// One image of the engine's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDetails {
    /// Identifier.
    pub id: String,
    /// The CPU architecture in Go's words.
    pub architecture: String,
    /// `OWNER/NAME:TAG` and such, as the engine knows them.
    pub references: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How many layers its files are in.
    pub layers: usize,
}

/// One step of how an image came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub created: SystemTime,
    /// By which instruction or program.
    pub created_by: String,
    /// What was noted about it.
    pub comment: String,
}

/// An image to be made of the files of one image and the configuration of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Identifier of the image that has the files, with one layer more than `base` or with one
    /// layer in all.
    pub files: String,
    /// Identifier of the image whose labels, command, environment and so on, and whose history
    /// it has.
    pub base: String,
    /// The name it gets.
    pub reference: String,
    /// Who made it, for its history.
    pub author: String,
    /// What made it, for its history.
    pub created_by: String,
    /// What is to be noted about it, for its history.
    pub comment: String,
}

/// A file in a container that may never have run. Symbolic links were followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// A directory.
    pub is_directory: bool,
    /// Somebody may execute it.
    pub is_executable: bool,
}

/// What a container is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name, unique in the engine.
    pub name: String,
    /// Identifier of the image.
    pub image_id: String,
    /// Process 1 and its arguments; replaces the image's entrypoint and command.
    pub argv: Vec<String>,
    /// `NAME=VALUE`, over the image's own.
    pub env: Vec<String>,
    /// Working directory of process 1.
    pub working_dir: String,
    /// Host name.
    pub hostname: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Process 1 has a terminal.
    pub tty: bool,
    /// Process 1 has a standard input, which ends when the attached stream does.
    pub stdin: bool,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Number of processes.
    pub pids: Option<u64>,
    /// Thousandths of a processor.
    pub cpus: Option<u32>,
    /// Its network.
    pub network: ContainerNetwork,
    /// Files of the host, mounted read-only: source, path inside.
    pub read_only_binds: Vec<(PathBuf, String)>,
    /// Process 1 is an init: it gets what systemd needs.
    pub boots_an_os: bool,
}

/// Microseconds in which a container gets its share of the processors, the engines' own default.
const CPU_PERIOD: i64 = 100_000;

/// The microseconds of a period that so many thousandths of a processor are.
fn cpu_quota(cpus: u32) -> i64 {
    i64::from(cpus) * CPU_PERIOD / 1000
}

/// What to run in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// `NAME=VALUE`, over the container's own.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// With a terminal.
    pub tty: bool,
}

/// One piece of a process's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputChunk {
    /// Standard output, or the terminal.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
}

/// The output of a process.
#[async_trait]
pub trait ProcessOutput: Send {
    /// The next piece; `None` at the end, also when the engine went away. Dropping the future
    /// loses nothing.
    async fn next(&mut self) -> Option<OutputChunk>;
}

/// The streams of a process: any bytes, either direction ends alone.
pub struct ProcessStreams {
    /// Its standard input; `shutdown` is its end.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its standard output and error.
    pub output: Box<dyn ProcessOutput>,
}

/// Where a process in a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs.
    Running {
        /// Its process identifier on the engine's host, if told.
        host_pid: Option<i32>,
    },
    /// It ended; 128+n after signal n.
    Exited(u32),
}

/// A process whose terminal can be resized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// Process 1 of a container, by the container's identifier.
    First(String),
    /// An exec, by its identifier.
    Exec(String),
}

/// How a path of a container differs from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The file, or something in the directory, was modified.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One difference between a container and its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// A file that a container has on top of its image's, or that it took away. Equal to one that was
/// seen earlier only if nobody touched it since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Absolute path.
    pub path: String,
    /// It is a directory.
    pub is_directory: bool,
    /// Type and permissions, inode(7).
    pub mode: u32,
    /// Number of its user.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Its number in its file system.
    pub inode: u64,
    /// Seconds and nanoseconds of its last modification.
    pub modified: (i64, i64),
    /// The same of the last change to it or its attributes; programs cannot set it.
    pub changed: (i64, i64),
}

/// What is known about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDetails {
    /// Process 1 runs.
    pub is_running: bool,
    /// When process 1 last ended, or else when the container was made.
    pub last_used: SystemTime,
}

/// A container in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// Identifier of its image.
    pub image_id: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing answers.
    #[error(
        "no container engine answers (tried {}); start Docker or Podman, or set engine.socket",
        tried.join(", ")
    )]
    Unavailable {
        /// Each socket that was tried, with the reason.
        tried: Vec<String>,
    },
    /// There is no such image or container, or file in it.
    #[error("{operation} {object}: not found")]
    NotFound {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        object: String,
    },
    /// The engine refused, with its own words.
    #[error("{operation} {object}: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        object: String,
        /// The engine's message.
        reason: String,
    },
    /// No answer in time.
    #[error("{operation} {object}: no answer within {} s", waited.as_secs())]
    TimedOut {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        object: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke or something that is not the protocol came.
    #[error("{operation} {object}: {reason}")]
    Protocol {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        object: String,
        /// What happened.
        reason: String,
    },
}

impl EngineError {
    /// Whether the object that was asked about does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Runs containers. Every call has a deadline of its own; none of them needs another to be dropped.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Who answers.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// The references of all images, as the engine knows them.
    async fn image_references(&self) -> Result<Vec<String>, EngineError>;
    /// An image, by reference or identifier.
    async fn image(&self, reference: &str) -> Result<ImageDetails, EngineError>;

    /// Makes a container, without starting it.
    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError>;
    /// A file of a container, `None` when there is none; links are followed.
    async fn stat(&self, container: &str, path: &str) -> Result<Option<FileStat>, EngineError>;
    /// The content of a regular file of a container, refused past `limit` bytes; links are
    /// followed.
    async fn read_file(
        &self,
        container: &str,
        path: &str,
        limit: usize,
    ) -> Result<Vec<u8>, EngineError>;
    /// Connects to process 1; may come before [`Engine::start`], so that nothing is missed.
    async fn attach(&self, container: &str, tty: bool) -> Result<ProcessStreams, EngineError>;
    /// Starts process 1.
    async fn start(&self, container: &str) -> Result<(), EngineError>;
    /// Prepares a program to run beside process 1.
    async fn create_exec(&self, container: &str, spec: &ExecSpec) -> Result<String, EngineError>;
    /// Starts it, connected.
    async fn start_exec(&self, exec: &str, tty: bool) -> Result<ProcessStreams, EngineError>;
    /// Where it stands.
    async fn exec_state(&self, exec: &str) -> Result<ProcessState, EngineError>;
    /// Sets the size of a terminal.
    async fn resize(&self, process: &Process, size: WindowSize) -> Result<(), EngineError>;
    /// Where process 1 stands.
    async fn state(&self, container: &str) -> Result<ProcessState, EngineError>;
    /// Waits for the end of process 1, for as long as it takes.
    async fn wait(&self, container: &str) -> Result<u32, EngineError>;
    /// Whether a signal was sent to a container through the engine since it was created.
    async fn was_killed(&self, container: &str) -> Result<bool, EngineError>;
    /// Asks process 1 to end, and kills it when it has not within `grace`.
    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError>;
    /// Sends a signal, by its name without "SIG", to process 1.
    async fn kill(&self, container: &str, signal: &str) -> Result<(), EngineError>;
    /// Removes a container, also a running one. One that does not exist is removed already.
    async fn remove(&self, container: &str) -> Result<(), EngineError>;
    /// How the files of a container differ from those of its image. A difference that the engine
    /// cannot name is one of `/`.
    async fn diff(&self, container: &str) -> Result<Vec<Change>, EngineError>;
    /// What a container has on top of its image. `None` where that is out of reach. Paths that are
    /// no text are left out.
    async fn written(&self, _container: &str) -> Result<Option<Vec<WrittenFile>>, EngineError> {
        Ok(None)
    }
    /// Makes paths of a container at rest what they are in its image, where [`Engine::written`]
    /// tells of them. A directory with anything else in it stays as it is.
    async fn restore(&self, _container: &str, _paths: Vec<String>) -> Result<(), EngineError> {
        Ok(())
    }
    /// What is known about a container.
    async fn details(&self, container: &str) -> Result<ContainerDetails, EngineError>;
    /// The directory of this host in which the files are that a container has on top of its image's.
    /// `None` where they are out of reach.
    async fn upper_directory(&self, _container: &str) -> Result<Option<PathBuf>, EngineError> {
        Ok(None)
    }
    /// How many bytes its files take on top of its image's.
    async fn written_bytes(&self, container: &str) -> Result<u64, EngineError>;
    /// Makes an image without a name of the container's files.
    async fn commit(&self, container: &str) -> Result<String, EngineError>;
    /// Makes an image without a name that has the files of `image` in a single layer, and these
    /// labels: one or more, of characters that no shell would interpret.
    async fn flatten(
        &self,
        image: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError>;
    /// Makes a named image and returns its identifier. An image that had this name loses the
    /// name only when the new one is complete.
    async fn publish(&self, publication: &Publication) -> Result<String, EngineError>;
    /// How an image came to be, newest first.
    async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>, EngineError>;
    /// Images without a name, other than those that others are made of.
    async fn unnamed_images(&self) -> Result<Vec<ImageDetails>, EngineError>;
    /// Removes an image without a name, unless something uses it; whether it did.
    async fn remove_unnamed_image(&self, image: &str) -> Result<bool, EngineError>;
    /// All containers, running or not, that carry a label.
    async fn containers(
        &self,
        label: &str,
        value: &str,
    ) -> Result<Vec<ContainerSummary>, EngineError>;
}
