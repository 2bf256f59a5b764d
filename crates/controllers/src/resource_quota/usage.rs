//! What objects use of the resources that quotas count, and which objects a quota's scopes cover.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuotaSpec, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::context::seconds_between;
use crate::pods;

pub type Amounts = BTreeMap<String, Quantity>;

type Texts = BTreeMap<String, Text>;

pub fn of_objects(plural: &str, count: usize) -> Amounts {
    let count = Quantity::from_value(i64::try_from(count).unwrap_or(i64::MAX));
    [(plural.to_owned(), count), (format!("count/{plural}"), count)].into()
}

/// A pod that is over, or long past its grace period, uses nothing but its place among the objects.
pub fn of_pod(pod: &Pod, now: Timestamp) -> Amounts {
    let mut used: Amounts = [("count/pods".to_owned(), Quantity::from_value(1))].into();
    let overdue = pod.metadata.deletion_timestamp.as_ref().is_some_and(|until| {
        pod.metadata.deletion_grace_period_seconds.is_some_and(|grace| seconds_between(until, now) > grace)
    });
    let Some(spec) = pod.spec.as_ref().filter(|_| !pods::is_finished(pod) && !overdue) else { return used };
    used.insert("pods".into(), Quantity::from_value(1));
    for (name, amount) in total(spec, |container| container.resources.as_ref()?.requests.as_ref(), true) {
        if is_classic(&name) {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in total(spec, |container| container.resources.as_ref()?.limits.as_ref(), false) {
        if is_classic(&name) {
            used.insert(format!("limits.{name}"), amount);
        }
    }
    used
}

/// Those that go by their bare name, too.
fn is_classic(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// What the pod takes together: sidecars run beside what follows them, an ordinary init container beside the
/// sidecars before it. What is said for the pod as a whole counts instead.
fn total(spec: &PodSpec, of: impl Fn(&Container) -> Option<&Texts>, requests: bool) -> Amounts {
    let mut total = Amounts::new();
    let mut sidecars = Amounts::new();
    let mut initialising = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &parse(of(container)));
    }
    for container in spec.init_containers.iter().flatten() {
        let amounts = parse(of(container));
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &amounts);
            add(&mut sidecars, &amounts);
            raise(&mut initialising, &sidecars);
        } else {
            let mut beside = sidecars.clone();
            add(&mut beside, &amounts);
            raise(&mut initialising, &beside);
        }
    }
    raise(&mut total, &initialising);
    let whole = spec.resources.as_ref().and_then(|resources| if requests { resources.requests.as_ref() } else { resources.limits.as_ref() });
    total.extend(parse(whole));
    // Limits that are not there stay unlimited.
    let overhead = parse(spec.overhead.as_ref()).into_iter().filter(|(name, _)| requests || total.contains_key(name)).collect();
    add(&mut total, &overhead);
    total
}

fn parse(texts: Option<&Texts>) -> Amounts {
    texts.into_iter().flatten().map(|(name, amount)| (name.clone(), Quantity::parse(&amount.0).unwrap_or_default())).collect()
}

fn add(sums: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let sum = sums.remove(name).unwrap_or_default() + *amount;
        sums.insert(name.clone(), sum);
    }
}

fn raise(largest: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let larger = largest.get(name).map_or(*amount, |held| *held.max(amount));
        largest.insert(name.clone(), larger);
    }
}

pub fn resources_differ(old: &Pod, new: &Pod) -> bool {
    let resources = |pod: &Pod| -> Vec<_> {
        let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        containers.map(|container| container.resources.clone()).collect()
    };
    resources(old) != resources(new)
}

pub fn of_service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let all = i64::try_from(ports.len()).unwrap_or(i64::MAX);
    let (node_ports, balancers) = match spec.type_.as_deref() {
        Some("NodePort") => (all, 0),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => {
            let given = ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count();
            (i64::try_from(given).unwrap_or(i64::MAX), 1)
        }
        Some("LoadBalancer") => (all, 1),
        _ => (0, 0),
    };
    let mut used = of_objects("services", 1);
    used.insert("services.nodeports".into(), Quantity::from_value(node_ports));
    used.insert("services.loadbalancers".into(), Quantity::from_value(balancers));
    used
}

pub fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used = of_objects("persistentvolumeclaims", 1);
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let storage = |amounts: Option<&Texts>| amounts.and_then(|amounts| amounts.get("storage")).and_then(|text| Quantity::parse(&text.0).ok());
    // What was allocated while it was to grow counts, even if less is asked for again.
    let allocated = storage(claim.status.as_ref().and_then(|status| status.allocated_resources.as_ref()));
    let storage = storage(requests.as_ref()).map(|asked| allocated.map_or(asked, |allocated| asked.max(allocated)));
    let older = claim.metadata.annotations.as_ref().and_then(|all| all.get("volume.beta.kubernetes.io/storage-class")).cloned();
    let class = older.or(spec.storage_class_name).filter(|class| !class.is_empty());
    if let Some(class) = &class {
        used.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), Quantity::from_value(1));
    }
    if let Some(storage) = storage {
        used.insert("requests.storage".into(), storage);
        if let Some(class) = &class {
            used.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
    used
}

/// Whether a resource is one that is counted, be it that there is nothing to count. Other kinds of objects are
/// known only by their count.
pub fn is_counted(name: &str) -> bool {
    const OBJECTS: [&str; 7] =
        ["pods", "services", "secrets", "configmaps", "replicationcontrollers", "resourcequotas", "persistentvolumeclaims"];
    match name.strip_prefix("count/") {
        Some(plural) => OBJECTS.contains(&plural),
        None => {
            OBJECTS.contains(&name)
                || is_classic(name)
                || matches!(name, "services.nodeports" | "services.loadbalancers")
                || name.starts_with("requests.")
                || name.starts_with("limits.")
                || name.contains(".storageclass.storage.k8s.io/")
        }
    }
}

/// Which objects a quota is about; without any, all are.
pub struct Scopes(Vec<Scope>);

struct Scope {
    name: String,
    /// Operator and values; a plain scope has none.
    expression: Option<(String, Vec<String>)>,
}

impl Scopes {
    pub fn of(spec: &ResourceQuotaSpec) -> Self {
        let plain = spec.scopes.iter().flatten().map(|name| Scope { name: name.clone(), expression: None });
        let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
        let selected = selected.map(|expression| Scope {
            name: expression.scope_name.clone(),
            expression: Some((expression.operator.clone(), expression.values.clone().unwrap_or_default())),
        });
        Scopes(plain.chain(selected).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn cover_pod(&self, pod: &Pod) -> bool {
        self.0.iter().all(|scope| scope.covers_pod(pod))
    }

    pub fn cover_claim(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
        self.0.iter().all(|scope| scope.name == "VolumeAttributesClass" && scope.selects(class.unwrap_or_default()))
    }
}

impl Scope {
    fn covers_pod(&self, pod: &Pod) -> bool {
        let spec = pod.spec.clone().unwrap_or_default();
        match self.name.as_str() {
            "BestEffort" => is_best_effort(&spec),
            "NotBestEffort" => !is_best_effort(&spec),
            "Terminating" => spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0),
            "NotTerminating" => spec.active_deadline_seconds.is_none_or(|seconds| seconds < 0),
            "PriorityClass" => self.selects(spec.priority_class_name.as_deref().unwrap_or_default()),
            "CrossNamespacePodAffinity" => crosses_namespaces(&spec),
            _ => false,
        }
    }

    fn selects(&self, value: &str) -> bool {
        let Some((operator, values)) = &self.expression else { return !value.is_empty() };
        let listed = values.iter().any(|listed| listed == value);
        match operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => !value.is_empty(),
            "DoesNotExist" => value.is_empty(),
            _ => false,
        }
    }
}

fn is_best_effort(spec: &PodSpec) -> bool {
    let asks = |texts: Option<&Texts>| {
        parse(texts).iter().any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && !amount.is_zero())
    };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let whole = spec.resources.iter().any(|resources| asks(resources.requests.as_ref()) || asks(resources.limits.as_ref()));
    !whole
        && !containers.any(|container| {
            container.resources.iter().any(|resources| asks(resources.requests.as_ref()) || asks(resources.limits.as_ref()))
        })
}

fn crosses_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let crosses =
        |term: &PodAffinityTerm| term.namespace_selector.is_some() || term.namespaces.as_ref().is_some_and(|names| !names.is_empty());
    let near = affinity.pod_affinity.iter().flat_map(|near| {
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        near.required_during_scheduling_ignored_during_execution.iter().flatten().chain(preferred.map(|weighted| &weighted.pod_affinity_term))
    });
    let apart = affinity.pod_anti_affinity.iter().flat_map(|apart| {
        let preferred = apart.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        apart.required_during_scheduling_ignored_during_execution.iter().flatten().chain(preferred.map(|weighted| &weighted.pod_affinity_term))
    });
    near.chain(apart).any(crosses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use serde_json::{Value, json};

    fn told(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    fn pod(spec: Value, phase: &str) -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": {"phase": phase}})).unwrap()
    }

    #[track_caller]
    fn check_pod(spec: Value, phase: &str, expected: &str) {
        assert_eq!(told(&of_pod(&pod(spec, phase), fixtures::now())), expected);
    }

    #[test]
    fn pods() {
        let container = |requests: Value, limits: Value| json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        let plain = container(json!({"cpu": "100m", "example.com/gpu": "1"}), json!({"cpu": "1", "memory": "1Gi"}));
        check_pod(
            json!({"containers": [plain.clone(), plain.clone()]}),
            "Running",
            "count/pods=1 cpu=200m limits.cpu=2 limits.memory=2Gi pods=1 requests.cpu=200m requests.example.com/gpu=2",
        );
        check_pod(json!({"containers": [plain]}), "Succeeded", "count/pods=1");
        let cpu = |amount: &str| container(json!({"cpu": amount}), json!({}));
        let mut sidecar = cpu("50m");
        sidecar["restartPolicy"] = json!("Always");
        check_pod(json!({"containers": [cpu("100m")], "initContainers": [sidecar.clone(), cpu("1")]}), "Pending", "count/pods=1 cpu=1050m pods=1 requests.cpu=1050m");
        check_pod(json!({"containers": [cpu("100m")], "overhead": {"cpu": "10m"}}), "Pending", "count/pods=1 cpu=110m pods=1 requests.cpu=110m");
    }

    #[test]
    fn pods_that_are_over_use_only_their_place() {
        #[track_caller]
        fn check(pod: &str, grace: Option<i64>, deleted_ago: i64, expected: &str) {
            let mut pod = fixtures::pod(pod);
            pod.metadata.deletion_grace_period_seconds = grace;
            if grace.is_some() {
                pod.metadata.deletion_timestamp = Some(fixtures::ago(deleted_ago));
            }
            assert_eq!(told(&of_pod(&pod, fixtures::now())), expected);
        }
        check("a", None, 0, "count/pods=1 pods=1");
        check("a:failed", None, 0, "count/pods=1");
        check("a:pending", None, 0, "count/pods=1 pods=1");
        check("a", Some(30), 0, "count/pods=1 pods=1");
        check("a", Some(30), 30, "count/pods=1 pods=1");
        check("a", Some(30), 31, "count/pods=1"); // Long past its time.
    }

    #[test]
    fn services() {
        #[track_caller]
        fn check(kind: &str, ports: Value, alters: Value, balancers: i64, node_ports: i64) {
            let mut spec = json!({"ports": ports, "type": kind});
            spec = api::patch::merge_patch(&spec, &alters);
            let amounts = of_service(&serde_json::from_value(json!({"spec": spec})).unwrap());
            assert_eq!(told(&amounts), format!("count/services=1 services=1 services.loadbalancers={balancers} services.nodeports={node_ports}"));
        }
        let two = || json!([{"port": 1}, {"port": 2}]);
        check("ClusterIP", two(), json!({}), 0, 0);
        check("ExternalName", json!([]), json!({}), 0, 0);
        check("NodePort", two(), json!({}), 0, 2);
        check("LoadBalancer", two(), json!({}), 1, 2);
        let none = || json!({"allocateLoadBalancerNodePorts": false});
        check("LoadBalancer", two(), none(), 1, 0);
        check("LoadBalancer", json!([{"port": 1, "nodePort": 30000}, {"port": 2}]), none(), 1, 1);
    }

    #[test]
    fn claims() {
        #[track_caller]
        fn check(claim: Value, expected: &str) {
            let amounts = of_claim(&serde_json::from_value(claim).unwrap());
            let rest = told(&amounts).replace("count/persistentvolumeclaims=1 ", "").replace("persistentvolumeclaims=1", "1");
            assert_eq!(rest, expected);
        }
        let asks = |class: &str| json!({"storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}});
        let fast = "fast.storageclass.storage.k8s.io/1 fast.storageclass.storage.k8s.io/requests.storage=1Gi 1 requests.storage=1Gi";
        check(json!({"spec": asks("fast")}), fast);
        check(json!({"spec": asks("")}), "1 requests.storage=1Gi");
        let older = json!({"annotations": {"volume.beta.kubernetes.io/storage-class": "fast"}});
        check(json!({"metadata": older, "spec": asks("slow")}), fast);
        check(json!({"spec": asks(""), "status": {"allocatedResources": {"storage": "5Gi"}}}), "1 requests.storage=5Gi");
        check(json!({"spec": asks(""), "status": {"allocatedResources": {"storage": "1Mi"}}}), "1 requests.storage=1Gi");
    }

    #[track_caller]
    fn check_scope(scopes: Value, spec: Value, expected: bool) {
        let scopes = Scopes::of(&serde_json::from_value(scopes).unwrap());
        assert_eq!(scopes.cover_pod(&pod(spec, "Running")), expected);
    }

    #[test]
    fn scopes() {
        let best_effort = || json!({"containers": [{"name": "c"}]});
        let asking = || json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
        let deadline = || json!({"containers": [], "activeDeadlineSeconds": 5});
        check_scope(json!({}), best_effort(), true);
        check_scope(json!({"scopes": ["BestEffort"]}), best_effort(), true);
        check_scope(json!({"scopes": ["BestEffort"]}), asking(), false);
        check_scope(json!({"scopes": ["NotBestEffort"]}), best_effort(), false);
        check_scope(json!({"scopes": ["NotBestEffort"]}), asking(), true);
        check_scope(json!({"scopes": ["BestEffort", "Terminating"]}), best_effort(), false);
        check_scope(json!({"scopes": ["Terminating"]}), deadline(), true);
        check_scope(json!({"scopes": ["NotTerminating"]}), deadline(), false);
        check_scope(json!({"scopes": ["NotTerminating"]}), best_effort(), true);
        let by_class = |operator: &str| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}});
        let high = || json!({"containers": [], "priorityClassName": "high"});
        for (operator, of_high, of_none) in
            [("In", true, false), ("NotIn", false, true), ("Exists", true, false), ("DoesNotExist", false, true)]
        {
            check_scope(by_class(operator), high(), of_high);
            check_scope(by_class(operator), best_effort(), of_none);
        }
        check_scope(json!({"scopes": ["PriorityClass"]}), high(), true);
        check_scope(json!({"scopes": ["PriorityClass"]}), best_effort(), false);
        let near = |term: Value| json!({"containers": [], "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
        let apart = |term: Value| {
            let weighted = json!([{"weight": 1, "podAffinityTerm": term}]);
            json!({"containers": [], "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}})
        };
        let crossing = || json!({"scopes": ["CrossNamespacePodAffinity"]});
        check_scope(crossing(), near(json!({"topologyKey": "k", "namespaces": ["x"]})), true);
        check_scope(crossing(), near(json!({"topologyKey": "k"})), false);
        check_scope(crossing(), apart(json!({"topologyKey": "k", "namespaceSelector": {}})), true);
        check_scope(crossing(), best_effort(), false);
    }

    #[test]
    fn claims_have_one_scope() {
        let covers = |scopes: Value, class: Value| {
            let claim = json!({"spec": {"volumeAttributesClassName": class}});
            Scopes::of(&serde_json::from_value(scopes).unwrap()).cover_claim(&serde_json::from_value(claim).unwrap())
        };
        let by_class = json!({"scopeSelector": {"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}]}});
        assert!(covers(by_class.clone(), json!("gold")) && !covers(by_class, json!("silver")));
        assert!(covers(json!({}), json!(null)) && !covers(json!({"scopes": ["Terminating"]}), json!("gold")));
    }
}
