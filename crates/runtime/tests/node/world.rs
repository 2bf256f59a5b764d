//! A runtime in a temporary directory, with a root file system made of busybox; and the proof that it leaves
//! nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use runtime::cri::*;
use runtime::embedded::{EmbeddedConfig, EmbeddedRuntime, RootfsProvider};
use runtime::image::Rootfs;

pub struct World {
    pub directory: PathBuf,
    pub runtime: Option<Arc<EmbeddedRuntime>>,
    pub cgroup_parent: String,
    pods: AtomicUsize,
}

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs a test and cleans up, also when it panics.
pub fn run(name: &str, test: impl for<'a> FnOnce(&'a mut World) -> Running<'a>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let mut world = World::new(directory.path(), &format!("coracle-test-{}-{name}", std::process::id())).await;
        let outcome = std::panic::AssertUnwindSafe(test(&mut world)).catch_unwind().await;
        world.restart().await;
        let removed = world.runtime().remove_everything().await;
        world.runtime = None;
        let left = world.leftovers().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        removed.expect("everything is removed");
        assert!(left.is_empty(), "left behind: {left:#?}");
    });
}

impl World {
    /// `cgroup_parent` is above the groups of all its pods.
    pub async fn new(directory: &Path, cgroup_parent: &str) -> World {
        make_rootfs(&directory.join("rootfs"));
        let mut world = World {
            directory: directory.into(),
            runtime: None,
            cgroup_parent: cgroup_parent.to_string(),
            pods: AtomicUsize::new(0),
        };
        world.restart().await;
        world
    }

    /// A new agent in the place of the old one, which just vanishes.
    pub async fn restart(&mut self) {
        self.runtime = None;
        let config = EmbeddedConfig {
            root_dir: self.directory.join("root"),
            state_dir: self.directory.join("state"),
            network: Arc::new(NoNetwork),
            images: Arc::new(Busybox { directory: self.directory.clone() }),
            shim_exe: "/proc/self/exe".into(),
        };
        self.runtime = Some(EmbeddedRuntime::start(config).await.expect("the runtime starts"));
    }

    pub fn runtime(&self) -> &EmbeddedRuntime {
        self.runtime.as_ref().expect("it was started")
    }

    pub fn sandbox_config(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: "web".into(),
                uid: "uid-1".into(),
                namespace: "default".into(),
                attempt: 0,
            },
            hostname: "web".into(),
            log_directory: self.directory.join("logs").display().to_string(),
            cgroup_parent: format!("{}/pod-{}-{}", self.cgroup_parent, std::process::id(), self.pods.fetch_add(1, Ordering::Relaxed)),
            namespaces: NamespaceOptions { pid: NamespaceMode::Container, ..Default::default() },
            labels: BTreeMap::from([("app".into(), "web".into())]),
            ..Default::default()
        }
    }

    pub async fn sandbox(&self) -> String {
        self.runtime().run_pod_sandbox(self.sandbox_config()).await.expect("a sandbox")
    }

    /// A container that runs a shell script. Not started.
    pub fn script(&self, text: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
            image: "busybox".into(),
            command: vec!["/bin/sh".into(), "-c".into(), text.into()],
            log_path: "main/0.log".into(),
            security_context: LinuxContainerSecurityContext {
                namespaces: NamespaceOptions { pid: NamespaceMode::Container, ..Default::default() },
                ..Default::default()
            },
            ..Default::default()
        }
    }

    pub async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.runtime().create_container(sandbox, config).await.expect("a container");
        self.runtime().start_container(&id).await.expect("it starts");
        id
    }

    /// Waits for its end by events, as the kubelet does.
    pub async fn exit(&self, id: &str) -> ContainerStatus {
        let mut events = self.runtime().events();
        let ended = async {
            loop {
                let status = self.runtime().container_status(id).await.expect("its status");
                if status.state == ContainerState::Exited {
                    return status;
                }
                let _ = events.recv().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it ends")
    }

    /// Runs a script in a pod of its own to its end: exit code, and what it printed without stamps.
    pub async fn output_of(&self, config: ContainerConfig) -> (i32, String) {
        let sandbox = self.sandbox().await;
        let id = self.start(&sandbox, config).await;
        let status = self.exit(&id).await;
        let log = self.log(&id).await;
        self.runtime().remove_pod_sandbox(&sandbox).await.expect("removed");
        let _ = fs::remove_dir_all(self.directory.join("logs"));
        (status.exit_code, log)
    }

    /// A container's log without the stamps: the messages only.
    pub async fn log(&self, id: &str) -> String {
        let path = self.runtime().container_status(id).await.expect("its status").log_path;
        let text = fs::read_to_string(path).expect("a log");
        text.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
    }

    pub async fn log_is(&self, id: &str, expected: &str) {
        for _ in 0..500 {
            if self.log(id).await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the log is {:?}, not {expected:?}", self.log(id).await);
    }

    /// A long-running container in a pod of its own: sandbox and container.
    pub async fn sleeper(&self) -> (String, String) {
        let sandbox = self.sandbox().await;
        let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
        let id = self.start(&sandbox, self.script(script)).await;
        self.log_is(&id, "ready\n").await;
        (sandbox, id)
    }

    pub async fn exec(&self, id: &str, script: &str) -> (i32, String) {
        let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
        let answer = self.runtime().exec_sync(id, command, 20).await.expect("it runs");
        (answer.exit_code, String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr))
    }

    /// Processes, mounts, groups and directories that should not be there any more.
    async fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        // A shim's exit follows its last word.
        for _ in 0..100 {
            left = self.leftovers_now();
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        left
    }

    fn leftovers_now(&self) -> Vec<String> {
        let at = self.directory.display().to_string();
        let mut left = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        left.extend(mounts.lines().filter(|line| line.contains(&at)).map(|line| format!("mount {line}")));
        for entry in fs::read_dir("/proc").expect("processes").flatten() {
            let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if command.contains(&at) {
                left.push(format!("process {} {}", entry.path().display(), command.replace('\0', " ")));
            }
        }
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            // The kubelet's part: the parent of all goes when it is empty.
            let group = hierarchy.join(&self.cgroup_parent);
            let _ = fs::remove_dir(&group);
            if group.exists() {
                left.push(format!("cgroup {}", group.display()));
            }
        }
        for directory in ["state/pods", "containers"] {
            for entry in fs::read_dir(self.directory.join(directory)).into_iter().flatten().flatten() {
                left.push(format!("directory {}", entry.path().display()));
            }
        }
        left
    }
}

fn make_rootfs(root: &Path) {
    if root.exists() {
        return;
    }
    for directory in ["bin", "etc", "tmp", "root", "data"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "ls", "cat", "echo", "sleep", "id", "grep", "mount", "head", "dd", "hostname", "ps", "tty", "stty", "nc",
        "kill", "true", "false", "touch", "mkdir", "readlink", "env", "wc", "mknod", "chroot", "tr", "rm", "ip", "ifconfig",
        "pwd", "umask", "test", "seq", "sync", "tail", "date", "printf", "stat", "unshare", "nproc",
    ] {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/data:/bin/sh\n").expect("passwd");
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\nlog:x:4:web\n").expect("group");
    fs::write(root.join("etc/plain"), "no program\n").expect("a file");
}

/// One image, whose layer is the made root file system.
struct Busybox {
    directory: PathBuf,
}

impl RootfsProvider for Busybox {
    fn prepare(&self, _image_id: &str, container_id: &str) -> CriResult<Rootfs> {
        let home = self.directory.join("containers").join(container_id);
        for name in ["upper", "work"] {
            fs::create_dir_all(home.join(name)).expect("a layer");
        }
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Env":["PATH=/bin","FROM_IMAGE=yes"],"WorkingDir":"/data","Cmd":["/bin/true"]}}"#;
        Ok(Rootfs {
            lower_dirs: vec![self.directory.join("rootfs")],
            upper: home.join("upper"),
            work: home.join("work"),
            config: serde_json::from_str(config).expect("a configuration"),
        })
    }

    fn release(&self, container_id: &str) -> CriResult<()> {
        let _ = fs::remove_dir_all(self.directory.join("containers").join(container_id));
        Ok(())
    }

    fn owners(&self) -> std::io::Result<Vec<String>> {
        let entries = fs::read_dir(self.directory.join("containers")).into_iter().flatten().flatten();
        Ok(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    fn names(&self, _image_id: &str) -> (String, String) {
        ("docker.io/library/busybox:latest".into(), "docker.io/library/busybox@sha256:0".into())
    }
}

/// Loopback is all that a pod has here.
struct NoNetwork;

#[async_trait]
impl PodNetwork for NoNetwork {
    async fn set_up(&self, _: &str, netns: &str, _: &PodSandboxConfig) -> CriResult<Vec<String>> {
        assert!(Path::new(netns).exists(), "the namespace is there");
        Ok(vec!["10.0.0.2".into()])
    }

    async fn tear_down(&self, _: &str, _: &str) -> CriResult<()> {
        Ok(())
    }
}
