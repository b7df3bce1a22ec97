//! /persist of a node, served from this machine's own disk: sftp and scp of its files need no node.
//!
//! Everything else of the node is still the node's. Who logs in as somebody other than root may do
//! on the node what that user may, and gets all of it from the node.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{NodeAttachment, session, words};
use crate::backend::{BackendError, BackendSession, Console, NodeFailure, Program, SessionRequest};
use crate::config::FileOwner;
use crate::inventory::NodeRecord;
use crate::names::Login;
use crate::sftp::{Owner, Root, scp, split};

/// Its name in `/` of a node.
const PERSIST: &[u8] = b"persist";
/// The subsystem's name.
const SFTP: &str = "sftp";
/// The login whose processes may do with /persist what this one may: the export has
/// `no_root_squash`.
const ROOT: &str = "root";

/// What is known here of a node's /persist.
enum Persist {
    Directory(OwnedFd),
    /// The node has none, and why.
    Absent(String),
    /// It is not on this machine, as far as is known.
    Unknown,
}

/// Starts a session that can be served here. `None`: it is the node's.
pub(super) async fn start(
    attachment: &Arc<NodeAttachment>,
    node: &NodeRecord,
    login: &Login,
    request: &SessionRequest,
) -> Result<Option<BackendSession>, BackendError> {
    let command = match &request.program {
        Program::Subsystem(name) if name == SFTP => None,
        Program::Exec(line) if request.pty.is_none() => match scp::Command::parse(line) {
            Some(command) if command.is_within(PERSIST) => Some(command),
            _ => return Ok(None),
        },
        Program::Exec(_) | Program::Shell | Program::Subsystem(_) => return Ok(None),
    };
    if login.as_str() != ROOT {
        return Ok(None);
    }
    let (record, name) = (node.clone(), node.name.clone());
    // On a thread of its own: the disk may be slow.
    let found = tokio::task::spawn_blocking(move || find(&record)).await;
    let directory = match found.map_err(|error| failed(&name, error))? {
        Persist::Directory(directory) => directory,
        Persist::Absent(reason) if command.is_some() => return Err(failed(&name, reason)),
        Persist::Absent(reason) => {
            debug!(node = %name, reason, "no /persist is served");
            return Ok(None);
        }
        Persist::Unknown => return Ok(None),
    };
    let owner = node.options.persist_owner.map(|FileOwner { uid, gid }| Owner { uid, gid });
    let root = Root::mounted(directory, PERSIST, owner);
    let session = match command {
        Some(command) => scp::serve(root, command),
        None => {
            let rest = RestOfNode { attachment: Arc::clone(attachment), request: request.clone() };
            split::serve(root, Arc::new(rest))
        }
    };
    session.map(Some).map_err(|error| failed(&name, error))
}

fn failed(name: &crate::names::NodeName, reason: impl std::fmt::Display) -> BackendError {
    BackendError::Unsupported(format!("/persist of node {name}: {reason}"))
}

/// Opens the directory. Blocks.
fn find(node: &NodeRecord) -> Persist {
    if !node.mounts_persist {
        return Persist::Absent("it has none, its setting mount.persist is false".to_owned());
    }
    if let Some(path) = &node.persist {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        return match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Persist::Directory(directory),
            Err(error) => Persist::Absent(format!(
                "{}: {error}; see persist of [nodes.{}]",
                path.display(),
                node.name
            )),
        };
    }
    let Some(mac) = &node.mac else { return Persist::Unknown };
    open_beneath(&node.options.persist_root, mac)
}

/// Opens `<root>/<mac>/persist`. It may be a link, which is followed this once and must stay beneath
/// the root; it is the WalT server's, not the node's.
fn open_beneath(root: &Path, mac: &str) -> Persist {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(root, flags, Mode::empty()) else {
        return Persist::Unknown;
    };
    let open = |path: &Path, flags: OFlags, resolve: ResolveFlags| {
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&directory, path, flags, Mode::empty(), resolve)
    };
    let link = Path::new(mac).join("persist");
    let as_it_is = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match open(&link, as_it_is, ResolveFlags::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Persist::Unknown,
        Err(error) => return refused(root, &link, error),
    };
    let target = match rustix::fs::readlinkat(&found, "", Vec::new()) {
        Ok(target) => target.to_string_lossy().into_owned(),
        // No link: the directory itself.
        Err(Errno::NOENT | Errno::INVAL) => {
            return match open(&link, flags, ResolveFlags::NO_SYMLINKS) {
                Ok(directory) => Persist::Directory(directory),
                Err(error) => refused(root, &link, error),
            };
        }
        Err(error) => return refused(root, &link, error),
    };
    let target = match Path::new(&target).strip_prefix(root) {
        Ok(beneath) => beneath.to_owned(),
        Err(_) => Path::new(mac).join(target),
    };
    match open(&target, flags, ResolveFlags::NO_SYMLINKS) {
        Ok(directory) => Persist::Directory(directory),
        Err(Errno::NOENT) => {
            Persist::Absent("it has none, its directory does not exist on the server".to_owned())
        }
        Err(error) => refused(root, &link, error),
    }
}

fn refused(root: &Path, path: &Path, error: Errno) -> Persist {
    let path = root.join(path);
    warn!(path = %path.display(), %error, "the /persist of a node is not served");
    let reason = match error {
        Errno::XDEV | Errno::LOOP => format!("it leads out of {}", root.display()),
        error => error.to_string(),
    };
    Persist::Absent(format!("{}: {reason}", path.display()))
}

/// The files of a node around its /persist, as its own SFTP server shows them.
struct RestOfNode {
    attachment: Arc<NodeAttachment>,
    request: SessionRequest,
}

#[async_trait]
impl split::Surroundings for RestOfNode {
    fn name(&self) -> String {
        format!("node {}", self.attachment.name)
    }

    async fn open(&self, waits: bool, console: &mut dyn Console) -> Result<BackendSession, String> {
        let attachment = &self.attachment;
        let started = if waits {
            let node = attachment.look_up().map_err(words::of)?;
            attachment.start_on(&node, &self.request, console).await
        } else {
            self.start_if_up().await
        };
        started.map_err(words::of)
    }
}

impl RestOfNode {
    /// Does not wait for it to boot.
    async fn start_if_up(&self) -> Result<BackendSession, BackendError> {
        let attachment = &self.attachment;
        let node = attachment.look_up()?;
        let bound = node.options.connect;
        let (_, channel) = match attachment.open_on_live(&node).await {
            Some(opened) => opened,
            None => {
                let turn = timeout(bound, attachment.upstreams.silent_turn()).await;
                let turn = turn.map_err(|_| {
                    let reason = "it is waited for in another session".to_owned();
                    attachment.failed(NodeFailure::Unreachable(reason))
                })?;
                let upstream = attachment.connect_if_up(&node, turn).await?;
                let channel = upstream.open_session(bound).await;
                let channel = channel.map_err(|failure| attachment.failed(failure))?;
                (upstream, channel)
            }
        };
        session::start(channel, &self.request, bound)
            .await
            .map_err(|failure| attachment.failed(failure))
    }
}
