//! What only containers of the embedded engine have: a supervisor, and a network of slirp4netns'.
//! Needs root, as the engine does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support_engine;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use support_engine::embedded::{engine_in, script_in};
use support_engine::*;
use tokio::time::timeout;
use waltgate::backend::image::engine::{Engine, ProcessState};
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

#[tokio::test]
async fn a_program_that_takes_more_memory_than_there_is_is_killed_alone() {
    let bench = Bench::on_the_embedded_engine(|defaults| defaults.memory = Some(32 << 20));
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    // A line that does not end is kept in memory.
    let script = "head -c 200000000 /dev/zero | tr '\\0' x | tail -n 1 | wc -c; \
                  head -c 1000000 /dev/zero | tr '\\0' x | tail -n 1 | wc -c";
    let (outcome, ..) = run(&attachment, &command(script), "", &[]).await;
    assert_eq!(outcome.text(), "0\n1000000\n");
    attachment.close().await;
}

#[tokio::test]
async fn no_more_processes_than_allowed_are_made_and_ended_ones_make_room() {
    let bench = Bench::on_the_embedded_engine(|defaults| defaults.pids = Some(12));
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    // The shell that cannot make a process ends, and leaves what it made.
    let many = "(for n in $(seq 20); do sleep 1000 >/dev/null 2>&1 & done); kill -9 -1";
    let (outcome, ..) = run(&attachment, &command(many), "", &[]).await;
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(said.contains("can't fork"), "{said}");
    // Orphans among them; all that is left is process 1 and this.
    let one_by_one = "for n in $(seq 40); do sh -c 'true & true'; done; echo $?";
    let (outcome, ..) = run(&attachment, &command(one_by_one), "", &[]).await;
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!((outcome.text().as_str(), &*said), ("0\n", ""));
    attachment.close().await;
}

/// State and name of the children of a process, proc_pid_stat(5).
fn children_of(parent: i32) -> Vec<(String, String)> {
    let listed = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let stat = |pid: &str| {
        // One that ended meanwhile was reaped.
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = text.split_once(") ")?;
        Some((rest[..1].to_owned(), name.split_once('(')?.1.to_owned()))
    };
    listed.unwrap_or_default().split_whitespace().filter_map(stat).collect()
}

#[tokio::test]
async fn ended_programs_and_supervisors_are_reaped() {
    let bench = Bench::on_the_embedded_engine(|_| {});
    bench.image("pc", Kind::Limited);
    let attachment = bench.attach("pc");
    let mut console = FakeConsole::new(false, &[]);
    let request = command("echo here; cat");
    let mut session = attachment.start(&request, &mut console).await.unwrap();
    read_until(&mut session, "here").await;
    for code in 0..5 {
        let (outcome, ..) = run(&attachment, &command(&format!("exit {code}")), "", &[]).await;
        assert_eq!(outcome.exit, Some(ExitStatus::Code(code)));
    }
    let container = bench.containers()[0].clone();
    let [supervisor] = processes_with(&container)[..] else { panic!("one supervisor") };
    let children = children_of(supervisor);
    assert_eq!(children.len(), 2, "process 1 and cat: {children:?}");
    assert!(children.iter().all(|(state, _)| state != "Z"), "{children:?}");
    session.stdin.eof().await.unwrap();
    let outcome = drain(&mut session).await;
    attachment.finish(&request, &outcome.end(), &mut console).await.unwrap();
    attachment.close().await;
    assert!(!Path::new(&format!("/proc/{supervisor}")).exists(), "it was waited for");
}

/// A file system in memory, of so many MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path, mebibytes: u32) -> Self {
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path);
        assert!(mount.status().unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

#[tokio::test]
async fn a_save_onto_a_full_disk_fails_whole_and_can_be_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::at(directory.path(), 40);
    let root = directory.path().join("engine");
    let (engine, image) = engine_in(&root, env!("CARGO_BIN_EXE_waltgate").as_ref());
    let write = "/busybox head -c 8000000 /dev/urandom >/noise";
    let container = engine.create(&script_in(&image, write)).await.unwrap();
    engine.start(&container).await.unwrap();
    assert_eq!(engine.wait(&container).await.unwrap(), 0);
    let kept = || {
        let find = "find blobs layers tmp | sort; cat index.json";
        let found = Command::new("sh").args(["-ec", find]).current_dir(&root).output().unwrap();
        assert!(found.status.success());
        String::from_utf8(found.stdout).unwrap()
    };
    let before = kept();

    // Room for the layer, and not for the layer and its files.
    let filler = directory.path().join("filler");
    let free = rustix::fs::statvfs(directory.path()).unwrap();
    let room = free.f_bavail * free.f_frsize - 12_000_000;
    fs::write(&filler, vec![1; usize::try_from(room).unwrap()]).unwrap();
    let refused = engine.commit(&container).await.unwrap_err().to_string();
    assert!(refused.contains("No space left on device"), "{refused}");
    assert_eq!(kept(), before);

    fs::remove_file(filler).unwrap();
    let saved = engine.commit(&container).await.unwrap();
    engine.remove(&container).await.unwrap();
    let look = script_in(&saved, "test $(/busybox wc -c </noise) = 8000000");
    let container = engine.create(&look).await.unwrap();
    engine.start(&container).await.unwrap();
    assert_eq!(engine.wait(&container).await.unwrap(), 0);
    engine.remove(&container).await.unwrap();
}

#[tokio::test]
async fn the_hosts_network_is_the_hosts() {
    let bench = Bench::on_the_embedded_engine(|defaults| defaults.network = ContainerNetwork::Host);
    bench.image("pc", Kind::Limited);
    let reachable = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = reachable.local_addr().unwrap().port();
    serve(reachable);
    let attachment = bench.attach("pc");
    let script = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 127.0.0.1 {port} | grep fetched; \
         ip link add waltgate-test type dummy 2>&1 | grep -c 'not permitted'"
    );
    let (outcome, ..) = run(&attachment, &command(&script), "", &[]).await;
    assert_eq!(outcome.text(), "fetched\n1\n", "{outcome:?}");
    attachment.close().await;
}
