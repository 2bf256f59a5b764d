//! What ReplicaSet and ReplicationController have in common, read from and written to either.

use std::collections::BTreeMap;

use api::selector::LabelSelector;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SetStatus {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub observed_generation: i64,
    pub conditions: Vec<ReplicaSetCondition>,
}

/// What only the type says.
pub(crate) trait Kind {
    const COMPONENT: &'static str;
    const KIND: &'static str;
    const GROUP: &'static str;
}

impl Kind for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const KIND: &'static str = "ReplicaSet";
    const GROUP: &'static str = "apps";
}

impl Kind for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const KIND: &'static str = "ReplicationController";
    const GROUP: &'static str = "";
}

pub(crate) trait Set: Send + Sync {
    fn is_deleting(&self) -> bool;
    fn generation(&self) -> i64;
    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    /// `None` when it cannot be read; an empty one selects nothing.
    fn selector(&self) -> Option<LabelSelector>;
    fn template(&self) -> &PodTemplateSpec;
    fn counts_terminating(&self) -> bool;
    fn status(&self) -> SetStatus;
    fn set_status(&mut self, status: &SetStatus);

    /// Whether the pod has all labels of the template.
    fn labels_match(&self, pod: &Pod) -> bool {
        let wanted = self.template().metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
        let labels = pod.metadata.labels.as_ref();
        wanted
            .into_iter()
            .flatten()
            .all(|(name, value)| labels.is_some_and(|labels| labels.get(name) == Some(value)))
    }
}

static NO_TEMPLATE: PodTemplateSpec = PodTemplateSpec { metadata: None, spec: None };

impl Set for ReplicaSet {
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        let selector = &self.spec.as_ref()?.selector;
        LabelSelector::from_typed(selector).ok()
    }

    fn template(&self) -> &PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.as_ref()).unwrap_or(&NO_TEMPLATE)
    }

    fn counts_terminating(&self) -> bool {
        true
    }

    fn status(&self) -> SetStatus {
        let status = self.status.clone().unwrap_or_default();
        SetStatus {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: status.conditions.unwrap_or_default(),
        }
    }

    fn set_status(&mut self, status: &SetStatus) {
        self.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: (!status.conditions.is_empty()).then(|| status.conditions.clone()),
        });
    }
}

impl Set for ReplicationController {
    fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<LabelSelector> {
        let labels: &BTreeMap<String, String> = self.spec.as_ref()?.selector.as_ref()?;
        let selector = k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
            match_labels: Some(labels.clone()),
            match_expressions: None,
        };
        LabelSelector::from_typed(&selector).ok()
    }

    fn template(&self) -> &PodTemplateSpec {
        self.spec.as_ref().and_then(|spec| spec.template.as_ref()).unwrap_or(&NO_TEMPLATE)
    }

    fn counts_terminating(&self) -> bool {
        false
    }

    fn status(&self) -> SetStatus {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default().into_iter().map(|condition| ReplicaSetCondition {
            type_: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            last_transition_time: condition.last_transition_time,
        });
        SetStatus {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: conditions.collect(),
        }
    }

    fn set_status(&mut self, status: &SetStatus) {
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .map(|condition| ReplicationControllerCondition {
                type_: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                last_transition_time: condition.last_transition_time.clone(),
            })
            .collect();
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: Some(status.fully_labeled),
            ready_replicas: Some(status.ready),
            available_replicas: Some(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: (!conditions.is_empty()).then_some(conditions),
        });
    }
}
