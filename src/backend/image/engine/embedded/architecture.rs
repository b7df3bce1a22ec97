//! CPU architectures, in Go's words.

use std::path::Path;

use crate::sftp::Root;

/// Programs that any image has one of. A plain tree of files does not tell its architecture in
/// other ways.
const PROGRAMS: [&str; 5] = ["/bin/sh", "/usr/bin/env", "/bin/busybox", "/bin/bash", "/sbin/init"];
/// e_machine of elf(5), for programs of 64 and of 32 bits of the lower byte first.
const MACHINES: [(u16, &str); 6] =
    [(62, "amd64"), (183, "arm64"), (40, "arm"), (3, "386"), (243, "riscv64"), (21, "ppc64le")];

/// That of this machine.
pub fn of_this_machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// That of the programs in a tree of files; this machine's where there are none.
pub(super) fn of_programs(tree: &Path) -> &'static str {
    let Ok(root) = Root::open(tree, b"/") else {
        return of_this_machine();
    };
    let known = PROGRAMS.iter().find_map(|path| {
        let beginning = root.read_file(path.as_bytes(), 20).ok()?;
        if !beginning.starts_with(b"\x7fELF") {
            return None;
        }
        let machine = u16::from_le_bytes([*beginning.get(18)?, *beginning.get(19)?]);
        MACHINES.iter().find(|(number, _)| *number == machine).map(|(_, name)| *name)
    });
    known.unwrap_or_else(of_this_machine)
}
