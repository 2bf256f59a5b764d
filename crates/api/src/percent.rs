//! Percent-encoding of paths and queries (RFC 3986, section 2.1).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// For one segment of a path, or a name or value in a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// `%41` to `A`; what is no valid escape stays. Bytes that are no UTF-8 are replaced.
pub fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The names and values of a query, decoded, in order; `+` is a space, and a bare name has an empty value.
pub fn query(text: &str) -> impl Iterator<Item = (String, String)> {
    let form = |text: &str| decode(&text.replace('+', " "));
    text.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form(name), form(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["", "a-b_c.d~e", "a b/c", "app=web,x in (a)", "ä%2F", "100%"] {
            assert_eq!(decode(&encode(text)), text);
        }
        assert_eq!(encode("a b/c"), "a%20b%2Fc");
        assert_eq!(decode("%zz%4+%+1"), "%zz%4+%+1");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }

    #[test]
    fn queries() {
        let read: Vec<(String, String)> = query("labelSelector=app%3Dweb%2Cx+in+%28a%29&watch&&bad=%zz&e=").collect();
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(read, [("labelSelector", "app=web,x in (a)"), ("watch", ""), ("bad", "%zz"), ("e", "")]);
    }
}
