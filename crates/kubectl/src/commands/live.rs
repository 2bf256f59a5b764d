//! `get --watch` at a terminal: the table itself changes.
//!
//! Invariant: what stands on the screen is what a `get` would show; ages go on by themselves.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::discovery::Resource;
use crate::error::Result;
use crate::output::age_of;
use crate::output::live::Screen;
use crate::output::table::{Options, Printer};
use crate::rest::Lines;
use crate::session::Session;
use crate::value::{list, text};

/// How often ages are brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// Shows `table` and then what `events` make of it, until they end.
pub async fn watch(session: &Session, options: &Options, resource: &Rc<Resource>, table: &Value, events: &mut Lines) -> Result {
    let mut columns = list(table, "/columnDefinitions").to_vec();
    let mut rows: Vec<Value> = list(table, "/rows").to_vec();
    let mut screen = Screen::default();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            event = events.event() => {
                let Some((kind, change)) = event? else { return Ok(()) };
                if kind == "BOOKMARK" {
                    continue;
                }
                if !list(&change, "/columnDefinitions").is_empty() {
                    columns = list(&change, "/columnDefinitions").to_vec();
                }
                for row in list(&change, "/rows") {
                    put(&mut rows, row, &kind);
                }
            }
            _ = tick.tick() => {}
        }
        let now = session.clock.now();
        let shown: Vec<Value> = rows.iter().map(|row| aged(row, &columns, now)).collect();
        let table = serde_json::json!({"columnDefinitions": columns, "rows": shown});
        let text = if shown.is_empty() { String::new() } else { Printer::new(options.clone()).lines(&table, resource, "") };
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        session.print(screen.frame(&lines, session.screen_size()))?;
        session.flush()?;
    }
}

fn key(row: &Value) -> (&str, &str) {
    (text(row, "/object/metadata/namespace"), text(row, "/object/metadata/name"))
}

/// The rows after one event.
fn put(rows: &mut Vec<Value>, row: &Value, kind: &str) {
    let at = rows.iter().position(|known| key(known) == key(row));
    match (at, kind) {
        (Some(at), "DELETED") => {
            rows.remove(at);
        }
        (Some(at), _) => rows[at] = row.clone(),
        (None, "DELETED") => {}
        (None, _) => rows.push(row.clone()),
    }
}

/// The row with its age as of now.
fn aged(row: &Value, columns: &[Value], now: jiff::Timestamp) -> Value {
    let mut row = row.clone();
    let since = text(&row, "/object/metadata/creationTimestamp").to_owned();
    let at = columns.iter().position(|column| text(column, "/name").eq_ignore_ascii_case("age"));
    if let (Some(at), false) = (at, since.is_empty())
        && let Some(cell) = row.pointer_mut(&format!("/cells/{at}"))
    {
        *cell = age_of(&since, now).into();
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_change_in_place() {
        let row = |name: &str, state: &str| json!({"cells": [name, state], "object": {"metadata": {"name": name}}});
        let mut rows = vec![row("a", "Pending"), row("b", "Pending")];
        let mut check = |kind: &str, change: Value, expected: &str| {
            put(&mut rows, &change, kind);
            let shown: Vec<String> = rows.iter().map(|row| format!("{} {}", text(row, "/cells/0"), text(row, "/cells/1"))).collect();
            assert_eq!(shown.join(", "), expected);
        };
        check("MODIFIED", row("a", "Running"), "a Running, b Pending");
        check("ADDED", row("c", "Pending"), "a Running, b Pending, c Pending");
        check("DELETED", row("b", "Pending"), "a Running, c Pending");
        check("DELETED", row("b", "Pending"), "a Running, c Pending");
    }

    #[test]
    fn ages_go_on() {
        let now: jiff::Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let row = json!({"cells": ["a", "1s"], "object": {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}}});
        assert_eq!(aged(&row, &[json!({"name": "Name"}), json!({"name": "Age"})], now)["cells"], json!(["a", "5m"]));
    }
}
