//! A cluster to throw away: the real binary with its own data dir, ports and addresses, and the real kubectl.
//!
//! Invariant: whatever a test does, dropping the cluster takes it down with everything that it put into the kernel.
//! A few fit on a machine at once, each in a slot with its own ports and addresses; lock files see to that.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::registry::Registry;

/// Far from what `coracle up` takes by default, so that both fit on one machine. Slot 0's; the others count up.
const API_PORT: u16 = 16443;
const KUBELET_PORT: u16 = 20250;
/// Clusters on one machine at once. The one that wants a further one waits.
const SLOTS: u8 = 4;
pub const NODE: &str = "testbed";
const READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub data_dir: PathBuf,
    pub registry: SocketAddr,
    /// From the server's last start until its node was Ready.
    pub ready_after: Duration,
    flags: Vec<String>,
    server: Option<Child>,
    _registry: RegistryThread,
    _scratch: Scratch,
    slot: Slot,
}

/// The right to a cluster's ports and addresses.
struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    /// The first free one; where none is, waits for the first.
    fn take() -> io::Result<Slot> {
        for number in 0..SLOTS {
            let lock = Slot::file(number)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Slot { number, _lock: lock }),
                Err(fs::TryLockError::WouldBlock) => {}
                Err(fs::TryLockError::Error(cause)) => return Err(cause),
            }
        }
        let lock = Slot::file(0)?;
        lock.lock()?;
        Ok(Slot { number: 0, _lock: lock })
    }

    fn file(number: u8) -> io::Result<File> {
        // The machine's, not the checkout's: two checkouts share the ports.
        File::create(std::env::temp_dir().join(format!("coracle-test-slot-{number}")))
    }

    fn port(&self, first: u16) -> String {
        (first + u16::from(self.number)).to_string()
    }

    fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(format!("coracle-test-{}-{}", std::process::id(), self.number))
    }

    /// The slot's own part of 10.0.0.0/8: pods in the first, Services in the second.
    fn networks(&self) -> (u8, u8) {
        (142 + 2 * self.number, 143 + 2 * self.number)
    }
}

/// When it is set, CNI plugins make the pods' networks of every cluster that says nothing else.
const WITH_PLUGINS: &str = "CORACLE_TEST_CNI";

const PLUGINS: &str = r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "BRIDGE", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.PODS.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "DIRECTORY/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}"#;

impl Slot {
    /// A configuration as an administrator would write it; answers its directory.
    fn write_plugins(&self, scratch: &Path) -> io::Result<PathBuf> {
        let directory = scratch.join("cni");
        fs::create_dir_all(&directory)?;
        let text = PLUGINS
            .replace("BRIDGE", &self.plugins_bridge())
            .replace("PODS", &self.networks().0.to_string())
            .replace("DIRECTORY", &directory.display().to_string());
        fs::write(directory.join("10-test.conflist"), text)?;
        Ok(directory)
    }

    fn plugins_bridge(&self) -> String {
        format!("cortest{}", self.number)
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The binary under test: `$CORACLE`, else the debug build.
pub fn coracle() -> PathBuf {
    std::env::var_os("CORACLE").map_or_else(|| target().join("debug/coracle"), PathBuf::from)
}

/// Why tests with a cluster cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    if !coracle().exists() {
        return Some(format!("{} is not built", coracle().display()));
    }
    missing_images()
}

/// Why tests with real images cannot run here, if they cannot.
pub fn missing_images() -> Option<String> {
    let root = fs::metadata("/proc/self").ok().is_some_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0);
    if !root {
        return Some("needs root".into());
    }
    (!target().join("testbed/complete").exists()).then(|| "the test images are not made (testbed images)".into())
}

/// Every upstream kubectl on this machine, newest last. The plain one of the path is always among them.
pub fn kubectls() -> Vec<PathBuf> {
    let Some(plain) = find_in_path("kubectl") else { return Vec::new() };
    let real = fs::canonicalize(&plain).unwrap_or(plain);
    let mut found: Vec<PathBuf> = real
        .parent()
        .and_then(|directory| fs::read_dir(directory).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl.")))
        .collect();
    found.sort();
    if found.is_empty() { vec![real] } else { found }
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.exists())
}

/// A cluster for a test, with further flags of `coracle server`; none, said on standard error, where there can be none.
#[track_caller]
pub fn for_test(flags: &[&str]) -> Option<Cluster> {
    if let Some(reason) = missing() {
        eprintln!("skipped: {reason}");
        return None;
    }
    Some(Cluster::start_with(flags).expect("the cluster starts"))
}

impl Cluster {
    /// Starts a registry and a one-node cluster that pulls from it; returns when the node is Ready.
    pub fn start() -> io::Result<Cluster> {
        Cluster::start_with(&[])
    }

    /// The same with further flags of `coracle server`; with `--disable-agent` the API server is all there is.
    pub fn start_with(flags: &[&str]) -> io::Result<Cluster> {
        Cluster::start_in(None, flags)
    }

    /// The same with everything that it keeps below `directory`, which goes with the cluster.
    pub fn start_in(directory: Option<PathBuf>, flags: &[&str]) -> io::Result<Cluster> {
        let slot = Slot::take()?;
        let registry = RegistryThread::start(target().join("testbed"))?;
        let scratch = Scratch::new(directory.unwrap_or_else(|| slot.directory()))?;
        let data_dir = scratch.path.join("data");
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_string()).collect();
        if std::env::var_os(WITH_PLUGINS).is_some() && !flags.iter().any(|flag| flag == "--cni-conf-dir") {
            flags.extend(["--cni-conf-dir".to_owned(), slot.write_plugins(&scratch.path)?.display().to_string()]);
        }
        let registries = format!("mirrors:\n  docker.io:\n    endpoint: [\"http://{}\"]\n", registry.address);
        fs::write(scratch.path.join("registries.yaml"), registries)?;
        let mut cluster = Cluster {
            data_dir,
            registry: registry.address,
            ready_after: Duration::ZERO,
            flags,
            server: None,
            _registry: registry,
            _scratch: scratch,
            slot,
        };
        cluster.start_server()?;
        Ok(cluster)
    }

    /// Starts the server and waits until the node is Ready.
    pub fn start_server(&mut self) -> io::Result<()> {
        let started = Instant::now();
        self.server = Some(self.start_component("server", &[])?);
        let end = Instant::now() + READY_WITHIN;
        loop {
            if self.is_ready() {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            if let Some(status) = self.server.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(io::Error::other(format!("the server ended: {status}\n{}", self.log())));
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("the node did not become Ready\n{}", self.log())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `coracle NAME` with the settings of this cluster and further flags; its log goes where the server's does.
    pub fn start_component(&self, name: &str, flags: &[&str]) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let (pods, services) = self.slot.networks();
        Command::new(coracle())
            .arg(name)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--node-name", NODE])
            .args(["--https-listen-port", &self.slot.port(API_PORT), "--kubelet-port", &self.slot.port(KUBELET_PORT)])
            .args(["--cluster-cidr", &format!("10.{pods}.0.0/16"), "--service-cidr", &format!("10.{services}.0.0/16")])
            .args(["--cluster-dns", &format!("10.{services}.0.10")])
            .arg("--private-registry")
            .arg(self.data_dir.with_file_name("registries.yaml"))
            .args(["-v", "4"])
            .args(&self.flags)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    fn is_ready(&self) -> bool {
        if !self.flags.iter().any(|flag| flag == "--disable-agent") {
            let ready = self.kubectl_output(&["get", "node", NODE, "-o", READY_JSONPATH]);
            return ready.is_ok_and(|output| output.status.success() && output.stdout == b"True");
        }
        self.kubectl_output(&["get", "--raw", "/readyz"]).is_ok_and(|output| output.status.success())
    }

    /// Kills the server as a power cut would; its containers go on.
    pub fn kill_server(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.server.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The first two numbers of every Service's address, such as `10.143`.
    pub fn service_network(&self) -> String {
        format!("10.{}", self.slot.networks().1)
    }

    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("server/admin.kubeconfig")
    }

    fn log_file(&self) -> PathBuf {
        self.data_dir.with_file_name("coracle.log")
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// A kubectl command with the cluster's kubeconfig.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let kubectl = kubectls().pop().unwrap_or_else(|| "kubectl".into());
        self.kubectl_command_of(&kubectl, arguments)
    }

    pub fn kubectl_command_of(&self, kubectl: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self._scratch.path).args(arguments);
        command
    }

    pub fn kubectl_output(&self, arguments: &[&str]) -> io::Result<Output> {
        self.kubectl_command(arguments).stdin(Stdio::null()).output()
    }

    /// Standard output of a kubectl command that must succeed. The words are split at blanks.
    #[track_caller]
    pub fn kubectl(&self, line: &str) -> String {
        self.kubectl_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[track_caller]
    pub fn kubectl_words(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_output(arguments).expect("kubectl runs");
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}\n{}{}\n--- server log\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log(),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Standard error of a kubectl command that must fail.
    #[track_caller]
    pub fn kubectl_fails(&self, line: &str) -> String {
        let output = self.kubectl_output(&line.split_whitespace().collect::<Vec<_>>()).expect("kubectl runs");
        assert!(!output.status.success(), "kubectl {line} must fail, said: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Applies a manifest given as text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        let path = self._scratch.path.join("manifest.yaml");
        fs::write(&path, manifest).expect("writes the manifest");
        self.kubectl_words(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Repeats a kubectl command until its output satisfies `wanted`.
    #[track_caller]
    pub fn eventually(&self, line: &str, within: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let logs = || format!("--- server log\n{}", self.log());
        eventually(line, within, || self.kubectl_output(&words), wanted, logs)
    }

    /// `coracle down --purge`, as a user would.
    pub fn down(&mut self) -> io::Result<Output> {
        let output = Command::new(coracle())
            .args(["down", "--purge", "--data-dir"])
            .arg(&self.data_dir)
            .env("HOME", &self._scratch.path)
            .env_remove("KUBECONFIG")
            .output()?;
        if let Some(mut child) = self.server.take() {
            child.wait()?;
        }
        Ok(output)
    }
}

/// Repeats a command, described by `line`, until it succeeds and its output is as wanted.
#[track_caller]
pub(crate) fn eventually(
    line: &str,
    within: Duration,
    run: impl Fn() -> io::Result<Output>,
    wanted: impl Fn(&str) -> bool,
    logs: impl FnOnce() -> String,
) -> String {
    let end = Instant::now() + within;
    loop {
        let output = run().expect("kubectl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && wanted(&text) {
            return text;
        }
        if Instant::now() > end {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("kubectl {line}: not as wanted within {within:?}: {text}{said}\n{}", logs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

const READY_JSONPATH: &str = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("CORACLE_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.data_dir.display());
            std::mem::forget(std::mem::replace(&mut self._scratch, Scratch { path: PathBuf::new() }));
            return;
        }
        match self.down() {
            Ok(output) if output.status.success() => {}
            Ok(output) => eprintln!("coracle down: {}", String::from_utf8_lossy(&output.stderr)),
            Err(cause) => eprintln!("coracle down: {cause}"),
        }
        if std::env::var_os(WITH_PLUGINS).is_some() {
            // The plugin leaves its bridge to whoever comes next.
            let _ = Command::new("ip").args(["link", "delete", &self.slot.plugins_bridge()]).output();
        }
    }
}

/// The registry in a thread with its own event loop, so that tests stay synchronous.
struct RegistryThread {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RegistryThread {
    fn start(images: PathBuf) -> io::Result<RegistryThread> {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (told, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let started = Registry::start(&images, SocketAddr::from(([127, 0, 0, 1], 0))).await;
                let (result, registry) = match started {
                    Ok(registry) => (Ok(registry.address), Some(registry)),
                    Err(cause) => (Err(cause), None),
                };
                // The receiver waits below; it cannot be gone.
                let _ = told.send(result);
                let _ = stopped.await;
                drop(registry);
            });
        });
        let address = address.recv().map_err(io::Error::other)??;
        Ok(RegistryThread { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for RegistryThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the registry has been printed already.
            let _ = thread.join();
        }
    }
}

struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(path: PathBuf) -> io::Result<Scratch> {
        fs::create_dir_all(&path)?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What is left is of no use and /tmp is cleared anyway.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
