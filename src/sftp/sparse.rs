//! Writing without storing zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What file systems store at the least; shorter runs save nothing.
const BLOCK: usize = 4096;

/// Writes at an offset. Zeros at or behind the end of the file become a hole: protocols without
/// holes send them as zeros, and what was small on one side is to be small on the other.
pub(super) fn write_all_at(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    if data.len() >= BLOCK && is_zero(data) {
        let is_behind = file.metadata()?.len() <= offset;
        let end = offset.checked_add(data.len() as u64);
        if let (true, Some(end)) = (is_behind, end) {
            return file.set_len(end);
        }
    }
    file.write_all_at(data, offset)
}

fn is_zero(data: &[u8]) -> bool {
    data.first() == Some(&0) && data[1..] == data[..data.len() - 1]
}
