//! Runs CNI plugins where somebody has configured some, in place of the bridge of [`crate::pod_network`].
//!
//! Invariant: what a plugin made for a sandbox is in a file before `add` answers, with the configuration that it was
//! made by; so `remove` undoes it also after a restart, a change of the configuration, or half an `add`.
//!
//! Source: the CNI specification 1.0, sections "Network configuration format" and "Execution protocol".
//!
//! Deliberately absent: `CHECK` and `GC` (what is left over is removed by the files here), and plugins' installation.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::NetError;
use crate::host_ports::HostPort;

/// Plugins that ask others (DHCP, a cloud) take their time; one that takes longer is stuck.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(60);
const POD_DEVICE: &str = "eth0";

#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Of what plugins made, a file for each sandbox.
    pub state_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub plugin_dirs: Vec<PathBuf>,
}

/// The pod that a sandbox is made for, as plugins are told it.
#[derive(Clone, Debug, Default)]
pub struct CniPod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub ports: Vec<HostPort>,
}

/// A list of plugins that together make a pod's network.
#[derive(Clone, Debug)]
pub struct Cni {
    config: CniConfig,
    network: Value,
}

impl Cni {
    /// The first configuration of the directory by name (`*.conflist`, `*.conf`, `*.json`); none, if there is none.
    pub fn load(directory: &Path, config: CniConfig) -> Result<Option<Cni>, NetError> {
        let mut files: Vec<PathBuf> = match fs::read_dir(directory) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(_) => return Ok(None),
        };
        let is_config = |path: &PathBuf| {
            let extension = path.extension().and_then(|it| it.to_str());
            matches!(extension, Some("conflist" | "conf" | "json"))
        };
        files.retain(is_config);
        files.sort();
        let Some(path) = files.first() else { return Ok(None) };
        let text = fs::read(path).map_err(|source| io("reading a CNI configuration", path, source))?;
        let network = parse(&text).map_err(|problem| invalid(format!("{}: {problem}", path.display())))?;
        tracing::info!(path = %path.display(), name = network["name"].as_str(), "pods' networks are made by CNI plugins");
        Ok(Some(Cni { config, network }))
    }

    /// For removing what is left, with nothing known but where it is written down.
    pub fn of_the_past(state_dir: PathBuf) -> Cni {
        Cni { config: CniConfig { state_dir, plugin_dirs: Vec::new() }, network: Value::Null }
    }

    /// Makes the sandbox's network. Answers its addresses. What stood there for this sandbox is removed first.
    pub async fn add(&self, netns: &str, sandbox_id: &str, pod: &CniPod) -> Result<Vec<IpAddr>, NetError> {
        if self.file(sandbox_id).exists() {
            self.remove(netns, sandbox_id).await?;
        }
        let mut kept = json!({"network": self.network, "pod": told(pod, sandbox_id), "runtime": capabilities(pod),
            "pluginDirs": self.config.plugin_dirs});
        self.keep(sandbox_id, &kept)?;
        let mut result = Value::Null;
        for plugin in plugins(&self.network) {
            match self.run("ADD", plugin, &kept, netns, sandbox_id, &result).await {
                Ok(answer) => result = answer,
                Err(problem) => {
                    if let Err(cause) = self.remove(netns, sandbox_id).await {
                        tracing::warn!(sandbox_id, %cause, "half a network could not be removed");
                    }
                    return Err(problem);
                }
            }
        }
        kept["result"] = result.clone();
        self.keep(sandbox_id, &kept)?;
        let ips = result["ips"].as_array().into_iter().flatten();
        let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip["address"].as_str()?.parse::<IpNet>().ok()).map(|net| net.addr()).collect();
        match addresses.is_empty() {
            true => Err(invalid(format!("CNI network {} gave no address", self.network["name"]))),
            false => Ok(addresses),
        }
    }

    /// Undoes what `add` did; nothing, if it did nothing. `netns` may be gone.
    pub async fn remove(&self, netns: &str, sandbox_id: &str) -> Result<(), NetError> {
        let path = self.file(sandbox_id);
        let Ok(text) = fs::read(&path) else { return Ok(()) };
        // A file that a power cut has spoilt: the configuration of today is the best guess.
        let kept = serde_json::from_slice(&text).unwrap_or_else(|_| json!({"network": self.network}));
        let netns = if Path::new(netns).exists() { netns } else { "" };
        let listed: Vec<&Map<String, Value>> = plugins(&kept["network"]).collect();
        for plugin in listed.into_iter().rev() {
            self.run("DEL", plugin, &kept, netns, sandbox_id, &kept["result"]).await?;
        }
        fs::remove_file(&path).map_err(|source| io("forgetting a CNI network", &path, source))
    }

    /// Removes the networks of sandboxes that are not in the list.
    pub async fn collect_garbage(&self, live: &[String]) -> Result<(), NetError> {
        let Ok(entries) = fs::read_dir(&self.config.state_dir) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(sandbox_id) = name.strip_suffix(".json")
                && !live.iter().any(|id| id == sandbox_id)
            {
                self.remove("", sandbox_id).await?;
            }
        }
        Ok(())
    }

    fn file(&self, sandbox_id: &str) -> PathBuf {
        self.config.state_dir.join(format!("{sandbox_id}.json"))
    }

    fn keep(&self, sandbox_id: &str, kept: &Value) -> Result<(), NetError> {
        let directory = &self.config.state_dir;
        fs::create_dir_all(directory).map_err(|source| io("keeping a CNI network", directory, source))?;
        let path = self.file(sandbox_id);
        let written = path.with_extension("new");
        let done = fs::write(&written, kept.to_string()).and_then(|()| fs::rename(&written, &path));
        done.map_err(|source| io("keeping a CNI network", &path, source))
    }

    async fn run(
        &self,
        command: &str,
        plugin: &Map<String, Value>,
        kept: &Value,
        netns: &str,
        sandbox_id: &str,
        previous: &Value,
    ) -> Result<Value, NetError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let kept_dirs = kept["pluginDirs"].as_array().into_iter().flatten().filter_map(|it| Some(PathBuf::from(it.as_str()?)));
        let mut directories: Vec<PathBuf> = kept_dirs.collect();
        if directories.is_empty() {
            directories = self.config.plugin_dirs.clone();
        }
        let program = find(kind, &directories)?;
        let input = plugin_config(plugin, &kept["network"], &kept["runtime"], previous);
        let failed = |source| io("running a CNI plugin", &program, source);
        let mut child = Command::new(&program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", sandbox_id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", POD_DEVICE)
            .env("CNI_ARGS", kept["pod"].as_str().unwrap_or_default())
            .env("CNI_PATH", std::env::join_paths(&directories).unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        let work = async {
            if let Some(stdin) = &mut stdin {
                // One that does not read its input says why by its exit code.
                let _ = stdin.write_all(input.to_string().as_bytes()).await;
            }
            drop(stdin);
            child.wait_with_output().await
        };
        let Ok(output) = tokio::time::timeout(PLUGIN_TIMEOUT, work).await else {
            return Err(invalid(format!("plugin type={kind:?} failed ({}): no answer within {PLUGIN_TIMEOUT:?}", lower(command))));
        };
        let output = output.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            return Ok(answer);
        }
        let told = match answer["msg"].as_str() {
            Some(message) => [message, answer["details"].as_str().unwrap_or_default()].join(" "),
            None => String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        Err(invalid(format!("plugin type={kind:?} failed ({}): {}", lower(command), told.trim())))
    }
}

fn find(kind: &str, directories: &[PathBuf]) -> Result<PathBuf, NetError> {
    let is_plain = !kind.is_empty() && !kind.contains('/');
    let mut places = directories.iter().map(|directory| directory.join(kind));
    let found = places.find(|path| is_plain && path.is_file());
    found.ok_or_else(|| {
        let directories: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        invalid(format!("failed to find plugin {kind:?} in path [{}]", directories.join(" ")))
    })
}

fn lower(command: &str) -> &'static str {
    if command == "ADD" { "add" } else { "delete" }
}

fn invalid(what: String) -> NetError {
    NetError::Invalid { what }
}

fn io(doing: &str, path: &Path, source: std::io::Error) -> NetError {
    NetError::Io { doing: doing.into(), path: path.to_owned(), source }
}

/// A list, or a single plugin's configuration as a list of one.
fn parse(text: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    let network = match value.get("plugins") {
        Some(_) => value,
        None => json!({"cniVersion": value["cniVersion"], "name": value["name"], "plugins": [value]}),
    };
    if network["name"].as_str().unwrap_or_default().is_empty() {
        return Err("the network has no name".into());
    }
    if plugins(&network).next().is_none() {
        return Err("no plugins in list".into());
    }
    Ok(network)
}

fn plugins(network: &Value) -> impl Iterator<Item = &Map<String, Value>> {
    network["plugins"].as_array().into_iter().flatten().filter_map(Value::as_object)
}

fn plugin_config(plugin: &Map<String, Value>, network: &Value, runtime: &Value, previous: &Value) -> Value {
    let mut config = plugin.clone();
    config.insert("name".into(), network["name"].clone());
    config.insert("cniVersion".into(), network["cniVersion"].clone());
    let wanted = plugin.get("capabilities").and_then(Value::as_object);
    let supported = wanted.into_iter().flatten().filter(|(_, enabled)| **enabled == true);
    let given: Map<String, Value> =
        supported.filter_map(|(name, _)| Some((name.clone(), runtime.get(name)?.clone()))).collect();
    if !given.is_empty() {
        config.insert("runtimeConfig".into(), given.into());
    }
    if !previous.is_null() {
        config.insert("prevResult".into(), previous.clone());
    }
    config.into()
}

fn told(pod: &CniPod, sandbox_id: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={sandbox_id};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.uid
    )
}

/// What plugins may ask to be given.
fn capabilities(pod: &CniPod) -> Value {
    let protocol = |number: u8| match number {
        17 => "udp",
        132 => "sctp",
        _ => "tcp",
    };
    let mapping = |port: &HostPort| {
        json!({
            "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol(port.protocol),
            "hostIP": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
    };
    json!({"portMappings": pod.ports.iter().map(mapping).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests;
