//! `3` or `25%` of something.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number itself, or that part of `total`. What cannot be read counts as nothing.
pub(crate) fn of_total(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()) else { return 0 };
            let product = percent * i64::from(total);
            let part = match round {
                Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) > 0),
                Round::Down => product.div_euclid(100),
            };
            i32::try_from(part).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_percents() {
        let percent = |text: &str, total, round| of_total(&IntOrString::String(text.into()), total, round);
        assert_eq!(percent("25%", 10, Round::Up), 3);
        assert_eq!(percent("25%", 10, Round::Down), 2);
        assert_eq!(percent("100%", 7, Round::Up), 7);
        assert_eq!(percent("0%", 7, Round::Up), 0);
        assert_eq!(percent("many", 7, Round::Up), 0);
        assert_eq!(of_total(&IntOrString::Int(4), 1, Round::Up), 4);
    }
}
