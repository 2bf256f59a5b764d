//! A pod's life as a table: what happens on the left, what the machine wants done on the right.

use serde_json::{Value, json};

use super::*;

struct Life {
    machine: PodMachine,
    now: Timestamp,
    runs: u32,
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default", "uid": "u", "generation": 1}, "spec": spec})).expect("a pod")
}

impl Life {
    fn of(spec: Value) -> Life {
        Life::found(pod(spec), Observed::default())
    }

    fn found(pod: Pod, observed: Observed) -> Life {
        let now = "2026-11-21T10:00:00Z".parse().expect("a time");
        let host = Host { ips: vec!["192.0.2.1".to_owned()], longest_restart_wait: SignedDuration::from_mins(5) };
        Life { machine: PodMachine::new(Arc::new(pod), host, observed, now), now, runs: 0 }
    }

    /// Words: what happened, to which container, and how.
    fn event(&mut self, words: &str) -> Event {
        let parts: Vec<&str> = words.split(' ').collect();
        let name = parts.get(1).copied().unwrap_or_default().to_owned();
        let id = self.machine.running_container(&name).unwrap_or_default().to_owned();
        match parts[0] {
            "tick" => {
                self.now += SignedDuration::from_secs(name.parse().unwrap_or(0));
                Event::Tick
            }
            "volumes" => Event::VolumesSetUp(if name == "ok" { Ok(()) } else { Err("no".to_owned()) }),
            "sandbox" => Event::SandboxStarted(if name == "ok" { Ok(("s".to_owned(), vec!["10.0.0.5".to_owned()])) } else { Err("no".to_owned()) }),
            "sandbox-lost" => Event::SandboxLost { id: "s".to_owned() },
            "sandbox-stopped" => Event::SandboxStopped(Ok(())),
            "torn-down" => Event::TornDown(Ok(())),
            "image" => Event::ImageReady { container: name, image_id: "i".to_owned() },
            "no-image" => Event::ImageFailed { container: name, reason: "ErrImagePull".to_owned(), message: "404".to_owned() },
            "started" => {
                self.runs += 1;
                let id = format!("{name}{}", self.runs);
                Event::ContainerStarted { container: name, id, image: "n".to_owned(), image_id: "i".to_owned(), started_at: self.now }
            }
            "not-started" => {
                Event::StartFailed { container: name, id: None, reason: "CreateContainerConfigError".to_owned(), message: "bad".to_owned() }
            }
            "cancelled" => Event::StartCancelled { container: name },
            "not-stopped" => Event::StopFailed { container: name, id },
            "hooked" => Event::PostStartDone { container: name, id, failure: parts.get(2).map(|text| (*text).to_owned()) },
            "exit" => {
                let code = parts[2].parse().expect("a code");
                let reason = if code == 0 { "Completed" } else { "Error" };
                let exit = Exit { id, exit_code: code, reason: reason.to_owned(), finished_at: Some(self.now), ..Exit::default() };
                Event::Exited { container: name, exit }
            }
            "ready" | "unready" => Event::Probed { container: name, id, kind: ProbeKind::Readiness, healthy: parts[0] == "ready" },
            "dead" => Event::Probed { container: name, id, kind: ProbeKind::Liveness, healthy: false },
            "up" => Event::Probed { container: name, id, kind: ProbeKind::Startup, healthy: true },
            "delete" => {
                let mut pod = (**self.machine.pod()).clone();
                pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
                pod.metadata.deletion_grace_period_seconds = name.parse().ok();
                Event::PodChanged(Arc::new(pod))
            }
            "new-image" => {
                let mut pod = (**self.machine.pod()).clone();
                for container in &mut pod.spec.as_mut().expect("a spec").containers {
                    if container.name == name {
                        container.image = Some("other".to_owned());
                    }
                }
                Event::PodChanged(Arc::new(pod))
            }
            "limit" => {
                let mut pod = (**self.machine.pod()).clone();
                let resources = serde_json::from_value(json!({"limits": {parts[2]: parts[3]}})).expect("resources");
                pod.spec.as_mut().expect("a spec").containers[0].resources = Some(resources);
                Event::PodChanged(Arc::new(pod))
            }
            "resized" => {
                let applied = spec::container(self.machine.pod(), &name).and_then(|(_, container)| container.resources);
                Event::Resized { container: name, id, applied }
            }
            "removed" => Event::PodRemoved,
            "objects" => Event::ObjectsChanged,
            other => panic!("no event {other}"),
        }
    }

    #[track_caller]
    fn step(&mut self, words: &str, expected: &str) {
        let event = self.event(words);
        let effects = self.machine.step(event, self.now);
        let text = effects.iter().map(show).collect::<Vec<_>>().join("; ");
        assert_eq!(text, expected, "after {words:?}");
    }

    /// Up to the point where containers may start.
    #[track_caller]
    fn prepared(spec: Value) -> Life {
        let mut life = Life::of(spec);
        life.machine.step(Event::Tick, life.now);
        life.machine.step(Event::VolumesSetUp(Ok(())), life.now);
        life
    }
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::SetUpVolumes => "volumes".to_owned(),
        Effect::StartSandbox { attempt } => format!("sandbox {attempt}"),
        Effect::EnsureImage { container } => format!("image {container}"),
        Effect::StartContainer { container, attempt, .. } => format!("start {container}/{attempt}"),
        Effect::CancelStart => "cancel".to_owned(),
        Effect::PostStart { container, .. } => format!("hook {container}"),
        Effect::StopContainer { container, grace_period_seconds, .. } => format!("stop {container} {grace_period_seconds}"),
        Effect::ResizeContainer { container, .. } => format!("resize {container}"),
        Effect::RemoveContainer { id } => format!("remove {id}"),
        Effect::StartProbes { container, kinds, .. } => format!("probe {container} {kinds:?}"),
        Effect::StopProbes { container, kinds } => format!("unprobe {container} {}", kinds.len()),
        Effect::StopSandbox { .. } => "stop-sandbox".to_owned(),
        Effect::TearDown => "tear-down".to_owned(),
        Effect::DeletePod => "delete".to_owned(),
        Effect::Remove => "remove-all".to_owned(),
        Effect::Record { reason, message, .. } => format!("{reason}({message})"),
        Effect::WriteStatus(status) => show_status(status),
    }
}

fn show_status(status: &PodStatus) -> String {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let containers: Vec<String> = lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|container| {
            let state = container.state.clone().unwrap_or_default();
            let mut text = match (state.waiting, state.running, state.terminated) {
                (Some(waiting), ..) => waiting.reason.unwrap_or_default(),
                (_, Some(_), _) => if container.started == Some(true) { "run" } else { "starting" }.to_owned(),
                (.., Some(terminated)) => format!("{}:{}", terminated.reason.unwrap_or_default(), terminated.exit_code),
                _ => "?".to_owned(),
            };
            if container.ready {
                text.push('+');
            }
            if container.restart_count > 0 {
                text.push_str(&format!("x{}", container.restart_count));
            }
            format!("{}={text}", container.name)
        })
        .collect();
    let mut line = format!("[{} {}]", status.phase.as_deref().unwrap_or_default(), containers.join(" "));
    if let Some(reason) = &status.reason {
        line.push_str(reason);
    }
    line
}

#[test]
fn one_container_from_nothing_to_ready_to_deleted() {
    let mut life = Life::of(json!({"containers": [{"name": "a"}]}));
    life.step("tick", "volumes; [Pending a=ContainerCreating]");
    life.step("volumes ok", "sandbox 0");
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]"); // Its address is in the status.
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
    life.step("delete 5", "unprobe a 2; Killing(Stopping container a); unprobe a 2; stop a 5");
    life.step("exit a 0", "unprobe a 3; stop-sandbox; [Succeeded a=Completed:0]");
    life.step("sandbox-stopped", "tear-down; [Succeeded a=Completed:0]");
    life.step("torn-down", "delete");
    life.step("removed", "remove-all");
}

#[test]
fn failures_on_the_way_are_retried() {
    let mut life = Life::of(json!({"containers": [{"name": "a"}]}));
    life.step("tick", "volumes; [Pending a=ContainerCreating]");
    life.step("volumes no", "");
    assert_eq!(life.machine.next_wake(life.now), Some(life.now + SignedDuration::from_secs(1)));
    life.step("tick 1", "volumes");
    life.step("volumes no", "");
    life.step("tick 1", ""); // Two seconds the second time.
    life.step("objects", "volumes"); // What it lacked has come.
    life.step("volumes ok", "sandbox 0");
    life.step("sandbox no", "FailedCreatePodSandBox(Failed to create pod sandbox: no)");
    life.step("tick 1", "sandbox 1");
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("not-started a", "[Pending a=CreateContainerConfigError]");
    life.step("tick 1", "image a");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
}

#[test]
fn image_pull_back_off() {
    let mut life = Life::prepared(json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating b=ContainerCreating]");
    life.step("no-image a", "image b; [Pending a=ErrImagePull b=ContainerCreating]"); // The others go on.
    life.step("image b", "start b/0");
    life.step("started b", "[Pending a=ErrImagePull b=run+]");
    life.step("tick 2", "BackOff(Back-off pulling image \"x:1\"); Failed(Error: ImagePullBackOff); [Pending a=ImagePullBackOff b=run+]");
    let waiting = life.machine.status().container_statuses.as_ref().expect("statuses")[0].state.clone().expect("a state").waiting;
    assert_eq!(waiting.expect("waiting").message.as_deref(), Some("Back-off pulling image \"x:1\": ErrImagePull: 404"));
    life.step("tick 7", "");
    life.step("tick 1", "image a");
    life.step("no-image a", "[Pending a=ErrImagePull b=run+]");
    life.step("tick 19", "BackOff(Back-off pulling image \"x:1\"); Failed(Error: ImagePullBackOff); [Pending a=ImagePullBackOff b=run+]");
    life.step("tick 1", "image a");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+ b=run+]");
}

#[test]
fn crash_loop_back_off() {
    let mut life = Life::prepared(json!({"containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
    life.step("exit a 1", "unprobe a 3; image a; [Running a=Error:1]"); // The first restart is at once.
    life.step("image a", "start a/1");
    life.step("started a", "[Running a=run+x1]");
    let back_off = "BackOff(Back-off restarting failed container a in pod web_default(u))";
    life.step("exit a 1", &format!("unprobe a 3; {back_off}; [Running a=CrashLoopBackOffx1]"));
    let waiting = life.machine.status().container_statuses.as_ref().expect("statuses")[0].state.clone().expect("a state").waiting;
    assert_eq!(waiting.expect("waiting").message.as_deref(), Some("back-off 10s restarting failed container=a pod=web_default(u)"));
    life.step("tick 9", "");
    life.step("tick 1", "image a");
    life.step("image a", "start a/2");
    life.step("started a", "remove a1; [Running a=run+x2]"); // One dead one is kept.
    life.step("exit a 1", &format!("unprobe a 3; {back_off}; [Running a=CrashLoopBackOffx2]"));
    life.step("tick 20", "image a");
    life.step("image a", "start a/3");
    life.step("started a", "remove a2; [Running a=run+x3]");
    life.step("tick 700", ""); // Long enough to be forgiven.
    life.step("exit a 1", "unprobe a 3; image a; [Running a=Error:1x3]");
}

#[test]
fn a_node_may_shorten_the_wait_between_restarts() {
    let mut life = Life::prepared(json!({"containers": [{"name": "a"}]}));
    life.machine.host.longest_restart_wait = SignedDuration::from_secs(2);
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
    life.step("exit a 1", "unprobe a 3; image a; [Running a=Error:1]");
    life.step("image a", "start a/1");
    life.step("started a", "[Running a=run+x1]");
    for run in 1..5 {
        let back_off = "BackOff(Back-off restarting failed container a in pod web_default(u))";
        life.step("exit a 1", &format!("unprobe a 3; {back_off}; [Running a=CrashLoopBackOffx{run}]"));
        life.step("tick 1", "");
        life.step("tick 1", "image a");
        life.step("image a", &format!("start a/{}", run + 1));
        life.step("started a", &format!("remove a{run}; [Running a=run+x{}]", run + 1));
    }
}

#[test]
fn restart_policies() {
    for (policy, code, expected) in [
        ("Never", 0, "unprobe a 3; stop-sandbox; [Succeeded a=Completed:0]"),
        ("Never", 3, "unprobe a 3; stop-sandbox; [Failed a=Error:3]"),
        ("OnFailure", 0, "unprobe a 3; stop-sandbox; [Succeeded a=Completed:0]"),
        ("OnFailure", 3, "unprobe a 3; image a; [Running a=Error:3]"),
        ("Always", 0, "unprobe a 3; image a; [Running a=Completed:0]"),
    ] {
        let mut life = Life::prepared(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
        life.step("image a", "start a/0");
        life.step("started a", "[Running a=run+]");
        life.step(&format!("exit a {code}"), expected);
    }
}

#[test]
fn init_containers_and_sidecars_in_order() {
    let mut life = Life::prepared(json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "i"},
            {"name": "s", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}},
            {"name": "j"},
        ],
        "containers": [{"name": "a"}],
    }));
    let waiting = "i=PodInitializing s=PodInitializing j=PodInitializing a=PodInitializing";
    life.step("sandbox ok", &format!("image i; [Pending {waiting}]"));
    life.step("image i", "start i/0");
    life.step("started i", "[Pending i=run s=PodInitializing j=PodInitializing a=PodInitializing]");
    life.step("exit i 0", "unprobe i 3; image s; [Pending i=Completed:0+ s=PodInitializing j=PodInitializing a=PodInitializing]");
    life.step("image s", "start s/0");
    life.step("started s", "probe s [Startup]; [Pending i=Completed:0+ s=starting j=PodInitializing a=PodInitializing]");
    life.step("up s", "unprobe s 1; image j; [Pending i=Completed:0+ s=run+ j=PodInitializing a=PodInitializing]");
    life.step("image j", "start j/0");
    life.step("started j", "[Pending i=Completed:0+ s=run+ j=run a=PodInitializing]");
    life.step("exit j 0", "unprobe j 3; image a; [Pending i=Completed:0+ s=run+ j=Completed:0+ a=PodInitializing]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running i=Completed:0+ s=run+ j=Completed:0+ a=run+]");
    // The sidecar ends after the main container, and only then is the phase final.
    life.step("exit a 0", "unprobe a 3; unprobe s 2; Killing(Stopping container s); unprobe s 2; stop s 30; [Running i=Completed:0+ s=run+ j=Completed:0+ a=Completed:0]");
    life.step("exit s 143", "unprobe s 3; stop-sandbox; [Succeeded i=Completed:0+ s=Error:143 j=Completed:0+ a=Completed:0]");
}

#[test]
fn a_failed_init_container_fails_the_pod() {
    let mut life = Life::prepared(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image i; [Pending i=PodInitializing a=PodInitializing]");
    life.step("image i", "start i/0");
    life.step("started i", "[Pending i=run a=PodInitializing]");
    life.step("exit i 1", "unprobe i 3; stop-sandbox; [Pending i=Error:1 a=PodInitializing]");
    life.step("sandbox-stopped", "tear-down; [Pending i=Error:1 a=PodInitializing]");
    life.step("torn-down", "[Failed i=Error:1 a=PodInitializing]");
    life.step("delete 30", "delete");
}

#[test]
fn probes_decide() {
    let probe = json!({"tcpSocket": {"port": 1}});
    let mut life = Life::prepared(json!({"containers": [{"name": "a", "livenessProbe": probe, "readinessProbe": probe}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "probe a [Liveness, Readiness]; [Running a=run]");
    life.step("ready a", "[Running a=run+]");
    life.step("unready a", "[Running a=run]");
    life.step("dead a", "Killing(Container a failed liveness probe, will be restarted); unprobe a 2; stop a 30");
    life.step("dead a", "");
    life.step("not-stopped a", "");
    life.step("tick 1", "stop a 1"); // It has to go all the same.
    life.step("exit a 137", "unprobe a 3; image a; [Running a=Error:137]");
}

#[test]
fn hooks() {
    let mut life = Life::prepared(json!({"containers": [{"name": "a", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}}}, {"name": "b"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating b=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "hook a; [Pending a=starting b=ContainerCreating]");
    life.step("hooked a", "image b; [Pending a=run+ b=ContainerCreating]");
    life.step("image b", "start b/0");
    life.step("started b", "[Running a=run+ b=run+]");

    let mut life = Life::prepared(json!({"containers": [{"name": "a", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}}}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "hook a; [Running a=starting]");
    life.step("hooked a failed", "FailedPostStartHook(PostStartHook failed); Killing(FailedPostStartHook); unprobe a 2; stop a 30");
    life.step("exit a 137", "unprobe a 3; image a; [Running a=PostStartHookError]");
}

#[test]
fn deletion_interrupts_whatever_is_under_way() {
    let mut life = Life::of(json!({"containers": [{"name": "a"}]}));
    life.step("tick", "volumes; [Pending a=ContainerCreating]");
    life.step("delete 30", ""); // Volumes are being made: first that must end.
    life.step("volumes ok", "tear-down");
    life.step("torn-down", "[Failed a=ContainerCreating]; delete");

    let mut life = Life::prepared(json!({"containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("delete 30", "cancel");
    life.step("cancelled a", "stop-sandbox; [Failed a=ContainerCreating]");

    let mut life = Life::prepared(json!({"containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("delete 30", "cancel");
    life.step("started a", "Killing(Stopping container a); unprobe a 2; stop a 30; [Running a=run+]");
    life.step("delete 1", "unprobe a 2; stop a 1"); // With more haste.
}

#[test]
fn deadline() {
    let mut life = Life::prepared(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
    assert_eq!(life.machine.next_wake(life.now), Some(life.now + SignedDuration::from_secs(60)));
    let exceeded = "DeadlineExceeded(Pod was active on the node longer than the specified deadline)";
    life.step("tick 60", &format!("{exceeded}; unprobe a 2; Killing(Stopping container a); unprobe a 2; stop a 30"));
    life.step("exit a 143", "unprobe a 3; stop-sandbox; [Failed a=Error:143]DeadlineExceeded");
}

#[test]
fn a_lost_sandbox_is_replaced() {
    let mut life = Life::prepared(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image i; [Pending i=PodInitializing a=PodInitializing]");
    life.step("image i", "start i/0");
    life.step("started i", "[Pending i=run a=PodInitializing]");
    life.step("exit i 0", "unprobe i 3; image a; [Pending i=Completed:0+ a=PodInitializing]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running i=Completed:0+ a=run+]");
    life.step("sandbox-lost", "SandboxChanged(Pod sandbox changed, it will be killed and re-created.); stop-sandbox; [Running i=Completed:0+ a=run+]");
    life.step("exit a 137", "unprobe a 3; [Running i=Completed:0+ a=Error:137]");
    life.step("sandbox-stopped", "sandbox 1; [Pending i=PodInitializing a=Error:137]");
    life.step("sandbox ok", "image i; [Pending i=PodInitializing a=Error:137]"); // Once more from the start.
    life.step("image i", "start i/1");
}

#[test]
fn a_changed_image_replaces_the_container() {
    let mut life = Life::prepared(json!({"containers": [{"name": "a", "image": "x"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
    life.step("new-image a", "Killing(Container a definition changed, will be restarted); unprobe a 2; stop a 30");
    life.step("exit a 0", "unprobe a 3; image a; [Running a=Completed:0]");
}

#[test]
fn resources_change_in_place_or_by_restart() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let mut life = Life::prepared(json!({"containers": [{"name": "a", "resizePolicy": policy}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    life.step("started a", "[Running a=run+]");
    life.step("limit a cpu 1", "resize a; [Running a=run+]");
    let conditions = life.machine.status().conditions.clone().expect("conditions");
    assert!(conditions.iter().any(|condition| condition.type_ == "PodResizeInProgress"));
    life.step("resized a", "[Running a=run+]");
    life.step("limit a memory 1Gi", "Killing(Container a resize requires restart); unprobe a 2; stop a 30");
    life.step("exit a 0", "unprobe a 3; image a; [Running a=Completed:0]");
}

#[test]
fn an_exit_may_be_reported_before_the_start() {
    let mut life = Life::prepared(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating]");
    life.step("image a", "start a/0");
    let exit = Exit { id: "a1".to_owned(), reason: "Completed".to_owned(), finished_at: Some(life.now), ..Exit::default() };
    assert!(life.machine.step(Event::Exited { container: "a".to_owned(), exit }, life.now).is_empty());
    life.step("started a", "unprobe a 3; stop-sandbox; [Succeeded a=Completed:0]");
}

#[test]
fn containers_outlive_the_agent() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a", "readinessProbe": {"tcpSocket": {"port": 1}}}]},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "i", "restartCount": 0, "image": "", "imageID": "", "ready": true,
                "state": {"terminated": {"exitCode": 0, "reason": "Completed", "containerID": "coracle://i1"}}}],
            "containerStatuses": [{"name": "a", "restartCount": 2, "image": "", "imageID": "", "ready": true, "started": true,
                "containerID": "coracle://a3", "state": {"running": {}}}],
        },
    }))
    .expect("a pod");
    let since = "2026-11-21T09:00:00Z".parse().expect("a time");
    let crashed = "2026-11-21T09:55:00Z".parse().expect("a time");
    let observed = Observed {
        sandbox: Some(ObservedSandbox { id: "s".into(), attempt: 0, ips: vec!["10.0.0.5".into()], ready: true }),
        containers: vec![
            ObservedContainer {
                name: "a".into(),
                id: "a3".into(),
                attempt: 2,
                image: "n".into(),
                image_id: "i".into(),
                state: ObservedState::Running { since },
            },
            ObservedContainer {
                name: "a".into(),
                id: "a2".into(),
                attempt: 1,
                image: "n".into(),
                image_id: "i".into(),
                state: ObservedState::Exited(Exit { id: "a2".into(), exit_code: 1, finished_at: Some(crashed), ..Exit::default() }),
            },
        ],
    };
    let mut life = Life::found(pod, observed);
    life.step("tick", "probe a [Readiness]; volumes; [Running i=Completed:0+ a=run+x2]");
    life.step("volumes ok", "");
    // The wait before the next restart is remembered too: two crashes, twenty seconds.
    let back_off = "BackOff(Back-off restarting failed container a in pod web_default(u))";
    life.step("exit a 1", &format!("unprobe a 3; {back_off}; [Running i=Completed:0+ a=CrashLoopBackOffx2]"));
}

#[test]
fn a_pod_that_was_over_stays_over() {
    let mut done = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    done.status = Some(PodStatus { phase: Some("Succeeded".to_owned()), ..PodStatus::default() });
    let mut life = Life::found(done, Observed::default());
    life.step("tick", "");
    life.step("delete 30", "delete");
    life.step("removed", "remove-all");
}

#[test]
fn rejected_pods_never_start() {
    let mut life = Life::of(json!({"containers": [{"name": "a"}]}));
    let rejected = Event::Rejected { reason: "OutOfcpu".to_owned(), message: "no".to_owned() };
    let effects = life.machine.step(rejected, life.now);
    assert_eq!(effects.iter().map(show).collect::<Vec<_>>().join("; "), "OutOfcpu(no); [Failed ]OutOfcpu");
    assert_eq!(life.machine.status().message.as_deref(), Some("Pod was rejected: no"));
}

#[test]
fn conditions() {
    let mut life = Life::prepared(json!({"readinessGates": [{"conditionType": "gate"}], "containers": [{"name": "a"}, {"name": "b"}]}));
    let show = |life: &Life| {
        let conditions = life.machine.status().conditions.iter().flatten();
        let lines = conditions.map(|condition| {
            let why = [condition.reason.as_deref(), condition.message.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
            format!("{}={} {why}", condition.type_, condition.status).trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    life.step("sandbox ok", "image a; [Pending a=ContainerCreating b=ContainerCreating]");
    assert_eq!(
        show(&life),
        "PodReadyToStartContainers=True\nInitialized=True\n\
         Ready=False ContainersNotReady: containers with unready status: [a b]\n\
         ContainersReady=False ContainersNotReady: containers with unready status: [a b]\nPodScheduled=True"
    );
    life.step("image a", "start a/0");
    life.step("started a", "image b; [Pending a=run+ b=ContainerCreating]");
    life.step("image b", "start b/0");
    life.step("started b", "[Running a=run+ b=run+]");
    assert!(show(&life).contains(
        "Ready=False ReadinessGatesNotReady: corresponding condition of pod readiness gate \"gate\" does not exist.\nContainersReady=True\n"
    ));
}
