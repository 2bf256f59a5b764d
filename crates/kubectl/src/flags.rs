//! Command-line flags as the original's parser (pflag) reads them.
//!
//! Invariant: what a flag accepts (`-n x`, `-nx`, `--n x`, `--n=x`, bare switches, flags after arguments, `--`) is the
//! same for every command. Deliberately absent: abbreviations and anything a command means by its flags.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Int,
    Duration,
    /// Split at commas, may be repeated.
    List,
    /// May be repeated, never split.
    Array,
    /// Text of a form of its own, whose default nobody sees.
    Pairs,
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub default: &'static str,
    /// What the flag means when it stands without a value.
    pub bare: Option<&'static str>,
    pub help: &'static str,
    pub hidden: bool,
}

impl Flag {
    const fn new(long: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Self {
        Flag { long, short: None, kind, default, bare: None, help, hidden: false }
    }
    pub const fn switch(long: &'static str, help: &'static str) -> Self {
        Flag { bare: Some("true"), ..Flag::new(long, Kind::Bool, "false", help) }
    }
    pub const fn text(long: &'static str, help: &'static str) -> Self {
        Flag::new(long, Kind::Text, "", help)
    }
    pub const fn int(long: &'static str, default: &'static str, help: &'static str) -> Self {
        Flag::new(long, Kind::Int, default, help)
    }
    pub const fn duration(long: &'static str, default: &'static str, help: &'static str) -> Self {
        Flag::new(long, Kind::Duration, default, help)
    }
    pub const fn list(long: &'static str, help: &'static str) -> Self {
        Flag::new(long, Kind::List, "", help)
    }
    pub const fn array(long: &'static str, help: &'static str) -> Self {
        Flag::new(long, Kind::Array, "", help)
    }
    pub const fn pairs(long: &'static str, help: &'static str) -> Self {
        Flag::new(long, Kind::Pairs, "", help)
    }
    pub const fn short(self, short: char) -> Self {
        Flag { short: Some(short), ..self }
    }
    pub const fn default(self, default: &'static str) -> Self {
        Flag { default, ..self }
    }
    pub const fn bare(self, bare: &'static str) -> Self {
        Flag { bare: Some(bare), ..self }
    }
    pub const fn hidden(self) -> Self {
        Flag { hidden: true, ..self }
    }
}

/// What stood on the command line.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    flags: Vec<Flag>,
    values: BTreeMap<&'static str, Vec<String>>,
    /// Arguments that are no flags.
    pub args: Vec<String>,
    /// How many arguments stood before `--`.
    pub dash: Option<usize>,
}

/// `Display` is the original's sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagError(String);

impl fmt::Display for FlagError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Reads `words`; `interspersed` says whether flags may follow arguments.
pub fn parse(flags: &[Flag], words: &[String], interspersed: bool) -> Result<Parsed, FlagError> {
    let mut parsed = Parsed { flags: flags.to_vec(), ..Parsed::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.dash = Some(parsed.args.len());
            parsed.args.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let Some(flag) = flags.iter().find(|flag| flag.long == name) else {
                if name == "help" {
                    parsed.values.insert("help", vec!["true".to_owned()]);
                    continue;
                }
                return Err(FlagError(format!("unknown flag: --{name}")));
            };
            let value = match (value, flag.bare) {
                (Some(value), _) => value,
                (None, Some(bare)) => bare.to_owned(),
                (None, None) => {
                    let next = words.next().cloned();
                    next.ok_or_else(|| FlagError(format!("flag needs an argument: --{name}")))?
                }
            };
            parsed.set(flag, value)?;
        } else if word.len() > 1 && word.starts_with('-') {
            let mut rest = &word[1..];
            while let Some(short) = rest.chars().next() {
                rest = &rest[short.len_utf8()..];
                let Some(flag) = flags.iter().find(|flag| flag.short == Some(short)) else {
                    if short == 'h' {
                        parsed.values.insert("help", vec!["true".to_owned()]);
                        continue;
                    }
                    return Err(FlagError(format!("unknown shorthand flag: '{short}' in {word}")));
                };
                if let Some(value) = rest.strip_prefix('=') {
                    parsed.set(flag, value.to_owned())?;
                    break;
                }
                if let Some(bare) = flag.bare {
                    parsed.set(flag, bare.to_owned())?;
                    continue;
                }
                if rest.is_empty() {
                    let next = words.next().cloned();
                    let value = next.ok_or_else(|| FlagError(format!("flag needs an argument: '{short}' in {word}")))?;
                    parsed.set(flag, value)?;
                } else {
                    parsed.set(flag, rest.to_owned())?;
                }
                break;
            }
        } else {
            parsed.args.push(word.clone());
            if !interspersed {
                parsed.args.extend(words.cloned());
                break;
            }
        }
    }
    Ok(parsed)
}

impl Parsed {
    fn set(&mut self, flag: &Flag, value: String) -> Result<(), FlagError> {
        let shown = match flag.short {
            Some(short) => format!("-{short}, --{}", flag.long),
            None => format!("--{}", flag.long),
        };
        let invalid = |why: String| FlagError(format!("invalid argument {value:?} for {shown:?} flag: {why}"));
        match flag.kind {
            Kind::Bool if boolean(&value).is_none() => {
                return Err(invalid(format!("strconv.ParseBool: parsing {value:?}: invalid syntax")));
            }
            Kind::Int if value.parse::<i64>().is_err() => {
                return Err(invalid(format!("strconv.ParseInt: parsing {value:?}: invalid syntax")));
            }
            Kind::Duration if parse_duration(&value).is_none() => {
                return Err(invalid(format!("time: invalid duration {value:?}")));
            }
            _ => {}
        }
        let values = self.values.entry(flag.long).or_default();
        match flag.kind {
            Kind::List => values.extend(value.split(',').filter(|part| !part.is_empty()).map(str::to_owned)),
            Kind::Array => values.push(value),
            _ => *values = vec![value],
        }
        Ok(())
    }

    fn default_of(&self, name: &str) -> &'static str {
        self.flags.iter().find(|flag| flag.long == name).map_or("", |flag| flag.default)
    }

    /// As if those flags had not been given.
    pub fn without(&self, names: &[&str]) -> Self {
        let mut rest = self.clone();
        rest.values.retain(|name, _| !names.contains(name));
        rest
    }

    /// Whether the command has such a flag at all.
    pub fn knows(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.long == name)
    }

    pub fn changed(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn text(&self, name: &str) -> &str {
        match self.values.get(name).and_then(|values| values.last()) {
            Some(value) => value,
            None => self.default_of(name),
        }
    }

    pub fn is_set(&self, name: &str) -> bool {
        boolean(self.text(name)).unwrap_or(false)
    }

    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    pub fn duration(&self, name: &str) -> Duration {
        parse_duration(self.text(name)).unwrap_or_default()
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        match self.values.get(name) {
            Some(values) => values.clone(),
            None => self.default_of(name).split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `1h30m`, `300ms`, `0`, `-1s` (negative durations come back as zero).
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    if negative { Some(Duration::ZERO) } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::text("namespace", "").short('n'),
        Flag::switch("watch", "").short('w'),
        Flag::switch("wait", "").default("true"),
        Flag::text("dry-run", "").default("none").bare("unchanged"),
        Flag::int("replicas", "0", ""),
        Flag::list("label-columns", "").short('L'),
        Flag::array("from-literal", ""),
        Flag::duration("timeout", "0s", ""),
    ];

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let shown = match parse(FLAGS, &words, true) {
            Ok(parsed) => {
                let values: Vec<String> = parsed.values.iter().map(|(name, value)| format!("{name}={}", value.join("+"))).collect();
                format!("{} | {}", values.join(" "), parsed.args.join(" "))
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn reads_as_pflag_does() {
        check("pods -n x web", "namespace=x | pods web");
        check("-nx -w", "namespace=x watch=true | ");
        check("-wn x", "namespace=x watch=true | ");
        check("--namespace=x --wait=false a", "namespace=x wait=false | a");
        check("--dry-run a", "dry-run=unchanged | a");
        check("--dry-run=client", "dry-run=client | ");
        check("-L a,b -L c", "label-columns=a+b+c | ");
        check("--from-literal a=b,c --from-literal d=e", "from-literal=a=b,c+d=e | ");
        check("a -- -b --c", " | a -b --c");
        check("--nope", "unknown flag: --nope");
        check("-z", "unknown shorthand flag: 'z' in -z");
        check("--namespace", "flag needs an argument: --namespace");
        check("-n", "flag needs an argument: 'n' in -n");
        check("--replicas=x", "invalid argument \"x\" for \"--replicas\" flag: strconv.ParseInt: parsing \"x\": invalid syntax");
        check("--timeout=1h30m", "timeout=1h30m | ");
        check("--timeout=1", "invalid argument \"1\" for \"--timeout\" flag: time: invalid duration \"1\"");
    }
}
