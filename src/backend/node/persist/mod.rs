//! /persist of a node, served from this machine's own disk: sftp, scp and rsync of its files need no
//! node.
//!
//! Everything else of the node is still the node's. Who logs in as somebody other than root may do
//! on the node what that user may, and gets all of it from the node.

mod directory;
mod rest;

use std::ffi::OsString;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use self::directory::{Persist, find};
use self::rest::RestOfNode;
use super::NodeAttachment;
use crate::backend::{BackendError, BackendSession, Console, Program, SessionRequest};
use crate::config::FileOwner;
use crate::inventory::NodeRecord;
use crate::names::{Login, NodeName};
use crate::sftp::{Owner, Root, scp, split};
use crate::{rsync, sftp};

/// Its name in `/` of a node.
const PERSIST: &[u8] = b"persist";
/// The subsystem's name.
const SFTP: &str = "sftp";
/// The login whose processes may do with /persist what this one may: the export has
/// `no_root_squash`.
const ROOT: &str = "root";

/// What a client wants that may be served here.
enum Wanted {
    /// All files, in one view.
    Sftp,
    Scp(scp::Command),
    Rsync(rsync::Command),
}

impl Wanted {
    /// `None`: something that is the node's in any case.
    fn by(request: &SessionRequest) -> Option<Self> {
        match &request.program {
            Program::Subsystem(name) if name == SFTP => Some(Self::Sftp),
            Program::Exec(line) if request.pty.is_none() => {
                let scp = scp::Command::parse(line).filter(|command| command.is_within(PERSIST));
                let rsync = || rsync::Command::parse(line);
                scp.map(Self::Scp).or_else(|| {
                    rsync().filter(|command| command.is_within(PERSIST)).map(Self::Rsync)
                })
            }
            Program::Exec(_) | Program::Shell | Program::Subsystem(_) => None,
        }
    }
}

/// Starts a session that can be served here. `None`: it is the node's.
pub(super) async fn start(
    attachment: &Arc<NodeAttachment>,
    node: &NodeRecord,
    login: &Login,
    request: &SessionRequest,
    console: &mut dyn Console,
) -> Result<Option<BackendSession>, BackendError> {
    if login.as_str() != ROOT {
        return Ok(None);
    }
    let Some(wanted) = Wanted::by(request) else { return Ok(None) };
    let (record, name) = (node.clone(), node.name.clone());
    // On a thread of its own: the disk may be slow.
    let found = spawn_blocking(move || find(&record)).await;
    let directory = match (found.map_err(|error| failed(&name, error))?, &wanted) {
        (Persist::Directory(directory), _) => directory,
        (Persist::Absent(reason), Wanted::Sftp) => {
            debug!(node = %name, reason, "no /persist is served");
            let session = attachment.start_on(node, request, console).await?;
            let reason = failed(&name, reason).to_string();
            return Ok(Some(sftp::unmounted(session, PERSIST, reason)));
        }
        (Persist::Absent(reason), _) => return Err(failed(&name, reason)),
        (Persist::Unknown, _) => return Ok(None),
    };
    let owner = node.options.persist_owner.map(|FileOwner { uid, gid }| Owner { uid, gid });
    let session = match wanted {
        Wanted::Sftp => {
            let rest = RestOfNode { attachment: Arc::clone(attachment), request: request.clone() };
            split::serve(Root::mounted(directory, PERSIST, owner), Arc::new(rest))
        }
        Wanted::Scp(command) => scp::serve(Root::mounted(directory, PERSIST, owner), command),
        Wanted::Rsync(command) => return start_rsync(&name, directory, owner, command).await,
    };
    session.map(Some).map_err(|error| failed(&name, error))
}

/// Runs the server's rsync. Without one, or where it cannot be shut in, the node has its own.
async fn start_rsync(
    name: &NodeName,
    directory: OwnedFd,
    owner: Option<Owner>,
    command: rsync::Command,
) -> Result<Option<BackendSession>, BackendError> {
    // Wildcards and links are looked up on the disk.
    let expanded = spawn_blocking(move || {
        let served = directory.try_clone()?;
        let root = Root::mounted(directory, PERSIST, owner);
        std::io::Result::Ok((served, command.arguments(&root, PERSIST)))
    });
    let expanded = expanded.await.map_err(|error| failed(name, error))?;
    let (directory, arguments): (_, Option<Vec<OsString>>) =
        expanded.map_err(|error| failed(name, error))?;
    let Some(arguments) = arguments else {
        debug!(node = %name, "a path in /persist leads elsewhere: rsync is the node's");
        return Ok(None);
    };
    match rsync::serve(directory, owner, arguments).await {
        Ok(session) => Ok(Some(session)),
        Err(error) => {
            warn!(node = %name, %error, "rsync of /persist goes through the node");
            Ok(None)
        }
    }
}

fn failed(name: &NodeName, reason: impl std::fmt::Display) -> BackendError {
    BackendError::Unsupported(format!("/persist of node {name}: {reason}"))
}
