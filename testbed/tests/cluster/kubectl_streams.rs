//! The built-in client where streams and terminals are involved: cp, port-forward, proxy, debug, completion, exec -it,
//! edit.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use testbed::cluster::{Cluster, coracle, for_test};

const SOON: Duration = Duration::from_secs(30);

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: nginx, image: "nginx:1.16", ports: [{name: http, containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: web}, ports: [{name: main, port: 8000, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: first, image: "busybox:1.35", command: [sleep, "3600"]}
  - {name: second, image: "busybox:1.35", command: [sleep, "3600"]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
"#;

/// A cluster with pods that run, or None where the machine cannot run one (said by name).
fn cluster() -> Option<Cluster> {
    let cluster = for_test(&[])?;
    cluster.apply(PODS);
    cluster.kubectl("wait --for=condition=Ready pod/web pod/box --timeout=60s");
    Some(cluster)
}

/// `coracle kubectl WORDS...` with the cluster's kubeconfig.
fn ours(cluster: &Cluster, words: &[&str]) -> Command {
    let mut all = vec!["kubectl"];
    all.extend(words);
    cluster.kubectl_command_of(&coracle(), &all)
}

#[track_caller]
fn run(cluster: &Cluster, line: &str) -> Output {
    let words: Vec<&str> = line.split_whitespace().collect();
    ours(cluster, &words).stdin(Stdio::null()).output().expect("it runs")
}

#[track_caller]
fn check(cluster: &Cluster, line: &str, code: i32) -> String {
    let output = run(cluster, line);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "kubectl {line}: {said}");
    said
}

/// A command that goes on until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command and returns its first lines of standard output.
fn start(cluster: &Cluster, line: &str, lines: usize) -> (Running, Vec<String>) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut child = ours(cluster, &words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it runs");
    let output = child.stdout.take().expect("piped");
    let running = Running(child);
    let first = BufReader::new(output).lines().take(lines).map(|line| line.expect("text")).collect();
    (running, first)
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn port_of(line: &str) -> u16 {
    let digits: String = line.split(" -> ").next().and_then(|at| at.rsplit(':').next()).unwrap_or_default().to_owned();
    digits.parse().expect("a port")
}

#[test]
fn files_and_ports_pass_through() {
    let Some(cluster) = cluster() else { return };
    let scratch = tempfile::tempdir().expect("a directory");
    let at = |name: &str| scratch.path().join(name);

    // A tree with a file larger than any buffer on the way, an executable, an empty directory, a link.
    fs::create_dir_all(at("tree/sub/empty")).expect("made");
    let large: Vec<u8> = (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(at("tree/sub/large"), &large).expect("written");
    fs::write(at("tree/small"), "hello\n").expect("written");
    std::os::unix::fs::symlink("small", at("tree/link")).expect("linked");
    let tree = at("tree").display().to_string();
    check(&cluster, &format!("cp {tree} box:/tmp/copied -c second"), 0);
    assert_eq!(check(&cluster, "exec box -c second -- cat /tmp/copied/small /tmp/copied/link", 0), "hello\nhello\n");
    check(&cluster, "exec box -c first -- test -e /tmp/copied", 1);
    let back = at("back").display().to_string();
    let said = check(&cluster, &format!("cp box:/tmp/copied {back} -c second"), 0);
    assert!(said.contains("warning: skipping symlink:"), "{said}");
    assert!(fs::read(at("back/sub/large")).expect("copied") == large, "the large file came back as it was");
    assert!(at("back/sub/empty").is_dir());
    // Into a directory that is there, and one file out, with retries.
    check(&cluster, &format!("cp {tree}/small default/box:/tmp"), 0);
    check(&cluster, &format!("cp default/box:/tmp/small {back}-small --retries=2"), 0);
    assert_eq!(fs::read(at("back-small")).expect("copied"), b"hello\n");
    let said = check(&cluster, &format!("cp box:/absent {back}-absent"), 1);
    assert!(said.contains("No such file or directory") && said.contains("command terminated with exit code 1"), "{said}");
    let said = check(&cluster, &format!("cp {tree}/small nobody:/tmp"), 1);
    assert!(said.contains("Error from server (NotFound): pods \"nobody\" not found"), "{said}");

    let (forward, lines) = start(&cluster, "port-forward service/front :main --address 127.0.0.1", 1);
    assert!(lines[0].starts_with("Forwarding from 127.0.0.1:") && lines[0].ends_with(" -> 80"), "{lines:?}");
    for _ in 0..3 {
        assert!(get(port_of(&lines[0]), "/").contains("nginx:1.16"), "the pod's page");
    }
    drop(forward);
    let said = check(&cluster, "port-forward service/front 9", 1);
    assert!(said.contains("error: Service front does not have a service port 9"), "{said}");

    let (proxy, lines) = start(&cluster, &format!("proxy --port=0 --www={tree}"), 1);
    assert!(lines[0].starts_with("Starting to serve on 127.0.0.1:"), "{lines:?}");
    let port = port_of(&lines[0]);
    assert!(get(port, "/api/v1/namespaces/default/pods/box").contains("\"name\":\"box\""));
    assert!(get(port, "/api/v1/namespaces/default/services/front:main/proxy/").contains("nginx:1.16"));
    assert!(get(port, "/static/small").ends_with("hello\n"));
    assert!(get(port, "/api/v1/namespaces/default/pods/box/exec").starts_with("HTTP/1.1 403"));
    drop(proxy);

    // More than fits into buffers, both ways at once.
    let mut echo = ours(&cluster, &["exec", "-i", "box", "-c", "first", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut input = echo.stdin.take().expect("piped");
    let sent = large.clone();
    let writing = std::thread::spawn(move || input.write_all(&sent));
    let mut echoed = Vec::new();
    echo.stdout.take().expect("piped").read_to_end(&mut echoed).expect("read");
    writing.join().expect("no panic").expect("written");
    assert!(echo.wait().expect("it ends").success() && echoed == large, "what went in came out");

    let words = ["debug", "box", "--image=busybox:1.35", "--target=first", "--profile=general", "-c", "probe", "-i", "-q", "--", "sh", "-c", "sleep 2; echo probed"];
    let output = ours(&cluster, &words).stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success() && output.stdout == b"probed\n", "{output:?}");
    let containers = cluster.kubectl("get pod box -o jsonpath={.spec.ephemeralContainers[*].name}");
    assert_eq!(containers, "probe");
    let said = check(&cluster, "debug web --copy-to=web-copy --set-image=*=nginx:1.7.9", 0);
    assert!(!said.contains("rror"), "{said}");
    assert_eq!(cluster.kubectl("get pod web-copy -o jsonpath={.spec.containers[0].image}"), "nginx:1.7.9");
}

/// A directory with a `kubectl` that is the built-in client.
fn path_with_kubectl(directory: &Path) -> String {
    let program = directory.join("kubectl");
    if !program.exists() {
        std::os::unix::fs::symlink(coracle(), &program).expect("linked");
    }
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default())
}

const COMPLETES: &str = r#"
source <(kubectl completion bash)
complete -p kubectl
check() { COMP_LINE="$1"; COMP_POINT=${#1}; COMPREPLY=(); __start_kubectl; echo "$1 -> ${COMPREPLY[*]}"; }
check "kubectl get po"
check "kubectl get pods "
check "kubectl delete pod b"
check "kubectl logs box -c "
check "kubectl get pods -o jsonpath-a"
check "kubectl get pods --output=ya"
check "kubectl -n kube-s"
check "kubectl exec -it we"
check "kubectl get pod/w"
check "kubectl rollout re"
"#;

#[test]
fn a_shell_completes_names_of_the_cluster() {
    let Some(cluster) = cluster() else { return };
    let scratch = tempfile::tempdir().expect("a directory");
    let mut bash = cluster.kubectl_command_of(Path::new("bash"), &["--norc", "-c", COMPLETES]);
    let output = bash.env("PATH", path_with_kubectl(scratch.path())).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout);
    for expected in [
        "complete -o default -F __start_kubectl kubectl\n",
        "kubectl get po -> poddisruptionbudgets.policy pods pods.metrics.k8s.io podtemplates\n",
        "kubectl get pods  -> box web\n",
        "kubectl delete pod b -> box\n",
        "kubectl logs box -c  -> first second\n",
        "kubectl get pods -o jsonpath-a -> jsonpath-as-json\n",
        "kubectl get pods --output=ya -> yaml\n",
        "kubectl -n kube-s -> kube-system\n",
        "kubectl exec -it we -> web\n",
        "kubectl get pod/w -> pod/web\n",
        "kubectl rollout re -> restart resume\n",
    ] {
        assert!(said.contains(expected), "{expected:?} in {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    fish_completes(&cluster, scratch.path());
    zsh_completes(&cluster, scratch.path());
}

fn installed(shell: &str) -> bool {
    let found = Command::new(shell).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no {shell}");
    }
    found
}

fn fish_completes(cluster: &Cluster, scratch: &Path) {
    if !installed("fish") {
        return;
    }
    let script = "kubectl completion fish | source; complete -C 'kubectl get pods '; complete -C 'kubectl get pods --output=ya'";
    let mut fish = cluster.kubectl_command_of(Path::new("fish"), &["--no-config", "-c", script]);
    let output = fish.env("PATH", path_with_kubectl(scratch)).env("HOME", scratch).output().expect("fish runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "box\nweb\n--output=yaml\n", "{}", String::from_utf8_lossy(&output.stderr));
}

fn zsh_completes(cluster: &Cluster, scratch: &Path) {
    if !installed("zsh") || !installed("tmux") {
        return;
    }
    let terminal = Terminal::open(cluster, scratch, &path_with_kubectl(scratch));
    terminal.shows("$");
    terminal.line("PS1='zsh> ' zsh -f");
    terminal.shows("zsh>");
    terminal.line(&format!("autoload -Uz compinit; compinit -u -d {}/dump; source <(kubectl completion zsh); echo rea''dy", scratch.display()));
    terminal.shows("ready");
    terminal.tmux(&["send-keys", "-l", "kubectl delete pod b"]);
    terminal.keys(&["Tab"]);
    terminal.shows("kubectl delete pod box");
}

/// A terminal to type into.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn open(cluster: &Cluster, directory: &Path, path: &str) -> Terminal {
        let terminal = Terminal { socket: directory.join("tmux") };
        let mut tmux = cluster.kubectl_command_of(Path::new("tmux"), &["-S"]);
        tmux.arg(&terminal.socket).args(["-f", "/dev/null", "new-session", "-d", "-x", "90", "-y", "20", "env PS1='$ ' bash --norc --noprofile"]);
        let status = tmux.env("PATH", path).env_remove("TMUX").status().expect("tmux runs");
        assert!(status.success());
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(words).output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        let mut words = vec!["send-keys"];
        words.extend(keys);
        self.tmux(&words);
    }

    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    /// Waits until the screen shows it.
    #[track_caller]
    fn shows(&self, wanted: &str) {
        let end = Instant::now() + SOON;
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if screen.contains(wanted) {
                return;
            }
            assert!(Instant::now() < end, "{wanted:?} on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn a_terminal_is_passed_on_and_left_sane() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: there is no tmux");
        return;
    }
    let Some(cluster) = cluster() else { return };
    let scratch = tempfile::tempdir().expect("a directory");
    let path = path_with_kubectl(scratch.path());
    let terminal = Terminal::open(&cluster, scratch.path(), &path);
    terminal.shows("$");

    terminal.line("kubectl exec -it box -c first -- sh");
    terminal.shows("/ #");
    terminal.line("echo size: $(stty size)");
    terminal.shows("size: 20 90");
    terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    terminal.line("sleep 1; echo now: $(stty size)");
    terminal.shows("now: 30 100");
    // Ctrl-C is the remote command's, not the client's.
    terminal.line("sleep 1000");
    terminal.keys(&["C-c"]);
    terminal.line("echo still $((40 + 2))");
    terminal.shows("still 42");
    terminal.line("(exit 7)");
    terminal.keys(&["C-d"]);
    terminal.shows("command terminated with exit code 7");
    terminal.line("echo code $? $(stty -a | grep -o -- '-*icanon') $(stty -a | grep -o -- ' -*echo ')");
    terminal.shows("code 7 icanon echo");

    // The editor has the terminal, too.
    let editor = scratch.path().join("editor");
    fs::write(&editor, "#!/bin/sh\ntest -t 0 && test -t 1 && sed -i s/blue/green/ \"$1\"\n").expect("written");
    fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    terminal.line(&format!("clear; KUBE_EDITOR={} kubectl edit configmap settings", editor.display()));
    terminal.shows("configmap/settings edited");
    assert_eq!(cluster.kubectl("get configmap settings -o jsonpath={.data.color}"), "green");
}
