//! The engine inside the gateway, through its image store and the directories of its containers.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use waltgate::backend::image::engine::embedded::store::{Store, StoredImage};

use super::super::eventually;
use super::super::process::run_tool;
use super::Api;

/// One for one test, or for all of a process.
pub(super) struct Embedded {
    root: Arc<tempfile::TempDir>,
    store: Store,
}

impl Embedded {
    pub(super) fn new(top: &Path) -> Self {
        Self::at(Arc::new(tempfile::tempdir_in(top).unwrap()))
    }

    /// As there is one Docker.
    pub(super) fn shared() -> Self {
        static ROOT: Mutex<Weak<tempfile::TempDir>> = Mutex::new(Weak::new());
        let mut shared = ROOT.lock().unwrap();
        let root = shared.upgrade().unwrap_or_else(|| Arc::new(tempfile::tempdir().unwrap()));
        *shared = Arc::downgrade(&root);
        Self::at(root)
    }

    fn at(root: Arc<tempfile::TempDir>) -> Self {
        let store = Store::open(root.path()).unwrap();
        Self { root, store }
    }

    fn image(&self, reference: &str) -> StoredImage {
        self.store.image(reference).unwrap()
    }

    fn document(&self, reference: &str) -> Value {
        serde_json::from_slice(&self.store.document(&self.image(reference).id).unwrap()).unwrap()
    }

    fn container(&self, id: &str) -> PathBuf {
        self.root.path().join("containers").join(id)
    }

    /// The processes that look after a container.
    fn supervisors(&self, id: &str) -> Vec<Pid> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            if command.contains("container-supervisor") && command.contains(id) {
                let pid = path.file_name().and_then(|name| name.to_str()).unwrap().parse();
                found.extend(pid.ok().and_then(Pid::from_raw));
            }
        }
        found
    }
}

impl Api for Embedded {
    fn is_embedded(&self) -> bool {
        true
    }

    fn table(&self, state: &Path) -> String {
        fs::create_dir_all(state).unwrap();
        let link = state.join("engine");
        if !link.exists() {
            symlink(self.root.path(), link).unwrap();
        }
        "[engine]\nkind = \"embedded\"".to_owned()
    }

    fn import(&self, archive: &Path, changes: &[&str], reference: &str) {
        let imported = format!("{reference}-imported");
        self.store.import(File::open(archive).unwrap(), &imported).unwrap();
        let _hold = self.store.hold().unwrap();
        let mut document = self.document(&imported);
        let config = document["config"].as_object_mut().unwrap();
        for change in changes {
            apply(change, config);
        }
        let layers = self.image(&imported).manifest.layers().clone();
        self.store.add_image(document.to_string().as_bytes(), layers, Some(reference)).unwrap();
        self.store.remove(&imported).unwrap();
    }

    fn derive(&self, base: &str, label: (&str, &str), architecture: &str, reference: &str) {
        let _hold = self.store.hold().unwrap();
        let mut document = self.document(base);
        document["architecture"] = json!(architecture);
        document["config"] = json!({ "Cmd": ["/bin/sh"], "Labels": { label.0: label.1 } });
        let layers = self.image(base).manifest.layers().clone();
        self.store.add_image(document.to_string().as_bytes(), layers, Some(reference)).unwrap();
    }

    fn architecture(&self, reference: &str) -> String {
        self.document(reference)["architecture"].as_str().unwrap().to_owned()
    }

    fn last_layer(&self, reference: &str) -> Vec<String> {
        let layers = self.store.layer_directories(&self.image(reference)).unwrap();
        let find = ["-mindepth", "1", "-printf", "%P\\n"];
        let listed = run_tool(Command::new("find").arg(layers.last().unwrap()).args(find));
        listed.lines().map(str::to_owned).collect()
    }

    fn image_id(&self, reference: &str) -> Option<String> {
        match self.store.image(reference) {
            Err(error) if error.is_not_found() => None,
            image => Some(format!("sha256:{}", image.unwrap().id)),
        }
    }

    fn configuration(&self, reference: &str) -> Value {
        self.document(reference)["config"].clone()
    }

    fn history(&self, reference: &str) -> Vec<String> {
        let steps = self.store.history(&self.image(reference).id).unwrap();
        steps.into_iter().map(|step| step.comment).collect()
    }

    fn run(&self, reference: &str, script: &str) -> String {
        let layers = self.store.layer_directories(&self.image(reference)).unwrap();
        let lower: Vec<_> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        let place = tempfile::tempdir().unwrap();
        let mount = "cd \"$0\"; mkdir u w m; \
                     mount -t overlay -o lowerdir=\"$1\",upperdir=u,workdir=w overlay m; \
                     exec chroot m /bin/sh -c \"$2\"";
        run_tool(
            Command::new("unshare")
                .args(["--mount", "sh", "-ec", mount])
                .arg(place.path())
                .args([&lower.join(":"), script]),
        )
    }

    fn remove_image(&self, reference: &str) {
        self.store.remove(reference).unwrap();
    }

    fn references(&self) -> Vec<String> {
        self.store.references().unwrap()
    }

    fn has_unnamed(&self, label: &str) -> bool {
        let (label, value) = label.split_once('=').unwrap();
        self.store.unnamed_images().unwrap().iter().any(|image| {
            let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
            labels.unwrap_or_default().get(label).is_some_and(|found| found == value)
        })
    }

    fn containers_of(&self, id: &str, name: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.path().join("containers")) else {
            return Vec::new();
        };
        let id = id.trim_start_matches("sha256:");
        let is_of = |container: &String| {
            // One may be removed meanwhile.
            let record = fs::read_to_string(self.container(container).join("container.json"));
            !container.starts_with('.')
                && record.is_ok_and(|record| record.contains(id) || record.contains(name))
        };
        let all = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        all.filter(is_of).collect()
    }

    fn is_running(&self, container: &str) -> bool {
        let lock = File::open(self.container(container).join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    fn changes_in(&self, container: &str) -> String {
        let find = "cd \"$0\" && find . | cut -c2-";
        let upper = self.container(container).join("upper");
        let output = Command::new("sh").args(["-c", find]).arg(upper).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn remove_container(&self, container: &str) {
        for supervisor in self.supervisors(container) {
            // It may end by itself meanwhile.
            let _ = kill_process(supervisor, Signal::KILL);
        }
        eventually("its supervisor has ended", || self.supervisors(container).is_empty());
        // The gateway may have been faster.
        let _ = fs::remove_dir_all(self.container(container));
    }
}

/// A Dockerfile instruction.
fn apply(change: &str, config: &mut Map<String, Value>) {
    let (instruction, value) = change.split_once(' ').unwrap();
    let pair = || value.split_once('=').unwrap();
    match instruction {
        "ENV" => {
            config.entry("Env").or_insert(json!([])).as_array_mut().unwrap().push(json!(value));
        }
        "LABEL" => {
            let (label, value) = pair();
            config.entry("Labels").or_insert(json!({}))[label] = json!(value);
        }
        "CMD" => config["Cmd"] = serde_json::from_str(value).unwrap(),
        "ENTRYPOINT" => {
            config.insert("Entrypoint".to_owned(), serde_json::from_str(value).unwrap());
        }
        "WORKDIR" => {
            config.insert("WorkingDir".to_owned(), json!(value));
        }
        "USER" => {
            config.insert("User".to_owned(), json!(value));
        }
        other => panic!("{other}"),
    }
}
