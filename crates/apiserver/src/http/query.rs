//! Query strings, and the durations in them.

use std::time::Duration;

/// The parameters of a request, decoded, in order.
#[derive(Default, Debug, Clone)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Query {
        Query(api::percent::query(text).collect())
    }

    /// The first value, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| &**value)
    }

    /// As the original reads booleans in options: anything but `false` and `0`; a bare `?watch` is true.
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .is_some_and(|(_, value)| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// `1h30m`, `1.5s`, as Go reads durations; Err in its words. Negative ones are zero.
pub fn go_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        rest = &rest[end..];
        seconds += number * unit;
    }
    if negative { Ok(Duration::ZERO) } else { Duration::try_from_secs_f64(seconds).map_err(|_| invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse("labelSelector=app%3Dweb%2Cx+in+%28a%29&watch&limit=5&bad=%zz%4&e=");
        assert_eq!(query.get("labelSelector"), Some("app=web,x in (a)"));
        assert_eq!((query.get("limit"), query.get("bad"), query.get("e")), (Some("5"), Some("%zz%4"), None));
        assert!(query.flag("watch") && !query.flag("follow") && !Query::parse("watch=0").flag("watch"));
    }
    #[test]
    fn durations() {
        let check = |text: &str, expected: Result<u64, &str>| {
            let actual = go_duration(text).map(|duration| duration.as_millis() as u64);
            assert_eq!(actual, expected.map_err(str::to_owned), "{text}");
        };
        check("1h30m", Ok(5_400_000));
        check("1.5s", Ok(1500));
        check("250ms", Ok(250));
        check("0", Ok(0));
        check("-5s", Ok(0));
        check("10", Err(r#"time: missing unit in duration "10""#));
        check("ten", Err(r#"time: invalid duration "ten""#));
        check("1y", Err(r#"time: unknown unit "y" in duration "1y""#));
        check("", Err(r#"time: invalid duration """#));
    }
}
