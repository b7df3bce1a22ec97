//! Extensions that the far side has, and what becomes of a request for one that it has not.
//!
//! The client is offered what the near side has, before anybody knows what is on the far one.

use std::collections::HashSet;

use crate::sftp::request::{Extension, Request, kind};
use crate::sftp::server::answer;
use crate::sftp::wire::{Reader, Writer};

/// Names in the greeting of a server.
pub(super) struct Offers(HashSet<Vec<u8>>);

/// What the far side is asked.
pub(super) enum Asked {
    /// What the client asks.
    AsIs,
    /// This packet, with its length, which comes to the same.
    As(Vec<u8>),
    /// Nothing: it does not have this extension.
    Lacking(&'static str),
}

impl Offers {
    /// Reads a greeting without its length; `None`: it is none.
    pub(super) fn read(greeting: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(greeting);
        if reader.byte().ok()? != answer::VERSION {
            return None;
        }
        reader.uint32().ok()?;
        let mut names = HashSet::new();
        while let (Ok(name), Ok(_)) = (reader.string(), reader.string()) {
            names.insert(name.to_owned());
        }
        Some(Self(names))
    }

    /// What to ask for a request of the client's.
    pub(super) fn asked(&self, id: u32, request: &Request<'_>) -> Asked {
        let Request::Extended(extension) = request else { return Asked::AsIs };
        let Some(name) = extension.name().filter(|name| !self.0.contains(name.as_bytes())) else {
            return Asked::AsIs;
        };
        match extension {
            // It fails where something would be replaced.
            Extension::PosixRename { from, to } => Asked::As(packet(kind::RENAME, id, &[from, to])),
            // Relative paths start at home.
            Extension::ExpandPath { path } => match *path {
                b"~" | b"~/" => Asked::As(packet(kind::REALPATH, id, &[&b"."[..]])),
                [b'~', b'/', rest @ ..] => {
                    let start = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
                    Asked::As(packet(
                        kind::REALPATH,
                        id,
                        &[&[b"./".as_slice(), &rest[start..]].concat()],
                    ))
                }
                [b'~', ..] => Asked::Lacking(name),
                path => Asked::As(packet(kind::REALPATH, id, &[path])),
            },
            _ => Asked::Lacking(name),
        }
    }
}

fn packet(kind: u8, id: u32, paths: &[&[u8]]) -> Vec<u8> {
    let mut packet = Writer::answer(kind, id);
    for path in paths {
        packet.string(path);
    }
    packet.finish()
}
