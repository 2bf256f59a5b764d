//! Cron schedules: five fields or a macro, in a time zone. Pure.
//!
//! Times are found by moving forward through real time, so that an hour that a clock change skips has no
//! runs, and one that it repeats has them twice for schedules that run every hour.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned};

/// Beyond this nothing is looked for: February 30th never comes.
const HORIZON_YEARS: i64 = 5;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Schedule {
    Fields { minutes: u64, hours: u64, days: u64, months: u64, weekdays: u64, any_day: bool, any_weekday: bool },
    Every(SignedDuration),
}

impl Schedule {
    /// The error is the sentence for the event.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        if let Some(duration) = fields.strip_prefix("@every ") {
            let seconds = go_duration_seconds(duration)
                .ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration \"{duration}\""))?;
            return Ok(Schedule::Every(SignedDuration::from_secs(seconds.max(1))));
        }
        if fields.starts_with('@') {
            return Err(format!("unrecognized descriptor: {text}"));
        }
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        let (minutes, _) = field(minutes, 0, 59, &[])?;
        let (hours, _) = field(hours, 0, 23, &[])?;
        let (days, any_day) = field(days, 1, 31, &[])?;
        let (months, _) = field(months, 1, 12, &MONTHS)?;
        let (weekdays, any_weekday) = field(weekdays, 0, 6, &WEEKDAYS)?;
        Ok(Schedule::Fields { minutes, hours, days, months, weekdays, any_day, any_weekday })
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let Schedule::Fields { minutes, hours, months, .. } = self else {
            let Schedule::Every(interval) = self else { return None };
            return Timestamp::from_second(after.as_second()).ok()?.checked_add(*interval).ok();
        };
        let start = Timestamp::from_second(after.as_second().div_euclid(60) * 60 + 60).ok()?;
        let mut at = start.to_zoned(zone.clone());
        let horizon = at.checked_add(HORIZON_YEARS.years()).ok()?;
        while at < horizon {
            if !has(*months, at.month().into()) {
                at = at.first_of_month().ok()?.start_of_day().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?;
            } else if !self.runs_on_day_of(&at) {
                at = at.start_of_day().ok()?.checked_add(1.day()).ok()?.start_of_day().ok()?;
            } else if !has(*hours, at.hour().into()) {
                at = at.checked_add((60 - i64::from(at.minute())).minutes()).ok()?;
            } else if !has(*minutes, at.minute().into()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }

    /// The last time in `(earliest, now]`.
    pub fn latest(&self, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Schedule::Every(interval) = self {
            let periods = (now.as_second() - earliest.as_second()) / interval.as_secs();
            let at = Timestamp::from_second(earliest.as_second() + periods * interval.as_secs()).ok()?;
            return (periods > 0).then_some(at);
        }
        // The shorter the window that has a time in it, the fewer times there are to walk through.
        const WINDOWS_HOURS: [i64; 6] = [1, 24, 7 * 24, 31 * 24, 366 * 24, 5 * 366 * 24];
        for hours in WINDOWS_HOURS {
            let from = now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(earliest).max(earliest);
            let mut latest = None;
            let mut at = self.next(from, zone);
            while let Some(time) = at.filter(|time| *time <= now) {
                latest = Some(time);
                at = self.next(time, zone);
            }
            if latest.is_some() || from == earliest {
                return latest;
            }
        }
        None
    }

    /// A restricted day of the month and a restricted weekday: either will do.
    fn runs_on_day_of(&self, at: &Zoned) -> bool {
        let Schedule::Fields { days, weekdays, any_day, any_weekday, .. } = self else { return false };
        let by_day = has(*days, at.day().into());
        let by_weekday = has(*weekdays, at.weekday().to_sunday_zero_offset().into());
        if *any_day || *any_weekday { by_day && by_weekday } else { by_day || by_weekday }
    }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn has(set: u64, value: i64) -> bool {
    set & (1 << value) != 0
}

/// The set of values as bits, and whether the field leaves everything open.
fn field(text: &str, low: u32, high: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let (mut set, mut any) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        if part.matches('/').count() > 1 {
            return Err(format!("too many slashes: {part}"));
        }
        if part.split('/').next().is_some_and(|range| range.matches('-').count() > 1) {
            return Err(format!("too many hyphens: {part}"));
        }
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step_by = match step {
            Some(step) => integer(step)?,
            None => 1,
        };
        if step_by == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        let (from, to) = if matches!(range, "*" | "?") {
            any |= step_by == 1;
            (low, high)
        } else {
            let (from, to) = range.split_once('-').map_or((range, None), |(from, to)| (from, Some(to)));
            let from = value(from, low, names)?;
            let to = match to {
                Some(to) => value(to, low, names)?,
                None if step.is_some() => high,
                None => from,
            };
            (from, to)
        };
        if from < low {
            return Err(format!("beginning of range ({from}) below minimum ({low}): {part}"));
        }
        if to > high {
            return Err(format!("end of range ({to}) above maximum ({high}): {part}"));
        }
        if from > to {
            return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
        }
        for number in (from..=to).step_by(step_by as usize) {
            set |= 1 << number;
        }
    }
    Ok((set, any))
}

fn value(text: &str, low: u32, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = names.iter().position(|name| *name == lower) {
        return Ok(at as u32 + low);
    }
    integer(text)
}

/// In the words of Go's own parser.
fn integer(text: &str) -> Result<u32, String> {
    let number = text.parse::<i64>().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))?;
    u32::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}

/// `1h30m`, in whole seconds.
fn go_duration_seconds(text: &str) -> Option<i64> {
    let (mut total, mut number) = (0.0, String::new());
    let mut letters = text.trim().chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_digit() || letter == '.' {
            number.push(letter);
            continue;
        }
        let unit = match (letter, letters.peek()) {
            ('m', Some('s')) => {
                letters.next();
                0.001
            }
            ('h', _) => 3600.0,
            ('m', _) => 60.0,
            ('s', _) => 1.0,
            _ => return None,
        };
        total += std::mem::take(&mut number).parse::<f64>().ok()? * unit;
    }
    (number.is_empty() && total > 0.0).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, zone: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule::parse(schedule).unwrap();
        let zone = if zone.is_empty() { TimeZone::UTC } else { TimeZone::get(zone).unwrap() };
        let mut at: Timestamp = after.parse().unwrap();
        for expected in expected {
            at = schedule.next(at, &zone).unwrap();
            assert_eq!(at.to_string(), *expected, "{schedule:?}");
        }
    }

    #[test]
    fn finds_the_next_times() {
        check("* * * * *", "", "2026-01-01T00:00:30Z", &["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]);
        check("*/20 3 * * *", "", "2026-01-01T03:20:00Z", &["2026-01-01T03:40:00Z", "2026-01-02T03:00:00Z"]);
        check("0 0 31 * *", "", "2026-01-31T00:00:00Z", &["2026-03-31T00:00:00Z"]);
        check("0 12 * * mon-fri", "", "2026-01-02T12:00:00Z", &["2026-01-05T12:00:00Z"]);
        check("0 0 13 * 5", "", "2026-01-09T00:00:00Z", &["2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"]);
        check("@hourly", "", "2026-01-01T00:00:00Z", &["2026-01-01T01:00:00Z"]);
        check("@every 1h30m", "", "2026-01-01T00:00:00Z", &["2026-01-01T01:30:00Z"]);
        check("0 9 * * *", "America/New_York", "2026-01-01T00:00:00Z", &["2026-01-01T14:00:00Z"]);
        // The clocks go forward: there is no 2:30 on that day.
        check("30 2 * * *", "America/New_York", "2026-03-07T08:00:00Z", &["2026-03-09T06:30:00Z"]);
    }

    #[test]
    fn finds_the_latest_time() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let latest = |schedule: &str, earliest: &str| {
            let schedule = Schedule::parse(schedule).unwrap();
            schedule.latest(at(earliest), at("2026-06-15T10:30:30Z"), &TimeZone::UTC).map(|time| time.to_string())
        };
        assert_eq!(latest("* * * * *", "2020-01-01T00:00:00Z").as_deref(), Some("2026-06-15T10:30:00Z"));
        assert_eq!(latest("0 0 1 1 *", "2020-01-01T00:00:00Z").as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(latest("0 0 1 1 *", "2026-02-01T00:00:00Z"), None);
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |text: &str, expected: &str| assert_eq!(Schedule::parse(text).unwrap_err(), expected);
        check("* * * *", "expected exactly 5 fields, found 4: [* * * *]");
        check("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]");
        check("61 * * * *", "end of range (61) above maximum (59): 61");
        check("* 24 * * *", "end of range (24) above maximum (23): 24");
        check("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        check("* * * 13 *", "end of range (13) above maximum (12): 13");
        check("* * * * 7", "end of range (7) above maximum (6): 7");
        check("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
        check("*/0 * * * *", "step of range should be a positive number: */0");
        check("1/2/3 * * * *", "too many slashes: 1/2/3");
        check("1-2-3 * * * *", "too many hyphens: 1-2-3");
        check("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax");
        check("*/-2 * * * *", "negative number (-2) not allowed: -2");
        check("@never", "unrecognized descriptor: @never");
        check("@every often", "failed to parse duration @every often: time: invalid duration \"often\"");
        let never = Schedule::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }

    #[test]
    fn reads_fields_as_cron_does() {
        const AT: &str = "2026-07-09T14:45:00Z"; // A Thursday.
        //    schedule            zone  after  next
        check("0/15 * * * *", "", AT, &["2026-07-09T15:00:00Z", "2026-07-09T15:15:00Z"]);
        check("5/15 * * * *", "", AT, &["2026-07-09T14:50:00Z", "2026-07-09T15:05:00Z"]);
        check("20-35/15 * * * *", "", AT, &["2026-07-09T15:20:00Z", "2026-07-09T15:35:00Z", "2026-07-09T16:20:00Z"]);
        check("1,31 14,22 * * *", "", AT, &["2026-07-09T22:01:00Z", "2026-07-09T22:31:00Z", "2026-07-10T14:01:00Z"]);
        check("0 0 ? * ?", "", AT, &["2026-07-10T00:00:00Z"]);
        check("0 0 9 Apr-Oct ?", "", AT, &["2026-08-09T00:00:00Z"]);
        check("0 0 */5 Apr,Aug,Oct Mon", "", AT, &["2026-08-01T00:00:00Z", "2026-08-03T00:00:00Z", "2026-08-06T00:00:00Z"]); // Either will do.
        check("0 0 29 Feb ?", "", AT, &["2028-02-29T00:00:00Z"]);
        check("59 23 31 12 *", "", AT, &["2026-12-31T23:59:00Z"]);
        check("@yearly", "", AT, &["2027-01-01T00:00:00Z"]);
        check("@monthly", "", AT, &["2026-08-01T00:00:00Z"]);
        check("@weekly", "", AT, &["2026-07-12T00:00:00Z"]);
        check("@daily", "", AT, &["2026-07-10T00:00:00Z"]);
        check("@every 90s", "", AT, &["2026-07-09T14:46:30Z"]);
        // Clocks that go back: one o'clock comes twice, for who runs each hour.
        check("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", &["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"]);
        check("0 14 * * *", "Asia/Kolkata", AT, &["2026-07-10T08:30:00Z"]);
    }
}
