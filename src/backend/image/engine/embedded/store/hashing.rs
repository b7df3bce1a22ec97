//! The digest of what passes by.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::blobs::hex;

/// Reads from, or writes to, another stream and keeps the SHA-256 of what came through.
pub(super) struct Hashing<S> {
    stream: S,
    hash: Sha256,
}

impl<S> Hashing<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, hash: Sha256::new() }
    }

    /// The stream, and the digest in hexadecimal.
    pub(super) fn finish(self) -> (S, String) {
        (self.stream, hex(&self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(data)?;
        self.hash.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
