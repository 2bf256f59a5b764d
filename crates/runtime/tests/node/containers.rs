//! What a container finds around itself.

use runtime::cri::*;

use crate::world::World;

crate::tests![
    runs_and_logs, exit_codes, start_errors, surroundings, mounts, propagation, readonly, hidden_paths, namespaces,
    host_namespaces, sysctls, bad_sysctl, many_layers_of_links, exec_format,
];

fn mount(host: &std::path::Path, container: &str) -> Mount {
    Mount { host_path: host.display().to_string(), container_path: container.into(), ..Default::default() }
}

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

async fn surroundings(world: &mut World) {
    let mut config = world.script("hostname; echo $HOSTNAME $FROM_IMAGE $MINE $HOME; pwd; umask; cat /proc/self/oom_score_adj");
    config.envs = vec![("MINE".into(), "a b".into())];
    config.working_dir = "/made/for/it".into();
    config.resources.oom_score_adj = 500;
    let (_, text) = world.output_of(config).await;
    assert_eq!(text, "web\nweb yes a b /root\n/made/for/it\n0022\n500\n");

    // Without CAP_SYS_RESOURCE a negative score cannot be had, and is no reason to fail.
    let mut config = world.script("true");
    config.resources.oom_score_adj = -997;
    assert_eq!(world.output_of(config).await.0, 0);

    // Nothing of the shim's is inherited.
    let (_, text) = world.output_of(world.script("ls /proc/self/fd; readlink /proc/self/fd/0")).await;
    assert_eq!(text, "0\n1\n2\n3\n/dev/null\n");
}

async fn mounts(world: &mut World) {
    let host = world.directory.join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let mut config = world.script(
        "cat /vol/file /etc/hosts /link/file; echo new > /vol/made; echo no > /ro/file || echo readonly; \
         echo no > /etc/hosts || echo readonly; echo late >> /dev/termination-log; ls /vol/sub",
    );
    std::fs::write(world.directory.join("hosts"), "127.0.0.1 localhost\n").unwrap();
    std::fs::write(world.directory.join("log"), "").unwrap();
    std::os::unix::fs::symlink("/data/place", world.directory.join("rootfs/link")).unwrap();
    config.mounts = vec![
        mount(&host, "/vol"),
        Mount { readonly: true, ..mount(&host, "/ro") },
        Mount { readonly: true, ..mount(&world.directory.join("hosts"), "/etc/hosts") },
        mount(&world.directory.join("log"), "/dev/termination-log"),
        mount(&world.directory.join("missing/directory"), "/vol/sub"),
        mount(&host, "/data/place"),
    ];
    let (_, text) = world.output_of(config).await;
    let plain: String = text.lines().filter(|line| !line.starts_with("/bin/sh:")).map(|line| format!("{line}\n")).collect();
    assert_eq!(plain, "content\n127.0.0.1 localhost\ncontent\nreadonly\nreadonly\n");
    assert_eq!(std::fs::read_to_string(host.join("made")).unwrap(), "new\n");
    assert_eq!(std::fs::read_to_string(world.directory.join("log")).unwrap(), "late\n");
    assert!(world.directory.join("missing/directory").is_dir(), "made as containerd does");
}

/// A mount made by one side becomes visible to the other, as far as each direction is open.
async fn propagation(world: &mut World) {
    use nix::mount::{MsFlags, MntFlags, mount as mount_call, umount2};
    let shared = world.directory.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let tmpfs = |place: &std::path::Path| {
        std::fs::create_dir_all(place).unwrap();
        mount_call(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    };
    tmpfs(&shared);
    mount_call(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    let sandbox = world.sandbox().await;
    let mut ids = Vec::new();
    for propagation in [MountPropagation::Private, MountPropagation::HostToContainer, MountPropagation::Bidirectional] {
        let mut config = world.script("while :; do sleep 1000; done");
        config.security_context.privileged = true;
        config.mounts = vec![Mount { propagation, ..mount(&shared, "/mnt") }];
        ids.push(world.start(&sandbox, config).await);
    }
    tmpfs(&shared.join("late"));
    std::fs::write(shared.join("late/file"), "").unwrap();
    for (id, expected) in ids.iter().zip(["", "file\n", "file\n"]) {
        assert_eq!(world.exec(id, "ls /mnt/late").await.1, expected);
    }
    for (id, expected) in ids.iter().zip([false, false, true]) {
        let (code, text) = world.exec(id, "mkdir -p /mnt/inner && mount -t tmpfs tmpfs /mnt/inner && touch /mnt/inner/seen").await;
        assert_eq!(code, 0, "{text}");
        assert_eq!(shared.join("inner/seen").exists(), expected);
    }
    world.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    for place in ["inner", "late", ""] {
        umount2(&shared.join(place), MntFlags::MNT_DETACH).unwrap();
    }

    let sandbox = world.sandbox().await;
    let private = world.directory.join("private");
    tmpfs(&private);
    mount_call(None::<&str>, &private, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let mut config = world.script("true");
    config.mounts = vec![Mount { propagation: MountPropagation::Bidirectional, ..mount(&private, "/mnt") }];
    let problem = world.runtime().create_container(&sandbox, config).await.unwrap_err().to_string();
    umount2(&private, MntFlags::MNT_DETACH).unwrap();
    assert!(problem.ends_with("but it is not a shared mount"), "{problem}");
}

async fn readonly(world: &mut World) {
    let volume = world.directory.join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut config = world.script("touch /x || echo root; touch /vol/x && echo volume; touch /dev/shm/x && echo shm; touch /sys/x || echo sys");
    config.security_context.readonly_rootfs = true;
    config.mounts = vec![mount(&volume, "/vol")];
    let (_, text) = world.output_of(config).await;
    let plain: Vec<_> = text.lines().filter(|line| !line.starts_with("touch:")).collect();
    assert_eq!(plain, ["root", "volume", "shm", "sys"]);
}

async fn hidden_paths(world: &mut World) {
    // Which of the masked ones there are depends on the kernel.
    let (files, directories) = (["/proc/keys", "/proc/timer_list", "/proc/kcore"], ["/proc/acpi", "/proc/scsi", "/sys/firmware"]);
    let there = |path: &&str| std::path::Path::new(path).exists();
    let script = format!(
        "cat {} /dev/null | wc -c; ls -A {} / | grep -v : | grep -c -E 'acpi|efi|scsi'; echo 0 > /proc/sys/kernel/panic || echo readonly",
        files.into_iter().filter(there).collect::<Vec<_>>().join(" "),
        directories.into_iter().filter(there).collect::<Vec<_>>().join(" "),
    );
    let (_, text) = world.output_of(world.script(&script)).await;
    let plain: Vec<_> = text.lines().filter(|line| !line.starts_with("/bin/sh:")).collect();
    assert_eq!(plain, ["0", "0", "readonly"], "{text}");

    let mut config = world.script("echo 5 > /proc/sys/net/ipv4/ip_forward_update_priority || echo writable; cat /proc/timer_list /proc/keys | wc -c");
    config.security_context.masked_paths = Some(Vec::new());
    config.security_context.readonly_paths = Some(Vec::new());
    let (_, text) = world.output_of(config).await;
    assert!(!text.ends_with("\n0\n"), "{text}");
}

/// Containers of a pod share network, IPC and host name, not processes.
async fn namespaces(world: &mut World) {
    let (sandbox, first) = world.sleeper().await;
    let second = world.start(&sandbox, world.script("while :; do sleep 1000; done")).await;
    let read = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
    let of = |text: String| text.lines().map(String::from).collect::<Vec<_>>();
    let (a, b) = (of(world.exec(&first, read).await.1), of(world.exec(&second, read).await.1));
    assert_eq!(a[..3], b[..3]);
    assert!(a[3] != b[3] && a[4] != b[4]);
    for (index, name) in ["net", "ipc", "uts", "pid", "mnt"].iter().enumerate() {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(host.display().to_string(), a[index], "{name}");
    }
    assert_eq!(world.exec(&first, "echo x > /dev/shm/given").await.0, 0);
    assert_eq!(world.exec(&second, "cat /dev/shm/given").await.1, "x\n");
    assert_eq!(world.exec(&first, "ip addr | grep -c 127.0.0.1").await.1, "1\n");
}

async fn host_namespaces(world: &mut World) {
    let mut config = world.sandbox_config();
    config.namespaces = NamespaceOptions { network: NamespaceMode::Node, pid: NamespaceMode::Node, ipc: NamespaceMode::Node };
    config.hostname = String::new();
    let sandbox = world.runtime().run_pod_sandbox(config.clone()).await.unwrap();
    let status = world.runtime().pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!((status.state, status.ips.len()), (PodSandboxState::Ready, 0));
    let mut container = world.script("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname; sleep 4242 &");
    container.security_context.namespaces = config.namespaces;
    let id = world.start(&sandbox, container).await;
    world.exit(&id).await;
    let mut expected: String = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|name| format!("{}\n", std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display()))
        .collect();
    expected += &format!("{}\n", nix::unistd::gethostname().unwrap().to_string_lossy());
    assert_eq!(world.log(&id).await, expected);
    // What it left running in the host's process namespace has ended with it.
    let command = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    for _ in 0..100 {
        let left = std::fs::read_dir("/proc").unwrap().flatten();
        if !left.map(|entry| command(&entry.file_name().to_string_lossy())).any(|it| it == "sleep\x004242\0") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("a process of the container goes on");
}

async fn sysctls(world: &mut World) {
    let mut config = world.sandbox_config();
    config.sysctls = [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shm_rmid_forced", "1")]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let sandbox = world.runtime().run_pod_sandbox(config).await.unwrap();
    let id = world.start(&sandbox, world.script("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced")).await;
    world.exit(&id).await;
    assert_eq!(world.log(&id).await, "80\n1\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), "0\n", "the host's is another");
}

/// A sandbox that cannot be made leaves nothing.
async fn bad_sysctl(world: &mut World) {
    let mut config = world.sandbox_config();
    config.sysctls = [("net.no.such".to_string(), "1".to_string())].into();
    let problem = world.runtime().run_pod_sandbox(config).await.unwrap_err().to_string();
    assert!(problem.contains("sysctl \"net.no.such\""), "{problem}");
    assert!(world.runtime().list_pod_sandboxes().await.unwrap().is_empty());
}

/// An image whose directories are links to the host's files does not reach them.
async fn many_layers_of_links(world: &mut World) {
    let root = world.directory.join("rootfs");
    let secret = world.directory.join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::os::unix::fs::symlink(&secret, root.join("trap")).unwrap();
    std::os::unix::fs::symlink("../../../../..", root.join("up")).unwrap();
    let volume = world.directory.join("volume");
    std::fs::create_dir(&volume).unwrap();
    let sandbox = world.sandbox().await;
    for (target, starts) in [("/trap/in", false), ("/up/in", true)] {
        let mut config = world.script("true");
        config.mounts = vec![mount(&volume, target)];
        let id = world.runtime().create_container(&sandbox, config).await.unwrap();
        assert_eq!(world.runtime().start_container(&id).await.is_ok(), starts, "{target}");
    }
    assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
}

/// A file that may be executed and cannot be: the container says so itself, as with runc.
async fn exec_format(world: &mut World) {
    let program = world.directory.join("rootfs/bin/odd");
    std::fs::write(&program, "no program\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = world.script("");
    config.command = vec!["/bin/odd".into()];
    let (code, text) = world.output_of(config).await;
    assert_eq!((code, text.as_str()), (255, "exec /bin/odd: exec format error\n"));
}
