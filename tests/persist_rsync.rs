//! rsync of /persist, by the server's own rsync on the server's own disk, with the stock client.
//!
//! As in `persist.rs` the directory that the gateway serves is not the one that the node mounts.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::XattrFlags;
use support::client::Running;
use support::gateway::{WALTGATE, waltgate};
use support::process::{bound_command, run_tool};
use support::{Gateway, GatewaySetup, Node, Testbed, eventually};

fn with_disk<'a>(testbed: &'a Testbed, node: &Node, lines: &str) -> GatewaySetup<'a> {
    let disk = testbed.path("disk");
    fs::create_dir_all(&disk).unwrap();
    testbed.gateway().node_with(node, &format!("persist = {disk:?}\n{lines}"))
}

/// A node, and what is served as its /persist.
fn bed(is_on: bool) -> (Testbed, Node, Gateway, PathBuf) {
    let testbed = Testbed::new();
    let node = if is_on { testbed.sshd("rpi1") } else { testbed.sshd_off("rpi1") };
    let gateway = with_disk(&testbed, &node, "boot_wait_seconds = 0").start();
    let disk = testbed.path("disk");
    (testbed, node, gateway, disk)
}

/// A directory of the test bed, as rsync takes it: what is in it.
fn inside(path: &Path) -> String {
    format!("{}/", path.display())
}

/// What rsync would still have to do to make one tree of this machine like another.
fn differences(options: &str, from: &Path, to: &Path) -> String {
    let mut rsync = Command::new("rsync");
    run_tool(rsync.args([options, "-n", "-i", "--delete", &inside(from), &inside(to)]))
}

/// A tree with all that rsync keeps.
fn tree(testbed: &Testbed) -> PathBuf {
    let tree = testbed.path("tree");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    for number in 0..200_u32 {
        let content = vec![number as u8; number as usize * 97];
        fs::write(tree.join(format!("sub/{number}")), content).unwrap();
    }
    let file = tree.join("with a 'name' \\ of $1 *");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o2751)).unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(5678)).unwrap();
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::options().append(true).open(&file).unwrap().set_times(times).unwrap();
    rustix::fs::setxattr(&file, "user.key", b"value", XattrFlags::empty()).unwrap();
    // acl(5): version 2, then tag, permissions and identifier of each entry.
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries = [(1, 6, none), (2, 4, 4321), (4, 4, none), (16, 4, none), (32, 0, none)];
    let entries = entries.map(|(tag, permissions, id)| entry(tag, permissions, id)).concat();
    let acl = [&2_u32.to_le_bytes()[..], &entries].concat();
    let name = "system.posix_acl_access";
    rustix::fs::setxattr(tree.join("sub/7"), name, &acl, XattrFlags::empty()).unwrap();
    fs::hard_link(tree.join("sub/9"), tree.join("linked")).unwrap();
    symlink("sub/9", tree.join("relative")).unwrap();
    symlink("/etc/passwd", tree.join("absolute")).unwrap();
    run_tool(Command::new("mkfifo").arg(tree.join("pipe")));
    tree
}

#[test]
fn trees_are_copied_both_ways_from_disk_whether_the_node_is_on_or_off() {
    for (testbed, node, gateway, disk) in [bed(true), bed(false)] {
        let tree = tree(&testbed);
        let from = inside(&tree);
        let up = gateway.rsync("rpi1", &["-aHAX", &from, "REMOTE:/persist/x/"]).run();
        up.expect_success();
        assert_eq!(differences("-aHAX", &tree, &disk.join("x")), "");
        assert_eq!(fs::metadata(disk.join("x/sub/9")).unwrap().nlink(), 2);
        assert_eq!(fs::read_dir(node.persist()).unwrap().count(), 0);

        let back = testbed.path("back");
        let to = inside(&back);
        gateway.rsync("rpi1", &["-aHAX", "REMOTE:/persist/x/", &to]).run().expect_success();
        assert_eq!(differences("-aHAX", &tree, &back), "");
    }
}

#[test]
fn what_its_options_do_they_do_on_disk() {
    let (testbed, _node, gateway, disk) = bed(false);
    let tree = tree(&testbed);
    let from = inside(&tree);
    let up = |options: &[&str], to: &str| {
        let arguments = [&["-a"], options, &[&from, to]].concat();
        gateway.rsync("rpi1", &arguments).run().expect_success()
    };
    up(&["-z", "-c", "--partial", "--inplace"], "REMOTE:/persist/one");
    up(&["--mkpath", "-z"], "REMOTE:/persist/a/new/one");
    assert_eq!(differences("-a", &tree, &disk.join("a/new/one")), "");
    fs::write(disk.join("one/superfluous"), "").unwrap();
    fs::write(tree.join("sub/5"), "changed").unwrap();
    up(
        &["--delete", "--backup", "--backup-dir=../old", "--temp-dir=/persist"],
        "REMOTE:/persist/one",
    );
    assert_eq!(differences("-a", &tree, &disk.join("one")), "");
    assert!(disk.join("old/superfluous").exists() && disk.join("old/sub/5").exists());
    up(&["--link-dest=../one"], "REMOTE:/persist/two");
    let [one, two] =
        ["one", "two"].map(|name| fs::metadata(disk.join(name).join("sub/8")).unwrap());
    assert_eq!(one.ino(), two.ino());

    let back = testbed.path("back");
    fs::create_dir(&back).unwrap();
    let to = inside(&back);
    let down = |arguments: &[&str]| {
        gateway.rsync("rpi1", &[arguments, &[&to]].concat()).run().expect_success()
    };
    // Wildcards are the remote shell's with rsync; several files have one "user@host:".
    down(&["-a", "REMOTE:/persist/one/sub/19*", "REMOTE:/persist/two/sub/[78]"]);
    assert_eq!(fs::read_dir(&back).unwrap().count(), 13);
    fs::write(testbed.path("list"), "sub/50\nsub/51\n").unwrap();
    let list = format!("--files-from={}", testbed.path("list").display());
    down(&["-a", &list, "REMOTE:/persist/one"]);
    assert_eq!(fs::read_dir(back.join("sub")).unwrap().count(), 2);
    down(&["-aR", "REMOTE:/persist/one/./sub/60", "REMOTE:/persist/one/with a 'name' \\ of $1 *"]);
    assert!(back.join("sub/60").exists());

    let list = |path: &str| gateway.rsync("rpi1", &[path]).run().expect_success().text();
    let all = list("REMOTE:/persist/");
    assert!(all.contains("one") && all.contains("two") && all.contains("drwx"), "{all}");
    assert!(list("REMOTE:/persist").contains("persist"));
}

#[test]
fn a_transfer_that_broke_is_taken_up_again() {
    let (testbed, _node, gateway, disk) = bed(false);
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let local = testbed.write("large", &data).display().to_string();
    let arguments = ["--bwlimit=200", "--partial", &local, "REMOTE:/persist/large"];
    let broken = gateway.rsync("rpi1", &arguments).start();
    let part = || {
        let names = fs::read_dir(&disk).unwrap().flatten();
        names.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).max()
    };
    eventually("some of it came", || part() > Some(200_000));
    broken.kill();
    eventually("what came is kept under its name", || disk.join("large").exists());
    assert!(fs::metadata(disk.join("large")).unwrap().len() >= 200_000);
    let arguments = ["--partial", "--inplace", "--stats", &local, "REMOTE:/persist/large"];
    let said = gateway.rsync("rpi1", &arguments).run().expect_success().text();
    assert!(fs::read(disk.join("large")).unwrap() == data);
    let matched = said.lines().find_map(|line| line.strip_prefix("Matched data: ")).unwrap();
    assert!(!matched.starts_with("0 "), "{said}");
}

#[test]
fn it_ends_and_complains_as_it_does_with_openssh() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let openssh = format!("[nodes.openssh]\naddress = \"{}\"", node.address());
    let gateway = with_disk(&testbed, &node, "").tables(&openssh).start();
    for served in [testbed.path("disk"), node.persist()] {
        fs::create_dir(served.join("full")).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(served.join("full").join(name), "").unwrap();
        }
    }
    let back = inside(&testbed.path("back"));
    fs::create_dir(&back).unwrap();
    let few = ["-r", "--delete", "--max-delete=1", &back, "REMOTE:/persist/full/"];
    for (arguments, code) in [
        (&["-a", "REMOTE:/persist/none", &back][..], 23),
        (&["REMOTE:/persist/none"], 23),
        (&few, 25),
    ] {
        let [disk, openssh] = ["rpi1", "openssh"].map(|user| gateway.rsync(user, arguments).run());
        assert_eq!((disk.code, openssh.code), (Some(code), Some(code)), "{arguments:?}");
        assert_eq!(disk.stderr, openssh.stderr, "{arguments:?}");
    }
}

#[test]
fn links_out_of_persist_are_the_nodes_or_lead_nowhere() {
    let (testbed, mut node, gateway, disk) = bed(false);
    let outside = testbed.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir(disk.join("sub")).unwrap();
    fs::write(disk.join("sub/file"), "file").unwrap();
    symlink(&outside, disk.join("sub/away")).unwrap();
    symlink("../../outside/secret", disk.join("sub/up")).unwrap();
    symlink("/", disk.join("sub/top")).unwrap();
    symlink("/persist/sub/file", disk.join("sub/same")).unwrap();
    symlink("/etc/hostname", disk.join("hostname")).unwrap();
    let local = testbed.write("local", "planted").display().to_string();
    let back = testbed.path("back");
    let to = inside(&back);

    let down = |arguments: &[&str]| gateway.rsync("rpi1", &[arguments, &[&to]].concat()).run();
    let said = down(&["-rL", "--exclude=persist", "REMOTE:/persist/sub/"]).expect_code(23);
    said.expect_stderr_with(&["symlink has no referent", "/persist/sub/away", "/persist/sub/up"]);
    assert_eq!(fs::read_to_string(back.join("same")).unwrap(), "file");
    // There is nothing but /persist where rsync runs; what it runs from is not to be seen.
    let top: Vec<_> = fs::read_dir(back.join("top")).unwrap().flatten().collect();
    assert!(top.iter().all(|entry| entry.file_name() == "program"), "{top:?}");
    assert!(top.iter().all(|entry| fs::read_dir(entry.path()).unwrap().next().is_none()));
    assert!(!back.join("away").exists() && !back.join("up").exists());

    for target in
        ["REMOTE:/persist/sub/away/", "REMOTE:/persist/sub/away/new", "REMOTE:/persist/sub/up"]
    {
        // Without the node there is nobody who would know.
        let said = gateway.rsync("rpi1", &[&local, target]).run();
        assert_ne!(said.code, Some(0));
        said.expect_stderr_with(&["node rpi1: cannot connect"]);
    }
    // One that is below the target is no directory to rsync: it is replaced, or kept.
    let tree = testbed.path("tree");
    fs::create_dir_all(tree.join("away")).unwrap();
    fs::write(tree.join("away/new"), "planted").unwrap();
    let from = inside(&tree);
    gateway.rsync("rpi1", &["-rK", &from, "REMOTE:/persist/sub"]).run();
    gateway.rsync("rpi1", &["-r", &from, "REMOTE:/persist/sub"]).run();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");

    node.start();
    down(&["-L", "REMOTE:/persist/sub/file"]).expect_success();
    // The link is on disk only; the node has its own.
    symlink("/etc/hostname", node.persist().join("hostname")).unwrap();
    down(&["-L", "REMOTE:/persist/hostname/"]);
    let said = down(&["-l", "REMOTE:/persist/hostname"]).expect_success();
    drop(said);
    assert_eq!(fs::read_link(back.join("hostname")).unwrap(), Path::new("/etc/hostname"));
}

#[test]
fn no_race_leads_to_the_servers_files() {
    let (testbed, _node, gateway, disk) = bed(false);
    let outside = testbed.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("0"), "secret").unwrap();
    fs::create_dir_all(disk.join("real")).unwrap();
    symlink(&outside, disk.join("trap")).unwrap();
    let tree = testbed.path("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..50 {
        fs::write(tree.join(number.to_string()), "planted").unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, real, trap) = (Arc::clone(&stop), disk.join("real"), disk.join("trap"));
        std::thread::spawn(move || {
            let cwd = rustix::fs::CWD;
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(cwd, &real, cwd, &trap, flags).unwrap();
            }
        })
    };
    let from = inside(&tree);
    let back = testbed.path("back");
    for _ in 0..10 {
        // Any of them may fail, and does.
        drop(
            gateway
                .rsync("rpi1", &["-r", "--delete", "--inplace", &from, "REMOTE:/persist/real"])
                .run(),
        );
        drop(gateway.rsync("rpi1", &["-rKL", &from, "REMOTE:/persist/real/"]).run());
        drop(gateway.rsync("rpi1", &["-rL", "REMOTE:/persist/real/", &inside(&back)]).run());
        let taken = fs::read(back.join("0")).unwrap_or_default();
        assert_ne!(taken, b"secret");
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("0")).unwrap(), "secret");
}

#[test]
fn devices_are_neither_made_nor_opened() {
    let (testbed, node, gateway, disk) = bed(true);
    let devices = testbed.path("devices");
    fs::create_dir(&devices).unwrap();
    run_tool(Command::new("mknod").arg(devices.join("null")).args(["c", "1", "3"]));
    fs::write(devices.join("file"), "content").unwrap();
    let from = inside(&devices);
    let said = gateway.rsync("rpi1", &["-a", &from, "REMOTE:/persist/to"]).run().expect_code(23);
    said.expect_stderr_with(&["mknod", "/persist/to/null", "Operation not permitted"]);
    assert_eq!(fs::read_dir(disk.join("to")).unwrap().count(), 1);

    // One that a node made there.
    run_tool(Command::new("mknod").arg(disk.join("zero")).args(["c", "1", "5"]));
    let to = inside(&testbed.path("back"));
    gateway.rsync("rpi1", &["-a", "REMOTE:/persist/zero", &to]).run().expect_success();
    let kind = fs::metadata(testbed.path("back/zero")).unwrap().file_type();
    assert!(kind.is_char_device());
    let inside_of_rsync = Shut::in_persist(&gateway);
    let opened = fs::File::open(inside_of_rsync.root().join("persist/zero"));
    assert_eq!(opened.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);

    // What opens devices is the node's.
    let arguments = ["--copy-devices", "REMOTE:/persist/zero", &to];
    let said = gateway.rsync("rpi1", &arguments).run();
    said.expect_stderr_with(&["/persist/zero", "No such file"]);
    assert_eq!(fs::read_dir(node.persist()).unwrap().count(), 0);
}

/// An rsync that waits for its client.
struct Shut {
    client: Running,
    /// The outer process and the one that rsync is.
    processes: [u32; 2],
}

impl Shut {
    fn in_persist(gateway: &Gateway) -> Self {
        let command = "rsync --server --sender -logDtpre.iLsfxCIvu . /persist/";
        let client = gateway.ssh("rpi1").command(command).start();
        // Its greeting: the version of its protocol.
        client.expect_stdout("\0\0\0");
        Self::of(client, gateway)
    }

    /// The one that serves a client.
    fn of(client: Running, gateway: &Gateway) -> Self {
        let mut processes = [0; 2];
        eventually("rsync runs", || {
            let of_outer =
                |outer: u32| children(outer).into_iter().map(move |inner| [outer, inner]);
            let is_rsync = |[_, inner]: &[u32; 2]| {
                fs::read(format!("/proc/{inner}/cmdline"))
                    .is_ok_and(|line| line.starts_with(b"rsync\0"))
            };
            let found = children(gateway.pid()).into_iter().flat_map(of_outer).find(is_rsync);
            found.map(|found| processes = found).is_some()
        });
        Self { client, processes }
    }

    fn root(&self) -> PathBuf {
        self.file("root")
    }

    /// A file of /proc about rsync.
    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.processes[1]))
    }

    fn expect_gone(&self) {
        eventually("rsync is gone", || {
            let runs = |pid: &u32| {
                // One that nobody has waited for is gone as well.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                status.contains("State:") && !status.contains("State:\tZ")
            };
            !self.processes.iter().any(runs)
        });
    }
}

fn children(pid: u32) -> Vec<u32> {
    // It may have ended meanwhile.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn rsync_has_only_what_it_needs() {
    let (_testbed, _node, gateway, disk) = bed(false);
    let rsync = Shut::in_persist(&gateway);
    let status = fs::read_to_string(rsync.file("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    // CHOWN, DAC_OVERRIDE, FOWNER and FSETID of capabilities(7): bits 0, 1, 3 and 4.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0b1_1011, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Groups:"), "");
    for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
        let of = |path: PathBuf| fs::read_link(path.join(namespace)).unwrap();
        let own = of(PathBuf::from("/proc/self/ns"));
        assert_ne!(of(rsync.file("ns")), own, "{namespace}");
    }
    let names = |path: &Path| {
        let names = fs::read_dir(path).unwrap().flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&rsync.root()), ["persist", "program"]);
    assert_eq!(names(&rsync.root().join("program")), [""; 0]);
    let served = fs::metadata(rsync.root().join("persist")).unwrap();
    assert_eq!(served.ino(), fs::metadata(disk).unwrap().ino());
    let mounts = fs::read_to_string(rsync.file("mountinfo")).unwrap();
    for mount in mounts.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        assert!(options.contains("nosuid") && options.contains("nodev"), "{mount}");
        match place {
            "/persist" => assert!(options.starts_with("rw,") && options.contains("noexec")),
            _ => assert!(options.starts_with("ro,"), "{mount}"),
        }
    }
    // Nothing of the gateway's is open in it but its three streams.
    let open: Vec<_> = fs::read_dir(rsync.file("fd")).unwrap().flatten().collect();
    let targets: Vec<_> = open.iter().map(|fd| fs::read_link(fd.path()).unwrap()).collect();
    let is_stream = |target: &PathBuf| {
        ["socket:", "pipe:"].iter().any(|kind| target.to_string_lossy().starts_with(kind))
    };
    assert!(targets.len() == 3 && targets.iter().all(is_stream), "{targets:?}");
    let environment = fs::read(rsync.file("environ")).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
}

#[test]
fn a_client_that_vanishes_leaves_no_process() {
    let (_testbed, _node, gateway, _disk) = bed(false);
    let rsync = Shut::in_persist(&gateway);
    rsync.client.kill();
    rsync.expect_gone();
}

#[test]
fn a_client_that_vanishes_leaves_no_process_that_waits_for_a_pipe() {
    let (testbed, _node, gateway, disk) = bed(false);
    // A pipe in a directory where rsync looks for rules: it is opened, and nobody writes.
    let pipe = disk.join(".rsync-filter");
    run_tool(Command::new("mkfifo").arg(&pipe));
    let to = inside(&testbed.path("back"));
    let client = gateway.rsync("rpi1", &["-aFF", "REMOTE:/persist/", &to]).start();
    let rsync = Shut::of(client, &gateway);
    // It can be written to once somebody opened it to read.
    let mut writer = None;
    eventually("it waits for the pipe", || {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        writer = rustix::fs::open(&pipe, flags, rustix::fs::Mode::empty()).ok();
        writer.is_some()
    });
    // Without it, ssh waits for the server's end.
    let ssh = children(rsync.client.process.pid());
    rsync.client.kill();
    for pid in ssh {
        let ssh = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(ssh, rustix::process::Signal::KILL).unwrap();
    }
    rsync.expect_gone();
}

#[test]
fn a_gateway_that_ends_leaves_no_process() {
    for kill in [true, false] {
        let (_testbed, _node, gateway, _disk) = bed(false);
        let rsync = Shut::in_persist(&gateway);
        if kill {
            gateway.kill();
        } else {
            assert_eq!(gateway.stop(), Some(0));
        }
        rsync.expect_gone();
        drop(rsync.client.finish());
    }
}

#[test]
fn rsync_ends_with_the_process_that_waits_for_it() {
    let (_testbed, _node, gateway, _disk) = bed(false);
    let rsync = Shut::in_persist(&gateway);
    let outer = rustix::process::Pid::from_raw(i32::try_from(rsync.processes[0]).unwrap()).unwrap();
    rustix::process::kill_process(outer, rustix::process::Signal::KILL).unwrap();
    rsync.expect_gone();
    assert_ne!(rsync.client.finish().code, Some(0));
}

#[test]
fn files_belong_to_whom_the_configuration_says() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let tree = tree(&testbed);
    fs::remove_file(tree.join("pipe")).unwrap();
    fs::set_permissions(tree.join("sub/3"), fs::Permissions::from_mode(0o000)).unwrap();
    let gateway = with_disk(&testbed, &node, "persist_owner = \"4242:2424\"").start();
    let disk = testbed.path("disk");
    // Of somebody else, and closed to all.
    fs::create_dir(disk.join("closed")).unwrap();
    fs::set_permissions(disk.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let from = inside(&tree);
    let arguments = ["-aH", &from, "REMOTE:/persist/closed/x"];
    gateway.rsync("rpi1", &arguments).run().expect_success();
    let copy = disk.join("closed/x");
    for name in ["", "sub", "sub/3", "relative", "with a 'name' \\ of $1 *"] {
        let made = fs::symlink_metadata(copy.join(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (4242, 2424), "{name}");
    }
    let back = testbed.path("back");
    let to = inside(&back);
    gateway.rsync("rpi1", &["-a", "REMOTE:/persist/closed/x/", &to]).run().expect_success();
    assert_eq!(differences("-rlptc", &tree, &back).replace(".f...p.... ", ""), "");
    // It may not be given away, whatever the client asks.
    let arguments = ["-a", "-M--super", &from, "REMOTE:/persist/given"];
    let said = gateway.rsync("rpi1", &arguments).run();
    assert_ne!(said.code, Some(0));
    let given = fs::symlink_metadata(disk.join("given/with a 'name' \\ of $1 *"));
    assert!(given.is_ok_and(|given| given.uid() == 4242));
}

#[test]
fn commands_that_are_not_of_persist_alone_go_through_the_node() {
    let (testbed, node, gateway, disk) = bed(true);
    fs::write(disk.join("file"), "on disk").unwrap();
    fs::write(node.persist().join("file"), "on the node").unwrap();
    let back = testbed.path("back");
    let to = inside(&back);
    let local = testbed.write("local", "content").display().to_string();
    for arguments in [
        &["-a", "REMOTE:/persist/file", "REMOTE:/etc/hostname", &to][..],
        &["-a", "--rsync-path=/usr/bin/rsync", "REMOTE:/persist/file", &to],
        &["-as", "REMOTE:/persist/file", &to],
        &["-a", "REMOTE:/persist/../persist/file", &to],
    ] {
        fs::remove_file(back.join("file")).ok();
        gateway.rsync("rpi1", arguments).run().expect_success();
        assert_eq!(fs::read_to_string(back.join("file")).unwrap(), "on the node", "{arguments:?}");
    }
    let arguments = ["-a", "--temp-dir=/tmp", &local, "REMOTE:/persist/"];
    gateway.rsync("rpi1", &arguments).run().expect_success();
    assert!(node.persist().join("local").exists() && !disk.join("local").exists());
    // What is no transfer at all.
    let command = "rsync --server --daemon --config=/persist/file .";
    gateway.ssh("rpi1").command(command).run();
    let command = "rsync --version";
    gateway.ssh("rpi1").command(command).run().expect_success();
}

#[test]
fn a_node_without_persist_says_so_to_rsync() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let gateway = testbed.gateway().node_with(&node, "persist = \"/nonexistent/x\"").start();
    let said = gateway.rsync("rpi1", &["-a", "REMOTE:/persist/", "/nonexistent/"]).run();
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&["waltgate: /persist of node rpi1", "/nonexistent/x"]);
}

#[test]
fn without_an_rsync_that_can_be_shut_in_the_node_has_one() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let empty = format!("PATH={}", testbed.path("empty").display());
    for (run_by, reason) in [
        (&["env", &empty][..], "rsync is not installed"),
        (&["setpriv", "--bounding-set", "-sys_admin"], "cannot take a mount"),
    ] {
        let gateway = with_disk(&testbed, &node, "").run_by(run_by).start();
        let local = testbed.write("local", reason).display().to_string();
        gateway.rsync("rpi1", &["-a", &local, "REMOTE:/persist/"]).run().expect_success();
        assert_eq!(fs::read_to_string(node.persist().join("local")).unwrap(), reason);
        gateway.expect_log(reason);
        let mut check = bound_command(run_by[0]);
        check.args(&run_by[1..]).arg(WALTGATE).args(["check", "-c"]).arg(gateway.config());
        let said = String::from_utf8(check.output().unwrap().stdout).unwrap();
        let note = format!("note: rsync of /persist goes through the nodes: {reason}");
        assert!(said.contains(&note), "{said}");
    }
}

#[test]
fn check_says_which_rsync_serves_persist() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let config = with_disk(&testbed, &node, "").write("127.0.0.1:0");
    let said = waltgate(&["check", "-c", config.to_str().unwrap()], b"").text();
    assert!(said.contains("ok: rsync of /persist: rsync  version 3"), "{said}");
}
