//! What an idle session costs in memory, on the server that the client is connected to.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};

use crate::Effort;
use crate::routes::{Bed, Route};
use crate::table::{Table, Values};

const SESSIONS: usize = 200;

pub(crate) fn measure(bed: &Bed, _effort: &Effort, table: &mut Table) {
    let gateway = per_session(bed, Route::Gateway, bed.gateway.pid());
    let direct = per_session(bed, Route::Direct, bed.node.pid());
    table.add(
        format!("memory of an idle session, of {SESSIONS}"),
        "KiB",
        Values { direct: Some(direct), gateway: Some(gateway), jump: None },
    );
}

/// KiB by which the process and its descendants grow with each session.
fn per_session(bed: &Bed, route: Route, server: u32) -> f64 {
    // What is only paid once is paid before.
    let first = idle_session(bed, route);
    let before = memory_of_tree(server);
    let sessions: Vec<Child> = (0..SESSIONS).map(|_| idle_session(bed, route)).collect();
    let grown = memory_of_tree(server) - before;
    for mut session in sessions.into_iter().chain([first]) {
        session.kill().unwrap();
        session.wait().unwrap();
    }
    grown / SESSIONS as f64
}

fn idle_session(bed: &Bed, route: Route) -> Child {
    let mut child = bed
        .ssh(route, &[], &["echo ready; exec sleep 600"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    child
}

/// KiB of a process and its descendants; pages that several share count in parts (proc(5), Pss).
/// The sessions' own programs are left out: they run whoever the server is.
fn memory_of_tree(pid: u32) -> f64 {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim() == "sleep" {
        return 0.0;
    }
    let own = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let own: f64 = own
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
        });
    own + children.map(memory_of_tree).sum::<f64>()
}
