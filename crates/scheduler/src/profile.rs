//! A profile: which plugins have a say about a pod, and how much.
//!
//! Invariant: the standard profile is the original's default. Deliberately absent: plugins of others, extenders.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::NodeAffinity;

use crate::filters::Filter;

#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub scheduler_name: String,
    /// In large clusters; 0 lets the size of the cluster decide.
    pub percentage_of_nodes_to_score: usize,
    pub disabled_filters: BTreeSet<Filter>,
    /// With their weights.
    pub scores: Vec<(Score, i64)>,
    pub preempts: bool,
    pub strategy: ScoringStrategy,
    /// Extended resources of which a node need not have enough, by name and by what stands before the `/`.
    pub ignored_resources: BTreeSet<String>,
    pub ignored_resource_groups: BTreeSet<String>,
    /// Resources that are to be taken to like parts.
    pub balanced: Vec<String>,
    /// Counts as if every pod had it besides its own.
    pub added_affinity: Option<NodeAffinity>,
    /// Of pods without constraints of their own. None: the system's, softly over nodes and zones.
    pub default_constraints: Option<Vec<DefaultConstraint>>,
    pub hard_pod_affinity_weight: i64,
    pub ignore_preferred_terms_of_existing_pods: bool,
    pub min_candidate_nodes_percentage: usize,
    pub min_candidate_nodes_absolute: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    TaintToleration,
    NodeAffinity,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
    NodeResourcesBalancedAllocation,
    ImageLocality,
}

/// How full a node should be.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoringStrategy {
    pub kind: StrategyKind,
    /// Names and weights.
    pub resources: Vec<(String, i64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StrategyKind {
    LeastAllocated,
    MostAllocated,
    /// Utilization in percent and the score there, 0 to 10; straight lines in between.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct DefaultConstraint {
    pub topology_key: String,
    pub max_skew: i64,
    pub hard: bool,
}

impl Profile {
    pub fn named(scheduler_name: impl Into<String>) -> Profile {
        Profile {
            scheduler_name: scheduler_name.into(),
            percentage_of_nodes_to_score: 0,
            disabled_filters: BTreeSet::new(),
            scores: vec![
                (Score::TaintToleration, 3),
                (Score::NodeAffinity, 2),
                (Score::NodeResourcesFit, 1),
                (Score::PodTopologySpread, 2),
                (Score::InterPodAffinity, 2),
                (Score::NodeResourcesBalancedAllocation, 1),
                (Score::ImageLocality, 1),
            ],
            preempts: true,
            strategy: ScoringStrategy {
                kind: StrategyKind::LeastAllocated,
                resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
            },
            ignored_resources: BTreeSet::new(),
            ignored_resource_groups: BTreeSet::new(),
            balanced: vec!["cpu".to_owned(), "memory".to_owned()],
            added_affinity: None,
            default_constraints: None,
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            min_candidate_nodes_percentage: 10,
            min_candidate_nodes_absolute: 100,
        }
    }

    /// The one of pods that say nothing.
    pub fn standard() -> Arc<Profile> {
        static STANDARD: LazyLock<Arc<Profile>> = LazyLock::new(|| Arc::new(Profile::named("default-scheduler")));
        STANDARD.clone()
    }

    /// Whether somebody else sees to it that there is enough of the resource.
    pub fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        self.ignored_resources.contains(resource) || self.ignored_resource_groups.contains(group)
    }

    pub fn has(&self, filter: Filter) -> bool {
        !self.disabled_filters.contains(&filter)
    }
}

impl Score {
    pub const ALL: [(&'static str, Score); 7] = [
        ("TaintToleration", Score::TaintToleration),
        ("NodeAffinity", Score::NodeAffinity),
        ("NodeResourcesFit", Score::NodeResourcesFit),
        ("PodTopologySpread", Score::PodTopologySpread),
        ("InterPodAffinity", Score::InterPodAffinity),
        ("NodeResourcesBalancedAllocation", Score::NodeResourcesBalancedAllocation),
        ("ImageLocality", Score::ImageLocality),
    ];
}
