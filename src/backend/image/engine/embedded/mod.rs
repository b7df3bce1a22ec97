//! Containers without a container engine: images in a store of the gateway's own, processes made
//! by libcontainer (the library of youki). Nothing runs but the gateway and, beside each
//! container, its [`supervisor`].

mod architecture;
mod calls;
mod cgroups;
mod containers;
mod message;
mod record;
pub mod store;
mod streams;
mod supervised;
pub mod supervisor;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::OnceCell;
use tokio::time::timeout;

pub use self::architecture::of_this_machine as this_machines_architecture;
use self::containers::Containers;
use self::store::{Store, StoredImage};
use self::supervised::{Process as RunningProcess, Standing, Supervised};
use super::{EngineError, ExecSpec, ImageDetails};
use crate::error_chain::chain;
use crate::sftp::Root;

/// For a container that is killed to be gone.
const END: Duration = Duration::from_secs(30);

/// This program also after it was replaced on disk, proc(5).
const SELF: &str = "/proc/self/exe";

/// What filters of the kernel can answer, seccomp(2).
const FILTERS: &str = "/proc/sys/kernel/seccomp/actions_avail";

/// The engine inside the gateway.
pub struct EmbeddedEngine {
    root: PathBuf,
    /// Whose hidden subcommand is the supervisor.
    program: PathBuf,
    opened: OnceCell<Opened>,
    /// A slot for each container that was used by this process, so that nobody starts two
    /// supervisors for one.
    supervised: Mutex<HashMap<String, Slot>>,
    programs: Mutex<HashMap<String, Prepared>>,
    numbers: AtomicU64,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Supervised>>>>;

#[derive(Clone)]
struct Opened {
    store: Store,
    containers: Containers,
}

/// A program beside process 1.
#[derive(Clone)]
struct Prepared {
    container: String,
    spec: ExecSpec,
    /// Once it was started.
    process: Option<Arc<RunningProcess>>,
}

/// What is asked of what, for messages.
#[derive(Clone, Copy)]
struct Call<'a> {
    operation: &'static str,
    object: &'a str,
}

impl Call<'_> {
    fn refused(self, reason: impl ToString) -> EngineError {
        EngineError::Refused {
            operation: self.operation,
            object: self.object.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn failed(self, error: &io::Error) -> EngineError {
        if error.kind() == io::ErrorKind::NotFound {
            let object = self.object.to_owned();
            return EngineError::NotFound { operation: self.operation, object };
        }
        self.refused(chain(error))
    }

    fn timed_out(self, waited: Duration) -> EngineError {
        EngineError::TimedOut { operation: self.operation, object: self.object.to_owned(), waited }
    }
}

impl EmbeddedEngine {
    /// The engine that keeps everything in this directory. Does nothing yet.
    pub fn new(root: PathBuf) -> Self {
        Self::supervised_by(PathBuf::from(SELF), root)
    }

    /// The same within another program than the gateway's, which is told here.
    pub fn supervised_by(program: PathBuf, root: PathBuf) -> Self {
        Self {
            root,
            program,
            opened: OnceCell::new(),
            supervised: Mutex::default(),
            programs: Mutex::default(),
            numbers: AtomicU64::new(0),
        }
    }

    async fn opened(&self) -> Result<&Opened, EngineError> {
        self.opened
            .get_or_try_init(|| async {
                usable()?;
                let root = self.root.clone();
                let opening = tokio::task::spawn_blocking(move || {
                    // Without links: those would lead out of a container's mount namespace.
                    let root = std::fs::create_dir_all(&root)
                        .and_then(|()| std::fs::canonicalize(&root))
                        .map_err(|error| chain(&error))?;
                    let store = Store::open(&root).map_err(|error| chain(&error))?;
                    let containers = Containers::open(&root).map_err(|error| chain(&error))?;
                    Ok(Opened { store, containers })
                });
                let opened = opening.await.map_err(|error| unavailable(error.to_string()))?;
                opened.map_err(|reason: String| {
                    unavailable(format!("embedded: {}: {reason}", self.root.display()))
                })
            })
            .await
    }

    /// Does something that blocks.
    async fn blocking<T: Send + 'static>(
        &self,
        call: Call<'_>,
        work: impl FnOnce(&Opened) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, EngineError> {
        let opened = self.opened().await?.clone();
        let done = tokio::task::spawn_blocking(move || work(&opened)).await;
        match done.map_err(|error| call.refused(error))? {
            Ok(done) => Ok(done),
            Err(Failure::System(error)) => Err(call.failed(&error)),
            Err(Failure::Store(error)) if error.is_not_found() => Err(EngineError::NotFound {
                operation: call.operation,
                object: call.object.to_owned(),
            }),
            Err(Failure::Store(error)) => Err(call.refused(chain(&error))),
        }
    }

    fn slot(&self, container: &str) -> Slot {
        Arc::clone(lock(&self.supervised).entry(container.to_owned()).or_default())
    }

    /// The supervisor that this process has for a container.
    async fn living(&self, container: &str) -> Option<Arc<Supervised>> {
        let slot = lock(&self.supervised).get(container).map(Arc::clone)?;
        let supervised = slot.lock().await.clone();
        supervised.filter(|supervised| !supervised.is_gone())
    }

    /// The same, or a new one.
    async fn supervisor(
        &self,
        call: Call<'_>,
        container: &str,
    ) -> Result<Arc<Supervised>, EngineError> {
        let containers = &self.opened().await?.containers;
        let directory = containers.directory(container).map_err(|error| call.failed(&error))?;
        let slot = self.slot(container);
        let mut slot = slot.lock().await;
        if let Some(supervised) = &*slot {
            if matches!(supervised.first.standing(), Standing::Prepared | Standing::Running(_))
                && !supervised.is_gone()
            {
                return Ok(Arc::clone(supervised));
            }
            // It is about to end.
            timeout(END, supervised.gone()).await.map_err(|_| call.timed_out(END))?;
        }
        let new = Supervised::start(&self.program, &directory)
            .await
            .map_err(|error| call.failed(&error))?;
        *slot = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Looks into the files of a container, which need not run.
    async fn look<T: Send + 'static>(
        &self,
        call: Call<'_>,
        container: &str,
        look: impl FnOnce(&Root) -> io::Result<T> + Send + 'static,
    ) -> Result<T, EngineError> {
        let supervised = self.supervisor(call, container).await?;
        let (pid, id) = (supervised.pid, container.to_owned());
        self.blocking(call, move |opened| {
            // Its mount namespace is the supervisor's.
            let merged = opened.containers.directory(&id)?.merged();
            let merged = merged.strip_prefix("/").unwrap_or(&merged);
            let path = PathBuf::from(format!("/proc/{pid}/root")).join(merged);
            Ok(look(&Root::open(&path, b"/")?)?)
        })
        .await
    }

    fn program(&self, call: Call<'_>, exec: &str) -> Result<Prepared, EngineError> {
        lock(&self.programs).get(exec).cloned().ok_or_else(|| EngineError::NotFound {
            operation: call.operation,
            object: exec.to_owned(),
        })
    }

    async fn signal(
        &self,
        call: Call<'_>,
        container: &str,
        signal: Signal,
    ) -> Result<(), EngineError> {
        let Some(supervised) = self.living(container).await else {
            return Err(call.refused("it does not run"));
        };
        self.blocking(call, move |_| Ok(supervised.signal(signal)?)).await
    }
}

/// Whether this machine lets this process run containers.
fn usable() -> Result<(), EngineError> {
    if !rustix::process::geteuid().is_root() {
        return Err(unavailable("embedded: only root can run containers".to_owned()));
    }
    let file_systems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // Where it is a module, the first mount loads it.
    let may_be_loaded = std::path::Path::new("/proc/modules").exists();
    if !file_systems.contains("\toverlay\n") && !may_be_loaded {
        return Err(unavailable("embedded: the kernel has no overlay file system".to_owned()));
    }
    if supervisor::FILTERS_SYSTEM_CALLS && !std::path::Path::new(FILTERS).exists() {
        return Err(unavailable(
            "embedded: the kernel has no filters of system calls (CONFIG_SECCOMP_FILTER)"
                .to_owned(),
        ));
    }
    Ok(())
}

fn unavailable(reason: String) -> EngineError {
    EngineError::Unavailable { tried: vec![reason] }
}

/// What goes wrong in the parts that block.
enum Failure {
    System(io::Error),
    Store(store::StoreError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<store::StoreError> for Failure {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error)
    }
}

fn details(image: &StoredImage) -> ImageDetails {
    ImageDetails {
        id: image.id.clone(),
        architecture: image.config.architecture().to_string(),
        references: image.references.clone(),
        labels: image
            .config
            .config()
            .as_ref()
            .and_then(|config| config.labels().clone())
            .unwrap_or_default()
            .into_iter()
            .collect(),
        layers: image.layers.len(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
