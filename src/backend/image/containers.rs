//! Makes containers, and finds those that were left behind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

use super::boot;
use super::container::{BaseImage, Container, Ending, Mode, Tenure};
use super::disk::Disk;
use super::engine::{
    ContainerSpec, ContainerSummary, Engine, EngineError, ImageDetails, ProcessStreams,
};
use super::error::ImageError;
use super::inspection::{self, Inspection, OS_START};
use super::naming::{SaveTarget, shown_to};
use super::ownership::{Claim, Ownership};
use super::slots::AccountSlots;
use crate::backend::Caller;
use crate::config::ImageDefaults;
use crate::names::AccountName;

const LABEL_GATEWAY: &str = "waltgate.gateway";
const LABEL_RUN: &str = "waltgate.run";
const LABEL_ACCOUNT: &str = "waltgate.account";
const LABEL_IMAGE: &str = "waltgate.image";
const LABEL_SAVE_AS: &str = "waltgate.save-as";
const LABEL_PEER: &str = "waltgate.peer";
const LABEL_MODE: &str = "waltgate.mode";
const LABEL_SHELL: &str = "waltgate.shell";
const LABEL_DIRECTORY: &str = "waltgate.directory";
/// The container's name, in case its files are found in an image.
const LABEL_NAME: &str = "waltgate.container";
/// Starts the name of every container. Labels of a container can come from its image as well,
/// names cannot.
const NAME_PREFIX: &str = "waltgate-";

/// Keeps a shell that is process 1 alive, with nothing but the shell itself, until its input ends.
///
/// Every orphan becomes a child of process 1. A shell that reads does not wait for its children; one
/// that waits for one of them does for all. The reader may be killed by what runs beside it.
const WAIT_FOR_EOF: &str =
    "exec 3<&0; until { while read -r line; do :; done; } <&3 & wait $!; do :; done";

/// What a new container needs besides its image.
pub(super) struct NewContainer<'a> {
    pub(super) caller: &'a Caller,
    pub(super) base: BaseImage,
    /// Where a save goes that is given no other name.
    pub(super) same: SaveTarget,
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

    /// A container that will not be started, in use as long as the claim is held.
    pub(super) async fn create_for_inspection(
        &self,
        image_id: &str,
    ) -> Result<(String, Claim), ImageError> {
        let (spec, claim) = self.spec().await?;
        let spec = ContainerSpec {
            image_id: image_id.to_owned(),
            argv: vec!["/".to_owned()],
            working_dir: "/".to_owned(),
            ..spec
        };
        Ok((self.engine.create(&spec).await?, claim))
    }

    /// Makes and starts a container. The streams are those of process 1 when it is the user's.
    pub(super) async fn start(
        &self,
        new: NewContainer<'_>,
    ) -> Result<(Container, Option<ProcessStreams>), ImageError> {
        let slot = self.slots.take(new.caller.account())?;
        let (mut spec, claim) = self.spec().await?;
        let peer = new.caller.peer.ip().to_string();
        // Enough to go on with it after the gateway was killed.
        spec.labels.extend(
            [
                (LABEL_ACCOUNT, new.caller.account().as_str()),
                (LABEL_IMAGE, &new.base.fullname),
                (LABEL_SAVE_AS, &new.same.shown),
                (LABEL_PEER, &peer),
                (LABEL_MODE, new.mode.label()),
                (LABEL_SHELL, new.shell),
                (LABEL_DIRECTORY, new.inspection.working_dir),
            ]
            .map(|(label, value)| (label.to_owned(), value.to_owned())),
        );
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
        spec.cpus = new.defaults.cpus;
        spec.network = new.defaults.network;
        spec.read_only_binds = cpuinfo_bind(&new.inspection);
        spec.boots_an_os = new.mode == Mode::Os;

        // One that is made although no answer came is found by its name and label, without a
        // claim, and removed.
        let id = self.engine.create(&spec).await?;
        match self.run(&id, new.mode).await {
            Ok((streams, mut tasks, ended)) => {
                let disk = self.watched_disk(&id, new.defaults, &ended, &mut tasks);
                let container = Container {
                    engine: Arc::clone(&self.engine),
                    id,
                    name: spec.name,
                    mode: new.mode,
                    base: new.base,
                    account: new.caller.account().clone(),
                    same: new.same,
                    inspection: new.inspection,
                    shell: new.shell,
                    ended,
                    tasks,
                    signalled: AtomicBool::new(false),
                    disk,
                    boot: OnceLock::new(),
                    tenure: Arc::new(Mutex::new(Some(Tenure { claim, slot: Some(slot) }))),
                };
                if container.mode == Mode::Os {
                    container.note_boot(&HashSet::new()).await;
                }
                Ok((container, streams))
            }
            Err(error) => {
                match self.engine.remove(&id).await {
                    Ok(()) => claim.settle(),
                    Err(error) => {
                        tracing::warn!(container = id, %error, "container is left behind");
                    }
                }
                Err(error.into())
            }
        }
    }

    /// Starts a container that was left behind, with its files as they are. It is left behind
    /// again when that fails.
    pub(super) async fn resume(
        &self,
        mut container: Container,
        defaults: &ImageDefaults,
    ) -> Result<(Container, Option<ProcessStreams>), ImageError> {
        let slot = self.slots.take(&container.account)?;
        let users_own = match container.mode {
            Mode::Os => container.written_by_its_user().await?,
            Mode::ShellIsFirst | Mode::Kept => None,
        };
        let (streams, mut tasks, ended) = self.run(&container.id, container.mode).await?;
        container.disk = self.watched_disk(&container.id, defaults, &ended, &mut tasks);
        if let Some(tenure) = &mut *container.tenure.lock().await {
            tenure.slot = Some(slot);
        }
        container.tasks = tasks;
        container.ended = ended;
        container.signalled = AtomicBool::new(false);
        container.boot = OnceLock::new();
        if let Some(users_own) = users_own {
            container.note_boot(&users_own).await;
        }
        Ok((container, streams))
    }

    /// The containers of this gateway that nobody uses: one whose session broke, or that an
    /// earlier run or an engine's fault left behind. Each is claimed as long as the returned value
    /// lives. Some may run still.
    pub(super) async fn left_behind(&self) -> Result<LeftBehind, ImageError> {
        let run = self.ownership.run().await?;
        let mut claims = HashMap::new();
        // First the claims: what is created from now on is none of these.
        for name in run.claimed()? {
            if let Some(claim) = run.claim(&name)? {
                claims.insert(name, claim);
            }
        }
        let mut left = LeftBehind::default();
        for found in self.engine.containers(LABEL_GATEWAY, &run.gateway).await? {
            let owner = found.labels.get(LABEL_RUN).map_or("", String::as_str);
            if !found.name.starts_with(&format!("{NAME_PREFIX}{owner}-")) {
                continue;
            }
            let claim = match claims.remove(&found.name) {
                Some(claim) => Some(claim),
                None => run.claim(&found.name)?,
            };
            let Some(claim) = claim else { continue };
            if !left.names.insert(found.name.clone()) {
                continue;
            }
            let id = found.id.clone();
            match self.adopted(found, claim) {
                Ok(container) => left.of_sessions.push(container),
                Err(claim) => left.others.push((id, claim)),
            }
        }
        for claim in claims.into_values() {
            claim.settle();
        }
        Ok(left)
    }

    fn adopted(&self, found: ContainerSummary, claim: Claim) -> Result<Container, Claim> {
        let label = |name| found.labels.get(name).map_or("", String::as_str);
        let parsed = (|| {
            let account: AccountName = label(LABEL_ACCOUNT).parse().ok()?;
            let same = SaveTarget::reparsed(&account, label(LABEL_SAVE_AS))?;
            let mode = Mode::labelled(label(LABEL_MODE))?;
            let shell = inspection::shell(label(LABEL_SHELL))?;
            let working_dir = inspection::working_dir(label(LABEL_DIRECTORY))?;
            Some((account, same, mode, shell, working_dir))
        })();
        let Some((account, same, mode, shell, working_dir)) = parsed else {
            return Err(claim);
        };
        let fullname = label(LABEL_IMAGE).to_owned();
        Ok(Container {
            engine: Arc::clone(&self.engine),
            base: BaseImage { id: found.image_id, shown: shown_to(&account, &fullname), fullname },
            id: found.id,
            name: found.name,
            mode,
            account,
            same,
            inspection: Arc::new(Inspection {
                shell: Some(shell),
                boots_an_os: mode == Mode::Os,
                working_dir,
                cpuinfo: None,
            }),
            shell,
            ended: watch::channel(Some(Ending::Exited(0))).1,
            tasks: Vec::new(),
            signalled: AtomicBool::new(true),
            disk: None,
            boot: boot::Record::noted(&claim).map_or_else(OnceLock::new, OnceLock::from),
            tenure: Arc::new(Mutex::new(Some(Tenure { claim, slot: None }))),
        })
    }

    /// Watches a container that was left behind and runs, so that it can be brought to rest.
    pub(super) fn watch(&self, container: &mut Container) {
        let (ending, ended) = watch::channel(None);
        let watching = watch_for_the_end(Arc::clone(&self.engine), container.id.clone(), ending);
        container.tasks = vec![tokio::spawn(watching).abort_handle()];
        container.ended = ended;
    }

    /// How many containers may have been left behind, whoever's; asks the disk only.
    pub(super) async fn left_at_most(&self) -> Result<usize, ImageError> {
        self.ownership.run().await?.unclaimed()
    }

    /// This gateway's identifier.
    pub(super) async fn gateway(&self) -> Result<String, ImageError> {
        Ok(self.ownership.run().await?.gateway.clone())
    }

    /// The labels by which an image without a name is known to come from a container.
    pub(super) async fn owner_labels(
        &self,
        container: &Container,
    ) -> Result<BTreeMap<String, String>, ImageError> {
        let gateway = self.gateway().await?;
        Ok(BTreeMap::from([
            (LABEL_GATEWAY.to_owned(), gateway),
            (LABEL_NAME.to_owned(), container.name.clone()),
        ]))
    }

    /// Whether an image without a name has the files of a container of this gateway that nobody
    /// is saving: a save that did not come to its end. Returns the claim on the container.
    pub(super) async fn abandoned_commit(
        &self,
        image: &ImageDetails,
    ) -> Result<Option<Claim>, ImageError> {
        let run = self.ownership.run().await?;
        match (image.labels.get(LABEL_GATEWAY), image.labels.get(LABEL_NAME)) {
            (Some(gateway), Some(container)) if *gateway == run.gateway => run.claim(container),
            _ => Ok(None),
        }
    }

    /// Has what a container writes to disk watched until its end.
    fn watched_disk(
        &self,
        id: &str,
        defaults: &ImageDefaults,
        ended: &watch::Receiver<Option<Ending>>,
        tasks: &mut Vec<AbortHandle>,
    ) -> Option<Arc<Disk>> {
        let disk = Arc::new(Disk::new(defaults.disk?));
        let watching = Arc::clone(&disk).watch(Arc::clone(&self.engine), id.to_owned());
        let mut ended = ended.clone();
        let until_it_ends = async move {
            tokio::select! {
                () = watching => {}
                // An error: nobody looks after the container any more.
                _ = ended.wait_for(Option::is_some) => {}
            }
        };
        tasks.push(tokio::spawn(until_it_ends).abort_handle());
        Some(disk)
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
            (Mode::Kept, Some(ProcessStreams { stdin, mut output })) => {
                tasks.push(
                    tokio::spawn(async move {
                        while output.next().await.is_some() {}
                        // Held open until then, which is what process 1 waits on.
                        drop(stdin);
                    })
                    .abort_handle(),
                );
                None
            }
            (_, streams) => streams,
        };
        Ok((streams, tasks, ended))
    }

    async fn spec(&self) -> Result<(ContainerSpec, Claim), ImageError> {
        let run = self.ownership.run().await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{}-{number}", run.id);
        let claim = run.claim(&name)?.ok_or(ImageError::Closing)?;
        let labels = [
            (LABEL_GATEWAY, run.gateway.as_str()),
            (LABEL_RUN, run.id.as_str()),
            (LABEL_NAME, name.as_str()),
        ];
        let spec = ContainerSpec {
            labels: BTreeMap::from(
                labels.map(|(label, value)| (label.to_owned(), value.to_owned())),
            ),
            name,
            ..ContainerSpec::default()
        };
        Ok((spec, claim))
    }
}

/// Containers that nobody uses.
#[derive(Default)]
pub(super) struct LeftBehind {
    /// Those that sessions had.
    pub(super) of_sessions: Vec<Container>,
    /// Those of inspections, by identifier: nothing is in them.
    pub(super) others: Vec<(String, Claim)>,
    names: HashSet<String>,
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
