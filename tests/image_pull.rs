//! `waltgate image pull`, from a real registry.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use sha2::{Digest, Sha256};

use support::DEADLINE;
use support::gateway::WALTGATE;
use support::log::Log;
use support::process::{Process, bound_command};

const USER: &str = "alice";
const PASSWORD: &str = "secret";
/// bcrypt, with the least cost there is.
const PASSWORD_HASH: &str = "$2b$04$v7WsYPv8SJGs7ZprJBuU1eeHe817RbfDizmojOOIiXXkjksco.UNO";

fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A registry of its own, and an image store to pull into.
struct Bench {
    directory: tempfile::TempDir,
    address: String,
    auth: RegistryAuth,
    _registry: Process,
}

impl Bench {
    fn open() -> Self {
        Self::new("", RegistryAuth::Anonymous)
    }

    fn with_password() -> Self {
        let auth = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
        Self::new("auth: {htpasswd: {realm: test, path: htpasswd}}\n", auth)
    }

    fn new(settings: &str, auth: RegistryAuth) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("htpasswd"), format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: registry}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{settings}"
        );
        fs::write(at("registry.yml"), config).unwrap();
        fs::write(at("waltgate.toml"), format!("[server]\nstate_dir = {:?}\n", at("state")))
            .unwrap();
        let mut registry = Process::spawn(
            bound_command("docker-registry")
                .args(["serve", "registry.yml"])
                .current_dir(directory.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        );
        let log = Log::collect(registry.stderr.take().unwrap());
        let address = log.wait_for(0, DEADLINE, |log| {
            let text = String::from_utf8_lossy(log).into_owned();
            let (_, rest) = text.split_once("listening on ")?;
            let end = rest.find(['"', ' ', '\n'])?;
            Some(rest[..end].to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("{}", log.text()));
        Self { directory, address, auth, _registry: registry }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Pushes an image with one file, and returns its configuration's digest.
    fn push(&self, image: &str, architecture: &str, content: &str) -> String {
        let tree = self.path("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/file"), content).unwrap();
        let tar = |option: &str| {
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(&tree).args(["--mtime=@0", "--sort=name", option, "."]);
            tar.output().unwrap().stdout
        };
        let plain = tar("-c");
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Env": ["COLOUR=blue"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&plain))]},
        });
        let config = config.to_string().into_bytes();
        let id = sha256(&config);
        let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned();
        let layer = ImageLayer::new(tar("-cz"), media_type, None);
        self.registry(async |client| {
            let reference: Reference = self.name(image).parse().unwrap();
            let config = Config::oci_v1(config, None);
            client.push(&reference, &[layer], config, &self.auth, None).await.unwrap();
        });
        id
    }

    fn registry(&self, work: impl AsyncFnOnce(Client)) {
        let protocol = ClientProtocol::Http;
        let client = Client::new(ClientConfig { protocol, ..ClientConfig::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(client));
    }

    fn image(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(WALTGATE);
        command.arg("image").arg("-c").arg(self.path("waltgate.toml")).args(arguments);
        command.stdin(Stdio::null()).env("HOME", self.path("home")).env_remove("XDG_RUNTIME_DIR");
        command
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.image(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The last line of a command that must fail.
    #[track_caller]
    fn fail(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(self.succeed(&["list"]).lines().count() == 1, "something was kept");
        said.lines().last().unwrap().to_owned()
    }
}

#[test]
fn an_image_is_pulled_with_its_name_and_pulled_again_when_it_has_changed() {
    let bench = Bench::open();
    let name = bench.name("alice/pc:v1");
    let first = bench.push("alice/pc:v1", "amd64", "one");
    assert!(bench.succeed(&["pull", &name]).contains(&first));
    let listed = bench.succeed(&["list"]);
    assert!(listed.contains(&name) && listed.contains(&first[..12]), "{listed}");
    let output = bench.image(&["pull", &name]).output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "nothing is fetched twice: {output:?}");
    let second = bench.push("alice/pc:v1", "amd64", "two");
    assert!(bench.succeed(&["pull", &name]).contains(&second));
    bench.succeed(&["export", &name, bench.path("pc.tar").to_str().unwrap()]);
    let listed = Command::new("tar").arg("-tf").arg(bench.path("pc.tar")).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains(&second));
}

#[test]
fn of_an_image_for_several_platforms_this_machines_is_pulled() {
    let bench = Bench::open();
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let other = "riscv64";
    bench.push("pc:other", other, "another");
    let wanted = bench.push("pc:own", own, "this one");
    bench.registry(async |client| {
        let mut manifests = Vec::new();
        for (image, architecture) in [("pc:other", other), ("pc:own", own)] {
            let reference: Reference = bench.name(image).parse().unwrap();
            let (raw, digest) = client
                .pull_manifest_raw(
                    &reference,
                    &bench.auth,
                    &["application/vnd.oci.image.manifest.v1+json"],
                )
                .await
                .unwrap();
            manifests.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest, "size": raw.len(),
                "platform": {"os": "linux", "architecture": architecture},
            }));
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        let reference: Reference = bench.name("pc:both").parse().unwrap();
        let index = serde_json::from_value(index).unwrap();
        client.push_manifest_list(&reference, &bench.auth, index).await.unwrap();
    });
    assert!(bench.succeed(&["pull", &bench.name("pc:both")]).contains(&wanted));
}

#[test]
fn a_registry_that_wants_to_know_who_asks_is_told() {
    let bench = Bench::with_password();
    let id = bench.push("pc", "amd64", "private");
    let name = bench.name("pc");
    let said = bench.fail(&mut bench.image(&["pull", &name]));
    assert!(said.contains("podman login") && said.contains(&bench.address), "{said}");
    let noted = |path: &Path, auth: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, json!({"auths": {&bench.address: {"auth": auth}}}).to_string()).unwrap();
    };
    // base64 of "alice:wrong", of "alice:secret".
    let file = bench.path("auth.json");
    noted(&file, "YWxpY2U6d3Jvbmc=");
    let said = bench.fail(bench.image(&["pull", &name]).env("REGISTRY_AUTH_FILE", &file));
    assert!(said.contains("refuses the user or password"), "{said}");
    noted(&file, "not base64");
    let said = bench.fail(bench.image(&["pull", &name]).env("REGISTRY_AUTH_FILE", &file));
    assert!(said.contains("auth.json") && said.contains("cannot be read"), "{said}");
    noted(&bench.path("home/.docker/config.json"), "YWxpY2U6c2VjcmV0");
    assert!(bench.succeed(&["pull", &name]).contains(&id));
}

#[test]
fn what_cannot_be_pulled_is_told_in_one_line_and_leaves_nothing() {
    let bench = Bench::open();
    bench.push("pc", "amd64", "whole");
    let said = bench.fail(&mut bench.image(&["pull", &bench.name("absent")]));
    assert!(said.contains("has no image"), "{said}");
    let said = bench.fail(&mut bench.image(&["pull", &bench.name("pc:absent")]));
    assert!(said.contains("has no image"), "{said}");
    let said = bench.fail(&mut bench.image(&["pull", "localhost:1/pc"]));
    assert!(said.contains("localhost:1 cannot be reached"), "{said}");
    let said = bench.fail(&mut bench.image(&["pull", "Not A Name"]));
    assert!(said.contains("is not an image reference"), "{said}");
    // The registry's disk lies.
    let script = "find registry -path '*blobs*' -name data -size +0 | while read -r file; do \
                  if [ \"$(head -c 2 \"$file\" | od -An -tx1 | tr -d ' ')\" = 1f8b ]; then \
                  printf damage | dd of=\"$file\" bs=1 seek=12 conv=notrunc status=none; fi; done";
    let damaged = Command::new("sh").args(["-ec", script]).current_dir(bench.path("")).status();
    assert!(damaged.unwrap().success());
    let said = bench.fail(&mut bench.image(&["pull", &bench.name("pc")]));
    assert!(said.to_lowercase().contains("digest"), "{said}");
    let left = fs::read_dir(bench.path("state/engine/blobs/sha256")).unwrap().count();
    assert_eq!(left, 0);
}
