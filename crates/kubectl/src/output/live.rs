//! What a person at a terminal sees more of: colours for states, a table that changes in place, a bar that fills.
//!
//! Invariant: pure text; a frame begins where the last one began. Nothing of this is written where the output is no
//! terminal. Deliberately absent: knowledge of kinds; a state is told by its word and by the column's name.

use crate::terminal::Size;

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
/// To the line's end.
const CLEAR_LINE: &str = "\x1b[K";
/// To the screen's end.
const CLEAR_BELOW: &str = "\x1b[J";
const BAR_WIDTH: usize = 30;

/// The colour of a cell, where its column tells a state.
pub fn colour(column: &str, cell: &str) -> Option<&'static str> {
    match column.to_ascii_uppercase().as_str() {
        "STATUS" | "PHASE" | "TYPE" | "CONDITION" => state(cell),
        "READY" => match cell.split_once('/') {
            Some((ready, wanted)) if ready != wanted => Some(YELLOW),
            Some(_) => None,
            None => state(cell),
        },
        "RESTARTS" => (!cell.starts_with('0') && !cell.is_empty()).then_some(YELLOW),
        _ => None,
    }
}

fn state(word: &str) -> Option<&'static str> {
    let word = word.strip_prefix("Init:").unwrap_or(word);
    match word {
        "Running" | "Ready" | "Active" | "Bound" | "Completed" | "Complete" | "Succeeded" | "Available" | "Established" | "True" | "Approved,Issued" => Some(GREEN),
        "Pending" | "ContainerCreating" | "PodInitializing" | "Terminating" | "Released" | "Suspended" | "SchedulingGated" | "Warning" | "Approved" => Some(YELLOW),
        "False" | "Unknown" | "Failed" | "Lost" | "Evicted" | "OOMKilled" | "Denied" => Some(RED),
        _ if word.starts_with("NotReady") || word.starts_with("Err") || word.contains("Error") || word.ends_with("BackOff") || word.starts_with("Invalid") => Some(RED),
        _ if word.contains("SchedulingDisabled") => Some(YELLOW),
        _ => None,
    }
}

pub fn painted(text: &str, colour: Option<&str>) -> String {
    match colour {
        Some(colour) => format!("{colour}{text}{PLAIN}"),
        None => text.to_owned(),
    }
}

/// Lines that replace one another in place.
#[derive(Default)]
pub struct Screen {
    /// How many lines of the last frame the cursor stands below.
    height: usize,
}

impl Screen {
    /// The bytes that put `lines` where the last frame was. A table too long keeps its header and its last lines.
    pub fn frame(&mut self, lines: &[String], size: Option<Size>) -> String {
        let room = size.map_or(usize::MAX, |size| usize::from(size.height).saturating_sub(1).max(2));
        let width = size.map_or(usize::MAX, |size| usize::from(size.width).max(1));
        let mut out = if self.height > 0 { format!("\x1b[{}A\r", self.height) } else { String::new() };
        let hidden = lines.len().saturating_sub(room);
        let shown: Vec<&String> = lines.iter().take(1).chain(lines.iter().skip(1 + hidden)).collect();
        self.height = shown.len();
        for line in shown {
            out += &cut(line, width);
            out += CLEAR_LINE;
            out.push('\n');
        }
        out + CLEAR_BELOW
    }
}

/// At most `width` columns; colours take none.
fn cut(line: &str, width: usize) -> String {
    let mut out = String::new();
    let mut columns = 0;
    let mut escape = false;
    for c in line.chars() {
        if c == '\x1b' {
            escape = true;
        }
        if escape {
            out.push(c);
            escape = c != 'm';
            continue;
        }
        if columns < width {
            out.push(c);
        }
        columns += 1;
    }
    out
}

/// `[##########--------------------]  1/3 ready`, over itself.
pub fn bar(name: &str, done: i64, wanted: i64, what: &str, colours: bool) -> String {
    let share = if wanted > 0 { (done.clamp(0, wanted) * BAR_WIDTH as i64 / wanted) as usize } else { BAR_WIDTH };
    let full = painted(&"#".repeat(share), colours.then_some(GREEN));
    format!("\r{name} [{full}{}] {done}/{wanted} {what}{CLEAR_LINE}", "-".repeat(BAR_WIDTH - share))
}

/// The bar's line, free again.
pub fn clear() -> String {
    format!("\r{CLEAR_LINE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_colours() {
        let check = |column: &str, cell: &str, expected: &str| assert_eq!(painted(cell, colour(column, cell)), expected);
        check("STATUS", "Running", "\x1b[32mRunning\x1b[0m");
        check("STATUS", "CrashLoopBackOff", "\x1b[31mCrashLoopBackOff\x1b[0m");
        check("STATUS", "Init:Error", "\x1b[31mInit:Error\x1b[0m");
        check("STATUS", "Ready,SchedulingDisabled", "\x1b[33mReady,SchedulingDisabled\x1b[0m");
        check("READY", "1/1", "1/1");
        check("READY", "0/1", "\x1b[33m0/1\x1b[0m");
        check("NAME", "Running", "Running");
    }

    #[test]
    fn a_frame_covers_the_last_one() {
        let mut screen = Screen::default();
        let lines = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(screen.frame(&lines(&["NAME", "a"]), None), "NAME\x1b[K\na\x1b[K\n\x1b[J");
        assert_eq!(screen.frame(&lines(&["NAME"]), None), "\x1b[2A\rNAME\x1b[K\n\x1b[J");
        let small = Some(Size { width: 3, height: 3 });
        assert_eq!(screen.frame(&lines(&["NAME", "a", "b", "long"]), small), "\x1b[1A\rNAM\x1b[K\nlon\x1b[K\n\x1b[J");
    }

    #[test]
    fn a_bar_fills() {
        assert_eq!(bar("web", 1, 3, "ready", false), "\rweb [##########--------------------] 1/3 ready\x1b[K");
        assert_eq!(bar("web", 0, 0, "ready", false), "\rweb [##############################] 0/0 ready\x1b[K");
    }
}
