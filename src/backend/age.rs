//! Durations and sizes in words.

use std::time::Duration;

/// A duration in its largest unit: "40 s", "12 min", "5 h", "3 days".
pub(crate) fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// How long ago something was: "just now", "12 min ago".
pub(crate) fn ago(age: Duration) -> String {
    if age.as_secs() < 10 { "just now".to_owned() } else { format!("{} ago", in_words(age)) }
}

/// A number of bytes: "512 B", "3.1 MB".
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut tenths = 0;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1000 {
            break;
        }
        tenths = value % 1000 / 100;
        value /= 1000;
        unit = larger;
    }
    if unit == "B" || value >= 100 {
        format!("{value} {unit}")
    } else {
        format!("{value}.{tenths} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_unit_is_told() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(words(59), "59 s");
        assert_eq!(words(3599), "59 min");
        assert_eq!(words(24 * 3600), "24 h");
        assert_eq!(words(50 * 3600), "2 days");
        assert_eq!(ago(Duration::from_secs(3)), "just now");
        assert_eq!(ago(Duration::from_secs(60)), "1 min ago");
        assert_eq!([size(0), size(999), size(3_140_000)], ["0 B", "999 B", "3.1 MB"]);
        assert_eq!(size(123_456_789_012), "123 GB");
    }
}
