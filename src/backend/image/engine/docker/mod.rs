//! The Docker API, of Docker or of Podman, over a Unix socket.

mod archive;
mod commit;
mod connection;
mod description;
mod diff;
mod files;
mod frames;
mod hijack;
mod history;
mod images;
mod listing;
mod spec;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ChangeType;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, KillContainerOptionsBuilder,
    RemoveContainerOptionsBuilder, ResizeContainerTTYOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use tokio::sync::Mutex;

pub use self::connection::somebody_listens;
use self::connection::{CALL, Connection, Found, error_of, usual_sockets};
use self::description::describe;
use self::hijack::Call;
use super::overlay;
use super::{
    Change, ChangeKind, ContainerDetails, ContainerSpec, ContainerSummary, Engine, EngineError,
    EngineInfo, ExecSpec, FileStat, HistoryEntry, ImageDetails, Process, ProcessState,
    ProcessStreams, Publication, WrittenFile,
};
use crate::backend::WindowSize;

/// How long a wait for the end of a container runs before it is asked again.
const WAIT: Duration = Duration::from_secs(3600);
/// How often Podman is asked to remove a container that it fails to remove, and the pause between:
/// no event tells when it can.
const REMOVALS: u32 = 20;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(100);

/// An engine behind a socket. Connects when first used and again after it went away.
pub struct DockerEngine {
    candidates: Vec<PathBuf>,
    found: Mutex<Found>,
    /// How often it was looked for in vain.
    failures: AtomicU64,
}

impl DockerEngine {
    /// The engine at `socket`, or at the first of the usual places where one answers. Does
    /// nothing yet.
    pub fn new(socket: Option<PathBuf>) -> Self {
        Self {
            candidates: socket.map_or_else(usual_sockets, |socket| vec![socket]),
            found: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }
}

impl DockerEngine {
    /// The differences as the engine tells them.
    async fn raw_diff(&self, container: &str) -> Result<Vec<Change>, EngineError> {
        let changes = self
            .call("comparing container", container, async |connection| {
                connection.docker.container_changes(container).await
            })
            .await?;
        let changes = changes.unwrap_or_default().into_iter().map(|change| Change {
            path: change.path,
            kind: match change.kind {
                ChangeType::_0 => ChangeKind::Modified,
                ChangeType::_1 => ChangeKind::Added,
                ChangeType::_2 => ChangeKind::Deleted,
            },
        });
        Ok(changes.collect())
    }

    async fn written_by_podman(
        &self,
        container: &str,
        changes: &[Change],
    ) -> Result<Vec<String>, EngineError> {
        let call = Call { operation: "comparing container", object: container };
        let changes = changes.to_vec();
        let own = self.in_upper(call, move |upper| {
            Ok(diff::written_by_podman(&changes, |path| overlay::content(upper, path)))
        });
        Ok(own.await?.unwrap_or_default())
    }

    /// Does something with what a container wrote; `None` where that is out of reach.
    async fn in_upper<T: Send + 'static>(
        &self,
        call: Call<'_>,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<Option<T>, EngineError> {
        let Some(upper) = describe(self, call, false).await?.upper_directory() else {
            return Ok(None);
        };
        let done = tokio::task::spawn_blocking(move || work(&upper)).await;
        let done = done.map_err(|error| call.protocol(error))?;
        done.map(Some).map_err(|error| call.protocol(error))
    }
}

/// `/v1.41`
fn version_prefix(docker: &Docker) -> String {
    let version = docker.client_version();
    format!("/v{}.{}", version.major_version, version.minor_version)
}

fn without_algorithm(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).to_owned()
}

#[async_trait]
impl Engine for DockerEngine {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.ping().await
    }

    async fn image_references(&self) -> Result<Vec<String>, EngineError> {
        let images = images::list(self, &HashMap::new()).await?;
        Ok(images
            .into_iter()
            .flat_map(|image| image.repo_tags)
            .filter(|reference| !reference.contains("<none>"))
            .collect())
    }

    async fn image(&self, reference: &str) -> Result<ImageDetails, EngineError> {
        let image = self
            .call("inspecting image", reference, async |connection| {
                connection.docker.inspect_image(reference).await
            })
            .await?;
        Ok(ImageDetails {
            id: without_algorithm(&image.id.unwrap_or_default()),
            architecture: image.architecture.unwrap_or_default(),
            references: image.repo_tags.unwrap_or_default(),
            layers: image.root_fs.and_then(|files| files.layers).unwrap_or_default().len(),
            labels: image
                .config
                .and_then(|config| config.labels)
                .unwrap_or_default()
                .into_iter()
                .collect(),
        })
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let created = self
            .call("creating container", &spec.name, async |connection| {
                let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
                // For a user that is said by number, Podman writes entries into /etc/passwd and
                // /etc/group that would be saved with the image. A user that is not said has none.
                let user = if connection.podman && is_roots(&connection, spec).await? {
                    None
                } else {
                    Some(spec::ROOT)
                };
                let body = spec::container(spec, connection.podman, user);
                connection.docker.create_container(Some(options), body).await
            })
            .await?;
        Ok(created.id)
    }

    async fn stat(&self, container: &str, path: &str) -> Result<Option<FileStat>, EngineError> {
        files::stat(self, container, path).await
    }

    async fn read_file(
        &self,
        container: &str,
        path: &str,
        limit: usize,
    ) -> Result<Vec<u8>, EngineError> {
        files::read(self, container, path, limit).await
    }

    async fn attach(&self, container: &str, tty: bool) -> Result<ProcessStreams, EngineError> {
        let connection = self.connection().await?;
        let path = format!(
            "{}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1&detachKeys={}",
            version_prefix(&connection.docker),
            spec::DETACH_KEYS.replace('@', "%40").replace('^', "%5E").replace(',', "%2C"),
        );
        let call = Call { operation: "attaching to container", object: container };
        let streams =
            hijack::upgrade(&connection.info.place, &path, String::new(), tty, call).await;
        self.noticed(streams).await
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        self.call("starting container", container, async |connection| {
            connection.docker.start_container(container, None).await
        })
        .await
    }

    async fn create_exec(&self, container: &str, spec: &ExecSpec) -> Result<String, EngineError> {
        let created = self
            .call("running a program in container", container, async |connection| {
                connection.docker.create_exec(container, spec::exec(spec)).await
            })
            .await?;
        Ok(created.id)
    }

    async fn start_exec(&self, exec: &str, tty: bool) -> Result<ProcessStreams, EngineError> {
        let connection = self.connection().await?;
        let path = format!("{}/exec/{exec}/start", version_prefix(&connection.docker));
        let body = serde_json::json!({ "Detach": false, "Tty": tty }).to_string();
        let call = Call { operation: "starting program", object: exec };
        let streams = hijack::upgrade(&connection.info.place, &path, body, tty, call).await;
        self.noticed(streams).await
    }

    async fn exec_state(&self, exec: &str) -> Result<ProcessState, EngineError> {
        let state = self
            .call("asking about program", exec, async |connection| {
                connection.docker.inspect_exec(exec).await
            })
            .await?;
        Ok(process_state(state.running, state.pid, state.exit_code))
    }

    async fn resize(&self, process: &Process, size: WindowSize) -> Result<(), EngineError> {
        let (Ok(rows), Ok(columns)) = (u16::try_from(size.rows), u16::try_from(size.columns))
        else {
            // A terminal's size is kept in 16 bits, ioctl_tty(2).
            return Ok(());
        };
        match process {
            Process::First(container) => {
                self.call("resizing the terminal of", container, async |connection| {
                    let options = ResizeContainerTTYOptionsBuilder::new()
                        .h(rows.into())
                        .w(columns.into())
                        .build();
                    connection.docker.resize_container_tty(container, options).await
                })
                .await
            }
            Process::Exec(exec) => {
                self.call("resizing the terminal of", exec, async |connection| {
                    let options = bollard::exec::ResizeExecOptions { height: rows, width: columns };
                    connection.docker.resize_exec(exec, options).await
                })
                .await
            }
        }
    }

    async fn state(&self, container: &str) -> Result<ProcessState, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        Ok(describe(self, call, false).await?.state())
    }

    async fn wait(&self, container: &str) -> Result<u32, EngineError> {
        let call = Call { operation: "waiting for container", object: container };
        loop {
            let connection = self.connection().await?;
            let docker = connection.docker.clone().with_timeout(WAIT);
            let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
            let mut answers = std::pin::pin!(docker.wait_container(container, Some(options)));
            match answers.next().await {
                Some(Ok(answer)) => return Ok(exit_code(answer.status_code)),
                // How bollard reports any code but 0.
                Some(Err(Error::DockerContainerWaitError { code, .. })) => {
                    return Ok(exit_code(code));
                }
                Some(Err(Error::RequestTimeoutError)) => {}
                Some(Err(error)) => {
                    return self.noticed(Err(error_of(call, error, WAIT))).await;
                }
                None => return Err(call.protocol("the connection ended")),
            }
        }
    }

    async fn was_killed(&self, container: &str) -> Result<bool, EngineError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.call("asking about container", container, async |connection| {
            let filters = HashMap::from([("container", vec![container]), ("event", vec!["kill"])]);
            let options = EventsOptionsBuilder::new()
                .since("1")
                // The second that is running: the answer ends with it.
                .until(&(now + 1).to_string())
                .filters(&filters)
                .build();
            let mut events = std::pin::pin!(connection.docker.events(Some(options)));
            events.next().await.transpose().map(|event| event.is_some())
        })
        .await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError> {
        self.call("stopping container", container, async |connection| {
            let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
            let options = StopContainerOptionsBuilder::new().t(seconds).build();
            connection
                .docker
                .clone()
                .with_timeout(grace + CALL)
                .stop_container(container, Some(options))
                .await
        })
        .await
    }

    async fn kill(&self, container: &str, signal: &str) -> Result<(), EngineError> {
        self.call("sending a signal to container", container, async |connection| {
            let options =
                KillContainerOptionsBuilder::new().signal(&format!("SIG{signal}")).build();
            connection.docker.kill_container(container, Some(options)).await
        })
        .await
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let mut attempts = REMOVALS;
        loop {
            attempts -= 1;
            let removed = self
                .call("removing container", container, async |connection| {
                    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                    match connection.docker.remove_container(container, Some(options)).await {
                        // Somebody else is removing it just now.
                        Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(true),
                        // Podman kills what it takes for running, and gives up when that ends by
                        // itself just then.
                        Err(Error::DockerResponseServerError { status_code: 500, .. })
                            if connection.podman && attempts > 0 =>
                        {
                            Ok(false)
                        }
                        result => result.map(|()| true),
                    }
                })
                .await;
            match removed {
                Ok(false) => tokio::time::sleep(BETWEEN_REMOVALS).await,
                Ok(true) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn diff(&self, container: &str) -> Result<Vec<Change>, EngineError> {
        let mut changes = self.raw_diff(container).await?;
        if self.connection().await?.podman {
            let own = self.written_by_podman(container, &changes).await?;
            changes.retain(|change| !own.contains(&change.path));
            return Ok(diff::without_podmans_own(changes));
        }
        // Docker compares sizes and seconds: a file that was replaced by one of the same size
        // within the second in which the image was made is not listed, but it takes space.
        if changes.is_empty() && self.written_bytes(container).await? > 0 {
            return Ok(vec![Change { path: "/".to_owned(), kind: ChangeKind::Modified }]);
        }
        Ok(changes)
    }

    async fn written(&self, container: &str) -> Result<Option<Vec<WrittenFile>>, EngineError> {
        let call = Call { operation: "comparing container", object: container };
        self.in_upper(call, overlay::written).await
    }

    async fn restore(&self, container: &str, paths: Vec<String>) -> Result<(), EngineError> {
        let call = Call { operation: "restoring files in container", object: container };
        self.in_upper(call, move |upper| overlay::revert(upper, &paths)).await.map(drop)
    }

    async fn details(&self, container: &str) -> Result<ContainerDetails, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        Ok(describe(self, call, false).await?.details())
    }

    async fn upper_directory(&self, container: &str) -> Result<Option<PathBuf>, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        Ok(describe(self, call, false).await?.upper_directory())
    }

    async fn written_bytes(&self, container: &str) -> Result<u64, EngineError> {
        let call = Call { operation: "measuring container", object: container };
        Ok(describe(self, call, true).await?.written_bytes())
    }

    async fn commit(&self, container: &str) -> Result<String, EngineError> {
        let connection = self.connection().await?;
        if connection.podman {
            let changes = self.raw_diff(container).await?;
            let own = self.written_by_podman(container, &changes).await?;
            if !own.is_empty() {
                let call = Call { operation: "restoring files in container", object: container };
                self.in_upper(call, move |upper| overlay::revert(upper, &own)).await?;
            }
        }
        self.noticed(commit::commit(&connection.docker, container).await).await
    }

    async fn flatten(
        &self,
        image: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let connection = self.connection().await?;
        self.noticed(commit::flatten(&connection.docker, image, labels).await).await
    }

    async fn publish(&self, publication: &Publication) -> Result<String, EngineError> {
        let connection = self.connection().await?;
        let published =
            commit::publish(&connection.docker, &connection.info.place, publication).await;
        self.noticed(published).await
    }

    async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>, EngineError> {
        images::history(self, image).await
    }

    async fn unnamed_images(&self) -> Result<Vec<ImageDetails>, EngineError> {
        images::unnamed(self).await
    }

    async fn remove_unnamed_image(&self, image: &str) -> Result<bool, EngineError> {
        images::remove_unnamed(self, image).await
    }

    async fn containers(
        &self,
        label: &str,
        value: &str,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let connection = self.connection().await?;
        let listed = listing::containers(&connection, label, value).await;
        self.noticed(listed).await
    }
}

/// Whether an image's programs run as root by its own choice.
async fn is_roots(connection: &Connection, spec: &ContainerSpec) -> Result<bool, Error> {
    let image = connection.docker.inspect_image(&spec.image_id).await?;
    let user = image.config.and_then(|config| config.user).unwrap_or_default();
    Ok(matches!(user.as_str(), "" | "0" | "root"))
}

fn process_state(running: Option<bool>, pid: Option<i64>, code: Option<i64>) -> ProcessState {
    if running == Some(true) {
        ProcessState::Running {
            host_pid: pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0),
        }
    } else {
        ProcessState::Exited(exit_code(code.unwrap_or_default()))
    }
}

fn exit_code(code: i64) -> u32 {
    u32::try_from(code).unwrap_or(255)
}
