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
    buffer: BytesMut,
}

impl Frames {
    /// More of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next packet without its length, if it is complete. Its first byte is its type.
    ///
    /// # Errors
    /// A length that cannot be one; nothing behind it can be understood.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FramingError> {
        let Some(length) = self.buffer.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        match length {
            0 => return Err(FramingError::Empty),
            1..=MOST_BYTES => {}
            _ => return Err(FramingError::TooLong(length)),
        }
        let end = 4 + length as usize;
        if self.buffer.len() < end {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(end).freeze().slice(4..)))
    }

    /// Whether a part of a packet is waiting for the rest.
    pub fn has_part(&self) -> bool {
        !self.buffer.is_empty()
    }
}
