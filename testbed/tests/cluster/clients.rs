//! Clients that nobody here wrote, against a running API server: several kubectls word by word, and the client
//! libraries of Python and JavaScript.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testbed::cluster::{Cluster, coracle, kubectls, root, target};

/// Minor versions of kubectl that the sheet is run with, where they are installed.
const MINORS: &[u32] = &[27, 31, 33];
/// A command that takes longer is ended.
const PATIENCE_SECONDS: &str = "60";

struct Sheet {
    files: Vec<(String, String)>,
    commands: Vec<Expected>,
}

struct Expected {
    /// Minor versions of kubectl.
    from: u32,
    to: u32,
    line: String,
    output: String,
}

fn parse(text: &str) -> Sheet {
    let mut sheet = Sheet { files: Vec::new(), commands: Vec::new() };
    let mut in_file = false;
    // What stands before the first file is for the reader.
    for line in text.lines().skip_while(|line| !line.starts_with("===")) {
        if let Some(name) = line.strip_prefix("===") {
            in_file = !name.trim().is_empty();
            if in_file {
                sheet.files.push((name.trim().to_owned(), String::new()));
            }
        } else if in_file {
            let (_, text) = sheet.files.last_mut().expect("a file has begun");
            text.push_str(line);
            text.push('\n');
        } else if let Some(command) = line.strip_prefix('$') {
            let (versions, line) = command.split_once(' ').expect("$ and a command");
            let (from, to) = versions.split_once('-').unwrap_or((versions, versions));
            sheet.commands.push(Expected {
                from: from.parse().unwrap_or(0),
                to: to.parse().unwrap_or(u32::MAX),
                line: line.to_owned(),
                output: String::new(),
            });
        } else if let Some(expected) = sheet.commands.last_mut() {
            expected.output.push_str(line);
            expected.output.push('\n');
        }
    }
    sheet
}

fn minor(kubectl: &Path) -> Option<u32> {
    kubectl.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.parse().ok()
}

/// Without what differs from run to run.
fn normal(text: &str, namespace: &str) -> String {
    let text = text.replace(namespace, "NS");
    let mut out = String::new();
    for line in text.lines() {
        let indented = line.starts_with([' ', '\t']);
        let words: Vec<String> = line.split_whitespace().map(normal_word).collect();
        let mut words = words.join(" ");
        for (key, shown) in [("resourceVersion: ", "\"REVISION\""), ("uid: ", "UID")] {
            if words.starts_with(key) {
                words = format!("{key}{shown}");
            }
        }
        if words.is_empty() {
            continue; // kubectl's versions differ in empty lines.
        }
        if indented {
            out.push(' ');
        }
        out.push_str(&words);
        out.push('\n');
    }
    out
}

fn normal_word(word: &str) -> String {
    let age = |text: &str| {
        let mut digits = false;
        !text.is_empty()
            && text.chars().all(|c| match c {
                '0'..='9' => {
                    digits = true;
                    true
                }
                's' | 'm' | 'h' => std::mem::take(&mut digits),
                _ => false,
            })
            && !digits
    };
    if age(word) {
        return "AGE".to_owned();
    }
    let time = word.trim_matches('"');
    if time.len() == 20 && time.starts_with("20") && time.ends_with('Z') {
        return word.replace(time, "TIME");
    }
    // Names that the server made, letters and digits that form no words.
    let parts: Vec<&str> = word.split('-').collect();
    let generated = |part: &str| {
        (5..=10).contains(&part.len()) && part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte))
    };
    match parts.as_slice() {
        [first, rest @ ..] if *first == "web" && !rest.is_empty() && rest.iter().all(|part| generated(part)) => {
            format!("web{}", "-RANDOM".repeat(rest.len()))
        }
        _ => word.to_owned(),
    }
}

#[test]
fn kubectls_word_by_word() {
    if !coracle().exists() {
        return println!("skipped: {} is not built", coracle().display());
    }
    let found: Vec<(u32, PathBuf)> =
        kubectls().into_iter().filter_map(|path| Some((minor(&path)?, path))).filter(|(minor, _)| MINORS.contains(minor)).collect();
    if found.is_empty() {
        return println!("skipped: no kubectl of 1.27, 1.31 or 1.33 found");
    }
    let sheet = parse(include_str!("golden/kubectl.txt"));
    let cluster = Cluster::start_with(&["--disable-agent"]).expect("the cluster starts");
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            found.iter().map(|(minor, path)| scope.spawn(|| run_sheet(&cluster, &sheet, *minor, path))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("the sheet runs")).collect()
    });
    assert!(wrong.is_empty(), "{} commands differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_python_client() {
    let python = target().join("clients/python/bin/python");
    run_suite(&python, &root().join("testbed/clients/python/suite.py"), "python");
}

#[test]
fn the_javascript_client() {
    let directory = target().join("clients/javascript");
    let suite = directory.join("suite.mjs");
    if directory.join("node_modules").exists() {
        // Node looks for packages beside the script.
        fs::copy(root().join("testbed/clients/javascript/suite.mjs"), &suite).expect("copies");
    }
    run_suite(Path::new("node"), &suite, "javascript");
}

/// A suite that ends by saying that all passed.
#[track_caller]
fn run_suite(interpreter: &Path, suite: &Path, name: &str) {
    if !coracle().exists() {
        return println!("skipped: {} is not built", coracle().display());
    }
    let there = |path: &Path| path.exists() || !path.has_root();
    if !there(interpreter) || !suite.exists() {
        return println!("skipped: the {name} client is not installed (script/test does it)");
    }
    let cluster = Cluster::start_with(&["--disable-agent"]).expect("the cluster starts");
    let output = Command::new(interpreter).arg(suite).arg(cluster.kubeconfig()).arg(format!("suite-{name}")).output();
    let output = output.expect("the suite runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.ends_with("all passed\n"),
        "{said}{}\n--- server log\n{}",
        String::from_utf8_lossy(&output.stderr),
        cluster.log()
    );
}

/// What differed.
fn run_sheet(cluster: &Cluster, sheet: &Sheet, minor: u32, kubectl: &Path) -> Vec<String> {
    let namespace = format!("golden-{minor}");
    let directory = cluster.data_dir.with_file_name(&namespace);
    fs::create_dir_all(directory.join("bin")).expect("makes a directory");
    std::os::unix::fs::symlink(kubectl, directory.join("bin/kubectl")).expect("makes a link");
    for (name, text) in &sheet.files {
        fs::write(directory.join(name), text).expect("writes");
    }
    let kubeconfig = fs::read_to_string(cluster.kubeconfig()).expect("a kubeconfig");
    let placed = kubeconfig.replace("\n    cluster: ", &format!("\n    namespace: {namespace}\n    cluster: "));
    assert_ne!(placed, kubeconfig, "the kubeconfig has a context");
    fs::write(directory.join("kubeconfig"), placed).expect("writes");
    let run = |line: &str| {
        let output = Command::new("timeout")
            .args([PATIENCE_SECONDS, "sh", "-c", line])
            .current_dir(&directory)
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", directory.join("bin").display()))
            .env("HOME", &directory)
            .env("KUBECONFIG", directory.join("kubeconfig"))
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        let code = match output.status.code() {
            Some(0) => String::new(),
            code => format!("[{}]\n", code.unwrap_or(-1)),
        };
        format!("{}{}{code}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    run(&format!("kubectl create namespace {namespace}"));
    let mut wrong = Vec::new();
    for expected in sheet.commands.iter().filter(|own| (own.from..=own.to).contains(&minor)) {
        let said = normal(&run(&expected.line.replace("NS", &namespace)), &namespace);
        let wanted = normal(&expected.output, &namespace);
        if said != wanted {
            wrong.push(format!("--- kubectl 1.{minor}: {}\nwanted:\n{wanted}said:\n{said}", expected.line));
        }
    }
    wrong
}
