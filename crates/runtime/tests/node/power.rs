//! What a container may do: seccomp, capabilities, users, devices, limits.

use runtime::cri::*;

use crate::world::World;

crate::tests![seccomp_status, seccomp_localhost, capabilities, users, devices, out_of_memory, limits];

/// `Seccomp: 2` of the first process and of an exec'd one, with no_new_privs on and off, as root and as a user.
async fn seccomp_status(world: &mut World) {
    let sandbox = world.sandbox().await;
    for (no_new_privs, user) in [(false, None), (true, None), (false, Some(1000)), (true, Some(1000))] {
        for (seccomp, expected) in [(SeccompProfile::RuntimeDefault, "2"), (SeccompProfile::Unconfined, "0")] {
            let mut config = world.script("while :; do sleep 1000; done");
            config.security_context.seccomp = seccomp.clone();
            config.security_context.no_new_privs = no_new_privs;
            config.security_context.run_as_user = user;
            let id = world.start(&sandbox, config).await;
            let pid = world.runtime().container_status(&id).await.unwrap().pid;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let field = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap().trim().to_string();
            let context = format!("{seccomp:?} no_new_privs {no_new_privs} user {user:?}");
            assert_eq!(field("Seccomp:"), expected, "init: {context}");
            assert_eq!(field("NoNewPrivs:"), if no_new_privs { "1" } else { "0" }, "init: {context}");
            let (_, text) = world.exec(&id, "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status").await;
            let exec = format!("NoNewPrivs:\t{}\nSeccomp:\t{expected}\n", u8::from(no_new_privs));
            assert_eq!(text, exec, "exec: {context}");
            let (code, _) = world.exec(&id, "unshare -U true").await;
            assert_eq!(code == 0, expected == "0", "a new user namespace: {context}");
            world.runtime().stop_container(&id, 0).await.unwrap();
        }
    }
}

async fn seccomp_localhost(world: &mut World) {
    let profile = world.directory.join("profile.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["symlink","symlinkat"],"action":"SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let mut config = world.script("mkdir /tmp/a; ln -s a /tmp/b; grep ^Seccomp_filters: /proc/self/status");
    config.command = ["/bin/busybox", "sh", "-c", "mkdir /tmp/a; busybox ln -s a /tmp/b; grep ^Seccomp_f /proc/self/status"].map(String::from).to_vec();
    config.security_context.seccomp = SeccompProfile::Localhost(profile.display().to_string());
    let (code, text) = world.output_of(config).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("/tmp/a': Permission denied"), "{text}");
    assert!(text.contains("/tmp/b: Operation not permitted"), "{text}");

    let sandbox = world.sandbox().await;
    let mut config = world.script("true");
    config.security_context.seccomp = SeccompProfile::Localhost("/absent.json".into());
    let problem = world.runtime().create_container(&sandbox, config).await.unwrap_err().to_string();
    assert!(problem.contains("cannot load seccomp profile \"/absent.json\""), "{problem}");
}

async fn capabilities(world: &mut World) {
    const SHOW: &str = "grep -E '^Cap(Eff|Bnd|Inh|Amb):' /proc/self/status | tr '\\t\\n' '  '";
    let none = "0000000000000000";
    for (add, drop, user, effective, bounding) in [
        ("", "", None, "00000000a80425fb", "00000000a80425fb"),
        ("NET_ADMIN", "CHOWN", None, "00000000a80435fa", "00000000a80435fa"),
        ("", "ALL", None, none, none),
        ("NET_BIND_SERVICE", "ALL", Some(1000), none, "0000000000000400"),
    ] {
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        for (seccomp, no_new_privs) in [(SeccompProfile::Unconfined, false), (SeccompProfile::RuntimeDefault, false), (SeccompProfile::RuntimeDefault, true)] {
            let mut config = world.script(SHOW);
            config.security_context.add_capabilities = words(add);
            config.security_context.drop_capabilities = words(drop);
            config.security_context.run_as_user = user;
            config.security_context.seccomp = seccomp;
            config.security_context.no_new_privs = no_new_privs;
            let (_, text) = world.output_of(config).await;
            let expected = format!("CapInh: {none} CapEff: {effective} CapBnd: {bounding} CapAmb: {none}");
            assert_eq!(text.trim(), expected, "add {add} drop {drop} user {user:?}");
        }
    }
}

async fn users(world: &mut World) {
    let security = |user: Option<i64>, name: &str, group: Option<i64>, supplemental: &[i64]| LinuxContainerSecurityContext {
        run_as_user: user,
        run_as_username: name.into(),
        run_as_group: group,
        supplemental_groups: supplemental.into(),
        namespaces: NamespaceOptions { pid: NamespaceMode::Container, ..Default::default() },
        ..Default::default()
    };
    for (context, expected) in [
        (security(None, "", None, &[]), "0 0 0 /root /data"),
        (security(Some(1000), "", None, &[]), "1000 0 0 / /data"),
        (security(Some(1000), "", Some(3000), &[2000]), "1000 3000 3000 2000 / /data"),
        (security(None, "web", None, &[]), "101 102 102 4 /data /data"),
        (security(Some(101), "", Some(5), &[6]), "101 5 5 4 6 /data /data"),
    ] {
        let mut config = world.script("echo $(id -u) $(id -g) $(id -G) $HOME $(pwd)");
        config.security_context = context;
        let sandbox = world.sandbox().await;
        let mut sleeper = config.clone();
        let (_, text) = world.output_of(config).await;
        assert_eq!(text.trim(), expected);
        sleeper.command = ["sleep", "1000"].map(String::from).to_vec();
        let id = world.start(&sandbox, sleeper).await;
        let (_, text) = world.exec(&id, "echo $(id -u) $(id -g) $(id -G) $HOME $(pwd)").await;
        assert_eq!(text.trim(), expected, "exec");
        world.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    }
}

async fn devices(world: &mut World) {
    // A node can be made, but the host's disk not be opened; the usual ones work.
    let script = "head -c 4 /dev/zero | wc -c; echo x > /dev/null && head -c 2 /dev/urandom | wc -c; \
                  mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk > /dev/null || echo denied; \
                  mknod /tmp/mem c 1 1; head -c 1 /tmp/mem > /dev/null 2>&1 || echo denied; ls /dev";
    let (_, text) = world.output_of(world.script(script)).await;
    let expected = "4\n2\ndenied\ndenied\ncore\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
    assert_eq!(text.lines().filter(|line| !line.starts_with("head:")).map(|line| format!("{line}\n")).collect::<String>(), expected);

    let mut config = world.script("test -c /dev/given && : < /dev/given && echo opened; (: > /dev/given) 2> /dev/null || echo denied");
    config.devices = vec![Device { container_path: "/dev/given".into(), host_path: "/dev/net/tun".into(), permissions: "rm".into() }];
    let (_, text) = world.output_of(config).await;
    assert_eq!(text, "opened\ndenied\n");

    let mut config = world.script("test -b /dev/vda || test -c /dev/kmsg && echo all");
    config.security_context.privileged = true;
    let (_, text) = world.output_of(config).await;
    assert!(text.contains("all\n"), "{text}");
}

async fn out_of_memory(world: &mut World) {
    let sandbox = world.sandbox().await;
    let mut config = world.script("head -c 100000000 /dev/zero | tail");
    config.command = ["/bin/tail", "/dev/zero"].map(String::from).to_vec();
    config.resources.memory_limit_in_bytes = 16 << 20;
    let id = world.start(&sandbox, config).await;
    let status = world.exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

async fn limits(world: &mut World) {
    let sandbox = world.sandbox().await;
    let mut config = world.script("while :; do sleep 1000; done");
    config.resources = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        pids_limit: 30,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    let id = world.start(&sandbox, config).await;
    let (_, text) = world
        .exec(
            &id,
            "cd /sys/fs/cgroup; cat cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max; nproc; \
             echo 1 > memory/cgroup.procs || echo readonly",
        )
        .await;
    assert!(text.starts_with("512\n50000\n67108864\n30\n1\n") && text.contains("readonly\n"), "{text}");

    let update = LinuxContainerResources { cpu_quota: 80_000, memory_limit_in_bytes: 128 << 20, ..Default::default() };
    world.runtime().update_container_resources(&id, update).await.unwrap();
    let (_, text) = world.exec(&id, "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes").await;
    assert_eq!(text, "80000\n134217728\n");

    world.exec(&id, "head -c 1000000 /dev/urandom > /tmp/file").await;
    let stats = world.runtime().container_stats(&id).await.unwrap();
    assert!(stats.cpu_usage_core_nanoseconds > 0 && stats.memory_usage_bytes > 0, "{stats:?}");
    assert!(stats.writable_layer_used_bytes >= 1_000_000, "{stats:?}");
    assert_eq!(world.runtime().list_container_stats().await.unwrap().len(), 1);
}
