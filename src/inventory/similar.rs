//! Which existing names somebody who mistyped one may have meant.

use strsim::damerau_levenshtein;

/// How many names a message suggests.
const SUGGESTED: usize = 3;

/// Up to three of `candidates` that are close to `typed`, best first. A candidate is a text to
/// compare with and a text to show.
pub(super) fn closest(
    typed: &str,
    candidates: impl IntoIterator<Item = (String, String)>,
) -> Vec<String> {
    let typed = typed.to_lowercase();
    let mut close: Vec<(usize, String)> = candidates
        .into_iter()
        .filter_map(|(compared, shown)| Some((distance(&typed, &compared.to_lowercase())?, shown)))
        .collect();
    close.sort();
    close.dedup();
    close.truncate(SUGGESTED);
    close.into_iter().map(|(_, shown)| shown).collect()
}

/// Typing errors between the two, `None` when there are too many to be the same name. A name that
/// was cut short or continued counts as close, after those with few errors.
fn distance(typed: &str, candidate: &str) -> Option<usize> {
    /// Below this a common start says nothing.
    const TELLING_START: usize = 3;
    let errors = damerau_levenshtein(typed, candidate);
    let tolerated = (typed.chars().count() / 3).clamp(1, 4);
    let shorter = typed.len().min(candidate.len());
    let continued = typed.starts_with(candidate) || candidate.starts_with(typed);
    (errors <= tolerated || (continued && shorter >= TELLING_START)).then_some(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closest_of(typed: &str, names: &[&str]) -> Vec<String> {
        closest(typed, names.iter().map(|&name| (name.to_owned(), name.to_owned())))
    }

    #[test]
    fn best_comes_first_and_three_at_most() {
        let names = ["rpi10", "rpi11", "rpi1", "camera", "rip1x", "rpi12"];
        assert_eq!(closest_of("rpi1", &names), ["rpi1", "rpi10", "rpi11"]);
        assert_eq!(closest_of("rip1", &names), ["rip1x", "rpi1"]);
    }

    #[test]
    fn case_does_not_matter() {
        assert_eq!(closest_of("RPI1", &["rpi1"]), ["rpi1"]);
    }

    #[test]
    fn start_of_a_name_is_close_to_it() {
        let names = ["pc-x86-64-default", "nanopi-default"];
        assert_eq!(closest_of("pc-x86-64", &names), ["pc-x86-64-default"]);
        assert_eq!(closest_of("pc", &names), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_suggested_for_something_else() {
        assert!(closest_of("camera", &["rpi1", "rpi2", "pc"]).is_empty());
    }
}
