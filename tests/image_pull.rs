//! `waltgate image pull`, from a real registry.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use sha2::{Digest, Sha256};

use rustix::process::Signal;
use support::gateway::WALTGATE;
use support::log::Log;
use support::process::{Process, bound_command};
use support::terminal::Terminal;
use support::{DEADLINE, eventually};

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

/// A registry that has an image `pc` of two layers, and never comes to the end of the second. Tells
/// when it is in the middle of it.
fn stalling_registry() -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, stalled) = mpsc::channel();
    let layers = [vec![1; 3000], vec![2; 3_000_000]];
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |kind: &str, content: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({
            "mediaType": media_type, "size": content.len(),
            "digest": format!("sha256:{}", sha256(content)),
        })
    };
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": descriptor("config.v1+json", &config),
        "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    std::thread::spawn(move || {
        let mut unfinished = Vec::new();
        for connection in listener.incoming() {
            let mut connection = BufReader::new(connection.unwrap());
            let mut request = String::new();
            connection.read_line(&mut request).unwrap();
            let mut header = String::from("-");
            while !header.trim().is_empty() {
                header.clear();
                connection.read_line(&mut header).unwrap();
            }
            let path = request.split(' ').nth(1).unwrap_or_default();
            let blobs = [&config, &layers[0], &layers[1]];
            let blob = blobs.iter().find(|blob| path.ends_with(&sha256(blob)));
            let content = match blob {
                Some(blob) => blob.as_slice(),
                None if path.contains("/manifests/") => &manifest,
                None => b"{}",
            };
            let connection = connection.get_mut();
            let head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
                 Content-Length: {}\r\n\r\n",
                content.len()
            );
            connection.write_all(head.as_bytes()).unwrap();
            let sent = if content.len() < 1_000_000 { content.len() } else { 1_000_000 };
            connection.write_all(&content[..sent]).unwrap();
            if sent < content.len() {
                unfinished.push(connection.try_clone().unwrap());
                sender.send(()).unwrap();
            }
        }
    });
    (address, stalled)
}

#[test]
fn a_pull_that_is_interrupted_leaves_nothing() {
    let bench = Bench::open();
    let (address, stalled) = stalling_registry();
    let pull = || {
        let mut command = bench.image(&["pull", &format!("{address}/pc")]);
        let mut process = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let said = Log::collect(process.stderr.take().unwrap());
        stalled.recv_timeout(DEADLINE).unwrap();
        (process, said)
    };
    let kept = || {
        let find =
            "find state/engine/blobs/sha256 state/engine/layers state/engine/tmp -mindepth 1";
        let mut sh = Command::new("sh");
        let found = sh.args(["-ec", find]).current_dir(bench.directory.path()).output().unwrap();
        assert!(found.status.success());
        String::from_utf8(found.stdout).unwrap()
    };

    for signal in [Signal::INT, Signal::TERM] {
        let (process, said) = pull();
        eventually("the first layer is there", || !kept().is_empty());
        process.signal(signal);
        let code = process.wait(DEADLINE).and_then(|status| status.code());
        assert!(said.wait_for_end(DEADLINE));
        assert_eq!(code, Some(1), "{}", said.text());
        let last = said.text().lines().last().unwrap().to_owned();
        assert_eq!(last, format!("waltgate: interrupted; nothing of {address}/pc was kept"));
        assert_eq!(kept(), "");
    }
    // What a killed one leaves, the next commands remove.
    let (process, _) = pull();
    process.kill();
    process.wait(DEADLINE);
    assert!(bench.succeed(&["list"]).lines().count() == 1);
    bench.succeed(&["gc"]);
    assert_eq!(kept(), "");
}

#[test]
fn a_bar_on_a_terminal_shows_how_far_a_pull_is() {
    let bench = Bench::open();
    bench.push("pc", "amd64", "content");
    let mut terminal = Terminal::open(&mut bench.image(&["pull", &bench.name("pc")]));
    terminal.expect("layer 1 of 1 [##############################]");
    terminal.expect("pulled: ");
}
