//! Checks that many kinds share, worded as the original words them.

use std::net::IpAddr;

use api::quantity::Quantity;
use serde_json::Value;

use super::metadata::validate_labels;
use super::{Cursor, Problems};

pub const NEGATIVE: &str = "must be greater than or equal to 0";
pub const NOT_POSITIVE: &str = "must be greater than 0";
/// Where the original says it in a word.
pub const NOT_ABOVE_ZERO: &str = "must be greater than zero";
pub const PORT: &str = "must be between 1 and 65535, inclusive";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Required, and a DNS subdomain.
pub fn subdomain(at: &Cursor, problems: &mut Problems) {
    problems.invalid_each(at, api::names::dns1123_subdomain(at.str()));
}

pub fn label(at: &Cursor, problems: &mut Problems) {
    problems.invalid_each(at, api::names::dns1123_label(at.str()));
}

/// Missing reads as 0.
pub fn non_negative(at: &Cursor, problems: &mut Problems) {
    if at.int() < 0 {
        problems.invalid_plain(at, at.int(), NEGATIVE);
    }
}

pub fn port_number(at: &Cursor, problems: &mut Problems) {
    if !(1..=65535).contains(&at.int()) {
        problems.invalid_plain(at, at.int(), PORT);
    }
}

/// A number from 1 to 65535, or a port's name.
pub fn port_number_or_name(at: &Cursor, problems: &mut Problems) {
    match at.value {
        Value::String(name) => problems.invalid_each(at, api::names::port_name(name)),
        _ => port_number(at, problems),
    }
}

/// One of a few words; required.
pub fn one_of(at: &Cursor, supported: &[&str], problems: &mut Problems) {
    if !supported.contains(&at.str()) {
        problems.not_supported(at, supported);
    }
}

/// The same where the field may be missing.
pub fn optional_one_of(at: &Cursor, supported: &[&str], problems: &mut Problems) {
    if at.exists() {
        one_of(at, supported, problems);
    }
}

pub fn required(at: &Cursor, problems: &mut Problems) -> bool {
    if at.is_empty() {
        problems.required(at, "");
        return false;
    }
    true
}

/// A quantity that is not below zero.
pub fn non_negative_quantity(at: &Cursor, problems: &mut Problems) {
    if at.str().starts_with('-') && quantity(at.value).is_some_and(|quantity| quantity.milli_value() < 0) {
        problems.invalid_str(at, at.str(), NEGATIVE);
    }
}

pub fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

/// A number that is not negative, or a percentage.
pub fn non_negative_number_or_percent(at: &Cursor, problems: &mut Problems) {
    match at.value {
        Value::String(text) => {
            if !is_percent(text) {
                problems.invalid_str(at, text, PERCENT);
            }
        }
        _ => non_negative(at, problems),
    }
}

pub fn not_over_hundred_percent(at: &Cursor, problems: &mut Problems) {
    if percent(at.value).is_some_and(|percent| percent > 100) {
        problems.invalid(at, "must not be greater than 100%");
    }
}

fn is_percent(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

pub fn percent(value: &Value) -> Option<i64> {
    let text = value.as_str()?;
    if is_percent(text) { text[..text.len() - 1].parse().ok() } else { None }
}

/// The number, or the percentage as a number, whichever it is.
pub fn number_or_percent(value: &Value) -> i64 {
    value.as_i64().or_else(|| percent(value)).unwrap_or(0)
}

pub fn ip(at: &Cursor, problems: &mut Problems) {
    problems.invalid_each(at, api::names::ip(at.str()));
}

/// Go's parser: no leading zeros, no zone.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

pub const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub fn cidr(at: &Cursor, problems: &mut Problems) {
    if parse_cidr(at.str()).is_none() {
        problems.invalid_str(at, at.str(), CIDR);
    }
}

pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// Names in paths: RBAC roles and bindings, API services.
pub fn path_segment_name(name: &str) -> Vec<String> {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ['/', '%']
        .into_iter()
        .filter(|illegal| name.contains(*illegal))
        .map(|illegal| format!("may not contain '{illegal}'"))
        .collect()
}

/// `example.com/path`
pub fn domain_prefixed_path(at: &Cursor, problems: &mut Problems) {
    let text = at.str();
    if text.is_empty() {
        return problems.required(at, "");
    }
    let Some((domain, path)) = text.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return problems.invalid(at, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    problems.invalid_each_str(at, domain, api::names::dns1123_subdomain(domain));
    let segment = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~:@!$&'()*+,;=%".contains(&byte))
    };
    if !path.split('/').all(segment) {
        let sentence = api::names::regex_problem("Invalid path", HTTP_PATH, &[]);
        problems.invalid_str(at, path, &sentence);
    }
}

const HTTP_PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";

/// A `metav1.LabelSelector`.
pub fn label_selector(at: &Cursor, problems: &mut Problems) {
    validate_labels(&at.at("matchLabels"), problems);
    for requirement in at.at("matchExpressions").items() {
        let (key, operator, values) = (requirement.at("key"), requirement.at("operator"), requirement.at("values"));
        match operator.str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    problems.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    problems.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            other => problems.invalid_str(&operator, other, "not a valid selector operator"),
        }
        problems.invalid_each(&key, api::names::qualified_name(key.str()));
        for value in values.items() {
            problems.invalid_each(&value, api::names::label_value(value.str()));
        }
    }
}

/// Whether a selector asks for nothing in particular.
pub fn selects_everything(selector: &Cursor) -> bool {
    selector.at("matchLabels").is_empty() && selector.at("matchExpressions").is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_and_ranges() {
        #[track_caller]
        fn check(text: &str, expected: bool) {
            assert_eq!(parse_cidr(text).is_some(), expected, "{text}");
        }
        check("10.0.0.0/8", true);
        check("10.0.0.0/33", false);
        check("2001:db8::/64", true);
        check("10.0.0.0", false);
        check("10.0.0.0/+8", false);
    }

    #[test]
    fn percentages() {
        #[track_caller]
        fn check(value: Value, expected: &str) {
            let object = json!({"x": value});
            let root = Cursor::root(&object);
            let mut problems = Problems::default();
            non_negative_number_or_percent(&root.at("x"), &mut problems);
            not_over_hundred_percent(&root.at("x"), &mut problems);
            let lines: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
            assert!(lines.join("; ").starts_with(expected) && lines.is_empty() == expected.is_empty(), "{lines:?}");
        }
        check(json!(1), "");
        check(json!("25%"), "");
        check(json!(-1), "x: Invalid value: -1: must be greater than or equal to 0");
        check(json!("abc"), "x: Invalid value: \"abc\": a valid percent string");
        check(json!("125%"), "x: Invalid value: \"125%\": must not be greater than 100%");
    }
}
