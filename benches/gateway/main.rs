//! How the gateway compares with a direct OpenSSH connection and with a jump through OpenSSH.
//!
//! All routes lead to the same node and are measured in one run, taking turns, so that a busy
//! machine slows all of them alike: the ratios are the result. `docs/performance.md` says what
//! each line means; `make bench` runs it, `make bench GROUPS="bulk echo"` a part of it.

#![allow(missing_docs, reason = "a program, not an interface")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails ends the run")]

mod bulk;
mod connections;
mod echo;
mod files;
mod persist;
mod routes;
mod sessions;
mod setup;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

use std::process::ExitCode;

use routes::Bed;
use table::Table;

/// A part of the benchmark: what it is called on the command line, and what fills its rows.
type Group = (&'static str, fn(&Bed, &Effort, &mut Table));

const GROUPS: [Group; 7] = [
    ("setup", setup::measure),
    ("echo", echo::measure),
    ("bulk", bulk::measure),
    ("files", files::measure),
    ("persist", persist::measure),
    ("sessions", sessions::measure),
    ("connections", connections::measure),
];

/// How much is measured.
pub(crate) struct Effort {
    /// How often each thing is measured on each route; the median counts.
    pub(crate) rounds: usize,
    /// Bytes of one bulk transfer.
    pub(crate) bulk_bytes: u64,
}

fn main() -> ExitCode {
    // cargo adds "--bench".
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut effort = Effort { rounds: 5, bulk_bytes: 512 << 20 };
    let mut wanted = Vec::new();
    for argument in &arguments {
        match argument.as_str() {
            "--quick" => effort = Effort { rounds: 3, bulk_bytes: 128 << 20 },
            "--full" => effort = Effort { rounds: 7, bulk_bytes: 1 << 30 },
            name if GROUPS.iter().any(|(group, _)| *group == name) => wanted.push(name),
            other => {
                let groups = GROUPS.map(|(name, _)| name).join(", ");
                eprintln!(
                    "unknown argument {other:?}; groups are {groups}, options --quick, --full"
                );
                return ExitCode::from(64);
            }
        }
    }
    let bed = Bed::new();
    let mut table = Table::new();
    for (name, measure) in GROUPS {
        if wanted.is_empty() || wanted.contains(&name) {
            eprintln!("measuring: {name}");
            measure(&bed, &effort, &mut table);
        }
    }
    println!("{}\n\n{table}", routes::machine());
    ExitCode::SUCCESS
}
