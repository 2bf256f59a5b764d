//! Times as Go's `time.Parse` reads RFC 3339, with its complaints.

use jiff::Timestamp;
use jiff::civil::Date;

/// What the original calls its layouts; they appear in its errors.
pub(crate) const SECOND_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
pub(crate) const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Parses RFC 3339. The zero time (year 1) is none.
pub(crate) fn parse_time(text: &str, layout: &str) -> Result<Option<Timestamp>, String> {
    let mut cursor = Cursor {
        text,
        rest: text,
        layout,
    };
    let year = cursor.number("2006", 4)?;
    cursor.separator("-")?;
    let month = cursor.number("01", 2)?;
    cursor.separator("-")?;
    let day = cursor.number("02", 2)?;
    cursor.separator("T")?;
    let hour = cursor.number("15", 2)?;
    cursor.separator(":")?;
    let minute = cursor.number("04", 2)?;
    cursor.separator(":")?;
    let second = cursor.number("05", 2)?;
    let nanosecond = cursor.fraction()?;
    let offset_minutes = cursor.zone()?;
    if !cursor.rest.is_empty() {
        return Err(format!(
            "parsing time {text:?}: extra text: {:?}",
            cursor.rest
        ));
    }
    let out_of_range = |what: &str| format!("parsing time {text:?}: {what} out of range");
    if !(1..=12).contains(&month) {
        return Err(out_of_range("month"));
    }
    for (value, limit, what) in [
        (hour, 24, "hour"),
        (minute, 60, "minute"),
        (second, 60, "second"),
    ] {
        if value >= limit {
            return Err(out_of_range(what));
        }
    }
    let date = Date::new(year as i16, month as i8, day as i8).map_err(|_| out_of_range("day"))?;
    let time = date.at(hour as i8, minute as i8, second as i8, nanosecond);
    let utc = time
        .checked_sub(jiff::SignedDuration::from_mins(offset_minutes))
        .map_err(|_| out_of_range("year"))?;
    let stamp = utc
        .to_zoned(jiff::tz::TimeZone::UTC)
        .map_err(|_| out_of_range("year"))?
        .timestamp();
    Ok((stamp.as_second() != ZERO_SECOND || stamp.subsec_nanosecond() != 0).then_some(stamp))
}

/// Unix time of Go's zero time, 0001-01-01T00:00:00Z.
const ZERO_SECOND: i64 = -62_135_596_800;

/// In UTC, in the layout's precision.
pub(crate) fn print_time(time: Timestamp, layout: &str) -> String {
    if layout == MICRO_LAYOUT {
        format!("{:.6}", truncated(time, 1_000))
    } else {
        format!("{:.0}", truncated(time, 1_000_000_000))
    }
}

/// jiff rounds where Go cuts.
fn truncated(time: Timestamp, unit: i128) -> Timestamp {
    let nanoseconds = time.as_nanosecond();
    Timestamp::from_nanosecond(nanoseconds - nanoseconds.rem_euclid(unit)).unwrap_or(time)
}

struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'a str,
}

impl Cursor<'_> {
    fn problem(&self, wanted: &str) -> String {
        format!(
            "parsing time {:?} as {:?}: cannot parse {:?} as {wanted:?}",
            self.text, self.layout, self.rest
        )
    }

    fn number(&mut self, wanted: &str, digits: usize) -> Result<i32, String> {
        match self
            .rest
            .get(..digits)
            .filter(|found| found.bytes().all(|byte| byte.is_ascii_digit()))
        {
            Some(found) => {
                self.rest = &self.rest[digits..];
                Ok(found.parse().expect("up to four digits fit"))
            }
            None => Err(self.problem(wanted)),
        }
    }

    fn separator(&mut self, wanted: &str) -> Result<(), String> {
        self.rest = self
            .rest
            .strip_prefix(wanted)
            .ok_or_else(|| self.problem(wanted))?;
        Ok(())
    }

    /// Optional in the layout of seconds, exactly six digits in the other.
    fn fraction(&mut self) -> Result<i32, String> {
        let digits = match self.rest.strip_prefix(['.', ',']) {
            Some(after) => after.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        if self.layout == MICRO_LAYOUT && digits != 6 {
            return Err(self.problem(".000000"));
        }
        if digits == 0 {
            return Ok(0);
        }
        let found = &self.rest[1..=digits];
        self.rest = &self.rest[digits + 1..];
        let nine: String = found
            .chars()
            .chain(std::iter::repeat('0'))
            .take(9)
            .collect();
        Ok(nine.parse().expect("nine digits fit"))
    }

    /// Minutes east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let two = |at: usize| {
            self.rest
                .get(at..at + 2)
                .filter(|found| found.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|found| found.parse::<i64>().ok())
        };
        let sign = match bytes.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(self.problem("Z07:00")),
        };
        match (two(1), bytes.get(3), two(4)) {
            (Some(hours @ 0..=24), Some(b':'), Some(minutes @ 0..=59)) => {
                self.rest = &self.rest[6..];
                Ok(sign * (hours * 60 + minutes))
            }
            _ => Err(self.problem("Z07:00")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, layout: &str, expected: &str) {
        let found = match parse_time(text, layout) {
            Ok(Some(time)) => print_time(time, layout),
            Ok(None) => "zero".to_owned(),
            Err(problem) => problem,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn times() {
        check(
            "2026-01-02T03:04:05Z",
            SECOND_LAYOUT,
            "2026-01-02T03:04:05Z",
        );
        check(
            "2026-01-02T03:04:05.999999999+01:00",
            SECOND_LAYOUT,
            "2026-01-02T02:04:05Z",
        );
        check(
            "2026-01-02T03:04:05.123456Z",
            MICRO_LAYOUT,
            "2026-01-02T03:04:05.123456Z",
        );
        check("0001-01-01T00:00:00Z", SECOND_LAYOUT, "zero");
        check(
            "yesterday",
            SECOND_LAYOUT,
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
        );
        check(
            "2026-01-02",
            SECOND_LAYOUT,
            r#"parsing time "2026-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
        );
        check(
            "2026-01-02T03:04:05Z",
            MICRO_LAYOUT,
            r#"parsing time "2026-01-02T03:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
        );
        check(
            "2026-13-02T03:04:05Z",
            SECOND_LAYOUT,
            r#"parsing time "2026-13-02T03:04:05Z": month out of range"#,
        );
    }
}
