//! What an image offers, found out without running anything of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::containers::Containers;
use super::engine::Engine;
use super::error::ImageError;
use super::ownership::state_error;

/// Starts the operating system as process 1 of a container.
pub(super) const OS_START: &str = "/bin/walt-image-shell-start";
/// Ends it.
pub(super) const OS_SHUTDOWN: &str = "/bin/walt-image-shell-shutdown";

const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];
const CPUINFO: &str = "/etc/cpuinfo";
/// More than the description of any CPU that a testbed node has.
const CPUINFO_BYTES: usize = 1 << 20;
const CPUINFO_DIRECTORY: &str = "cpuinfo";
const HOME: &str = "/root";
const ROOT: &str = "/";

/// The shell at this path, if it is one of those that are looked for.
pub(super) fn shell(path: &str) -> Option<&'static str> {
    SHELLS.into_iter().find(|shell| *shell == path)
}

/// The working directory at this path, if it is one of those that are used.
pub(super) fn working_dir(path: &str) -> Option<&'static str> {
    [HOME, ROOT].into_iter().find(|directory| *directory == path)
}

/// What an image offers. Holds for one image identifier, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inspection {
    /// The shell, if there is one.
    pub(super) shell: Option<&'static str>,
    /// It can start its operating system in a container.
    pub(super) boots_an_os: bool,
    /// Root's home, or the root directory.
    pub(super) working_dir: &'static str,
    /// A copy, on the host, of what the image wants to be seen as /proc/cpuinfo.
    pub(super) cpuinfo: Option<PathBuf>,
}

/// Inspects images, each once.
pub(super) struct Inspections {
    directory: PathBuf,
    known: Mutex<HashMap<String, Arc<Inspection>>>,
}

impl Inspections {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self { directory: state_dir.join(CPUINFO_DIRECTORY), known: Mutex::default() }
    }

    pub(super) async fn of(
        &self,
        image_id: &str,
        containers: &Containers,
    ) -> Result<Arc<Inspection>, ImageError> {
        if let Some(known) = self.known().get(image_id) {
            return Ok(Arc::clone(known));
        }
        let engine = Arc::clone(containers.engine());
        let (container, claim) = containers.create_for_inspection(image_id).await?;
        let inspected = self.inspect(&*engine, &container, image_id).await;
        match engine.remove(&container).await {
            Ok(()) => claim.settle(),
            // Found and removed later.
            Err(error) => {
                tracing::warn!(container, %error, "container of an inspection is left behind");
            }
        }
        let inspected = Arc::new(inspected?);
        self.known().insert(image_id.to_owned(), Arc::clone(&inspected));
        Ok(inspected)
    }

    async fn inspect(
        &self,
        engine: &dyn Engine,
        container: &str,
        image_id: &str,
    ) -> Result<Inspection, ImageError> {
        let stat = |path| engine.stat(container, path);
        let is_executable = async |path| {
            Ok::<_, ImageError>(stat(path).await?.is_some_and(|file| file.is_executable))
        };
        let mut shell = None;
        for path in SHELLS {
            if is_executable(path).await? {
                shell = Some(path);
                break;
            }
        }
        let boots_an_os = is_executable(OS_START).await? && is_executable(OS_SHUTDOWN).await?;
        let has_home = stat(HOME).await?.is_some_and(|file| file.is_directory);
        let cpuinfo = match stat(CPUINFO).await? {
            Some(file) if !file.is_directory => {
                let content = engine.read_file(container, CPUINFO, CPUINFO_BYTES).await?;
                Some(self.keep_cpuinfo(image_id, &content).await?)
            }
            _ => None,
        };
        Ok(Inspection {
            shell,
            boots_an_os,
            working_dir: if has_home { HOME } else { ROOT },
            cpuinfo,
        })
    }

    /// A mount needs a file on the host, for as long as the container lives.
    async fn keep_cpuinfo(&self, image_id: &str, content: &[u8]) -> Result<PathBuf, ImageError> {
        let failed = |path: &Path, error| state_error("writing", path, error);
        tokio::fs::create_dir_all(&self.directory)
            .await
            .map_err(|error| failed(&self.directory, error))?;
        let path = self.directory.join(image_id);
        tokio::fs::write(&path, content).await.map_err(|error| failed(&path, error))?;
        std::path::absolute(&path).map_err(|error| failed(&path, error))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Inspection>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
