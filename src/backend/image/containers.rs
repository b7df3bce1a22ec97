//! Makes containers, and finds those that were left behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

use super::container::{BaseImage, Container, Ending, Mode};
use super::engine::{ContainerSpec, Engine, EngineError, ProcessStreams};
use super::error::ImageError;
use super::inspection::{Inspection, OS_START};
use super::ownership::Ownership;
use super::slots::AccountSlots;
use crate::backend::Caller;
use crate::config::ImageDefaults;

const LABEL_GATEWAY: &str = "waltgate.gateway";
const LABEL_RUN: &str = "waltgate.run";
const LABEL_ACCOUNT: &str = "waltgate.account";
const LABEL_IMAGE: &str = "waltgate.image";
const LABEL_SESSION: &str = "waltgate.session";
/// Starts the name of every container. Labels of a container can come from its image as well,
/// names cannot.
const NAME_PREFIX: &str = "waltgate-";

/// Keeps a shell that is process 1 alive, with nothing but the shell itself, until its input ends.
const WAIT_FOR_EOF: &str = "while read -r line; do :; done";

/// What a new container needs besides its image.
pub(super) struct NewContainer<'a> {
    pub(super) caller: &'a Caller,
    pub(super) base: BaseImage,
    pub(super) inspection: Arc<Inspection>,
    pub(super) mode: Mode,
    pub(super) shell: &'static str,
    /// Process 1, for [`Mode::ShellIsFirst`].
    pub(super) argv: Vec<String>,
    /// Its variables.
    pub(super) env: Vec<String>,
    pub(super) defaults: &'a ImageDefaults,
}

/// Makes containers and finds those that were left behind.
pub(super) struct Containers {
    engine: Arc<dyn Engine>,
    ownership: Ownership,
    slots: AccountSlots,
    made: AtomicU64,
}

impl Containers {
    pub(super) fn new(engine: Arc<dyn Engine>, ownership: Ownership, slots: AccountSlots) -> Self {
        Self { engine, ownership, slots, made: AtomicU64::new(0) }
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// A container that will not be started.
    pub(super) async fn create_for_inspection(&self, image_id: &str) -> Result<String, ImageError> {
        let spec = ContainerSpec {
            image_id: image_id.to_owned(),
            argv: vec!["/".to_owned()],
            working_dir: "/".to_owned(),
            ..self.spec().await?
        };
        Ok(self.engine.create(&spec).await?)
    }

    /// Makes and starts a container. The streams are those of process 1 when it is the user's.
    pub(super) async fn start(
        &self,
        new: NewContainer<'_>,
    ) -> Result<(Container, Option<ProcessStreams>), ImageError> {
        let slot = self.slots.take(new.caller.account())?;
        let mut spec = self.spec().await?;
        spec.labels.extend([
            (LABEL_ACCOUNT.to_owned(), new.caller.account().to_string()),
            (LABEL_IMAGE.to_owned(), new.base.fullname.clone()),
            (LABEL_SESSION.to_owned(), new.caller.connection.to_string()),
        ]);
        spec.image_id.clone_from(&new.base.id);
        spec.argv = match new.mode {
            Mode::ShellIsFirst => new.argv,
            Mode::Kept => [new.shell, "-c", WAIT_FOR_EOF].map(str::to_owned).to_vec(),
            Mode::Os => vec![OS_START.to_owned()],
        };
        spec.env = new.env;
        spec.working_dir = new.inspection.working_dir.to_owned();
        spec.hostname.clone_from(&new.defaults.hostname);
        spec.tty = matches!(new.mode, Mode::ShellIsFirst | Mode::Os);
        spec.stdin = matches!(new.mode, Mode::ShellIsFirst | Mode::Kept);
        spec.memory = new.defaults.memory;
        spec.pids = new.defaults.pids;
        spec.network = new.defaults.network;
        spec.read_only_binds = cpuinfo_bind(&new.inspection);
        spec.boots_an_os = new.mode == Mode::Os;

        let id = self.engine.create(&spec).await?;
        match self.run(&id, new.mode).await {
            Ok((streams, tasks, ended)) => Ok((
                Container {
                    engine: Arc::clone(&self.engine),
                    id,
                    mode: new.mode,
                    base: new.base,
                    inspection: new.inspection,
                    shell: new.shell,
                    ended,
                    tasks,
                    signalled: AtomicBool::new(false),
                    slot: Arc::new(Mutex::new(Some(slot))),
                },
                streams,
            )),
            Err(error) => {
                if let Err(error) = self.engine.remove(&id).await {
                    tracing::warn!(container = id, %error, "container is left behind");
                }
                Err(error.into())
            }
        }
    }

    #[allow(clippy::type_complexity)]
    async fn run(
        &self,
        id: &str,
        mode: Mode,
    ) -> Result<
        (Option<ProcessStreams>, Vec<AbortHandle>, watch::Receiver<Option<Ending>>),
        EngineError,
    > {
        let streams = match mode {
            // Before the start, so that nothing is missed.
            Mode::ShellIsFirst | Mode::Kept => {
                Some(self.engine.attach(id, mode == Mode::ShellIsFirst).await?)
            }
            Mode::Os => None,
        };
        self.engine.start(id).await?;
        let (ending, ended) = watch::channel(None);
        let mut tasks = vec![
            tokio::spawn(watch_for_the_end(Arc::clone(&self.engine), id.to_owned(), ending))
                .abort_handle(),
        ];
        let streams = match (mode, streams) {
            (Mode::Kept, Some(mut streams)) => {
                // Holds the input open, which is what process 1 waits on.
                tasks.push(
                    tokio::spawn(async move { while streams.output.next().await.is_some() {} })
                        .abort_handle(),
                );
                None
            }
            (_, streams) => streams,
        };
        Ok((streams, tasks, ended))
    }

    async fn spec(&self) -> Result<ContainerSpec, ImageError> {
        let run = self.ownership.run().await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(ContainerSpec {
            name: format!("{NAME_PREFIX}{}-{number}", run.id),
            labels: BTreeMap::from([
                (LABEL_GATEWAY.to_owned(), run.gateway.clone()),
                (LABEL_RUN.to_owned(), run.id.clone()),
            ]),
            ..ContainerSpec::default()
        })
    }

    /// Removes what ended runs of this gateway left behind; returns how many containers. One that
    /// cannot be removed does not keep the others.
    pub(super) async fn reap(&self) -> Result<usize, ImageError> {
        let run = self.ownership.run().await?;
        let containers = self.engine.containers(LABEL_GATEWAY, &run.gateway).await?;
        let mut removed = 0;
        let mut failed = None;
        for container in containers {
            let owner = container.labels.get(LABEL_RUN).map_or("", String::as_str);
            let is_ours = container.name.starts_with(&format!("{NAME_PREFIX}{owner}-"));
            if !is_ours || run.is_alive(owner) {
                continue;
            }
            if let Err(error) = self.engine.remove(&container.id).await {
                failed = Some(error);
                continue;
            }
            tracing::info!(
                container = container.name,
                image = container.labels.get(LABEL_IMAGE),
                account = container.labels.get(LABEL_ACCOUNT),
                "removed a container left by an earlier run"
            );
            removed += 1;
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        for other in run.all() {
            if !run.is_alive(&other) {
                run.forget(&other);
            }
        }
        Ok(removed)
    }
}

async fn watch_for_the_end(
    engine: Arc<dyn Engine>,
    id: String,
    ending: watch::Sender<Option<Ending>>,
) {
    let end = match engine.wait(&id).await {
        Ok(code) => Ending::Exited(code),
        Err(error) => {
            tracing::warn!(container = id, %error, "lost sight of a container");
            Ending::Lost
        }
    };
    ending.send_replace(Some(end));
}

fn cpuinfo_bind(inspection: &Inspection) -> Vec<(PathBuf, String)> {
    inspection.cpuinfo.iter().map(|path| (path.clone(), "/proc/cpuinfo".to_owned())).collect()
}
