//! Docker and Podman, through docker's command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::super::process::run_tool;
use super::Api;

/// An engine that has Docker's API.
pub(super) struct DockerApi {
    socket: PathBuf,
}

impl DockerApi {
    #[track_caller]
    pub(super) fn at(variable: &str, usual: &str) -> Self {
        let socket = std::env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from);
        assert!(
            socket.exists(),
            "no engine at {}: run the tests with `make test`",
            socket.display()
        );
        Self { socket }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut docker = Command::new("docker");
        docker.arg("-H").arg(format!("unix://{}", self.socket.display())).args(arguments);
        docker
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        run_tool(&mut self.command(arguments))
    }

    /// A list; again when Podman fails, as it does when something of it is removed meanwhile.
    fn listed(&self, arguments: &[&str]) -> String {
        let listed = (0..20).find_map(|_| self.about(arguments));
        listed.unwrap_or_else(|| panic!("docker {arguments:?} fails"))
    }

    /// What it prints about something that may be gone.
    fn about(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Api for DockerApi {
    fn table(&self, _state: &Path) -> String {
        format!("[engine]\nkind = \"docker\"\nsocket = \"unix://{}\"", self.socket.display())
    }

    fn import(&self, archive: &Path, changes: &[&str], reference: &str) {
        let changes = changes.iter().flat_map(|change| ["--change", change]);
        let mut import = self.command(&["import"]);
        run_tool(import.args(changes).arg(archive).arg(reference));
    }

    fn derive(&self, base: &str, label: (&str, &str), architecture: &str, reference: &str) {
        let layers = self.docker(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", base]);
        let layers: Vec<String> = serde_json::from_str(&layers).unwrap();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"], "Labels": { label.0: label.1 } },
            "rootfs": { "type": "layers", "diff_ids": layers },
            "history": vec![json!({ "created": "2020-01-02T03:04:05Z" }); layers.len()],
        });
        let manifest = json!([{
            "Config": "config.json",
            "RepoTags": [format!("docker.io/{reference}:latest")],
            "Layers": vec!["layer.tar"; layers.len()],
        }]);
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        fs::write(place.path().join("manifest.json"), manifest.to_string()).unwrap();
        // The engine has these layers and does not look.
        fs::write(place.path().join("layer.tar"), "").unwrap();
        let archive = place.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(place.path()).arg("-cf").arg(&archive);
        run_tool(tar.args(["config.json", "manifest.json", "layer.tar"]));
        run_tool(self.command(&["load", "-i"]).arg(archive));
    }

    fn architecture(&self, reference: &str) -> String {
        self.docker(&["image", "inspect", "-f", "{{.Architecture}}", reference])
    }

    fn last_layer(&self, reference: &str) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let archive = place.path().join("image.tar");
        run_tool(self.command(&["save", reference, "-o"]).arg(&archive));
        run_tool(Command::new("tar").arg("-C").arg(place.path()).arg("-xf").arg(&archive));
        let manifest = fs::read(place.path().join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = manifest[0]["Layers"].as_array().unwrap().last().unwrap().as_str().unwrap();
        let listed = run_tool(Command::new("tar").arg("-tf").arg(place.path().join(layer)));
        let path = |line: &str| line.trim_start_matches("./").trim_end_matches('/').to_owned();
        listed.lines().map(path).collect()
    }

    fn image_id(&self, reference: &str) -> Option<String> {
        self.about(&["image", "inspect", "--format", "{{.Id}}", reference])
    }

    fn configuration(&self, reference: &str) -> Value {
        let format = "{{json .Config}}";
        let text = self.docker(&["image", "inspect", "--format", format, reference]);
        serde_json::from_str(&text).unwrap()
    }

    fn history(&self, reference: &str) -> Vec<String> {
        let steps = self.docker(&["history", "--no-trunc", "--format", "{{.Comment}}", reference]);
        steps.lines().map(str::to_owned).collect()
    }

    fn run(&self, reference: &str, script: &str) -> String {
        let run = ["run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", reference, "-c"];
        self.docker(&[&run[..], &[script]].concat())
    }

    fn remove_image(&self, reference: &str) {
        self.docker(&["image", "rm", "--force", reference]);
    }

    fn references(&self) -> Vec<String> {
        let listed = self.listed(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        listed.lines().map(str::to_owned).collect()
    }

    fn has_unnamed(&self, label: &str) -> bool {
        let label = format!("label={label}");
        let filters = ["--filter", "dangling=true", "--filter", &label];
        !self.listed(&[&["image", "ls", "--quiet"][..], &filters].concat()).is_empty()
    }

    fn containers_of(&self, id: &str, name: &str) -> Vec<String> {
        let all = self.listed(&["ps", "--all", "--no-trunc", "--format", "{{.ID}}"]);
        let is_of = |container: &&str| {
            let format = "{{.Image}} {{.Config.Image}}";
            let image = self.about(&["inspect", "--format", format, container]);
            image.is_some_and(|image| image.contains(id) || image.contains(name))
        };
        all.lines().filter(is_of).map(str::to_owned).collect()
    }

    fn is_running(&self, container: &str) -> bool {
        self.docker(&["inspect", "--format", "{{.State.Running}}", container]) == "true"
    }

    fn changes_in(&self, container: &str) -> String {
        self.about(&["diff", container]).unwrap_or_default()
    }

    fn remove_container(&self, container: &str) {
        // The gateway may be about to.
        self.about(&["rm", "--force", container]);
    }
}
