//! The engine of the tests, through docker's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::run_tool;

/// The engine that `tests/run` found or started.
pub(crate) struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// The one that `WALTGATE_TEST_ENGINE` names, `docker` or `podman`, by default Docker: at
    /// WALTGATE_TEST_DOCKER or WALTGATE_TEST_PODMAN, else at its usual place.
    #[track_caller]
    pub(crate) fn connect() -> Self {
        let (variable, usual) = match std::env::var("WALTGATE_TEST_ENGINE").as_deref() {
            Ok("podman") => ("WALTGATE_TEST_PODMAN", "/run/podman/podman.sock"),
            _ => ("WALTGATE_TEST_DOCKER", "/var/run/docker.sock"),
        };
        let socket = std::env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from);
        assert!(
            socket.exists(),
            "no engine at {}: run the tests with `make test`",
            socket.display()
        );
        Self { socket }
    }

    /// The path of its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs `docker ARGUMENTS`, which must succeed; returns its standard output.
    #[track_caller]
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        run_tool(Command::new("docker").arg("-H").arg(self.endpoint()).args(arguments))
    }

    /// The paths that are other than in its image, in a container that may be gone meanwhile.
    pub(crate) fn changes_in(&self, container: &str) -> String {
        let mut docker = Command::new("docker");
        let output = docker.arg("-H").arg(self.endpoint()).args(["diff", container]).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Whether the engine has an image of this reference.
    pub(crate) fn has_image(&self, reference: &str) -> bool {
        !self.docker(&["image", "ls", "--quiet", reference]).is_empty()
    }

    /// The containers, running or not, whose image is or was `image`.
    pub(crate) fn containers_of(&self, image: &Image<'_>) -> Vec<String> {
        let all = self.docker(&["ps", "--all", "--no-trunc", "--format", "{{.ID}}"]);
        all.lines()
            .filter(|id| {
                // One may be removed meanwhile.
                let output = Command::new("docker")
                    .arg("-H")
                    .arg(self.endpoint())
                    .args(["inspect", "--format", "{{.Image}} {{.Config.Image}}", id])
                    .output()
                    .unwrap();
                let inspected = String::from_utf8_lossy(&output.stdout).into_owned();
                inspected.contains(&image.id) || inspected.contains(&image.name)
            })
            .map(str::to_owned)
            .collect()
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
        let reference = format!("{owner}/{name}");
        // A label of its own makes the image a different one from other tests'.
        let label = format!("LABEL waltgate.test={name}");
        run_tool(
            Command::new("sh")
                .args([script, kind, &reference, &label])
                .args(changes)
                .env("DOCKER_HOST", self.endpoint()),
        );

        let id = self.docker(&["image", "inspect", "--format", "{{.Id}}", &reference]);
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
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        let container = self.engine.docker(&["create", "--network", "none", reference, "/bin/cat"]);
        let copied = ["cp", "-L", &format!("{container}:{path}"), copy.to_str().unwrap()];
        self.engine.docker(&copied);
        self.engine.docker(&["rm", &container]);
        fs::read_to_string(copy).unwrap().trim().to_owned()
    }

    /// Whether any container of it exists.
    pub(crate) fn has_containers(&self) -> bool {
        !self.engine.containers_of(self).is_empty()
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        let docker = |arguments: &[&str]| {
            // Best effort: a failing test may have left anything.
            Command::new("docker").arg("-H").arg(self.engine.endpoint()).args(arguments).output()
        };
        for container in self.engine.containers_of(self) {
            docker(&["rm", "--force", &container]).ok();
        }
        if let Ok(output) = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]) {
            let suffix = format!("/{}:", self.name);
            for reference in String::from_utf8_lossy(&output.stdout).lines() {
                if reference.contains(&suffix) {
                    docker(&["image", "rm", "--force", reference]).ok();
                }
            }
        }
    }
}
