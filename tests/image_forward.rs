//! Forwards into containers and out of them, the agent and the display, with stock ssh. The images have
//! nothing but busybox.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_forward;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use support::client::Running;
use support::process::run_tool;
use support::{Client, DEADLINE, Engine, Gateway, Image, Testbed, eventually};
use support_forward::{
    Agent, COOKIE, GREETING, QUESTION, assert_parallel_conversations, converse, local,
    socks_connect, talk, talk_over_tcp, talkative_server, unused_port, wait_for_port, whole_answer,
    with_display, x_server,
};

/// A server in a container that speaks first, as the one of the tests does.
const TALKATIVE: &str =
    r#"nc -ll -p 7 -e sh -c 'echo "hello, who is there?"; echo "$(wc -c) bytes"'"#;
/// Says that it is there as soon as the port is open.
const ONCE_IT_LISTENS: &str =
    "until nc -w 1 127.0.0.1 7 </dev/null >/dev/null; do :; done; echo up";

fn gateway(testbed: &Testbed, engine: &Engine) -> Gateway {
    testbed.gateway().engine(engine).start()
}

#[track_caller]
fn expect_no_container(image: &Image<'_>) {
    eventually("no container is left", || !image.has_containers());
}

/// Runs a command in the container, once [`TALKATIVE`] listens there. Ends with its input.
fn with_server(client: Client) -> Running {
    let client = client.command(&format!("{TALKATIVE} & {ONCE_IT_LISTENS}; cat; kill $!")).start();
    client.expect_stdout("up\n");
    client
}

/// The client's end of a connection that others can share.
struct Master<'a> {
    gateway: &'a Gateway,
    user: String,
    control: String,
    running: Running,
}

impl<'a> Master<'a> {
    /// A connection without a session.
    fn connect(
        gateway: &'a Gateway,
        image: &Image<'_>,
        testbed: &Testbed,
        options: &[&str],
    ) -> Self {
        let control = testbed.path("control").display().to_string();
        let client = gateway.ssh(&image.user()).option(&["-N", "-M", "-S", &control]);
        let running = client.option(options).start();
        eventually("the connection is there", || Path::new(&control).exists());
        Self { gateway, user: image.user(), control, running }
    }

    fn ssh(&self) -> Client {
        self.gateway.ssh(&self.user).option(&["-S", &self.control])
    }

    #[track_caller]
    fn control(&self, action: &str, options: &[&str]) -> String {
        self.ssh().option(&["-O", action]).option(options).run().expect_success().text()
    }

    fn leave(self) {
        self.running.kill();
    }
}

fn talk_over_unix(path: &Path) -> String {
    eventually("the forward's socket is there", || path.exists());
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    talk(&stream, || stream.shutdown(Shutdown::Write).unwrap())
}

fn talkative_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || converse(stream));
        }
    });
}

#[test]
fn local_forwards_reach_ports_of_the_container_and_lose_no_early_or_late_byte() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let port = unused_port();

    let forward = format!("{port}:localhost:7");
    let client = with_server(gateway.ssh(&image.user()).option(&["-L", &forward]));
    for _ in 0..3 {
        assert_eq!(talk_over_tcp(local(port)), whole_answer());
    }
    client.finish();
    expect_no_container(&image);
}

#[test]
fn a_hundred_connections_go_into_the_container_at_once_and_out_again() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let port = unused_port();

    // busybox's servers keep two waiting; the remote forward is a server that keeps them all.
    let inward = format!("{port}:localhost:8000");
    let outward = format!("8000:localhost:{}", talkative_server().port());
    let options = ["-N", "-L", &inward, "-R", &outward];
    let client = gateway.ssh(&image.user()).option(&options).start();
    wait_for_port(port);
    assert_parallel_conversations(port);
    client.kill();
    expect_no_container(&image);
}

#[test]
fn a_forward_alone_has_a_container_that_is_never_saved() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let (port, here) = (unused_port(), testbed.path("here"));
    let own = image.owned_by("guest");
    let id = || engine.image_id(&own);
    let before = id();

    // Nothing listens there; the container is there all the same, until the connection ends.
    let forward = format!("{port}:127.0.0.1:9");
    let socket = format!("/etc/made:{}", here.display());
    let client = gateway.ssh(&image.user()).option(&["-N", "-L", &forward, "-R", &socket]).start();
    wait_for_port(port);
    let mut heard = Vec::new();
    TcpStream::connect(local(port)).unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    assert!(image.has_containers());
    client.kill();
    expect_no_container(&image);
    assert_eq!(id(), before);
}

#[test]
fn remote_forwards_bring_connections_of_the_container_to_the_client() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);

    let forward = format!("8000:localhost:{}", talkative_server().port());
    let options = ["-o", "ExitOnForwardFailure=yes", "-R", &forward];
    let conversations = format!(
        "head -c {QUESTION} /dev/zero >/dev/shm/question; \
         for n in $(seq 100); do nc 127.0.0.1 8000 </dev/shm/question & done; wait"
    );
    let said = gateway.ssh(&image.user()).option(&options).command(&conversations).run();
    let said = said.expect_success().text();
    assert_eq!(said.matches(GREETING).count(), 100, "{said}");
    assert_eq!(said.matches(&whole_answer()).count(), 100, "{said}");

    // On loopback alone, like with sshd: other containers do not get there.
    let command = "nc -w 5 $(hostname -i) 8000 </dev/null";
    let elsewhere = gateway.ssh(&image.user()).option(&options).command(command).run();
    assert!(!elsewhere.text().contains(GREETING), "{elsewhere:?}");
    assert_ne!(elsewhere.code, Some(0), "{elsewhere:?}");
    expect_no_container(&image);
}

#[test]
fn a_remote_forward_that_cannot_be_is_refused() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let refused = |forward: &str| {
        let options = ["-o", "ExitOnForwardFailure=yes", "-R", forward];
        gateway.ssh(&image.user()).option(&options).command("true").run().expect_code(255);
    };
    // What is there stays there.
    refused("/etc/passwd:/nowhere");
    refused("/nowhere/socket:/nowhere");
    refused("/proc/socket:/nowhere");
    expect_no_container(&image);
}

#[test]
fn a_remote_forward_to_any_port_says_which_and_can_be_cancelled() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let master = Master::connect(&gateway, &image, &testbed, &[]);

    let to = format!("localhost:{}", talkative_server().port());
    let any_port = format!("0:{to}");
    let port = master.control("forward", &["-R", &any_port]);
    let port = port.trim();
    let command = format!("nc 127.0.0.1 {port} </dev/null");
    let talking = || master.ssh().command(&command).run();
    talking().expect_success().expect_stdout(&format!("{GREETING}0 bytes\n"));
    master.control("cancel", &["-R", &any_port]);
    let nobody = talking();
    assert_ne!(nobody.code, Some(0), "{nobody:?}");
    master.leave();
    expect_no_container(&image);
}

#[test]
fn unix_sockets_are_forwarded_both_ways() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let (here, elsewhere) = (testbed.path("here"), testbed.path("server"));
    talkative_socket(&elsewhere);

    // Out of the container by the socket that leads into it.
    let inward = format!("{}:/tmp/there", here.display());
    let outward = format!("/tmp/there:{}", elsewhere.display());
    let options = ["-L", &inward, "-R", &outward];
    let command = "ls -l /tmp/there | cut -c-10; cat";
    let client = gateway.ssh(&image.user()).option(&options).command(command).start();
    client.expect_stdout("srw-------\n");
    assert_eq!(talk_over_unix(&here), whole_answer());
    client.finish().expect_success().expect_stderr("");
    expect_no_container(&image);
}

#[test]
fn no_link_in_a_container_leads_to_a_socket_of_the_host() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let (here, of_the_host) = (testbed.path("here"), testbed.path("server"));
    talkative_socket(&of_the_host);
    assert_eq!(talk_over_unix(&of_the_host), whole_answer());

    let host = testbed.path("");
    let (host, up) = (host.display(), "../".repeat(20));
    let command = format!(
        "mkdir /dev/shm/x; cd /dev/shm/x; ln -s {host} absolute; ln -s {up}{host} relative; \
         ln -s /proc/1/root{host} magic; echo made; cat"
    );
    for link in ["absolute", "relative", "magic"] {
        fs::remove_file(&here).ok();
        let inward = format!("{}:/dev/shm/x/{link}/server", here.display());
        let outward = format!("/dev/shm/x/{link}/socket:{}", of_the_host.display());
        let client = gateway.ssh(&image.user()).option(&["-L", &inward]).command(&command).start();
        client.expect_stdout("made\n");
        let mut stream = UnixStream::connect(&here).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"", "{link}");
        client.finish().expect_success();
        let options = ["-o", "ExitOnForwardFailure=yes", "-R", &outward];
        gateway.ssh(&image.user()).option(&options).command("true").run().expect_code(255);
    }
    assert!(!testbed.path("socket").exists());
}

#[test]
fn a_dynamic_forward_to_a_silent_server_freezes_nothing() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let port = unused_port();

    let options = ["-D", &port.to_string()];
    let command =
        format!("nc -ll -p 8 -e sleep 1000 & {TALKATIVE} & {ONCE_IT_LISTENS}; cat; kill %1 %2");
    let client = gateway.ssh(&image.user()).option(&options).command(&command).start();
    client.expect_stdout("up\n");
    let mut unanswered = socks_connect(local(port), local(8));
    unanswered.write_all(&[0; 65536]).unwrap();
    let stream = socks_connect(local(port), local(7));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let answer = talk(&stream, || stream.shutdown(Shutdown::Write).unwrap());
    assert_eq!(answer, whole_answer());
    client.kill();
    expect_no_container(&image);
}

#[test]
fn names_mean_what_they_mean_in_the_container() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let ports = [unused_port(), unused_port(), unused_port()];

    // The last is in the container's own list only.
    let names = ["localhost", "127.0.0.1", "image-shell"];
    let forwards: Vec<_> =
        ports.iter().zip(names).map(|(port, name)| format!("-L{port}:{name}:7")).collect();
    let options: Vec<_> = forwards.iter().map(String::as_str).collect();
    let client = with_server(gateway.ssh(&image.user()).option(&options));
    for port in ports {
        assert_eq!(talk_over_tcp(local(port)), whole_answer());
    }
    client.finish();
}

#[test]
fn a_remote_forward_goes_on_after_a_save_and_is_no_change() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let own = image.owned_by("guest");
    let id = || engine.image_id(&own);
    let server = testbed.path("server");
    talkative_socket(&server);
    let socket = format!("/etc/socket:{}", server.display());
    let port = format!("8000:{}", talkative_server());
    let master = Master::connect(&gateway, &image, &testbed, &["-R", &socket, "-R", &port]);
    let before = id();
    let talk = || {
        let said =
            master.ssh().command("test -S /etc/socket && nc 127.0.0.1 8000 </dev/null").run();
        said.expect_success().expect_stdout(&format!("{GREETING}0 bytes\n"));
    };

    talk();
    talk();
    assert_eq!(id(), before, "nothing was changed");
    master.ssh().command("echo one >/etc/one").run().expect_success();
    assert_ne!(id(), before, "the change is saved");
    assert_eq!(image.file_in(&own, "/etc/one"), "one");
    // In another container, of what was saved.
    talk();
    master.ssh().command("test -e /etc/one").run().expect_success();
    master.leave();
    expect_no_container(&image);
    assert!(!engine.names_in(&own, "/etc").contains("socket"));
}

#[test]
fn a_shell_that_ends_before_others_is_not_asked_about_the_socket_of_a_forward() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let server = testbed.path("server");
    talkative_socket(&server);
    let socket = format!("/etc/socket:{}", server.display());
    let master = Master::connect(&gateway, &image, &testbed, &["-R", &socket]);

    let command = "cat; test -S /etc/socket && echo still there";
    let mut other = master.ssh().command(command).start();
    other.send("up\n");
    other.expect_stdout("up\n");
    let mut shell = master.ssh().on_terminal();
    shell.expect("# ");
    shell.send("exit\r");
    shell.expect("Nothing was changed so far");
    shell.wait();
    other.finish().expect_success().expect_stdout("up\nstill there\n");
    master.leave();
    expect_no_container(&image);
}

#[test]
fn a_shell_joins_the_container_of_an_open_forward_and_has_its_own_otherwise() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "os");
    let gateway = gateway(&testbed, &engine);
    let (here, server) = (testbed.path("here"), testbed.path("server"));
    talkative_socket(&server);
    let inward = format!("{}:/dev/shm/there", here.display());
    let outward = format!("/dev/shm/there:{}", server.display());
    let master = Master::connect(&gateway, &image, &testbed, &["-L", &inward, "-R", &outward]);

    eventually("the forward's socket is there", || here.exists());
    let mut open = UnixStream::connect(&here).unwrap();
    open.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut greeting = vec![0; GREETING.len()];
    open.read_exact(&mut greeting).unwrap();
    let mut shell = master.ssh().on_terminal();
    shell.expect("limited virtual environment");
    shell.expect("# ");
    open.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "0 bytes\n");
    shell.send("exit\r");
    shell.wait();

    // Nothing is open in it any more, and this one wants its operating system.
    eventually("a shell has a container of its own", || {
        let mut shell = master.ssh().on_terminal();
        shell.expect("Note: ");
        shell.expect("# ");
        shell.send("cat /proc/1/comm; test -S /dev/shm/there; echo socket $?\r");
        shell.expect("socket 0");
        let booted = shell.screen().contains("\ninit\r");
        shell.send("exit\r");
        shell.wait();
        booted
    });
    assert_eq!(talk_over_unix(&here), whole_answer());
    master.leave();
    expect_no_container(&image);
}

/// Has the host's ssh-add list what an agent in the container has.
#[track_caller]
fn expect_agent_at(socket: &Path, agent: &Agent) {
    let fingerprint = run_tool(Command::new("ssh-keygen").arg("-lf").arg(&agent.public_key));
    let fingerprint = fingerprint.split(' ').nth(1).unwrap().to_owned();
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let socket = socket.to_owned();
            thread::spawn(move || {
                run_tool(Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", socket))
            })
        })
        .collect();
    for one in asking {
        assert!(one.join().unwrap().contains(&fingerprint));
    }
}

#[test]
fn the_agent_is_lent_to_a_command_when_offered_and_only_then() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let agent = Agent::start(&testbed);
    let here = testbed.path("here");
    let own = image.owned_by("guest");
    let id = || engine.image_id(&own);
    let before = id();

    // The image has no program that could use it: one of the host does, through a forward.
    let forward = format!("{}:/dev/.waltgate-0/agent", here.display());
    let command = "ls -l $SSH_AUTH_SOCK | cut -c-10; echo $SSH_AUTH_SOCK; cat";
    let client = gateway.ssh(&image.user()).option(&["-L", &forward]).command(command);
    let client = agent.lent_by(client).start();
    client.expect_stdout("srw-------\n/dev/.waltgate-0/agent\n");
    expect_agent_at(&here, &agent);
    client.finish().expect_success();
    assert_eq!(id(), before);

    let client = gateway.ssh(&image.user()).option(&["-a"]);
    let said = client.command("echo \"<$SSH_AUTH_SOCK>\"; ls -A /dev | grep waltgate").run();
    said.expect_code(1).expect_stdout("<>\n");
    expect_no_container(&image);
}

#[test]
fn the_agent_is_lent_to_shells_that_come_first_and_to_those_that_come_later() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let agent = Agent::start(&testbed);
    let control = testbed.path("control").display().to_string();
    let gateway = gateway(&testbed, &engine);
    for kind in ["limited", "os"] {
        let image = engine.image("guest", kind);
        let here = testbed.path(format!("here-{kind}"));
        let forward = format!("{}:/dev/.waltgate-0/agent", here.display());
        let options = ["-M", "-S", &control, "-L", &forward];
        let mut shell = agent.lent_by(gateway.ssh(&image.user()).option(&options)).on_terminal();
        shell.expect("# ");
        shell.send("echo [$SSH_AUTH_SOCK]\r");
        shell.expect("[/dev/.waltgate-0/agent]");
        expect_agent_at(&here, &agent);

        let another = agent.lent_by(gateway.ssh(&image.user()).option(&["-S", &control]));
        let said = another.command("echo $SSH_AUTH_SOCK; test -S $SSH_AUTH_SOCK").run();
        said.expect_success().expect_stdout("/dev/.waltgate-1/agent\n");
        // With its session it is gone.
        shell.send("until [ ! -e /dev/.waltgate-1 ]; do sleep 0.1; done; echo g''one\r");
        shell.expect("gone");
        shell.send("exit\r");
        shell.wait();
        expect_no_container(&image);
    }
}

/// An X client's first words to `$DISPLAY`, with the cookie that is known for it.
const X_CLIENT: &str = r#"
x_client() {
    {
        printf 'l\0\13\0\0\0\22\0\20\0\0\0MIT-MAGIC-COOKIE-1\0\0'
        tail -c 16 "$XAUTHORITY"
    } | nc 127.0.0.1 "$((6000 + ${display%.*}))"
}
display=${DISPLAY##*:}
"#;

#[test]
fn programs_in_the_container_reach_the_clients_display_with_its_cookie() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let (display, heard) = x_server();
    let authority = testbed.path("authority");
    let name = format!("127.0.0.1:{display}");
    run_tool(Command::new("xauth").arg("-qf").arg(&authority).args(["add", &name, ".", COOKIE]));

    let command = format!(
        "{X_CLIENT} echo $DISPLAY >&2; cat $XAUTHORITY; \
         x_client & first=$!; x_client & x_client; wait"
    );
    let said = with_display(gateway.ssh(&image.user()), display, &authority).command(&command);
    let said = said.run().expect_success().expect_stderr("localhost:10.0\n");
    for _ in 0..3 {
        let hello = heard.recv_timeout(DEADLINE).unwrap();
        let cookie: String = hello[32..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(cookie, COOKIE);
    }
    // Stock programs can read the file.
    fs::write(testbed.path("written"), &said.stdout).unwrap();
    let list = run_tool(Command::new("xauth").arg("-f").arg(testbed.path("written")).arg("list"));
    assert!(list.contains(":10  MIT-MAGIC-COOKIE-1  "), "{list}");
    expect_no_container(&image);
}

#[test]
fn keys_that_forbid_forwarding_forward_nothing() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("alice", "limited");
    let key = testbed.generate_key("alice", "ed25519");
    let agent = Agent::start(&testbed);
    let options = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding";
    testbed.write("accounts/alice.pub", format!("{options} {}", testbed.read("alice.pub")));
    let auth = format!("open_networks = []\naccounts_dir = {:?}", testbed.path("accounts"));
    let gateway = testbed.gateway().auth(&auth).engine(&engine).start();
    let ssh = || gateway.ssh(&image.user()).identity(&key);

    let refused = ssh().option(&["-W", "localhost:7"]).start().finish();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    let strict = ["-o", "ExitOnForwardFailure=yes"];
    for forward in ["8000:localhost:7", "/tmp/socket:/nowhere"] {
        ssh().option(&strict).option(&["-R", forward]).command("true").run().expect_code(255);
    }
    assert!(!image.has_containers(), "nothing was done for what is forbidden");
    let client = with_display(agent.lent_by(ssh()), 1, &testbed.path("authority"));
    let said = client.command("echo \"<$SSH_AUTH_SOCK$DISPLAY>\"").run();
    said.expect_success().expect_stdout("<>\n");
}

#[test]
fn a_container_without_a_network_has_its_loopback() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let tables = "[image_defaults]\nnetwork = false";
    let gateway = testbed.gateway().engine(&engine).tables(tables).start();
    let (inside, outside) = (unused_port(), unused_port());
    let elsewhere: SocketAddr = gateway.address();

    let forwards = [
        format!("-L{inside}:localhost:7"),
        // The gateway's own port is nowhere to be seen from there.
        format!("-L{outside}:127.0.0.1:{}", elsewhere.port()),
    ];
    let client = with_server(gateway.ssh(&image.user()).option(&[&forwards[0], &forwards[1]]));
    assert_eq!(talk_over_tcp(local(inside)), whole_answer());
    let mut heard = Vec::new();
    TcpStream::connect(local(outside)).unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    client.finish();
    expect_no_container(&image);
}

#[test]
fn keys_with_permits_forward_into_containers_and_out_what_they_list() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("alice", "limited");
    let key = testbed.generate_key("alice", "ed25519");
    let options = r#"permitopen="localhost:7",permitlisten="8000""#;
    let line = format!("{options} {}", testbed.read("alice.pub"));
    testbed.write("accounts/alice.pub", line);
    let accounts = testbed.path("accounts");
    let auth = format!("open_networks = []\naccounts_dir = {accounts:?}");
    let gateway = testbed.gateway().auth(&auth).engine(&engine).start();
    let ssh = || gateway.ssh(&image.user()).identity(&key);

    let (good, other, unix) = (unused_port(), unused_port(), testbed.path("unix"));
    let forwards = [
        format!("{good}:localhost:7"),
        format!("{other}:127.0.0.1:7"),
        format!("{}:/run/server", unix.display()),
    ];
    let forwards: Vec<_> = forwards.iter().flat_map(|forward| ["-L", forward]).collect();
    let client = with_server(ssh().option(&forwards));
    assert_eq!(talk_over_tcp(local(good)), whole_answer());
    let mut heard = Vec::new();
    TcpStream::connect(local(other)).unwrap().read_to_end(&mut heard).unwrap();
    UnixStream::connect(&unix).unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    client.finish();
    assert_eq!(gateway.log().matches("forward refused: the credentials forbid it").count(), 2);

    let server = talkative_server();
    let listen = |on: &str| {
        let forward = format!("{on}:{server}");
        let options = ["-o", "ExitOnForwardFailure=yes", "-R", &forward];
        ssh().option(&options).command("nc 127.0.0.1 8000 </dev/null").run()
    };
    assert!(listen("8000").expect_success().text().starts_with(GREETING));
    listen("8001").expect_code(255);
    listen("/run/there").expect_code(255);
    expect_no_container(&image);
}
