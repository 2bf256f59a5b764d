//! What differs between two runs on one cluster though nothing differs: ages, names made up, addresses, revisions.
//!
//! Invariant: only such things are evened out; a width, a word or a line that differs still shows.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

struct Rule {
    pattern: Regex,
    with: &'static str,
}

fn rules(list: &[(&str, &'static str)]) -> Vec<Rule> {
    list.iter().map(|(pattern, with)| Rule { pattern: Regex::new(pattern).expect("a pattern"), with }).collect()
}

fn apply(rules: &[Rule], text: &str) -> String {
    rules.iter().fold(text.to_owned(), |text, rule| rule.pattern.replace_all(&text, rule.with).into_owned())
}

/// The original of before v1.34 writes a creation time and preferences even where there are none. An object that held
/// nothing else is empty then.
fn without_null_times(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_null = |line: &str| matches!(line.trim(), "creationTimestamp: null" | "\"creationTimestamp\": null," | "\"creationTimestamp\": null" | "preferences: {}" | "\"preferences\": {},");
    let mut out = String::with_capacity(text.len());
    for (at, line) in lines.iter().enumerate() {
        let last = lines.get(at + 2).is_none_or(|after| indent(after) <= indent(line));
        let follows = lines.get(at + 1).is_some_and(|next| next.trim() == "creationTimestamp: null" && indent(next) > indent(line));
        if follows && last && line.trim_end().ends_with(':') {
            out += line.trim_end();
            out += " {}\n";
        } else if !is_null(line) {
            out += line;
        }
    }
    // In JSON its going may leave a comma, or nothing at all.
    static LAST: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(&[(r"(?m),\n( *\})", "\n$1"), (r"(?m)\{\n *\}", "{}")]));
    let out = if text.contains("\"creationTimestamp\": null") { apply(&LAST, &out) } else { out };
    without_chance(&out.replace(",\"creationTimestamp\":null", ""))
}

/// What a server makes up anew for each request.
fn without_chance(text: &str) -> String {
    static CHANCE: LazyLock<Vec<Rule>> = LazyLock::new(|| rules(&[(r"\b[0-9a-f]{32}\b", "ID")]));
    apply(&CHANCE, text)
}

/// Objects of which each tool has its own.
static OWN: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "TIME"),
        (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d ... \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
        (r#"(?i)(resource ?version"?:\s*"?)\d+"#, "${1}N"),
        (r"\b(\w[\w.-]*)-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "$1-xxxxx"),
        (r"\b10\.\d+\.\d+\.\d+", "ADDRESS"),
        (r"(containerd|coracle)://[0-9a-f]{64}", "$1://ID"),
        (r"\b3[012]\d{3}\b", "NODEPORT"),
        (r"resource version to be \d+, was \d+", "resource version to be N, was N"),
        (r"ey[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}", "TOKEN"),
        (r"applyset-[\w-]{43}-v1", "applyset-ID-v1"),
        // Since v1.34 the original names the namespace too.
        (r#"(?m)(" (?:force )?deleted) from [\w-]+ namespace\b"#, "$1"),
    ])
});

/// Ages stand alone in a cell or before `ago`; a time within a specification does not.
static AGES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    const AGE: &str = r"(<invalid>|\d+[smhdy](\d+[smhd])?)";
    let patterns = [
        (format!(r"(?m)(^|  | \(|over ){AGE}(  +|$| ago|\)| \(x\d+ over)"), "${1}AGE${4}"),
        (format!(r"(?m)(  )AGE(  +){AGE}(  +|$)"), "${1}AGE${2}AGE${5}"),
    ];
    patterns.iter().map(|(pattern, with)| Rule { pattern: Regex::new(pattern).expect("a pattern"), with }).collect()
});

/// What differs from one cluster to the next.
static CLUSTER: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"-[0-9a-f]{7,10}\b", "-HASH"),
        (r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(:\d+)?", "ADDRESS"),
        (r"127\.0\.0\.1:\d+|localhost:1\d{4}", "ADDRESS"),
        (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),
    ])
});

pub fn normal(text: &str, shared: bool) -> String {
    let text = without_null_times(text);
    if shared { text } else { apply(&OWN, &text) }
}

pub fn ages(text: &str) -> String {
    apply(&AGES, text)
}

/// Equal, or equal but for ages and the widths that come of them.
pub fn same(theirs: &str, ours: &str) -> bool {
    if theirs == ours {
        return true;
    }
    let (theirs, ours) = (ages(theirs), ages(ours));
    theirs == ours || (theirs.contains("AGE") && squeezed(&theirs) == squeezed(&ours))
}

/// Runs of blanks as one, none at a line's end.
pub fn squeezed(text: &str) -> String {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// As it is kept for machines without an original.
pub fn recordable(text: &str) -> String {
    squeezed(&apply(&CLUSTER, &ages(&apply(&OWN, text))))
}

/// Without the lines of the original's log: `E1121 03:55:02.123456   12345 memcache.go:265] ...`
pub fn without_log(text: &str) -> String {
    static LOG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[EIW]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ").expect("a pattern"));
    text.split_inclusive('\n').filter(|line| !LOG.is_match(line)).collect()
}

/// The lines that differ, for a person.
pub fn difference(part: &str, theirs: &str, ours: &str) -> String {
    const SHOWN: usize = 40;
    const WIDTH: usize = 240;
    let (theirs, ours): (Vec<&str>, Vec<&str>) = (theirs.lines().collect(), ours.lines().collect());
    let start = theirs.iter().zip(&ours).take_while(|(a, b)| a == b).count();
    let end = theirs[start..].iter().rev().zip(ours[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let mut out = format!("{part}, line {}:\n", start + 1);
    for (mark, lines) in [("real", &theirs[start..theirs.len() - end]), ("ours", &ours[start..ours.len() - end])] {
        lines.iter().take(SHOWN).for_each(|line| {
            let _ = writeln!(out, "  {mark}: {}", line.chars().take(WIDTH).collect::<String>());
        });
    }
    out
}
