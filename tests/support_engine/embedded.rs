//! The engine inside the gateway, as a test bed sees it.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use libcontainer::oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};
use waltgate::backend::image::engine::embedded::EmbeddedEngine;
use waltgate::backend::image::engine::embedded::store::{Archive, Store, StoredImage};
use waltgate::backend::image::engine::{ContainerSpec, Engine, EngineError};
use waltgate::config::{self, EngineKind};

use super::selection::TestEngine;

/// One for all tests of a process, as there is one Docker.
static SHARED: LazyLock<Embedded> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap().keep().join("engine");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_waltgate"));
    Embedded {
        store: Store::open(&root).unwrap(),
        engine: Arc::new(EmbeddedEngine::supervised_by(program, root)),
    }
});

#[derive(Clone)]
pub(crate) struct Embedded {
    store: Store,
    engine: Arc<EmbeddedEngine>,
}

impl Embedded {
    pub(crate) fn shared() -> Self {
        SHARED.clone()
    }

    fn image(&self, reference: &str) -> StoredImage {
        self.store.image(reference).unwrap()
    }

    fn document(&self, reference: &str) -> Value {
        serde_json::from_slice(&self.store.document(&self.image(reference).id).unwrap()).unwrap()
    }

    fn blob(&self, content: &mut dyn Read) -> Descriptor {
        let blob = self.store.add_blob(content, None).unwrap();
        let digest: Digest = format!("sha256:{}", blob.digest).parse().unwrap();
        Descriptor::new(MediaType::ImageLayer, blob.size, digest)
    }

    /// The layer of any image that has this diff ID.
    fn known_layer(&self, diff_id: &str) -> Option<Descriptor> {
        let hex = diff_id.strip_prefix("sha256:").unwrap();
        self.store.images().unwrap().iter().find_map(|image| {
            let number = image.layers.iter().position(|layer| layer == hex)?;
            Some(image.manifest.layers()[number].clone())
        })
    }

    /// Waits for a call of the engine, also within a test that is asynchronous itself.
    fn wait<T: Send>(
        &self,
        call: impl Future<Output = Result<T, EngineError>> + Send,
    ) -> Result<T, EngineError> {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(call)
            });
            waiting.join().unwrap()
        })
    }

    fn create(&self, name: &str, labels: BTreeMap<String, String>, image_id: String) -> String {
        let spec = ContainerSpec {
            name: name.to_owned(),
            image_id,
            argv: vec!["true".to_owned()],
            working_dir: "/".to_owned(),
            labels,
            ..ContainerSpec::default()
        };
        self.wait(self.engine.create(&spec)).unwrap()
    }
}

/// An engine of its own in this directory, whose supervisors are run by `program`, and the
/// identifier of an image of it with busybox and nothing else.
pub(crate) fn engine_in(root: &Path, program: &Path) -> (EmbeddedEngine, String) {
    let tree = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/busybox", tree.path().join("busybox")).unwrap();
    let tar = Command::new("tar").arg("-C").arg(tree.path()).args(["-c", "."]).output().unwrap();
    let id = Store::open(root).unwrap().import(tar.stdout.as_slice(), "pc").unwrap();
    (EmbeddedEngine::supervised_by(program.to_owned(), root.to_owned()), id)
}

/// A container that runs a script with [`engine_in`]'s busybox.
pub(crate) fn script_in(image_id: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: "script".to_owned(),
        image_id: image_id.to_owned(),
        argv: ["/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        working_dir: "/".to_owned(),
        ..ContainerSpec::default()
    }
}

impl TestEngine for Embedded {
    fn config(&self) -> config::Engine {
        config::Engine { kind: EngineKind::Embedded, socket: None }
    }

    fn connect(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn socket(&self) -> Option<&Path> {
        None
    }

    fn import(&self, root: &Path, reference: &str) {
        let _hold = self.store.hold().unwrap();
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let layer = self.blob(&mut tar.stdout.take().unwrap());
        assert!(tar.wait().unwrap().success());
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Labels": {"walt.node.models": "pc-x86-64"},
                "Env": ["COLOUR=blue"],
                "Cmd": ["/bin/true", "x"],
                "WorkingDir": "/etc",
                "User": "nobody",
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
            "history": [{"created": "2020-01-02T03:04:05Z", "comment": "imported"}],
        });
        let config = config.to_string();
        self.store.add_image(config.as_bytes(), vec![layer], Some(reference)).unwrap();
    }

    fn load(&self, archive: &Path) {
        let _hold = self.store.hold().unwrap();
        let mut archive = Archive::new(std::fs::File::open(archive).unwrap());
        let mut files = BTreeMap::new();
        while let Some(entry) = archive.next_entry().unwrap() {
            let mut content = Vec::new();
            archive.content().read_to_end(&mut content).unwrap();
            files.insert(String::from_utf8(entry.path).unwrap(), content);
        }
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let config = &files[manifest[0]["Config"].as_str().unwrap()];
        let parsed: Value = serde_json::from_slice(config).unwrap();
        let diff_ids = parsed["rootfs"]["diff_ids"].as_array().unwrap();
        let names = manifest[0]["Layers"].as_array().unwrap();
        let layers = diff_ids.iter().zip(names).map(|(diff_id, name)| {
            self.known_layer(diff_id.as_str().unwrap())
                .unwrap_or_else(|| self.blob(&mut files[name.as_str().unwrap()].as_slice()))
        });
        let reference = manifest[0]["RepoTags"][0].as_str().unwrap();
        self.store.add_image(config, layers.collect(), Some(reference)).unwrap();
    }

    fn image_id(&self, reference: &str) -> String {
        format!("sha256:{}", self.image(reference).id)
    }

    fn image_config(&self, reference: &str) -> Value {
        let document = self.document(reference);
        json!({
            "config": document["config"],
            "architecture": document["architecture"],
            "os": document["os"],
        })
    }

    fn layers(&self, reference: &str) -> Vec<String> {
        let layers = self.image(reference).layers;
        layers.iter().map(|hex| format!("sha256:{hex}")).collect()
    }

    fn history(&self, reference: &str) -> Vec<String> {
        let image = self.image(reference);
        let mut sizes = image.manifest.layers().iter().map(Descriptor::size);
        let document = self.document(reference);
        let step = |step: &Value| {
            let is_empty = step["empty_layer"] == true;
            let size = if is_empty { 0 } else { sizes.next().unwrap() };
            format!("{size}B {}", step["comment"].as_str().unwrap_or_default())
        };
        document["history"].as_array().unwrap().iter().map(step).collect()
    }

    fn file(&self, reference: &str, path: &str) -> Option<Vec<u8>> {
        let image = self.store.image(reference).ok()?;
        let container = self.create("look", BTreeMap::new(), image.id);
        let content = self.wait(async {
            let content = self.engine.read_file(&container, path, usize::MAX).await;
            self.engine.remove(&container).await.unwrap();
            content
        });
        content.ok()
    }

    fn has_image(&self, id: &str) -> bool {
        self.store.image(id).is_ok()
    }

    fn images_labelled(&self, label: &str) -> Vec<String> {
        let (label, value) = label.split_once('=').unwrap();
        let is_labelled = |image: &StoredImage| {
            let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
            labels.unwrap_or_default().get(label).is_some_and(|found| found == value)
        };
        let images = self.store.images().unwrap();
        images.into_iter().filter(is_labelled).map(|image| image.id).collect()
    }

    fn remove_image(&self, image: &str) {
        let found = self.image(image);
        let is_name = found.id != image.trim_start_matches("sha256:");
        if is_name {
            return self.store.remove(image).unwrap();
        }
        for reference in &found.references {
            self.store.remove(reference).unwrap();
        }
        if found.references.is_empty() {
            assert!(self.store.remove_unnamed(&found.id).unwrap());
        }
    }

    fn ask_to_remove_image(&self, image: &str) -> bool {
        self.store.remove(image).is_ok()
    }

    fn remove_images_of(&self, owner: &str) {
        for reference in self.store.references().unwrap() {
            if reference.starts_with(&format!("{owner}/")) {
                self.store.remove(&reference).unwrap();
            }
        }
    }

    fn containers_labelled(&self, label: &str) -> Vec<String> {
        let (label, value) = label.split_once('=').unwrap();
        let found = self.wait(self.engine.containers(label, value)).unwrap();
        found.into_iter().map(|container| container.id).collect()
    }

    fn create_container(&self, name: &str, labels: &[String], reference: &str) -> String {
        let labels = labels.iter().map(|label| label.split_once('=').unwrap());
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).collect();
        self.create(name, labels, self.image(reference).id)
    }

    fn kill_container(&self, id: &str) {
        self.wait(self.engine.kill(id, "KILL")).unwrap();
    }

    fn remove_container(&self, id: &str) {
        self.wait(self.engine.remove(id)).unwrap();
    }
}
