//! Packets in a stream of bytes.

use bytes::{Bytes, BytesMut};

/// The longest packet without its length field, as in OpenSSH.
pub(super) const MOST_BYTES: u32 = 256 * 1024;

/// The stream makes no sense any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A packet of no length.
    #[error("an empty packet came")]
    Empty,
    /// A packet longer than any client may send.
    #[error("a packet of {0} bytes came, the limit is {MOST_BYTES}")]
    TooLong(u32),
}

/// Takes packets out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Frames {
    /// What came first: taken apart where it is.
    whole: Bytes,
    /// A packet that came in pieces. Empty as long as `whole` is not.
    buffer: BytesMut,
}

impl Frames {
    /// More of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.whole.is_empty() {
            self.buffer.extend_from_slice(&std::mem::take(&mut self.whole));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The same, without copying what holds whole packets.
    pub fn feed_owned(&mut self, bytes: Bytes) {
        if self.has_part() {
            self.feed(&bytes);
        } else {
            self.whole = bytes;
        }
    }

    /// The next packet without its length, if it is complete. Its first byte is its type.
    ///
    /// # Errors
    /// A length that cannot be one; nothing behind it can be understood.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FramingError> {
        Ok(self.next_with_length()?.map(|packet| packet.slice(4..)))
    }

    /// The next packet with its length in front, if it is complete.
    ///
    /// # Errors
    /// A length that cannot be one; nothing behind it can be understood.
    pub fn next_with_length(&mut self) -> Result<Option<Bytes>, FramingError> {
        let came = if self.whole.is_empty() { &self.buffer[..] } else { &self.whole[..] };
        let Some(length) = came.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        match length {
            0 => return Err(FramingError::Empty),
            1..=MOST_BYTES => {}
            _ => return Err(FramingError::TooLong(length)),
        }
        let end = 4 + length as usize;
        if came.len() < end {
            return Ok(None);
        }
        if !self.whole.is_empty() {
            return Ok(Some(self.whole.split_to(end)));
        }
        Ok(Some(self.buffer.split_to(end).freeze()))
    }

    /// Whether a part of a packet is waiting for the rest.
    pub fn has_part(&self) -> bool {
        !self.whole.is_empty() || !self.buffer.is_empty()
    }

    /// Takes out what is no whole packet.
    pub(super) fn take_rest(&mut self) -> Bytes {
        let whole = std::mem::take(&mut self.whole);
        if whole.is_empty() { self.buffer.split().freeze() } else { whole }
    }
}
