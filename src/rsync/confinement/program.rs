//! rsync and what the kernel and its dynamic linker need to start it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// The program's name, where it is looked for and where it is put.
const RSYNC: &str = "rsync";
/// The dynamic linker's name where it is put.
const LINKER: &str = "linker";
/// Where programs are, if nobody says.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// ELF: offsets in the header of a file and in one of a segment (64-bit), elf(5).
const SEGMENTS_AT: usize = 32;
const SEGMENT_SIZE_AT: usize = 54;
const SEGMENT_COUNT_AT: usize = 56;
const PT_INTERP: u32 = 3;
/// Longer paths are none.
const LONGEST_PATH: u64 = 4096;

/// How the program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It needs nothing.
    Static,
    /// The dynamic linker loads it.
    Linked,
}

impl Start {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Linked => "linked",
        }
    }

    /// The program, in the working directory.
    pub(super) fn command(self) -> Command {
        use std::os::unix::process::CommandExt;
        let own = format!("./{RSYNC}");
        let mut command = match self {
            Self::Static => Command::new(own),
            Self::Linked => {
                let mut linker = Command::new(format!("./{LINKER}"));
                linker.args(["--library-path", ".", &own]);
                linker
            }
        };
        command.arg0(RSYNC);
        command
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Static, Self::Linked]
            .into_iter()
            .find(|start| start.as_str() == text)
            .ok_or_else(|| "neither static nor linked".to_owned())
    }
}

/// The program and its libraries.
pub(super) struct Program {
    /// Names, and the files that are to have them.
    pub(super) files: Vec<(String, PathBuf)>,
    linker: Option<PathBuf>,
}

impl Program {
    /// Looks for it where this process would.
    pub(super) fn find() -> io::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
        let found = std::env::split_paths(&path)
            .map(|directory| directory.join(RSYNC))
            .find(|file| file.is_file())
            .ok_or_else(|| io::Error::other("rsync is not installed on the gateway's machine"))?;
        let unusable = |why: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {why}; rsync cannot be shut in", found.display()))
        };
        let linker = linker(&found).map_err(|error| unusable(&error))?;
        let mut files = vec![(RSYNC.to_owned(), found.clone())];
        if let Some(linker) = &linker {
            files.push((LINKER.to_owned(), linker.clone()));
            let listed = Command::new(linker).arg("--list").arg(&found).env_clear().output()?;
            if !listed.status.success() {
                return Err(unusable(&"the dynamic linker does not list its libraries"));
            }
            files.extend(libraries(&String::from_utf8_lossy(&listed.stdout)));
        }
        Ok(Self { files, linker })
    }

    pub(super) fn start(&self) -> Start {
        if self.linker.is_some() { Start::Linked } else { Start::Static }
    }
}

/// Names and files in a list that ld.so(8) makes: `NAME => FILE (ADDRESS)`.
fn libraries(listed: &str) -> Vec<(String, PathBuf)> {
    let library = |line: &str| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let file = rest.rsplit_once(" (").map_or(rest, |(file, _)| file);
        let is_name = !name.contains('/') && name != RSYNC && name != LINKER;
        (is_name && file.starts_with('/')).then(|| (name.to_owned(), PathBuf::from(file)))
    };
    listed.lines().filter_map(library).collect()
}

/// The program's interpreter, elf(5); `None`: it has none.
fn linker(program: &Path) -> io::Result<Option<PathBuf>> {
    let mut file = File::open(program)?;
    let mut header = [0; 64];
    file.read_exact(&mut header)?;
    // A 64-bit file in the order of this machine's bytes, as it can run.
    let order = if cfg!(target_endian = "little") { 1 } else { 2 };
    if header[..6] != [0x7f, b'E', b'L', b'F', 2, order] {
        return Err(io::Error::other("not a 64-bit ELF program"));
    }
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let segments = u64_at(&header, SEGMENTS_AT);
    let (size, count) = (half(SEGMENT_SIZE_AT), half(SEGMENT_COUNT_AT));
    let mut segment = [0; 56];
    for index in 0..u64::from(count) {
        let at = segments.saturating_add(index * u64::from(size));
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut segment)?;
        let kind = u32::from_ne_bytes([segment[0], segment[1], segment[2], segment[3]]);
        if kind != PT_INTERP {
            continue;
        }
        // p_offset and p_filesz.
        file.seek(SeekFrom::Start(u64_at(&segment, 8)))?;
        let mut path = String::new();
        let length = u64_at(&segment, 32).min(LONGEST_PATH);
        file.take(length).read_to_string(&mut path)?;
        return Ok(Some(PathBuf::from(path.trim_end_matches('\0'))));
    }
    Ok(None)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_lists_of_glibc_and_musl() {
        let glibc = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/libz.so.1 (0x00007f)\n\
                     \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let musl = "\t/lib/ld-musl-x86_64.so.1 (0x7f)\n\tlibz.so.1 => /lib/libz.so.1 (0x7f)\n";
        for listed in [glibc, musl] {
            assert_eq!(libraries(listed), [("libz.so.1".to_owned(), "/lib/libz.so.1".into())]);
        }
        assert_eq!(libraries("\tlibx.so => not found\n\t/x/liby.so => /x/liby.so (0x7f)\n"), []);
    }

    #[test]
    fn the_interpreter_of_a_program_is_found() {
        let own = linker(Path::new("/proc/self/exe")).unwrap().unwrap();
        assert!(own.is_file(), "{}", own.display());
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), "#!/bin/sh\nexec /usr/bin/rsync \"$@\"\n".repeat(9)).unwrap();
        assert!(linker(script.path()).is_err());
    }
}
