//! A sheet of command lines, as a text that reads like a session.
//!
//! | line | meaning |
//! | --- | --- |
//! | `# text` | a comment |
//! | `shared` | both tools read the same namespace; without it each has one of its own, with the same objects |
//! | `file NAME` | the indented lines that follow are the file's text |
//! | `! line` | setup: must succeed, is not compared |
//! | `$ line` | a command line to compare, run by `sh` |
//! | `~ PART reason` | the line above differs in PART (`stdout`, `stderr`, `code`), and why |
//! | `~? PART reason` | the same for what differs now and then |
//! | `% spaces` | of the line above: how many blanks are between words does not matter |
//! | `% sorted` | the order of lines does not matter |
//! | `% here` | the answer depends on the machine: it is not recorded |
//!
//! `$NS` is the tool's namespace, in command lines and in files.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Default)]
pub struct Sheet {
    pub name: String,
    pub shared: bool,
    pub files: Vec<(String, String)>,
    pub steps: Vec<Step>,
}

impl Sheet {
    /// Whether a command line itself says that this is to be asked for.
    pub fn mentions(&self, uri: &str) -> bool {
        let lines = self.steps.iter().map(|step| match step {
            Step::Setup(line) => line,
            Step::Case(case) => &case.line,
        });
        lines.filter(|line| line.contains("--raw")).any(|line| line.split([' ', '\'', '"']).any(|word| word.replace("$NS", "") == uri || word == uri))
    }
}

pub enum Step {
    Setup(String),
    Case(Case),
}

#[derive(Default)]
pub struct Case {
    pub line: String,
    pub differs: Vec<Difference>,
    pub spaces: bool,
    pub sorted: bool,
    pub here_only: bool,
}

/// A difference that is known.
pub struct Difference {
    pub part: String,
    pub reason: String,
    pub always: bool,
}

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/comparison")
}

/// Every sheet, by name; `CORACLE_TEST_SHEETS=a,b` picks some.
pub fn all() -> Vec<Sheet> {
    let picked = std::env::var("CORACLE_TEST_SHEETS").unwrap_or_default();
    let mut paths: Vec<PathBuf> = fs::read_dir(directory())
        .expect("the sheets are there")
        .map(|entry| entry.expect("a directory's entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    paths.sort();
    let name = |path: &Path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    paths
        .into_iter()
        .filter(|path| picked.is_empty() || picked.split(',').any(|one| one == name(path)))
        .map(|path| parse(name(&path), &fs::read_to_string(&path).expect("a sheet is readable")))
        .collect()
}

#[track_caller]
fn parse(name: String, text: &str) -> Sheet {
    let mut sheet = Sheet { name, ..Sheet::default() };
    for (number, line) in text.lines().enumerate() {
        let at = format!("{}:{}", sheet.name, number + 1);
        if line.starts_with("    ") || (line.is_empty() && matches!(sheet.files.last(), Some((_, text)) if !text.is_empty() && sheet.steps.is_empty())) {
            let (_, text) = sheet.files.last_mut().unwrap_or_else(|| panic!("{at}: a text without its file"));
            *text += line.get(4..).unwrap_or("");
            text.push('\n');
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" | "#" => {}
            "shared" => sheet.shared = true,
            "file" => sheet.files.push((rest.to_owned(), String::new())),
            "!" => sheet.steps.push(Step::Setup(rest.to_owned())),
            "$" => {
                let known = sheet.steps.iter().any(|step| matches!(step, Step::Case(case) if case.line == rest));
                assert!(!known || !sheet.shared, "{at}: twice");
                sheet.steps.push(Step::Case(Case { line: rest.to_owned(), ..Case::default() }));
            }
            "~" | "~?" | "%" => {
                let Some(Step::Case(case)) = sheet.steps.last_mut() else { panic!("{at}: belongs to no command line") };
                match (word, rest) {
                    ("%", "spaces") => case.spaces = true,
                    ("%", "sorted") => case.sorted = true,
                    ("%", "here") => case.here_only = true,
                    ("~" | "~?", rest) => {
                        let (part, reason) = rest.split_once(' ').unwrap_or_else(|| panic!("{at}: no reason"));
                        case.differs.push(Difference { part: part.to_owned(), reason: reason.to_owned(), always: word == "~" });
                    }
                    _ => panic!("{at}: {line}"),
                }
            }
            _ => panic!("{at}: {line}"),
        }
    }
    sheet
}
