//! `$(VAR)` in commands, arguments, values and sub-paths. `$$` is a dollar; what is not known stays as written.

use std::collections::BTreeMap;

pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// For sub-paths, where an unknown name is an error, and an empty value too: it would be the whole volume.
pub fn expand_strictly(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if known.get(name).is_none_or(String::is_empty) {
                return Err(format!("missing value for \"{name}\""));
            }
            rest = tail;
        } else {
            rest = after;
        }
    }
    Ok(expand(text, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        assert_eq!(expand(text, &known), expected);
    }

    #[test]
    fn expansion() {
        check("plain", "plain");
        check("$(A)-$(A)", "1-1");
        check("$(B)", "$(A)"); // Values are not expanded again.
        check("$$(A)", "$(A)");
        check("$$$(A)", "$1");
        check("$(NONE)", "$(NONE)");
        check("$A $( $", "$A $( $");
        check("$(A", "$(A");
        check("ä$(A)ö", "ä1ö");
    }

    #[test]
    fn sub_paths_name_what_is_missing() {
        assert_eq!(expand_strictly("a/$(NO)", &BTreeMap::new()), Err("missing value for \"NO\"".to_owned()));
        let empty = BTreeMap::from([("NO".to_owned(), String::new())]);
        assert_eq!(expand_strictly("a/$(NO)", &empty), Err("missing value for \"NO\"".to_owned()));
        assert_eq!(expand_strictly("$$(NO)", &BTreeMap::new()), Ok("$(NO)".to_owned()));
    }
}
