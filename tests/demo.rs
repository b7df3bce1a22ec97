//! `waltgate demo`.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;

use support::gateway::WALTGATE;
use support::log::Log;
use support::process::{Process, bound_command};
use support::{Client, DEADLINE, Testbed, eventually};

/// A demonstration with temporary files in a directory of its own.
fn start(directory: &Path) -> (Process, Log) {
    fs::create_dir_all(directory).unwrap();
    let mut process = Process::spawn(
        bound_command(WALTGATE)
            .args(["demo", "--port", "0"])
            .env("TMPDIR", directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit()),
    );
    let output = Log::collect(process.stdout.take().unwrap());
    (process, output)
}

/// The first ssh line that it prints for `target`, as words.
#[track_caller]
fn printed_line(output: &Log, target: &str) -> Vec<String> {
    let line = output.wait_for(0, DEADLINE, |text| {
        let text = String::from_utf8_lossy(text);
        text.contains("ctrl-C").then(|| {
            let ending = format!(" {target}@localhost");
            text.lines().find(|line| line.ends_with(&ending)).map(str::to_owned)
        })
    });
    let line = line.flatten().unwrap_or_else(|| panic!("no line for {target}: {}", output.text()));
    line.split_whitespace().map(str::to_owned).collect()
}

/// Processes whose command line has `text`.
fn processes_with(text: &str) -> Vec<String> {
    let commands = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let command = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    });
    commands.filter(|command| command.contains(text)).collect()
}

#[test]
fn the_printed_lines_work_and_nothing_is_left_behind() {
    let testbed = Testbed::new();
    let config = testbed.write("ssh_config", "Host *\n    UserKnownHostsFile /dev/null\n");
    let directories = ["first", "second"].map(|name| testbed.path(name));
    // Two at the same time do not get into each other's way.
    let [first, second] = [start(&directories[0]), start(&directories[1])];

    for (_, output) in [&first, &second] {
        for (target, command, answer) in [
            ("rpi1", "hostname; ls -d /persist", "rpi1\n/persist\n"),
            ("rpi2", "hostname; ls -d /persist", "rpi2\n/persist\n"),
            ("image.demo-limited", "pwd; hostname", "/root\nimage-shell\n"),
            ("image.demo-os", "pwd; hostname", "/root\nimage-shell\n"),
        ] {
            let words = printed_line(output, target);
            assert_eq!(words[0], "ssh");
            let client = Client::plain("ssh", &config).arguments(&words[1..]);
            client.command(command).run().expect_success().expect_stdout(answer);
        }
    }

    for ((process, _), signal) in [(&first, Signal::INT), (&second, Signal::HUP)] {
        process.signal(signal);
        assert_eq!(process.wait(DEADLINE).and_then(|status| status.code()), Some(0));
    }
    for directory in &directories {
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0, "files in {directory:?}");
        let name = directory.to_str().unwrap();
        eventually("no process is left", || processes_with(name).is_empty());
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(name));
    }
}

#[test]
fn a_stop_while_it_prepares_leaves_nothing_behind() {
    let testbed = Testbed::new();
    let directory = testbed.path("demo");
    let (process, output) = start(&directory);
    let preparing = output.wait_for(0, DEADLINE, |text| (!text.is_empty()).then_some(()));
    assert!(preparing.is_some(), "it says nothing");

    process.signal(Signal::TERM);
    assert_eq!(process.wait(DEADLINE).and_then(|status| status.code()), Some(0));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    let name = directory.to_str().unwrap();
    eventually("no process is left", || processes_with(name).is_empty());
}

#[test]
fn a_killed_demonstration_leaves_no_process_and_the_next_one_removes_its_files() {
    let testbed = Testbed::new();
    let config = testbed.write("ssh_config", "Host *\n    UserKnownHostsFile /dev/null\n");
    let directory = testbed.path("demo");
    let (process, output) = start(&directory);
    let shell = printed_line(&output, "image.demo-limited");
    let client = Client::plain("ssh", &config).arguments(&shell[1..]).command("sleep 1000").start();
    let name = directory.to_str().unwrap();
    eventually("the command runs", || processes_with("sleep 1000").len() > 1);
    process.signal(Signal::KILL);
    process.wait(DEADLINE);
    client.finish();
    eventually("no process is left", || processes_with(name).is_empty());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(name));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);

    let (process, output) = start(&directory);
    let shell = printed_line(&output, "image.demo-limited");
    Client::plain("ssh", &config).arguments(&shell[1..]).command("pwd").run().expect_success();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    process.signal(Signal::INT);
    assert_eq!(process.wait(DEADLINE).and_then(|status| status.code()), Some(0));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}
