//! Other people's programs, each on a node and on an image that has nothing but busybox. What
//! passes is what docs/clients.md says.

#![allow(clippy::unwrap_used, reason = "a set-up that fails fails the test")]

mod support;
mod support_clients;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Engine, Testbed, eventually};
use support_clients::Ability::{Command as Commands, Files, Forward, Terminal};
use support_clients::{
    Bed, PERSIST, Place, Trial, files, forwards, has_a_terminal, runs_a_command, script, succeeds,
    version,
};

fn openssh(place: &Place<'_>, program: &str) -> Command {
    let mut command = place.bed.command(program);
    command.args(place.bed.openssh_options());
    command.args([if program == "ssh" { "-p" } else { "-P" }, &place.bed.port()]);
    command
}

#[test]
fn openssh_ssh() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let ssh = |place: &Place<'_>| {
        let mut ssh = openssh(place, "ssh");
        ssh.arg(place.destination());
        ssh
    };
    Trial::of("OpenSSH ssh", &version("ssh", "-V", "OpenSSH"), Bed::new(&testbed, &engine))
        .can(Commands, |place| runs_a_command(ssh(place)))
        .can(Terminal, |place| has_a_terminal(&mut ssh(place)))
        .can(Forward, |place| forwards(place, openssh(place, "ssh")))
        .finish();
}

#[test]
fn openssh_ssh_with_a_shared_connection() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let control = format!("ControlPath={}", testbed.path("%r").display());
    let ssh = |place: &Place<'_>| {
        let mut ssh = openssh(place, "ssh");
        ssh.args(["-o", &control, "-o", "ControlMaster=auto", "-o", "ControlPersist=60"]);
        ssh
    };
    let with = |place: &Place<'_>| {
        let mut ssh = ssh(place);
        ssh.arg(place.destination());
        ssh
    };
    let end = |place: &Place<'_>| {
        let mut ssh = ssh(place);
        ssh.args(["-O", "exit", &place.destination()]);
        succeeds(ssh, "");
    };
    Trial::of("OpenSSH ssh, ControlMaster", &version("ssh", "-V", "OpenSSH"), bed)
        .can(Commands, |place| {
            runs_a_command(with(place));
            runs_a_command(with(place));
            end(place);
        })
        .can(Terminal, |place| {
            runs_a_command(with(place));
            has_a_terminal(&mut with(place));
            end(place);
        })
        .finish();
}

#[test]
fn openssh_scp() {
    scp("OpenSSH scp", "scp", None);
}

#[test]
fn openssh_scp_with_the_older_protocol() {
    scp("OpenSSH scp -O", "scp-old", Some("-O"));
}

fn scp(program: &str, name: &str, option: Option<&str>) {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    both_ways(program, &version("ssh", "-V", "OpenSSH"), name, bed, |place, from, to| {
        let mut scp = openssh(place, "scp");
        scp.args(option).args([from, to]);
        succeeds(scp, "");
    });
}

#[test]
fn openssh_sftp() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let sftp = |place: &Place<'_>, line: &str| {
        let mut sftp = openssh(place, "sftp");
        sftp.args(["-b", "-", &place.destination()]);
        succeeds(sftp, line);
    };
    let trial = |place: &Place<'_>| {
        files(
            place,
            "sftp",
            |here, there| sftp(place, &format!("put -p {here} {there}\nls -l {there}\n")),
            |there, here| sftp(place, &format!("get -p {there} {here}\nrm {there}\n")),
        );
    };
    Trial::of("OpenSSH sftp", &version("ssh", "-V", "OpenSSH"), Bed::new(&testbed, &engine))
        .can(Files, trial)
        .finish();
}

/// A program that copies like cp, `user@host:path` standing for the other end.
fn both_ways(
    program: &str,
    version: &str,
    name: &str,
    bed: Bed<'_>,
    copy: impl Fn(&Place<'_>, &str, &str),
) {
    copies_on(&["node", PERSIST, "image"], program, version, name, bed, copy);
}

fn copies_on(
    places: &[&str],
    program: &str,
    version: &str,
    name: &str,
    bed: Bed<'_>,
    copy: impl Fn(&Place<'_>, &str, &str),
) {
    let trial = |place: &Place<'_>| {
        let remote = |path: &str| format!("{}:{path}", place.destination());
        files(
            place,
            name,
            |here, there| copy(place, here, &remote(there)),
            |there, here| copy(place, &remote(there), here),
        );
    };
    Trial::of(program, version, bed).can_on(places, Files, trial).finish();
}

/// How programs are told to start OpenSSH's ssh.
fn remote_shell(place: &Place<'_>) -> String {
    format!("ssh {} -p {}", place.bed.openssh_options().join(" "), place.bed.port())
}

#[test]
fn rsync() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    // The image has no rsync, and rsync needs one at the other end.
    copies_on(
        &["node", PERSIST],
        "rsync",
        &version("rsync", "-V", "rsync"),
        "rsync",
        bed,
        |place, from, to| {
            let mut rsync = place.bed.command("rsync");
            rsync.args(["-a", "-e", &remote_shell(place), from, to]);
            succeeds(rsync, "");
        },
    );
}

#[test]
fn lftp() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let lftp = |place: &Place<'_>, lines: &str| {
        let ssh = format!("{} -a -x", remote_shell(place));
        let start = format!("set sftp:connect-program \"{ssh}\"\nset net:max-retries 1\n");
        let open = format!("open -u {}, sftp://127.0.0.1\n", place.user);
        let name = format!("lftp-{}", lines.len());
        let commands = script(place, &name, &format!("{start}{open}{lines}\n"));
        let mut lftp = place.bed.command("lftp");
        lftp.arg("-f").arg(commands);
        succeeds(lftp, "");
    };
    let trial = |place: &Place<'_>| {
        files(
            place,
            "lftp",
            |here, there| lftp(place, &format!("put {here} -o {there}")),
            |there, here| lftp(place, &format!("get {there} -o {here}")),
        );
    };
    Trial::of("lftp", &version("lftp", "--version", "Version"), Bed::new(&testbed, &engine))
        .can(Files, trial)
        .finish();
}

#[test]
fn sshfs() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    if !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: there is no /dev/fuse");
        return;
    }
    let mounted = |place: &Place<'_>, work: &dyn Fn(&Path)| {
        let here = testbed.path("mount");
        fs::create_dir_all(&here).unwrap();
        let mut sshfs = place.bed.command("sshfs");
        sshfs.args(place.bed.openssh_options().chunks(2).flat_map(|option| {
            let [name, value] = option else { unreachable!("options come in pairs") };
            [name.clone(), value.clone()]
        }));
        sshfs.args(["-p", &place.bed.port()]);
        sshfs.arg(format!("{}:{}", place.destination(), place.directory)).arg(&here);
        succeeds(sshfs, "");
        work(&here);
        let mut unmount = Command::new("fusermount");
        unmount.arg("-u").arg(&here);
        succeeds(unmount, "");
        eventually("the file system is gone", || fs::read_dir(&here).unwrap().next().is_none());
    };
    let trial = |place: &Place<'_>| {
        let name = |there: &str| Path::new(there).file_name().unwrap().to_owned();
        files(
            place,
            "sshfs",
            |here, there| {
                mounted(place, &|mount| {
                    fs::copy(here, mount.join(name(there))).unwrap();
                });
            },
            |there, here| {
                mounted(place, &|mount| {
                    fs::copy(mount.join(name(there)), here).unwrap();
                });
            },
        );
    };
    Trial::of("sshfs", &version("sshfs", "-V", "SSHFS"), Bed::new(&testbed, &engine))
        .can(Files, trial)
        .finish();
}

#[test]
fn dropbear_dbclient() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let key = bed.dropbear_key();
    let client = |place: &Place<'_>| {
        let mut client = place.bed.command("dbclient");
        client.args(["-y", "-y", "-i", &key, "-p", &place.bed.port()]);
        client
    };
    let with = |place: &Place<'_>| {
        let mut client = client(place);
        client.arg(place.destination());
        client
    };
    Trial::of("dropbear dbclient", &version("dbclient", "-V", "Dropbear"), bed)
        .can(Commands, |place| runs_a_command(with(place)))
        .can(Terminal, |place| has_a_terminal(&mut with(place)))
        .can(Forward, |place| forwards(place, client(place)))
        .finish();
}

#[test]
fn dropbear_scp() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let key = bed.dropbear_key();
    // Debian's dropbear comes without its scp, which is OpenSSH's of old: that of today with
    // dbclient underneath speaks the same.
    let shell = format!("#!/bin/sh\nexec dbclient -y -y -i {key} \"$@\"\n");
    let shell = testbed.write("shell", shell);
    support::process::run_tool(Command::new("chmod").arg("755").arg(&shell));
    let shell = shell.display().to_string();
    let version = version("dbclient", "-V", "Dropbear");
    both_ways("scp -O -S dbclient", &version, "dbscp", bed, |place, from, to| {
        let mut scp = place.bed.command("scp");
        scp.args(["-O", "-S", &shell, "-P", &place.bed.port(), from, to]);
        succeeds(scp, "");
    });
}

fn putty(place: &Place<'_>, program: &str, key: &str) -> Command {
    let mut command = place.bed.command(program);
    command.args(["-batch", "-hostkey", &place.bed.fingerprint(), "-i", key]);
    command.args(["-P", &place.bed.port()]);
    command
}

#[test]
fn putty_plink() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let key = bed.putty_key();
    let with = |place: &Place<'_>| {
        let mut plink = putty(place, "plink", &key);
        plink.arg(place.destination());
        plink
    };
    Trial::of("PuTTY plink", &version("plink", "-V", "plink"), bed)
        .can(Commands, |place| runs_a_command(with(place)))
        .can(Terminal, |place| has_a_terminal(&mut with(place)))
        .can(Forward, |place| forwards(place, putty(place, "plink", &key)))
        .finish();
}

#[test]
fn putty_pscp() {
    pscp("PuTTY pscp", "pscp", "-sftp");
}

#[test]
fn putty_pscp_with_the_older_protocol() {
    pscp("PuTTY pscp -scp", "pscp-old", "-scp");
}

fn pscp(program: &str, name: &str, protocol: &str) {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let key = bed.putty_key();
    both_ways(program, &version("pscp", "-V", "pscp"), name, bed, |place, from, to| {
        let mut pscp = putty(place, "pscp", &key);
        pscp.args([protocol, from, to]);
        succeeds(pscp, "");
    });
}

#[test]
fn putty_psftp() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let key = bed.putty_key();
    let psftp = |place: &Place<'_>, line: &str| {
        let commands = script(place, "psftp-commands", &format!("{line}\nquit\n"));
        let mut psftp = putty(place, "psftp", &key);
        psftp.arg("-b").arg(commands).arg(place.destination());
        succeeds(psftp, "");
    };
    let trial = |place: &Place<'_>| {
        files(
            place,
            "psftp",
            |here, there| psftp(place, &format!("put {here} {there}")),
            |there, here| psftp(place, &format!("get {there} {here}")),
        );
    };
    Trial::of("PuTTY psftp", &version("psftp", "-V", "psftp"), bed).can(Files, trial).finish();
}

/// Debian's own: a Python found first may lack what Debian's has.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn paramiko() {
    let (testbed, engine) = (Testbed::new(), Engine::connect());
    let bed = Bed::new(&testbed, &engine);
    let program = testbed.write("client.py", include_str!("support_clients/paramiko_client.py"));
    let client = |place: &Place<'_>, what: &str| {
        let mut client = place.bed.command(PYTHON);
        client.arg(&program).args([&place.bed.port(), &place.user, &place.bed.key(), what]);
        client
    };
    let trial = |place: &Place<'_>| {
        let transfer = |what: &str, from: &str, to: &str| {
            let mut client = client(place, what);
            client.args([from, to]);
            succeeds(client, "");
        };
        files(
            place,
            "paramiko",
            |here, there| transfer("put", here, there),
            |there, here| transfer("get", there, here),
        );
    };
    let version = support::process::run_tool(
        Command::new(PYTHON).args(["-c", "import paramiko; print(paramiko.__version__)"]),
    );
    Trial::of("paramiko", &version, bed)
        .can(Commands, |place| runs_a_command(client(place, "run")))
        .can(Files, trial)
        .can(Forward, |place| {
            if place.is_image() {
                let mut client = client(place, "serve");
                client.args(["echo forwarded | nc -l -p 8000", "8000"]);
                succeeds(client, "").expect_stdout("forwarded\n");
            } else {
                let mut client = client(place, "serve");
                client.args(["sleep 60", &support_clients::talker().port().to_string()]);
                succeeds(client, "").expect_stdout("forwarded\n");
            }
        })
        .finish();
}
