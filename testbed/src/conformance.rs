//! Which behaviours of Kubernetes' conformance list a test of ours shows. A test names them in line comments right
//! above its attribute: `// Conformance: [sig-apps] Deployment deployment should support rollover`.
//!
//! Invariant: a behaviour counts only where its comment stands over a test; a comment over anything else is an error.
//! Deliberately absent: any judgement whether the test shows what it names; that is for whoever reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const MARKER: &str = "// Conformance: ";

/// A behaviour and the test that shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// The behaviour's code name, such as `[sig-apps] Deployment deployment should support rollover`.
    pub behaviour: String,
    /// The crate that holds the test.
    pub package: String,
    /// The test's function.
    pub test: String,
}

/// What went wrong: a file that cannot be read, or a marker that stands over no test.
#[derive(Debug)]
pub enum ScanError {
    Read { path: PathBuf, cause: std::io::Error },
    NoTest { path: PathBuf, line: usize },
}

impl std::fmt::Display for ScanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ScanError::Read { path, cause } => write!(f, "{}: {cause}", path.display()),
            ScanError::NoTest { path, line } => {
                write!(f, "{}:{line}: this names a behaviour, and no test stands right below it", path.display())
            }
        }
    }
}

impl std::error::Error for ScanError {}

/// All behaviours that tests below `root` (the checkout) name, sorted.
pub fn scan(root: &Path) -> Result<Vec<Shown>, ScanError> {
    let mut shown = Vec::new();
    let crates = root.join("crates");
    let mut packages = entries(&crates)?;
    packages.push(root.join("testbed"));
    for package in packages {
        let name = package.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for part in ["src", "tests"] {
            scan_folder(&package.join(part), &name, &mut shown)?;
        }
    }
    shown.sort();
    Ok(shown)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ScanError> {
    let failed = |cause| ScanError::Read { path: folder.to_owned(), cause };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        found.push(entry.map_err(failed)?.path());
    }
    Ok(found)
}

fn scan_folder(folder: &Path, package: &str, shown: &mut Vec<Shown>) -> Result<(), ScanError> {
    if !folder.is_dir() {
        return Ok(());
    }
    for path in entries(folder)? {
        if path.is_dir() {
            scan_folder(&path, package, shown)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                std::fs::read_to_string(&path).map_err(|cause| ScanError::Read { path: path.clone(), cause })?;
            scan_text(&text, package, shown).map_err(|line| ScanError::NoTest { path, line })?;
        }
    }
    Ok(())
}

/// The error is the line (from 1) of a marker that stands over no test.
fn scan_text(text: &str, package: &str, shown: &mut Vec<Shown>) -> Result<(), usize> {
    let mut named: Vec<(usize, &str)> = Vec::new();
    let mut is_test = false;
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if let Some(behaviour) = line.strip_prefix(MARKER) {
            named.push((index + 1, behaviour));
            continue;
        }
        let Some((first, _)) = named.first() else { continue };
        if line.starts_with("#[") || line.starts_with("//") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            continue;
        }
        let test = line.split_once("fn ").and_then(|(_, rest)| rest.split_once('(')).map(|(name, _)| name);
        let (Some(test), true) = (test, is_test) else { return Err(*first) };
        for (_, behaviour) in named.drain(..) {
            shown.push(Shown { behaviour: bare(behaviour), package: package.to_owned(), test: test.to_owned() });
        }
        is_test = false;
    }
    named.first().map_or(Ok(()), |(line, _)| Err(*line))
}

/// A code name less what is put behind it in brackets, such as `[Conformance]`; the SIG in front stays.
fn bare(codename: &str) -> String {
    let mut words: Vec<&str> = codename.split_whitespace().collect();
    let mut index = 1;
    while index < words.len() {
        let tag = words[index].starts_with('[') && words[index].ends_with(']');
        if tag && TAGS.iter().any(|known| words[index][1..].starts_with(known)) {
            words.remove(index);
        } else {
            index += 1;
        }
    }
    words.join(" ")
}

const TAGS: [&str; 10] = [
    "NodeConformance",
    "Conformance",
    "LinuxOnly",
    "Serial",
    "Slow",
    "Disruptive",
    "Feature",
    "MinimumKubeletVersion",
    "Beta",
    "Alpha",
];

/// The code names of Kubernetes' own list (its `conformance.yaml`), bare.
pub fn behaviours(list: &serde_json::Value) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["codename"].as_str()).map(bare).collect()
}

/// How each test of a run ended, from the JUnit file that the test runner wrote: `true` where it passed.
pub fn results(junit: &str) -> BTreeMap<(String, String), bool> {
    let mut found = BTreeMap::new();
    for case in junit.split("<testcase ").skip(1) {
        let attribute = |name: &str| {
            let start = case.find(&format!("{name}=\""))? + name.len() + 2;
            case[start..].split('"').next()
        };
        let (Some(test), Some(binary)) = (attribute("name"), attribute("classname")) else { continue };
        let package = binary.split("::").next().unwrap_or(binary);
        let function = test.rsplit("::").next().unwrap_or(test);
        let body = case.split("</testcase>").next().unwrap_or(case);
        let passed = !(body.contains("<failure") || body.contains("<error"));
        found
            .entry((package.to_owned(), function.to_owned()))
            .and_modify(|all: &mut bool| *all &= passed)
            .or_insert(passed);
    }
    found
}

/// The table: for each SIG its behaviours, the test that shows each, and how that ended where `results` knows it.
pub fn table(shown: &[Shown], results: &BTreeMap<(String, String), bool>) -> String {
    let mut rows: BTreeMap<&str, Vec<&Shown>> = BTreeMap::new();
    for entry in shown {
        rows.entry(&entry.behaviour).or_default().push(entry);
    }
    let mut text = String::new();
    for (behaviour, tests) in &rows {
        for entry in tests {
            let ended = match results.get(&(entry.package.clone(), entry.test.clone())) {
                Some(true) => "passed",
                Some(false) => "FAILED",
                None => "not run",
            };
            let _ = writeln!(text, "{ended:<8} {behaviour}\n         {}: {}", entry.package, entry.test);
        }
    }
    let _ = writeln!(text, "{} conformance behaviours are shown by {} tests", rows.len(), shown.len());
    text
}

/// How many of each SIG's behaviours in `list` are shown, and the names of those that are not.
pub fn left(shown: &[Shown], list: &[String]) -> String {
    let mut sigs: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    for behaviour in list {
        let (count, missing) = sigs.entry(behaviour.split(' ').next().unwrap_or_default()).or_default();
        if shown.iter().any(|entry| entry.behaviour == *behaviour) {
            *count += 1;
        } else {
            missing.push(behaviour);
        }
    }
    let mut text = String::new();
    for (sig, (count, missing)) in &sigs {
        let _ = writeln!(text, "{sig} {count} of {}", count + missing.len());
        for behaviour in missing {
            let _ = writeln!(text, "    not shown: {behaviour}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Vec<String>, usize> {
        let mut shown = Vec::new();
        scan_text(text, "sim", &mut shown)?;
        Ok(shown.into_iter().map(|entry| format!("{} by {}", entry.behaviour, entry.test)).collect())
    }

    #[test]
    fn a_marker_belongs_to_the_test_below_it() {
        let marker = |name: &str| format!("{MARKER}{name}\n");
        let two = format!(
            "{}{}#[tokio::test(start_paused = true)]\nasync fn rolls() {{",
            marker("[sig-apps] A"),
            marker("[sig-apps] B [Serial] [Conformance]")
        );
        assert_eq!(found(&two), Ok(vec!["[sig-apps] A by rolls".to_owned(), "[sig-apps] B by rolls".to_owned()]));
        assert_eq!(found(&format!("\n{}fn helper() {{", marker("[sig-apps] A"))), Err(2));
        assert_eq!(found(&marker("[sig-apps] A")), Err(1));
    }

    #[test]
    fn every_marker_in_this_checkout_stands_over_a_test() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        if let Err(problem) = scan(&root) {
            panic!("{problem}");
        }
    }

    #[test]
    fn a_run_tells_how_each_test_ended() {
        let junit = r#"<testcase name="apps::rolls" classname="sim::sim" time="1"></testcase>
            <testcase name="apps::fails" classname="sim::sim"><failure message="no"></failure></testcase>"#;
        let results = results(junit);
        assert_eq!(results.get(&("sim".to_owned(), "rolls".to_owned())), Some(&true));
        assert_eq!(results.get(&("sim".to_owned(), "fails".to_owned())), Some(&false));
    }
}
