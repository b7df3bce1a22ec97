//! /persist of nodes, served from the server's own disk, with stock clients.
//!
//! In most tests the directory that the gateway serves is not the one that the node mounts, so that
//! it shows which of the two served a file.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::process::{bound_command, run_tool};
use support::{Gateway, GatewaySetup, Node, Testbed, WaltApi};

const MAC: &str = "52:54:00:bb:1b:b9";

/// A directory of the server, served as /persist of a node.
fn disk(testbed: &Testbed) -> PathBuf {
    let disk = testbed.path("disk");
    fs::create_dir_all(&disk).unwrap();
    disk
}

fn with_disk<'a>(testbed: &'a Testbed, node: &Node) -> GatewaySetup<'a> {
    let persist = format!("persist = {:?}", disk(testbed));
    testbed.gateway().node_with(node, &persist)
}

/// A node that is up, and what is served as its /persist.
fn one_node() -> (Testbed, Node, Gateway, PathBuf) {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = with_disk(&testbed, &node).start();
    let disk = disk(&testbed);
    (testbed, node, gateway, disk)
}

/// The same, switched off.
fn one_node_off() -> (Testbed, Node, Gateway, PathBuf) {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let gateway = with_disk(&testbed, &node).start();
    let disk = disk(&testbed);
    (testbed, node, gateway, disk)
}

fn data() -> Vec<u8> {
    (0..1_000_003_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect()
}

#[test]
fn scp_copies_both_ways_from_disk_whether_the_node_is_on_or_off() {
    for (testbed, _node, gateway, disk) in [one_node(), one_node_off()] {
        let local = testbed.write("local", data()).display().to_string();
        let back = testbed.path("back");
        for protocol in ["-s", "-O"] {
            let name = format!("there{protocol}");
            let there = format!("REMOTE:/persist/{name}");
            gateway.scp("rpi1", &[protocol, &local, &there]).run().expect_success();
            assert!(fs::read(disk.join(&name)).unwrap() == data());
            let arguments = [protocol, &there, back.to_str().unwrap()];
            gateway.scp("rpi1", &arguments).run().expect_success();
            assert!(fs::read(&back).unwrap() == data());
        }
        gateway.scp("rpi1", &[&local, "REMOTE:/persist/"]).run().expect_success();
        assert!(fs::read(disk.join("local")).unwrap() == data());
    }
}

#[test]
fn one_session_reaches_both_sides() {
    let (testbed, node, gateway, disk) = one_node();
    let local = testbed.write("local", "content").display().to_string();
    let back = testbed.path("back");
    let batch = format!(
        "put {local} in-home\n\
         cd /persist\n\
         put {local} here\n\
         mkdir sub\n\
         cd sub\n\
         put {local} ../../etc/there\n\
         put {local} ../beside\n\
         cd /etc\n\
         put {local} ../persist/sub/deep\n\
         get hostname {back}\n\
         ls -1 /\n\
         pwd\n\
         cd ../persist/sub/..\n\
         pwd\n\
         cd ..\n\
         pwd\n",
        back = back.display()
    );
    let said = gateway.sftp("rpi1", &batch).run().expect_success();
    for name in ["here", "beside", "sub/deep"] {
        assert_eq!(fs::read_to_string(disk.join(name)).unwrap(), "content", "{name}");
    }
    assert_eq!(fs::read_dir(node.persist()).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(back).unwrap(), "rpi1\n");
    let text = said.text();
    let working: Vec<_> =
        text.lines().filter(|line| line.starts_with("Remote working directory")).collect();
    let is = |path| format!("Remote working directory: {path}");
    assert_eq!(working, [is("/etc"), is("/persist"), is("/")]);
    assert_eq!(text.lines().filter(|line| *line == "/persist").count(), 1, "{text}");
    assert!(text.lines().any(|line| line == "/etc"), "{text}");
    let on_node = gateway.ssh("rpi1").command("cat /root/in-home /etc/there").run();
    on_node.expect_success().expect_stdout("contentcontent");
}

#[test]
fn what_is_on_the_other_side_cannot_be_renamed_or_linked() {
    let (_testbed, _node, gateway, disk) = one_node();
    fs::write(disk.join("file"), "file").unwrap();
    for command in [
        "rename /persist/file /root/file",
        "rename /etc/hostname /persist/hostname",
        "ln /persist/file /root/file",
        "rm /persist",
        "rename /persist /root/p",
    ] {
        let said = gateway.sftp("rpi1", &format!("{command}\n")).run();
        assert_ne!(said.code, Some(0), "{command}");
    }
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 1);
    gateway.sftp("rpi1", "rename /persist/file /persist/renamed\n").run().expect_success();
    assert_eq!(fs::read_to_string(disk.join("renamed")).unwrap(), "file");
}

#[test]
fn while_the_node_is_off_the_rest_says_so_and_persist_works() {
    let (testbed, mut node, gateway, disk) = one_node_off();
    let local = testbed.write("local", "content").display().to_string();
    let batch = format!(
        "ls -1 /\ncd /persist\nput {local} kept\nls -l /persist\n-get /etc/hostname\ncd ..\npwd\n"
    );
    let said = gateway.sftp("rpi1", &batch).run().expect_success();
    assert_eq!(fs::read_to_string(disk.join("kept")).unwrap(), "content");
    let text = said.text();
    assert!(text.lines().any(|line| line == "/persist"), "{text}");
    assert!(text.contains("Remote working directory: /\n"), "{text}");
    said.expect_stderr_with(&["waltgate:", "node rpi1 does not answer", "refused"]);

    let copied = gateway.sftp("rpi1", "get /etc/hostname /dev/null\n").run().expect_code(1);
    copied.expect_stderr_with(&["node rpi1 does not answer"]);

    node.start();
    gateway.sftp("rpi1", "ls /etc/hostname\nls /persist/kept\n").run().expect_success();
}

#[test]
fn a_copy_to_the_rest_of_a_booting_node_waits_for_it() {
    let (testbed, mut node, gateway, _disk) = one_node_off();
    let local = testbed.write("local", "content").display().to_string();
    let copy = gateway.scp("rpi1", &[&local, "REMOTE:/tmp/copy"]).start();
    copy.expect_stderr("waiting up to");
    node.start();
    copy.finish().expect_success();
    gateway.ssh("rpi1").command("cat /tmp/copy").run().expect_stdout("content");
}

#[test]
fn a_node_that_goes_away_takes_only_its_own_files_with_it() {
    let (testbed, mut node, gateway, disk) = one_node();
    let local = testbed.write("local", "content").display().to_string();
    let mut session = gateway.sftp("rpi1", "").start();
    session.send("cd /etc\nls -1 hostname\n");
    session.expect_stdout("\nhostname");
    node.unplug();
    session.send(format!("-ls /etc\nput {local} /persist/after\nls -1 /persist\n"));
    session.expect_stdout("\n/persist/after");
    assert_eq!(fs::read_to_string(disk.join("after")).unwrap(), "content");
    drop(session.finish());
}

#[test]
fn links_lead_where_the_node_sees_them_lead() {
    let (testbed, _node, gateway, disk) = one_node();
    fs::create_dir(disk.join("sub")).unwrap();
    fs::write(disk.join("file"), "on disk").unwrap();
    symlink("/etc", disk.join("away")).unwrap();
    symlink("../../etc/hostname", disk.join("sub/name")).unwrap();
    symlink("/persist/file", disk.join("absolute")).unwrap();
    symlink("/root/new", disk.join("dangling")).unwrap();
    let local = testbed.write("local", "put").display().to_string();
    for (path, content) in [
        ("/persist/away/hostname", "rpi1\n"),
        ("/persist/sub/name", "rpi1\n"),
        ("/persist/absolute", "on disk"),
    ] {
        let back = testbed.path("back");
        gateway.sftp("rpi1", &format!("get {path} {}\n", back.display())).run().expect_success();
        assert_eq!(fs::read_to_string(back).unwrap(), content, "{path}");
    }
    gateway.sftp("rpi1", &format!("put {local} /persist/dangling\n")).run().expect_success();
    gateway.ssh("rpi1").command("cat /root/new").run().expect_stdout("put");
    for arguments in [
        ["-O", &local, "REMOTE:/persist/dangling"],
        ["-O", "REMOTE:/persist/sub/name", "/dev/null"],
    ] {
        let said = gateway.scp("rpi1", &arguments).run();
        assert_ne!(said.code, Some(0));
        said.expect_stderr_with(&["Invalid cross-device link", "without -O"]);
    }
    assert!(!Path::new("/root/new").exists());
}

#[test]
fn interrupted_transfers_are_resumed() {
    let (testbed, _node, gateway, disk) = one_node_off();
    let data = data();
    let local = testbed.write("local", &data).display().to_string();
    fs::write(disk.join("part"), &data[..300_000]).unwrap();
    let back = testbed.write("back", &data[..400_000]);
    let batch = format!("reput {local} /persist/part\nreget /persist/part {}\n", back.display());
    gateway.sftp("rpi1", &batch).run().expect_success();
    assert!(fs::read(disk.join("part")).unwrap() == data);
    assert!(fs::read(back).unwrap() == data);
}

/// A file system in memory at a directory, of so many KiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: &Path, kibibytes: u32) -> Self {
        fs::create_dir_all(path).unwrap();
        let mut mount = bound_command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kibibytes}k"), "tmpfs"]).arg(path);
        assert!(mount.status().unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while the gateway still has files in it.
        let unmounted = bound_command("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.display());
        }
    }
}

#[test]
fn a_full_disk_is_told_and_the_session_goes_on() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    let disk = disk(&testbed);
    // As much room on both, so that the node's OpenSSH shows what is usual. The node has its own
    // view of mounts, so it starts when they are there.
    let _mounted = [SmallDisk::at(&disk, 256), SmallDisk::at(&node.persist(), 256)];
    node.start();
    let openssh = format!("[nodes.openssh]\naddress = \"{}\"", node.address());
    let gateway = with_disk(&testbed, &node).tables(&openssh).start();
    let data = data();
    let large = testbed.write("large", &data).display().to_string();
    let small = testbed.write("small", "content").display().to_string();
    let batch = format!("-put {large} /persist/large\n-rm /persist/large\nput {small} /persist/\n");
    let said = gateway.sftp("rpi1", &batch).run().expect_success();
    said.expect_stderr_with(&["/persist/large"]);
    assert_eq!(fs::read_to_string(disk.join("small")).unwrap(), "content");
    assert!(!disk.join("large").exists());

    for (user, there) in [("openssh", &node.persist()), ("rpi1", &disk)] {
        let said = gateway.scp(user, &[&large, "REMOTE:/persist/large"]).run();
        assert_ne!(said.code, Some(0));
        // Of a status the client shows the code alone.
        if user == "rpi1" {
            let reason = "waltgate: /persist/large was not written: No space left on device";
            said.expect_stderr_with(&[reason]);
        }
        let part = fs::read(there.join("large")).unwrap();
        // What there was room for; the client sets the length to that of what it sent.
        assert!(part.len() > 100_000 && part[..100_000] == data[..100_000], "{user}");
    }
    fs::remove_file(disk.join("large")).unwrap();

    let said = gateway.scp("rpi1", &["-O", &large, &small, "REMOTE:/persist/"]).run();
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&["scp: /persist//large: No space left on device"]);
    assert_eq!(fs::read_to_string(disk.join("small")).unwrap(), "content");
}

/// A file system of its own with a quota of so many KiB, at a directory.
struct Quota(SmallDisk);

impl Quota {
    /// `None`: the kernel has none of this kind.
    fn at(testbed: &Testbed, path: &Path, kibibytes: u32) -> Option<Self> {
        let image = testbed.path("btrfs");
        fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        run_tool(Command::new("mkfs.btrfs").arg("--quiet").arg(&image));
        fs::create_dir_all(path).unwrap();
        let mut mount = bound_command("mount");
        let mounted = mount.args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(path).output();
        let mounted = mounted.unwrap();
        if !mounted.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        let quota = Self(SmallDisk(path.to_owned()));
        run_tool(Command::new("btrfs").args(["quota", "enable"]).arg(path));
        let limit = format!("{kibibytes}K");
        run_tool(Command::new("btrfs").args(["qgroup", "limit", &limit, "0/5"]).arg(path));
        Some(quota)
    }
}

#[test]
fn a_quota_is_told_by_sftp_scp_and_rsync() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let disk = disk(&testbed);
    let Some(quota) = Quota::at(&testbed, &disk, 512) else {
        eprintln!("skipped: no btrfs can be mounted here");
        return;
    };
    assert_eq!(quota.0.0, disk);
    let gateway = with_disk(&testbed, &node).start();
    let large = testbed.write("large", data().repeat(3)).display().to_string();
    let small = testbed.write("small", "content").display().to_string();
    let batch = format!("-put {large} /persist/large\n");
    let said = gateway.sftp("rpi1", &batch).run().expect_success();
    let line = "waltgate: /persist/large was not written: Disk quota exceeded";
    said.expect_stderr_with(&[line]);
    fs::remove_file(disk.join("large")).unwrap();

    let said = gateway.scp("rpi1", &["-O", &large, "REMOTE:/persist/large"]).run();
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&["scp: /persist/large: Disk quota exceeded"]);
    fs::remove_file(disk.join("large")).unwrap();

    let said = gateway.rsync("rpi1", &[&large, "REMOTE:/persist/large"]).run();
    // An error of file I/O, rsync(1). Its words are missing now and then, through sshd as well: the
    // client may stop before they come.
    assert_eq!(said.code, Some(11), "{said:?}");
    assert!(said.stderr.is_empty() || said.stderr.contains("Disk quota exceeded"), "{said:?}");
    gateway.scp("rpi1", &[&small, "REMOTE:/persist/"]).run().expect_success();
}

#[test]
fn quotas_hold_for_the_gateway_although_it_is_root() {
    let (_testbed, _node, gateway, _disk) = one_node_off();
    let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().flatten();
    for thread in threads {
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
        // capabilities(7): CAP_SYS_RESOURCE writes beyond quotas; CAP_CHOWN is there as ever.
        assert_eq!((effective >> 24 & 1, effective & 1), (0, 1), "{status}");
    }
}

#[test]
fn the_end_of_a_file_of_20_gib_is_fetched_and_put() {
    const SIZE: u64 = 20 << 30;
    let (testbed, _node, gateway, disk) = one_node_off();
    let (local, there) = (testbed.path("local"), disk.join("there"));
    let ending = b"the end";
    let file = fs::File::create(&there).unwrap();
    file.write_all_at(ending, SIZE).unwrap();
    fs::File::create(&local).unwrap().set_len(SIZE - 1000).unwrap();
    let commands = format!("reget /persist/there {}\n", local.display());
    gateway.sftp("rpi1", &commands).run().expect_success();
    let mut found = [0; 7];
    fs::File::open(&local).unwrap().read_exact_at(&mut found, SIZE).unwrap();
    assert_eq!(&found, ending);
    file.set_len(SIZE - 1000).unwrap();
    let commands = format!("reput {} /persist/there\n", local.display());
    gateway.sftp("rpi1", &commands).run().expect_success();
    fs::File::open(&there).unwrap().read_exact_at(&mut found, SIZE).unwrap();
    assert_eq!(&found, ending);
    assert!(fs::metadata(&there).unwrap().blocks() < 64);
}

#[test]
fn many_transfers_of_large_files_take_little_memory_and_holes_stay_holes() {
    const TRANSFERS: usize = 100;
    const SIZE: u64 = 12 << 20;
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let limits = "max_startups_per_source = 200\nmax_startups = 200";
    let gateway = with_disk(&testbed, &node).limits(limits).start();
    let disk = disk(&testbed);
    let local = testbed.path("sparse");
    for path in [&local, &disk.join("sparse")] {
        fs::File::create(path).unwrap().set_len(SIZE).unwrap();
    }
    let transfers: Vec<_> = (0..TRANSFERS)
        .map(|number| {
            let mut transfer = gateway.sftp("rpi1", "").start();
            transfer.send(match number % 2 {
                0 => "get /persist/sparse /dev/null\n".to_owned(),
                _ => format!("put {} /persist/put-{number}\n", local.display()),
            });
            transfer
        })
        .collect();
    for transfer in transfers {
        transfer.finish().expect_success();
    }
    // A transfer has a few answers or writes of 255 KiB each in memory.
    assert!(gateway.peak_memory() < 200 << 20, "{} bytes", gateway.peak_memory());
    for number in (1..TRANSFERS).step_by(2) {
        let put = fs::metadata(disk.join(format!("put-{number}"))).unwrap();
        // Beside them there may be a block of the file system's own.
        assert!(put.len() == SIZE && put.blocks() < 64, "{} blocks", put.blocks());
    }
}

#[test]
fn the_directory_is_found_by_the_mac_through_one_link_beneath_the_root() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let root = testbed.path("walt");
    let of_node = root.join(MAC);
    fs::create_dir_all(of_node.join("persist_dirs/alice")).unwrap();
    symlink("persist_dirs/alice", of_node.join("persist")).unwrap();
    let gateway = testbed
        .gateway()
        .more_node_defaults(&format!("persist_root = {root:?}\nboot_wait_seconds = 0"))
        .node_with(&node, &format!("mac = {MAC:?}"))
        .start();
    let local = testbed.write("local", "content").display().to_string();
    let put = || gateway.scp("rpi1", &[&local, "REMOTE:/persist/file"]).run();
    put().expect_success();
    assert_eq!(fs::read_to_string(of_node.join("persist_dirs/alice/file")).unwrap(), "content");

    let outside = testbed.path("outside");
    fs::create_dir(&outside).unwrap();
    for target in [outside.as_path(), Path::new("../../outside")] {
        fs::remove_file(of_node.join("persist")).unwrap();
        symlink(target, of_node.join("persist")).unwrap();
        assert_ne!(put().code, Some(0));
        let said = gateway.scp("rpi1", &["-O", &local, "REMOTE:/persist/file"]).run();
        assert_ne!(said.code, Some(0));
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_node_without_persist_says_so() {
    let testbed = Testbed::new();
    let root = testbed.path("walt");
    fs::create_dir_all(root.join(MAC).join("persist")).unwrap();
    let api = WaltApi::start();
    api.add_node("rpi1", "127.0.0.1", "alice/pc:latest", true);
    api.configure_node("rpi1", MAC, "mount.persist", false);
    let gateway = testbed
        .gateway()
        .more_node_defaults(&format!("persist_root = {root:?}"))
        .tables(&api.table())
        .start();
    let local = testbed.write("local", "content").display().to_string();
    let said = gateway.scp("rpi1", &["-O", &local, "REMOTE:/persist/file"]).run();
    assert_ne!(said.code, Some(0));
    said.expect_stderr_with(&["/persist of node rpi1", "it has none", "mount.persist"]);
    assert_eq!(fs::read_dir(root.join(MAC).join("persist")).unwrap().count(), 0);
}

#[test]
fn a_node_without_persist_is_said_to_have_none_where_its_own_files_are_served() {
    let testbed = Testbed::new();
    let node = testbed.sshd("rpi1");
    let gateway = testbed.gateway().node_with(&node, "persist = \"/nonexistent/x\"").start();
    // A node that mounts nothing there.
    gateway.ssh("rpi1").command("umount /persist && rmdir /persist").run().expect_success();
    let local = testbed.write("local", "content").display().to_string();
    let batch = format!("-put {local} /persist/file\n-ls /persist\nput {local} /tmp/file\n");
    let said = gateway.sftp("rpi1", &batch).run().expect_success();
    let line = "waltgate: /persist of node rpi1: /nonexistent/x: No such file or directory";
    said.expect_stderr_with(&[line]);
    let said = gateway.scp("rpi1", &[&local, "REMOTE:/persist/file"]).run();
    assert_ne!(said.code, Some(0));
    assert_eq!(said.stderr.matches(line).count(), 1, "{said:?}");
    // Who asks for something else is told nothing of it.
    let said = gateway.sftp("rpi1", "ls /tmp/file\n").run().expect_success();
    assert_eq!(said.stderr, "");
}

#[test]
fn other_logins_than_root_get_no_more_than_the_node_gives_them() {
    let (_testbed, _node, gateway, disk) = one_node_off();
    fs::write(disk.join("file"), "file").unwrap();
    let said = gateway
        .scp("nobody.rpi1", &["-o", "ConnectTimeout=30", "-O", "REMOTE:/persist/file", "/dev/null"])
        .start();
    // It waits for the node.
    said.expect_stderr("waiting up to");
    said.kill();
}

#[test]
fn files_belong_to_root_or_to_whom_the_configuration_says() {
    let testbed = Testbed::new();
    let node = testbed.sshd_off("rpi1");
    let local = testbed.write("local", "content");
    fs::set_permissions(&local, fs::Permissions::from_mode(0o640)).unwrap();
    let local = local.display().to_string();
    for (lines, owner) in [("", (0, 0)), ("persist_owner = \"1234:5678\"", (1234, 5678))] {
        let disk = disk(&testbed);
        let gateway = testbed.gateway().node_with(&node, &format!("persist = {disk:?}\n{lines}"));
        let gateway = gateway.start();
        let batch = format!(
            "put {local} /persist/file{0}\nmkdir /persist/sub{0}\nln -s file /persist/link{0}\n",
            owner.0
        );
        gateway.sftp("rpi1", &batch).run().expect_success();
        for name in ["file", "sub", "link"] {
            let made = fs::symlink_metadata(disk.join(format!("{name}{}", owner.0))).unwrap();
            assert_eq!((made.uid(), made.gid()), owner, "{name}");
        }
        let made = fs::metadata(disk.join(format!("file{}", owner.0))).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o640);
    }
}

#[test]
fn lftp_mirrors_both_ways_and_lists_the_top() {
    let (testbed, _node, gateway, disk) = one_node();
    let tree = testbed.path("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    for number in 0..50 {
        fs::write(tree.join(format!("a/b/{number}")), format!("{number}")).unwrap();
    }
    let back = testbed.path("back");
    let (config, address) = (testbed.path("ssh_config"), gateway.address());
    let commands = format!(
        "set sftp:connect-program 'ssh -a -x -F {} -p {}'; set net:max-retries 1; \
         open -u rpi1, sftp://{}; mirror -R {} /persist/tree; mirror /persist/tree {}; \
         ls /; cat /etc/hostname",
        config.display(),
        address.port(),
        address.ip(),
        tree.display(),
        back.display(),
    );
    let lftp = bound_command("lftp").args(["--norc", "-c", &commands]).output().unwrap();
    assert!(lftp.status.success(), "{}", String::from_utf8_lossy(&lftp.stderr));
    assert_eq!(fs::read_to_string(disk.join("tree/a/b/49")).unwrap(), "49");
    assert_eq!(fs::read_dir(back.join("a/b")).unwrap().count(), 50);
    let said = String::from_utf8_lossy(&lftp.stdout).into_owned();
    assert!(said.contains("persist") && said.contains("etc") && said.contains("rpi1"), "{said}");
}

#[test]
fn both_sides_are_mounted_with_sshfs() {
    let (testbed, _node, gateway, disk) = one_node();
    let here = testbed.path("mounted");
    fs::create_dir(&here).unwrap();
    let there = format!("rpi1@{}:/", gateway.address().ip());
    let config = testbed.path("ssh_config").display().to_string();
    let port = gateway.address().port().to_string();
    let sshfs =
        bound_command("sshfs").args(["-F", &config, "-p", &port, &there]).arg(&here).output();
    let sshfs = sshfs.unwrap();
    assert!(sshfs.status.success(), "{}", String::from_utf8_lossy(&sshfs.stderr));
    fs::create_dir(here.join("persist/d")).unwrap();
    fs::write(here.join("persist/d/data"), data()).unwrap();
    fs::rename(here.join("persist/d/data"), here.join("persist/data")).unwrap();
    assert!(fs::read(here.join("persist/data")).unwrap() == data());
    assert!(fs::rename(here.join("persist/data"), here.join("tmp/data")).is_err());
    assert_eq!(fs::read_to_string(here.join("etc/hostname")).unwrap(), "rpi1\n");
    let names = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().any(|name| name == "persist"));
    assert!(bound_command("fusermount3").arg("-u").arg(&here).status().unwrap().success());
    assert!(fs::read(disk.join("data")).unwrap() == data());
}

#[test]
fn a_node_whose_server_lacks_extensions_is_served_without_them() {
    let testbed = Testbed::new();
    let mut node = testbed.sshd_off("rpi1");
    // As OpenSSH's of some years ago: what is denied is not offered.
    let lacks = "posix-rename,hardlink,fsync,expand-path,copy-data,home-directory";
    node.configure(&format!("Match all\nForceCommand internal-sftp -P {lacks}\n"));
    node.start();
    let gateway = with_disk(&testbed, &node).start();
    let local = testbed.write("local", "content").display().to_string();
    let said = gateway
        .sftp(
            "rpi1",
            &format!(
                "put {local} /tmp/a\n\
                 rename /tmp/a /tmp/b\n\
                 put {local} /tmp/a\n\
                 -rename /tmp/a /tmp/b\n\
                 -ln /tmp/a /tmp/c\n\
                 put {local} /persist/a\n\
                 put {local} /persist/b\n\
                 rename /persist/a /persist/b\n\
                 ln /persist/b /persist/c\n\
                 ls -1 /tmp/a\n\
                 ls -1 /tmp/b\n\
                 put {local} in-home\n"
            ),
        )
        .run()
        .expect_success()
        .expect_stderr_with(&["rename", "Failure", "Operation unsupported"]);
    let listed = said.text();
    assert!(listed.contains("\n/tmp/a") && listed.contains("\n/tmp/b"), "{listed}");
    let back = testbed.path("back");
    for path in ["in-home", "~/in-home", "/root/in-home"] {
        let arguments = [&format!("REMOTE:{path}"), back.to_str().unwrap()];
        gateway.scp("rpi1", &arguments).run().expect_success();
        assert_eq!(fs::read_to_string(&back).unwrap(), "content");
        fs::remove_file(&back).unwrap();
    }
}

#[test]
fn a_dropbear_node_has_the_same_view() {
    let testbed = Testbed::new();
    let node = testbed.dropbear("rpi1");
    let gateway = with_disk(&testbed, &node).start();
    let local = testbed.write("local", "content").display().to_string();
    let batch = format!(
        "ls -1 /\nput {local} /persist/file\nput {local} /tmp/file\nls -l /etc/hostname\nls -la /persist\n"
    );
    gateway.sftp("rpi1", &batch).run().expect_success();
    assert_eq!(fs::read_to_string(disk(&testbed).join("file")).unwrap(), "content");
}
