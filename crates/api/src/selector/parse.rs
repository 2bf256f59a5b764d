//! The grammar of selectors, and the original's complaints about what does not follow it.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::{Operator, Requirement, SelectorError};
use crate::names;

/// Longer selectors are refused rather than parsed.
const TERMS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(text) => text,
            Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            found.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let ends = |letter: char| letter.is_whitespace() || "=!(),><".contains(letter);
            let (word, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
            found.push(Token::Word(word.to_owned()));
            rest = after;
        }
        rest = rest.trim_start();
    }
    found
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let tokens = tokens(text);
    if tokens.len() > TERMS_MAX {
        return Err(SelectorError("the selector is too long".to_owned()));
    }
    let mut parser = Parser {
        tokens: tokens.into_iter().peekable(),
    };
    let mut found = Vec::new();
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Symbol("!") => {}
            Token::End => return Ok(found),
            // The original reads anything else as a requirement too, and complains from in there.
            _ => {}
        }
        let requirement = parser.requirement().map_err(|SelectorError(problem)| {
            SelectorError(format!("unable to parse requirement: {problem}"))
        })?;
        found.push(requirement);
        match parser.next() {
            Token::End => return Ok(found),
            Token::Symbol(",") => match parser.peek() {
                Token::Word(_) | Token::Symbol("!") => {}
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: identifier after ','",
                        other.text()
                    )));
                }
            },
            other => {
                return Err(SelectorError(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    other.text()
                )));
            }
        }
    }
}

impl Parser {
    fn next(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token::End)
    }

    fn peek(&mut self) -> Token {
        self.tokens.peek().cloned().unwrap_or(Token::End)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => {
                return Err(SelectorError(format!(
                    "found '{}', expected: identifier",
                    other.text()
                )));
            }
        };
        check_key(&key, "<nil>")?;
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let token = self.next();
        let operator = match token.text() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => {
                return Err(SelectorError(format!(
                    "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
                )));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.value()?],
        };
        Requirement::new(&key, operator, values)
    }

    /// `(a, b)`; nothing between commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let opening = self.next();
        if opening != Token::Symbol("(") {
            return Err(SelectorError(format!(
                "found '{}', expected: '('",
                opening.text()
            )));
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.next();
                    word
                }
                Token::Symbol("," | ")") => String::new(),
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    )));
                }
            };
            values.push(value);
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => break,
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',' or ')'",
                        other.text()
                    )));
                }
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                Ok(word)
            }
            other => Err(SelectorError(format!(
                "found '{}', expected: identifier",
                other.text()
            ))),
        }
    }
}

pub(super) fn check_key(key: &str, path: &str) -> Result<(), SelectorError> {
    let problems = names::qualified_name(key);
    if problems.is_empty() {
        return Ok(());
    }
    Err(SelectorError(format!(
        "{path}: Invalid value: {key:?}: {}",
        problems.join("; ")
    )))
}

pub(super) fn check_values(
    key: &str,
    operator: Operator,
    values: &[String],
) -> Result<(), SelectorError> {
    let shown = || serde_json::to_string(values).unwrap_or_default();
    let invalid = |rule: &str| {
        Err(SelectorError(format!(
            "values: Invalid value: {}: {rule}",
            shown()
        )))
    };
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            return invalid("for 'in', 'notin' operators, values set can't be empty");
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            return invalid("values set must be empty for exists and does not exist");
        }
        Operator::GreaterThan | Operator::LessThan => {
            if let Some((index, value)) = values
                .iter()
                .enumerate()
                .find(|(_, value)| value.parse::<i64>().is_err())
            {
                let rule = "for 'Gt', 'Lt' operators, the value must be an integer";
                return Err(SelectorError(format!(
                    "values[{index}]: Invalid value: {value:?}: {rule}"
                )));
            }
        }
        _ => {}
    }
    for (index, value) in values.iter().enumerate() {
        let problems = names::label_value(value);
        if !problems.is_empty() {
            return Err(SelectorError(format!(
                "values[{index}][{key}]: Invalid value: {value:?}: {}",
                problems.join("; ")
            )));
        }
    }
    Ok(())
}

/// Splits at commas that no backslash escapes.
pub(super) fn field_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for letter in text.chars() {
        let last = terms.last_mut().expect("there is always a term");
        match letter {
            ',' if !escaped => terms.push(String::new()),
            _ => last.push(letter),
        }
        escaped = letter == '\\' && !escaped;
    }
    terms
}

/// Field, negation and escaped value.
pub(super) fn split_field_term(term: &str) -> Option<(String, bool, String)> {
    (0..term.len())
        .filter(|at| term.is_char_boundary(*at))
        .find_map(|at| {
            let (field, rest) = term.split_at(at);
            [("!=", true), ("==", false), ("=", false)]
                .into_iter()
                .find_map(|(operator, negated)| {
                    rest.strip_prefix(operator)
                        .map(|value| (field.to_owned(), negated, value.to_owned()))
                })
        })
}

pub(super) fn unescape_field_value(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                Some(other) => {
                    return Err(SelectorError(format!(
                        "invalid escape sequence: '\\{other}'"
                    )));
                }
                None => return Err(SelectorError("invalid escape sequence: '\\'".to_owned())),
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "unescaped character in value: '{letter}'"
                )));
            }
            _ => plain.push(letter),
        }
    }
    Ok(plain)
}
