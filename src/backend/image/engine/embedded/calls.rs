//! The calls of an engine, each handed to the part that answers it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::time::timeout;

use super::cgroups::Cgroups;
use super::containers::{self, NewContainer};
use super::message::Program;
use super::supervised::Standing;
use super::{
    Call, END, EmbeddedEngine, Prepared, architecture, details, lock, store, streams, supervisor,
    usable,
};
use crate::backend::WindowSize;
use crate::backend::image::engine::overlay;
use crate::backend::image::engine::usage::bytes_below;
use crate::backend::image::engine::{
    Change, ContainerDetails, ContainerSpec, ContainerSummary, Engine, EngineError, EngineInfo,
    ExecSpec, FileStat, HistoryEntry, ImageDetails, Lack, Process, ProcessState, ProcessStreams,
    Publication, WrittenFile,
};
use crate::backend::image::signals;

/// 128 + SIGKILL: what a program's end is called that nobody saw.
const KILLED: u32 = 137;

#[async_trait]
impl Engine for EmbeddedEngine {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        // Changes nothing: who only asks, leaves nothing behind.
        usable()?;
        let mut lacks = Vec::new();
        if !supervisor::has_network() {
            lacks.push(Lack::Network { package: supervisor::NETWORK_PACKAGE });
        }
        if !supervisor::FILTERS_SYSTEM_CALLS {
            lacks.push(Lack::Filter);
        }
        lacks.extend(Cgroups::of_this_machine().lack());
        Ok(EngineInfo {
            product: "the embedded engine".to_owned(),
            architecture: architecture::of_this_machine().to_owned(),
            place: self.root.clone(),
            lacks,
        })
    }

    async fn image_references(&self) -> Result<Vec<String>, EngineError> {
        let call = Call { operation: "listing", object: "images" };
        self.blocking(call, |opened| Ok(opened.store.references()?)).await
    }

    async fn image(&self, reference: &str) -> Result<ImageDetails, EngineError> {
        let call = Call { operation: "inspecting image", object: reference };
        let reference = reference.to_owned();
        self.blocking(call, move |opened| Ok(details(&opened.store.image(&reference)?))).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let call = Call { operation: "creating container", object: &spec.name };
        let spec = spec.clone();
        self.blocking(call, move |opened| {
            // Until the container is listed as a user of it.
            let _hold = opened.store.hold()?;
            let image = opened.store.image(&spec.image_id)?;
            let layers = opened.store.layer_directories(&image)?;
            let config = image.config.config().as_ref();
            let env = config.and_then(|config| config.env().clone()).unwrap_or_default();
            let new = NewContainer { spec, layers, env };
            let id = opened.containers.create(new)?;
            if opened.store.has(&image)? {
                return Ok(id);
            }
            opened.containers.remove(&id)?;
            Err(store::StoreError::NoImage(image.id).into())
        })
        .await
    }

    async fn stat(&self, container: &str, path: &str) -> Result<Option<FileStat>, EngineError> {
        let call = Call { operation: "inspecting", object: path };
        let path = path.as_bytes().to_owned();
        self.look(call, container, move |root| {
            Ok(root.mode(&path)?.map(|(is_directory, mode)| FileStat {
                is_directory,
                is_executable: !is_directory && mode & 0o111 != 0,
            }))
        })
        .await
    }

    async fn read_file(
        &self,
        container: &str,
        path: &str,
        limit: usize,
    ) -> Result<Vec<u8>, EngineError> {
        let call = Call { operation: "reading", object: path };
        let path = path.as_bytes().to_owned();
        self.look(call, container, move |root| root.content(&path, limit)).await
    }

    async fn attach(&self, container: &str, tty: bool) -> Result<ProcessStreams, EngineError> {
        let call = Call { operation: "attaching to container", object: container };
        let supervised = self.supervisor(call, container).await?;
        if tty {
            let made = self.blocking(call, move |_| Ok(supervised.create(&[])?)).await?;
            let terminal = made.ok_or_else(|| call.refused("it has no terminal"))?;
            return terminal.streams().map_err(|error| call.failed(&error));
        }
        let (theirs, streams) = streams::pipes(true).map_err(|error| call.failed(&error))?;
        self.blocking(call, move |_| Ok(supervised.create(&theirs)?)).await?;
        Ok(streams)
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let call = Call { operation: "starting container", object: container };
        let supervised = self.supervisor(call, container).await?;
        if supervised.first.standing() == Standing::Prepared {
            let creator = Arc::clone(&supervised);
            let terminal = self.blocking(call, move |_| Ok(creator.create(&[])?)).await?;
            if let Some(terminal) = terminal {
                // Nobody reads it, but its programs must not wait for that.
                terminal.drain().map_err(|error| call.failed(&error))?;
            }
        }
        self.blocking(call, move |_| Ok(supervised.run_first()?)).await
    }

    async fn create_exec(&self, container: &str, spec: &ExecSpec) -> Result<String, EngineError> {
        let call = Call { operation: "running a program in container", object: container };
        if self.living(container).await.is_none() {
            return Err(call.refused("it does not run"));
        }
        let id = containers::new_id().map_err(|error| call.failed(&error))?;
        let prepared =
            Prepared { container: container.to_owned(), spec: spec.clone(), process: None };
        lock(&self.programs).insert(id.clone(), prepared);
        Ok(id)
    }

    async fn start_exec(&self, exec: &str, tty: bool) -> Result<ProcessStreams, EngineError> {
        let call = Call { operation: "starting program", object: exec };
        let Prepared { container, spec, .. } = self.program(call, exec)?;
        let supervised =
            self.living(&container).await.ok_or_else(|| call.refused("its container has ended"))?;
        let program = Program {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            argv: spec.argv,
            env: spec.env,
            working_dir: spec.working_dir,
            terminal: tty,
        };
        let (theirs, streams) = if tty {
            (Vec::new(), None)
        } else {
            let (theirs, streams) = streams::pipes(true).map_err(|error| call.failed(&error))?;
            (theirs, Some(streams))
        };
        let (process, terminal) =
            self.blocking(call, move |_| Ok(supervised.exec(program, &theirs)?)).await?;
        if let Some(prepared) = lock(&self.programs).get_mut(exec) {
            prepared.process = Some(process);
        }
        if let Some(streams) = streams {
            return Ok(streams);
        }
        let terminal = terminal.ok_or_else(|| call.refused("it has no terminal"))?;
        terminal.streams().map_err(|error| call.failed(&error))
    }

    async fn exec_state(&self, exec: &str) -> Result<ProcessState, EngineError> {
        let call = Call { operation: "asking about program", object: exec };
        Ok(match self.program(call, exec)?.process {
            None => ProcessState::Running { host_pid: None },
            Some(process) => state_of(process.standing()),
        })
    }

    async fn resize(&self, process: &Process, size: WindowSize) -> Result<(), EngineError> {
        let (object, terminal) = match process {
            Process::First(container) => {
                let supervised = self.living(container).await;
                (container, supervised.and_then(|supervised| supervised.first.terminal()))
            }
            Process::Exec(exec) => {
                let call = Call { operation: "resizing the terminal of", object: exec };
                let process = self.program(call, exec)?.process;
                (exec, process.and_then(|process| process.terminal()))
            }
        };
        let call = Call { operation: "resizing the terminal of", object };
        let terminal = terminal.ok_or_else(|| call.refused("it has none any more"))?;
        terminal.resize(size).map_err(|error| call.failed(&error))
    }

    async fn state(&self, container: &str) -> Result<ProcessState, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        if let Some(supervised) = self.living(container).await
            && let standing @ (Standing::Running(_) | Standing::Ended(_)) =
                supervised.first.standing()
        {
            return Ok(state_of(standing));
        }
        let id = container.to_owned();
        self.blocking(call, move |opened| Ok(opened.containers.state(&id)?)).await
    }

    async fn wait(&self, container: &str) -> Result<u32, EngineError> {
        let call = Call { operation: "waiting for container", object: container };
        if let Some(supervised) = self.living(container).await
            && matches!(supervised.first.standing(), Standing::Running(_) | Standing::Ended(_))
        {
            return match supervised.first.ended().await {
                Standing::Ended(code) => Ok(code),
                _ => Err(call.refused("its supervisor was killed")),
            };
        }
        let id = container.to_owned();
        self.blocking(call, move |opened| Ok(opened.containers.wait(&id)?)).await
    }

    async fn was_killed(&self, container: &str) -> Result<bool, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| Ok(opened.containers.was_killed(&id)?)).await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError> {
        let call = Call { operation: "stopping container", object: container };
        let Some(supervised) = self.living(container).await else {
            return Ok(());
        };
        self.signal(call, container, Signal::TERM).await?;
        if timeout(grace, supervised.first.ended()).await.is_ok() {
            return Ok(());
        }
        self.signal(call, container, Signal::KILL).await?;
        timeout(END, supervised.first.ended()).await.map_err(|_| call.timed_out(END))?;
        Ok(())
    }

    async fn kill(&self, container: &str, signal: &str) -> Result<(), EngineError> {
        let call = Call { operation: "sending a signal to container", object: container };
        let signal = signals::named(signal)
            .ok_or_else(|| call.refused(format!("there is no signal {signal}")))?;
        self.signal(call, container, signal).await
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let call = Call { operation: "removing container", object: container };
        let slot = self.slot(container);
        let mut held = slot.lock().await;
        if let Some(supervised) = held.take() {
            let dismissed = Arc::clone(&supervised);
            self.blocking(call, move |_| Ok(dismissed.dismiss()?)).await?;
            timeout(END, supervised.gone()).await.map_err(|_| call.timed_out(END))?;
        }
        lock(&self.programs).retain(|_, program| program.container != container);
        let id = container.to_owned();
        let removed =
            timeout(END, self.blocking(call, move |opened| Ok(opened.containers.remove(&id)?)));
        removed.await.map_err(|_| call.timed_out(END))??;
        lock(&self.supervised).remove(container);
        Ok(())
    }

    async fn diff(&self, container: &str) -> Result<Vec<Change>, EngineError> {
        let call = Call { operation: "comparing container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| {
            let directory = opened.containers.directory(&id)?;
            let image = opened.store.image(&directory.record()?.image_id)?;
            Ok(opened.store.changes(&image, &directory.upper())?)
        })
        .await
    }

    async fn written(&self, container: &str) -> Result<Option<Vec<WrittenFile>>, EngineError> {
        let call = Call { operation: "comparing container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| {
            let upper = opened.containers.directory(&id)?.upper();
            Ok(Some(overlay::written(&upper)?))
        })
        .await
    }

    async fn restore(&self, container: &str, paths: Vec<String>) -> Result<(), EngineError> {
        let call = Call { operation: "restoring files in container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| {
            let upper = opened.containers.directory(&id)?.upper();
            Ok(overlay::revert(&upper, &paths)?)
        })
        .await
    }

    async fn details(&self, container: &str) -> Result<ContainerDetails, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        let is_running = matches!(self.state(container).await?, ProcessState::Running { .. });
        let id = container.to_owned();
        let last_used: SystemTime =
            self.blocking(call, move |opened| Ok(opened.containers.last_used(&id)?)).await?;
        Ok(ContainerDetails { is_running, last_used })
    }

    async fn upper_directory(&self, container: &str) -> Result<Option<PathBuf>, EngineError> {
        let call = Call { operation: "asking about container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| Ok(Some(opened.containers.directory(&id)?.upper()))).await
    }

    async fn written_bytes(&self, container: &str) -> Result<u64, EngineError> {
        let call = Call { operation: "measuring container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| {
            Ok(bytes_below(&opened.containers.directory(&id)?.upper(), |_| true)?)
        })
        .await
    }

    async fn commit(&self, container: &str) -> Result<String, EngineError> {
        let call = Call { operation: "saving container", object: container };
        let id = container.to_owned();
        self.blocking(call, move |opened| {
            let directory = opened.containers.directory(&id)?;
            Ok(opened.store.commit(&directory.record()?.image_id, &directory.upper())?)
        })
        .await
    }

    async fn flatten(
        &self,
        image: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<String, EngineError> {
        let call = Call { operation: "flattening image", object: image };
        let (image, labels) = (image.to_owned(), labels.clone());
        self.blocking(call, move |opened| Ok(opened.store.flatten(&image, &labels)?)).await
    }

    async fn publish(&self, publication: &Publication) -> Result<String, EngineError> {
        let call = Call { operation: "publishing image", object: &publication.reference };
        let publication = publication.clone();
        self.blocking(call, move |opened| Ok(opened.store.publish(&publication)?)).await
    }

    async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>, EngineError> {
        let call = Call { operation: "asking for the history of image", object: image };
        let image = image.to_owned();
        self.blocking(call, move |opened| Ok(opened.store.history(&image)?)).await
    }

    async fn unnamed_images(&self) -> Result<Vec<ImageDetails>, EngineError> {
        let call = Call { operation: "listing", object: "images without a name" };
        self.blocking(call, |opened| {
            Ok(opened.store.unnamed_images()?.iter().map(details).collect())
        })
        .await
    }

    async fn remove_unnamed_image(&self, image: &str) -> Result<bool, EngineError> {
        let call = Call { operation: "removing image", object: image };
        let image = image.to_owned();
        self.blocking(call, move |opened| Ok(opened.store.remove_unnamed(&image)?)).await
    }

    async fn containers(
        &self,
        label: &str,
        value: &str,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let call = Call { operation: "listing", object: "containers" };
        let (label, value) = (label.to_owned(), value.to_owned());
        self.blocking(call, move |opened| Ok(opened.containers.labelled(&label, &value)?)).await
    }
}

fn state_of(standing: Standing) -> ProcessState {
    match standing {
        Standing::Prepared => ProcessState::Running { host_pid: None },
        Standing::Running(pid) => ProcessState::Running { host_pid: Some(pid) },
        Standing::Ended(code) => ProcessState::Exited(code),
        Standing::Lost => ProcessState::Exited(KILLED),
    }
}
