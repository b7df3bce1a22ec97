//! Files: one large one by sftp, many small ones by scp.

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use crate::Effort;
use crate::routes::{Bed, Route, expect_success, medians, seconds};
use crate::table::Table;

const SMALL_FILES: usize = 2000;
const SMALL_BYTES: usize = 4096;

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    large_file(bed, effort, table);
    small_files(bed, table);
}

fn large_file(bed: &Bed, effort: &Effort, table: &mut Table) {
    let megabytes = effort.bulk_bytes as f64 / 1e6;
    let source = bed.directory("files").join("large");
    File::create(&source).unwrap().set_len(effort.bulk_bytes).unwrap();
    let source = source.display();
    let put = medians(effort.rounds, |route| {
        megabytes / batch(bed, route, &format!("put {source} /tmp/large\n"))
    });
    table.add("sftp put of one large file", "MB/s", put);
    let get =
        medians(effort.rounds, |route| megabytes / batch(bed, route, "get /tmp/large /dev/null\n"));
    table.add("sftp get of one large file", "MB/s", get);
    batch(bed, Route::Direct, "rm /tmp/large\n");
}

fn batch(bed: &Bed, route: Route, commands: &str) -> f64 {
    let mut command = bed.sftp(route);
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let took = started.elapsed().as_secs_f64();
    expect_success(&command, &output);
    took
}

fn small_files(bed: &Bed, table: &mut Table) {
    let source = bed.directory("small");
    for index in 0..SMALL_FILES {
        fs::write(source.join(format!("{index}")), [b'x'; SMALL_BYTES]).unwrap();
    }
    let up = medians(3, |route| {
        seconds(&mut bed.ssh(Route::Direct, &[], &["rm -rf /tmp/small"]));
        let arguments = [source.display().to_string(), "REMOTE:/tmp/small".to_owned()];
        seconds(&mut bed.scp(route, &["-r"], &arguments))
    });
    table.add(format!("scp -r of {SMALL_FILES} files of 4 KiB, up"), "s", up);
    let down = medians(3, |route| {
        let target = bed.directory("fetched");
        fs::remove_dir_all(&target).unwrap();
        let arguments = ["REMOTE:/tmp/small".to_owned(), target.display().to_string()];
        seconds(&mut bed.scp(route, &["-r"], &arguments))
    });
    table.add(format!("scp -r of {SMALL_FILES} files of 4 KiB, down"), "s", down);
}
