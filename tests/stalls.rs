//! Channels that nobody reads, beside others of the same connection that somebody uses.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::client::Running;
use support::log::end_of;
use support::testbed::unused_address;
use support::{DEADLINE, Gateway, Testbed, eventually};

/// Put into each stalled direction: more than all windows and buffers on the way together, less
/// than the gateway may keep for a channel.
const IN_FLIGHT: usize = 64 * 1024 * 1024;
/// The most that a stalled channel may delay its siblings.
const TOLERABLE: Duration = Duration::from_millis(50);
const ECHOES: usize = 200;
/// A busy machine may spoil a measurement; stalled channels spoil all of them.
const MEASUREMENTS: usize = 5;

/// A session that echoes what it is sent, and the multiplexer that further channels go through.
struct Sibling {
    client: Running,
    heard: usize,
}

impl Sibling {
    fn start(gateway: &Gateway, options: &[&str]) -> Self {
        let client = gateway.ssh("rpi1").option(options).command("exec cat").start();
        let mut sibling = Self { client, heard: 0 };
        sibling.echo();
        sibling
    }

    /// Sends one keystroke and waits for it to come back.
    fn echo(&mut self) -> Duration {
        let sent = Instant::now();
        self.client.send("x");
        let heard = self.heard;
        let found = self.client.stdout.wait_for(heard, DEADLINE, |new| end_of(new, "x"));
        assert!(found.is_some(), "no echo within {DEADLINE:?}");
        self.heard += 1;
        sent.elapsed()
    }

    /// Half of the echoes of a measurement come back within [`TOLERABLE`].
    fn assert_undelayed(&mut self, when: &str) {
        let mut medians = Vec::new();
        for _ in 0..MEASUREMENTS {
            let mut delays: Vec<_> = (0..ECHOES).map(|_| self.echo()).collect();
            delays.sort();
            let [median, p99, worst] =
                [ECHOES / 2, ECHOES * 99 / 100, ECHOES - 1].map(|index| delays[index]);
            println!("{when}: an echo takes {median:?} (median), {p99:?} (p99), {worst:?} (worst)");
            if median < TOLERABLE {
                return;
            }
            medians.push(median);
        }
        panic!("{when}: an echo takes {medians:?} (medians)");
    }
}

/// Nearly all of what was sent waits in the gateway.
fn assert_both_stalled(gateway: &Gateway) {
    let (kept, sent) = (gateway.spooled(), 2 * IN_FLIGHT as u64);
    assert!(kept > sent / 4 * 3, "{kept} of {sent} bytes are kept");
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn sessions_stalled_both_ways_do_not_delay_their_sibling() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    let socket = testbed.path("control").display().to_string();
    let data = testbed.path("zeroes");
    File::create(&data).unwrap().set_len(IN_FLIGHT as u64).unwrap();
    let mut sibling = Sibling::start(&gateway, &["-M", "-S", &socket]);

    let through = |command: &str| gateway.ssh("rpi1").option(&["-S", &socket]).command(command);
    let unread = through(&format!("echo >/persist/floods; head -c {IN_FLIGHT} /dev/zero"));
    let unread = unread.start_unread();
    let unreading = through("echo ready; exec sleep 1000").stdin_file(&data).start();
    unreading.expect_stdout("ready\n");
    eventually("the flood has begun", || node.persist().join("floods").exists());
    sibling.assert_undelayed("while the queues fill");
    gateway.wait_until_idle();
    assert_both_stalled(&gateway);
    sibling.assert_undelayed("while both channels are stalled");

    unread.kill();
    unreading.kill();
    sibling.assert_undelayed("after they were closed");
    sibling.client.finish().expect_success();
}

/// A server that writes that many bytes to its one client and reads nothing, for as long as the
/// test runs.
fn unreading_server(flood: usize) -> SocketAddr {
    let listener = TcpListener::bind(local(0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The client may close before it has read everything.
        stream.write_all(&vec![0; flood]).ok();
        loop {
            thread::park();
        }
    });
    address
}

#[test]
fn forwards_stalled_both_ways_do_not_delay_a_session() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node(&node).start();
    let (silent, flooding) = (unreading_server(0), unreading_server(IN_FLIGHT));
    let (inward, outward) = (unused_address(), unused_address());
    let mut sibling = Sibling::start(
        &gateway,
        &["-L", &format!("{inward}:{silent}"), "-L", &format!("{outward}:{flooding}")],
    );

    let mut unread_by_server = TcpStream::connect(inward).unwrap();
    let writing = thread::spawn(move || {
        unread_by_server.write_all(&vec![0; IN_FLIGHT]).unwrap();
        unread_by_server
    });
    let unread_by_client = TcpStream::connect(outward).unwrap();
    sibling.assert_undelayed("while the queues fill");
    let unread_by_server = writing.join().unwrap();
    gateway.wait_until_idle();
    assert_both_stalled(&gateway);
    sibling.assert_undelayed("while both forwards are stalled");

    drop((unread_by_client, unread_by_server));
    sibling.assert_undelayed("after they were closed");
    // ssh(1) itself waits for the silent server.
    sibling.client.kill();
}
