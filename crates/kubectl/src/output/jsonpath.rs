//! JSONPath templates as kubectl documents them: text with `{...}` in it.
//!
//! Invariant: parsing never fails later than at parse time; evaluating walks the value once per step. Deliberately
//! absent: script expressions, which the original refuses too.

use std::cmp::Ordering;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    /// `{...}`: steps from the current value.
    Path(Path),
    Range(Path, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq, Default)]
struct Path {
    from_root: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    /// `..`
    Descend,
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Index(i64),
    Union(Vec<Path>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    nodes: Vec<Node>,
}

impl JsonPath {
    pub fn parse(template: &str) -> Result<Self, String> {
        let mut reader = Reader { text: template.chars().collect(), at: 0 };
        let nodes = reader.template(false)?;
        Ok(JsonPath { nodes })
    }

    /// `x.y`, `.x.y`, `{.x.y}`: as `--sort-by` and custom columns take them.
    pub fn parse_relaxed(path: &str) -> Result<Self, String> {
        let inner = path.strip_prefix('{').and_then(|path| path.strip_suffix('}')).unwrap_or(path);
        if inner.is_empty() || inner.contains(['{', '}']) {
            let expected = "expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'";
            return Err(format!("unexpected path string, {expected}"));
        }
        let dotted = if inner.starts_with(['.', '[', '$', '@']) { inner.to_owned() } else { format!(".{inner}") };
        Self::parse(&format!("{{{dotted}}}"))
    }

    /// The template filled in. A field that is missing is empty, or an error unless `allow_missing`.
    pub fn render(&self, value: &Value, allow_missing: bool) -> Result<String, String> {
        let mut out = String::new();
        render(&self.nodes, value, value, allow_missing, &mut out)?;
        Ok(out)
    }

    /// The values that the first expression finds.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let path = self.nodes.iter().find_map(|node| match node {
            Node::Path(path) => Some(path),
            _ => None,
        });
        path.map(|path| walk(path, value, value, true).unwrap_or_default()).unwrap_or_default()
    }
}

fn render(nodes: &[Node], current: &Value, root: &Value, allow_missing: bool, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found = walk(path, current, root, allow_missing)?;
                let shown: Vec<String> = found.into_iter().map(show).collect();
                out.push_str(&shown.join(" "));
            }
            Node::Range(path, body) => {
                for item in walk(path, current, root, allow_missing)? {
                    render(body, item, root, allow_missing, out)?;
                }
            }
        }
    }
    Ok(())
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => super::go_float(float),
            _ => number.to_string(),
        },
        other => super::go_json(other),
    }
}

fn walk<'a>(path: &Path, current: &'a Value, root: &'a Value, allow_missing: bool) -> Result<Vec<&'a Value>, String> {
    let mut values = vec![if path.from_root { root } else { current }];
    let mut steps = path.steps.iter().peekable();
    while let Some(step) = steps.next() {
        let mut next = Vec::new();
        // What a union names is taken one after the other, each from all values.
        if let Step::Union(paths) = step {
            for path in paths {
                for value in &values {
                    next.extend(walk(path, value, root, allow_missing)?);
                }
            }
            values = next;
            continue;
        }
        for value in values {
            match step {
                Step::Field(name) => match value.get(name.as_str()) {
                    Some(found) => next.push(found),
                    None if allow_missing || value.is_array() => {}
                    None => return Err(format!("{name} is not found")),
                },
                Step::Wildcard => match value {
                    Value::Array(items) => next.extend(items),
                    Value::Object(fields) => next.extend(fields.values()),
                    _ => {}
                },
                Step::Descend => descend(value, &mut next),
                Step::Index(index) => {
                    let Value::Array(items) = value else {
                        if allow_missing {
                            continue;
                        }
                        return Err("is not array or slice".to_owned());
                    };
                    let wanted = if *index < 0 { *index + items.len() as i64 } else { *index };
                    match usize::try_from(wanted).ok().and_then(|at| items.get(at)) {
                        Some(found) => next.push(found),
                        None if allow_missing && items.is_empty() => {}
                        None => return Err(format!("array index out of bounds: index {index}, length {}", items.len())),
                    }
                }
                Step::Slice(from, to, step) => {
                    let Value::Array(items) = value else { continue };
                    let length = items.len() as i64;
                    let clamp = |at: i64| (if at < 0 { at + length } else { at }).clamp(0, length);
                    let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(length)));
                    let every = usize::try_from(step.unwrap_or(1)).unwrap_or(1).max(1);
                    next.extend((from..to).step_by(every).map(|at| &items[at as usize]));
                }
                Step::Union(_) => {}
                Step::Filter(left, test) => {
                    let items: Vec<&Value> = match value {
                        Value::Array(items) => items.iter().collect(),
                        Value::Object(fields) => fields.values().collect(),
                        _ => Vec::new(),
                    };
                    next.extend(items.into_iter().filter(|item| passes(item, root, left, test.as_ref())));
                }
            }
        }
        values = next;
        if matches!(step, Step::Descend) {
            // What follows applies wherever it fits.
            let Some(following) = steps.next() else { break };
            let mut next = Vec::new();
            for value in values {
                let path = Path { from_root: false, steps: vec![following.clone()] };
                next.extend(walk(&path, value, root, true).unwrap_or_default());
            }
            values = next;
        }
    }
    Ok(values)
}

fn descend<'a>(value: &'a Value, into: &mut Vec<&'a Value>) {
    into.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, into)),
        Value::Object(fields) => fields.values().for_each(|field| descend(field, into)),
        _ => {}
    }
}

fn passes(item: &Value, root: &Value, left: &Operand, test: Option<&(Comparison, Operand)>) -> bool {
    fn first<'a>(operand: &'a Operand, item: &'a Value, root: &'a Value) -> Option<&'a Value> {
        match operand {
            Operand::Literal(value) => Some(value),
            Operand::Path(path) => walk(path, item, root, true).ok()?.into_iter().next(),
        }
    }
    let Some(left) = first(left, item, root) else { return false };
    let Some((comparison, right)) = test else { return true };
    let Some(right) = first(right, item, root) else { return false };
    let order = compare(left, right);
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn takes(&mut self, wanted: &str) -> bool {
        let matches = wanted.chars().enumerate().all(|(offset, c)| self.text.get(self.at + offset) == Some(&c));
        if matches {
            self.at += wanted.chars().count();
        }
        matches
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn template(&mut self, inside_range: bool) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            if c != '{' {
                text.push(c);
                continue;
            }
            if !text.is_empty() {
                nodes.push(Node::Text(std::mem::take(&mut text)));
            }
            self.skip_spaces();
            if self.takes("range ") {
                self.skip_spaces();
                let path = self.path()?;
                self.close()?;
                nodes.push(Node::Range(path, self.template(true)?));
                continue;
            }
            if self.takes("end") {
                self.close()?;
                if inside_range {
                    return Ok(nodes);
                }
                return Err("not in range, nothing to end".to_owned());
            }
            loop {
                self.skip_spaces();
                match self.peek() {
                    None => return Err("unclosed action".to_owned()),
                    Some('}') => {
                        self.at += 1;
                        break;
                    }
                    Some(quote @ ('"' | '\'')) => {
                        self.at += 1;
                        nodes.push(Node::Text(self.quoted(quote)?));
                    }
                    Some(c) if c.is_ascii_digit() || c == '-' => {
                        let number: String = self.word();
                        nodes.push(Node::Text(number));
                    }
                    Some('$' | '@' | '.' | '[' | '*') => {
                        let path = self.path()?;
                        nodes.push(Node::Path(path));
                    }
                    Some(c) if c.is_alphabetic() => {
                        let word = self.word();
                        return Err(format!("unrecognized identifier {word}"));
                    }
                    Some(c) => return Err(format!("unrecognized character in action: {c:?}")),
                }
            }
        }
        // A range that nothing ends goes to the template's end.
        if !text.is_empty() {
            nodes.push(Node::Text(text));
        }
        Ok(nodes)
    }

    fn close(&mut self) -> Result<(), String> {
        self.skip_spaces();
        if self.takes("}") { Ok(()) } else { Err("unclosed action".to_owned()) }
    }

    fn word(&mut self) -> String {
        let from = self.at;
        while self.peek().is_some_and(|c| c.is_alphanumeric() || "._-".contains(c)) {
            self.at += 1;
        }
        self.text[from..self.at].iter().collect()
    }

    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                _ if c == quote => return Ok(out),
                '\\' => {
                    let escaped = self.peek().ok_or("unterminated quoted string")?;
                    self.at += 1;
                    out.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                _ => out.push(c),
            }
        }
        Err("unterminated quoted string".to_owned())
    }

    fn path(&mut self) -> Result<Path, String> {
        let mut path = Path::default();
        if self.takes("$") {
            path.from_root = true;
        } else {
            self.takes("@");
        }
        loop {
            if self.takes("..") {
                path.steps.push(Step::Descend);
                if self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    path.steps.push(Step::Field(self.field()));
                } else if self.takes("*") {
                    path.steps.push(Step::Wildcard);
                }
            } else if self.takes(".") {
                if self.takes("*") {
                    path.steps.push(Step::Wildcard);
                } else if self.peek() != Some('[') {
                    let name = self.field();
                    if !name.is_empty() {
                        path.steps.push(Step::Field(name));
                    }
                }
            } else if self.takes("[") {
                path.steps.push(self.bracket()?);
            } else if self.takes("*") {
                path.steps.push(Step::Wildcard);
            } else {
                return Ok(path);
            }
        }
    }

    fn field(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    name.extend(self.peek());
                }
                '.' | '[' | ']' | '}' | '=' | '!' | '<' | '>' | ')' | '(' | ',' | '{' => break,
                _ if c.is_whitespace() => break,
                _ => name.push(c),
            }
            self.at += 1;
        }
        name
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.skip_spaces();
        if self.takes("?(") {
            let left = self.operand()?;
            self.skip_spaces();
            let comparison = [
                ("==", Comparison::Equal),
                ("!=", Comparison::NotEqual),
                ("<=", Comparison::LessOrEqual),
                (">=", Comparison::GreaterOrEqual),
                ("<", Comparison::Less),
                (">", Comparison::Greater),
            ];
            let found = comparison.into_iter().find(|(sign, _)| self.takes(sign)).map(|(_, comparison)| comparison);
            let test = match found {
                Some(comparison) => Some((comparison, self.operand()?)),
                None => None,
            };
            self.skip_spaces();
            return if self.takes(")]") { Ok(Step::Filter(left, test)) } else { Err("unterminated filter".to_owned()) };
        }
        let from = self.at;
        let mut quote = None;
        while let Some(c) = self.peek() {
            match (c, quote) {
                ('\'' | '"', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (']', None) => break,
                _ => {}
            }
            self.at += 1;
        }
        let inner: String = self.text[from..self.at].iter().collect();
        if !self.takes("]") {
            return Err("unterminated array".to_owned());
        }
        let inner = inner.trim();
        let parts = split_outside_quotes(inner, ',');
        if parts.len() > 1 {
            let paths: Result<Vec<Path>, String> = parts.iter().map(|part| subscript_path(part)).collect();
            return Ok(Step::Union(paths?));
        }
        subscript(inner)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.skip_spaces();
        match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.at += 1;
                Ok(Operand::Literal(Value::String(self.quoted(quote)?)))
            }
            Some('@' | '$' | '.') => Ok(Operand::Path(self.path()?)),
            _ => {
                let word = self.word();
                let literal = serde_json::from_str(&word).map_err(|_| format!("unrecognized character in filter: {word:?}"))?;
                Ok(Operand::Literal(literal))
            }
        }
    }
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match quote {
            None if c == separator => {
                parts.push(String::new());
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        parts.last_mut().expect("there is always a part").push(c);
    }
    parts
}

fn subscript_path(part: &str) -> Result<Path, String> {
    let part = part.trim();
    if part.starts_with(['.', '@', '$']) {
        return Reader { text: part.chars().collect(), at: 0 }.path();
    }
    Ok(Path { from_root: false, steps: vec![subscript(part)?] })
}

fn subscript(inner: &str) -> Result<Step, String> {
    if inner == "*" || inner.is_empty() {
        return Ok(Step::Wildcard);
    }
    if let Some(quote @ ('\'' | '"')) = inner.chars().next() {
        // As with the original, a name's dots lead on unless they are escaped.
        return Ok(Step::Union(vec![subscript_path(&format!(".{}", inner.trim_matches(quote)))?]));
    }
    if inner.starts_with('.') {
        return Ok(Step::Union(vec![subscript_path(inner)?]));
    }
    let invalid = || format!("invalid array index {inner}");
    let number = |part: &str| -> Result<Option<i64>, String> {
        if part.trim().is_empty() { Ok(None) } else { part.trim().parse().map(Some).map_err(|_| invalid()) }
    };
    let parts: Vec<&str> = inner.split(':').collect();
    match parts.as_slice() {
        [one] => Ok(Step::Index(number(one)?.ok_or_else(invalid)?)),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, None)),
        [from, to, step] => Ok(Step::Slice(number(from)?, number(to)?, number(step)?)),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "kind": "List",
            "items": [
                {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}}, "status": {"capacity": {"cpu": "4"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.1"}]}},
                {"kind": "None", "metadata": {"name": "127.0.0.2"}, "status": {"capacity": {"cpu": "8"}, "addresses": [{"type": "LegacyHostIP", "address": "127.0.0.2"}, {"type": "another", "address": "127.0.0.3"}]}}
            ],
            "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}],
            "numbers": [1, 2, 3, 4, 5]
        })
    }

    #[track_caller]
    fn check(template: &str, expected: &str) {
        let rendered = JsonPath::parse(template).and_then(|path| path.render(&sample(), false));
        assert_eq!(rendered.unwrap_or_else(|error| format!("error: {error}")), expected, "{template}");
    }

    #[test]
    fn documented_cases() {
        check("kind is {.kind}", "kind is List");
        check("{['kind']}", "List");
        check("{$.kind}", "List");
        check("{..name}", "127.0.0.1 127.0.0.2 myself e2e");
        check("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2");
        check("{.users[0].name}", "myself");
        check("{.users[-1].name}", "e2e");
        check("{.items[*]['metadata.name']}", "127.0.0.1 127.0.0.2");
        check("{.items[*].status['addresses'][0]['address']}", "127.0.0.1 127.0.0.2");
        check("{.users[?(@.name==\"e2e\")].user.password}", "secret");
        check("{range .items[*]}[{.metadata.name}, {.status.capacity.cpu}] {end}", "[127.0.0.1, 4] [127.0.0.2, 8] ");
        check("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1");
        check("{.items[0].metadata.labels['kubernetes\\.io/hostname']}", "127.0.0.1");
        check("{.items[*]['metadata', 'status']['name','capacity']}", "error: name is not found");
        check("{.numbers[0:2]}{\"\\n\"}{.numbers[::2]}", "1 2\n1 3 5");
        check("{.numbers[0,4]}", "1 5");
        check("{.numbers[?(@>3)]}", "4 5");
        check("{.items[?(@.status.capacity.cpu!='4')].metadata.name}", "127.0.0.2");
        check("{.items[1].status.addresses[?(@.type==\"another\")].address}", "127.0.0.3");
        check("{.users[1].user}", "{\"password\":\"secret\",\"username\":\"admin\"}");
        check("{.nope}", "error: nope is not found");
        check("{.kind", "error: unclosed action");
        check("{range .items[*]}{.kind}", "NoneNone");
        check("{.numbers[9]}", "error: array index out of bounds: index 9, length 5");
        check("plain", "plain");
    }

    #[test]
    fn relaxed() {
        let find = |path: &str| JsonPath::parse_relaxed(path).unwrap().find(&sample()).len();
        assert_eq!((find("kind"), find(".kind"), find("{.kind}"), find("{kind}"), find(".nope")), (1, 1, 1, 1, 0));
    }
}
