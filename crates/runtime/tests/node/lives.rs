//! Who outlives whom: grace, agents that vanish, shims that are killed, pods by the dozen.

use std::time::{Duration, Instant};

use runtime::cri::*;

use crate::world::World;

crate::tests![stop_with_grace, agent_vanishes, ends_unseen, shim_killed, shim_killed_unseen, half_made, stop_and_remove, shared_processes, many_pods, killed_anywhere, version_2_cgroups];

async fn stop_with_grace(world: &mut World) {
    let (sandbox, id) = world.sleeper().await;
    let before = Instant::now();
    world.runtime().stop_container(&id, 10).await.unwrap();
    let status = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(before.elapsed() < Duration::from_secs(5));

    // One that does not listen, with a child that does not either.
    let deaf = world.script("trap '' TERM; echo deaf; sleep 1000 & while :; do sleep 1000; done");
    let id = world.start(&sandbox, deaf).await;
    world.log_is(&id, "ready\ndeaf\n").await;
    let before = Instant::now();
    world.runtime().stop_container(&id, 1).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1) && before.elapsed() < Duration::from_secs(5));
    let status = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));

    let mut other = world.script("trap 'exit 9' USR1; echo other; while :; do sleep 1000 & wait $!; done");
    other.stop_signal = "SIGUSR1".into();
    let id = world.start(&sandbox, other).await;
    world.log_is(&id, "ready\ndeaf\nother\n").await;
    world.runtime().stop_container(&id, 10).await.unwrap();
    assert_eq!(world.runtime().container_status(&id).await.unwrap().exit_code, 9);
    world.runtime().stop_container(&id, 10).await.expect("once more is no error");
    world.runtime().stop_container("absent", 10).await.expect("nor is one that is gone");
}

async fn agent_vanishes(world: &mut World) {
    let (sandbox, id) = world.sleeper().await;
    let created = world.runtime().create_container(&sandbox, world.script("exit 2")).await.unwrap();
    let before = world.runtime().container_status(&id).await.unwrap();
    world.restart().await;
    let after = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((after.state, after.pid, after.started_at), (ContainerState::Running, before.pid, before.started_at));
    assert_eq!(after.labels, before.labels);
    let pod = world.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!((pod.state, pod.ips.len(), pod.metadata.name.as_str()), (PodSandboxState::Ready, 1, "web"));
    assert_eq!(world.exec(&id, "echo still").await.1, "still\n");
    world.runtime().start_container(&created).await.unwrap();
    assert_eq!(world.exit(&created).await.exit_code, 2);
    world.runtime().stop_container(&id, 10).await.unwrap();
    assert_eq!(world.exit(&id).await.exit_code, 0);
}

/// A container ends while no agent is there.
async fn ends_unseen(world: &mut World) {
    let sandbox = world.sandbox().await;
    let id = world.start(&sandbox, world.script("sleep 0.3; echo late; exit 11")).await;
    world.runtime = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.restart().await;
    let status = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 11, "Error"));
    assert_eq!(world.log(&id).await, "late\n");
}

fn shim_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().parse().unwrap()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
}

async fn shim_killed(world: &mut World) {
    let (sandbox, id) = world.sleeper().await;
    let pid = world.runtime().container_status(&id).await.unwrap().pid;
    kill(shim_of(pid));
    let status = world.exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "ContainerStatusUnknown"));
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert_eq!(command, "", "the container is gone, or a corpse at most");
    let pod = world.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(pod.state, PodSandboxState::NotReady);
    let problem = world.runtime().create_container(&sandbox, world.script("true")).await.unwrap_err().to_string();
    assert!(problem.contains("is not running"), "{problem}");
    world.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
    world.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
}

async fn shim_killed_unseen(world: &mut World) {
    let (sandbox, id) = world.sleeper().await;
    let pid = world.runtime().container_status(&id).await.unwrap().pid;
    world.runtime = None;
    kill(shim_of(pid));
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.restart().await;
    let status = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    let pod = world.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(pod.state, PodSandboxState::NotReady);
}

/// What a crash in the middle of making a pod leaves is gone after the next start.
async fn half_made(world: &mut World) {
    let (sandbox, _) = world.sleeper().await;
    let record = world.directory.join("state/pods").join(&sandbox).join("sandbox.json");
    let text = std::fs::read_to_string(&record).unwrap();
    world.runtime = None;
    std::fs::write(&record, text.replace("\"complete\":true", "\"complete\":false")).unwrap();
    std::fs::create_dir_all(world.directory.join("containers/ownerless/upper")).unwrap();
    world.restart().await;
    assert!(world.runtime().list_pod_sandboxes().await.unwrap().is_empty());
    assert!(world.runtime().list_containers().await.unwrap().is_empty());
    assert!(!record.exists());
    assert!(!world.directory.join("containers/ownerless").exists());
}

async fn stop_and_remove(world: &mut World) {
    let (sandbox, id) = world.sleeper().await;
    let mut events = world.runtime().events();
    world.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
    world.runtime().stop_pod_sandbox(&sandbox).await.expect("once more is no error");
    let status = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    // A stopped pod has no shim, and is still known after a restart.
    world.restart().await;
    let pod = world.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(pod.state, PodSandboxState::NotReady);
    assert_eq!(world.runtime().container_status(&id).await.unwrap().exit_code, 137);
    world.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    world.runtime().remove_pod_sandbox(&sandbox).await.expect("once more is no error");
    assert!(world.runtime().list_containers().await.unwrap().is_empty());
    let stopped = events.recv().await.unwrap();
    assert_eq!((stopped.kind, stopped.container_id, stopped.pod_uid.as_str()), (ContainerEventKind::Stopped, id, "uid-1"));
}

async fn shared_processes(world: &mut World) {
    let mut config = world.sandbox_config();
    config.namespaces.pid = NamespaceMode::Pod;
    let sandbox = world.runtime().run_pod_sandbox(config).await.unwrap();
    let mut first = world.script("exec sleep 4321");
    first.security_context.namespaces.pid = NamespaceMode::Pod;
    let mut second = world.script("ps; ls /proc/1/root/ 2>&1 | head -3; readlink /proc/1/exe");
    second.security_context.namespaces.pid = NamespaceMode::Pod;
    let id = world.start(&sandbox, first).await;
    let other = world.start(&sandbox, second).await;
    world.exit(&other).await;
    let text = world.log(&other).await;
    assert!(text.contains("sleep 4321"), "{text}");
    assert!(text.contains("ermission denied"), "the first process shows nothing of the host: {text}");
    assert!(world.exec(&id, "ps").await.1.contains("sleep 4321"));
    world.runtime().stop_container(&id, 0).await.unwrap();
    assert_eq!(world.exit(&id).await.exit_code, 137);
}

async fn many_pods(world: &mut World) {
    const PODS: usize = 30;
    let before = Instant::now();
    let pods = (0..PODS).map(|_| async {
        let sandbox = world.sandbox().await;
        let started = world.start(&sandbox, world.script("exec sleep 1000")).await;
        (sandbox, started)
    });
    let made = futures::future::join_all(pods).await;
    let elapsed = before.elapsed();
    let running = world.runtime().list_containers().await.unwrap();
    assert_eq!(running.iter().filter(|it| it.state == ContainerState::Running).count(), PODS);
    #[allow(clippy::print_stdout)]
    {
        println!("{PODS} pods running after {elapsed:?}");
    }
    let before = Instant::now();
    let removals = made.iter().map(|(sandbox, _)| world.runtime().remove_pod_sandbox(sandbox));
    for removed in futures::future::join_all(removals).await {
        removed.unwrap();
    }
    #[allow(clippy::print_stdout)]
    {
        println!("removed after {:?}", before.elapsed());
    }
}

/// Other tests once more where only version 2 is mounted, as far as this machine's hierarchy has controllers.
async fn version_2_cgroups(_: &mut World) {
    let unified = "mount --make-rprivate / && umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    let tests = [
        "node::containers::runs_and_logs",
        "node::lives::agent_vanishes",
        "node::lives::shim_killed",
        "node::lives::stop_with_grace",
        "node::lives::shared_processes",
        "node::power::devices",
        "node::streams::exec_sync",
    ];
    let exe = std::env::current_exe().unwrap();
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", unified, "sh"])
        .arg(exe)
        .arg("--exact")
        .args(tests)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches(" ... ok").count(), tests.len(), "{text}");
}

/// The first argument that makes this binary an agent that makes and removes pods until it is killed.
pub const CHURN: &str = "churn";

pub fn churn(directory: &str, cgroup_parent: &str) -> ! {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let world = World::new(directory.as_ref(), cgroup_parent).await;
        loop {
            let pods = (0..4).map(|_| async {
                let sandbox = world.sandbox().await;
                world.start(&sandbox, world.script("sleep 1000")).await;
                world.runtime().exec_sync(&world.start(&sandbox, world.script("exit 0")).await, vec!["true".into()], 1).await.ok();
                world.runtime().remove_pod_sandbox(&sandbox).await.expect("removed");
            });
            futures::future::join_all(pods).await;
        }
    })
}

/// An agent is killed at any moment of making and removing pods: the next one finds its way, and nothing stays.
async fn killed_anywhere(world: &mut World) {
    const ROUNDS: u64 = 20;
    world.runtime = None;
    for round in 0..ROUNDS {
        let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
            .args([CHURN, &world.directory.display().to_string(), &world.cgroup_parent])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // A different moment each time, over the whole of a pod's life.
        tokio::time::sleep(Duration::from_millis(20 + 13 * round % 150)).await;
        assert!(agent.try_wait().unwrap().is_none(), "the agent goes on until it is killed");
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
    world.restart().await;
    // Whole pods are left, each with its shim, none half made.
    for pod in world.runtime().list_pod_sandboxes().await.unwrap() {
        let stopped = pod.state == PodSandboxState::NotReady;
        let containers = world.runtime().list_containers().await.unwrap();
        let running = containers.iter().filter(|it| it.pod_sandbox_id == pod.id && it.state == ContainerState::Running);
        assert!(!stopped || running.count() == 0, "a stopped pod has no running container");
    }
}
