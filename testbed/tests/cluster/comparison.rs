//! Our kubectl beside the original: the same command lines on the same cluster, their output and exit codes compared.
//!
//! The command lines stand in `comparison/*.txt`, one sheet per subject; [`sheet`] says how they read. Where no
//! original is installed (or with `CORACLE_TEST_RECORDED=1`), ours is compared with what an original once said:
//! `comparison/recorded`, rewritten by `CORACLE_RECORD=1`, which drops what it finds other than the last time. `CORACLE_TEST_KUBECONFIG` names a running cluster to use, any Kubernetes will do.
//!
//! Invariant: a difference is either listed in its sheet with its reason, or the test fails; so does a listed
//! difference that is none any more.

mod normal;
mod requests;
mod sheet;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use testbed::cluster::{Cluster, coracle, kubectls, missing};

use normal::{ages, normal, recordable, same, squeezed};
use sheet::{Case, Sheet, Step};

/// Sheets that run at once; each runs the original and ours side by side.
const SHEETS_AT_ONCE: usize = 4;
/// What both read is asked for again while a pod changes its state between the two.
const ATTEMPTS: usize = 6;
/// How often the cost of a process is measured.
const COST_RUNS: usize = 5;
/// A command line that takes longer is ended.
const PATIENCE_SECONDS: &str = "60";

/// The original: 1.33 where there is one, else the newest from 1.31 on.
fn original() -> Option<PathBuf> {
    let all = kubectls();
    let minor = |path: &Path| -> Option<u32> { path.file_name()?.to_str()?.strip_prefix("kubectl.1.")?.parse().ok() };
    let exact = all.iter().find(|path| minor(path) == Some(33)).cloned();
    exact.or_else(|| all.into_iter().filter(|path| minor(path).is_some_and(|minor| minor >= 31)).max_by_key(|path| minor(path)))
}

/// One of the two programs, with a home of its own.
struct Tool {
    /// `real` or `ours`: as long as each other, so that columns come out as wide.
    name: &'static str,
    home: PathBuf,
}

impl Tool {
    fn new(scratch: &Path, name: &'static str, program: &Path) -> Tool {
        let home = scratch.join(name);
        fs::create_dir_all(home.join("bin")).expect("makes a directory");
        std::os::unix::fs::symlink(program, home.join("bin/kubectl")).expect("makes a link");
        Tool { name, home }
    }

    fn namespace(&self, sheet: &Sheet) -> String {
        if sheet.shared { sheet.name.clone() } else { format!("{}-{}", sheet.name, self.name) }
    }

    /// A directory for the sheet with its files and a kubeconfig whose context has the sheet's namespace.
    fn prepare(&self, sheet: &Sheet, kubeconfig: &str) {
        let directory = self.home.join(&sheet.name);
        fs::create_dir_all(&directory).expect("makes a directory");
        let with_namespace = kubeconfig.replace("\n    cluster: ", &format!("\n    namespace: {}\n    cluster: ", self.namespace(sheet)));
        assert_ne!(with_namespace, kubeconfig, "the kubeconfig has a context");
        fs::write(directory.join("kubeconfig"), with_namespace).expect("writes");
        for (name, text) in &sheet.files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().expect("in the directory")).expect("makes a directory");
            fs::write(path, text.replace("$NS", &self.namespace(sheet))).expect("writes");
        }
    }

    fn run(&self, sheet: &Sheet, line: &str) -> Outcome {
        let directory = self.home.join(&sheet.name);
        let output = Command::new("timeout")
            .args(["-k", "1", PATIENCE_SECONDS, "sh", "-c", line])
            .current_dir(&directory)
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", self.home.join("bin").display()))
            .env("HOME", &self.home)
            .env("KUBECONFIG", directory.join("kubeconfig"))
            .env("NS", self.namespace(sheet))
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        Outcome {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
            varies: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    stdout: String,
    stderr: String,
    code: i32,
    /// A recording that two runs do not agree on.
    varies: bool,
}

impl Outcome {
    /// Without the names and places that the two tools cannot have in common.
    fn normal(&self, tool: &Tool, sheet: &Sheet, case: &Case) -> Outcome {
        let plain = |text: &str| {
            let text = text.replace(&tool.namespace(sheet), &sheet.name).replace(&tool.home.display().to_string(), "HOME");
            let text = normal(&text, sheet.shared);
            if case.sorted { sorted_lines(&text) } else { text }
        };
        Outcome { stdout: plain(&self.stdout), stderr: plain(&normal::without_log(&self.stderr)), ..self.clone() }
    }

    fn parts(&self) -> [(&'static str, String); 3] {
        [("stdout", self.stdout.clone()), ("stderr", self.stderr.clone()), ("code", self.code.to_string())]
    }

    fn recordable(&self) -> Outcome {
        Outcome { stdout: recordable(&self.stdout), stderr: recordable(&self.stderr), ..self.clone() }
    }
}

fn sorted_lines(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

enum Verdict {
    Equal,
    Listed(String),
    /// What is wrong, to be read by a person.
    Wrong(String),
}

struct Comparison<'a> {
    real: Option<&'a Tool>,
    ours: &'a Tool,
    recorded: Recorded,
}

impl Comparison<'_> {
    fn sheet(&self, sheet: &Sheet, results: &mut Vec<(String, Verdict)>, record: &mut Vec<(String, Outcome)>) {
        for step in &sheet.steps {
            match step {
                Step::Setup(line) => {
                    let tools: Vec<&Tool> = if sheet.shared { vec![self.ours] } else { self.real.into_iter().chain([self.ours]).collect() };
                    let outcomes = std::thread::scope(|scope| {
                        let running: Vec<_> = tools.into_iter().map(|tool| scope.spawn(move || tool.run(sheet, line))).collect();
                        running.into_iter().map(|one| one.join().expect("sh runs")).collect::<Vec<Outcome>>()
                    });
                    if let Some(failed) = outcomes.iter().find(|outcome| outcome.code != 0) {
                        // What follows would differ for no reason of its own.
                        results.push((line.clone(), Verdict::Wrong(format!("setup failed: {}{}", failed.stdout, failed.stderr))));
                        return;
                    }
                }
                Step::Case(case) => {
                    let before = results.iter().filter(|(line, _)| *line == case.line).count();
                    let (verdict, real) = self.case(sheet, case, before);
                    results.push((case.line.clone(), verdict));
                    if let Some(real) = real.filter(|_| !case.here_only) {
                        record.push((case.line.clone(), real.recordable()));
                    }
                }
            }
        }
    }

    /// The verdict, and what the original said. The line has been run `before` times.
    fn case(&self, sheet: &Sheet, case: &Case, before: usize) -> (Verdict, Option<Outcome>) {
        let Some(real) = self.real else {
            let ours = self.ours.run(sheet, &case.line).normal(self.ours, sheet, case).recordable();
            return match self.recorded.get(&sheet.name, &case.line, before) {
                None => (Verdict::Listed("there is no original here, and no recording".to_owned()), None),
                Some(recorded) if recorded.varies => (Verdict::Listed("there is no original here, and two recordings differ".to_owned()), None),
                Some(recorded) => (judge(case, recorded, &ours), None),
            };
        };
        let attempts = if sheet.shared { ATTEMPTS } else { 1 };
        for attempt in 1.. {
            let (theirs, ours) = std::thread::scope(|scope| {
                let theirs = scope.spawn(|| real.run(sheet, &case.line).normal(real, sheet, case));
                let ours = self.ours.run(sheet, &case.line).normal(self.ours, sheet, case);
                (theirs.join().expect("the original runs"), ours)
            });
            let verdict = judge(case, &theirs, &ours);
            if !matches!(verdict, Verdict::Wrong(_)) || attempt == attempts {
                return (verdict, Some(theirs));
            }
        }
        unreachable!("the last attempt returns")
    }
}

fn judge(case: &Case, theirs: &Outcome, ours: &Outcome) -> Verdict {
    let mut wrong = String::new();
    let mut listed = None;
    for ((part, theirs), (_, ours)) in theirs.parts().into_iter().zip(ours.parts()) {
        let equal = same(&theirs, &ours) || (case.spaces && squeezed(&ages(&theirs)) == squeezed(&ages(&ours)));
        match case.differs.iter().find(|known| known.part == part) {
            Some(known) if !equal => listed = Some(known.reason.clone()),
            Some(known) if known.always => {
                let _ = writeln!(wrong, "{part}: listed as different ({}), yet equal", known.reason);
            }
            Some(_) => {}
            None if !equal => wrong += &normal::difference(part, &theirs, &ours),
            None => {}
        }
    }
    match listed {
        _ if !wrong.is_empty() => Verdict::Wrong(wrong),
        Some(reason) => Verdict::Listed(reason),
        None => Verdict::Equal,
    }
}

/// What an original said, by sheet and command line.
#[derive(Default)]
struct Recorded {
    sheets: BTreeMap<String, Vec<(String, Outcome)>>,
}

impl Recorded {
    fn directory() -> PathBuf {
        sheet::directory().join("recorded")
    }

    fn read(sheets: &[Sheet]) -> Recorded {
        let mut all = Recorded::default();
        for sheet in sheets {
            let text = fs::read_to_string(Self::directory().join(format!("{}.txt", sheet.name))).unwrap_or_default();
            let mut outcomes: Vec<(String, Outcome)> = Vec::new();
            for line in text.lines() {
                if let Some(command) = line.strip_prefix("$ ") {
                    outcomes.push((command.to_owned(), Outcome { stdout: String::new(), stderr: String::new(), code: 0, varies: false }));
                } else if let Some((_, outcome)) = outcomes.last_mut() {
                    match line.split_at_checked(1) {
                        Some(("|", rest)) => outcome.stdout += &format!("{rest}\n"),
                        Some(("!", rest)) => outcome.stderr += &format!("{rest}\n"),
                        Some(("=", rest)) => outcome.code = rest.parse().unwrap_or(-1),
                        Some(("?", _)) => outcome.varies = true,
                        _ => {}
                    }
                }
            }
            all.sheets.insert(sheet.name.clone(), outcomes);
        }
        all
    }

    fn get(&self, sheet: &str, line: &str, before: usize) -> Option<&Outcome> {
        self.sheets.get(sheet)?.iter().filter(|(known, _)| known == line).nth(before).map(|(_, outcome)| outcome)
    }

    fn write(&self, sheet: &Sheet, outcomes: &[(String, Outcome)]) {
        let mut text = String::new();
        for (at, (line, outcome)) in outcomes.iter().enumerate() {
            let _ = writeln!(text, "$ {line}");
            let before = outcomes[..at].iter().filter(|(known, _)| known == line).count();
            if self.get(&sheet.name, line, before).is_some_and(|known| known.varies || known != outcome) {
                text += "?\n";
                continue;
            }
            outcome.stdout.lines().for_each(|line| text += &format!("|{line}\n"));
            outcome.stderr.lines().for_each(|line| text += &format!("!{line}\n"));
            if outcome.code != 0 {
                let _ = writeln!(text, "={}", outcome.code);
            }
        }
        fs::create_dir_all(Self::directory()).expect("makes a directory");
        fs::write(Self::directory().join(format!("{}.txt", sheet.name)), text).expect("writes");
    }
}

#[test]
fn ours_says_what_the_original_says() {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return;
    }
    let given = std::env::var("CORACLE_TEST_KUBECONFIG").ok().map(PathBuf::from);
    let audit = tempfile::tempdir().expect("a scratch directory");
    let (policy, log) = (audit.path().join("policy.yaml"), audit.path().join("log"));
    fs::write(&policy, requests::POLICY).expect("writes");
    let (policy, log) = (policy.display().to_string(), log.display().to_string());
    let flags = ["--audit-policy-file", &policy, "--audit-log-path", &log];
    let cluster = given.is_none().then(|| Cluster::start_with(&flags).expect("the cluster starts"));
    let kubeconfig = cluster.as_ref().map_or_else(|| given.expect("one of the two"), Cluster::kubeconfig);
    let kubeconfig = fs::read_to_string(kubeconfig).expect("a kubeconfig");

    let scratch = tempfile::tempdir().expect("a scratch directory");
    let record = std::env::var_os("CORACLE_RECORD").is_some();
    let compare_recorded = std::env::var_os("CORACLE_TEST_RECORDED").is_some();
    let real = original().filter(|_| !compare_recorded).map(|program| Tool::new(scratch.path(), "real", &program));
    let ours = Tool::new(scratch.path(), "ours", &coracle());
    let sheets = sheet::all();
    let comparison = Comparison { real: real.as_ref(), ours: &ours, recorded: Recorded::read(&sheets) };

    let begun = Instant::now();
    let tools: Vec<&Tool> = comparison.real.into_iter().chain([comparison.ours]).collect();
    sheets.iter().for_each(|sheet| tools.iter().for_each(|tool| tool.prepare(sheet, &kubeconfig)));
    for sheet in &sheets {
        for tool in &tools {
            let made = comparison.ours.run(sheet, &format!("kubectl create namespace {} >/dev/null 2>&1 || true", tool.namespace(sheet)));
            assert_eq!(made.code, 0, "{}", made.stderr);
        }
    }
    let results = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SHEETS_AT_ONCE {
            scope.spawn(|| {
                while let Some(sheet) = sheets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (mut verdicts, mut said) = (Vec::new(), Vec::new());
                    comparison.sheet(sheet, &mut verdicts, &mut said);
                    if record {
                        comparison.recorded.write(sheet, &said);
                    }
                    results.lock().expect("no panic holds it").insert(sheet.name.clone(), verdicts);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic held it");
    let with = real.as_ref().map_or_else(|| "what an original once said".to_owned(), |tool| original_version(tool, &sheets[0]));
    if let Some(real) = &real {
        costs(&[real, &ours], &sheets[0]);
    }
    let failures = summary(&results, &with, begun.elapsed().as_secs_f64());
    if cluster.is_none() {
        for sheet in &sheets {
            for tool in &tools {
                comparison.ours.run(sheet, &format!("kubectl delete namespace {} --wait=false", tool.namespace(sheet)));
            }
        }
    }
    if cluster.is_some() {
        let document = comparison.ours.run(&sheets[0], "kubectl get --raw /openapi/v2").stdout;
        let document = serde_json::from_str(&document).expect("an OpenAPI document");
        let asked = requests::of(&fs::read_to_string(&log).expect("an audit log"), &document, &|uri| sheets.iter().any(|sheet| sheet.mentions(uri)));
        println!("\n{} requests of ours to {} paths, {} of them private", asked.total, asked.paths.len(), asked.private.len());
        assert_eq!(asked.private, Default::default(), "requests that a stock server does not know");
        assert!(asked.total > 0, "nothing was recorded");
    }
    assert_eq!(failures, 0, "differences that are not listed");
}

/// What one `get pods` costs as a process, in one run on one cluster.
fn costs(tools: &[&Tool], sheet: &Sheet) {
    println!("| kubectl get pods | wall, best of {COST_RUNS} | CPU | most resident |\n| --- | --- | --- | --- |");
    for tool in tools {
        let measure = format!("for run in $(seq {COST_RUNS}); do \"$TESTBED\" measure kubectl get pods -n kube-system 2>/dev/null; done");
        let said = tool.run(sheet, &format!("kubectl get pods -n kube-system >/dev/null 2>&1; {measure}").replace("$TESTBED", env!("CARGO_BIN_EXE_testbed"))).stdout;
        let runs: Vec<Vec<f64>> = said.lines().map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect()).collect();
        let least = |at: usize| runs.iter().filter_map(|run| run.get(at)).copied().fold(f64::INFINITY, f64::min);
        println!("| {} | {:.1} ms | {:.1} ms | {:.1} MiB |", tool.name, least(0), least(1), least(2));
    }
}

fn original_version(tool: &Tool, sheet: &Sheet) -> String {
    let said = tool.run(sheet, "kubectl version --client").stdout;
    format!("kubectl {}", said.split_whitespace().nth(2).unwrap_or("of unknown version"))
}

/// Prints the table; the number of differences that are not listed.
fn summary(results: &BTreeMap<String, Vec<(String, Verdict)>>, with: &str, seconds: f64) -> usize {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut equal, mut listed, mut wrong) = (0, 0, 0);
    println!("| sheet | command lines | equal | listed differences | others |\n| --- | --- | --- | --- | --- |");
    for (sheet, verdicts) in results {
        let count = |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(|(_, verdict)| wanted(verdict)).count();
        let here = [
            count(|verdict| matches!(verdict, Verdict::Equal)),
            count(|verdict| matches!(verdict, Verdict::Listed(_))),
            count(|verdict| matches!(verdict, Verdict::Wrong(_))),
        ];
        println!("| {sheet} | {} | {} | {} | {} |", verdicts.len(), here[0], here[1], here[2]);
        equal += here[0];
        listed += here[1];
        wrong += here[2];
        for (_, verdict) in verdicts {
            if let Verdict::Listed(reason) = verdict {
                *reasons.entry(reason).or_default() += 1;
            }
        }
    }
    println!("| all | {} | {equal} | {listed} | {wrong} |", equal + listed + wrong);
    println!("\ncompared with {with} in {seconds:.1} s");
    for (reason, count) in reasons {
        println!("listed, {count}: {reason}");
    }
    for (sheet, verdicts) in results {
        for (line, verdict) in verdicts {
            if let Verdict::Wrong(why) = verdict {
                println!("\n=== {sheet}: {line}\n{why}");
            }
        }
    }
    wrong
}
