//! Looks into the files of a container, which may never have run.

use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder,
};
use futures_util::StreamExt;

use super::connection::{CALL, error_of};
use super::hijack::Call;
use super::{DockerEngine, archive};
use crate::backend::image::engine::{EngineError, FileStat};

/// Bits of Go's `io/fs.FileMode`, as the API prints it.
const MODE_DIRECTORY: u32 = 1 << 31;
const MODE_SYMLINK: u32 = 1 << 27;
/// As many symbolic links as Linux follows, path_resolution(7).
const MAX_LINKS: usize = 40;

/// A file of a container, `None` when there is none.
pub(super) async fn stat(
    engine: &DockerEngine,
    container: &str,
    path: &str,
) -> Result<Option<FileStat>, EngineError> {
    let info = path_info(engine, container, path).await?;
    Ok(info.map(|(_, mode)| FileStat {
        is_directory: mode & MODE_DIRECTORY != 0,
        is_executable: mode & MODE_DIRECTORY == 0 && mode & 0o111 != 0,
    }))
}

/// The content of a regular file, refused past `limit` bytes.
pub(super) async fn read(
    engine: &DockerEngine,
    container: &str,
    path: &str,
    limit: usize,
) -> Result<Vec<u8>, EngineError> {
    let call = Call { operation: "reading", object: path };
    let (path, _) = path_info(engine, container, path).await?.ok_or_else(|| {
        EngineError::NotFound { operation: call.operation, object: path.to_owned() }
    })?;
    let connection = engine.connection().await?;
    let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
    let mut stream =
        std::pin::pin!(connection.docker.download_from_container(container, Some(options)));
    let mut archive = Vec::new();
    while let Some(piece) = stream.next().await {
        archive.extend_from_slice(&piece.map_err(|error| error_of(call, error, CALL))?);
        // The archive's own blocks come on top of the content.
        if archive.len() > limit.saturating_add(16 << 10) {
            return Err(call.protocol(format!("larger than {limit} bytes")));
        }
    }
    archive::first_file(&archive).ok_or_else(|| call.protocol("not a regular file"))
}

/// Where a path leads, links followed, and the mode of what is there.
async fn path_info(
    engine: &DockerEngine,
    container: &str,
    path: &str,
) -> Result<Option<(String, u32)>, EngineError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let stat = engine
            .call("inspecting", &path, async |connection| {
                let options = ContainerArchiveInfoOptionsBuilder::new().path(&path).build();
                connection.docker.get_container_archive_info(container, Some(options)).await
            })
            .await;
        match stat {
            Ok(stat) if stat.file_mode & MODE_SYMLINK != 0 && stat.link_target != path => {
                path = resolved(&path, &stat.link_target);
            }
            Ok(stat) => return Ok(Some((path, stat.file_mode))),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Where a link leads. Docker prints the end of a chain as an absolute path, Podman what the
/// link says.
fn resolved(link: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let directory = link.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{directory}/{target}")
}
