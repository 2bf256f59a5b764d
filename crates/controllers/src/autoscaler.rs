//! Scales what HorizontalPodAutoscalers point at, by the metrics that they name.
//!
//! Invariant: the target's size stays within `minReplicas` and `maxReplicas`, and when no metric can be read
//! it stays as it is. Of several metrics the one that asks for most decides.

mod behavior;
mod metrics;
mod replicas;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey, Rest};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::context::Context;
use crate::discovery::{Resource, discover_group};
use crate::failure::{Failure, error_text};
use crate::owners::{self, group_of};
use crate::runner::{Controller, Next, Queue};
use behavior::Memory;
use metrics::Scaled;
use replicas::Tolerance;

/// The original's `--horizontal-pod-autoscaler-sync-period` and `-tolerance`.
const PERIOD: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;

pub(crate) struct HorizontalAutoscaler {
    context: Arc<Context>,
    recorder: EventRecorder,
    autoscalers: Arc<Informer<HorizontalPodAutoscaler>>,
    pods: Arc<Informer<Pod>>,
    memories: Mutex<HashMap<ObjectKey, Memory>>,
}

/// What one round found out, to be told in the status.
struct Round {
    status: HorizontalPodAutoscalerStatus,
    events: Vec<(EventType, &'static str, String)>,
    now: Timestamp,
}

impl Round {
    fn set(&mut self, kind: &str, value: bool, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        let status = if value { "True" } else { "False" };
        let since = conditions
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == status)
            .and_then(|condition| condition.last_transition_time.clone());
        let condition = HorizontalPodAutoscalerCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        match conditions.iter_mut().find(|known| known.type_ == kind) {
            Some(known) => *known = condition,
            None => conditions.push(condition),
        }
    }

    fn warn(&mut self, reason: &'static str, text: String) {
        self.events.push((EventType::Warning, reason, text));
    }
}

/// The target as its scale subresource shows it.
struct TargetScale {
    path: String,
    body: Value,
}

impl TargetScale {
    fn replicas(&self) -> i32 {
        self.body["spec"]["replicas"].as_i64().unwrap_or(0) as i32
    }

    /// That are there, ready or not.
    fn existing(&self) -> i32 {
        self.body["status"]["replicas"].as_i64().unwrap_or(0) as i32
    }

    fn selector(&self) -> &str {
        self.body["status"]["selector"].as_str().unwrap_or_default()
    }
}

impl HorizontalAutoscaler {
    pub fn new(context: &Arc<Context>) -> Self {
        HorizontalAutoscaler {
            context: context.clone(),
            recorder: context.recorder("horizontal-pod-autoscaler"),
            autoscalers: context.informer(),
            pods: context.informer(),
            memories: Mutex::new(HashMap::new()),
        }
    }

    async fn target(&self, namespace: &str, spec: &HorizontalPodAutoscalerSpec) -> Result<TargetScale, String> {
        let target = &spec.scale_target_ref;
        let group = group_of(target.api_version.as_deref().unwrap_or_default());
        let resource = resource_of(&self.context.rest, group, &target.kind).await?;
        let path = format!("{}/{}/scale", resource.path(Some(namespace)), target.name);
        let body = self.context.rest.get_at(path.clone()).await.map_err(|error| error_text(&error))?;
        Ok(TargetScale { path, body })
    }

    /// The size to have and why, or `None` when it cannot be said.
    async fn decide(&self, key: &ObjectKey, spec: &HorizontalPodAutoscalerSpec, target: &TargetScale, round: &mut Round) -> Option<(i32, String)> {
        let current = target.replicas();
        let minimum = spec.min_replicas.unwrap_or(1);
        if current == 0 && minimum != 0 {
            round.set("ScalingActive", false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero");
            return None;
        }
        if current > spec.max_replicas {
            return Some((spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".into()));
        }
        if current < minimum {
            return Some((minimum, "Current number of replicas below Spec.MinReplicas".into()));
        }
        let (recommended, name) = self.recommend(key, spec, target, round).await?;
        let decision = {
            let mut memories = self.memories.lock();
            behavior::follow(spec, memories.entry(key.clone()).or_default(), current, recommended, round.now)
        };
        round.set("AbleToScale", true, decision.able.0, decision.able.1);
        round.set("ScalingLimited", decision.limited.0, decision.limited.1, decision.limited.2);
        let why = if decision.replicas > current { format!("{name} above target") } else { "All metrics below target".into() };
        Some((decision.replicas, why))
    }

    /// The highest number that a metric asks for. With a metric unknown it is never less than now.
    async fn recommend(&self, key: &ObjectKey, spec: &HorizontalPodAutoscalerSpec, target: &TargetScale, round: &mut Round) -> Option<(i32, String)> {
        let selector = match LabelSelector::parse(target.selector()) {
            Ok(selector) if !target.selector().is_empty() => selector,
            _ => {
                round.set("ScalingActive", false, "InvalidSelector", "the HPA target's scale is missing a selector");
                round.warn("SelectorRequired", "selector is required".into());
                return None;
            }
        };
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| owners::matches(&selector, &pod.metadata));
        let scaled = Scaled {
            namespace: &key.namespace,
            selector: target.selector(),
            pods: &pods,
            current: target.replicas(),
            existing: target.existing(),
            tolerance: tolerance(spec),
            now: round.now,
        };
        let (mut best, mut statuses, mut unknown): (Option<(i32, String)>, Vec<_>, Option<metrics::Unknown>) = (None, Vec::new(), None);
        let mut unknown_count = 0;
        for metric in spec.metrics.iter().flatten() {
            match metrics::propose(&self.context.rest, &scaled, metric).await {
                Ok(proposal) => {
                    statuses.push(proposal.status);
                    if best.as_ref().is_none_or(|(replicas, _)| proposal.replicas > *replicas) {
                        best = Some((proposal.replicas, proposal.name));
                    }
                }
                Err(problem) => {
                    unknown_count += 1;
                    round.warn(problem.reason, problem.text.clone());
                    unknown.get_or_insert(problem);
                }
            }
        }
        round.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
        let blocked = best.as_ref().is_none_or(|(replicas, _)| *replicas < scaled.current);
        match (best, unknown) {
            (best, Some(problem)) if blocked || best.is_none() => {
                let text = format!("the HPA was unable to compute the replica count: {}", problem.text);
                round.set("ScalingActive", false, problem.reason, &text);
                let count = spec.metrics.as_ref().map_or(0, Vec::len);
                let text = format!("invalid metrics ({unknown_count} invalid out of {count}), first error is: {}", problem.among_others);
                round.warn("FailedComputeMetricsReplicas", text);
                None
            }
            (Some((replicas, name)), _) => {
                let text = format!("the HPA was able to successfully calculate a replica count from {name}");
                round.set("ScalingActive", true, "ValidMetricFound", &text);
                Some((replicas, name))
            }
            (None, _) => None,
        }
    }

    async fn rescale(&self, key: &ObjectKey, target: &TargetScale, replicas: i32, why: &str, round: &mut Round) -> Result<(), Failure> {
        let mut body = target.body.clone();
        body["spec"]["replicas"] = json!(replicas);
        if let Err(error) = self.context.rest.put_at::<Value>(target.path.clone(), &body).await {
            let text = error_text(&error);
            round.warn("FailedRescale", format!("New size: {replicas}; reason: {why}; error: {text}"));
            round.set("AbleToScale", false, "FailedUpdateScale", &format!("the HPA controller was unable to update the target scale: {text}"));
            return Err(error.into());
        }
        let text = format!("the HPA controller was able to update the target scale to {replicas}");
        round.set("AbleToScale", true, "SucceededRescale", &text);
        round.events.push((EventType::Normal, "SuccessfulRescale", format!("New size: {replicas}; reason: {why}")));
        round.status.last_scale_time = Some(Time(round.now));
        let mut memories = self.memories.lock();
        memories.entry(key.clone()).or_default().changed(replicas - target.replicas(), round.now);
        Ok(())
    }

    async fn finish(&self, autoscaler: &HorizontalPodAutoscaler, round: Round) -> Result<(), Failure> {
        let about = client::object_ref(autoscaler);
        for (event_type, reason, text) in round.events {
            self.recorder.event(&about, event_type, reason, text);
        }
        if autoscaler.status.as_ref() != Some(&round.status) {
            let mut updated = autoscaler.clone();
            updated.status = Some(round.status);
            self.context.update_status(&updated).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for HorizontalAutoscaler {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    fn watch(&self, queue: &Queue) {
        let queue = queue.clone();
        self.autoscalers.subscribe(move |change: &Change<HorizontalPodAutoscaler>| {
            // Own status updates do not count: the next look is due by the clock.
            let stands = change.old().is_some_and(|old| old.spec == change.object().spec);
            if !stands {
                queue.add(ObjectKey::of(&change.object().metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(autoscaler) = self.autoscalers.get(key) else {
            self.memories.lock().remove(key);
            return Ok(Next::Settled);
        };
        let Some(spec) = autoscaler.spec.as_ref() else { return Ok(Next::Settled) };
        let mut status = autoscaler.status.clone().unwrap_or_default();
        status.observed_generation = autoscaler.metadata.generation;
        let mut round = Round { status, events: Vec::new(), now: self.context.now() };
        let target = match self.target(&key.namespace, spec).await {
            Ok(target) => target,
            Err(why) => {
                round.warn("FailedGetScale", why.clone());
                let text = format!("the HPA controller was unable to get the target's current scale: {why}");
                round.set("AbleToScale", false, "FailedGetScale", &text);
                self.finish(&autoscaler, round).await?;
                return Ok(Next::After(PERIOD));
            }
        };
        let current = target.replicas();
        round.set("AbleToScale", true, "SucceededGetScale", "the HPA controller was able to get the target's current scale");
        round.status.current_replicas = Some(current);
        let decided = self.decide(key, spec, &target, &mut round).await;
        round.status.desired_replicas = decided.as_ref().map_or(if current == 0 { 0 } else { round.status.desired_replicas }, |(replicas, _)| *replicas);
        let mut outcome = Ok(());
        if let Some((replicas, why)) = decided.filter(|(replicas, _)| *replicas != current) {
            outcome = self.rescale(key, &target, replicas, &why, &mut round).await;
        }
        self.finish(&autoscaler, round).await?;
        outcome?;
        Ok(Next::After(PERIOD))
    }
}

/// How objects of a kind are reached, in the version that its group prefers.
async fn resource_of(rest: &Rest, group: &str, kind: &str) -> Result<Resource, String> {
    let served = discover_group(rest, group).await.map_err(|error| error_text(&error))?;
    let found = served.into_iter().find(|resource| resource.kind == kind);
    found.ok_or_else(|| format!("no matches for kind \"{kind}\" in group \"{group}\""))
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let behavior = spec.behavior.as_ref();
    let of = |rules: Option<&HPAScalingRules>| {
        let quantity = rules.and_then(|rules| rules.tolerance.as_ref());
        quantity.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(TOLERANCE, |quantity| quantity.as_f64())
    };
    Tolerance {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}
