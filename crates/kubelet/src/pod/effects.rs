//! How a pod's effects are carried out: each in a task of its own that ends in an event.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{EventType, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use runtime::cri::{ContainerState, ContainerStatus, Image};
use tokio_util::sync::CancellationToken;

use super::hooks;
use super::machine::{Event, Exit, ProbeKind};
use super::spec;
use super::worker::{Message, PodContext};
use crate::container::config::{self, Places, TERMINATION_PATH_ANNOTATION, termination_file};
use crate::container::env::{Sources, environment};
use crate::image_pull::ImagePuller;
use crate::objects::Waker;
use crate::probe::{Probing, Target};
use crate::sandbox::{self, SandboxPlaces};
use crate::volume::PodVolumes;

/// Withdrawing an endpoint takes some tens of milliseconds from the pod's deletion to the last node's rules.
const DRAIN: Duration = Duration::from_millis(300);
/// Who wants it gone faster than this does not mean to drain.
const DRAIN_GRACE_LEAST: Duration = Duration::from_secs(2);
/// Last words longer than this are cut, as the original cuts them.
const TERMINATION_MESSAGE_MAX: usize = 4096;
const LOG_TAIL_MAX_BYTES: usize = 2048;
const LOG_TAIL_MAX_LINES: usize = 80;
/// A container gets this long to end by itself even when its hook took all the time there was.
const GRACE_LEAST_SECONDS: i64 = 2;
/// How long a first start waits for the list of Services.
const SERVICES_WITHIN: Duration = Duration::from_secs(10);
const REMOVE_TRIES: usize = 20;

pub struct Acting {
    context: Arc<PodContext>,
    /// preStop hooks under way, by container: a second, shorter stop ends them.
    stopping: Arc<Mutex<HashMap<String, CancellationToken>>>,
    refreshing: Arc<tokio::sync::Mutex<()>>,
    refresh_waits: Arc<AtomicBool>,
}

impl Acting {
    pub fn new(context: Arc<PodContext>) -> Acting {
        Acting { context, stopping: Arc::default(), refreshing: Arc::default(), refresh_waits: Arc::default() }
    }

    /// A task that dies with the pod's worker, or with the whole agent.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.context.cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = cancel.cancelled() => {}
                _ = task => {}
            }
        });
    }

    fn waker(&self) -> Waker {
        let inbox = self.context.inbox.clone();
        // A full inbox holds a refresh already, or will bring the worker round to one.
        Arc::new(move || drop(inbox.try_send(Message::Refresh)))
    }

    pub fn set_up_volumes(&self, pod: Arc<Pod>, ips: &[String]) {
        let (context, waker, ips, turn) = (self.context.clone(), self.waker(), ips.to_vec(), self.refreshing.clone());
        self.spawn(async move {
            let _turn = turn.lock().await;
            let result = prepare(&context, &pod, &waker, &ips).await;
            context.send(Event::VolumesSetUp(result)).await;
        });
    }

    /// The same pass again while containers run: contents that changed are replaced.
    pub fn refresh_volumes(&self, pod: &Arc<Pod>, ips: &[String]) {
        if self.context.mounted.lock().is_empty() {
            return;
        }
        let (context, waker, ips, pod) = (self.context.clone(), self.waker(), ips.to_vec(), pod.clone());
        // One that waits sees what is newest when its turn comes; more than one need not wait.
        if self.refresh_waits.swap(true, Ordering::AcqRel) {
            return;
        }
        let (turn, waits) = (self.refreshing.clone(), self.refresh_waits.clone());
        self.spawn(async move {
            let _turn = turn.lock().await;
            waits.store(false, Ordering::Release);
            if let Err(error) = set_up(&context, &pod, &waker, &ips).await {
                tracing::debug!(pod = %spec::full_name(&pod), %error, "renewing volumes");
            }
        });
    }

    pub fn start_sandbox(&self, pod: Arc<Pod>, attempt: u32) {
        let context = self.context.clone();
        self.spawn(async move {
            let result = start_sandbox(&context, &pod, attempt).await;
            context.send(Event::SandboxStarted(result)).await;
        });
    }

    pub fn ensure_image(&self, pod: Arc<Pod>, container: String, cancel: CancellationToken) {
        let (context, waker) = (self.context.clone(), self.waker());
        self.spawn(async move {
            let Some((_, definition)) = spec::container(&pod, &container) else { return };
            let tell = |type_, reason: &str, message: &str| context.tell(&pod, Some(&container), type_, reason, message);
            let agent = &context.agent;
            let puller = ImagePuller { images: &agent.images, objects: &agent.objects, waker: &waker, tell: &tell };
            let event = tokio::select! {
                _ = cancel.cancelled() => Event::StartCancelled { container: container.clone() },
                answer = puller.ensure(&pod, &definition) => match answer {
                    Ok(image) => Event::ImageReady { container: container.clone(), image_id: image.id },
                    Err(problem) => Event::ImageFailed {
                        container: container.clone(),
                        reason: problem.reason.to_owned(),
                        message: problem.message,
                    },
                },
            };
            (agent.images_changed)();
            context.send(event).await;
        });
    }

    pub fn start_container(&self, pod: Arc<Pod>, container: String, attempt: u32, image_id: String, sandbox_id: Option<&str>, ips: &[String]) {
        let (context, waker, ips) = (self.context.clone(), self.waker(), ips.to_vec());
        let sandbox_id = sandbox_id.unwrap_or_default().to_owned();
        // Not cut off by the pod's end: a container that was made must be known.
        tokio::spawn(async move {
            let Some((_, definition)) = spec::container(&pod, &container) else { return };
            let start = Start { context: &context, pod: &pod, definition: &definition, attempt, image_id: &image_id, sandbox_id: &sandbox_id };
            let event = match start.run(&waker, &ips).await {
                Ok(event) => event,
                Err(StartProblem { id, reason, message }) => {
                    let mut text = format!("Error: {message}");
                    if let Some(id) = &id {
                        text = text.replace(id.as_str(), &container); // So that events of one kind count as one.
                    }
                    context.tell(&pod, Some(&container), EventType::Warning, "Failed", &text);
                    Event::StartFailed { container: container.clone(), id, reason: reason.to_owned(), message }
                }
            };
            context.send(event).await;
        });
    }

    /// New limits for a container that goes on running.
    pub fn resize(&self, pod: Arc<Pod>, container: String, id: String) {
        let context = self.context.clone();
        self.spawn(async move {
            let Some((_, definition)) = spec::container(&pod, &container) else { return };
            let agent = &context.agent;
            let resources = crate::container::resources::container_resources(&pod, &definition, agent.machine.memory_bytes);
            let mut done = agent.cgroups.make_pod(&pod).map_err(|error| error.to_string());
            if done.is_ok() {
                done = agent.runtime.update_container_resources(&id, resources).await.map_err(|error| error.to_string());
            }
            if let Err(error) = &done {
                tracing::warn!(pod = %spec::full_name(&pod), container, %error, "resizing");
            }
            context.send(Event::Resized { container, id, applied: done.is_ok().then(|| definition.resources.unwrap_or_default()) }).await;
        });
    }

    pub fn post_start(&self, pod: Arc<Pod>, container: String, id: String, ips: &[String]) {
        let context = self.context.clone();
        let ip = pod_ip(&context, &pod, ips);
        self.spawn(async move {
            let Some((_, definition)) = spec::container(&pod, &container) else { return };
            let handler = definition.lifecycle.as_ref().and_then(|hooks| hooks.post_start.clone());
            let failure = match handler {
                Some(handler) => hooks::run(&*context.agent.runtime, &pod, &definition, &id, &ip, &handler).await.err(),
                None => None,
            };
            context.send(Event::PostStartDone { container, id, failure }).await;
        });
    }

    pub fn stop_container(&self, pod: Arc<Pod>, container: String, id: String, grace_period_seconds: i64, ips: &[String]) {
        let context = self.context.clone();
        let ip = pod_ip(&context, &pod, ips);
        let hook_cancel = CancellationToken::new();
        let hastened = self.stopping.lock().insert(id.clone(), hook_cancel.clone());
        let first = hastened.is_none();
        if let Some(hook) = hastened {
            hook.cancel();
        }
        let stopping = self.stopping.clone();
        self.spawn(async move {
            let begun = tokio::time::Instant::now();
            let grace = Duration::from_secs(u64::try_from(grace_period_seconds).unwrap_or(0));
            if first {
                tokio::select! {
                    _ = hook_cancel.cancelled() => return, // The second stop does the rest.
                    _ = async { tokio::join!(pre_stop(&context, &pod, &container, &id, &ip, grace), drain(&pod, grace)) } => {}
                }
            }
            let spent = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
            let left = (grace_period_seconds - spent).max(GRACE_LEAST_SECONDS.min(grace_period_seconds));
            let answer = context.agent.runtime.stop_container(&id, left).await;
            stopping.lock().remove(&id);
            match answer {
                Ok(()) => report_exit(&context, &id).await,
                Err(error) => {
                    tracing::warn!(pod = %spec::full_name(&pod), container, %error, "stopping the container");
                    context.send(Event::StopFailed { container, id }).await;
                }
            }
        });
    }

    /// The runtime said that it ended.
    pub fn look_up_exit(&self, id: String) {
        let context = self.context.clone();
        self.spawn(async move { report_exit(&context, &id).await });
    }

    pub fn remove_container(&self, pod: Arc<Pod>, id: String) {
        if id.is_empty() {
            return;
        }
        let context = self.context.clone();
        self.spawn(async move {
            let runtime = &context.agent.runtime;
            let log = runtime.container_status(&id).await.ok().map(|status| status.log_path);
            if let Err(error) = runtime.remove_container(&id).await {
                tracing::warn!(pod = %spec::full_name(&pod), %error, "removing a dead container");
                return;
            }
            if let Some(log) = log.filter(|log| !log.is_empty()) {
                remove_logs(&context.agent.pod_log_directory(&pod).join(log));
            }
        });
    }

    pub fn start_probe(&self, pod: &Arc<Pod>, container: &str, id: &str, kind: ProbeKind, ips: &[String], cancel: CancellationToken) {
        let Some((_, definition)) = spec::container(pod, container) else { return };
        let Some(probe) = kind.of(&definition).cloned() else { return };
        let (context, teller_context) = (self.context.clone(), self.context.clone());
        let agent = self.context.agent.clone();
        let (pod_for_tell, name) = (pod.clone(), container.to_owned());
        let (id_for_notify, name_for_notify) = (id.to_owned(), container.to_owned());
        // Pods found after the agent's restart are spread over one period.
        let period = Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10));
        let just_started = agent.started.elapsed() < period && kind != ProbeKind::Startup;
        let recovered = just_started && pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        let jitter = if recovered { period.mul_f64(rand::random::<f64>()) } else { Duration::ZERO };
        let target = Target {
            runtime: agent.runtime.clone(),
            container_id: id.to_owned(),
            pod_ip: pod_ip(&self.context, pod, ips),
            container: definition,
        };
        let probing = Probing {
            kind,
            probe,
            target,
            running_for: Duration::ZERO,
            jitter,
            tell: Arc::new(move |text| teller_context.tell(&pod_for_tell, Some(&name), EventType::Warning, "Unhealthy", text)),
            notify: Arc::new(move |healthy| {
                let (context, container, id) = (context.clone(), name_for_notify.clone(), id_for_notify.clone());
                Box::pin(async move { context.send(Event::Probed { container, id, kind, healthy }).await })
            }),
        };
        tokio::spawn(probing.run(cancel));
    }

    pub fn stop_sandbox(&self, id: String) {
        let context = self.context.clone();
        self.spawn(async move {
            let result = context.agent.runtime.stop_pod_sandbox(&id).await.map_err(|error| error.to_string());
            if let Err(error) = &result {
                tracing::warn!(sandbox = id, %error, "stopping the pod sandbox");
            }
            context.send(Event::SandboxStopped(result)).await;
        });
    }

    pub fn tear_down(&self, pod: Arc<Pod>) {
        let (context, turn) = (self.context.clone(), self.refreshing.clone());
        self.spawn(async move {
            let _turn = turn.lock().await;
            context.mounted.lock().clear();
            let on = context.clone();
            let result = tokio::task::spawn_blocking(move || {
                let agent = &on.agent;
                agent.volumes.tear_down(spec::uid(&pod), &agent.pod_directory(spec::uid(&pod)))?;
                agent.cgroups.remove_pod(&pod).map_err(|error| format!("removing the pod's cgroup: {error}"))
            })
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
            if let Err(error) = &result {
                tracing::warn!(%error, "taking down a pod's volumes");
            }
            context.send(Event::TornDown(result)).await;
        });
    }

    /// The last act: nothing comes after it.
    pub async fn remove(&self, pod: Arc<Pod>) {
        let agent = &self.context.agent;
        let uid = spec::uid(&pod);
        for _ in 0..REMOVE_TRIES {
            match crate::gc::remove_pod_from_runtime(&*agent.runtime, uid).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(pod = %spec::full_name(&pod), %error, "removing the pod's sandboxes");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let (directory, logs) = (agent.pod_directory(uid), agent.pod_log_directory(&pod));
        agent.objects.release(uid);
        agent.tokens.forget(uid);
        let done = tokio::task::spawn_blocking(move || {
            crate::volume::unmount_below(&directory)?;
            for path in [directory, logs] {
                match std::fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(format!("{}: {error}", path.display())),
                    _ => {}
                }
            }
            Ok(())
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!(pod = %spec::full_name(&pod), %error, "removing the pod's directories");
        }
    }
}

fn pod_ip(context: &PodContext, pod: &Pod, ips: &[String]) -> String {
    let ips = if spec::host_network(pod) { &context.agent.node_ips } else { ips };
    ips.first().cloned().unwrap_or_default()
}

/// Directories, cgroup, volumes; failures are announced volume by volume.
async fn prepare(context: &Arc<PodContext>, pod: &Arc<Pod>, waker: &Waker, ips: &[String]) -> Result<(), String> {
    let agent = &context.agent;
    let directory = agent.pod_directory(spec::uid(pod));
    let made = std::fs::create_dir_all(&directory).and_then(|()| std::fs::create_dir_all(agent.pod_log_directory(pod)));
    if let Err(error) = made.and_then(|()| agent.cgroups.make_pod(pod)) {
        let message = format!("error making pod data directories or cgroup: {error}");
        context.tell(pod, None, EventType::Warning, "FailedCreatePodContainer", &message);
        return Err(message);
    }
    set_up(context, pod, waker, ips).await
}

async fn set_up(context: &Arc<PodContext>, pod: &Arc<Pod>, waker: &Waker, ips: &[String]) -> Result<(), String> {
    let agent = &context.agent;
    let directory = agent.pod_directory(spec::uid(pod));
    let facts = agent.facts(pod, ips);
    let of = PodVolumes { pod, directory: &directory, facts: &facts, waker };
    match agent.volumes.set_up(&of).await {
        Ok(done) => {
            *context.mounted.lock() = done.mounted;
            if let Some(moment) = done.refresh_at {
                refresh_at(context, moment);
            }
            Ok(())
        }
        Err(problems) => {
            for problem in &problems {
                context.tell(pod, None, EventType::Warning, "FailedMount", &problem.message);
            }
            Err(problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "))
        }
    }
}

/// A token in one of the volumes is to be renewed then.
fn refresh_at(context: &Arc<PodContext>, moment: Timestamp) {
    let wait = moment.duration_since(context.agent.clock.now());
    let wait = Duration::try_from(wait).unwrap_or(Duration::from_secs(1));
    let (inbox, cancel) = (context.inbox.clone(), context.cancel.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = cancel.cancelled() => {}
            _ = tokio::time::sleep(wait) => drop(inbox.send(Message::Refresh).await),
        }
    });
}

async fn start_sandbox(context: &Arc<PodContext>, pod: &Arc<Pod>, attempt: u32) -> Result<(String, Vec<String>), String> {
    let agent = &context.agent;
    let places = SandboxPlaces {
        log_directory: agent.pod_log_directory(pod).to_string_lossy().into_owned(),
        cgroup_parent: agent.cgroups.pod_path(pod),
        seccomp_root: agent.data_dir.join("seccomp"),
    };
    let config = sandbox::sandbox_config(pod, attempt, &agent.resolver, places)?;
    let id = agent.runtime.run_pod_sandbox(config).await.map_err(|error| error.to_string())?;
    let status = agent.runtime.pod_sandbox_status(&id).await.map_err(|error| error.to_string())?;
    write_name_files(context, pod, &status.ips, true).map_err(|error| format!("writing the pod's hosts file: {error}"))?;
    Ok((id, status.ips))
}

/// The pod's /etc/hosts and /etc/resolv.conf. Without `anew` only what is missing: the agent may have been killed
/// between the sandbox and these.
fn write_name_files(context: &PodContext, pod: &Pod, ips: &[String], anew: bool) -> std::io::Result<()> {
    let agent = &context.agent;
    let directory = agent.pod_directory(spec::uid(pod));
    let (hosts, resolver) = (directory.join("etc-hosts"), directory.join("resolv.conf"));
    if anew || !hosts.exists() {
        let host_file = if spec::host_network(pod) { std::fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
        std::fs::write(hosts, sandbox::hosts_file(pod, &agent.resolver.cluster_domain, ips, &host_file))?;
    }
    if anew || !resolver.exists() {
        std::fs::write(resolver, sandbox::write_resolv_conf(&sandbox::dns_config(pod, &agent.resolver)))?;
    }
    Ok(())
}

struct Start<'a> {
    context: &'a Arc<PodContext>,
    pod: &'a Arc<Pod>,
    definition: &'a Container,
    attempt: u32,
    image_id: &'a str,
    sandbox_id: &'a str,
}

struct StartProblem {
    id: Option<String>,
    reason: &'static str,
    message: String,
}

impl Start<'_> {
    async fn run(&self, waker: &Waker, ips: &[String]) -> Result<Event, StartProblem> {
        let problem = |reason: &'static str, message: String| StartProblem { id: None, reason, message };
        let agent = &self.context.agent;
        let name = &self.definition.name;
        let environment = self.environment(waker, ips).await.map_err(|message| problem("CreateContainerConfigError", message))?;
        let image = match agent.images.image_status(self.image_id).await {
            Ok(Some(image)) => image,
            _ => Image { id: self.image_id.to_owned(), ..Image::default() },
        };
        let named = write_name_files(self.context, self.pod, ips, false);
        named.map_err(|error| problem("CreateContainerConfigError", error.to_string()))?;
        let directory = agent.pod_directory(spec::uid(self.pod));
        let seccomp_root = agent.data_dir.join("seccomp");
        let config = {
            let mounted = self.context.mounted.lock();
            let places = Places {
                pod_directory: &directory,
                seccomp_root: &seccomp_root,
                mounted: &mounted,
                memory_capacity_bytes: agent.machine.memory_bytes,
            };
            config::container_config(self.pod, self.definition, self.attempt, &image, environment, &places)
        };
        let mut config = config.map_err(|message| problem("CreateContainerConfigError", message))?;
        if let Some(target) = spec::ephemeral_target(self.pod, name) {
            let found = self.running(target).await;
            config.security_context.process_target = found.ok_or_else(|| {
                problem("CreateContainerError", format!("unable to find target container \"{target}\""))
            })?;
        }
        let _ = std::fs::create_dir_all(agent.pod_log_directory(self.pod).join(name));
        let id = agent
            .runtime
            .create_container(self.sandbox_id, config)
            .await
            .map_err(|error| problem("CreateContainerError", error.to_string()))?;
        self.context.tell(self.pod, Some(name), EventType::Normal, "Created", "Container created");
        if let Err(error) = agent.runtime.start_container(&id).await {
            return Err(StartProblem { id: Some(id), reason: "RunContainerError", message: error.to_string() });
        }
        self.context.tell(self.pod, Some(name), EventType::Normal, "Started", "Container started");
        let status = agent.runtime.container_status(&id).await.ok();
        // A container that has ended already is reported by the runtime's event, or here.
        if status.as_ref().is_some_and(|status| status.state == ContainerState::Exited) {
            let (context, id) = (self.context.clone(), id.clone());
            tokio::spawn(async move { report_exit(&context, &id).await });
        }
        let image_name = status.as_ref().map(|status| status.image.clone()).filter(|image| !image.is_empty());
        Ok(Event::ContainerStarted {
            container: name.clone(),
            id,
            image: image_name.or_else(|| self.definition.image.clone()).unwrap_or_default(),
            image_id: status.as_ref().map(|status| status.image_ref.clone()).unwrap_or_else(|| self.image_id.to_owned()),
            started_at: status.and_then(|status| moment(status.started_at)).unwrap_or_else(|| agent.clock.now()),
        })
    }

    /// The id of a container of the pod that runs.
    async fn running(&self, name: &str) -> Option<String> {
        let containers = self.context.agent.runtime.list_containers().await.unwrap_or_default();
        let uid = spec::uid(self.pod);
        let found = containers.into_iter().find(|it| {
            it.state == ContainerState::Running
                && it.metadata.name == name
                && it.labels.get(config::POD_UID_LABEL).is_some_and(|own| own == uid)
        });
        found.map(|it| it.id)
    }

    async fn environment(&self, waker: &Waker, ips: &[String]) -> Result<Vec<(String, String)>, String> {
        let agent = &self.context.agent;
        let (pod, container) = (self.pod, self.definition);
        let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
        let mut config_maps = BTreeMap::new();
        let mut secrets = BTreeMap::new();
        let references = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
        let from_env = container.env_from.iter().flatten();
        let map_names = references
            .clone()
            .filter_map(|from| from.config_map_key_ref.as_ref().map(|reference| reference.name.clone()))
            .chain(from_env.clone().filter_map(|from| from.config_map_ref.as_ref().map(|reference| reference.name.clone())));
        for name in map_names.collect::<std::collections::BTreeSet<_>>() {
            if let Some(object) = agent.objects.config_maps.hold(&ObjectKey::new(namespace, name.clone()), uid, waker).await? {
                config_maps.insert(name, object);
            }
        }
        let secret_names = references
            .filter_map(|from| from.secret_key_ref.as_ref().map(|reference| reference.name.clone()))
            .chain(from_env.filter_map(|from| from.secret_ref.as_ref().map(|reference| reference.name.clone())));
        for name in secret_names.collect::<std::collections::BTreeSet<_>>() {
            if let Some(object) = agent.objects.secrets.hold(&ObjectKey::new(namespace, name.clone()), uid, waker).await? {
                secrets.insert(name, object);
            }
        }
        if tokio::time::timeout(SERVICES_WITHIN, agent.services.synced()).await.is_err() {
            return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
        }
        let mut services = agent.services.list_namespace(namespace);
        if namespace != "default" {
            services.extend(agent.services.get(&ObjectKey::new("default", "kubernetes")));
        }
        let facts = agent.facts(pod, ips);
        let sources = Sources { config_maps: &config_maps, secrets: &secrets, services: &services, facts: &facts };
        let made = environment(pod, container, &sources)?;
        for (source, keys) in &made.skipped {
            let message = format!(
                "Keys [{}] from the EnvFrom {source} were skipped since they are considered invalid environment variable names.",
                keys.join(", ")
            );
            self.context.tell(pod, None, EventType::Warning, "InvalidEnvironmentVariableNames", &message);
        }
        Ok(made.variables)
    }
}

/// A pod that served is given new connections until every node's proxy has heard that it goes. The original leaves
/// that race to its users' preStop hooks; this closes it for a rolling update.
async fn drain(pod: &Pod, grace: Duration) {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
    let selectable = pod.metadata.labels.as_ref().is_some_and(|labels| !labels.is_empty());
    if ready && selectable && pod.metadata.deletion_timestamp.is_some() && grace >= DRAIN_GRACE_LEAST {
        tokio::time::sleep(DRAIN).await;
    }
}

async fn pre_stop(context: &PodContext, pod: &Pod, container: &str, id: &str, ip: &str, grace: Duration) {
    let Some((_, definition)) = spec::container(pod, container) else { return };
    let Some(handler) = definition.lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.clone()) else { return };
    if grace.is_zero() {
        return;
    }
    match tokio::time::timeout(grace, hooks::run(&*context.agent.runtime, pod, &definition, id, ip, &handler)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(pod = %spec::full_name(pod), container, %error, "preStop");
            context.tell(pod, Some(container), EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
        Err(_) => tracing::info!(pod = %spec::full_name(pod), container, "preStop took the whole grace period"),
    }
}

async fn report_exit(context: &PodContext, id: &str) {
    let agent = &context.agent;
    let Ok(status) = agent.runtime.container_status(id).await else { return };
    if status.state != ContainerState::Exited {
        return;
    }
    let pod_uid = status.labels.get(config::POD_UID_LABEL).cloned().unwrap_or_default();
    let exit = exit_of(&status, &agent.pod_directory(&pod_uid), agent.log_dir.as_path());
    context.send(Event::Exited { container: status.metadata.name.clone(), exit }).await;
}

/// How the runtime's words become the API's.
pub fn exit_of(status: &ContainerStatus, pod_directory: &Path, log_root: &Path) -> Exit {
    let reason = match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let mut message = status.message.clone();
    if let Some(last_words) = last_words(status, pod_directory, log_root) {
        message = last_words;
    }
    Exit {
        id: status.id.clone(),
        exit_code: status.exit_code,
        reason: reason.to_owned(),
        message,
        started_at: moment(status.started_at),
        finished_at: moment(status.finished_at),
    }
}

fn last_words(status: &ContainerStatus, pod_directory: &Path, log_root: &Path) -> Option<String> {
    status.annotations.get(TERMINATION_PATH_ANNOTATION)?;
    let file = termination_file(pod_directory, &status.metadata.name, status.metadata.attempt);
    let mut written = read_head(&file, TERMINATION_MESSAGE_MAX);
    written.truncate(TERMINATION_MESSAGE_MAX);
    if !written.is_empty() {
        return Some(String::from_utf8_lossy(&written).into_owned());
    }
    let from_log = status.annotations.get("io.kubernetes.container.terminationMessagePolicy").is_some_and(|policy| policy == "FallbackToLogsOnError");
    if !from_log || status.exit_code == 0 {
        return None;
    }
    let label = |name: &str| status.labels.get(name).cloned().unwrap_or_default();
    let directory = format!(
        "{}_{}_{}",
        label(config::POD_NAMESPACE_LABEL),
        label(config::POD_NAME_LABEL),
        label(config::POD_UID_LABEL)
    );
    let log = log_root.join(directory).join(&status.metadata.name).join(format!("{}.log", status.metadata.attempt));
    Some(crate::logs::plain_tail(&log, LOG_TAIL_MAX_LINES, LOG_TAIL_MAX_BYTES)).filter(|text| !text.is_empty())
}

fn read_head(path: &Path, limit: usize) -> Vec<u8> {
    use std::io::Read as _;
    let mut data = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(limit as u64).read_to_end(&mut data);
    }
    data
}

fn remove_logs(log: &Path) {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().map(|name| name.to_string_lossy().into_owned())) else { return };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        // The rotated ones bear the name and a suffix.
        if entry.file_name().to_string_lossy().starts_with(&name) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

pub fn moment(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}
