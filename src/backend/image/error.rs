//! What can go wrong with an image.

use crate::backend::image::engine::EngineError;
use crate::backend::image::inspection::OS_START;
use crate::names::NodeName;

/// Why an image target failed: one line each, with what to try.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No engine answers.
    #[error("images are not available: {0}")]
    EngineUnavailable(#[source] EngineError),
    /// The engine answered, but not as hoped.
    #[error("container engine: {0}")]
    Engine(#[source] EngineError),
    /// There is no such image.
    #[error("no image named {name}{}", did_you_mean(similar, lobby))]
    UnknownImage {
        /// As asked for.
        name: String,
        /// The closest existing names, best first.
        similar: Vec<String>,
        /// Whose command lists them all.
        lobby: NodeName,
    },
    /// Several owners have an image of this name.
    #[error("image {name} exists more than once; say which: {}", candidates.join(", "))]
    AmbiguousImage {
        /// As asked for.
        name: String,
        /// What to ask for instead.
        candidates: Vec<String>,
    },
    /// The alias that leads to the image is wrong.
    #[error("{0}; ask the administrator")]
    BadAlias(String),
    /// Nothing in the image can run a command.
    #[error(
        "image {image} has no /bin/bash or /bin/sh, so no shell can run in it; add one to it with walt image cp or walt image build"
    )]
    NoShell {
        /// Which.
        image: String,
    },
    /// Files are served from here, which needs the container here.
    #[error(
        "the files of image {image} cannot be reached ({reason}); the container engine must run on this host, and the gateway as root"
    )]
    FilesOutOfReach {
        /// Which.
        image: String,
        /// What happened.
        reason: String,
    },
    /// rsync needs a program at both ends.
    #[error("image {image} has no rsync; install it there, or use scp or sftp")]
    NoRsync {
        /// Which.
        image: String,
    },
    /// The host cannot run the image's programs.
    #[error(
        "image {image} is for {architecture} and this host ({host}) has no emulator for it; install the package qemu-user-static (Debian) on the host"
    )]
    NoEmulator {
        /// Which.
        image: String,
        /// The CPU that it is for.
        architecture: String,
        /// The CPU of the host.
        host: String,
    },
    /// The account's limit is reached.
    #[error(
        "account {account} has {limit} containers already, which is the limit; end another image session first"
    )]
    TooManyContainers {
        /// Whose.
        account: String,
        /// `max_containers_per_account`
        limit: usize,
    },
    /// The account has left too much undecided.
    #[error(
        "account {account} has left {limit} containers with unsaved changes, which is the limit; \"ssh {lobby}@... unsaved\" lists them, \"ssh {lobby}@... save ID NAME\" or \"ssh {lobby}@... discard ID\" frees one"
    )]
    TooManyUnsaved {
        /// Whose.
        account: String,
        /// `max_unsaved_per_account`
        limit: usize,
        /// Whose commands they are.
        lobby: NodeName,
    },
    /// What was to become the init of an image's operating system ended.
    #[error(
        "the operating system of image {image} did not start: {OS_START} ended with status {code}; commands and file transfers go without it: ssh image.{image}@... COMMAND"
    )]
    NoBoot {
        /// Of which image.
        image: String,
        /// 128+n after signal n.
        code: u32,
    },
    /// A container ended under its session.
    #[error("the container of image {image} is gone: {reason}")]
    ContainerDied {
        /// Of which image.
        image: String,
        /// What is known about it.
        reason: String,
    },
    /// Somebody removed a container while it was used.
    #[error(
        "the container of image {image} is gone, and with it all that was changed: somebody removed it, maybe with its image"
    )]
    ContainerRemoved {
        /// Of which image.
        image: String,
    },
    /// The engine could not make the new image.
    #[error("image {image} was not saved: {source}")]
    CommitFailed {
        /// What it should have been named.
        image: String,
        /// Why.
        source: EngineError,
    },
    /// The name to save under belongs to another image.
    #[error("image {image} exists already; choose another name")]
    NameTaken {
        /// Which.
        image: String,
    },
    /// Somebody saved another version of the image in the meantime.
    #[error(
        "image {image} was changed by somebody else since this session began{saved}, so it is not overwritten; choose another name"
    )]
    BaseChanged {
        /// Which.
        image: String,
        /// " (saved by bob from 192.0.2.7 3 min ago)", if that is known.
        saved: String,
    },
    /// The same, or the name was taken, and nobody was there to choose another.
    #[error("{conflict}: the changes are saved as {aside} instead")]
    SavedAside {
        /// Why the name could not be used.
        conflict: String,
        /// The name that was used.
        aside: String,
    },
    /// Nobody answered what is to become of the changes.
    #[error("image {image} was not saved: the session ended before the question was answered")]
    Undecided {
        /// Which.
        image: String,
    },
    /// What the client decided beforehand cannot be done.
    #[error("WALTGATE_SAVE_AS: {reason}; give the name of an image, or \"discard\"")]
    BadSaveAs {
        /// What is wrong with it.
        reason: String,
    },
    /// The name to save unsaved changes under cannot be one.
    #[error("{reason}")]
    BadSaveName {
        /// What is wrong with it.
        reason: String,
    },
    /// There are no such unsaved changes of this account.
    #[error("no unsaved changes have the ID {id}; \"unsaved\" lists those there are")]
    UnknownUnsaved {
        /// As asked for.
        id: String,
    },
    /// Sessions of one connection share a container, and one of them failed.
    #[error(
        "image {image} was not saved: another session of this connection failed, so the changes of all are discarded; use a connection of its own for each command"
    )]
    SiblingFailed {
        /// Which.
        image: String,
    },
    /// Sessions of one connection share a container, and the client of one of them went away.
    #[error(
        "image {image} was not saved: another session of this connection broke; the changes of all are kept"
    )]
    SiblingLost {
        /// Which.
        image: String,
    },
    /// The connection is closing.
    #[error("the connection is closing")]
    Closing,
    /// The gateway's own files.
    #[error("{operation} {path}: {source}")]
    State {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl From<EngineError> for ImageError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unavailable { .. } => Self::EngineUnavailable(error),
            error => Self::Engine(error),
        }
    }
}

fn did_you_mean(similar: &[String], lobby: &NodeName) -> String {
    if similar.is_empty() {
        format!("; \"ssh {lobby}@... images\" lists the images")
    } else {
        format!("; did you mean {}?", similar.join(" or "))
    }
}
