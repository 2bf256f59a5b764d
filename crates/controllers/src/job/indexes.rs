//! Sets of completion indexes, written as `1,3-5,7`.

use std::collections::BTreeSet;

pub(super) type Indexes = BTreeSet<i32>;

/// Reads a set; indexes from `completions` on do not count.
pub(super) fn parse(text: &str, completions: i32) -> Indexes {
    let mut indexes = Indexes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (Ok(from), Ok(to)) = (from.parse::<i32>(), to.parse::<i32>()) else { continue };
        indexes.extend(from..=to.min(completions - 1));
    }
    indexes
}

/// Runs of three and more (and of two) become ranges, as the original writes them.
pub(super) fn format(indexes: &Indexes) -> String {
    let mut parts: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => parts.push((*index, *index)),
        }
    }
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, completions: i32, expected: &str) {
        assert_eq!(format(&parse(text, completions)), expected);
    }

    #[test]
    fn ranges_round_trip() {
        check("", 5, "");
        check("1,3-5,7", 10, "1,3-5,7");
        check("0-1", 10, "0,1");
        check("0,1,2", 10, "0-2");
        check("0-9", 5, "0-4");
    }
}
