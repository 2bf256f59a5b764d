//! Our kubectl as a user calls it: `coracle kubectl ...` with a cluster's kubeconfig.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use testbed::cluster::{Cluster, coracle};

pub struct Ours<'a> {
    pub cluster: &'a Cluster,
    /// Where files lie and the cache is kept.
    pub home: &'a Path,
}

impl Ours<'_> {
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("kubectl() {{ \"$CORACLE\" kubectl \"$@\"; }}\n{line}")])
            .current_dir(self.home)
            .env("CORACLE", coracle())
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", self.home)
            .stdin(Stdio::null());
        command
    }

    pub fn output(&self, line: &str) -> Output {
        self.command(line).output().expect("sh runs")
    }

    /// What a command line that must succeed writes.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}\n{}", String::from_utf8_lossy(&output.stderr), self.cluster.log());
        text
    }

    /// Repeats a command line until it writes all of `words`.
    #[track_caller]
    pub fn eventually(&self, line: &str, words: &[&str], within: Duration) -> String {
        let end = Instant::now() + within;
        loop {
            let output = self.output(line);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if words.iter().all(|word| text.contains(word)) {
                return text;
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < end, "{line}: not all of {words:?} within {within:?}: {text}{stderr}");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        std::fs::write(self.home.join("manifest.yaml"), manifest).expect("writes the manifest");
        self.run("kubectl apply -f manifest.yaml");
    }
}
