//! Several "machines" on one: each has network, processes, host name and /run of its own, joined by a wire.
//!
//! ```text
//! machine-1 ──┐
//! machine-2 ──┼── bridge `wire` (192.0.2.1, with the registry) in a namespace of its own ── outside (192.0.2.200)
//! machine-3 ──┘
//! ```
//!
//! Invariant: nothing of it is on the host's own network, and every machine lives on a pipe that its maker holds: when
//! the maker ends, however it ends, the kernel takes processes, mounts and devices along. What the kernel leaves
//! (control groups, files) goes when the machines are dropped, or when the next ones are made.
//!
//! Deliberately absent: machines' own kernels, disks and clocks, which they share.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cluster::{coracle, eventually, kubectls, target};

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const WIRE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const API_PORT: u16 = 6443;
const READY_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Sets of machines that fit on one real machine.
const SLOTS: u8 = 4;

/// What a set of machines is to be like.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub count: usize,
    /// Flags of every `coracle server` and `coracle agent`.
    pub flags: Vec<String>,
    /// Further flags of the server.
    pub server_flags: Vec<String>,
    /// They stay when the maker ends, until somebody takes them down.
    pub stay: bool,
}

impl Plan {
    pub fn of(count: usize) -> Plan {
        Plan { count, ..Plan::default() }
    }

    pub fn flags(mut self, line: &str) -> Plan {
        self.flags.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    pub fn server_flags(mut self, line: &str) -> Plan {
        self.server_flags.extend(line.split_whitespace().map(str::to_owned));
        self
    }
}

/// Namespaces that live as long as their first process.
struct Namespaces {
    child: Child,
    /// The first process, as the host numbers it.
    pid: u32,
    /// Its end ends them.
    _life: Option<ChildStdin>,
}

/// How the first process of a set of namespaces lives: on a pipe, or until it is killed.
const ON_A_PIPE: &str = "read -r _";
const FOR_ITSELF: &str = "while :; do sleep 3600; done";

impl Namespaces {
    /// `set_up` is run inside by a shell, which then reaps whatever loses its parent.
    fn new(name: &str, set_up: &str, stay: bool) -> io::Result<Namespaces> {
        let live = if stay { FOR_ITSELF } else { ON_A_PIPE };
        let script = format!("set -e; mount -t tmpfs tmpfs /run; hostname {name}; ip link set lo up; {set_up}; echo ready; set +e; {live}");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", &script, name]);
        // It complains of its signal mask when the first process is killed.
        command.stdin(if stay { Stdio::null() } else { Stdio::piped() }).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let life = child.stdin.take();
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line != "ready\n" {
            child.wait()?;
            return Err(io::Error::other(format!("namespaces of {name} cannot be made")));
        }
        let pid = first_child(child.id())?;
        Ok(Namespaces { child, pid, _life: life })
    }

    /// A command inside them.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--uts", "--ipc", "--pid", "--"]).arg(program);
        command
    }

    fn network_command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--", program]).args(arguments);
        command
    }

    /// Ends every process in them at once, as a power cut would.
    fn kill(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.kill();
    }
}

fn first_child(parent: u32) -> io::Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    first.ok_or_else(|| io::Error::other(format!("process {parent} has no child")))
}

pub struct Machine {
    pub name: String,
    pub address: Ipv4Addr,
    pub data_dir: PathBuf,
    index: usize,
    is_server: bool,
    arguments: Vec<String>,
    namespaces: Option<Namespaces>,
    coracle: Option<Child>,
    stay: bool,
}

impl Machine {
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn log_file(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    pub fn is_on(&self) -> bool {
        self.namespaces.is_some()
    }

    fn namespaces(&self) -> &Namespaces {
        self.namespaces.as_ref().expect("the machine is on")
    }

    /// A command on the machine itself, beside its pods.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.namespaces().command(Path::new(program));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(words[0], &words[1..]).output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{line} on {}: {}{}", self.name, text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// The binary under test with these arguments and the machine's data dir.
    pub fn coracle_output(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.namespaces().command(&coracle());
        command.args(arguments).arg("--data-dir").arg(&self.data_dir).env("HOME", &self.data_dir).env_remove("KUBECONFIG").output()
    }

    fn start_coracle(&mut self) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let registries = self.data_dir.with_file_name("registries.yaml");
        let mut command = self.namespaces().command(&coracle());
        command
            .args(&self.arguments)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--node-name", &self.name, "-v", "4"])
            .arg("--private-registry")
            .arg(registries)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.coracle = Some(command.spawn()?);
        Ok(())
    }

    /// Kills server or agent and nothing else.
    fn kill_coracle(&mut self) -> io::Result<()> {
        let Some(mut child) = self.coracle.take() else { return Ok(()) };
        if let Ok(pid) = first_child(child.id()) {
            Command::new("kill").args(["-9", &pid.to_string()]).status()?;
        }
        child.wait()?;
        Ok(())
    }

    /// As the product names its things after the data dir.
    fn instance(&self) -> String {
        let path = self.data_dir.display().to_string();
        let hash = path.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("coracle-{hash:08x}")
    }

    /// What a reboot would have cleared.
    fn remove_control_groups(&self) {
        let own = self.instance();
        let base = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(base).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        hierarchies.chain([base.to_path_buf()]).for_each(|hierarchy| remove_control_group(&hierarchy.join(&own)));
    }
}

fn remove_control_group(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for child in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_control_group(&child.path());
    }
    // One whose processes are still ending is removed with the next machines.
    let _ = fs::remove_dir(path);
}

pub struct Machines {
    pub machines: Vec<Machine>,
    plan: Plan,
    scratch: PathBuf,
    outside: Namespaces,
    registry: Child,
    wire: Namespaces,
    _slot: File,
}

impl Machines {
    /// A cluster: the first machine is the server, the others have joined it; returns when all are Ready.
    pub fn start(plan: Plan) -> io::Result<Machines> {
        let mut machines = Machines::bare(plan)?;
        machines.boot_server(0)?;
        let token = machines.token()?;
        for index in 1..machines.plan.count {
            machines.join(index, &token)?;
        }
        for index in 0..machines.plan.count {
            machines.wait_until_ready(index, READY_WITHIN)?;
        }
        Ok(machines)
    }

    /// Machines that are on, and nothing on them.
    pub fn bare(plan: Plan) -> io::Result<Machines> {
        let (slot, scratch) = take_slot()?;
        fs::create_dir_all(&scratch)?;
        let bridge = format!("ip link add wire type bridge; ip addr add {WIRE}/24 dev wire; ip link set wire up");
        let wire = Namespaces::new("wire", &bridge, plan.stay)?;
        let outside = Namespaces::new("outside", "true", plan.stay)?;
        plug_in(&wire, &outside, "outside", OUTSIDE)?;
        let testbed = target().join("debug/testbed");
        let registry = wire
            .command(&testbed)
            .arg("registry")
            .arg(target().join("testbed"))
            .arg(format!("{WIRE}:5000"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        fs::write(scratch.join("registries.yaml"), format!("mirrors:\n  docker.io:\n    endpoint: [\"http://{WIRE}:5000\"]\n"))?;
        let mut made = Machines { machines: Vec::new(), plan, scratch, outside, registry, wire, _slot: slot };
        for index in 0..made.plan.count {
            let name = format!("machine-{}", index + 1);
            let address = Ipv4Addr::new(192, 0, 2, u8::try_from(11 + index).map_err(io::Error::other)?);
            made.machines.push(Machine {
                data_dir: made.scratch.join(&name),
                name,
                address,
                index,
                is_server: false,
                arguments: Vec::new(),
                namespaces: None,
                coracle: None,
                stay: made.plan.stay,
            });
            made.turn_on(index)?;
        }
        Ok(made)
    }

    /// Namespaces and a plug in the wire; nothing is started.
    fn turn_on(&mut self, index: usize) -> io::Result<()> {
        let machine = &mut self.machines[index];
        machine.remove_control_groups();
        let namespaces = Namespaces::new(&machine.name, "true", machine.stay)?;
        plug_in(&self.wire, &namespaces, &port(index), machine.address)?;
        machine.namespaces = Some(namespaces);
        Ok(())
    }

    /// Makes a machine a server and waits until its API answers.
    pub fn boot_server(&mut self, index: usize) -> io::Result<()> {
        let flags = [&self.plan.flags[..], &self.plan.server_flags[..]].concat();
        let machine = &mut self.machines[index];
        machine.is_server = true;
        machine.arguments = [vec!["server".to_owned()], flags].concat();
        machine.start_coracle()?;
        self.wait_for_api(index)
    }

    pub fn wait_for_api(&self, index: usize) -> io::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let answered = self.kubectl_at(index, &["get", "--raw", "/readyz"]).output();
            if answered.is_ok_and(|output| output.status.success()) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("the API does not answer\n{}", self.machines[index].log())));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A join token of the first server.
    pub fn token(&self) -> io::Result<String> {
        let output = self.machines[0].coracle_output(&["token", "create"])?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts an agent.
    pub fn join(&mut self, index: usize, token: &str) -> io::Result<()> {
        let server = format!("https://{}:{API_PORT}", self.machines[0].address);
        let flags = self.plan.flags.clone();
        let machine = &mut self.machines[index];
        let own = ["agent", "--server", &server, "--token", token].map(str::to_owned);
        machine.arguments = [own.to_vec(), flags].concat();
        machine.start_coracle()
    }

    pub fn wait_until_ready(&mut self, index: usize, within: Duration) -> io::Result<()> {
        let end = Instant::now() + within;
        let name = self.machines[index].name.clone();
        loop {
            let ready = self.kubectl_command(&["get", "node", &name, "-o", READY_JSONPATH]).output();
            if ready.is_ok_and(|output| output.status.success() && output.stdout == b"True") {
                return Ok(());
            }
            let machine = &mut self.machines[index];
            if let Some(status) = machine.coracle.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(io::Error::other(format!("coracle on {name} ended: {status}\n{}", machine.log())));
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{name} did not become Ready\n{}", machine.log())));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends everything on a machine at once; its disk stays.
    pub fn cut_power(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        machine.namespaces = None;
        if let Some(mut child) = machine.coracle.take() {
            let _ = child.wait();
        }
        let _ = self.wire.network_command("ip", &["link", "delete", &port(index)]).stderr(Stdio::null()).status();
        self.machines[index].remove_control_groups();
    }

    /// And on again, with what was started there.
    pub fn boot(&mut self, index: usize) -> io::Result<()> {
        self.turn_on(index)?;
        self.machines[index].start_coracle()
    }

    /// Kills server or agent; its pods go on.
    pub fn kill_coracle(&mut self, index: usize) -> io::Result<()> {
        self.machines[index].kill_coracle()
    }

    pub fn start_coracle(&mut self, index: usize) -> io::Result<()> {
        self.machines[index].start_coracle()
    }

    /// Kills server or agent and starts it with further flags.
    pub fn restart_with(&mut self, index: usize, flags: &[&str]) -> io::Result<()> {
        self.kill_coracle(index)?;
        self.machines[index].arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.start_coracle(index)
    }

    /// Waits for server or agent to end by itself and says what it said last.
    pub fn ended(&mut self, index: usize, within: Duration) -> Option<String> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            let machine = &mut self.machines[index];
            if machine.coracle.as_mut().is_none_or(|child| child.try_wait().ok().flatten().is_some()) {
                machine.coracle = None;
                return Some(machine.log());
            }
            std::thread::sleep(PAUSE);
        }
        None
    }

    /// Pulls a machine's plug out of the wire.
    pub fn cut_network(&self, index: usize) {
        self.set_port(index, "down");
    }

    pub fn heal_network(&self, index: usize) {
        self.set_port(index, "up");
    }

    fn set_port(&self, index: usize, state: &str) {
        let done = self.wire.network_command("ip", &["link", "set", &port(index), state]).status();
        assert!(done.is_ok_and(|status| status.success()), "the plug of machine {}", index + 1);
    }

    /// A command in the namespace outside of the cluster.
    pub fn outside(&self, program: &str, arguments: &[&str]) -> Command {
        self.outside.network_command(program, arguments)
    }

    /// The same for what is to live as long as the machines: it ends with them.
    pub fn outside_process(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.outside.command(Path::new(program));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Asks port `port` of every machine from outside, `every` so often, and counts.
    pub fn requests(&self, every: Duration, port: u16) -> io::Result<Requests> {
        let testbed = target().join("debug/testbed");
        let addresses = self.machines.iter().map(|machine| format!("{}:{port}", machine.address));
        let mut child = self
            .outside
            .command(&testbed)
            .args(["requests", &every.as_millis().to_string()])
            .args(addresses)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let made: Arc<Mutex<Vec<Request>>> = Arc::default();
        let noted = made.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(request) = Request::parse(&line)
                    && let Ok(mut noted) = noted.lock()
                {
                    noted.push(request);
                }
            }
        });
        Ok(Requests { child, made })
    }

    /// A kubectl command, run outside, at the first server that is on.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let at = self.machines.iter().find(|machine| machine.is_server && machine.is_on()).map_or(0, |machine| machine.index);
        self.kubectl_at(at, arguments)
    }

    pub fn kubectl_at(&self, server: usize, arguments: &[&str]) -> Command {
        let kubectl = kubectls().pop().unwrap_or_else(|| "kubectl".into());
        let machine = &self.machines[server];
        let mut command = self.outside.network_command(&kubectl.to_string_lossy(), &[]);
        command
            .arg(format!("--server=https://{}:{API_PORT}", machine.address))
            .env("KUBECONFIG", machine.data_dir.join("server/admin.kubeconfig"))
            .env("HOME", &self.scratch)
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    /// Standard output of a kubectl command that must succeed. The words are split at blanks.
    #[track_caller]
    pub fn kubectl(&self, line: &str) -> String {
        self.kubectl_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[track_caller]
    pub fn kubectl_words(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_command(arguments).output().expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {}{}\n{}", text(&output.stdout), text(&output.stderr), self.logs());
        text(&output.stdout)
    }

    /// Applies a manifest given as text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        let path = self.scratch.join("manifest.yaml");
        fs::write(&path, manifest).expect("writes the manifest");
        self.kubectl_words(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Repeats a kubectl command until its output satisfies `wanted`.
    #[track_caller]
    pub fn eventually(&self, line: &str, within: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        eventually(line, within, || self.kubectl_command(&words).output(), wanted, || self.logs())
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        self.machines.iter().map(|machine| format!("--- {}\n{}\n", machine.name, machine.log())).collect()
    }

    /// For those that stay: what `take_down` needs.
    pub fn leave(self) -> io::Result<PathBuf> {
        let pids: Vec<String> = self
            .machines
            .iter()
            .filter_map(|machine| machine.namespaces.as_ref())
            .chain([&self.wire, &self.outside])
            .map(|namespaces| namespaces.pid.to_string())
            .collect();
        let mut file = File::create(self.scratch.join("pids"))?;
        file.write_all(pids.join("\n").as_bytes())?;
        let scratch = self.scratch.clone();
        std::mem::forget(self);
        Ok(scratch)
    }
}

/// One request of the client outside.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Milliseconds since 1970.
    pub at: u64,
    /// The index of the machine that was asked.
    pub machine: usize,
    pub ok: bool,
    /// Milliseconds.
    pub took: u64,
}

impl Request {
    fn parse(line: &str) -> Option<Request> {
        let mut words = line.split(' ');
        let at = words.next()?.parse().ok()?;
        let machine = words.next()?.parse().ok()?;
        Some(Request { at, machine, ok: words.next()? == "ok", took: words.next()?.parse().ok()? })
    }
}

/// A client that goes on asking until it is dropped.
pub struct Requests {
    child: Child,
    made: Arc<Mutex<Vec<Request>>>,
}

impl Requests {
    pub fn so_far(&self) -> Vec<Request> {
        self.made.lock().map(|made| made.clone()).unwrap_or_default()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if let Ok(pid) = first_child(self.child.id()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        let _ = self.child.wait();
    }
}

const READY_JSONPATH: &str = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";

fn port(index: usize) -> String {
    format!("port-{}", index + 1)
}

/// A cable from the wire into the namespaces, where it is `eth0` with the default route. A machine keeps its hardware
/// address when it is turned off and on.
fn plug_in(wire: &Namespaces, namespaces: &Namespaces, port: &str, address: Ipv4Addr) -> io::Result<()> {
    let pid = namespaces.pid.to_string();
    let script = format!(
        "ip link add {port} type veth peer name eth0 address 02:00:00:00:00:{:02x} netns {pid} && ip link set {port} master wire && ip link set {port} up",
        address.octets()[3]
    );
    let inside = format!("ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {WIRE}");
    for (at, script) in [(wire, script), (namespaces, inside)] {
        let status = at.network_command("bash", &["-c", &script]).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("{port} cannot be plugged in: {status}")));
        }
    }
    Ok(())
}

fn slot_directory(number: u8) -> PathBuf {
    std::env::temp_dir().join(format!("coracle-machines-{number}"))
}

/// A free slot, cleared of what a killed maker left.
fn take_slot() -> io::Result<(File, PathBuf)> {
    for number in 0..SLOTS {
        let scratch = slot_directory(number);
        let file = File::create(scratch.with_extension("lock"))?;
        match file.try_lock() {
            // Machines that stay hold no lock.
            Ok(()) if scratch.join("pids").exists() => {}
            Ok(()) => {
                clear(&scratch);
                return Ok((file, scratch));
            }
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(cause)) => return Err(cause),
        }
    }
    Err(io::Error::other("all slots for machines are taken"))
}

fn clear(scratch: &Path) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let machine = Machine {
            name: String::new(),
            address: WIRE,
            data_dir: entry.path(),
            index: 0,
            is_server: false,
            arguments: Vec::new(),
            namespaces: None,
            coracle: None,
            stay: false,
        };
        machine.remove_control_groups();
    }
    let _ = fs::remove_dir_all(scratch);
}

/// Ends the machines that were left standing. Answers how many sets there were.
pub fn take_down() -> io::Result<usize> {
    let mut count = 0;
    for scratch in (0..SLOTS).map(slot_directory) {
        let Ok(pids) = fs::read_to_string(scratch.join("pids")) else { continue };
        for pid in pids.lines() {
            // The number may be somebody else's by now.
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains("mount -t tmpfs tmpfs /run") {
                Command::new("kill").args(["-9", pid]).status()?;
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        clear(&scratch);
        count += 1;
    }
    Ok(count)
}

impl Drop for Machines {
    fn drop(&mut self) {
        if std::env::var_os("CORACLE_TEST_KEEP").is_some() {
            let logs = std::env::temp_dir().join("coracle-machines-logs");
            let _ = fs::create_dir_all(&logs);
            for machine in &self.machines {
                let _ = fs::copy(machine.log_file(), logs.join(format!("{}.log", machine.name)));
            }
            eprintln!("logs kept: {}", logs.display());
        }
        for index in 0..self.machines.len() {
            self.cut_power(index);
        }
        let _ = self.registry.kill();
        let _ = self.registry.wait();
        clear(&self.scratch);
    }
}
