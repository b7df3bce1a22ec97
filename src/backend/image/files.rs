//! Files in containers: sftp and scp are served from here, whatever the image has.
//!
//! The container's root directory is reached through /proc of this host, so the engine must run
//! on it. Nothing of the image is run for it, so that any image will do.

use std::path::Path;
use std::sync::Arc;

use super::container::Container;
use super::error::ImageError;
use super::host_process::OutOfReach;
use super::lent::Lent;
use super::{host_process, session};
use crate::backend::{BackendSession, Program, SessionRequest};
use crate::sftp::{self, Root, scp};

/// The subsystem's name.
pub(super) const SFTP: &str = "sftp";

/// Whose home relative paths start in.
const USER: &str = "root";
/// Where a shell finds programs.
const PROGRAM_DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// How a client of rsync starts the other end.
const RSYNC: &[u8] = b"rsync --server ";
/// Of proc(5), when numbers of users mean the same in the container as here.
const SAME_USERS: [&str; 3] = ["0", "0", "4294967295"];

/// Starts a session in a container that runs. `lent` are agent and display of its client.
pub(super) async fn start_beside(
    container: &Arc<Container>,
    request: &SessionRequest,
    lent: Lent,
) -> Result<BackendSession, ImageError> {
    match &request.program {
        Program::Subsystem(_) => return Ok(sftp::serve(root_of(container).await?)),
        Program::Exec(line) if request.pty.is_none() => {
            if let Some(command) = scp::Command::parse(line) {
                let root = root_of(container).await?;
                return scp::serve(root, command).map_err(|error| out_of_reach(container, error));
            }
            if line.starts_with(RSYNC) {
                has_rsync(container).await?;
            }
        }
        Program::Exec(_) | Program::Shell => {}
    }
    Ok(session::start_beside(container, request, lent).await?)
}

async fn has_rsync(container: &Container) -> Result<(), ImageError> {
    let root = match root_of(container).await {
        Ok(root) => root,
        Err(error) => {
            // The image's shell will tell.
            tracing::debug!(%error, "whether an image has rsync");
            return Ok(());
        }
    };
    let found = tokio::task::spawn_blocking(move || {
        PROGRAM_DIRECTORIES
            .iter()
            .any(|directory| root.has_program(format!("{directory}/rsync").as_bytes()))
    });
    if found.await.unwrap_or(false) {
        return Ok(());
    }
    Err(ImageError::NoRsync { image: container.base.shown.clone() })
}

/// The root directory of a container that runs.
pub(super) async fn root_of(container: &Container) -> Result<Root, ImageError> {
    let home = container.inspection.working_dir;
    let opened = host_process::open_of_first(container, move |proc| open_root(proc, home));
    let root = opened.await.map_err(|error| match error {
        OutOfReach::Engine(error) => error.into(),
        OutOfReach::Because(reason) => out_of_reach(container, reason),
    })?;
    Ok(root.with_room(container.disk.as_ref().map(|disk| disk.room())))
}

fn out_of_reach(container: &Container, reason: impl ToString) -> ImageError {
    ImageError::FilesOutOfReach { image: container.base.shown.clone(), reason: reason.to_string() }
}

/// Blocks on /proc.
fn open_root(proc: &Path, home: &str) -> Result<Root, String> {
    let users = std::fs::read_to_string(proc.join("uid_map")).map_err(|error| error.to_string())?;
    if !users.split_whitespace().eq(SAME_USERS) {
        return Err("the engine gives its users other numbers than they have here".to_owned());
    }
    let root =
        Root::open(&proc.join("root"), home.as_bytes()).map_err(|error| error.to_string())?;
    Ok(root.at_home_of(USER))
}
