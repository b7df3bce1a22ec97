//! What a word of a command line stands for: home directories and wildcards, as in a POSIX shell.

use rustix::fs::Dir;

use super::access::Links;
use super::root::Root;
use crate::shell_words::Char;

/// Where an expansion ends that has no end.
const MOST_PATHS: usize = 100_000;

impl Root {
    /// The paths that a word stands for, sorted; the word itself if there are none. Blocks.
    pub(crate) fn expand(&self, word: &[Char]) -> Vec<Vec<u8>> {
        expand(self, word)
    }
}

fn expand(root: &Root, word: &[Char]) -> Vec<Vec<u8>> {
    let word = without_tilde(root, word);
    let literal = || vec![word.iter().map(|char| char.byte).collect()];
    if !word.iter().any(|char| is_wildcard(*char)) {
        return literal();
    }
    let mut found: Vec<Vec<u8>> = vec![Vec::new()];
    for (position, part) in word.split(|char| char.byte == b'/').enumerate() {
        let mut next = Vec::new();
        for prefix in found {
            let base = if position > 0 { [&prefix, b"/".as_slice()].concat() } else { prefix };
            if !part.iter().any(|char| is_wildcard(*char)) {
                let path: Vec<u8> =
                    base.into_iter().chain(part.iter().map(|char| char.byte)).collect();
                // What the wildcards before it matched need not have it.
                if position == 0 || part.is_empty() || root.locate(&path, Links::Keep).is_ok() {
                    next.push(path);
                }
                continue;
            }
            next.extend(matching(root, &base, part));
            if next.len() > MOST_PATHS {
                break;
            }
        }
        found = next;
    }
    if found.is_empty() { literal() } else { found }
}

/// The entries of a directory that match, sorted.
fn matching(root: &Root, base: &[u8], pattern: &[Char]) -> Vec<Vec<u8>> {
    let directory = if base.is_empty() { b"." } else { base };
    let entries = root
        .locate(directory, Links::Follow)
        .and_then(|directory| directory.open_directory())
        .and_then(|directory| Ok(Dir::new(directory)?));
    let Ok(entries) = entries else {
        return Vec::new();
    };
    let mut paths: Vec<Vec<u8>> = entries
        .map_while(Result::ok)
        .filter(|entry| matches(pattern, entry.file_name().to_bytes()))
        .map(|entry| [base, entry.file_name().to_bytes()].concat())
        .take(MOST_PATHS)
        .collect();
    paths.sort();
    paths
}

fn without_tilde(root: &Root, word: &[Char]) -> Vec<Char> {
    match word {
        [Char { byte: b'~', is_quoted: false }, rest @ ..]
            if rest.first().is_none_or(|char| char.byte == b'/') =>
        {
            let home = root.home().iter().map(|byte| Char { byte: *byte, is_quoted: true });
            home.chain(rest.iter().copied()).collect()
        }
        word => word.to_owned(),
    }
}

fn is_wildcard(char: Char) -> bool {
    !char.is_quoted && matches!(char.byte, b'*' | b'?' | b'[')
}

/// Whether a name matches a pattern, POSIX 2.13. A dot in front is matched by a dot only.
fn matches(pattern: &[Char], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first().is_some_and(|char| char.byte != b'.') {
        return false;
    }
    let (mut at, mut position) = (0, 0);
    // Where to go on when what is behind the last `*` does not match.
    let mut star: Option<(usize, usize)> = None;
    while position < name.len() {
        match pattern.get(at).copied() {
            Some(Char { byte: b'*', is_quoted: false }) => {
                star = Some((at, position));
                at += 1;
                continue;
            }
            Some(char) => {
                let (length, character) = first_character(&name[position..]);
                if let Some(taken) = matches_one(&pattern[at..], char, &character) {
                    at += taken;
                    position += length;
                    continue;
                }
            }
            None => {}
        }
        let Some((star_at, star_position)) = star else {
            return false;
        };
        let next = star_position + first_character(&name[star_position..]).0;
        star = Some((star_at, next));
        (at, position) = (star_at + 1, next);
    }
    pattern[at..].iter().all(|char| char.byte == b'*' && !char.is_quoted)
}

/// How much of the pattern one character matches.
fn matches_one(pattern: &[Char], char: Char, character: &[u8]) -> Option<usize> {
    if !char.is_quoted && char.byte == b'?' {
        return Some(1);
    }
    if !char.is_quoted
        && char.byte == b'['
        && let Some((length, is_member)) = bracket(pattern, character)
    {
        return is_member.then_some(length);
    }
    let literal = pattern.get(..character.len())?;
    literal.iter().map(|char| &char.byte).eq(character).then_some(character.len())
}

/// A bracket expression at the front of a pattern: its length, and whether it has the character.
/// `None` if it has no end: then the bracket is only a bracket.
fn bracket(pattern: &[Char], character: &[u8]) -> Option<(usize, bool)> {
    let is_negated =
        pattern.get(1).is_some_and(|char| !char.is_quoted && matches!(char.byte, b'!' | b'^'));
    let start = if is_negated { 2 } else { 1 };
    // In front it is a member.
    let end = start
        + 1
        + pattern.get(start + 1..)?.iter().position(|char| char.byte == b']' && !char.is_quoted)?;
    let members: Vec<u8> = pattern[start..end].iter().map(|char| char.byte).collect();
    // A class such as [:alpha:] ends in a bracket of its own.
    if let Some(class) = members.strip_prefix(b"[:").and_then(|class| class.strip_suffix(b":")) {
        let closing = pattern.get(end + 1).is_some_and(|char| char.byte == b']');
        let is_member = character.len() == 1 && is_in_class(character[0], class)?;
        return closing.then_some((end + 2, is_member != is_negated));
    }
    let is_member = has_member(&members, character);
    Some((end + 1, is_member != is_negated))
}

fn has_member(members: &[u8], character: &[u8]) -> bool {
    let characters: Vec<Vec<u8>> = {
        let (mut rest, mut all) = (members, Vec::new());
        while !rest.is_empty() {
            let (length, character) = first_character(rest);
            all.push(character);
            rest = &rest[length..];
        }
        all
    };
    let mut at = 0;
    while let Some(first) = characters.get(at) {
        if let (Some(b"-"), Some(last)) =
            (characters.get(at + 1).map(Vec::as_slice), characters.get(at + 2))
        {
            // UTF-8 sorts as the characters do.
            if (first.as_slice()..=last.as_slice()).contains(&character) {
                return true;
            }
            at += 3;
            continue;
        }
        if first == character {
            return true;
        }
        at += 1;
    }
    false
}

fn is_in_class(byte: u8, class: &[u8]) -> Option<bool> {
    Some(match class {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}

/// The first character of some text, or the first byte of what is not UTF-8.
fn first_character(text: &[u8]) -> (usize, Vec<u8>) {
    let length = (1..=text.len().min(4))
        .find(|length| std::str::from_utf8(&text[..*length]).is_ok())
        .unwrap_or(1);
    (length, text[..length.min(text.len())].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unquoted(pattern: &str) -> Vec<Char> {
        pattern.bytes().map(|byte| Char { byte, is_quoted: false }).collect()
    }

    #[test]
    fn patterns_match_what_they_match_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*", ".a", false),
            (".*", ".a", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "é", true),
            ("??", "é", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a-c]x", "dx", true),
            ("[^a]", "a", false),
            ("[]]", "]", true),
            ("[[:digit:]]", "7", true),
            ("[[:digit:]]", "a", false),
            ("[", "[", true),
            ("a[", "a[", true),
            ("[é-ü]", "ö", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt2", false),
            ("", "a", false),
        ] {
            assert_eq!(
                matches(&unquoted(pattern), name.as_bytes()),
                expected,
                "{pattern} and {name}"
            );
        }
        assert!(matches(&unquoted("?x"), b"\xffx"));
    }

    #[test]
    fn quoted_wildcards_are_letters() {
        let quoted = [Char { byte: b'*', is_quoted: true }];
        assert!(matches(&quoted, b"*"));
        assert!(!matches(&quoted, b"a"));
    }
}
