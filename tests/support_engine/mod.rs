//! A container engine to test against, images made for it, and a client's side of a session.

#![allow(dead_code, reason = "each test crate uses the parts it needs")]

pub(crate) mod embedded;
pub(crate) mod failing;
pub(crate) mod misbehaving;
pub(crate) mod selection;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use selection::TestEngine;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use waltgate::auth::Identity;
use waltgate::backend::image::{
    BINFMT_MISC, ImageBackend, ImageError, ImageListener, ImageNames, ImageParts, ListedImage,
    ResolvedImage, canonical_reference,
};
use waltgate::backend::{
    Answer, Arrival, ArrivedConnection, Attachment, BackendSession, Caller, ClientChannels,
    Console, ExitStatus, Interrupt, OutputEvent, Program, PtyRequest, SessionEnd, SessionRequest,
    WindowSize,
};
use waltgate::config::{ContainerNetwork, Engine, EngineKind, ImageDefaults, OnCommandSuccess};
use waltgate::names::AccountName;
use waltgate::target::ImageName;

/// Nothing here takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a test image is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// busybox: a shell and nothing that boots.
    Limited,
    /// busybox with an init and WalT's two scripts.
    Os,
    /// The same, whose boot and shutdown write what only tells of them.
    BootWrites,
    /// busybox, and a script that was to start an init and ends.
    StartFails,
    /// The same with one that does nothing, and does not end by itself.
    StartHangs,
    /// One text file.
    NoShell,
    /// busybox in a root directory that nobody may write to.
    SealedRoot,
}

/// One gateway's image backend, with an account and images that only this test uses.
pub(crate) struct Bench {
    pub(crate) engine: Arc<dyn TestEngine>,
    pub(crate) backend: ImageBackend,
    pub(crate) state: Arc<tempfile::TempDir>,
    pub(crate) account: AccountName,
    pub(crate) listener: Arc<Listener>,
    defaults: ImageDefaults,
}

#[derive(Default)]
pub(crate) struct Listener {
    pub(crate) nodes: Mutex<Vec<String>>,
    pub(crate) told: AtomicUsize,
    pub(crate) failure: Mutex<Option<String>>,
}

#[async_trait]
impl ImageListener for Listener {
    async fn images_changed(&self) -> Result<(), String> {
        self.told.fetch_add(1, Ordering::SeqCst);
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn nodes_running(&self, _fullname: &str) -> Vec<String> {
        self.nodes.lock().unwrap().clone()
    }

    fn is_in_use(&self, _fullname: &str) -> bool {
        !self.nodes.lock().unwrap().is_empty()
    }
}

/// The account's own image, else the one of the owner that was named.
struct Names;

impl ImageNames for Names {
    fn resolve(
        &self,
        name: &ImageName,
        account: &AccountName,
        available: &[String],
    ) -> Result<ResolvedImage, ImageError> {
        let owner = name.owner.as_ref().unwrap_or(account);
        let fullname = format!("{owner}/{}:latest", name.name);
        available
            .iter()
            .find(|reference| canonical_reference(reference) == fullname)
            .map(|reference| ResolvedImage {
                reference: reference.clone(),
                fullname: fullname.clone(),
            })
            .ok_or_else(|| ImageError::UnknownImage {
                name: name.name.to_string(),
                similar: vec![],
                lobby: "walt".parse().unwrap(),
            })
    }

    fn list(&self, _account: &AccountName, _available: &[String]) -> Vec<ListedImage> {
        panic!("tests of the image backend alone list no images")
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut ImageDefaults)) -> Self {
        Self::on(selection::selected(), change)
    }

    /// Whichever engine the run is about.
    pub(crate) fn on_the_embedded_engine(change: impl FnOnce(&mut ImageDefaults)) -> Self {
        Self::on(Arc::new(embedded::Embedded::shared()), change)
    }

    fn on(engine: Arc<dyn TestEngine>, change: impl FnOnce(&mut ImageDefaults)) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let mut defaults = defaults();
        change(&mut defaults);
        let state = Arc::new(tempfile::tempdir().unwrap());
        let listener = Arc::new(Listener::default());
        Self {
            backend: ImageBackend::with_engine(
                parts(engine.config(), state.path(), &defaults, &listener),
                engine.connect(),
            ),
            engine,
            account: format!("t{}n{number}", std::process::id()).parse().unwrap(),
            state,
            listener,
            defaults,
        }
    }

    /// Another run of the same gateway.
    pub(crate) fn restarted(&self) -> ImageBackend {
        ImageBackend::with_engine(self.parts(&self.defaults), self.engine.connect())
    }

    /// Makes an image of the account, `ACCOUNT/NAME`.
    pub(crate) fn image(&self, name: &str, kind: Kind) -> String {
        self.image_of(self.account.as_str(), name, kind)
    }

    pub(crate) fn image_of(&self, owner: &str, name: &str, kind: Kind) -> String {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), kind);
        let reference = format!("{owner}/{name}:latest");
        self.engine.import(root.path(), &reference);
        reference
    }

    /// Gives an image of the account another CPU architecture, in name only.
    pub(crate) fn relabel(&self, name: &str, architecture: &str) {
        let reference = format!("{}/{name}:latest", self.account);
        let layer = &self.engine.layers(&reference)[0];
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
        );
        let manifest = format!(
            r#"[{{"Config":"config.json","RepoTags":["docker.io/{reference}"],"Layers":["layer.tar"]}}]"#
        );
        self.load(&[
            ("config.json", config.into_bytes()),
            ("manifest.json", manifest.into_bytes()),
            // The engine has this layer and does not look.
            ("layer.tar", Vec::new()),
        ]);
    }

    pub(crate) fn attach(&self, image: &str) -> Arc<dyn Attachment> {
        attach(&self.backend, &self.account, None, image)
    }

    pub(crate) fn attach_of(&self, owner: &str, image: &str) -> Arc<dyn Attachment> {
        attach(&self.backend, &self.account, Some(owner), image)
    }

    /// The containers of this test, running or not.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.engine.containers_labelled(&format!("waltgate.account={}", self.account))
    }

    /// Gives an image of the account as many layers more, all of them empty.
    pub(crate) fn pile_up(&self, name: &str, layers: usize) {
        // Two blocks of zeros: an archive without files.
        let empty = format!("\"sha256:{EMPTY_ARCHIVE_SHA256}\"");
        let reference = format!("{}/{name}:latest", self.account);
        let first = format!("{:?}", self.engine.layers(&reference)[0]);
        let digests = [&[first][..], &vec![empty; layers]].concat().join(",");
        let mut config = self.engine.image_config(&reference);
        config["rootfs"] =
            serde_json::from_str(&format!(r#"{{"type":"layers","diff_ids":[{digests}]}}"#))
                .unwrap();
        let files = [&["\"first.tar\""][..], &vec!["\"empty.tar\""; layers]].concat().join(",");
        let manifest = format!(
            r#"[{{"Config":"config.json","RepoTags":["docker.io/{reference}"],"Layers":[{files}]}}]"#
        );
        self.load(&[
            ("config.json", config.to_string().into_bytes()),
            ("manifest.json", manifest.into_bytes()),
            // The engine has this layer and does not look.
            ("first.tar", Vec::new()),
            ("empty.tar", vec![0; 1024]),
        ]);
    }

    /// Gives an image of the account these layers more, which may be no archives at all. What the
    /// engine says if it does not take them.
    pub(crate) fn add_layers(&self, name: &str, layers: &[&[u8]]) -> Result<(), String> {
        let reference = format!("{}/{name}:latest", self.account);
        let mut digests = vec![self.engine.layers(&reference)[0].clone()];
        let mut names = vec!["first.tar".to_owned()];
        let mut files = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let digest: String =
                Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect();
            digests.push(format!("sha256:{digest}"));
            names.push(format!("{number}.tar"));
            files.push((names[number + 1].clone(), layer.to_vec()));
        }
        let mut config = self.engine.image_config(&reference);
        config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": digests});
        let manifest = serde_json::json!([{
            "Config": "config.json",
            "RepoTags": [format!("docker.io/{reference}")],
            "Layers": names,
        }]);
        let own = [
            ("config.json", config.to_string().into_bytes()),
            ("manifest.json", manifest.to_string().into_bytes()),
            // The engine has this layer and does not look.
            ("first.tar", Vec::new()),
        ];
        let more = files.iter().map(|(name, content)| (name.as_str(), content.clone()));
        let files: Vec<_> = own.into_iter().chain(more).collect();
        let load = std::panic::AssertUnwindSafe(|| self.load(&files));
        std::panic::catch_unwind(load).map_err(|panic| match panic.downcast::<String>() {
            Ok(said) => *said,
            Err(_) => "the engine does not load it".to_owned(),
        })
    }

    /// What a file of an image says, `None` when it is not there.
    pub(crate) fn file(&self, image: &str, path: &str) -> Option<String> {
        let content = self.engine.file(&format!("{}/{image}", self.account), path)?;
        Some(String::from_utf8(content).unwrap())
    }

    /// Another backend over the same engine and state.
    pub(crate) fn parts(&self, defaults: &ImageDefaults) -> ImageParts {
        parts(self.engine.config(), self.state.path(), defaults, &self.listener)
    }

    /// Loads an image archive of these files.
    fn load(&self, files: &[(&str, Vec<u8>)]) {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let archive = directory.path().join("image.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(directory.path())
            .arg("-cf")
            .arg(&archive)
            .args(files.iter().map(|(name, _)| name))
            .status()
            .unwrap();
        assert!(packed.success());
        self.engine.load(&archive);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.engine.remove_images_of(self.account.as_str());
    }
}

const EMPTY_ARCHIVE_SHA256: &str =
    "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

pub(crate) fn defaults() -> ImageDefaults {
    ImageDefaults {
        hostname: "image-shell".to_owned(),
        memory: None,
        pids: None,
        cpus: None,
        disk: None,
        network: ContainerNetwork::Loopback,
        keep_unsaved: Duration::ZERO,
        on_command_success: OnCommandSuccess::Save,
    }
}

/// A backend over any socket of Docker's API.
pub(crate) fn backend(
    socket: PathBuf,
    state: &Path,
    defaults: &ImageDefaults,
    listener: &Arc<Listener>,
) -> ImageBackend {
    let engine = Engine { kind: EngineKind::Docker, socket: Some(socket) };
    ImageBackend::new(parts(engine, state, defaults, listener))
}

fn parts(
    engine: Engine,
    state: &Path,
    defaults: &ImageDefaults,
    listener: &Arc<Listener>,
) -> ImageParts {
    ImageParts {
        engine,
        defaults: defaults.clone(),
        max_containers_per_account: 2,
        max_unsaved_per_account: 2,
        state_dir: state.to_owned(),
        lobby: "walt".parse().unwrap(),
        binfmt_misc: PathBuf::from(BINFMT_MISC),
        names: Arc::new(Names),
        listener: Arc::clone(listener) as Arc<dyn ImageListener>,
    }
}

/// A client that takes no connections from its target.
struct NoChannels;

impl ClientChannels for NoChannels {
    fn offer(&self, _arrival: Arrival, _connection: Box<dyn ArrivedConnection>) {}
}

/// A client that is this account.
pub(crate) fn caller_of(account: &AccountName) -> Caller {
    Caller {
        identity: Arc::new(Identity {
            account: account.clone(),
            restrictions: Default::default(),
            method: "password".to_owned(),
        }),
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        connection: 1,
    }
}

pub(crate) fn attach(
    backend: &ImageBackend,
    account: &AccountName,
    owner: Option<&str>,
    image: &str,
) -> Arc<dyn Attachment> {
    let name = ImageName {
        owner: owner.map(|owner| owner.parse().unwrap()),
        name: image.parse().unwrap(),
        tag: None,
    };
    backend.attach(caller_of(account), Arc::new(NoChannels), name)
}

fn fill(root: &Path, kind: Kind) {
    for directory in ["etc", "root", "bin", "sbin", "proc", "sys", "dev", "run", "tmp"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::write(root.join("etc/motd"), "hello\n").unwrap();
    if kind == Kind::NoShell {
        return;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(applets.stdout).unwrap().lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:99:99:nobody:/:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(root.join("etc/cpuinfo"), "processor : made up\n").unwrap();
    if kind == Kind::SealedRoot {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    if kind == Kind::BootWrites {
        symlink("../bin/busybox", root.join("sbin/init")).unwrap();
        std::fs::create_dir_all(root.join("var/log")).unwrap();
        std::fs::write(root.join("var/log/wtmp"), "").unwrap();
        std::fs::write(
            root.join("etc/inittab"),
            "::sysinit:/bin/sh -c 'mkdir /etc/boot; echo 1 >/etc/boot/id; echo 2 >>/etc/motd; rm /etc/cpuinfo'\n\
             ::restart:/bin/true\n",
        )
        .unwrap();
        script(root, "bin/walt-image-shell-start", "exec /sbin/init");
        let shutdown = "echo off >>/var/log/wtmp; kill -QUIT 1";
        script(root, "bin/walt-image-shell-shutdown", shutdown);
    }
    if kind == Kind::StartFails {
        script(root, "bin/walt-image-shell-start", "echo no init here >&2; exit 3");
        script(root, "bin/walt-image-shell-shutdown", "true");
    }
    if kind == Kind::StartHangs {
        let wait = "trap 'exit 0' TERM; sleep 1000 & wait";
        script(root, "bin/walt-image-shell-start", wait);
        script(root, "bin/walt-image-shell-shutdown", "kill -TERM 1");
    }
    if kind == Kind::Os {
        symlink("../bin/busybox", root.join("sbin/init")).unwrap();
        std::fs::write(
            root.join("etc/inittab"),
            "::sysinit:/bin/touch /etc/booted\n::restart:/bin/true\n",
        )
        .unwrap();
        script(root, "bin/walt-image-shell-start", "exec /sbin/init");
        // busybox init kills everything and runs its "restart" action, which here just ends.
        script(root, "bin/walt-image-shell-shutdown", "touch /etc/shut-down; kill -QUIT 1");
    }
}

fn script(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A client with answers prepared.
pub(crate) struct FakeConsole {
    pub(crate) terminal: bool,
    pub(crate) answers: VecDeque<Answer>,
    /// Everything that was said and asked, line by line.
    pub(crate) seen: Vec<String>,
    /// Notified: the client goes away.
    pub(crate) leave: Arc<Notify>,
}

impl FakeConsole {
    pub(crate) fn new(terminal: bool, answers: &[&str]) -> Self {
        Self {
            terminal,
            answers: answers
                .iter()
                .map(|answer| match *answer {
                    "^C" => Answer::Interrupted,
                    line => Answer::Line(line.to_owned()),
                })
                .collect(),
            seen: Vec::new(),
            leave: Arc::default(),
        }
    }

    pub(crate) fn text(&self) -> String {
        self.seen.join("\n")
    }

    /// What was said and asked, without the status of a save: an engine may take its time.
    pub(crate) fn said(&self) -> Vec<&str> {
        let lines = self.seen.iter().map(String::as_str);
        lines.filter(|line| !line.starts_with("status:")).collect()
    }
}

#[async_trait]
impl Console for FakeConsole {
    fn is_terminal(&self) -> bool {
        self.terminal
    }

    async fn say(&mut self, line: &str) {
        self.seen.push(line.to_owned());
    }

    async fn status(&mut self, text: &str) {
        self.seen.push(format!("status: {text}"));
    }

    async fn end_status(&mut self) {}

    async fn interrupted(&mut self) -> Interrupt {
        self.leave.notified().await;
        Interrupt::Gone
    }

    async fn ask(&mut self, prompt: &str) -> Answer {
        self.seen.push(prompt.to_owned());
        self.answers.pop_front().unwrap_or(Answer::Gone)
    }

    fn discard_input(&mut self) {}
}

pub(crate) fn command(line: &str) -> SessionRequest {
    SessionRequest::new(Program::Exec(Bytes::copy_from_slice(line.as_bytes())))
}

pub(crate) fn pty() -> PtyRequest {
    PtyRequest {
        term: "xterm-256color".to_owned(),
        size: WindowSize { columns: 91, rows: 37, ..WindowSize::default() },
        modes: vec![],
    }
}

pub(crate) fn shell() -> SessionRequest {
    SessionRequest {
        pty: Some(pty()),
        env: vec![("LANG".to_owned(), "C.UTF-8".to_owned())],
        ..SessionRequest::new(Program::Shell)
    }
}

/// What came out of a session.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) notices: Vec<String>,
    pub(crate) exit: Option<ExitStatus>,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn end(&self) -> SessionEnd {
        self.exit.clone().map_or(SessionEnd::BackendLost, SessionEnd::Exited)
    }
}

/// Reads a session to its end.
pub(crate) async fn drain(session: &mut BackendSession) -> Outcome {
    let mut outcome = Outcome::default();
    let all = async {
        while let Some(event) = session.output.next().await {
            match event {
                OutputEvent::Stdout(data) => outcome.stdout.extend_from_slice(&data),
                OutputEvent::Stderr(data) => outcome.stderr.extend_from_slice(&data),
                OutputEvent::Notice(line) => outcome.notices.push(line),
                OutputEvent::Eof => {}
                OutputEvent::Exit(status) => outcome.exit = Some(status),
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the session ends");
    outcome
}

/// Reads a session until the gateway says something of its own.
pub(crate) async fn read_notice(session: &mut BackendSession) -> String {
    let found = async {
        loop {
            match session.output.next().await {
                Some(OutputEvent::Notice(line)) => return line,
                Some(_) => {}
                None => panic!("ended without a notice"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("a notice comes")
}

/// Reads a session until its standard output has ended in, or contains, `mark`.
pub(crate) async fn read_until(session: &mut BackendSession, mark: &str) -> String {
    let mut seen = Vec::new();
    let found = async {
        while !String::from_utf8_lossy(&seen).contains(mark) {
            match session.output.next().await {
                Some(OutputEvent::Stdout(data)) => seen.extend_from_slice(&data),
                Some(_) => {}
                None => panic!("ended before {mark:?}: {}", String::from_utf8_lossy(&seen)),
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await.is_ok();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(found, "no {mark:?} in time: {seen:?}");
    seen
}

/// Runs a whole session with prepared input; returns what came out, what the console showed, and
/// what `finish` said.
pub(crate) async fn run(
    attachment: &Arc<dyn Attachment>,
    request: &SessionRequest,
    input: &str,
    answers: &[&str],
) -> (Outcome, FakeConsole, Result<(), String>) {
    let mut console = FakeConsole::new(request.pty.is_some(), answers);
    let mut session = attachment.start(request, &mut console).await.unwrap();
    if !input.is_empty() {
        session.stdin.write(Bytes::copy_from_slice(input.as_bytes())).await.unwrap();
    }
    if request.pty.is_none() {
        // A program that reads nothing may have ended already.
        let _ = session.stdin.eof().await;
    }
    let outcome = drain(&mut session).await;
    let finished = attachment
        .finish(request, &outcome.end(), &mut console)
        .await
        .map_err(|error| error.to_string());
    (outcome, console, finished)
}
