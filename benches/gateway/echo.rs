//! A keystroke, from the terminal to the program on the node and back.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use crate::Effort;
use crate::routes::{Bed, Route};
use crate::table::{Table, Values, quantile};

/// A session in which everything typed comes back once.
struct Typist {
    child: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    milliseconds: Vec<f64>,
}

impl Typist {
    fn log_in(bed: &Bed, route: Route) -> Self {
        let mut child = bed
            .ssh(route, &["-tt", "-e", "none"], &["stty raw -echo; echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let keys = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"ready\n") {
            let mut byte = [0];
            screen.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        Self { child, keys, screen, milliseconds: Vec::new() }
    }

    fn press_a_key(&mut self) {
        let started = Instant::now();
        self.keys.write_all(b"x").unwrap();
        let mut echo = [0];
        self.screen.read_exact(&mut echo).unwrap();
        self.milliseconds.push(started.elapsed().as_secs_f64() * 1000.0);
    }
}

pub(crate) fn measure(bed: &Bed, effort: &Effort, table: &mut Table) {
    let mut typists = Route::ALL.map(|route| Typist::log_in(bed, route));
    for _ in 0..effort.rounds * 300 {
        typists.iter_mut().for_each(Typist::press_a_key);
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let [direct, jump, gateway] =
            [0, 1, 2].map(|index| Some(quantile(&typists[index].milliseconds, share)));
        table.add(format!("keystroke echo, {name}"), "ms", Values { direct, jump, gateway });
    }
    for Typist { mut child, keys, screen, .. } in typists {
        drop((keys, screen));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
