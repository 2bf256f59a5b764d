//! `coracle up`: a one-node cluster in the background, ready when it returns.

use std::fs::OpenOptions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::net::UdpSocket;

use super::progress::Progress;
use super::{block_on, process, say};
use crate::config::{self, Config};
use crate::instance::Instance;
use crate::kubeconfig;

const PATIENCE: Duration = Duration::from_secs(60);
/// While a user waits at the terminal; nothing of this runs once `up` has returned.
const LOOK_EVERY: Duration = Duration::from_millis(15);
const LOG_LINES_SHOWN: usize = 15;

pub fn command() -> Command {
    config::arguments(Command::new("up").about("Start a one-node cluster in the background; takes the flags of server"))
}

pub fn run(matches: &ArgMatches, arguments: &[String]) -> Result<(), String> {
    let config = config::resolve(matches)?;
    if !nix::unistd::geteuid().is_root() {
        return Err("coracle up must run as root".into());
    }
    let instance = Instance::of(&config.data_dir);
    if let Some(pid) = process::running(&instance.lock()) {
        say(&format!("coracle runs already (pid {pid}, data dir {})", instance.data_dir.display()));
    } else {
        say(&format!("Starting Coracle in {}", instance.data_dir.display()));
        let mut server = Server { child: start(&instance, arguments)?, instance: &instance };
        let mut progress = Progress::start();
        let waited = block_on(wait_until_ready(&config, &instance, &mut server, &mut progress));
        if let Err(problem) = waited {
            progress.failed(&problem);
            return Err(format!("{problem}\n{}", last_lines(&instance)));
        }
    }
    let context = instance.name.clone();
    let path = kubeconfig::merge(&instance.admin_kubeconfig(), &context)?;
    say(&format!("\nContext \"{context}\" is now current in {}.\n", path.display()));
    say("Next:");
    let kubectl = if on_path("kubectl") { "kubectl" } else { "coracle kubectl" };
    say(&format!("  {kubectl} get nodes"));
    say(&format!("  {kubectl} create deployment web --image=nginx"));
    if let (false, Ok(binary)) = (on_path("kubectl"), std::env::current_exe()) {
        say(&format!("  ln -s {} /usr/local/bin/kubectl      the built-in client under its usual name", binary.display()));
    }
    say("  coracle status      what runs");
    say("  coracle down        stop it (--purge also forgets its data)");
    Ok(())
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

struct Server<'a> {
    child: Child,
    instance: &'a Instance,
}

impl Server<'_> {
    fn check_alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the server ended ({status}); see {}", self.instance.log().display())),
            Err(cause) => Err(format!("the server cannot be watched: {cause}")),
        }
    }
}

/// The same flags, in a session of its own, with its output in the log file.
fn start(instance: &Instance, arguments: &[String]) -> Result<Child, String> {
    let log = instance.log();
    if let Some(directory) = log.parent() {
        std::fs::create_dir_all(directory).map_err(|cause| format!("{}: {cause}", directory.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|cause| format!("{}: {cause}", log.display()))?;
    let errors = file.try_clone().map_err(|cause| format!("{}: {cause}", log.display()))?;
    let program = std::env::current_exe().map_err(|cause| format!("own program: {cause}"))?;
    // Whatever stood before the word `up` stays before `server`.
    let flags = arguments.iter().skip(1).map(|it| if it == "up" { "server" } else { it.as_str() });
    std::process::Command::new(program)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|cause| format!("cannot start the server: {cause}"))
}

async fn wait_until_ready(
    config: &Config,
    instance: &Instance,
    server: &mut Server<'_>,
    progress: &mut Progress,
) -> Result<(), String> {
    let client = wait("API server", server, progress, async || {
        let client = client::from_kubeconfig(&instance.admin_kubeconfig()).await.map_err(|cause| cause.to_string())?;
        let request = http::Request::get("/readyz").body(Vec::new()).map_err(|cause| cause.to_string())?;
        client.request_text(request).await.map_err(|cause| cause.to_string())?;
        Ok(client)
    })
    .await?;
    if config.disable_agent {
        return Ok(());
    }
    let nodes = Api::<Node>::all(client);
    wait(&format!("node {} Ready", config.node_name), server, progress, async || {
        let node = nodes.get(&config.node_name).await.map_err(|cause| cause.to_string())?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        match conditions.iter().find(|it| it.type_ == "Ready") {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(ready.message.clone().unwrap_or_default()),
            None => Err("no Ready condition yet".into()),
        }
    })
    .await?;
    if !config.enables("dns") {
        return Ok(());
    }
    let name = format!("kubernetes.default.svc.{}", config.cluster_domain);
    wait("cluster DNS", server, progress, async || resolves(config.cluster_dns, &name).await).await
}

/// Tries again until it succeeds, the server ends, or patience does.
async fn wait<T>(
    step: &str,
    server: &mut Server<'_>,
    progress: &mut Progress,
    attempt: impl AsyncFn() -> Result<T, String>,
) -> Result<T, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(found) => {
                progress.done(step);
                return Ok(found);
            }
            Err(problem) if Instant::now() > end => {
                return Err(format!("{step}: not ready after {} s: {problem}", PATIENCE.as_secs()));
            }
            Err(_) => {}
        }
        server.check_alive()?;
        progress.tick(step);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks the server at `address` for an A record.
async fn resolves(address: IpAddr, name: &str) -> Result<(), String> {
    const ID: [u8; 2] = [0x43, 0x6f];
    const RECURSION_DESIRED: u8 = 1;
    const RCODE: u8 = 0x0f;
    let mut query = vec![ID[0], ID[1], RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).map_err(|_| format!("label {label:?} is too long"))?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let ask = async {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(SocketAddr::new(address, 53)).await?;
        socket.send(&query).await?;
        let mut answer = [0u8; 512];
        let length = socket.recv(&mut answer).await?;
        Ok::<_, std::io::Error>(answer[..length].to_vec())
    };
    let answer = tokio::time::timeout(Duration::from_millis(500), ask)
        .await
        .map_err(|_| "no answer".to_string())?
        .map_err(|cause| cause.to_string())?;
    match answer.get(..8) {
        Some(head) if head[..2] == ID && head[3] & RCODE == 0 && head[6..8] != [0, 0] => Ok(()),
        _ => Err(format!("{name} is not resolved")),
    }
}

fn last_lines(instance: &Instance) -> String {
    let text = std::fs::read_to_string(instance.log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
