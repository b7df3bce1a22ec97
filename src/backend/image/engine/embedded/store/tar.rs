//! Reading tar archives: ustar, pax and GNU's, entry by entry.

use std::io::{self, ErrorKind, Read};

use tar_core::parse::{Limits, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, HEADER_SIZE, PaxExtensions, SparseEntry};

/// As much as is read at once.
const PIECE: usize = 64 << 10;
/// Longer paths cannot be made, path_resolution(7).
const LONGEST_PATH: u32 = 4096;

/// One entry's header, with the extended headers before it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As it is in the archive: nobody has checked it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions, with the set-user-ID, set-group-ID and sticky bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u64,
    /// Its group.
    pub gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (u64, u32),
    /// Bytes of content that follow.
    pub size: u64,
    /// Extended attributes, xattr(7).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A regular file with holes: the content goes to these places (offset, length) of a file of
    /// this size.
    Sparse(Vec<(u64, u64)>, u64),
    /// A directory.
    Directory,
    /// Another name for an earlier entry's file.
    HardLink(Vec<u8>),
    /// A symbolic link.
    SymbolicLink(Vec<u8>),
    /// A character device.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// Something that this program does not know, by its type flag.
    Unknown(u8),
}

/// An archive that is being read.
pub struct Archive<R> {
    source: R,
    parser: Parser,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were used.
    used: usize,
    /// Bytes that were read of the source.
    read: u64,
    /// What is left of the current entry's content, and of the padding behind it.
    content: u64,
    padding: u64,
}

impl<R: Read> Archive<R> {
    /// Begins at the first entry.
    pub fn new(source: R) -> Self {
        let limits = Limits { max_path_len: Some(LONGEST_PATH), ..Limits::default() };
        let mut parser = Parser::new(limits);
        parser.set_allow_empty_path(true);
        Self { source, parser, buffer: Vec::new(), used: 0, read: 0, content: 0, padding: 0 }
    }

    /// The next entry; what was not read of the one before is passed over.
    ///
    /// # Errors
    /// That the source fails or is no such archive.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        io::copy(&mut self.content(), &mut io::sink())?;
        self.skip_padding()?;
        loop {
            // Clean: archives without an end marker exist.
            if self.buffer.len() == self.used && !self.fill(1)? {
                return Ok(None);
            }
            let parsed = self.parser.parse(&self.buffer[self.used..]).map_err(invalid)?;
            let (entry, consumed) = match parsed {
                ParseEvent::NeedData { min_bytes } => {
                    if !self.fill(min_bytes)? {
                        let rest = &self.buffer[self.used..];
                        // One block of zeros where there should be two.
                        if rest.len() == HEADER_SIZE && rest.iter().all(|byte| *byte == 0) {
                            return Ok(None);
                        }
                        return Err(io::Error::new(ErrorKind::UnexpectedEof, "it is cut off"));
                    }
                    continue;
                }
                ParseEvent::Entry { consumed, entry } => (of_parsed(&entry, None)?, consumed),
                ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                    (of_parsed(&entry, Some((&sparse_map, real_size)))?, consumed)
                }
                ParseEvent::GlobalExtensions { consumed, .. } => {
                    self.used += consumed;
                    continue;
                }
                ParseEvent::End { consumed } => {
                    self.used += consumed;
                    return Ok(None);
                }
            };
            self.used += consumed;
            self.content = entry.size;
            self.padding = entry.size.next_multiple_of(HEADER_SIZE as u64) - entry.size;
            return Ok(Some(entry));
        }
    }

    /// The current entry's content, from where it was read to.
    pub fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Where in the source the next byte of content is.
    pub fn position(&self) -> u64 {
        self.read - (self.buffer.len() - self.used) as u64
    }

    /// Reads what comes behind the last entry, and returns the source.
    ///
    /// # Errors
    /// That the source fails.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(self.source)
    }

    fn skip_padding(&mut self) -> io::Result<()> {
        let padding =
            usize::try_from(std::mem::take(&mut self.padding)).map_err(io::Error::other)?;
        if self.buffer.len() - self.used < padding && !self.fill(padding)? {
            // The last entry's padding may be missing like the end marker.
            self.used = self.buffer.len();
            return Ok(());
        }
        self.used += padding;
        Ok(())
    }

    /// Reads until so many unused bytes are there; false: the source ended before.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        self.used = 0;
        while self.buffer.len() < wanted {
            let missing = wanted.saturating_sub(self.buffer.len()).max(PIECE) as u64;
            match self.source.by_ref().take(missing).read_to_end(&mut self.buffer)? {
                0 => return Ok(false),
                read => self.read += read as u64,
            }
        }
        Ok(true)
    }
}

/// The content of an entry.
pub struct Content<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let archive = &mut *self.0;
        let most = usize::try_from(archive.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let buffered = &archive.buffer[archive.used..];
        let read = if buffered.is_empty() {
            let read = archive.source.read(&mut buffer[..most])?;
            archive.read += read as u64;
            read
        } else {
            let read = most.min(buffered.len());
            buffer[..read].copy_from_slice(&buffered[..read]);
            archive.used += read;
            read
        };
        if read == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "it is cut off"));
        }
        archive.content -= read as u64;
        Ok(read)
    }
}

fn of_parsed(entry: &ParsedEntry<'_>, sparse: Option<(&[SparseEntry], u64)>) -> io::Result<Entry> {
    let link = || entry.link_target.as_deref().unwrap_or_default().to_vec();
    let device = || (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0));
    let kind = match (sparse, entry.entry_type) {
        (Some((map, size)), _) => {
            EntryKind::Sparse(map.iter().map(|part| (part.offset, part.length)).collect(), size)
        }
        // Archives of before 1988 know a directory by the slash only, tar(5).
        (None, EntryType::Regular | EntryType::Continuous) if entry.path.ends_with(b"/") => {
            EntryKind::Directory
        }
        (None, EntryType::Regular | EntryType::Continuous) => EntryKind::File,
        (None, EntryType::Directory) => EntryKind::Directory,
        (None, EntryType::Link) => EntryKind::HardLink(link()),
        (None, EntryType::Symlink) => EntryKind::SymbolicLink(link()),
        (None, EntryType::Char) => {
            let (major, minor) = device();
            EntryKind::CharacterDevice(major, minor)
        }
        (None, EntryType::Block) => {
            let (major, minor) = device();
            EntryKind::BlockDevice(major, minor)
        }
        (None, EntryType::Fifo) => EntryKind::Fifo,
        (None, other) => EntryKind::Unknown(other.to_byte()),
    };
    let xattrs = entry.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    Ok(Entry {
        path: entry.path.to_vec(),
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: (entry.mtime, nanoseconds(entry)),
        size: entry.size,
        xattrs,
    })
}

/// The fraction of the pax header's mtime.
fn nanoseconds(entry: &ParsedEntry<'_>) -> u32 {
    let fraction = entry.pax.and_then(|pax| {
        let time = PaxExtensions::new(pax)
            .filter_map(Result::ok)
            .filter(|record| record.key_bytes() == b"mtime")
            .last()?;
        let (_, fraction) = time.value().ok()?.split_once('.')?;
        let nine: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        nine.parse().ok()
    });
    fraction.unwrap_or(0)
}

fn invalid(error: tar_core::parse::ParseError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not a tar archive: {error}"))
}
