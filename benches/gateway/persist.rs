//! /persist from the gateway's disk, beside the node's own sshd (OpenSSH's internal-sftp) on the same
//! directory, and beside the same copy through the node.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Effort;
use crate::routes::{Bed, FROM_DISK, Route, expect_success, seconds};
use crate::table::{Table, Values, median};

const SMALL_FILES: usize = 2000;
const SMALL_BYTES: usize = 4096;
const ENTRIES: usize = 50_000;

/// What serves the files.
#[derive(Clone, Copy)]
enum Server {
    OpenSsh,
    Gateway,
    GatewayThroughNode,
}

impl Server {
    const ALL: [Self; 3] = [Self::OpenSsh, Self::Gateway, Self::GatewayThroughNode];

    fn route(self) -> (Route, &'static [&'static str]) {
        match self {
            Self::OpenSsh => (Route::Direct, &[]),
            Self::Gateway => (Route::Gateway, &["-o", FROM_DISK]),
            Self::GatewayThroughNode => (Route::Gateway, &[]),
        }
    }
}

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    large_file(bed, effort, table);
    small_files(bed, effort, table);
    long_list(bed, effort, table);
}

fn large_file(bed: &Bed, effort: &Effort, table: &mut Table) {
    let megabytes = effort.bulk_bytes as f64 / 1e6;
    let source = bed.directory("persist-files").join("large");
    // No zeros: they would be stored as holes.
    let mut file = File::create(&source).unwrap();
    let block: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8 + 1).collect();
    for _ in 0..effort.bulk_bytes >> 20 {
        file.write_all(&block).unwrap();
    }
    drop(file);
    let there = bed.node.persist().join("large");
    let put = by_turns(effort.rounds, |server| {
        fs::remove_file(&there).ok();
        let commands = format!("put {} /persist/large\n", source.display());
        megabytes / batch(bed, server, &commands)
    });
    add(table, "sftp put of one large file to /persist", "MB/s", put);
    let get = by_turns(effort.rounds, |server| {
        megabytes / batch(bed, server, "get /persist/large /dev/null\n")
    });
    add(table, "sftp get of one large file from /persist", "MB/s", get);
    let rsync = |server, from: &str, to: &str| megabytes / rsync(bed, server, &["-W", from, to]);
    let put = by_turns(effort.rounds, |server| {
        fs::remove_file(&there).ok();
        rsync(server, &source.display().to_string(), "REMOTE:/persist/large")
    });
    add(table, "rsync of one large file to /persist", "MB/s", put);
    let fetched = bed.directory("persist-files").join("fetched");
    let get = by_turns(effort.rounds, |server| {
        fs::remove_file(&fetched).ok();
        rsync(server, "REMOTE:/persist/large", &fetched.display().to_string())
    });
    add(table, "rsync of one large file from /persist", "MB/s", get);
    fs::remove_file(fetched).unwrap();
    fs::remove_file(there).unwrap();
    fs::remove_file(source).unwrap();
}

fn small_files(bed: &Bed, effort: &Effort, table: &mut Table) {
    let source = bed.directory("persist-small");
    for index in 0..SMALL_FILES {
        fs::write(source.join(format!("{index}")), [b'x'; SMALL_BYTES]).unwrap();
    }
    // Each copy makes a new directory: where files were just removed, making others takes a file
    // system much longer than copying them.
    let mut made = 0;
    let mut next = || {
        made += 1;
        format!("small-{made}")
    };
    let up = by_turns(effort.rounds, |server| {
        let to = format!("REMOTE:/persist/{}", next());
        copy(bed, server, &source.display().to_string(), &to)
    });
    add(table, format!("scp -r of {SMALL_FILES} files of 4 KiB to /persist"), "s", up);
    let fetched = bed.directory("persist-fetched");
    let down = by_turns(effort.rounds, |server| {
        let target = fetched.join(next());
        copy(bed, server, "REMOTE:/persist/small-1", &target.display().to_string())
    });
    add(table, format!("scp -r of {SMALL_FILES} files of 4 KiB from /persist"), "s", down);
    let from = format!("{}/", source.display());
    let up = by_turns(effort.rounds, |server| {
        rsync(bed, server, &["-a", &from, &format!("REMOTE:/persist/{}", next())])
    });
    add(table, format!("rsync -a of {SMALL_FILES} files of 4 KiB to /persist"), "s", up);
    let down = by_turns(effort.rounds, |server| {
        let target = fetched.join(next()).display().to_string();
        rsync(bed, server, &["-a", "REMOTE:/persist/small-1/", &target])
    });
    add(table, format!("rsync -a of {SMALL_FILES} files of 4 KiB from /persist"), "s", down);
    for directory in [fetched, bed.node.persist()] {
        for entry in fs::read_dir(directory).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }
}

fn long_list(bed: &Bed, effort: &Effort, table: &mut Table) {
    let many = bed.node.persist().join("many");
    fs::create_dir(&many).unwrap();
    for index in 0..ENTRIES {
        File::create(many.join(format!("entry-{index}"))).unwrap();
    }
    let times = by_turns(effort.rounds, |server| batch(bed, server, "ls -l /persist/many\n"));
    add(table, format!("sftp ls -l of {ENTRIES} entries in /persist"), "s", times);
    fs::remove_dir_all(&many).unwrap();
}

/// Two rows: from disk, and through the node.
fn add(table: &mut Table, what: impl Into<String>, unit: &'static str, medians: [f64; 3]) {
    let [openssh, gateway, through_node] = medians.map(Some);
    table.add(what, unit, Values { direct: openssh, jump: None, gateway });
    let values = Values { direct: openssh, jump: None, gateway: through_node };
    table.add("the same through the node", unit, values);
}

fn by_turns(rounds: usize, mut measure: impl FnMut(Server) -> f64) -> [f64; 3] {
    let mut samples = Server::ALL.map(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (server, samples) in Server::ALL.into_iter().zip(&mut samples) {
            samples.push(measure(server));
        }
    }
    samples.map(|samples| median(&samples))
}

fn batch(bed: &Bed, server: Server, commands: &str) -> f64 {
    let (route, options) = server.route();
    let mut command: Command = bed.sftp_with(route, options);
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let took = started.elapsed().as_secs_f64();
    expect_success(&command, &output);
    took
}

fn rsync(bed: &Bed, server: Server, arguments: &[&str]) -> f64 {
    let (route, options) = server.route();
    seconds(&mut bed.rsync(route, options, arguments))
}

fn copy(bed: &Bed, server: Server, from: &str, to: &str) -> f64 {
    let (route, options) = server.route();
    let options = [&["-r"], options].concat();
    seconds(&mut bed.scp(route, &options, &[from.to_owned(), to.to_owned()]))
}
