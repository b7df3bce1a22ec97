//! Files into images and out of them, with stock clients. The images have nothing but busybox.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_protocol;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use russh::{ChannelMsg, client};
use rustix::process::{Pid, Signal, kill_process};
use support::process::bound_command;
use support::{Engine, Gateway, Image, Testbed, eventually};
use support_protocol::{PlayedClient, next};

/// 2001-02-03: nothing is that old by itself.
const OLD: u64 = 981_158_400;
const FOUR_GIB: u64 = 4 << 30;

fn gateway(testbed: &Testbed, engine: &Engine) -> Gateway {
    testbed.gateway().engine(engine).start()
}

/// Runs a command in a new container of what was saved.
#[track_caller]
fn in_image(gateway: &Gateway, image: &Image<'_>, command: &str) -> String {
    gateway.ssh(&image.user()).command(command).run().expect_success().text()
}

#[track_caller]
fn expect_no_container(image: &Image<'_>) {
    eventually("no container is left", || !image.has_containers());
}

/// Files of all sizes, modes, ages and names.
fn tree(testbed: &Testbed) -> PathBuf {
    let top = testbed.path("tree");
    fs::create_dir_all(top.join("deep/er/and deeper")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    let names: [&[u8]; 7] = [
        b"plain",
        b" two  spaces ",
        "\u{e9}\u{1f600}".as_bytes(),
        b"latin \xe9\xff",
        b"quote'\"$(x)*[a]?\\",
        b"-dash",
        b"tab\tesc\x1b",
    ];
    for (number, name) in names.iter().enumerate() {
        let file = top.join("deep").join(OsStr::from_bytes(name));
        fs::write(&file, name.repeat(number * 1000)).unwrap();
    }
    let long = "n".repeat(255);
    fs::write(top.join("deep/er").join(&long), "long").unwrap();
    let data: Vec<u8> = (0..3_000_001_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(top.join("large"), data).unwrap();
    for (name, mode) in [("run", 0o755), ("secret", 0o600), ("shared", 0o664), ("suid", 0o4711)] {
        fs::write(top.join(name), name).unwrap();
        fs::set_permissions(top.join(name), Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(top.join("empty"), Permissions::from_mode(0o750)).unwrap();
    for name in ["run", "large"] {
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(OLD);
        let file = File::options().write(true).open(top.join(name)).unwrap();
        file.set_times(FileTimes::new().set_modified(old)).unwrap();
    }
    top
}

/// What is in a tree: kind and mode, age, content.
fn content(top: &Path) -> BTreeMap<Vec<u8>, (u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::metadata(&path).unwrap();
            let data = if metadata.is_dir() {
                directories.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(top).unwrap().to_owned().into_os_string().into_vec();
            found.insert(name, (metadata.mode(), metadata.mtime(), data));
        }
    }
    found
}

#[test]
fn trees_are_copied_in_and_out_with_both_of_scps_protocols() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let tree = tree(&testbed);
    let before = content(&tree);

    for protocol in ["-O", "-s"] {
        let there = format!("REMOTE:copy{protocol}");
        let arguments = [protocol, "-r", "-p", tree.to_str().unwrap(), &there];
        gateway.scp(&image.user(), &arguments).run().expect_success();
        let back = testbed.path(format!("back{protocol}"));
        let arguments = [protocol, "-r", "-p", &there, back.to_str().unwrap()];
        gateway.scp(&image.user(), &arguments).run().expect_success();
        let after = content(&back);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (name, file) in &before {
            let mut file = file.clone();
            if protocol == "-s" {
                // This client sends no other bits.
                file.0 &= !0o7000;
            }
            assert!(after[name] == file, "{protocol} {:?}", String::from_utf8_lossy(name));
        }
        // Nothing of it is the client's own.
        let owners = format!("find /root/copy{protocol} ! -user 0 -o ! -group 0");
        assert_eq!(in_image(&gateway, &image, &owners), "");
    }
    expect_no_container(&image);
}

#[test]
fn new_files_are_made_as_roots_programs_make_them() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let tree = tree(&testbed);
    let file = |name| tree.join(name).display().to_string();

    for protocol in ["-O", "-s"] {
        for name in ["run", "secret", "shared"] {
            let there = format!("REMOTE:/tmp/{name}{protocol}");
            gateway.scp(&image.user(), &[protocol, &file(name), &there]).run().expect_success();
        }
        let modes =
            format!("cd /tmp; stat -c '%a %u %g' run{protocol} secret{protocol} shared{protocol}");
        assert_eq!(in_image(&gateway, &image, &modes), "755 0 0\n600 0 0\n644 0 0\n");
    }
    gateway.sftp(&image.user(), "mkdir /tmp/made\n").run().expect_success();
    assert_eq!(in_image(&gateway, &image, "stat -c %a /tmp/made"), "755\n");
}

#[test]
fn sftp_does_all_that_its_client_can_ask_for() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let local = testbed.write("file", "content");
    let back = testbed.path("back");

    let batch = format!(
        "pwd\nput {} a\nrename a b\nln -s b link\nln b hard\nchmod 640 b\nchown 12 b\nchgrp 34 b\n\
         cp b copied\nmkdir d\ncd d\nput {} ../d/x\ncd ..\nls -l d\nls -ln b\nls -la /root\ndf /\n\
         get link {}\nrm hard\nrmdir /tmp/../root/../var/log\n",
        local.display(),
        local.display(),
        back.display()
    );
    let said = gateway.sftp(&image.user(), &batch).run().expect_success();
    let text = said.text();
    assert!(text.contains("Remote working directory: /root"), "{said:?}");
    assert!(text.contains("-rw-r-----    ? 12       34              7 "), "{said:?}");
    assert!(text.contains("root     root"), "{said:?}");
    assert_eq!(fs::read_to_string(back).unwrap(), "content");
    let listed = "cd /root; stat -c '%n %a %u %g %F' *; readlink link; cat copied d/x; echo /var/*";
    assert_eq!(
        in_image(&gateway, &image, listed),
        "b 640 12 34 regular file\ncopied 640 0 0 regular file\nd 755 0 0 directory\n\
         link 777 0 0 symbolic link\nb\ncontentcontent/var/*\n"
    );
    expect_no_container(&image);
}

#[test]
fn files_past_four_gib_are_resumed_both_ways_and_holes_take_no_space() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let tail: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8 + 1).collect();
    let sparse = |name: &str, tail: &[u8]| {
        let path = testbed.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(FOUR_GIB + 5).unwrap();
        file.write_all_at(tail, FOUR_GIB + 5).unwrap();
        path.display().to_string()
    };
    let (local, back) = (sparse("local", &tail), sparse("back", b""));

    // All in one container: saving files of this size takes an engine long.
    let socket = testbed.path("mux").display().to_string();
    let control = format!("ControlPath={socket}");
    let first = gateway
        .ssh(&image.user())
        .option(&["-o", "ControlMaster=yes", "-o", &control])
        .command(&format!("truncate -s {} big; echo made; cat; exit 1", FOUR_GIB + 5))
        .start();
    first.expect_stdout("made\n");
    let sftp = |batch: String| {
        gateway.sftp_with(&image.user(), &["-o", &control], &batch).run().expect_success()
    };
    sftp(format!("reput {local} big\n"));
    sftp(format!("reget big {back}\n"));
    assert_eq!(fs::metadata(&back).unwrap().len(), FOUR_GIB + 5 + 300_000);
    let mut end = vec![0; tail.len()];
    File::open(&back).unwrap().read_exact_at(&mut end, FOUR_GIB + 5).unwrap();
    assert!(end == tail);

    // Zeros that come over the network are not stored.
    let zeros = testbed.write("zeros", vec![0; 40 << 20]).display().to_string();
    for protocol in ["-O", "-s"] {
        let arguments = [protocol, "-o", &control, &zeros, "REMOTE:zeros"];
        gateway.scp(&image.user(), &arguments).run().expect_success();
        let stat = gateway.ssh(&image.user()).option(&["-o", &control]);
        let said = stat.command("stat -c '%s %b' zeros; rm zeros").run().expect_success().text();
        let (size, blocks) = said.trim().split_once(' ').unwrap();
        assert_eq!(size, "41943040");
        assert!(blocks.parse::<u32>().unwrap() < 1000, "{said}");
    }
    first.finish().expect_code(1);
}

#[test]
fn wildcards_of_the_older_protocol_are_those_of_a_shell() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    in_image(&gateway, &image, "mkdir 'a b'; touch 'a b/x.c' 'a b/y.c' 'a b/z.h' 'a b/.h.c'");

    let here = testbed.path("here");
    fs::create_dir(&here).unwrap();
    let said = ["-O", "REMOTE:~/a\\ b/*.[ch]", here.to_str().unwrap()];
    gateway.scp(&image.user(), &said).run().expect_success();
    let mut names: Vec<_> = fs::read_dir(&here).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["x.c", "y.c", "z.h"]);

    let said = ["-O", "REMOTE:none*", here.to_str().unwrap()];
    let said = gateway.scp(&image.user(), &said).run().expect_code(1);
    assert_eq!(said.stderr, "scp: none*: No such file or directory\n");
}

#[test]
fn a_transfer_that_fails_saves_nothing_and_says_so() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let tree = tree(&testbed);
    in_image(&gateway, &image, "mkdir t; mkdir t/tree; echo file >t/tree/deep");

    let arguments = ["-O", "-r", tree.to_str().unwrap(), "REMOTE:t"];
    let said = gateway.scp(&image.user(), &arguments).run().expect_code(1);
    assert!(said.stderr.contains("scp: t/tree/deep: Not a directory\n"), "{said:?}");
    assert!(said.stderr.contains("was not saved"), "{said:?}");
    assert_eq!(in_image(&gateway, &image, "ls t/tree"), "deep\n");
    expect_no_container(&image);
}

#[test]
fn an_upload_that_breaks_is_not_saved() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let large = testbed.write("large", vec![7; 8 << 20]).display().to_string();
    let begun = |protocol| {
        let slowly = [protocol, "-l", "2000", &large, "REMOTE:/root/broken"];
        let upload = gateway.scp(&image.user(), &slowly).start();
        eventually("the upload has begun", || {
            let containers = engine.containers_of(&image);
            matches!(containers.as_slice(), [container]
                if engine.changes_in(container).contains("/root/broken"))
        });
        upload
    };

    for protocol in ["-O", "-s"] {
        // Its ssh ends in good order, in the middle of the file.
        begun(protocol).process.kill();
        expect_no_container(&image);
        assert_eq!(in_image(&gateway, &image, "ls"), "");

        // The network is gone.
        let upload = begun(protocol);
        let [container] = engine.containers_of(&image).try_into().unwrap();
        let pid = upload.process.pid();
        let ssh = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        kill_process(Pid::from_raw(ssh.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        gateway.wait_until_idle();
        let said = gateway.ssh("walt").command("unsaved").run().expect_success();
        assert!(said.text().contains(image.name()), "{said:?}");
        let discard = format!("discard {}", &container[..12]);
        gateway.ssh("walt").command(&discard).run().expect_success();
        assert_eq!(in_image(&gateway, &image, "ls"), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_its_channel_behind_its_last_answer_is_not_lost() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let client = PlayedClient::connect(&gateway, &image.user(), client::Config::default()).await;
    let mut channel = client.session().await;
    channel.request_subsystem(true, "sftp").await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Success)));
    let greeting: &[u8] = &[0, 0, 0, 5, 1, 0, 0, 0, 3];
    channel.data(greeting).await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Data { .. })));
    // SSH_FXP_MKDIR
    let request: &[u8] = b"\0\0\0\x15\x0e\0\0\0\x01\0\0\0\x08/etc/new\0\0\0\0";
    channel.data(request).await.unwrap();
    assert!(matches!(next(&mut channel).await, Some(ChannelMsg::Data { .. })));
    // It waits for nothing more.
    channel.eof().await.unwrap();
    channel.close().await.unwrap();
    gateway.expect_log("image saved");
    assert_eq!(in_image(&gateway, &image, "ls -d /etc/new"), "/etc/new\n");
}

#[test]
fn links_in_an_image_stay_inside_it() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let outside = testbed.write("outside/secret", "the host's");
    let directory = outside.parent().unwrap().display().to_string();
    in_image(
        &gateway,
        &image,
        &format!(
            "echo inside >/etc/hostname.txt; ln -s {directory} out; \
             ln -s ../../../../../../../../../../..{directory} dots; ln -s /proc/1/root root; \
             ln -s /proc/self/root self; ln -s /etc/hostname.txt name; ln -s /proc/self/fd/3 fd"
        ),
    );
    let here = testbed.path("here").display().to_string();
    let file = testbed.write("file", "new").display().to_string();
    for protocol in ["-O", "-s"] {
        for there in ["out", "dots", &format!("root{directory}"), &format!("self{directory}"), "fd"]
        {
            let secret = format!("REMOTE:{there}/secret");
            gateway.scp(&image.user(), &[protocol, &secret, &here]).run().expect_code(1);
            assert!(!Path::new(&here).exists());
            let planted = format!("REMOTE:{there}/planted");
            gateway.scp(&image.user(), &[protocol, &file, &planted]).run().expect_code(1);
        }
        gateway.scp(&image.user(), &[protocol, "REMOTE:name", &here]).run().expect_success();
        assert_eq!(fs::read_to_string(&here).unwrap(), "inside\n");
        fs::remove_file(&here).unwrap();
    }
    let outside: Vec<_> = fs::read_dir(&directory).unwrap().collect();
    assert_eq!(outside.len(), 1);
}

#[test]
fn devices_and_pipes_and_the_kernels_files_are_not_opened() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    in_image(&gateway, &image, "mkfifo pipe; ln -s pipe link");
    let here = testbed.path("here").display().to_string();
    let file = testbed.write("file", "new").display().to_string();
    for protocol in ["-O", "-s"] {
        for there in ["pipe", "link", "/dev/zero", "/proc/kmsg", "/proc/sys/kernel/hostname"] {
            let there = format!("REMOTE:{there}");
            gateway.scp(&image.user(), &[protocol, &there, &here]).run().expect_code(1);
            gateway.scp(&image.user(), &[protocol, &file, &there]).run().expect_code(1);
        }
    }
    expect_no_container(&image);
}

#[test]
fn two_thousand_small_files_arrive_and_are_saved_once() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let many = testbed.path("many");
    fs::create_dir(&many).unwrap();
    for number in 0..2000 {
        fs::write(many.join(format!("file-{number}")), number.to_string()).unwrap();
    }
    let local = many.display().to_string();
    for protocol in ["-O", "-s"] {
        let there = format!("REMOTE:many{protocol}");
        gateway.scp(&image.user(), &[protocol, "-r", &local, &there]).run().expect_success();
        let sum = format!("cd many{protocol}; ls | wc -l; cat * | md5sum");
        let expected = Command::new("sh")
            .args(["-c", "cd \"$0\"; ls | wc -l; LC_ALL=C; cat * | md5sum", &local])
            .output()
            .unwrap();
        assert_eq!(
            in_image(&gateway, &image, &sum),
            String::from_utf8_lossy(&expected.stdout).into_owned()
        );
    }
    let own = image.owned_by("guest");
    let saves = engine.history(&own).len();
    assert_eq!(saves, 3);
}

#[test]
fn rsync_runs_in_the_image_or_is_said_to_be_missing() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let file = testbed.write("file", "new").display().to_string();
    let rsync = || {
        let ssh = format!(
            "ssh -F {} -p {}",
            testbed.path("ssh_config").display(),
            gateway.address().port()
        );
        let there = format!("{}@{}:/root/", image.user(), gateway.address().ip());
        bound_command("rsync").args(["-e", &ssh, &file, &there]).output().unwrap()
    };
    let said = rsync();
    assert!(!said.status.success());
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert!(stderr.contains(&format!("image {} has no rsync", image.name())), "{stderr}");

    in_image(
        &gateway,
        &image,
        "printf '#!/bin/sh\\ntouch /root/ran\\n' >/usr/bin/rsync; chmod +x /usr/bin/rsync",
    );
    rsync();
    assert_eq!(in_image(&gateway, &image, "ls /root"), "ran\n");
}

#[test]
fn files_and_shells_of_one_connection_share_a_container() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let file = testbed.write("file", "shared").display().to_string();
    let socket = testbed.path("mux").display().to_string();
    let control = format!("ControlPath={socket}");

    let mut shell = gateway
        .ssh(&image.user())
        .option(&["-o", "ControlMaster=yes", "-o", &control])
        .on_terminal();
    shell.expect("# ");
    gateway.scp(&image.user(), &["-o", &control, &file, "REMOTE:arrived"]).run().expect_success();
    shell.send("cat arrived; rm arrived\r");
    shell.expect("\nshared");
    shell.send("exit\r");
    shell.wait();
    expect_no_container(&image);
}

#[test]
fn lftp_mirrors_both_ways() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let tree = tree(&testbed);
    let back = testbed.path("back");
    let lftp = |command: String| {
        let ssh = format!("ssh -a -x -F {}", testbed.path("ssh_config").display());
        let (host, port) = (gateway.address().ip(), gateway.address().port());
        let script = format!(
            "set sftp:auto-confirm yes; set sftp:connect-program \"{ssh}\"; set net:max-retries 1; \
             open -p {port} sftp://{}:@{host}; {command}; bye",
            image.user()
        );
        let lftp = bound_command("lftp")
            .args(["--norc", "-c", &script])
            .env("HOME", testbed.path("home"))
            .output()
            .unwrap();
        assert!(lftp.status.success(), "{}", String::from_utf8_lossy(&lftp.stderr));
        gateway.wait_until_idle();
    };

    lftp(format!("mirror -R {} /root/mirrored", tree.display()));
    // It ends its ssh by a signal, which may come before the end of its input: then whether it was
    // done is the user's to say.
    let unsaved = gateway.ssh("walt").command("unsaved").run().expect_success().text();
    if let Some(id) = unsaved.split_whitespace().find(|word| is_id(word)) {
        let save = format!("save {id} {}", image.name());
        gateway.ssh("walt").command(&save).run().expect_success();
    }
    assert_eq!(in_image(&gateway, &image, "find mirrored | wc -l"), "18\n");
    lftp(format!("mirror /root/mirrored {}", back.display()));
    let names = |tree| content(tree).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&tree), names(&back));
}

fn is_id(word: &str) -> bool {
    word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn an_image_is_mounted_with_sshfs() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let gateway = gateway(&testbed, &engine);
    let here = testbed.path("mounted");
    fs::create_dir(&here).unwrap();
    let there = format!("{}@{}:/root", image.user(), gateway.address().ip());
    let config = testbed.path("ssh_config").display().to_string();
    let port = gateway.address().port().to_string();
    let sshfs =
        bound_command("sshfs").args(["-F", &config, "-p", &port, &there]).arg(&here).output();
    let sshfs = sshfs.unwrap();
    assert!(sshfs.status.success(), "{}", String::from_utf8_lossy(&sshfs.stderr));
    fs::create_dir(here.join("d")).unwrap();
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 253) as u8).collect();
    fs::write(here.join("d/data"), &data).unwrap();
    fs::rename(here.join("d/data"), here.join("data")).unwrap();
    assert!(fs::read(here.join("data")).unwrap() == data);
    assert!(bound_command("fusermount3").arg("-u").arg(&here).status().unwrap().success());
    gateway.wait_until_idle();
    assert_eq!(in_image(&gateway, &image, "find . -type f | xargs wc -c"), "5000000 ./data\n");
}

#[test]
fn uploads_stop_where_the_disk_of_a_container_ends_and_save_nothing() {
    let testbed = Testbed::new();
    let engine = Engine::connect();
    let image = engine.image("guest", "limited");
    let tables = "[image_defaults]\ndisk = \"8M\"";
    let gateway = testbed.gateway().engine(&engine).tables(tables).start();
    let large = testbed.path("large");
    // Not zeros: those would be a hole.
    fs::write(&large, [7; 4096].repeat(3 << 10)).unwrap();
    let large = large.to_str().unwrap();
    let hole = testbed.path("hole");
    File::create(&hole).unwrap().set_len(64 << 20).unwrap();

    let user = image.user();
    for client in [
        gateway.scp(&user, &[large, "REMOTE:"]),
        gateway.scp(&user, &["-O", large, "REMOTE:"]),
        gateway.scp(&user, &["-O", hole.to_str().unwrap(), "REMOTE:"]),
        gateway.sftp(&user, &format!("put {large}\n")),
    ] {
        let copied = client.run().expect_code(1);
        assert!(copied.stderr.contains("Disk quota exceeded"), "{copied:?}");
        assert!(copied.stderr.contains("was not saved"), "{copied:?}");
    }
    assert_eq!(in_image(&gateway, &image, "ls /root"), "");

    // What fits is taken as ever.
    let small = testbed.write("small", [7; 4096].repeat(1 << 10));
    gateway.scp(&user, &[small.to_str().unwrap(), "REMOTE:"]).run().expect_success();
    assert_eq!(in_image(&gateway, &image, "wc -c </root/small"), "4194304\n");
    expect_no_container(&image);
}
