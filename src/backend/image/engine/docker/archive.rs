//! The little of the tar format (POSIX.1-1988 ustar) that is exchanged with the engine: one file
//! out of a container, a few small files in.

const BLOCK: usize = 512;

/// The content of the first regular file of an archive; `None` when there is none, or the
/// archive is cut short.
pub(super) fn first_file(archive: &[u8]) -> Option<Vec<u8>> {
    let mut rest = archive;
    loop {
        let header = rest.get(..BLOCK)?;
        let size = octal(header.get(124..136)?)?;
        let content = rest.get(BLOCK..)?;
        match header.get(156)? {
            b'0' | 0 if header.first() != Some(&0) => return content.get(..size).map(Vec::from),
            // Extended headers come before the file that they describe.
            b'x' | b'g' | b'L' | b'K' => rest = content.get(size.next_multiple_of(BLOCK)..)?,
            _ => return None,
        }
    }
}

/// An archive of regular files: name (99 bytes at most) and content.
pub(super) fn of_files(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend_from_slice(&header(name, content.len()));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut field = |offset: usize, text: &[u8]| {
        for (to, from) in header.iter_mut().skip(offset).zip(text) {
            *to = *from;
        }
    };
    field(0, name.as_bytes());
    field(100, b"0000644\0");
    field(108, b"0000000\0");
    field(116, b"0000000\0");
    field(124, format!("{size:011o}\0").as_bytes());
    field(136, b"00000000000\0");
    // The checksum is computed with its own field full of spaces.
    field(148, b"        ");
    field(156, b"0");
    field(257, b"ustar\x0000");
    let checksum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in header.iter_mut().skip(148).zip(format!("{checksum:06o}\0 ").bytes()) {
        *to = from;
    }
    header
}

fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?;
    usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        let archive = of_files(&[("cpuinfo", b"processor : 0\n"), ("other", b"")]);
        assert_eq!(archive.len() % BLOCK, 0);
        assert_eq!(first_file(&archive), Some(b"processor : 0\n".to_vec()));
    }

    #[test]
    fn extended_headers_are_skipped() {
        let mut extended = of_files(&[("pax", b"30 mtime=1700000000.123456789\n")]);
        extended[156] = b'x';
        extended.truncate(2 * BLOCK);
        extended.extend(of_files(&[("cpuinfo", b"text")]));
        assert_eq!(first_file(&extended), Some(b"text".to_vec()));
    }

    #[test]
    fn a_directory_or_a_cut_archive_has_no_file() {
        let mut directory = of_files(&[("etc", b"")]);
        directory[156] = b'5';
        assert_eq!(first_file(&directory), None);
        let archive = of_files(&[("cpuinfo", &[b'x'; 600])]);
        assert_eq!(first_file(&archive[..1000]), None);
        assert_eq!(first_file(&[]), None);
        assert_eq!(first_file(&[0; 1024]), None);
    }
}
