//! Container logs in CRI's format: `2016-10-06T00:17:09.669794202Z stdout F line`.
//!
//! A line longer than 16 KiB is cut into parts marked `P`; what ends without a newline is one as well.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

const LINE_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Cuts one stream into lines.
pub struct Lines {
    stream: Stream,
    /// The beginning of a line whose end has not come: less than `LINE_MAX + 1`.
    rest: Vec<u8>,
}

impl Lines {
    pub fn new(stream: Stream) -> Lines {
        Lines { stream, rest: Vec::new() }
    }

    /// Appends to `out` the entries that `bytes` complete.
    pub fn feed(&mut self, mut bytes: &[u8], now: i64, out: &mut Vec<u8>) {
        let time = timestamp(now);
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let content = &bytes[..end.unwrap_or(bytes.len())];
            let room = LINE_MAX - self.rest.len();
            if content.len() > room {
                self.rest.extend_from_slice(&content[..room]);
                self.entry(&time, 'P', out);
                bytes = &bytes[room..];
                continue;
            }
            self.rest.extend_from_slice(content);
            let Some(end) = end else { return };
            bytes = &bytes[end + 1..];
            if self.rest.last() == Some(&b'\r') {
                self.rest.pop();
            }
            self.entry(&time, 'F', out);
        }
    }

    /// The stream has ended.
    pub fn finish(&mut self, now: i64, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.entry(&timestamp(now), 'P', out);
        }
    }

    fn entry(&mut self, time: &str, tag: char, out: &mut Vec<u8>) {
        let stream = match self.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(b" ");
        out.extend_from_slice(stream.as_bytes());
        out.extend_from_slice(&[b' ', tag as u8, b' ']);
        out.append(&mut self.rest);
        out.push(b'\n');
    }
}

/// The file that the kubelet rotates by renaming it.
pub struct LogFile {
    path: Option<PathBuf>,
    file: Option<File>,
}

impl LogFile {
    pub fn open(path: Option<PathBuf>) -> io::Result<LogFile> {
        let mut log = LogFile { path, file: None };
        log.reopen()?;
        Ok(log)
    }

    pub fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        self.file = Some(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?);
        Ok(())
    }

    /// A container is not held up by a full disk: what cannot be written is lost.
    pub fn write(&mut self, entries: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = file.write_all(entries);
        }
    }
}

/// RFC 3339 in UTC with nanoseconds.
fn timestamp(nanoseconds: i64) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01 in eras of 400 years, so that the leap day is the last of a year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400 + i64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        for (nanoseconds, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_475_713_029_669_794_202, "2016-10-06T00:17:09.669794202Z"),
            (1_798_761_599_999_999_999, "2026-12-31T23:59:59.999999999Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(timestamp(nanoseconds), expected);
        }
    }

    #[track_caller]
    fn check(pieces: &[&str], expected: &str) {
        let mut lines = Lines::new(Stream::Stdout);
        let mut out = Vec::new();
        for piece in pieces {
            lines.feed(piece.as_bytes(), 0, &mut out);
        }
        lines.finish(0, &mut out);
        let text = String::from_utf8(out).unwrap().replace("1970-01-01T00:00:00.000000000Z stdout ", "");
        assert_eq!(text, expected);
    }

    #[test]
    fn cuts_lines() {
        check(&["a\nb\n"], "F a\nF b\n");
        check(&["a", "b\n", "\n"], "F ab\nF \n");
        check(&["a\r\n"], "F a\n");
        check(&["prompt> "], "P prompt> \n");
        let long = "x".repeat(LINE_MAX);
        check(&[&long, "\n"], &format!("F {long}\n"));
        check(&[&long, "y\n"], &format!("P {long}\nF y\n"));
        check(&[&format!("{long}{long}yz")], &format!("P {long}\nP {long}\nP yz\n"));
    }
}
