//! Which engine a run of the conformance suites is about, and what tests do with it behind the
//! gateway's back. Another engine is another [`TestEngine`] and a line in [`selected`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use waltgate::backend::image::engine::Engine;
use waltgate::backend::image::engine::docker::DockerEngine;
use waltgate::config::{self, EngineKind};

use super::embedded::Embedded;

/// The engine that `WALTGATE_TEST_ENGINE` names: `docker`, unless it is set, `podman` or
/// `embedded`.
pub(crate) fn selected() -> Arc<dyn TestEngine> {
    match std::env::var("WALTGATE_TEST_ENGINE").as_deref() {
        Err(_) | Ok("docker") => {
            Arc::new(DockerApi::at("WALTGATE_TEST_DOCKER", "/var/run/docker.sock"))
        }
        Ok("podman") => Arc::new(DockerApi::at("WALTGATE_TEST_PODMAN", "/run/podman/podman.sock")),
        Ok("embedded") => Arc::new(Embedded::shared()),
        Ok(other) => panic!("WALTGATE_TEST_ENGINE={other}: docker, podman or embedded"),
    }
}

/// An engine, as a test bed sees it. Everything panics when the engine does not do it.
pub(crate) trait TestEngine: Send + Sync {
    /// What a gateway's configuration says to use it.
    fn config(&self) -> config::Engine;
    /// A connection as the gateway has it.
    fn connect(&self) -> Arc<dyn Engine>;
    /// Where it answers, if it is another process.
    fn socket(&self) -> Option<&Path>;

    /// Makes an image of a directory, with labels and so on that a save must not lose.
    fn import(&self, root: &Path, reference: &str);
    /// Takes an archive in the format of `docker save`. A layer that the engine has may be left
    /// empty in it.
    fn load(&self, archive: &Path);
    /// The identifier of an image.
    fn image_id(&self, reference: &str) -> String;
    /// Its "config", "architecture" and "os", as in an OCI image configuration.
    fn image_config(&self, reference: &str) -> Value;
    /// The digests of its layers.
    fn layers(&self, reference: &str) -> Vec<String>;
    /// The steps of its history, each with its size in words and its comment.
    fn history(&self, reference: &str) -> Vec<String>;
    /// The content of a file of an image, `None` when there is no such file or image.
    fn file(&self, reference: &str, path: &str) -> Option<Vec<u8>>;
    /// Whether the engine has an image of this identifier, named or not.
    fn has_image(&self, id: &str) -> bool;
    /// Images that carry a label.
    fn images_labelled(&self, label: &str) -> Vec<String>;
    /// Removes an image, or a name of one.
    fn remove_image(&self, image: &str);
    /// Asks for the same as people do, who use no force. Whether it was done.
    fn ask_to_remove_image(&self, image: &str) -> bool;
    /// Removes all images of an owner.
    fn remove_images_of(&self, owner: &str);

    /// The containers, running or not, that carry a label.
    fn containers_labelled(&self, label: &str) -> Vec<String>;
    /// Makes a container of an image and does not start it.
    fn create_container(&self, name: &str, labels: &[String], reference: &str) -> String;
    /// Kills a container's process 1.
    fn kill_container(&self, id: &str);
    /// Removes a container.
    fn remove_container(&self, id: &str);
    /// All files of a container, as an archive, as people get them out.
    fn export_container(&self, id: &str) -> Vec<u8> {
        panic!("the engine of container {id} has no command for that")
    }
}

/// An engine that has Docker's API, through docker's command line.
struct DockerApi {
    socket: PathBuf,
}

impl DockerApi {
    fn at(variable: &str, usual: &str) -> Self {
        Self { socket: std::env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(args);
        command
    }

    fn docker(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("the docker client is installed");
        assert!(
            output.status.success(),
            "docker {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn lines(&self, args: &[&str]) -> Vec<String> {
        self.docker(args).lines().map(str::to_owned).collect()
    }

    /// Lists images; again when Podman fails, as it does when one is removed meanwhile.
    fn images(&self, args: &[&str]) -> Vec<String> {
        let list = || self.command(&["images"]).args(args).output().unwrap();
        let listed = (0..20).map(|_| list()).find(|listed| listed.status.success());
        let listed = listed.expect("the engine lists its images");
        String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn inspect(&self, reference: &str, format: &str) -> String {
        self.docker(&["image", "inspect", "-f", format, reference])
    }
}

impl TestEngine for DockerApi {
    fn config(&self) -> config::Engine {
        config::Engine { kind: EngineKind::Docker, socket: Some(self.socket.clone()) }
    }

    fn connect(&self) -> Arc<dyn Engine> {
        Arc::new(DockerEngine::new(Some(self.socket.clone())))
    }

    fn socket(&self) -> Option<&Path> {
        Some(&self.socket)
    }

    fn import(&self, root: &Path, reference: &str) {
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let imported = self
            .command(&["import", "-c", "LABEL walt.node.models=pc-x86-64"])
            .args(["-c", "ENV COLOUR=blue", "-c", "CMD [\"/bin/true\",\"x\"]"])
            .args(["-c", "WORKDIR /etc", "-c", "USER nobody"])
            .args(["-", reference])
            .stdin(tar.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(tar.wait().unwrap().success());
        assert!(imported.status.success(), "{imported:?}");
    }

    fn load(&self, archive: &Path) {
        self.docker(&["load", "-i", &archive.display().to_string()]);
    }

    fn image_id(&self, reference: &str) -> String {
        self.inspect(reference, "{{.Id}}")
    }

    fn image_config(&self, reference: &str) -> Value {
        let inspected = self.inspect(
            reference,
            r#"{"config":{{json .Config}},"architecture":"{{.Architecture}}","os":"{{.Os}}"}"#,
        );
        serde_json::from_str(&inspected).unwrap()
    }

    fn layers(&self, reference: &str) -> Vec<String> {
        let layers = self.inspect(reference, "{{range .RootFS.Layers}}{{println .}}{{end}}");
        layers.lines().map(str::to_owned).collect()
    }

    fn history(&self, reference: &str) -> Vec<String> {
        self.lines(&["history", "--no-trunc", "--format", "{{.Size}} {{.Comment}}", reference])
    }

    fn file(&self, reference: &str, path: &str) -> Option<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        let mut created = self.command(&["create", "--network=none", "--pull=never"]);
        let created = created.args([reference, "true"]).output().unwrap();
        if !created.status.success() {
            return None;
        }
        let container = String::from_utf8(created.stdout).unwrap().trim().to_owned();
        let copied = self
            .command(&["cp", "-L", &format!("{container}:{path}")])
            .arg(&copy)
            .output()
            .unwrap();
        self.docker(&["rm", &container]);
        copied.status.success().then(|| std::fs::read(&copy).unwrap())
    }

    fn has_image(&self, id: &str) -> bool {
        let inspected = self.command(&["image", "inspect", id]).output().unwrap();
        inspected.status.success()
    }

    fn images_labelled(&self, label: &str) -> Vec<String> {
        let filter = format!("label={label}");
        self.images(&["--all", "--quiet", "--filter", &filter])
    }

    fn remove_image(&self, image: &str) {
        self.docker(&["image", "rm", "--force", image]);
    }

    fn ask_to_remove_image(&self, image: &str) -> bool {
        self.command(&["image", "rm", image]).output().unwrap().status.success()
    }

    fn remove_images_of(&self, owner: &str) {
        for reference in self.images(&["--format", "{{.Repository}}:{{.Tag}}"]) {
            let name = reference.rsplit_once("docker.io/").map_or(&*reference, |(_, name)| name);
            if name.starts_with(&format!("{owner}/")) {
                self.remove_image(&reference);
            }
        }
    }

    fn containers_labelled(&self, label: &str) -> Vec<String> {
        let filter = format!("label={label}");
        self.lines(&["ps", "-aq", "--no-trunc", "--filter", &filter])
    }

    fn create_container(&self, name: &str, labels: &[String], reference: &str) -> String {
        let mut args = vec!["create", "--name", name];
        for label in labels {
            args.extend(["--label", label]);
        }
        args.push(reference);
        self.docker(&args)
    }

    fn kill_container(&self, id: &str) {
        self.docker(&["kill", id]);
    }

    fn export_container(&self, id: &str) -> Vec<u8> {
        let exported = self.command(&["export", id]).output().unwrap();
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
        exported.stdout
    }

    fn remove_container(&self, id: &str) {
        self.docker(&["rm", "-f", id]);
    }
}
