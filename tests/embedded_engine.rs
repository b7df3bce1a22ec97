//! What only containers of the embedded engine have: a supervisor, and a network of slirp4netns'.
//! Needs root, as the engine does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use bytes::Bytes;
use support_engine::*;
use tokio::time::timeout;
use waltgate::backend::image::engine::ProcessState;
use waltgate::backend::{ExitStatus, SessionEnd};
use waltgate::config::ContainerNetwork;

/// The processes whose command line has this text.
fn processes_with(text: &str) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        entry.unwrap().file_name().to_str().and_then(|name| name.parse::<i32>().ok())
    });
    numbers
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

#[tokio::test]
async fn changes_survive_the_death_of_a_containers_supervisor() {
    let bench = Bench::on_the_embedded_engine(|_| {});
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(true, &["rescued"]);
    let mut session = attachment.start(&shell(), &mut console).await.unwrap();
    session
        .stdin
        .write(Bytes::from_static(b"touch /root/x; sleep 3210 & echo do''ne\n"))
        .await
        .unwrap();
    read_until(&mut session, "done").await;
    let container = bench.containers()[0].clone();
    let ProcessState::Running { host_pid: Some(first) } =
        bench.engine.connect().state(&container).await.unwrap()
    else {
        panic!("its process 1 is known");
    };

    let supervisors = processes_with(&container);
    let [supervisor] = supervisors[..] else { panic!("{supervisors:?}") };
    let supervisor = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    let outcome = timeout(PATIENCE, drain(&mut session)).await.unwrap();
    assert_eq!(outcome.exit, None);
    attachment.finish(&shell(), &SessionEnd::BackendLost, &mut console).await.unwrap();
    assert!(console.text().ends_with("New image rescued saved."), "{}", console.text());
    assert_eq!(bench.file("rescued", "/root/x").as_deref(), Some(""));

    attachment.close().await;
    assert!(bench.containers().is_empty());
    // One that only waits to be reaped by the machine's init has none any more.
    let left = fs::read(format!("/proc/{first}/cmdline")).unwrap_or_default();
    assert!(left.is_empty(), "its programs died with it: {}", String::from_utf8_lossy(&left));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let group = hierarchy.unwrap().path().join("waltgate").join(&container);
        assert!(!group.exists(), "{}", group.display());
    }
}

/// An address of this machine that is not its loopback's. Nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).expect("this machine has a network");
    socket.local_addr().unwrap().ip()
}

/// Answers a connection, if one comes, with a page.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = [0; 1024];
            assert!(connection.read(&mut request).unwrap() > 0);
            connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nfetched\n").unwrap();
        }
    });
}

#[tokio::test]
async fn a_container_with_a_network_reaches_servers_and_not_the_hosts_loopback() {
    let bench = Bench::on_the_embedded_engine(|defaults| defaults.network = ContainerNetwork::Own);
    bench.image("pc", Kind::Limited);
    let reachable = TcpListener::bind((own_address(), 0)).unwrap();
    let there = reachable.local_addr().unwrap();
    serve(reachable);
    let hidden = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let hidden_port = hidden.local_addr().unwrap().port();
    serve(hidden);

    let attachment = bench.attach("pc");
    // The first is the host's loopback as slirp4netns would give it.
    // nc: a static busybox resolves no names, and its wget cannot do without.
    let script = format!(
        "fetch() {{ printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w \"$1\" \"$2\" \"$3\" | grep fetched; }}
         fetch 20 {} {} || exit 1
         for host in 10.0.2.2 127.0.0.1; do
             fetch 5 $host {hidden_port} && exit 2
         done
         exec grep nameserver /etc/resolv.conf",
        there.ip(),
        there.port(),
    );
    let (outcome, ..) = run(&attachment, &command(&script), "", &[]).await;
    let said = format!("{}{}", outcome.text(), String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(outcome.exit, Some(ExitStatus::Code(0)), "{said}");
    assert_eq!(outcome.text(), "fetched\nnameserver 10.0.2.3\n");
    attachment.close().await;
}

#[tokio::test]
async fn a_container_without_a_network_has_its_loopback_only() {
    let bench = Bench::on_the_embedded_engine(|_| {});
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let script = "ls /sys/class/net; ping -c 1 -w 10 127.0.0.1 | grep -c 'bytes from'";
    let (outcome, ..) = run(&attachment, &command(script), "", &[]).await;
    assert_eq!(outcome.text(), "lo\n1\n");
    attachment.close().await;
}
