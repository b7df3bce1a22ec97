//! The data types of the protocol, RFC 4251 section 5.

use super::request::Malformed;

/// Reads a packet from its front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// What was not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn uint32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn uint64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.uint32()? as usize;
        let (string, rest) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = rest;
        Ok(string)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*array)
    }
}

/// A packet that is being made; its length is filled in at the end.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An answer of a kind to the request of an identifier.
    pub(super) fn answer(kind: u8, id: u32) -> Self {
        let mut writer = Self::packet(kind);
        writer.uint32(id);
        writer
    }

    /// A packet without an identifier.
    pub(super) fn packet(kind: u8) -> Self {
        Self { bytes: vec![0, 0, 0, 0, kind] }
    }

    /// A part of a packet.
    pub(super) fn part() -> Self {
        Self { bytes: Vec::new() }
    }

    /// The bytes of a part.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn uint32(&mut self, value: u32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn uint64(&mut self, value: u64) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn string(&mut self, string: &[u8]) {
        self.uint32(length(string.len()));
        self.bytes.extend(string);
    }

    /// Replaces a number that was written before, `at` bytes into the packet.
    pub(super) fn set_uint32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// The bytes so far, for a system call to append to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = length(self.bytes.len() - 4);
        self.set_uint32(0, len);
        self.bytes
    }
}

/// Nothing that is sent is anywhere near this bound.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
