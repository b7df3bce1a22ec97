//! Forwards in both directions, the agent, and jumps, with stock ssh against real nodes.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_forward;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use support::process::{bound_command, run_tool};
use support::{DEADLINE, Gateway, Node, Testbed, eventually};
use support_forward::{
    GREETING, assert_parallel_conversations, converse, local, socks_ask, socks_connect, talk,
    talk_over_tcp, talkative_server, unused_port, wait_for_port, whole_answer,
};

fn one_node() -> (Testbed, Node, Gateway) {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    (testbed, node, gateway)
}

#[test]
fn local_forwards_reach_ports_of_the_node_and_lose_no_early_or_late_byte() {
    let (_testbed, _node, gateway) = one_node();
    let port = unused_port();
    let forward = format!("{port}:localhost:{}", talkative_server().port());
    let client = gateway.ssh("rpi1").option(&["-N", "-L", &forward]).start();
    wait_for_port(port);
    assert_parallel_conversations(port);
    client.kill();
}

#[test]
fn a_local_forward_to_nothing_closes_and_harms_nobody() {
    let (_testbed, _node, gateway) = one_node();
    let (port, dead) = (unused_port(), unused_port());
    let forward = format!("{port}:localhost:{dead}");
    let mut client = gateway.ssh("rpi1").option(&["-L", &forward]).command("cat").start();
    client.send("before\n");
    client.expect_stdout("before\n");
    let mut heard = Vec::new();
    TcpStream::connect(local(port)).unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    client.send("after\n");
    client.expect_stdout("after\n");
    client.finish().expect_success();
}

#[test]
fn remote_forwards_bring_connections_of_the_node_to_the_client() {
    let (_testbed, _node, gateway) = one_node();
    let port = unused_port();
    let forward = format!("{port}:localhost:{}", talkative_server().port());
    let client = gateway
        .ssh("rpi1")
        .option(&["-N", "-o", "ExitOnForwardFailure=yes", "-R", &forward])
        .start();
    wait_for_port(port);
    assert_parallel_conversations(port);
    client.kill();
    eventually("the node stops listening", || TcpStream::connect(local(port)).is_err());
}

#[test]
fn a_remote_forward_to_any_port_says_which() {
    let (_testbed, _node, gateway) = one_node();
    let forward = format!("0:localhost:{}", talkative_server().port());
    let options = ["-N", "-v", "-R", &forward];
    let client = gateway.ssh("rpi1").option(&options).start();
    client.expect_stderr("Allocated port ");
    let text = client.stderr.text();
    let port = text.split("Allocated port ").nth(1).unwrap();
    let port: u16 = port.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(talk_over_tcp(local(port)), whole_answer());
    client.kill();
}

#[test]
fn a_remote_forward_can_be_cancelled() {
    let (testbed, _node, gateway) = one_node();
    let socket = testbed.path("control").display().to_string();
    let port = unused_port();
    let forward = format!("{port}:localhost:{}", talkative_server().port());
    let mut master = gateway.ssh("rpi1").option(&["-M", "-S", &socket]).command("cat").start();
    master.send("up\n");
    master.expect_stdout("up\n");
    let control = |action: &str| {
        let options = ["-S", &socket, "-O", action, "-R", &forward];
        gateway.ssh("rpi1").option(&options).run().expect_success();
    };
    control("forward");
    assert_eq!(talk_over_tcp(local(port)), whole_answer());
    control("cancel");
    eventually("the node stops listening", || TcpStream::connect(local(port)).is_err());
    master.finish().expect_success();
}

#[test]
fn a_remote_forward_while_the_node_boots_is_refused_and_freezes_nothing() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    let socket = testbed.path("control").display().to_string();
    let master = gateway.ssh("rpi1").option(&["-M", "-S", &socket]).command("hostname").start();
    master.expect_stderr("waiting");
    let forward = format!("{}:localhost:1", unused_port());
    let options = ["-S", &socket, "-O", "forward", "-R", &forward];
    let refused = gateway.ssh("rpi1").option(&options).run();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    // A second session of the connection waits with the first, and both go on.
    let second = gateway.ssh("rpi1").option(&["-S", &socket]).command("hostname").start();
    second.expect_stderr("waiting");
    node.start();
    master.finish().expect_success().expect_stdout("rpi1\n");
    second.finish().expect_success().expect_stdout("rpi1\n");
}

#[test]
fn unix_sockets_are_forwarded_both_ways() {
    let (testbed, node, gateway) = one_node();
    let (here, elsewhere) = (testbed.path("here"), testbed.path("server"));
    // What the node has in /persist is in this directory.
    let (there, server) = (node.persist().join("there"), node.persist().join("server"));
    for path in [&server, &elsewhere] {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || converse(stream));
            }
        });
    }
    let outward = format!("{}:/persist/server", here.display());
    let inward = format!("/persist/there:{}", elsewhere.display());
    let client = gateway.ssh("rpi1").option(&["-N", "-L", &outward, "-R", &inward]).start();
    for path in [here, there] {
        eventually("the forward's socket is there", || path.exists());
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let answer = talk(&stream, || stream.shutdown(Shutdown::Write).unwrap());
        assert_eq!(answer, whole_answer());
    }
    client.kill();
}

#[test]
fn a_dynamic_forward_to_a_silent_server_freezes_nothing() {
    let (_testbed, _node, gateway) = one_node();
    let port = unused_port();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = ["-N", "-D", &port.to_string()];
    let client = gateway.ssh("rpi1").option(&options).start();
    wait_for_port(port);
    let mut unanswered = socks_connect(local(port), silent.local_addr().unwrap());
    unanswered.write_all(&[0; 65536]).unwrap();
    let stream = socks_connect(local(port), talkative_server());
    let answer = talk(&stream, || stream.shutdown(Shutdown::Write).unwrap());
    assert_eq!(answer, whole_answer());
    client.kill();
}

/// A server whose kernel takes no more connections until [`TcpListener::accept`] is called, and
/// the connections that it has.
fn crowded_server() -> (TcpListener, Vec<TcpStream>) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &local(0)).unwrap();
    listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let a_while = Duration::from_millis(300);
    let connect = || TcpStream::connect_timeout(&address, a_while).ok();
    let crowd = std::iter::from_fn(connect).collect();
    (listener, crowd)
}

#[test]
fn a_forward_to_a_server_that_does_not_answer_waits_and_freezes_nothing() {
    let (_testbed, _node, gateway) = one_node();
    let (listener, crowd) = crowded_server();
    let (slow, quick) = (unused_port(), unused_port());
    let slowly = format!("{slow}:{}", listener.local_addr().unwrap());
    let quickly = format!("{quick}:{}", talkative_server());
    let client = gateway.ssh("rpi1").option(&["-N", "-L", &slowly, "-L", &quickly]).start();
    wait_for_port(quick);
    let waiting = TcpStream::connect(local(slow)).unwrap();
    assert_eq!(talk_over_tcp(local(quick)), whole_answer());
    gateway.ssh("rpi1").command("true").run().expect_success();

    for _ in &crowd {
        listener.accept().unwrap();
    }
    let (stream, _) = listener.accept().unwrap();
    thread::spawn(move || converse(stream));
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();
    let answer = talk(&waiting, || waiting.shutdown(Shutdown::Write).unwrap());
    assert_eq!(answer, whole_answer());
    client.kill();
}

#[test]
fn the_agent_is_forwarded_when_offered_and_only_then() {
    let (testbed, _node, gateway) = one_node();
    let key = testbed.generate_key("mine", "ed25519");
    let socket = testbed.path("agent");
    let mut agent = bound_command("ssh-agent");
    agent.arg("-D").arg("-a").arg(&socket);
    let agent = support::process::Process::spawn(&mut agent);
    eventually("the agent listens", || socket.exists());
    run_tool(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket));
    let fingerprint = run_tool(Command::new("ssh-keygen").arg("-lf").arg(&key));
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();

    let with = |option: &str, command: &str| {
        gateway
            .ssh("rpi1")
            .option(&[option, "-o", "IdentityAgent=SSH_AUTH_SOCK"])
            .env("SSH_AUTH_SOCK", &socket)
            .command(command)
            .run()
    };
    let said = with("-A", "ssh-add -l").expect_success();
    assert!(said.text().contains(fingerprint), "{said:?}");
    let at_once = "for n in 1 2 3 4 5; do ssh-add -l >/dev/null & pids=\"$pids $!\"; done; \
                   for pid in $pids; do wait $pid || exit 1; done";
    with("-A", at_once).expect_success();
    with("-a", "ssh-add -l").expect_code(2);
    agent.kill();
}

#[test]
fn a_jump_goes_to_nodes_of_the_inventory_only() {
    let (_testbed, _node, gateway) = one_node();
    let jump = |to: &str| gateway.ssh("walt").option(&["-W", to]).start();

    let mut banner = String::new();
    // ssh(1) asks for port 22; the node's own port is meant.
    let mut client = gateway.ssh("walt").option(&["-W", "rpi1:22"]).start_unread();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut banner).unwrap();
    assert!(banner.starts_with("SSH-2.0-OpenSSH"), "{banner}");
    client.kill();

    let elsewhere = talkative_server();
    for to in [elsewhere.to_string(), "nowhere:22".to_owned()] {
        let refused = jump(&to).finish();
        assert_ne!(refused.code, Some(0), "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
}

#[test]
fn a_login_through_a_jump_is_end_to_end() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    let key = testbed.generate_key("mine", "ed25519");
    // The client's own key: the gateway could not log in with it.
    node.authorize(&testbed.path("mine.pub"));
    node.start();
    let gateway = testbed.gateway().node(&node).start();
    let config = testbed.path("ssh_config");
    let port = gateway.address().port();
    let proxy =
        format!("ProxyCommand=ssh -F {} -p {port} -W %h:22 walt@127.0.0.1", config.display());
    let said = gateway
        .ssh("root")
        .option(&["-o", &proxy, "-o", "HostName=rpi1"])
        .identity(&key)
        .command("hostname; echo $SSH_CONNECTION | cut -d' ' -f4")
        .run()
        .expect_success();
    let port = node.address().port();
    assert_eq!(said.text(), format!("rpi1\n{port}\n"), "{said:?}");
}

#[test]
fn keys_that_forbid_forwarding_forward_nothing() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let key = testbed.generate_key("alice", "ed25519");
    let line = format!("no-port-forwarding {}", testbed.read("alice.pub"));
    testbed.write("accounts/alice.pub", line);
    let accounts = testbed.path("accounts");
    let auth = format!("open_networks = []\naccounts_dir = {accounts:?}");
    let gateway = testbed.gateway().auth(&auth).node(&node).start();

    let server = talkative_server();
    let refused =
        gateway.ssh("rpi1").identity(&key).option(&["-W", &server.to_string()]).start().finish();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    let forward = format!("{}:localhost:{}", unused_port(), server.port());
    gateway
        .ssh("rpi1")
        .identity(&key)
        .option(&["-o", "ExitOnForwardFailure=yes", "-R", &forward])
        .command("true")
        .run()
        .expect_code(255);
    gateway.ssh("rpi1").identity(&key).command("true").run().expect_success();
}

/// A gateway that knows alice's key, with these options.
fn with_key_options(testbed: &Testbed, node: &Node, options: &str) -> Gateway {
    testbed.generate_key("alice", "ed25519");
    let line = format!("{options} {}", testbed.read("alice.pub"));
    testbed.write("accounts/alice.pub", line);
    let accounts = testbed.path("accounts");
    let auth = format!("open_networks = []\naccounts_dir = {accounts:?}");
    testbed.gateway().auth(&auth).node(node).start()
}

#[test]
fn keys_with_permitopen_open_what_it_lists_and_nothing_else() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let (good, other) = (talkative_server(), talkative_server());
    let options =
        format!(r#"permitopen="{good}",permitopen="[::1]:{}",permitopen="rpi1:22""#, other.port());
    let gateway = with_key_options(&testbed, &node, &options);
    let key = testbed.path("alice");
    let socket = node.persist().join("server");
    let listener = UnixListener::bind(&socket).unwrap();

    let asked = |user: &str, to: &str| {
        gateway.ssh(user).identity(&key).option(&["-o", "LogLevel=INFO", "-W", to]).run()
    };
    assert!(asked("rpi1", &good.to_string()).expect_success().text().starts_with(GREETING));
    // It is permitted, and nobody is there.
    asked("rpi1", &format!("[::1]:{}", other.port())).expect_stderr_with(&["connect failed"]);
    let localhost = format!("localhost:{}", good.port());
    for to in [localhost, other.to_string(), format!("127.0.0.1:{}", node.address().port())] {
        asked("rpi1", &to).expect_stdout("").expect_stderr_with(&["administratively prohibited"]);
    }
    gateway.expect_log("the credentials forbid it");

    let (dynamic, local_port) = (unused_port(), unused_port());
    let here = testbed.path("here");
    let unix = format!("{}:/persist/server", here.display());
    let forward = format!("{local_port}:{good}");
    let client = gateway
        .ssh("rpi1")
        .identity(&key)
        .option(&["-N", "-D", &dynamic.to_string(), "-L", &forward, "-L", &unix])
        .start();
    wait_for_port(dynamic);
    wait_for_port(local_port);
    assert_eq!(talk_over_tcp(local(local_port)), whole_answer());
    let stream = socks_connect(local(dynamic), good);
    assert_eq!(talk(&stream, || stream.shutdown(Shutdown::Write).unwrap()), whole_answer());
    let mut heard = Vec::new();
    socks_ask(local(dynamic), other).read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    eventually("the forward's socket is there", || here.exists());
    UnixStream::connect(&here).unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "no Unix socket can be listed");
    client.kill();

    // A jump opens a connection too. Listening is another option's.
    let mut banner = String::new();
    let mut jump = gateway.ssh("walt").identity(&key).option(&["-W", "rpi1:22"]).start_unread();
    BufReader::new(jump.stdout.take().unwrap()).read_line(&mut banner).unwrap();
    assert!(banner.starts_with("SSH-2.0-OpenSSH"), "{banner}");
    jump.kill();
    let by_address = format!("{}:22", node.address().ip());
    asked("walt", &by_address).expect_stderr_with(&["administratively prohibited"]);
    let inward = format!("{}:{good}", unused_port());
    let options = ["-o", "ExitOnForwardFailure=yes", "-R", &inward];
    gateway.ssh("rpi1").identity(&key).option(&options).command("true").run().expect_success();
}

#[test]
fn keys_with_permitlisten_listen_where_it_says_and_nowhere_else() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let server = talkative_server();
    let [any, named, refused] = [unused_port(), unused_port(), unused_port()];
    let options =
        format!(r#"permitlisten="{any}",permitlisten="localhost:{named}",permitlisten="[::1]:*""#);
    let gateway = with_key_options(&testbed, &node, &options);
    let key = testbed.path("alice");
    let ask = |on: &str| {
        let forward = format!("{on}:{server}");
        let options = ["-o", "ExitOnForwardFailure=yes", "-R", &forward];
        gateway.ssh("rpi1").identity(&key).option(&options).command("true").run()
    };
    let permitted =
        [format!("{any}"), format!("127.0.0.1:{any}"), format!("{named}"), "[::1]:0".to_owned()];
    for on in permitted {
        ask(&on).expect_success();
    }
    let forbidden =
        [format!("127.0.0.1:{named}"), format!("{refused}"), "0".to_owned(), "/persist/s".into()];
    for on in forbidden {
        ask(&on).expect_code(255).expect_stderr_with(&["forwarding failed"]);
    }
    let client = gateway
        .ssh("rpi1")
        .identity(&key)
        .option(&["-N", "-R", &format!("{any}:{server}")])
        .start();
    wait_for_port(any);
    assert_eq!(talk_over_tcp(local(any)), whole_answer());
    client.kill();
    // Opening connections is another option's.
    let opened = gateway.ssh("rpi1").identity(&key).option(&["-W", &server.to_string()]).run();
    assert!(opened.expect_success().text().starts_with(GREETING));
}

#[test]
fn a_certificate_of_an_accounts_own_authority_logs_in_with_what_both_permit() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let server = talkative_server();
    let ca = testbed.generate_key("ca", "ed25519");
    let key = testbed.generate_key("laptop", "ed25519");
    let gateway = {
        let options =
            format!(r#"cert-authority,principals="ops,night shift",no-pty,permitopen="{server}""#);
        let line = format!("{options} {}", testbed.read("ca.pub"));
        testbed.write("accounts/alice.pub", line);
        let auth = format!("open_networks = []\naccounts_dir = {:?}", testbed.path("accounts"));
        testbed.gateway().auth(&auth).node(&node).start()
    };
    let certify = |principals: &str| {
        let mut keygen = Command::new("ssh-keygen");
        keygen.arg("-q").arg("-s").arg(&ca).args(["-I", "laptop", "-n", principals]);
        run_tool(keygen.arg(testbed.path("laptop.pub")));
    };
    let ssh = || gateway.ssh("rpi1").identity(&key);

    certify("night shift");
    ssh().command("hostname").run().expect_success().expect_stdout("rpi1\n");
    gateway.expect_log("account=\"alice\"");
    let terminal = ssh().option(&["-tt"]).command("tty").run();
    terminal.expect_stderr_with(&["PTY allocation request failed"]);
    let to_server = ssh().option(&["-W", &server.to_string()]).run().expect_success();
    assert!(to_server.text().starts_with(GREETING));
    ssh().option(&["-W", "localhost:22"]).run().expect_stdout("");

    certify("alice");
    ssh().command("hostname").run().expect_code(255).expect_stdout("");
    // The authority's key itself logs nobody in.
    let with_ca = gateway.ssh("rpi1").identity(&ca).command("hostname").run();
    with_ca.expect_code(255).expect_stdout("");
}
