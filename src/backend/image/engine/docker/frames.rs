//! The framing of a stream without a terminal (Docker Engine API, "Attach to a container",
//! stream format): one byte of stream number, three zero bytes, four bytes of big-endian length,
//! and the payload.

use bytes::{Buf, Bytes, BytesMut};

use crate::backend::image::engine::OutputChunk;

const HEADER: usize = 8;
const STDERR: u8 = 2;
/// The engine's own report of a broken stream (Docker's `stdcopy.Systemerr`).
const SYSTEM_ERROR: u8 = 3;

/// Takes the stream apart, whatever pieces it arrives in. A payload is passed on as it comes in,
/// not when it is complete.
#[derive(Debug, Default)]
pub(super) struct FrameDecoder {
    buffered: BytesMut,
    /// Of the frame that is being read: its stream and the bytes still to come.
    open: Option<(u8, usize)>,
}

/// A header that no engine sends: the stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stream number {0} in a frame header")]
pub(super) struct BadFrame(u8);

impl FrameDecoder {
    /// Takes what was read.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffered.extend_from_slice(data);
    }

    /// The next piece of payload, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<OutputChunk>, BadFrame> {
        loop {
            match self.open {
                None => {
                    let Some(header) = self.buffered.first_chunk::<HEADER>().copied() else {
                        return Ok(None);
                    };
                    let [stream, _, _, _, a, b, c, d] = header;
                    if stream > SYSTEM_ERROR {
                        return Err(BadFrame(stream));
                    }
                    self.buffered.advance(HEADER);
                    self.open = Some((stream, u32::from_be_bytes([a, b, c, d]) as usize));
                }
                Some((_, 0)) => self.open = None,
                Some((stream, left)) => {
                    let taken = left.min(self.buffered.len());
                    if taken == 0 {
                        return Ok(None);
                    }
                    let payload: Bytes = self.buffered.split_to(taken).freeze();
                    self.open = Some((stream, left - taken));
                    return Ok(Some(if stream >= STDERR {
                        OutputChunk::Stderr(payload)
                    } else {
                        OutputChunk::Stdout(payload)
                    }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut decoder = FrameDecoder::default();
        for piece in pieces {
            decoder.push(piece);
            while let Some(chunk) = decoder.next().unwrap() {
                match chunk {
                    OutputChunk::Stdout(data) => stdout.extend_from_slice(&data),
                    OutputChunk::Stderr(data) => stderr.extend_from_slice(&data),
                }
            }
        }
        (stdout, stderr)
    }

    #[test]
    fn empty_frames_are_skipped() {
        let stream = [frame(1, b""), frame(2, b"x"), frame(1, b"")].concat();
        assert_eq!(decode(&[&stream]), (vec![], b"x".to_vec()));
    }

    #[test]
    fn a_payload_is_passed_on_before_its_frame_is_complete() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame(1, b"abc")[..9]);
        assert_eq!(decoder.next(), Ok(Some(OutputChunk::Stdout(Bytes::from_static(b"a")))));
        assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn an_unknown_stream_number_is_an_error() {
        let mut decoder = FrameDecoder::default();
        decoder.push(b"not a frame header");
        assert_eq!(decoder.next(), Err(BadFrame(b'n')));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_streams(
            frames in proptest::collection::vec(
                (1u8..=2, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
            size in 1usize..50,
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|(s, p)| frame(*s, p)).collect();
            let of = |wanted: u8| -> Vec<u8> {
                frames.iter().filter(|(s, _)| *s == wanted).flat_map(|(_, p)| p.clone()).collect()
            };
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            prop_assert_eq!(decode(&pieces), (of(1), of(2)));
        }
    }
}
