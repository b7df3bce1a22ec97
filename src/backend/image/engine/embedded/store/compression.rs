//! Compressed streams, known by how they begin.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

const GZIP: [u8; 2] = [0x1f, 0x8b];
/// RFC 8878, section 3.1.1
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// As much as is read at once.
const BUFFER: usize = 64 << 10;
/// Of the levels of zstd the fastest that costs no more than writing what it saves.
const LEVEL: i32 = 1;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// How a stream that begins like this is compressed.
    pub fn of(beginning: &[u8]) -> Self {
        if beginning.starts_with(&GZIP) {
            Self::Gzip
        } else if beginning.starts_with(&ZSTD) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// The plain content of a stream, whether or not it is compressed.
///
/// # Errors
/// That the beginning cannot be read.
pub fn reader<'a>(
    mut stream: impl Read + Send + 'a,
) -> io::Result<(Box<dyn Read + Send + 'a>, Compression)> {
    // One read of a pipe may give less than a magic number.
    let mut beginning = Vec::with_capacity(ZSTD.len());
    stream.by_ref().take(ZSTD.len() as u64).read_to_end(&mut beginning)?;
    let compression = Compression::of(&beginning);
    let stream = BufReader::with_capacity(BUFFER, Cursor::new(beginning).chain(stream));
    let plain: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(MultiGzDecoder::new(stream)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(stream)?),
    };
    Ok((plain, compression))
}

/// Compresses what layers of the store's own making contain.
pub(super) fn writer<W: io::Write>(stream: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(stream, LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}
