//! What is kept of a container on disk: a directory each.
//!
//! ```text
//! containers/ID/container.json   what it is made of; written once
//! containers/ID/exit.json        how process 1 last ended
//! containers/ID/signalled        there, if a signal was sent to it
//! containers/ID/lock             locked as long as its supervisor lives
//! containers/ID/{upper,work}     its files on top of the image's, for overlayfs
//! containers/ID/init             mount points that the image lacks, below `upper`
//! containers/ID/{merged,run}     mount points; empty but in the supervisor's mount namespace
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::ContainerNetwork;

/// What a container is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its name.
    pub(super) name: String,
    /// Identifier of its image.
    pub(super) image_id: String,
    /// Unpacked layers of the image, the lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// When it was made.
    pub(super) created: SystemTime,
    /// Its labels, the image's among them.
    pub(super) labels: BTreeMap<String, String>,
    /// Process 1 and its arguments.
    pub(super) argv: Vec<String>,
    /// `NAME=VALUE`, the image's own first.
    pub(super) env: Vec<String>,
    /// Working directory.
    pub(super) working_dir: String,
    /// Host name.
    pub(super) hostname: String,
    /// Process 1 has a terminal.
    pub(super) tty: bool,
    /// Process 1 has a standard input.
    pub(super) stdin: bool,
    /// Bytes of memory.
    pub(super) memory: Option<u64>,
    /// Number of processes.
    pub(super) pids: Option<u64>,
    /// Thousandths of a processor.
    pub(super) cpus: Option<u32>,
    /// Its network.
    #[serde(deserialize_with = "network")]
    pub(super) network: ContainerNetwork,
    /// Files of the host, mounted read-only: source, path inside.
    pub(super) read_only_binds: Vec<(PathBuf, String)>,
    /// Process 1 is an init.
    pub(super) boots_an_os: bool,
}

/// Earlier versions wrote whether there is one.
fn network<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ContainerNetwork, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Whether(bool),
        Which(ContainerNetwork),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Whether(true) => ContainerNetwork::Own,
        Written::Whether(false) => ContainerNetwork::Loopback,
        Written::Which(network) => network,
    })
}

/// How process 1 ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    /// 128+n after signal n.
    pub(super) code: u32,
    /// A signal ended it, which inside the container nobody can send.
    pub(super) by_signal: bool,
    /// When.
    pub(super) at: SystemTime,
}

const RECORD: &str = "container.json";
const EXIT: &str = "exit.json";
const SIGNALLED: &str = "signalled";
const LOCK: &str = "lock";
/// Starts the names of directories that are being made or removed.
const HALF: char = '.';

/// The directory of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// The directory at this path.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory of a container that exists.
    pub(super) fn of(containers: &Path, id: &str) -> io::Result<Self> {
        let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let path = containers.join(id);
        if !is_id || !path.is_dir() {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(Self(path))
    }

    /// Makes a directory with this record; it is there whole or not at all.
    pub(super) fn create(containers: &Path, id: &str, record: &Record) -> io::Result<Self> {
        fs::create_dir_all(containers)?;
        let half = containers.join(format!("{HALF}{id}"));
        fs::create_dir(&half)?;
        for name in ["upper", "work", "init", "init-work", "merged", "run"] {
            fs::create_dir(half.join(name))?;
        }
        File::create(half.join(LOCK))?;
        fs::write(half.join(RECORD), serde_json::to_vec(record)?)?;
        let whole = containers.join(id);
        fs::rename(&half, &whole)?;
        Ok(Self(whole))
    }

    /// Removes it with all that is in it. No supervisor may live.
    pub(super) fn remove(&self, containers: &Path, id: &str) -> io::Result<()> {
        let half = containers.join(format!("{HALF}{id}"));
        match fs::rename(&self.0, &half) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        fs::remove_dir_all(&half)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the container's own files are.
    pub(super) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Where its files are mounted, in its supervisor's mount namespace.
    pub(super) fn merged(&self) -> PathBuf {
        self.0.join("merged")
    }

    /// Reads what it is made of.
    pub(super) fn record(&self) -> io::Result<Record> {
        Ok(serde_json::from_slice(&fs::read(self.0.join(RECORD))?)?)
    }

    /// How process 1 last ended, `None` if it never ran.
    pub(super) fn exit(&self) -> io::Result<Option<Exit>> {
        match fs::read(self.0.join(EXIT)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes how process 1 ended.
    pub(super) fn note_exit(&self, exit: Exit) -> io::Result<()> {
        let new = self.0.join(format!("{EXIT}.new"));
        File::create(&new)?.write_all(&serde_json::to_vec(&exit)?)?;
        fs::rename(new, self.0.join(EXIT))
    }

    /// Notes that a signal was sent to it.
    pub(super) fn note_signal(&self) -> io::Result<()> {
        File::create(self.0.join(SIGNALLED)).map(drop)
    }

    /// Whether a signal was sent to it.
    pub(super) fn was_signalled(&self) -> io::Result<bool> {
        self.0.join(SIGNALLED).try_exists()
    }

    /// Takes the lock of a supervisor; `None`: another one has it. Held as long as the file is.
    pub(super) fn try_lock(&self) -> io::Result<Option<File>> {
        let file = File::open(self.0.join(LOCK))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock of a supervisor, after the one that has it. Blocks.
    pub(super) fn lock(&self) -> io::Result<File> {
        let file = File::open(self.0.join(LOCK))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                locked => return Ok(locked.map(|()| file)?),
            }
        }
    }
}

/// The identifiers of all containers.
pub(super) fn list(containers: &Path) -> io::Result<Vec<String>> {
    names(containers, |name| !name.starts_with(HALF))
}

/// Removes what an interrupted creation or removal left. Nobody else may use the directory.
pub(super) fn tidy(containers: &Path) -> io::Result<()> {
    for name in names(containers, |name| name.starts_with(HALF))? {
        fs::remove_dir_all(containers.join(name))?;
    }
    Ok(())
}

fn names(containers: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(containers) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && is_wanted(&name)
        {
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_earlier_versions_tell_whether_there_is_a_network() {
        let record = |network: &str| {
            let text = format!(
                r#"{{"name":"n","image_id":"i","layers":[],
                "created":{{"secs_since_epoch":0,"nanos_since_epoch":0}},"labels":{{}},"argv":[],
                "env":[],"working_dir":"/","hostname":"h","tty":false,"stdin":false,"memory":null,
                "pids":null,"network":{network},"read_only_binds":[],"boots_an_os":false}}"#
            );
            serde_json::from_str::<Record>(&text).unwrap()
        };
        for (written, network) in [
            ("true", ContainerNetwork::Own),
            ("false", ContainerNetwork::Loopback),
            ("\"host\"", ContainerNetwork::Host),
        ] {
            let read = record(written);
            assert_eq!(read.network, network);
            let again = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&again).unwrap(), read);
        }
    }
}
