//! YAML as `kubectl -o yaml` prints it: sorted keys, lists at their parent's indent, quotes where Go's printer
//! sets them, long lines folded at 80 columns.

use std::cmp::Ordering;

use serde_json::Value;

use super::scalar::reads_as_other;

const WIDTH: usize = 80;
const INDENT: usize = 2;
/// Longer keys would be written in another notation.
const SIMPLE_KEY_MAX: usize = 128;

/// Ends with a line break.
pub fn to_yaml(value: &Value) -> String {
    let mut printer = Printer {
        out: String::new(),
        column: 0,
    };
    printer.node(value, 0, false);
    printer.out.push('\n');
    printer.out
}

struct Printer {
    out: String,
    column: usize,
}

impl Printer {
    /// A node after its key, dash or nothing. `inline` says that something stands on the line already.
    fn node(&mut self, value: &Value, indent: usize, inline: bool) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                let mut keys: Vec<&String> = fields.keys().collect();
                keys.sort_by(|left, right| natural(left, right));
                for (position, key) in keys.into_iter().enumerate() {
                    if position > 0 || inline {
                        self.line_break(indent);
                    }
                    self.entry(key, &fields[key], indent);
                }
            }
            Value::Array(elements) if !elements.is_empty() => {
                for (position, element) in elements.iter().enumerate() {
                    if position > 0 || inline {
                        self.line_break(indent);
                    }
                    self.put("-");
                    self.element(element, indent);
                }
            }
            scalar => self.scalar(scalar, indent),
        }
    }

    fn entry(&mut self, key: &str, value: &Value, indent: usize) {
        if key.chars().count() > SIMPLE_KEY_MAX {
            self.put("? ");
            self.text(key, indent, false);
            self.line_break(indent);
        } else {
            self.text(key, indent, true);
        }
        self.put(":");
        match value {
            Value::Object(fields) if !fields.is_empty() => self.node(value, indent + INDENT, true),
            Value::Array(elements) if !elements.is_empty() => self.node(value, indent, true),
            scalar => {
                self.put(" ");
                self.scalar(scalar, indent);
            }
        }
    }

    fn element(&mut self, element: &Value, indent: usize) {
        self.put(" ");
        match element {
            Value::Object(_) | Value::Array(_) => self.node(element, indent + INDENT, false),
            scalar => self.scalar(scalar, indent),
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.put("null"),
            Value::Bool(value) => self.put(if *value { "true" } else { "false" }),
            Value::Number(number) => self.put(&number.to_string()),
            Value::String(text) => self.text(text, indent, false),
            Value::Array(_) => self.put("[]"),
            Value::Object(_) => self.put("{}"),
        }
    }

    fn put(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn line_break(&mut self, indent: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.column = indent;
    }

    fn text(&mut self, text: &str, indent: usize, key: bool) {
        let shape = Shape::of(text);
        if text.contains('\n') && !key && shape.block {
            self.literal(text, indent + INDENT);
        } else if text.contains('\n') || reads_as_other(text) {
            self.double_quoted(text, indent + INDENT, key);
        } else if shape.plain {
            self.folded(text, indent + INDENT, key, false);
        } else if shape.single_quoted {
            self.put("'");
            self.folded(&text.replace('\'', "''"), indent + INDENT, key, true);
            self.put("'");
        } else {
            self.double_quoted(text, indent + INDENT, key);
        }
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.put("|");
        if text.starts_with([' ', '\n']) {
            self.put(&INDENT.to_string());
        }
        let body = match text.strip_suffix('\n') {
            None => {
                self.put("-");
                text
            }
            Some(body) => {
                if body.is_empty() || body.ends_with('\n') {
                    self.put("+");
                }
                body
            }
        };
        for line in body.split('\n') {
            if line.is_empty() {
                self.out.push('\n');
            } else {
                self.line_break(indent);
                self.put(line);
            }
        }
    }

    /// Breaks at the first single space past the width.
    fn folded(&mut self, text: &str, indent: usize, key: bool, quoted: bool) {
        let letters: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (at, letter) in letters.iter().enumerate() {
            let edge = quoted && (at == 0 || at + 1 == letters.len());
            let next_is_space = letters.get(at + 1) == Some(&' ');
            if *letter == ' '
                && !key
                && !after_space
                && self.column > WIDTH
                && !edge
                && !next_is_space
            {
                self.line_break(indent);
            } else {
                self.put(letter.encode_utf8(&mut [0; 4]));
            }
            after_space = *letter == ' ';
        }
    }

    fn double_quoted(&mut self, text: &str, indent: usize, key: bool) {
        self.put("\"");
        let letters: Vec<char> = text.chars().collect();
        let mut after_space = false;
        for (at, letter) in letters.iter().enumerate() {
            let inner = at > 0 && at + 1 < letters.len();
            if *letter == ' ' && !key && !after_space && self.column > WIDTH && inner {
                self.line_break(indent);
                if letters[at + 1] == ' ' {
                    self.put("\\");
                }
            } else {
                self.escaped(*letter);
            }
            after_space = *letter == ' ';
        }
        self.put("\"");
    }

    fn escaped(&mut self, letter: char) {
        let code = u32::from(letter);
        let escape = match letter {
            '\0' => "\\0",
            '\u{7}' => "\\a",
            '\u{8}' => "\\b",
            '\t' => "\\t",
            '\n' => "\\n",
            '\u{b}' => "\\v",
            '\u{c}' => "\\f",
            '\r' => "\\r",
            '\u{1b}' => "\\e",
            '"' => "\\\"",
            '\\' => "\\\\",
            '\u{85}' => "\\N",
            '\u{2028}' => "\\L",
            '\u{2029}' => "\\P",
            _ if is_printable(letter) => return self.put(letter.encode_utf8(&mut [0; 4])),
            _ if code <= 0xff => return self.put(&format!("\\x{code:02X}")),
            _ if code <= 0xffff => return self.put(&format!("\\u{code:04X}")),
            _ => return self.put(&format!("\\U{code:08X}")),
        };
        self.put(escape);
    }
}

/// Which notations can hold a text.
struct Shape {
    plain: bool,
    single_quoted: bool,
    block: bool,
}

impl Shape {
    fn of(text: &str) -> Shape {
        if text.is_empty() {
            return Shape {
                plain: false,
                single_quoted: true,
                block: false,
            };
        }
        let blank = |letter: Option<&char>| {
            letter.is_none_or(|letter| " \t\n\r\u{85}\u{2028}\u{2029}".contains(*letter))
        };
        let letters: Vec<char> = text.chars().collect();
        let mut indicator = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut space_break, mut break_space) = (false, false, false);
        for (at, letter) in letters.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| letters[at]);
            let blank_after = blank(letters.get(at + 1));
            indicator |= match letter {
                '#' => at == 0 || blank(before.as_ref()),
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
                | '@' | '`' => at == 0,
                '?' | '-' => at == 0 && blank_after,
                ':' => blank_after,
                _ => false,
            };
            special |= !is_printable(*letter);
            break_space |= *letter == ' ' && before == Some('\n');
            space_break |= *letter == '\n' && before == Some(' ');
        }
        let breaks = text.contains('\n');
        let edge = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        Shape {
            plain: !indicator && !special && !breaks && !edge,
            single_quoted: !special && !space_break && !break_space,
            block: !special && !space_break && !text.ends_with(' '),
        }
    }
}

/// What Go's printer writes as it stands; tabs and emoji are not among it.
fn is_printable(letter: char) -> bool {
    matches!(letter, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
        && !matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Go's order of keys: numbers inside of names count as numbers, letters come after other signs.
fn natural(left: &str, right: &str) -> Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut digits = false;
    for at in 0..left.len().min(right.len()) {
        let (one, other) = (left[at], right[at]);
        if one == other {
            digits = one.is_numeric();
            continue;
        }
        match (one.is_alphabetic(), other.is_alphabetic()) {
            (true, true) => return one.cmp(&other),
            (false, false) => {}
            (first_is_letter, _) => {
                return if first_is_letter == digits {
                    Ordering::Less
                } else {
                    Ordering::Greater
                };
            }
        }
        let number = |letters: &[char]| {
            let run: Vec<char> = letters[at..]
                .iter()
                .copied()
                .take_while(char::is_ascii_digit)
                .collect();
            (
                run.iter().fold(0u64, |number, digit| {
                    number
                        .saturating_mul(10)
                        .saturating_add(u64::from(*digit as u32 - 48))
                }),
                run.len(),
            )
        };
        let (mut left_number, mut right_number) = (number(&left), number(&right));
        let after_number = left[..at]
            .iter()
            .rev()
            .take_while(|letter| letter.is_ascii_digit())
            .any(|letter| *letter != '0');
        if (one == '0' || other == '0') && after_number {
            // A leading zero counts inside of a longer number.
            left_number.0 = left_number
                .0
                .saturating_add(10u64.saturating_pow(left_number.1 as u32));
            right_number.0 = right_number
                .0
                .saturating_add(10u64.saturating_pow(right_number.1 as u32));
        }
        return left_number.cmp(&right_number).then(one.cmp(&other));
    }
    left.len().cmp(&right.len())
}
