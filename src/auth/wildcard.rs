//! Patterns with `*` (any text, also none) and `?` (one character), as ssh_config(5) has them.

/// Whether the whole of `text` matches `pattern`. Takes at most the product of their lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after the last `*`, once what followed it turned out not to match.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            Some(wanted) if wanted == byte || *wanted == b'?' => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((after_star, taken)) = retry else {
            return false;
        };
        retry = Some((after_star, taken + 1));
        (p, t) = (after_star, taken + 1);
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks_match_as_in_ssh_config() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("rpi?", "rpi1", true),
            ("rpi?", "rpi", false),
            ("rpi?", "rpi12", false),
            ("rpi*", "rpi", true),
            ("rpi*", "pc-rpi1", false),
            ("*rpi*", "pc-rpi1", true),
            ("image.*_v2", "image.alice.x_v2", true),
            ("image.*_v2", "image.alice.x_v2_v3", false),
            ("*ab*ab", "abxabab", true),
            ("a*b*c", "a-b-b", false),
            ("walt", "walt", true),
            ("walt", "Walt", false),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }
}
