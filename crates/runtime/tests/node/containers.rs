//! What a container finds around itself.

use runtime::cri::*;

use crate::world::World;

crate::tests![runs_and_logs, exit_codes, start_errors];

async fn runs_and_logs(world: &mut World) {
    let sandbox = world.sandbox().await;
    let status = world.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!((status.state, status.ips), (PodSandboxState::Ready, vec!["10.0.0.2".to_string()]));

    let id = world.runtime().create_container(&sandbox, world.script("echo out; echo err >&2; printf end")).await.unwrap();
    let status = world.runtime().container_status(&id).await.unwrap();
    assert_eq!((status.state, status.pid, status.image.as_str()), (ContainerState::Created, 0, "docker.io/library/busybox:latest"));
    world.runtime().start_container(&id).await.unwrap();
    let status = world.exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    let mut lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P end"]);

    world.runtime().remove_container(&id).await.unwrap();
    assert!(matches!(world.runtime().container_status(&id).await, Err(CriError::NotFound(_))));
}

async fn exit_codes(world: &mut World) {
    let sandbox = world.sandbox().await;
    for (script, code, reason) in
        [("exit 0", 0, "Completed"), ("exit 3", 3, "Error"), ("exit 255", 255, "Error"), ("kill -KILL $$; sleep 5", 137, "Error")]
    {
        // The first process of a namespace ignores what it has no handler for: a child takes the blow.
        let script = if script.starts_with("kill") { "sh -c 'kill -KILL $$'; exit $?" } else { script };
        let id = world.start(&sandbox, world.script(script)).await;
        let status = world.exit(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{script}");
    }
}

async fn start_errors(world: &mut World) {
    let sandbox = world.sandbox().await;
    for (command, expected) in [
        ("absent", "exec: \"absent\": executable file not found in $PATH: unknown"),
        ("/bin/absent", "exec: \"/bin/absent\": stat /bin/absent: no such file or directory: unknown"),
        ("/etc/plain", "exec: \"/etc/plain\": permission denied: unknown"),
        ("/etc", "exec: \"/etc\": is a directory: unknown"),
    ] {
        let config = ContainerConfig { command: vec![command.into()], ..world.script("") };
        let id = world.runtime().create_container(&sandbox, config).await.unwrap();
        let problem = world.runtime().start_container(&id).await.unwrap_err().to_string();
        assert!(problem.ends_with(expected), "{problem}");
        assert!(problem.starts_with("failed to create containerd task: "), "{problem}");
        let status = world.runtime().container_status(&id).await.unwrap();
        assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 128, "StartError"));
        assert_eq!(status.message, problem);
    }
    let config = ContainerConfig {
        security_context: LinuxContainerSecurityContext {
            run_as_username: "nobody".into(),
            ..world.script("").security_context
        },
        ..world.script("")
    };
    let id = world.runtime().create_container(&sandbox, config).await.unwrap();
    let problem = world.runtime().start_container(&id).await.unwrap_err().to_string();
    assert!(problem.contains("unable to find user nobody: no matching entries in passwd file"), "{problem}");
}
