//! Tables that the server made, with the columns that the user adds.

use serde_json::Value;

use super::tabs::Rows;
use crate::discovery::Resource;
use crate::value::{list, text};

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub wide: bool,
    pub no_headers: bool,
    pub with_namespace: bool,
    /// `pod/web` instead of `web`.
    pub with_kind: bool,
    pub show_labels: bool,
    pub label_columns: Vec<String>,
    /// The kind of watch event in front.
    pub watch_events: bool,
    pub colours: bool,
}

/// Prints tables one after another into the same columns.
#[derive(Default)]
pub struct Printer {
    pub options: Options,
    rows: Rows,
    /// A watch sends the columns once only.
    columns: Vec<Value>,
    headed: bool,
}

impl Printer {
    pub fn new(options: Options) -> Self {
        Printer { options, ..Printer::default() }
    }

    /// The next kind starts afresh.
    pub fn next_kind(&mut self) {
        self.rows = Rows::default();
        self.columns.clear();
        self.headed = false;
    }

    pub fn lines(&mut self, table: &Value, resource: &Resource, event: &str) -> String {
        let columns = list(table, "/columnDefinitions");
        if !columns.is_empty() {
            self.columns = columns.to_vec();
        }
        let shown: Vec<usize> = (0..self.columns.len()).filter(|at| self.options.wide || self.columns[*at]["priority"].as_i64().unwrap_or(0) == 0).collect();
        let names = self.header(&shown);
        let mut lines = Vec::new();
        let headers = usize::from(!self.headed && !self.options.no_headers);
        if !self.headed && !self.options.no_headers {
            lines.push(names.clone());
        }
        self.headed = true;
        for row in list(table, "/rows") {
            lines.push(self.row(row, &shown, resource, event));
        }
        let colours = self.options.colours;
        self.rows.painted_lines(&lines, |row, column, cell| {
            if !colours || row < headers { None } else { super::live::colour(names.get(column)?, cell) }
        })
    }

    fn header(&self, shown: &[usize]) -> Vec<String> {
        let mut header = Vec::new();
        if self.options.watch_events {
            header.push("EVENT".to_owned());
        }
        if self.options.with_namespace {
            header.push("NAMESPACE".to_owned());
        }
        header.extend(shown.iter().map(|at| text(&self.columns[*at], "/name").to_uppercase()));
        header.extend(self.options.label_columns.iter().map(|label| label.rsplit('/').next().unwrap_or_default().to_uppercase()));
        if self.options.show_labels {
            header.push("LABELS".to_owned());
        }
        header
    }

    fn row(&self, row: &Value, shown: &[usize], resource: &Resource, event: &str) -> Vec<String> {
        let mut cells = Vec::new();
        if self.options.watch_events {
            cells.push(event.to_owned());
        }
        if self.options.with_namespace {
            cells.push(text(row, "/object/metadata/namespace").to_owned());
        }
        let values = list(row, "/cells");
        for at in shown {
            let cell = values.get(*at).map(cell).unwrap_or_default();
            let is_name = text(&self.columns[*at], "/name").eq_ignore_ascii_case("name");
            cells.push(if self.options.with_kind && is_name && *at == 0 { format!("{}/{cell}", resource.singular_qualified()) } else { cell });
        }
        for label in &self.options.label_columns {
            let value = row.pointer("/object/metadata/labels").and_then(|labels| labels.get(label)).and_then(Value::as_str);
            cells.push(value.unwrap_or("").to_owned());
        }
        if self.options.show_labels {
            cells.push(crate::value::pairs(row, "/object/metadata/labels", "<none>"));
        }
        cells
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match text.find(['\n', '\r', '\u{c}']) {
            // One object, one line.
            Some(end) => format!("{}...", &text[..end]),
            None => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        },
        other => other.to_string(),
    }
}

/// A table of a resource whose server knows no tables: name and age.
pub fn generic(objects: &[Value], now: jiff::Timestamp) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let age = crate::output::age_of(text(object, "/metadata/creationTimestamp"), now);
            serde_json::json!({"cells": [text(object, "/metadata/name"), age], "object": object})
        })
        .collect();
    serde_json::json!({"kind": "Table", "columnDefinitions": [{"name": "Name"}, {"name": "Age"}], "rows": rows})
}
