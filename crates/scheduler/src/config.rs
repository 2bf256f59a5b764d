//! Reads a `KubeSchedulerConfiguration`, `kubescheduler.config.k8s.io/v1`.
//!
//! Invariant: what is not understood is an error that names it; nothing is ignored in silence but what concerns the
//! original's own process (leader election, client connection, addresses).

use std::fmt;

use serde_json::Value;

use crate::SchedulerConfig;
use crate::filters::Filter;
use crate::profile::{DefaultConstraint, Profile, Score, StrategyKind};

#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

const FILTERS: [(&str, Filter); 12] = [
    ("NodeUnschedulable", Filter::NodeUnschedulable),
    ("NodeName", Filter::NodeName),
    ("TaintToleration", Filter::TaintToleration),
    ("NodeAffinity", Filter::NodeAffinity),
    ("NodePorts", Filter::NodePorts),
    ("NodeResourcesFit", Filter::NodeResourcesFit),
    ("VolumeRestrictions", Filter::VolumeRestrictions),
    ("NodeVolumeLimits", Filter::NodeVolumeLimits),
    ("VolumeBinding", Filter::VolumeBinding),
    ("VolumeZone", Filter::VolumeZone),
    ("PodTopologySpread", Filter::PodTopologySpread),
    ("InterPodAffinity", Filter::InterPodAffinity),
];
const PREEMPTION: &str = "DefaultPreemption";
/// Part of the original's defaults and always on here, or without meaning.
const OTHERS: [&str; 4] = ["PrioritySort", "DefaultBinder", "SchedulingGates", "DynamicResources"];

impl SchedulerConfig {
    pub fn from_yaml(text: &str) -> Result<SchedulerConfig, ConfigError> {
        let (document, _) = api::yaml::to_json(text.as_bytes()).map_err(|cause| ConfigError(cause.to_string()))?;
        read(&document).map_err(ConfigError)
    }
}

fn read(document: &Value) -> Result<SchedulerConfig, String> {
    if document["apiVersion"] != "kubescheduler.config.k8s.io/v1" || document["kind"] != "KubeSchedulerConfiguration" {
        let (version, kind) = (&document["apiVersion"], &document["kind"]);
        return Err(format!("no kind {kind} is registered for version {version}: expected KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1"));
    }
    let known = [
        "apiVersion", "kind", "profiles", "percentageOfNodesToScore", "parallelism", "leaderElection", "clientConnection",
        "enableProfiling", "enableContentionProfiling", "podInitialBackoffSeconds", "podMaxBackoffSeconds", "delayCacheUntilActive",
    ];
    only(document, "", &known)?;
    let percentage = percent(&document["percentageOfNodesToScore"], "percentageOfNodesToScore")?;
    let mut profiles = Vec::new();
    for (index, given) in items(&document["profiles"]).enumerate() {
        let path = format!("profiles[{index}]");
        let mut profile = profile(given, &path)?;
        if given["percentageOfNodesToScore"].is_null() {
            profile.percentage_of_nodes_to_score = percentage.unwrap_or(0);
        }
        if profiles.iter().any(|other: &Profile| other.scheduler_name == profile.scheduler_name) {
            return Err(format!("{path}.schedulerName: Duplicate value: \"{}\"", profile.scheduler_name));
        }
        profiles.push(profile);
    }
    if profiles.is_empty() {
        let standard = Profile::named("default-scheduler");
        profiles.push(Profile { percentage_of_nodes_to_score: percentage.unwrap_or(0), ..standard });
    }
    Ok(SchedulerConfig { profiles, ..SchedulerConfig::default() })
}

fn profile(given: &Value, path: &str) -> Result<Profile, String> {
    only(given, path, &["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"])?;
    let mut profile = Profile::named(given["schedulerName"].as_str().unwrap_or("default-scheduler"));
    let at = format!("{path}.percentageOfNodesToScore");
    profile.percentage_of_nodes_to_score = percent(&given["percentageOfNodesToScore"], &at)?.unwrap_or(0);
    for (point, sets) in given["plugins"].as_object().into_iter().flatten() {
        let path = format!("{path}.plugins.{point}");
        only(sets, &path, &["enabled", "disabled"])?;
        let concerns = match point.as_str() {
            "multiPoint" => Concerns { filters: true, scores: true, preemption: true },
            "filter" => Concerns { filters: true, scores: false, preemption: false },
            "score" => Concerns { filters: false, scores: true, preemption: false },
            "postFilter" => Concerns { filters: false, scores: false, preemption: true },
            "preEnqueue" | "queueSort" | "preFilter" | "preScore" | "reserve" | "permit" | "preBind" | "bind" | "postBind" => {
                Concerns { filters: false, scores: false, preemption: false }
            }
            _ => return Err(format!("unknown field \"{path}\"")),
        };
        for plugin in items(&sets["disabled"]) {
            disable(&mut profile, plugin["name"].as_str().unwrap_or_default(), &concerns, &path)?;
        }
        for plugin in items(&sets["enabled"]) {
            enable(&mut profile, plugin, &concerns, &path)?;
        }
    }
    for (index, given) in items(&given["pluginConfig"]).enumerate() {
        arguments(&mut profile, given, &format!("{path}.pluginConfig[{index}]"))?;
    }
    Ok(profile)
}

struct Concerns {
    filters: bool,
    scores: bool,
    preemption: bool,
}

fn is_known(name: &str) -> bool {
    let among = |all: &[&str]| all.contains(&name);
    among(&OTHERS) || name == PREEMPTION || FILTERS.iter().any(|(known, _)| *known == name) || Score::ALL.iter().any(|(known, _)| *known == name)
}

fn disable(profile: &mut Profile, name: &str, concerns: &Concerns, path: &str) -> Result<(), String> {
    let all = name == "*";
    if !all && !is_known(name) {
        return Err(format!("{path}.disabled: plugin \"{name}\" does not exist"));
    }
    if concerns.filters {
        profile.disabled_filters.extend(FILTERS.iter().filter(|(known, _)| all || *known == name).map(|(_, filter)| *filter));
    }
    if concerns.scores {
        let score = Score::ALL.iter().find(|(known, _)| *known == name).map(|(_, score)| *score);
        profile.scores.retain(|(kept, _)| !all && Some(*kept) != score);
    }
    if concerns.preemption && (all || name == PREEMPTION) {
        profile.preempts = false;
    }
    Ok(())
}

fn enable(profile: &mut Profile, plugin: &Value, concerns: &Concerns, path: &str) -> Result<(), String> {
    let name = plugin["name"].as_str().unwrap_or_default();
    if !is_known(name) {
        return Err(format!("{path}.enabled: plugin \"{name}\" does not exist"));
    }
    if concerns.filters
        && let Some((_, filter)) = FILTERS.iter().find(|(known, _)| *known == name)
    {
        profile.disabled_filters.remove(filter);
    }
    if concerns.scores
        && let Some((_, score)) = Score::ALL.iter().find(|(known, _)| *known == name)
    {
        let default = Profile::standard().scores.iter().find(|(kept, _)| kept == score).map_or(1, |(_, weight)| *weight);
        let weight = plugin["weight"].as_i64().filter(|weight| *weight != 0).unwrap_or(default);
        profile.scores.retain(|(kept, _)| kept != score);
        profile.scores.push((*score, weight));
    }
    profile.preempts |= concerns.preemption && name == PREEMPTION;
    Ok(())
}

fn arguments(profile: &mut Profile, given: &Value, path: &str) -> Result<(), String> {
    let name = given["name"].as_str().unwrap_or_default();
    let (args, path) = (&given["args"], format!("{path}.args"));
    match name {
        "NodeResourcesFit" => fit(profile, args, &path),
        "NodeResourcesBalancedAllocation" => {
            only(args, &path, &["apiVersion", "kind", "resources"])?;
            profile.balanced = resources(&args["resources"], &path)?.into_iter().map(|(name, _)| name).collect();
            Ok(())
        }
        "NodeAffinity" => {
            only(args, &path, &["apiVersion", "kind", "addedAffinity"])?;
            let affinity = serde_json::from_value(args["addedAffinity"].clone());
            profile.added_affinity = affinity.map_err(|cause| format!("{path}.addedAffinity: {cause}"))?;
            Ok(())
        }
        "PodTopologySpread" => spread(profile, args, &path),
        "InterPodAffinity" => {
            only(args, &path, &["apiVersion", "kind", "hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods"])?;
            if let Some(weight) = args["hardPodAffinityWeight"].as_i64() {
                if !(0..=100).contains(&weight) {
                    return Err(format!("{path}.hardPodAffinityWeight: Invalid value: {weight}: not in valid range [0, 100]"));
                }
                profile.hard_pod_affinity_weight = weight;
            }
            profile.ignore_preferred_terms_of_existing_pods = args["ignorePreferredTermsOfExistingPods"] == true;
            Ok(())
        }
        PREEMPTION => {
            only(args, &path, &["apiVersion", "kind", "minCandidateNodesPercentage", "minCandidateNodesAbsolute"])?;
            let percentage = percent(&args["minCandidateNodesPercentage"], &format!("{path}.minCandidateNodesPercentage"))?;
            profile.min_candidate_nodes_percentage = percentage.unwrap_or(profile.min_candidate_nodes_percentage);
            if let Some(count) = args["minCandidateNodesAbsolute"].as_u64() {
                profile.min_candidate_nodes_absolute = usize::try_from(count).unwrap_or(usize::MAX);
            }
            Ok(())
        }
        "VolumeBinding" | "DynamicResources" => Ok(()), // Timeouts of the original's own.
        _ => Err(format!("{path}: plugin \"{name}\" takes no arguments that are known")),
    }
}

fn fit(profile: &mut Profile, args: &Value, path: &str) -> Result<(), String> {
    only(args, path, &["apiVersion", "kind", "scoringStrategy", "ignoredResources", "ignoredResourceGroups"])?;
    let names = |list: &Value| items(list).filter_map(Value::as_str).map(str::to_owned).collect();
    profile.ignored_resources = names(&args["ignoredResources"]);
    profile.ignored_resource_groups = names(&args["ignoredResourceGroups"]);
    let strategy = &args["scoringStrategy"];
    if strategy.is_null() {
        return Ok(());
    }
    let path = format!("{path}.scoringStrategy");
    only(strategy, &path, &["type", "resources", "requestedToCapacityRatio"])?;
    profile.strategy.kind = match strategy["type"].as_str().unwrap_or("LeastAllocated") {
        "LeastAllocated" => StrategyKind::LeastAllocated,
        "MostAllocated" => StrategyKind::MostAllocated,
        "RequestedToCapacityRatio" => {
            let points = items(&strategy["requestedToCapacityRatio"]["shape"]);
            let shape: Vec<(i64, i64)> =
                points.map(|point| (point["utilization"].as_i64().unwrap_or(0), point["score"].as_i64().unwrap_or(0))).collect();
            let path = format!("{path}.requestedToCapacityRatio.shape");
            if shape.is_empty() {
                return Err(format!("{path}: Required value: at least one point must be specified"));
            }
            if shape.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
                return Err(format!("{path}: Invalid value: utilization values must be sorted in increasing order"));
            }
            if shape.iter().any(|(utilization, score)| !(0..=100).contains(utilization) || !(0..=10).contains(score)) {
                return Err(format!("{path}: Invalid value: utilization must be within 0 and 100, and score within 0 and 10"));
            }
            StrategyKind::RequestedToCapacityRatio(shape)
        }
        other => return Err(format!("{path}.type: Unsupported value: \"{other}\": supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\"")),
    };
    if !strategy["resources"].is_null() {
        profile.strategy.resources = resources(&strategy["resources"], &path)?;
    }
    Ok(())
}

fn spread(profile: &mut Profile, args: &Value, path: &str) -> Result<(), String> {
    only(args, path, &["apiVersion", "kind", "defaultConstraints", "defaultingType"])?;
    let given: Vec<&Value> = items(&args["defaultConstraints"]).collect();
    match args["defaultingType"].as_str().unwrap_or("System") {
        "System" if given.is_empty() => {}
        "System" => return Err(format!("{path}.defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty, .defaultingType must be \"List\"")),
        "List" => {
            let mut constraints = Vec::new();
            for constraint in given {
                constraints.push(DefaultConstraint {
                    topology_key: constraint["topologyKey"].as_str().ok_or_else(|| format!("{path}.defaultConstraints.topologyKey: Required value"))?.to_owned(),
                    max_skew: constraint["maxSkew"].as_i64().filter(|skew| *skew > 0).ok_or_else(|| format!("{path}.defaultConstraints.maxSkew: Invalid value: not in valid range (0, inf)"))?,
                    hard: constraint["whenUnsatisfiable"] == "DoNotSchedule",
                });
            }
            profile.default_constraints = Some(constraints);
        }
        other => return Err(format!("{path}.defaultingType: Unsupported value: \"{other}\": supported values: \"List\", \"System\"")),
    }
    Ok(())
}

fn resources(given: &Value, path: &str) -> Result<Vec<(String, i64)>, String> {
    let read = |resource: &Value| {
        let name = resource["name"].as_str().ok_or_else(|| format!("{path}.resources.name: Required value"))?;
        match resource["weight"].as_i64().unwrap_or(1) {
            0 => Ok((name.to_owned(), 1)),
            weight @ 1..=100 => Ok((name.to_owned(), weight)),
            weight => Err(format!("{path}.resources.weight: Invalid value: {weight}: resource weight of {name} not in valid range [1, 100]")),
        }
    };
    items(given).map(read).collect()
}

fn percent(given: &Value, path: &str) -> Result<Option<usize>, String> {
    match given {
        Value::Null => Ok(None),
        given => match given.as_u64().filter(|percent| *percent <= 100) {
            Some(percent) => Ok(Some(percent as usize)),
            None => Err(format!("{path}: Invalid value: {given}: not in valid range [0-100]")),
        },
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn only(object: &Value, path: &str, known: &[&str]) -> Result<(), String> {
    let unknown = object.as_object().into_iter().flatten().find(|(key, _)| !known.contains(&key.as_str()));
    match unknown {
        Some((key, _)) if path.is_empty() => Err(format!("strict decoding error: unknown field \"{key}\"")),
        Some((key, _)) => Err(format!("strict decoding error: unknown field \"{path}.{key}\"")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[track_caller]
    fn one(text: &str) -> Profile {
        SchedulerConfig::from_yaml(&format!("{HEAD}{text}")).expect("is read").profiles.remove(0)
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let problem = SchedulerConfig::from_yaml(&format!("{HEAD}{text}")).err().expect("is refused").to_string();
        assert!(problem.contains(expected), "{problem}");
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(one(""), *Profile::standard());
        assert_eq!(one("percentageOfNodesToScore: 30").percentage_of_nodes_to_score, 30);
        assert_eq!(one("profiles:\n- schedulerName: mine\n").scheduler_name, "mine");
    }

    #[test]
    fn plugins_come_and_go() {
        let profile = one("profiles:\n- plugins:\n    filter:\n      disabled: [{name: NodePorts}]\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: ImageLocality, weight: 5}, {name: NodeAffinity}]\n    postFilter:\n      disabled: [{name: DefaultPreemption}]\n");
        assert_eq!(profile.disabled_filters, [Filter::NodePorts].into());
        assert_eq!(profile.scores, [(Score::ImageLocality, 5), (Score::NodeAffinity, 2)]);
        assert!(!profile.preempts);
        let profile = one("profiles:\n- plugins:\n    multiPoint:\n      disabled: [{name: TaintToleration}]\n");
        assert!(!profile.has(Filter::TaintToleration) && profile.scores.iter().all(|(score, _)| *score != Score::TaintToleration));
    }

    #[test]
    fn plugins_take_arguments() {
        let profile = one("profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      scoringStrategy:\n        type: RequestedToCapacityRatio\n        resources: [{name: example.com/gpu, weight: 3}]\n        requestedToCapacityRatio:\n          shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]\n  - name: PodTopologySpread\n    args: {defaultingType: List, defaultConstraints: [{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]}\n  - name: InterPodAffinity\n    args: {hardPodAffinityWeight: 9}\n  - name: DefaultPreemption\n    args: {minCandidateNodesPercentage: 50, minCandidateNodesAbsolute: 7}\n");
        assert_eq!(profile.strategy.kind, StrategyKind::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]));
        assert_eq!(profile.strategy.resources, [("example.com/gpu".to_owned(), 3)]);
        assert_eq!(profile.default_constraints, Some(vec![DefaultConstraint { topology_key: "zone".into(), max_skew: 2, hard: false }]));
        assert_eq!((profile.hard_pod_affinity_weight, profile.min_candidate_nodes_percentage, profile.min_candidate_nodes_absolute), (9, 50, 7));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        refused("percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101");
        refused("profilez: []", "unknown field \"profilez\"");
        refused("profiles:\n- plugins:\n    filter:\n      disabled: [{name: Nope}]\n", "plugin \"Nope\" does not exist");
        refused("profiles:\n- {}\n- {}\n", "Duplicate value: \"default-scheduler\"");
        refused("profiles:\n- pluginConfig:\n  - name: NodeResourcesFit\n    args: {scoringStrategy: {type: Best}}\n", "Unsupported value: \"Best\"");
        assert!(SchedulerConfig::from_yaml("kind: Pod").is_err());
    }
}
