//! A cursor over JSON text that complains as Go's scanner does.

use std::borrow::Cow;

use super::{DEPTH_MAX, DecodeError};

pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

pub(super) type Scanned<T> = Result<T, DecodeError>;

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Scanner {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// The first byte of what comes next, white space skipped.
    pub fn peek(&mut self) -> Scanned<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().ok_or_else(end_of_input)
    }

    /// Nothing but white space may follow.
    pub fn finish(&mut self) -> Scanned<()> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(self.unexpected("after top-level value")),
        }
    }

    pub fn unexpected(&self, context: &str) -> DecodeError {
        let Some(letter) = self.text[self.at..].chars().next() else {
            return end_of_input();
        };
        let shown = match letter {
            '\'' => "'\\''".to_owned(),
            '"' => "'\"'".to_owned(),
            letter if letter.is_ascii() => format!("'{}'", letter.escape_default()),
            // Go looks at bytes.
            letter => format!("'\\u{:04x}'", letter.to_string().as_bytes()[0]),
        };
        DecodeError::Syntax(format!("invalid character {shown} {context}"))
    }

    /// Enters `{` or `[`, which `peek` has seen.
    pub fn open(&mut self) -> Scanned<()> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(DecodeError::Syntax("exceeded max depth".to_owned()));
        }
        Ok(())
    }

    /// The next key of an object, its colon passed; nothing at the end of the object.
    pub fn key(&mut self, first: bool) -> Scanned<Option<Cow<'a, str>>> {
        match self.peek()? {
            b'}' => {
                self.close();
                return Ok(None);
            }
            b',' if !first => {
                self.at += 1;
                if self.peek()? != b'"' {
                    return Err(self.unexpected("looking for beginning of object key string"));
                }
            }
            b'"' if first => {}
            _ if first => return Err(self.unexpected("looking for beginning of object key string")),
            _ => return Err(self.unexpected("after object key:value pair")),
        }
        let key = self.string()?;
        if self.peek()? != b':' {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether another element of an array follows.
    pub fn element(&mut self, first: bool) -> Scanned<bool> {
        match self.peek()? {
            b']' => {
                self.close();
                Ok(false)
            }
            b',' if !first => {
                self.at += 1;
                if self.peek()? == b']' {
                    return Err(self.unexpected("looking for beginning of value"));
                }
                Ok(true)
            }
            _ if first => Ok(true),
            _ => Err(self.unexpected("after array element")),
        }
    }

    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// A string that starts at the cursor; borrowed unless it has escapes.
    pub fn string(&mut self) -> Scanned<Cow<'a, str>> {
        let start = self.at + 1;
        self.at = start;
        self.plain_run()?;
        if self.text.as_bytes()[self.at] == b'"' {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut plain = self.text[start..self.at].to_owned();
        loop {
            if self.text.as_bytes()[self.at] == b'"' {
                self.at += 1;
                return Ok(Cow::Owned(plain));
            }
            self.at += 1; // the backslash
            self.escape(&mut plain)?;
            let run = self.at;
            self.plain_run()?;
            plain.push_str(&self.text[run..self.at]);
        }
    }

    /// Moves to the next quote or backslash.
    fn plain_run(&mut self) -> Scanned<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\') || *byte < 0x20);
        self.at += length.unwrap_or(rest.len());
        match self.text.as_bytes().get(self.at) {
            None => Err(end_of_input()),
            Some(b'"' | b'\\') => Ok(()),
            Some(_) => Err(self.unexpected("in string literal")),
        }
    }

    fn escape(&mut self, plain: &mut String) -> Scanned<()> {
        let letter = match self.text.as_bytes().get(self.at).ok_or_else(end_of_input)? {
            letter @ (b'"' | b'\\' | b'/') => char::from(*letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                plain.push(self.code_point()?);
                return Ok(());
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        plain.push(letter);
        Ok(())
    }

    /// Four hexadecimal digits, eight with a surrogate pair; a lone surrogate is replaced.
    fn code_point(&mut self) -> Scanned<char> {
        let high = self.hexadecimal()?;
        if !(0xd800..0xe000).contains(&high) {
            return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        if high < 0xdc00 && self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let low = self.hexadecimal()?;
            if (0xdc00..0xe000).contains(&low) {
                let combined = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(combined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        self.at = before;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hexadecimal(&mut self) -> Scanned<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = *self.text.as_bytes().get(self.at).ok_or_else(end_of_input)?;
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// The text of a number that starts at the cursor.
    pub fn number(&mut self) -> Scanned<&'a str> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(_) => return Err(self.unexpected("in numeric literal")),
            None => return Err(end_of_input()),
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(&self.text[start..self.at])
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Scanned<()> {
        match self.byte() {
            Some(b'0'..=b'9') => {
                self.digits();
                Ok(())
            }
            _ => Err(self.unexpected(context)),
        }
    }

    /// `true`, `false` or `null`, of which `peek` has seen the first letter.
    pub fn literal(&mut self, word: &'static str) -> Scanned<()> {
        for expected in word.bytes() {
            match self.byte() {
                Some(found) if found == expected => self.at += 1,
                Some(_) => {
                    return Err(self.unexpected(&format!(
                        "in literal {word} (expecting '{}')",
                        char::from(expected)
                    )));
                }
                None => return Err(end_of_input()),
            }
        }
        Ok(())
    }

    /// Passes over any value; returns its text.
    pub fn skip(&mut self) -> Scanned<&'a str> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'{' => {
                self.open()?;
                let mut first = true;
                while self.key(first)?.is_some() {
                    self.skip()?;
                    first = false;
                }
            }
            b'[' => {
                self.open()?;
                let mut first = true;
                while self.element(first)? {
                    self.skip()?;
                    first = false;
                }
            }
            b'"' => drop(self.string()?),
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            b'-' | b'0'..=b'9' => drop(self.number()?),
            _ => return Err(self.unexpected("looking for beginning of value")),
        }
        Ok(&self.text[start..self.at])
    }
}

fn end_of_input() -> DecodeError {
    DecodeError::Syntax("unexpected end of JSON input".to_owned())
}
