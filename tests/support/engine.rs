//! The engine of the tests: Docker or Podman, or the one inside the gateway.

mod docker;
mod embedded;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use self::docker::DockerApi;
use self::embedded::Embedded;
use super::process::run_tool;
use super::testbed::MEMORY;

/// What tests do with an engine behind the gateway's back. Everything panics when the engine does
/// not do it.
pub(crate) trait Api {
    /// Whether it is the one inside the gateway.
    fn is_embedded(&self) -> bool {
        false
    }
    /// The gateway's `[engine]` for it, where the gateway keeps its state in this directory.
    fn table(&self, state: &Path) -> String;
    /// Makes an image of an archive of files, with Dockerfile instructions applied.
    fn import(&self, archive: &Path, changes: &[&str], reference: &str);
    /// Makes an image of the files of another, which stays, with this label, for this CPU
    /// architecture, in Go's words.
    fn derive(&self, base: &str, label: (&str, &str), architecture: &str, reference: &str);
    /// The CPU architecture of an image.
    fn architecture(&self, reference: &str) -> String;
    /// The paths in the layer that an image has on top of the others, directories too.
    fn last_layer(&self, reference: &str) -> Vec<String>;
    /// The identifier of an image, `None` when there is none of this name.
    fn image_id(&self, reference: &str) -> Option<String>;
    /// "config" of its OCI image configuration.
    fn configuration(&self, reference: &str) -> Value;
    /// The comments of the steps of its history.
    fn history(&self, reference: &str) -> Vec<String>;
    /// What a shell script prints in a container of it, which has its files only.
    fn run(&self, reference: &str, script: &str) -> String;
    /// Takes a name away.
    fn remove_image(&self, reference: &str);
    /// The names of all images, `OWNER/NAME:TAG`.
    fn references(&self) -> Vec<String>;
    /// Whether images without a name carry a label.
    fn has_unnamed(&self, label: &str) -> bool;
    /// The containers, running or not, that are made of an image with this identifier or a name
    /// that has this part.
    fn containers_of(&self, id: &str, name: &str) -> Vec<String>;
    /// Whether it runs.
    fn is_running(&self, container: &str) -> bool;
    /// The paths that are other than in its image; none if it is gone meanwhile.
    fn changes_in(&self, container: &str) -> String;
    /// Ends and removes it, whoever uses it.
    fn remove_container(&self, container: &str);
}

/// The engine that `tests/run` found or started, or one for this test.
pub(crate) struct Engine(Box<dyn Api>);

impl Engine {
    /// The one that `WALTGATE_TEST_ENGINE` names, `docker`, `podman` or `embedded`, by default
    /// Docker: at WALTGATE_TEST_DOCKER or WALTGATE_TEST_PODMAN, else at its usual place.
    #[track_caller]
    pub(crate) fn connect() -> Self {
        match std::env::var("WALTGATE_TEST_ENGINE").as_deref() {
            Ok("embedded") => Self::embedded(),
            Ok("podman") => {
                let podman = DockerApi::at("WALTGATE_TEST_PODMAN", "/run/podman/podman.sock");
                Self(Box::new(podman))
            }
            _ => Self::docker(),
        }
    }

    /// The same; the engine inside the gateway is one for all tests of this process, so that a large
    /// image is loaded once.
    #[track_caller]
    pub(crate) fn shared() -> Self {
        match std::env::var("WALTGATE_TEST_ENGINE").as_deref() {
            Ok("embedded") => Self(Box::new(Embedded::shared())),
            _ => Self::connect(),
        }
    }

    /// The engine inside the gateway.
    pub(crate) fn embedded() -> Self {
        Self(Box::new(Embedded::new(&std::env::temp_dir())))
    }

    /// The same, with its images and containers in memory.
    pub(crate) fn embedded_in_memory() -> Self {
        Self(Box::new(Embedded::new(Path::new(MEMORY))))
    }

    #[track_caller]
    pub(crate) fn docker() -> Self {
        Self(Box::new(DockerApi::at("WALTGATE_TEST_DOCKER", "/var/run/docker.sock")))
    }

    pub(crate) fn table(&self, state: &Path) -> String {
        self.0.table(state)
    }

    /// Whether it is the one inside the gateway.
    pub(crate) fn is_embedded(&self) -> bool {
        self.0.is_embedded()
    }

    /// Makes an image of an archive of files.
    pub(crate) fn import(&self, archive: &Path, reference: &str) {
        self.0.import(archive, &[], reference);
    }

    /// The identifier of an image that exists.
    #[track_caller]
    pub(crate) fn image_id(&self, reference: &str) -> String {
        self.0.image_id(reference).unwrap_or_else(|| panic!("no image {reference}"))
    }

    /// Whether the engine has an image of this reference.
    pub(crate) fn has_image(&self, reference: &str) -> bool {
        self.0.image_id(reference).is_some()
    }

    pub(crate) fn configuration(&self, reference: &str) -> Value {
        self.0.configuration(reference)
    }

    pub(crate) fn architecture(&self, reference: &str) -> String {
        self.0.architecture(reference)
    }

    /// The paths in the layer that an image has on top of the others, in order.
    pub(crate) fn last_layer(&self, reference: &str) -> Vec<String> {
        let mut paths = self.0.last_layer(reference);
        paths.retain(|path| !path.is_empty());
        paths.sort();
        paths
    }

    pub(crate) fn history(&self, reference: &str) -> Vec<String> {
        self.0.history(reference)
    }

    pub(crate) fn remove_image(&self, reference: &str) {
        self.0.remove_image(reference);
    }

    pub(crate) fn has_unnamed(&self, label: &str) -> bool {
        self.0.has_unnamed(label)
    }

    pub(crate) fn is_running(&self, container: &str) -> bool {
        self.0.is_running(container)
    }

    pub(crate) fn changes_in(&self, container: &str) -> String {
        self.0.changes_in(container)
    }

    pub(crate) fn remove_container(&self, container: &str) {
        self.0.remove_container(container);
    }

    /// The names in a directory of an image.
    pub(crate) fn names_in(&self, reference: &str, directory: &str) -> String {
        self.0.run(reference, &format!("ls -a {directory}"))
    }

    /// Whether an image has something at a path.
    pub(crate) fn has_file(&self, reference: &str, path: &str) -> bool {
        self.0.run(reference, &format!("if [ -e {path} ]; then echo yes; fi")) == "yes"
    }

    /// The containers, running or not, whose image is or was `image`.
    pub(crate) fn containers_of(&self, image: &Image<'_>) -> Vec<String> {
        self.0.containers_of(&image.id, &image.name)
    }

    /// An image of a name of its own, `OWNER/NAME`, of a kind that `image.sh` knows.
    pub(crate) fn image(&self, owner: &str, kind: &str) -> Image<'_> {
        self.image_with(owner, kind, &[])
    }

    /// The same, with Dockerfile instructions applied.
    #[track_caller]
    pub(crate) fn image_with(&self, owner: &str, kind: &str, changes: &[&str]) -> Image<'_> {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{call}", std::process::id());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/image.sh");
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image.tar");
        let write = format!("sh {script} {kind} >{}", archive.display());
        run_tool(Command::new("sh").args(["-c", &write]));
        // A label of its own makes the image a different one from other tests'.
        let label = format!("LABEL waltgate.test={name}");
        let changes = [&["CMD [\"/bin/sh\"]", label.as_str()], changes].concat();
        let reference = format!("{owner}/{name}");
        self.0.import(&archive, &changes, &reference);
        let id = self.image_id(&reference);
        Image { engine: self, name, id }
    }
}

impl Engine {
    /// An image of a name of its own, `OWNER/NAME`, with the files of a kind that
    /// `debian-image.sh` knows, for this CPU architecture. They are loaded once.
    #[track_caller]
    pub(crate) fn debian_image(&self, owner: &str, kind: &str, architecture: &str) -> Image<'_> {
        static LOADING: Mutex<()> = Mutex::new(());
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/debian-image.sh");
        let base = {
            let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
            let archive = PathBuf::from(run_tool(Command::new("sh").args([script, kind])));
            let base = format!("waltgate-tests/{}", archive.file_stem().unwrap().display());
            if !self.has_image(&base) {
                self.0.import(&archive, &["LABEL waltgate.test=shared"], &base);
            }
            base
        };
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{call}", std::process::id());
        let reference = format!("{owner}/{name}");
        self.0.derive(&base, ("waltgate.test", &name), architecture, &reference);
        let id = self.image_id(&reference);
        Image { engine: self, name, id }
    }
}

/// An image of one test, removed with it, as are images of the same name that others saved.
pub(crate) struct Image<'a> {
    engine: &'a Engine,
    name: String,
    id: String,
}

impl Image<'_> {
    /// The name without an owner.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The SSH user name that asks for it.
    pub(crate) fn user(&self) -> String {
        format!("image.{}", self.name)
    }

    /// `OWNER/NAME`, for a saved copy.
    pub(crate) fn owned_by(&self, owner: &str) -> String {
        format!("{owner}/{}", self.name)
    }

    /// What a file of the image `reference` says, without white space around.
    #[track_caller]
    pub(crate) fn file_in(&self, reference: &str, path: &str) -> String {
        self.engine.0.run(reference, &format!("cat {path}"))
    }

    /// Whether any container of it exists.
    pub(crate) fn has_containers(&self) -> bool {
        !self.engine.containers_of(self).is_empty()
    }
}

impl Image<'_> {
    fn remove(&self) {
        for container in self.engine.containers_of(self) {
            self.engine.remove_container(&container);
        }
        let suffix = format!("/{}:", self.name);
        for reference in self.engine.0.references() {
            if reference.contains(&suffix) {
                self.engine.remove_image(&reference);
            }
        }
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        // Best effort: a failing test may have left anything, and the gateway may be about to
        // remove it.
        let _ = catch_unwind(AssertUnwindSafe(|| self.remove()));
    }
}
