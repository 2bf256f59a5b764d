//! Cells separated by tabs, aligned as Go's `text/tabwriter` aligns them.
//!
//! Invariant: a column is a run of neighbouring lines that have a tab-terminated cell there; only such cells count
//! towards its width, and the last cell of a line is never padded.

#[derive(Clone, Copy, Debug)]
pub struct Tabs {
    pub min_width: usize,
    pub padding: usize,
}

/// As `describe` aligns.
pub const DESCRIBE: Tabs = Tabs { min_width: 0, padding: 2 };
/// As tables of `get` are aligned.
pub const TABLE: Tabs = Tabs { min_width: 6, padding: 3 };

pub fn align(text: &str, tabs: Tabs) -> String {
    let ends_line = text.ends_with('\n');
    let mut lines: Vec<&str> = text.split('\n').collect();
    if ends_line {
        lines.pop();
    }
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut out = String::with_capacity(text.len() * 2);
    format(&cells, 0, cells.len(), &mut Vec::new(), tabs, &mut out);
    if !ends_line {
        out.pop();
    }
    out
}

fn format(cells: &[Vec<&str>], from: usize, to: usize, widths: &mut Vec<usize>, tabs: Tabs, out: &mut String) {
    let column = widths.len();
    let mut done = from;
    let mut at = from;
    while at < to {
        if column + 1 >= cells[at].len() {
            at += 1;
            continue;
        }
        write(cells, done, at, widths, out);
        let mut end = at;
        let mut width = tabs.min_width;
        while end < to && column + 1 < cells[end].len() {
            width = width.max(cells[end][column].chars().count() + tabs.padding);
            end += 1;
        }
        widths.push(width);
        format(cells, at, end, widths, tabs, out);
        widths.pop();
        done = end;
        at = end;
    }
    write(cells, done, to, widths, out);
}

fn write(cells: &[Vec<&str>], from: usize, to: usize, widths: &[usize], out: &mut String) {
    for line in &cells[from..to] {
        for (index, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if index + 1 < line.len()
                && let Some(width) = widths.get(index)
            {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out.push('\n');
    }
}

/// Rows whose columns keep the widths they once had, for tables that grow line by line.
#[derive(Debug, Default)]
pub struct Rows {
    widths: Vec<usize>,
}

impl Rows {
    /// The rows as aligned lines.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        self.painted_lines(rows, |_, _, _| None)
    }

    /// The same with colours, which take no room: `paint` is given row, column and cell.
    pub fn painted_lines(&mut self, rows: &[Vec<String>], paint: impl Fn(usize, usize, &str) -> Option<&'static str>) -> String {
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                let width = (cell.chars().count() + TABLE.padding).max(TABLE.min_width);
                match self.widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => self.widths.push(width),
                }
            }
        }
        let mut out = String::new();
        for (number, row) in rows.iter().enumerate() {
            for (index, cell) in row.iter().enumerate() {
                out.push_str(&super::live::painted(cell, paint(number, index, cell)));
                if index + 1 < row.len() {
                    out.extend(std::iter::repeat_n(' ', self.widths[index].saturating_sub(cell.chars().count())));
                }
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(align(text, DESCRIBE), expected);
    }

    #[test]
    fn aligns_as_go_does() {
        check("Name:\tweb\nNamespace:\tdefault\n", "Name:       web\nNamespace:  default\n");
        check("a\tb\nplain\nlonger\tc\n", "a  b\nplain\nlonger  c\n");
        check("a\tb\tc\naa\tbbb\n", "a   b  c\naa  bbb\n");
        check("Events:\t<none>\n", "Events:  <none>\n");
    }

    #[test]
    fn rows_remember() {
        let mut rows = Rows::default();
        let row = |cells: &[&str]| vec![cells.iter().map(|cell| (*cell).to_owned()).collect()];
        assert_eq!(rows.lines(&row(&["NAME", "AGE"])), "NAME   AGE\n");
        assert_eq!(rows.lines(&row(&["longer", "1s"])), "longer   1s\n");
        assert_eq!(rows.lines(&row(&["web", "1s"])), "web      1s\n");
    }
}
