//! Checks for the tables of tests beside the kinds.

use serde_json::Value;

use super::{Kind, Problem, Problems};

/// `expected` holds all problems, one a line.
#[track_caller]
pub fn check(kind: &Kind, object: Value, expected: &str) {
    let mut problems = Problems::default();
    (kind.validate)(&object, &mut problems);
    assert_eq!(lines(&problems), expected);
}

/// With defaults set before.
#[track_caller]
pub fn check_defaulted(kind: &Kind, mut object: Value, expected: &str) {
    (kind.defaults)(&mut object);
    check(kind, object, expected);
}

#[track_caller]
pub fn check_update(kind: &Kind, new: Value, old: Value, expected: &str) {
    let mut problems = Problems::default();
    (kind.validate_update)(&new, &old, &mut problems);
    assert_eq!(lines(&problems), expected);
}

/// Cells of all columns, joined by ` | `.
#[track_caller]
pub fn check_row(kind: &Kind, object: Value, now: &str, expected: &str) {
    let now = now.parse().expect("a time");
    let cells = (kind.cells)(&object, now);
    assert_eq!(cells.len(), kind.columns.len(), "a cell for each column");
    let texts: Vec<String> =
        cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect();
    assert_eq!(texts.join(" | "), expected);
}

/// What defaults make of an object.
#[track_caller]
pub fn check_defaults(kind: &Kind, mut object: Value, expected: Value) {
    (kind.defaults)(&mut object);
    assert_eq!(object, expected);
}

fn lines(problems: &Problems) -> String {
    let lines: Vec<String> = problems.list.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
