//! The Docker engine of the demonstration.

use std::path::{Path, PathBuf};

use super::program::{Service, command, run_to_end, script_in_namespaces};
use super::{DemoError, make_directory};

/// In namespaces of its own, which end everything that it started.
const NAMESPACES: [&str; 6] =
    ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net"];

/// A running engine.
pub(super) struct DemoEngine {
    socket: PathBuf,
    service: Service,
}

impl DemoEngine {
    /// Starts one that keeps everything in `directory`, and waits until it answers.
    pub(super) async fn start(directory: &Path) -> Result<Self, DemoError> {
        make_directory(directory)?;
        let mut command = script_in_namespaces(&NAMESPACES, include_str!("engine.sh"));
        command.arg(directory);
        let service =
            Service::start(command, "dockerd", |line| line.contains("API listen on")).await?;
        Ok(Self { socket: directory.join("docker.sock"), service })
    }

    /// The path of its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes an image of a kind that `image.sh` knows.
    pub(super) async fn import(&self, kind: &str, reference: &str) -> Result<(), DemoError> {
        let mut import = command("sh");
        import
            .args(["-c", include_str!("image.sh"), "waltgate-demo"])
            .args([kind, reference, "LABEL walt.node.models=pc-x86-64"])
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        run_to_end(import).await?;
        Ok(())
    }

    /// Ends it and all its containers.
    pub(super) async fn close(self) {
        self.service.end_input().await;
    }
}
