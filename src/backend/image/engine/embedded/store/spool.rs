//! An image archive whose parts may come in any order, also through a pipe: it is kept on disk
//! while it is read, and its parts are found by name then.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::blobs::NewBlob;
use super::compression;
use super::error::{During, StoreError};
use super::tar::{Archive, EntryKind};

const WHAT: &str = "the archive";
/// Documents in an archive are refused past this.
const LARGEST_DOCUMENT: u64 = 16 << 20;
/// Old versions of `docker save` have links from layer to layer.
const MOST_LINKS: usize = 40;

/// An archive on disk.
pub(super) struct Spool {
    content: NewBlob,
    parts: HashMap<PathBuf, Part>,
}

enum Part {
    /// From here on, as many bytes.
    Content(u64, u64),
    /// What another one is.
    Link(PathBuf),
}

impl Spool {
    /// Reads an archive, compressed or not, to its end; `content` takes it as it is without
    /// compression.
    pub(super) fn fill(
        mut content: NewBlob,
        archive: impl Read + Send,
    ) -> Result<Self, StoreError> {
        let mut parts = HashMap::new();
        let read = || {
            let (plain, _) = compression::reader(archive)?;
            let mut archive = Archive::new(Copying { source: plain, copy: &mut content });
            while let Some(entry) = archive.next_entry()? {
                let path = normal(Path::new(""), path_of(&entry.path));
                let part = match &entry.kind {
                    EntryKind::File => Part::Content(archive.position(), entry.size),
                    EntryKind::SymbolicLink(target) => {
                        Part::Link(normal(path.parent().unwrap_or(&path), path_of(target)))
                    }
                    EntryKind::HardLink(target) => {
                        Part::Link(normal(Path::new(""), path_of(target)))
                    }
                    _ => continue,
                };
                parts.insert(path, part);
            }
            archive.finish().map(drop)
        };
        read().map_err(|error: io::Error| match error.kind() {
            // What the libraries of compression say of damaged content.
            ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
                StoreError::invalid(WHAT, error)
            }
            ErrorKind::Other if error.raw_os_error().is_none() => StoreError::invalid(WHAT, error),
            _ => StoreError::system("reading the archive into the image store", error),
        })?;
        Ok(Self { content, parts })
    }

    /// Whether there are files in it.
    pub(super) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Of its plain content, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        self.content.digest()
    }

    /// Its plain content.
    pub(super) fn whole(&self) -> Section<'_> {
        Section { file: self.content.file(), at: 0, left: self.content.size() }
    }

    /// A part's content, `None` when there is no such part.
    pub(super) fn part(&self, name: &str) -> Result<Option<Section<'_>>, StoreError> {
        let mut path = normal(Path::new(""), Path::new(name));
        for _ in 0..MOST_LINKS {
            match self.parts.get(&path) {
                None => return Ok(None),
                Some(Part::Link(target)) => path.clone_from(target),
                Some(Part::Content(at, left)) => {
                    return Ok(Some(Section { file: self.content.file(), at: *at, left: *left }));
                }
            }
        }
        Err(StoreError::invalid(WHAT, format!("{name} is a link in a circle")))
    }

    /// A part's content; the archive is damaged without it.
    pub(super) fn required(&self, name: &str) -> Result<Section<'_>, StoreError> {
        self.part(name)?
            .ok_or_else(|| StoreError::invalid(WHAT, format!("{name} is missing from it")))
    }

    /// The whole of a small part, `None` when there is no such part.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut part) = self.part(name)? else { return Ok(None) };
        if part.left > LARGEST_DOCUMENT {
            return Err(StoreError::invalid(WHAT, format!("{name} is larger than 16 MiB")));
        }
        let mut content = Vec::new();
        part.read_to_end(&mut content).during("reading", Path::new(name))?;
        Ok(Some(content))
    }

    /// The same; the archive is damaged without it.
    pub(super) fn required_document(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.document(name)?
            .ok_or_else(|| StoreError::invalid(WHAT, format!("{name} is missing from it")))
    }
}

/// Some bytes of a file.
pub(super) struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Keeps a copy of what is read.
struct Copying<'a, R> {
    source: R,
    copy: &'a mut NewBlob,
}

impl<R: Read> Read for Copying<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..read])?;
        Ok(read)
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// The name of a part, without `.` and `..`.
fn normal(directory: &Path, path: &Path) -> PathBuf {
    let mut normal = directory.to_owned();
    for component in path.components() {
        match component {
            Component::RootDir => normal.clear(),
            Component::ParentDir => {
                normal.pop();
            }
            Component::Normal(name) => normal.push(name),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}
