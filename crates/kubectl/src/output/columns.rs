//! `-o custom-columns=NAME:.metadata.name,...`

use serde_json::Value;

use super::jsonpath::JsonPath;
use super::tabs::Rows;
use crate::error::{Error, Result};
use crate::fail;
use crate::value::plain;

pub struct Columns {
    columns: Vec<(String, JsonPath)>,
    no_headers: bool,
    rows: Rows,
    headed: bool,
}

impl Columns {
    pub fn parse(specification: &str, no_headers: bool) -> Result<Self> {
        if specification.is_empty() {
            fail!("custom-columns format specified but no custom columns given");
        }
        let mut columns = Vec::new();
        for part in split(specification) {
            let Some((header, path)) = part.split_once(':') else {
                fail!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>");
            };
            columns.push((header.to_owned(), JsonPath::parse_relaxed(path).map_err(Error::Message)?));
        }
        Ok(Columns { columns, no_headers, rows: Rows::default(), headed: false })
    }

    /// A file with the headers in its first line and the paths in its second.
    pub fn parse_file(content: &str, no_headers: bool) -> Result<Self> {
        let mut lines = content.lines();
        let (Some(headers), Some(paths)) = (lines.next(), lines.next()) else {
            fail!("invalid template, missing spec or headers line. Expected first line to be headers, second to be column specs");
        };
        let (headers, paths): (Vec<&str>, Vec<&str>) = (headers.split_whitespace().collect(), paths.split_whitespace().collect());
        if headers.len() != paths.len() {
            fail!("number of headers ({}) and field specifications ({}) don't match", headers.len(), paths.len());
        }
        let columns = headers.into_iter().zip(paths).map(|(header, path)| Ok((header.to_owned(), JsonPath::parse_relaxed(path).map_err(Error::Message)?)));
        Ok(Columns { columns: columns.collect::<Result<_>>()?, no_headers, rows: Rows::default(), headed: false })
    }

    pub fn lines(&mut self, objects: &[&Value]) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        if !self.headed && !self.no_headers {
            rows.push(self.columns.iter().map(|(header, _)| header.clone()).collect());
        }
        self.headed = true;
        for object in objects {
            let cell = |path: &JsonPath| {
                let found: Vec<String> = path.find(object).into_iter().map(shown).collect();
                if found.is_empty() { "<none>".to_owned() } else { found.join(",") }
            };
            rows.push(self.columns.iter().map(|(_, path)| cell(path)).collect());
        }
        self.rows.lines(&rows)
    }
}

/// As Go prints a value with `%v`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let all: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", all.join(" "))
        }
        other => plain(other),
    }
}

/// At commas, but not inside brackets.
fn split(specification: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0i32;
    for c in specification.chars() {
        match c {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is always a part").push(c);
    }
    parts
}
