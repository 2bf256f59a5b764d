//! What an update of a pod may change: images, a shorter deadline, more tolerations, fewer gates.

use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, make};
use crate::kinds::go_diff::go_diff;
use crate::kinds::pod_spec::annotations;
use crate::kinds::problems::IMMUTABLE;
use crate::kinds::{Cursor, Problems, checks};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let (root, old_root) = (Cursor::root(new), Cursor::root(old));
    let (spec, before) = (root.at("spec"), old_root.at("spec"));
    annotations::validate_update(&root.at("metadata.annotations"), &old_root.at("metadata.annotations"), problems);
    for list in ["containers", "initContainers"] {
        if spec.at(list).len() != before.at(list).len() {
            return problems.forbidden(&spec.at(list), "pod updates may not add or remove containers");
        }
    }
    if !validate_deadline(&spec, &before, problems) {
        return;
    }
    validate_tolerations(&spec, &before, problems);
    for gate in spec.at("schedulingGates").items() {
        if !before.at("schedulingGates").array().contains(gate.value) {
            let name = gate.at("name");
            let sentence = format!("only deletion is allowed, but found new scheduling gate '{}'", name.str());
            problems.forbidden(&name, &sentence);
        }
    }
    if spec.value == before.value {
        return;
    }
    let mut munged = spec.value.clone();
    let Some(map) = munged.as_object_mut() else { return };
    forget_changeable(map, before.value);
    if !before.at("schedulingGates").is_empty() {
        allow_while_gated(map, &spec, &before, problems);
    }
    if munged != *before.value {
        let differs = go_diff("io.k8s.api.core.v1.PodSpec", before.value, &munged);
        problems.forbidden(&spec, &format!("{FORBIDDEN}\n{differs}"));
    }
}

/// From none to some, or to less. False: no use in looking further.
fn validate_deadline(spec: &Cursor, before: &Cursor, problems: &mut Problems) -> bool {
    let (deadline, old) = (spec.at("activeDeadlineSeconds"), before.at("activeDeadlineSeconds"));
    match (deadline.opt_int(), old.opt_int()) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            problems.invalid(&deadline, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(new), Some(old)) if old < new => {
            problems.invalid(&deadline, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            problems.invalid(&deadline, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn validate_tolerations(spec: &Cursor, before: &Cursor, problems: &mut Problems) {
    let without_seconds = |toleration: &Value| {
        let mut rest = toleration.clone();
        if let Some(map) = rest.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        rest
    };
    let new: Vec<Value> = spec.at("tolerations").array().iter().map(without_seconds).collect();
    if before.at("tolerations").array().iter().any(|old| !new.contains(&without_seconds(old))) {
        problems
            .forbidden(&spec.at("tolerations"), "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// Puts back what may change, so that what is left must be equal.
fn forget_changeable(spec: &mut Object, old: &Value) {
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else { continue };
        for (index, container) in containers.iter_mut().enumerate() {
            if let Some(container) = container.as_object_mut() {
                let image = walk(old, list).get(index).map_or(&Value::Null, |old| walk(old, "image"));
                container.insert("image".into(), image.clone());
            }
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(spec, old, field);
    }
    let grace = |value: Option<&Value>| value.and_then(Value::as_i64);
    let was_negative = grace(old.get("terminationGracePeriodSeconds")).is_some_and(|seconds| seconds < 0);
    if was_negative && grace(spec.get("terminationGracePeriodSeconds")) == Some(1) {
        put_back(spec, old, "terminationGracePeriodSeconds");
    }
}

fn put_back(spec: &mut Object, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => spec.insert(field.to_owned(), value.clone()),
        None => spec.remove(field),
    };
}

/// While gates hold it, where a pod may go can be narrowed.
fn allow_while_gated(munged: &mut Object, spec: &Cursor, before: &Cursor, problems: &mut Problems) {
    let selector = spec.at("nodeSelector");
    if before.at("nodeSelector").entries().any(|(key, value)| selector.key(key).value != value.value) {
        problems.invalid(&selector, "only additions to spec.nodeSelector are allowed (no deletions or mutations)");
    }
    put_back(munged, before.value, "nodeSelector");
    let (affinity, old) = (spec.at("affinity.nodeAffinity"), before.at("affinity.nodeAffinity"));
    if affinity.value == old.value {
        return;
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let (terms, old_terms) = (affinity.at(required), old.at(required));
    if old_terms.len() != terms.len() && !old_terms.is_empty() {
        problems.invalid(&terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (term, old) in terms.items().zip(old_terms.items()) {
        for field in ["matchExpressions", "matchFields"] {
            let kept = old.at(field).array().iter().all(|requirement| term.at(field).array().contains(requirement));
            if !kept {
                problems.invalid(&term, "only additions are allowed (no mutations or deletions)");
            }
        }
    }
    if old.exists() {
        make(munged, "affinity").insert("nodeAffinity".into(), old.value.clone());
    } else if let Some(map) = munged.get_mut("affinity").and_then(Value::as_object_mut) {
        map.remove("nodeAffinity");
        if map.is_empty() && !before.at("affinity").exists() {
            munged.remove("affinity");
        }
    }
}

pub fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let (root, old_root) = (Cursor::root(new), Cursor::root(old));
    let (status, before) = (root.at("status"), old_root.at("status"));
    annotations::validate_update(&root.at("metadata.annotations"), &old_root.at("metadata.annotations"), problems);
    annotations::validate(&root.at("metadata.annotations"), &root.at("spec"), problems);
    validate_conditions(&status.at("conditions"), &root.at("metadata.conditions"), problems);
    let nominated = status.at("nominatedNodeName");
    if !nominated.is_empty() && nominated.value != before.at("nominatedNodeName").value {
        checks::subdomain(&nominated, problems);
    }
    let class = status.at("qosClass");
    if before.at("qosClass").exists() && class.value != before.at("qosClass").value {
        problems.invalid_str(&class, class.str(), IMMUTABLE);
    }
    let spec = old_root.at("spec");
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        validate_transitions(&status.at(list), &before.at(list), &spec, list == "ephemeralContainerStatuses", problems);
    }
    validate_claim_statuses(&status.at("resourceClaimStatuses"), &spec, problems);
    validate_ips(&status, problems);
}

/// The original counts them below `metadata`, and says `Type`.
fn validate_conditions(conditions: &Cursor, named: &Cursor, problems: &mut Problems) {
    for (index, condition) in conditions.items().enumerate() {
        let kind = condition.at("type").str();
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            problems.invalid_each_str(&named.index(index).at("Type"), kind, api::names::qualified_name(kind));
        }
    }
}

fn validate_claim_statuses(statuses: &Cursor, spec: &Cursor, problems: &mut Problems) {
    let mut seen = Vec::new();
    for status in statuses.items() {
        let (name, claim) = (status.at("name"), status.at("resourceClaimName"));
        if !spec.at("resourceClaims").array().iter().any(|own| walk(own, "name") == name.value) {
            problems.invalid(&name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if seen.contains(&name.str()) {
            problems.duplicate(&name);
        }
        seen.push(name.str());
        if claim.exists() {
            problems.invalid_each_str(&name, claim.str(), api::names::dns1123_subdomain(claim.str()));
        }
    }
}

/// What has ended for good stays ended.
/// Visitors never restart, whatever the pod does.
fn validate_transitions(
    statuses: &Cursor,
    before: &Cursor,
    spec: &Cursor,
    visitors: bool,
    problems: &mut Problems,
) {
    let policy = if visitors { "Never" } else { spec.at("restartPolicy").str() };
    if policy == "Always" {
        return;
    }
    for (index, old) in before.items().enumerate() {
        let (name, ended) = (old.at("name").str(), old.at("state.terminated"));
        if !ended.exists() || (ended.at("exitCode").int() != 0 && policy == "OnFailure") {
            continue;
        }
        let own_policy = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| walk(spec.value, list).as_array().into_iter().flatten())
            .find(|container| walk(container, "name").as_str() == Some(name))
            .and_then(|container| walk(container, "restartPolicy").as_str());
        if own_policy.is_some() {
            continue; // It restarts by its own rule.
        }
        let revived = statuses.items().any(|new| new.at("name").str() == name && !new.at("state.terminated").exists());
        if revived {
            problems.forbidden(&statuses.index(index).at("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn validate_ips(status: &Cursor, problems: &mut Problems) {
    for (list, single) in [("podIPs", "podIP"), ("hostIPs", "hostIP")] {
        let ips = status.at(list);
        if list == "hostIPs" && !ips.is_empty() && status.at(single).str() != ips.index(0).at("ip").str() {
            problems.invalid(&ips.index(0).at("ip"), "must be equal to `hostIP`");
        }
        let mut families = Vec::new();
        for ip in ips.items() {
            let text = ip.at("ip").str();
            problems.invalid_each_str(&ip, text, api::names::ip(text));
            families.push(text.contains(':'));
        }
        if ips.len() > 2 || (ips.len() == 2 && families[0] == families[1]) {
            problems.invalid(&ips, "may specify no more than one IP for each IP family");
        }
        for (index, ip) in ips.items().enumerate() {
            if ips.array()[..index].iter().any(|before| walk(before, "ip") == ip.at("ip").value) {
                problems.duplicate(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pod::KIND;
    use super::*;
    use crate::kinds::testing::check_update;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a"}], "nodeName": "n"}})
    }

    #[track_caller]
    fn check(edit: impl Fn(&mut Value), expected: &str) {
        let mut new = pod();
        edit(&mut new);
        let mut problems = Problems::default();
        (KIND.validate_update)(&new, &pod(), &mut problems);
        let first = problems.list.first().map(ToString::to_string).unwrap_or_default();
        assert!(first.starts_with(expected) && first.is_empty() == expected.is_empty(), "{first}");
    }

    #[test]
    fn little_may_change() {
        check(|_| {}, "");
        check(|pod| pod["spec"]["containers"][0]["image"] = "b".into(), "");
        check(|pod| pod["spec"]["activeDeadlineSeconds"] = 5.into(), "");
        check(|pod| pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]), "");
        check(|pod| pod["metadata"]["labels"] = json!({"a": "b"}), "");
        check(|pod| pod["spec"]["nodeName"] = "m".into(), &format!("spec: Forbidden: {FORBIDDEN}"));
        check(
            |pod| pod["spec"]["containers"] = json!([]),
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        );
        check(
            |pod| pod["spec"]["schedulingGates"] = json!([{"name": "g"}]),
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'",
        );
    }

    #[test]
    fn gated_pods_may_be_narrowed() {
        let gated = |spec: Value| {
            let mut pod = pod();
            pod["spec"]["schedulingGates"] = json!([{"name": "g"}]);
            for (key, value) in spec.as_object().expect("an object") {
                pod["spec"][key] = value.clone();
            }
            pod
        };
        check_update(&KIND, gated(json!({"nodeSelector": {"a": "b"}})), gated(json!({})), "");
        check_update(
            &KIND,
            gated(json!({"nodeSelector": {"a": "c"}})),
            gated(json!({"nodeSelector": {"a": "b"}})),
            "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no deletions or mutations)",
        );
    }
}
