//! How fast containers are on the embedded engine and on Docker.
//!
//! Both are measured in one run, taking turns. The first rows are what a user sees: from the
//! gateway's accepting the connection to the shell's prompt, with `docker run -it` beside it. The
//! others are single steps, asked of the engines as the gateway asks. `docs/performance.md` says
//! more; `make bench-images` runs it. Docker is the engine at WALTGATE_TEST_DOCKER, or at its usual
//! place; without one there are the embedded engine's values only.

#![allow(missing_docs, reason = "a program, not an interface")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails ends the run")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_tcp_quickack;
use support::{Engine, Gateway, Terminal, Testbed};
use tokio::io::AsyncWriteExt;
use waltgate::backend::image::engine::docker::DockerEngine;
use waltgate::backend::image::engine::embedded::EmbeddedEngine;
use waltgate::backend::image::engine::{
    ContainerSpec, Engine as EngineCalls, ExecSpec, OutputChunk, ProcessStreams, Publication,
};

const WALTGATE: &str = env!("CARGO_BIN_EXE_waltgate");
/// Names Docker's socket.
const DOCKER: &str = "WALTGATE_TEST_DOCKER";
const USUAL_SOCKET: &str = "/var/run/docker.sock";
/// How often each thing is measured on each engine; the median counts.
const ROUNDS: usize = 15;
/// How many shells are open at once in the last measurement.
const SHELLS: usize = 50;

/// An engine with a gateway in front of it, and one image.
struct Bed {
    _testbed: &'static Testbed,
    gateway: Gateway,
    /// `OWNER/NAME`
    image: String,
    image_id: String,
    user: String,
    calls: Arc<dyn EngineCalls>,
}

impl Bed {
    fn new(engine: Engine) -> Self {
        // Until the program ends.
        let engine: &'static Engine = Box::leak(Box::new(engine));
        let testbed: &'static Testbed = Box::leak(Box::new(Testbed::new()));
        let image = Box::leak(Box::new(engine.image("guest", "limited")));
        let gateway = testbed
            .gateway()
            .engine(engine)
            .tables("[image_defaults]\nnetwork = false")
            .limits("max_containers_per_account = 100\nmax_startups_per_source = 100")
            .start();
        let root = testbed.path("state/engine");
        let calls: Arc<dyn EngineCalls> = if root.exists() {
            Arc::new(EmbeddedEngine::supervised_by(PathBuf::from(WALTGATE), root))
        } else {
            Arc::new(DockerEngine::new(std::env::var_os(DOCKER).map(PathBuf::from)))
        };
        let name = image.owned_by("guest");
        let image_id = engine.image_id(&name).trim_start_matches("sha256:").to_owned();
        Self { _testbed: testbed, gateway, image: name, image_id, user: image.user(), calls }
    }

    /// From the accepted connection to the prompt.
    fn prompt(&self) -> f64 {
        let (port, accepted) = relayed(self.gateway.address());
        let mut terminal = self.gateway.ssh_through(port, &self.user).on_terminal();
        terminal.expect("# ");
        let time = accepted.recv().unwrap().elapsed();
        terminal.send("exit\r");
        terminal.wait();
        milliseconds(time)
    }

    /// Single steps, in the order of [`STEPS`].
    async fn steps(&self) -> [f64; STEPS.len()] {
        let spec = ContainerSpec {
            name: format!("bench-{}", std::process::id()),
            image_id: self.image_id.clone(),
            argv: ["sh", "-c", "echo begun; read line; echo changed >/etc/changed"]
                .map(str::to_owned)
                .to_vec(),
            working_dir: "/".to_owned(),
            stdin: true,
            ..ContainerSpec::default()
        };
        let begun = Instant::now();
        let container = self.calls.create(&spec).await.unwrap();
        let mut streams = self.calls.attach(&container, false).await.unwrap();
        self.calls.start(&container).await.unwrap();
        first_byte(&mut streams).await;
        let run = begun.elapsed();

        let program = ExecSpec {
            argv: ["echo", "here"].map(str::to_owned).to_vec(),
            working_dir: "/".to_owned(),
            ..ExecSpec::default()
        };
        let begun = Instant::now();
        let exec = self.calls.create_exec(&container, &program).await.unwrap();
        first_byte(&mut self.calls.start_exec(&exec, false).await.unwrap()).await;
        let exec = begun.elapsed();

        streams.stdin.write_all(b"go\n").await.unwrap();
        self.calls.wait(&container).await.unwrap();
        let begun = Instant::now();
        let files = self.calls.commit(&container).await.unwrap();
        let publication = Publication {
            files: files.clone(),
            base: self.image_id.clone(),
            reference: format!("{}-saved:latest", self.image),
            author: "bench".to_owned(),
            created_by: "bench".to_owned(),
            comment: "bench".to_owned(),
        };
        self.calls.publish(&publication).await.unwrap();
        let save = begun.elapsed();
        self.calls.remove_unnamed_image(&files).await.unwrap();

        let begun = Instant::now();
        self.calls.remove(&container).await.unwrap();
        [run, exec, save, begun.elapsed()].map(milliseconds)
    }
}

/// What [`Bed::steps`] measures.
const STEPS: [&str; 4] = [
    "create, attach, start, to the first byte",
    "a program beside it (exec), to the first byte",
    "commit and publish a small change",
    "remove",
];

async fn first_byte(streams: &mut ProcessStreams) {
    match streams.output.next().await {
        Some(OutputChunk::Stdout(data)) => assert!(!data.is_empty()),
        other => panic!("{other:?}"),
    }
}

/// A port that leads to an address, for one connection, and when that connection was accepted.
fn relayed(address: SocketAddr) -> (u16, Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, accepted) = channel();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        sender.send(Instant::now()).unwrap();
        let server = TcpStream::connect(address).unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || copy(from, to));
        copy(server, client);
    });
    (port, accepted)
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 32 * 1024];
    // Either end may go first.
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        // As the gateway does: else the client would wait for this program's acknowledgements.
        let _ = set_tcp_quickack(&from, true);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn docker() -> Command {
    let mut docker = Command::new("docker");
    if let Some(socket) = std::env::var_os(DOCKER) {
        docker.arg("-H").arg(format!("unix://{}", socket.display()));
    }
    docker
}

/// From the start of `docker run -it` to the prompt.
fn docker_run(image: &str) -> f64 {
    let begun = Instant::now();
    let mut terminal =
        Terminal::open(docker().args(["run", "--rm", "-it", "--network", "none", image]));
    terminal.expect("# ");
    let time = begun.elapsed();
    terminal.send("exit\r");
    terminal.wait();
    milliseconds(time)
}

/// The same as `walt image shell` does it: one container runs a script that tells what the image
/// offers, and a second one is the shell.
fn two_runs(image: &str) -> f64 {
    let script = "[ -e /etc/cpuinfo ] && echo cpuinfo
        [ -x /bin/walt-image-shell-start ] && [ -x /bin/walt-image-shell-shutdown ] && echo os
        [ -e /bin/bash ] && echo bash
        true";
    let begun = Instant::now();
    let mut explore = docker();
    explore.args(["run", "--rm", "--network", "none", image, "sh", "-c", script]);
    assert!(explore.output().unwrap().status.success());
    milliseconds(begun.elapsed()) + docker_run(image)
}

/// How long it takes until so many shells have a prompt, all of them open at the end.
fn many_shells(bed: &Bed) -> f64 {
    let begun = Instant::now();
    let mut shells: Vec<_> = (0..SHELLS).map(|_| bed.gateway.login(&bed.user)).collect();
    for shell in &mut shells {
        shell.expect("# ");
    }
    let time = begun.elapsed();
    for shell in &mut shells {
        shell.send("exit\r");
    }
    for mut shell in shells {
        assert_eq!(shell.wait(), Some(0));
    }
    milliseconds(time)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(what: &str, embedded: Option<f64>, docker: Option<f64>) {
    let number = |value: Option<f64>| value.map(|value| format!("{value:.0} ms"));
    let ratio = embedded.zip(docker).map(|(embedded, docker)| format!("{:.2}", embedded / docker));
    let cells = [number(embedded), number(docker), ratio].map(Option::unwrap_or_default);
    println!("| {what} | {} |", cells.join(" | "));
}

fn main() {
    let socket = std::env::var_os(DOCKER).map_or_else(|| USUAL_SOCKET.into(), PathBuf::from);
    let embedded = Bed::new(Engine::embedded());
    let docker = socket.exists().then(|| Bed::new(Engine::docker()));
    println!("| | embedded | Docker | embedded/Docker |\n| --- | ---: | ---: | ---: |");

    // The first one of each looks the image over.
    embedded.prompt();
    docker.as_ref().map(Bed::prompt);
    let [mut ours, mut theirs, mut by_hand, mut walts] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        ours.push(embedded.prompt());
        if let Some(docker) = &docker {
            theirs.push(docker.prompt());
            by_hand.push(docker_run(&docker.image));
            walts.push(two_runs(&docker.image));
        }
    }
    let of_docker = |values: Vec<f64>| docker.is_some().then(|| median(values));
    row("ssh: accepted connection to prompt", Some(median(ours)), of_docker(theirs));
    row("`docker run -it` to prompt", None, of_docker(by_hand));
    row("`docker run` to explore, `docker run -it` to prompt", None, of_docker(walts));

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let [mut ours, mut theirs] = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        ours.push(runtime.block_on(embedded.steps()));
        if let Some(docker) = &docker {
            theirs.push(runtime.block_on(docker.steps()));
        }
    }
    for (number, what) in STEPS.iter().enumerate() {
        let of = |all: &[[f64; STEPS.len()]]| median(all.iter().map(|one| one[number]).collect());
        row(what, Some(of(&ours)), docker.is_some().then(|| of(&theirs)));
    }
    let what = format!("{SHELLS} shells by ssh, until all have a prompt");
    row(&what, Some(many_shells(&embedded)), None);
}
