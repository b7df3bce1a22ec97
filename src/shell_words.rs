//! A command line, taken apart as a POSIX shell does.

/// One byte of a word; a quoted one is no wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Char {
    pub(crate) byte: u8,
    pub(crate) is_quoted: bool,
}

/// The bytes of a word.
pub(crate) fn plain(word: &[Char]) -> Vec<u8> {
    word.iter().map(|char| char.byte).collect()
}

/// Splits a line (POSIX Shell Command Language 2.2), if it has nothing but words. `None`: it takes a
/// shell to say what it means.
pub(crate) fn split(line: &[u8]) -> Option<Vec<Vec<Char>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<Char>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next()? {
                        b'\'' => break,
                        byte => word.push(Char { byte, is_quoted: true }),
                    }
                }
            }
            b'"' => double_quoted(&mut bytes, word.get_or_insert_default())?,
            b'\\' => {
                let byte = bytes.next()?;
                // A line that is continued.
                if byte != b'\n' {
                    word.get_or_insert_default().push(Char { byte, is_quoted: true });
                }
            }
            b'$' | b'`' | b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' | b'\n' | b'\0' => {
                return None;
            }
            // A list in braces means something to some shells only.
            b'{' | b'}' => return None,
            b'#' if word.is_none() => return None,
            byte => word.get_or_insert_default().push(Char { byte, is_quoted: false }),
        }
    }
    words.extend(word);
    Some(words)
}

fn double_quoted(bytes: &mut impl Iterator<Item = u8>, word: &mut Vec<Char>) -> Option<()> {
    loop {
        let byte = match bytes.next()? {
            b'"' => return Some(()),
            b'$' | b'`' => return None,
            b'\\' => match bytes.next()? {
                b'\n' => continue,
                byte @ (b'$' | b'`' | b'"' | b'\\') => byte,
                byte => {
                    word.push(Char { byte: b'\\', is_quoted: true });
                    byte
                }
            },
            byte => byte,
        };
        word.push(Char { byte, is_quoted: true });
    }
}
