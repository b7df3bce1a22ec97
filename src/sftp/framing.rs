//! Packets in a stream of bytes.

use bytes::{Bytes, BytesMut};

/// The longest packet without its length field, as in OpenSSH.
pub(super) const MOST_BYTES: u32 = 256 * 1024;

/// The field in front of a packet that says how long it is.
const LENGTH_BYTES: usize = 4;

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
    /// The start of a packet that comes in pieces. It never has more than that packet in it, for
    /// which it has room exactly: many sessions have one.
    begun: BytesMut,
    /// What came behind that: taken apart where it is.
    whole: Bytes,
}

impl Frames {
    /// More of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_owned(Bytes::copy_from_slice(bytes));
    }

    /// The same, without copying what holds whole packets.
    pub fn feed_owned(&mut self, bytes: Bytes) {
        if self.whole.is_empty() {
            self.whole = bytes;
        } else {
            self.whole = [&self.whole[..], &bytes[..]].concat().into();
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
        if self.begun.is_empty()
            && let Some(end) = end_of(&self.whole)?
            && self.whole.len() >= end
        {
            return Ok(Some(self.whole.split_to(end)));
        }
        if end_of(&self.begun)?.is_none() {
            self.begin(LENGTH_BYTES);
        }
        let Some(end) = end_of(&self.begun)? else { return Ok(None) };
        self.begin(end);
        Ok((self.begun.len() == end).then(|| std::mem::take(&mut self.begun).freeze()))
    }

    /// Moves what there is of the next packet's first `end` bytes to its start.
    fn begin(&mut self, end: usize) {
        let missing = end - self.begun.len();
        let piece = self.whole.split_to(missing.min(self.whole.len()));
        self.begun.reserve(missing);
        self.begun.extend_from_slice(&piece);
    }

    /// Whether a part of a packet is waiting for the rest.
    pub fn has_part(&self) -> bool {
        !self.begun.is_empty() || !self.whole.is_empty()
    }

    /// Takes out what is no whole packet.
    pub(super) fn take_rest(&mut self) -> Bytes {
        [std::mem::take(&mut self.begun).freeze(), std::mem::take(&mut self.whole)].concat().into()
    }
}

/// Where the packet ends that bytes begin with, once its length is known.
fn end_of(bytes: &[u8]) -> Result<Option<usize>, FramingError> {
    let Some(length) = bytes.first_chunk() else { return Ok(None) };
    match u32::from_be_bytes(*length) {
        0 => Err(FramingError::Empty),
        length @ 1..=MOST_BYTES => Ok(Some(LENGTH_BYTES + length as usize)),
        length => Err(FramingError::TooLong(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_the_same_in_pieces_of_any_size() {
        let packets: Vec<Vec<u8>> = (1..60_u32)
            .map(|length| {
                [length.to_be_bytes().to_vec(), vec![length as u8; length as usize]].concat()
            })
            .collect();
        let stream = packets.concat();
        for size in [1, 2, 3, 5, 7, 64, 100, stream.len()] {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for (number, piece) in stream.chunks(size).enumerate() {
                frames.feed(piece);
                // Not always are they taken before more comes.
                while number % 3 != 1
                    && let Some(packet) = frames.next_with_length().unwrap()
                {
                    found.push(packet.to_vec());
                }
            }
            while let Some(packet) = frames.next_with_length().unwrap() {
                found.push(packet.to_vec());
            }
            assert_eq!(found, packets, "{size}");
            assert!(!frames.has_part());
        }
    }

    #[test]
    fn what_cannot_be_a_length_is_none_the_next_time_either() {
        let mut frames = Frames::default();
        frames.feed(&[0, 0, 0, 1, 7, 0, 0]);
        assert_eq!(frames.next_frame(), Ok(Some(Bytes::from_static(&[7]))));
        assert_eq!(frames.next_frame(), Ok(None));
        frames.feed(&[0, 0, 9]);
        assert_eq!(frames.next_frame(), Err(FramingError::Empty));
        assert_eq!(frames.next_frame(), Err(FramingError::Empty));
        assert_eq!(frames.take_rest()[..], [0, 0, 0, 0, 9]);
    }
}
