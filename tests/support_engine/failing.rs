//! Engines that fail: one that goes away, one whose disk is full, one that forgets its images.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use waltgate::backend::WindowSize;
use waltgate::backend::image::engine::{
    Change, ContainerDetails, ContainerSpec, ContainerSummary, Engine, EngineError, EngineInfo,
    ExecSpec, FileStat, HistoryEntry, ImageDetails, Lack, Process, ProcessState, ProcessStreams,
    Publication,
};

/// The engine of `socket` at another one, which dies when the set is shut down.
pub(crate) fn proxy(socket: &Path, path: &Path) -> JoinSet<()> {
    let socket = socket.to_owned();
    let listener = UnixListener::bind(path).unwrap();
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            connections.spawn(async move {
                let mut engine = UnixStream::connect(socket).await.unwrap();
                // Either side may go first.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            });
        }
    });
    proxy
}

/// A real engine whose first calls of a kind fail.
pub(crate) struct Failing {
    engine: Arc<dyn Engine>,
    commits: AtomicUsize,
    lists: AtomicUsize,
    lacks: Vec<Lack>,
}

impl Failing {
    /// Its first commits fail.
    pub(crate) fn full_disk(engine: Arc<dyn Engine>, commits: usize) -> Self {
        Self { commits: AtomicUsize::new(commits), ..Self::without(engine, Vec::new()) }
    }

    /// Its first lists of images are empty.
    pub(crate) fn forgetful(engine: Arc<dyn Engine>, lists: usize) -> Self {
        Self { lists: AtomicUsize::new(lists), ..Self::without(engine, Vec::new()) }
    }

    /// It says that it cannot do this, and nobody but itself reaches the files of its containers.
    pub(crate) fn without(engine: Arc<dyn Engine>, lacks: Vec<Lack>) -> Self {
        Self { engine, commits: AtomicUsize::new(0), lists: AtomicUsize::new(0), lacks }
    }
}

/// Whether one of the calls that are to fail was left.
fn fails(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

type Result<T> = std::result::Result<T, EngineError>;

#[async_trait]
impl Engine for Failing {
    async fn commit(&self, container: &str) -> Result<String> {
        if fails(&self.commits) {
            return Err(EngineError::Refused {
                operation: "saving container",
                object: container.to_owned(),
                reason: "write /var/lib/docker/x: no space left on device".to_owned(),
            });
        }
        self.engine.commit(container).await
    }
    async fn flatten(&self, image: &str, labels: &BTreeMap<String, String>) -> Result<String> {
        self.engine.flatten(image, labels).await
    }
    async fn publish(&self, publication: &Publication) -> Result<String> {
        self.engine.publish(publication).await
    }
    async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>> {
        self.engine.history(image).await
    }
    async fn unnamed_images(&self) -> Result<Vec<ImageDetails>> {
        self.engine.unnamed_images().await
    }
    async fn remove_unnamed_image(&self, image: &str) -> Result<bool> {
        self.engine.remove_unnamed_image(image).await
    }
    async fn details(&self, container: &str) -> Result<ContainerDetails> {
        self.engine.details(container).await
    }
    async fn written_bytes(&self, container: &str) -> Result<u64> {
        self.engine.written_bytes(container).await
    }
    async fn info(&self) -> Result<EngineInfo> {
        Ok(EngineInfo { lacks: self.lacks.clone(), ..self.engine.info().await? })
    }
    async fn image_references(&self) -> Result<Vec<String>> {
        if fails(&self.lists) {
            return Ok(Vec::new());
        }
        self.engine.image_references().await
    }
    async fn image(&self, reference: &str) -> Result<ImageDetails> {
        self.engine.image(reference).await
    }
    async fn create(&self, spec: &ContainerSpec) -> Result<String> {
        self.engine.create(spec).await
    }
    async fn stat(&self, container: &str, path: &str) -> Result<Option<FileStat>> {
        self.engine.stat(container, path).await
    }
    async fn read_file(&self, container: &str, path: &str, limit: usize) -> Result<Vec<u8>> {
        self.engine.read_file(container, path, limit).await
    }
    async fn attach(&self, container: &str, tty: bool) -> Result<ProcessStreams> {
        self.engine.attach(container, tty).await
    }
    async fn start(&self, container: &str) -> Result<()> {
        self.engine.start(container).await
    }
    async fn create_exec(&self, container: &str, spec: &ExecSpec) -> Result<String> {
        self.engine.create_exec(container, spec).await
    }
    async fn start_exec(&self, exec: &str, tty: bool) -> Result<ProcessStreams> {
        self.engine.start_exec(exec, tty).await
    }
    async fn exec_state(&self, exec: &str) -> Result<ProcessState> {
        self.engine.exec_state(exec).await
    }
    async fn resize(&self, process: &Process, size: WindowSize) -> Result<()> {
        self.engine.resize(process, size).await
    }
    async fn state(&self, container: &str) -> Result<ProcessState> {
        self.engine.state(container).await
    }
    async fn wait(&self, container: &str) -> Result<u32> {
        self.engine.wait(container).await
    }
    async fn was_killed(&self, container: &str) -> Result<bool> {
        self.engine.was_killed(container).await
    }
    async fn stop(&self, container: &str, grace: Duration) -> Result<()> {
        self.engine.stop(container, grace).await
    }
    async fn kill(&self, container: &str, signal: &str) -> Result<()> {
        self.engine.kill(container, signal).await
    }
    async fn remove(&self, container: &str) -> Result<()> {
        self.engine.remove(container).await
    }
    async fn diff(&self, container: &str) -> Result<Vec<Change>> {
        self.engine.diff(container).await
    }
    async fn containers(&self, label: &str, value: &str) -> Result<Vec<ContainerSummary>> {
        self.engine.containers(label, value).await
    }
}
