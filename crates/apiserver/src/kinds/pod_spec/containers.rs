//! Containers of every sort: ordinary, init and ephemeral.

use serde_json::Value;

use super::{Context, Of, env, mounts, probes, security};
use crate::kinds::cursor::walk;
use crate::kinds::{Cursor, Problems, checks};

pub(super) fn validate(spec: &Cursor, context: &Context, problems: &mut Problems) {
    let (ordinary, init) = (spec.at("containers"), spec.at("initContainers"));
    validate_ordinary(&ordinary, context, problems);
    validate_init(&init, &ordinary, context, problems);
    validate_ephemeral(&spec.at("ephemeralContainers"), &ordinary, &init, context, problems);
    validate_pod_level(spec, context, problems);
}

fn validate_ordinary(containers: &Cursor, context: &Context, problems: &mut Problems) {
    if containers.is_empty() {
        return problems.required(containers, "");
    }
    let mut names: Vec<&str> = Vec::new();
    for container in containers.items() {
        validate_common(&container, context, problems);
        let name = container.at("name");
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        }
        names.push(name.str());
        probes::validate_lifecycle_and_probes(&container, context, problems);
        validate_own_restart(&container, problems);
    }
    let mut ports = Vec::new();
    for container in containers.items() {
        host_port_conflicts(&container, &mut ports, problems);
    }
}

fn validate_init(containers: &Cursor, ordinary: &Cursor, context: &Context, problems: &mut Problems) {
    let mut names: Vec<&str> = super::names_of(ordinary.array());
    for container in containers.items() {
        validate_common(&container, context, problems);
        validate_own_restart(&container, problems);
        let name = container.at("name");
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        } else if !name.is_empty() {
            names.push(name.str());
        }
        // They run one by one, so that ports may repeat between them.
        host_port_conflicts(&container, &mut Vec::new(), problems);
        if container.at("restartPolicy").str() == "Always" {
            probes::validate_lifecycle_and_probes(&container, context, problems);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                let at = container.at(field);
                if at.exists() {
                    problems.forbidden(&at, "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
    }
}

/// Fields that say how a pod behaves are not for what is only visiting.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

fn validate_ephemeral(
    containers: &Cursor,
    ordinary: &Cursor,
    init: &Cursor,
    context: &Context,
    problems: &mut Problems,
) {
    if containers.is_empty() {
        return;
    }
    let others: Vec<&str> =
        super::names_of(ordinary.array()).into_iter().chain(super::names_of(init.array())).collect();
    let mut names = others.clone();
    for container in containers.items() {
        validate_common(&container, context, problems);
        no_whitespace(&container.at("image"), problems);
        let (name, target) = (container.at("name"), container.at("targetContainerName"));
        if names.contains(&name.str()) {
            problems.duplicate(&name);
        } else {
            names.push(name.str());
        }
        if !target.is_empty() && !others.contains(&target.str()) {
            problems.not_found(&target);
        }
        for field in NOT_EPHEMERAL {
            let at = container.at(field);
            if at.exists() && !at.object().is_some_and(serde_json::Map::is_empty) {
                problems.forbidden(&at, "cannot be set for an Ephemeral Container");
            }
        }
        for mount in container.at("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                let at = mount.at(field);
                if !at.is_empty() {
                    problems.forbidden(&at, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

fn validate_common(container: &Cursor, context: &Context, problems: &mut Problems) {
    let (name, image) = (container.at("name"), container.at("image"));
    if checks::required(&name, problems) {
        checks::label(&name, problems);
    }
    if image.is_empty() {
        problems.required(&image, "");
    }
    let policy = container.at("terminationMessagePolicy");
    if checks::required(&policy, problems) {
        checks::one_of(&policy, &["File", "FallbackToLogsOnError"], problems);
    }
    validate_ports(&container.at("ports"), problems);
    env::validate(&container.at("env"), context, problems);
    env::validate_from(&container.at("envFrom"), problems);
    mounts::validate(container, context, problems);
    let pull = container.at("imagePullPolicy");
    if checks::required(&pull, problems) {
        checks::one_of(&pull, &["Always", "IfNotPresent", "Never"], problems);
    }
    validate_resources(&container.at("resources"), &context.resource_claims, problems);
    validate_resize_policy(&container.at("resizePolicy"), context, problems);
    security::validate_container(&container.at("securityContext"), context.host_users, problems);
}

pub fn no_whitespace(image: &Cursor, problems: &mut Problems) {
    if image.str().trim() != image.str() {
        problems.invalid(image, "must not have leading or trailing whitespace");
    }
}

fn validate_own_restart(container: &Cursor, problems: &mut Problems) {
    let (policy, rules) = (container.at("restartPolicy"), container.at("restartPolicyRules"));
    checks::optional_one_of(&policy, &["Always", "Never", "OnFailure"], problems);
    if !rules.is_empty() && !policy.exists() {
        problems.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > 20 {
        problems.too_many(&rules, rules.len(), 20);
    }
    for rule in rules.items() {
        // The other action is an alpha feature of the original, off by default.
        checks::one_of(&rule.at("action"), &["Restart"], problems);
        let codes = rule.at("exitCodes");
        if !codes.exists() {
            problems.required(&codes, "must be specified");
            continue;
        }
        checks::one_of(&codes.at("operator"), &["In", "NotIn"], problems);
        if codes.at("values").len() > 255 {
            problems.too_many(&codes.at("values"), codes.at("values").len(), 255);
        }
    }
}

fn validate_ports(ports: &Cursor, problems: &mut Problems) {
    let mut names: Vec<&str> = Vec::new();
    for port in ports.items() {
        let name = port.at("name");
        if !name.is_empty() {
            let sentences = api::names::port_name(name.str());
            if !sentences.is_empty() {
                problems.invalid_each(&name, sentences);
            } else if names.contains(&name.str()) {
                problems.duplicate(&name);
            } else {
                names.push(name.str());
            }
        }
        let (own, host) = (port.at("containerPort"), port.at("hostPort"));
        if own.int() == 0 {
            problems.required(&own, "");
        } else {
            checks::port_number(&own, problems);
        }
        if host.int() != 0 {
            checks::port_number(&host, problems);
        }
        let protocol = port.at("protocol");
        if checks::required(&protocol, problems) {
            checks::one_of(&protocol, &["SCTP", "TCP", "UDP"], problems);
        }
    }
}

fn host_port_conflicts(container: &Cursor, taken: &mut Vec<String>, problems: &mut Problems) {
    for port in container.at("ports").items() {
        let number = port.at("hostPort").int();
        if number == 0 {
            continue;
        }
        let key = format!("{}/{}/{number}", port.at("protocol").str(), port.at("hostIP").str());
        if taken.contains(&key) {
            problems.duplicate_str(&port.at("hostPort"), &key);
        } else {
            taken.push(key);
        }
    }
}

fn validate_resize_policy(policies: &Cursor, context: &Context, problems: &mut Problems) {
    let mut seen: Vec<&str> = Vec::new();
    for policy in policies.items() {
        let name = walk(policy.value, "resourceName").as_str().unwrap_or("");
        if seen.contains(&name) {
            problems.duplicate_str(&policy, name);
        }
        seen.push(name);
        match name {
            "" => problems.required(policies, ""),
            "cpu" | "memory" => {}
            _ => problems.not_supported_str(policies, name, &["cpu", "memory"]),
        }
        let restart = walk(policy.value, "restartPolicy").as_str().unwrap_or("");
        match restart {
            "" => problems.required(policies, ""),
            "NotRequired" | "RestartContainer" => {}
            _ => problems.not_supported_str(policies, restart, &["NotRequired", "RestartContainer"]),
        }
        if context.restart_policy == "Never" && restart != "NotRequired" {
            problems.invalid_str(policies, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

/// Limits and requests of a container.
pub fn validate_resources(resources: &Cursor, claims: &[&str], problems: &mut Problems) {
    validate_amounts(resources, container_resource_name, claims, problems);
}

fn validate_amounts(
    resources: &Cursor,
    judge_name: fn(&Cursor, &str, &mut Problems),
    claims: &[&str],
    problems: &mut Problems,
) {
    let (limits, requests) = (resources.at("limits"), resources.at("requests"));
    let (mut huge, mut classic) = (false, false);
    for (name, amount) in limits.entries() {
        judge_name(&amount, name, problems);
        validate_amount(&amount, name, problems);
        huge |= name.starts_with("hugepages-");
        classic |= matches!(name, "cpu" | "memory");
    }
    for (name, amount) in requests.entries() {
        judge_name(&amount, name, problems);
        validate_amount(&amount, name, problems);
        huge |= name.starts_with("hugepages-");
        classic |= matches!(name, "cpu" | "memory");
        let limit = limits.key(name);
        if !limit.exists() {
            if !may_overcommit(name) {
                problems.required(&limits, "Limit must be set for non overcommitable resources");
            }
            continue;
        }
        let (wanted, most) = (checks::quantity(amount.value), checks::quantity(limit.value));
        if !may_overcommit(name) && wanted != most {
            let sentence = format!("must be equal to {name} limit of {}", limit.str());
            problems.invalid_str(&requests, amount.str(), &sentence);
        } else if wanted > most {
            let sentence = format!("must be less than or equal to {name} limit of {}", limit.str());
            problems.invalid_str(&requests, amount.str(), &sentence);
        }
    }
    if huge && !classic {
        problems.forbidden(resources, "HugePages require cpu or memory");
    }
    validate_claim_names(&resources.at("claims"), claims, problems);
}

fn validate_claim_names(claims: &Cursor, known: &[&str], problems: &mut Problems) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for claim in claims.items() {
        let (name, request) = (claim.at("name").str(), claim.at("request"));
        if name.is_empty() {
            problems.required(&claim, "");
            continue;
        }
        let same = |own: &&(&str, &str)| own.0 == name && (own.1.is_empty() || request.is_empty() || own.1 == request.str());
        match seen.iter().find(same) {
            Some((_, own)) if !own.is_empty() && !request.is_empty() => {
                problems.duplicate_str(&claim, &format!("{name}/{own}"));
            }
            Some(_) => problems.duplicate_str(&claim, name),
            None if !request.is_empty() => checks::label(&request, problems),
            None => {}
        }
        seen.push((name, request.str()));
        if !known.contains(&name) {
            let mut sorted = known.to_vec();
            sorted.sort_unstable();
            let list = if sorted.is_empty() { " which is empty".to_owned() } else { format!(": {}", sorted.join(", ")) };
            problems.not_found_among(&claim, name, &format!("must be one of the names in pod.spec.resourceClaims{list}"));
        }
    }
}

/// The name of a resource of any sort: a well-known one, or qualified.
pub fn resource_name(at: &Cursor, name: &str, problems: &mut Problems) {
    let sentences = api::names::qualified_name(name);
    if !sentences.is_empty() {
        return problems.invalid_each_str(at, name, sentences);
    }
    let plain = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    let known = matches!(plain, "cpu" | "memory" | "ephemeral-storage")
        || matches!(name.strip_prefix("requests.").unwrap_or(name), "storage")
        || name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
        || COUNTED.contains(&name);
    if !name.contains('/') && !known {
        problems.invalid_str(at, name, "must be a standard resource type or fully qualified");
    }
}

/// What quotas count.
pub const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What may stand in the limits and requests of a container.
pub fn container_resource_name(amount: &Cursor, name: &str, problems: &mut Problems) {
    resource_name(amount, name, problems);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') {
        if !standard {
            problems.invalid_str(amount, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        problems.invalid_str(amount, name, "doesn't follow extended resource name standard");
    }
}

/// What may stand in the limits and requests of a pod.
fn pod_resource_name(amount: &Cursor, name: &str, problems: &mut Problems) {
    let before = problems.list.len();
    resource_name(amount, name, problems);
    let supported = matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    if problems.list.len() == before && !supported {
        problems.not_supported_str(amount, name, &["cpu", "hugepages-", "memory"]);
    }
}

fn validate_amount(amount: &Cursor, name: &str, problems: &mut Problems) {
    checks::non_negative_quantity(amount, problems);
    if let (Some(page), Some(own)) = (name.strip_prefix("hugepages-"), checks::quantity(amount.value)) {
        let page = checks::quantity(&page.into()).map_or(0, |page| page.value());
        if page <= 0 || own.milli_value() % 1000 != 0 || own.value() % page != 0 {
            let sentence = format!("{own} is not positive integer multiple of {name}");
            problems.invalid_str(amount, &own.to_string(), &sentence);
        }
    }
    let fraction = checks::quantity(amount.value).is_some_and(|quantity| quantity.milli_value() % 1000 != 0);
    if is_extended(name) && fraction {
        problems.invalid(amount, "must be an integer");
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && api::names::qualified_name(&format!("requests.{name}")).is_empty()
}

pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Resources of the pod as a whole.
fn validate_pod_level(spec: &Cursor, context: &Context, problems: &mut Problems) {
    let resources = spec.at("resources");
    if !resources.exists() || context.of == Of::Template && resources.is_empty() {
        return;
    }
    if resources.at("claims").exists() {
        problems.forbidden(&resources.at("claims"), "claims cannot be set for Resources at pod-level");
    }
    validate_amounts(&resources, pod_resource_name, &context.resource_claims, problems);
    let Some(map) = spec.value.as_object() else { return };
    let requests = resources.at("requests");
    for (name, own) in requests.entries() {
        let sum = crate::kinds::resources::pod_request(map, name);
        if let Some(sum) = sum.filter(|sum| checks::quantity(own.value).is_some_and(|own| *sum > own)) {
            problems.invalid(&own, &format!("must be greater than or equal to aggregate container requests of {sum}"));
        }
    }
    let limits = resources.at("limits");
    // The original puts the containers below the pod's resources.
    let containers = resources.at("containers");
    for (index, container) in spec.at("containers").items().enumerate() {
        let named = containers.index(index);
        for (name, limit) in container.at("resources.limits").entries() {
            let own: &Value = limits.key(name).value;
            if checks::quantity(own).is_some_and(|own| checks::quantity(limit.value).is_some_and(|limit| limit > own)) {
                let sentence = format!("must be less than or equal to pod limits of {}", own.as_str().unwrap_or(""));
                problems.invalid_str(&named.key(name).at("limits"), limit.str(), &sentence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use serde_json::{Value, json};

    fn with(field: &str, value: Value) -> Value {
        let mut container = json!({"name": "c", "image": "nginx"});
        container[field] = value;
        json!({"containers": [container]})
    }

    #[test]
    fn names_and_images() {
        check(with("name", json!("")), "spec.containers[0].name: Required value");
        check(
            with("name", json!("a_b")),
            "spec.containers[0].name: Invalid value: \"a_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        );
        check(with("image", json!("")), "spec.containers[0].image: Required value");
        check(
            with("image", json!(" nginx")),
            "spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace",
        );
        check(
            with("imagePullPolicy", json!("Maybe")),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        );
        check(
            json!({"containers": [{"name": "c", "image": "a"}, {"name": "c", "image": "b"}]}),
            "spec.containers[1].name: Duplicate value: \"c\"",
        );
    }

    #[test]
    fn ports() {
        check(
            with("ports", json!([{"containerPort": 0}, {"containerPort": 70000}])),
            "spec.containers[0].ports[0].containerPort: Required value\n\
             spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        );
        check(
            with("ports", json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 80}])),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        );
    }

    #[test]
    fn resources() {
        check(with("resources", json!({"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}})), "");
        check(
            with("resources", json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        );
        check(
            with("resources", json!({"requests": {"cores": "1"}})),
            "spec.containers[0].resources.requests[cores]: Invalid value: \"cores\": must be a standard resource type or fully qualified\n\
             spec.containers[0].resources.requests[cores]: Invalid value: \"cores\": must be a standard resource for containers",
        );
        check(
            with("resources", json!({"requests": {"cpu": "-1"}})),
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        );
        check(
            with("resources", json!({"requests": {"example.com/gpu": "1"}})),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        );
    }

    #[test]
    fn init_containers() {
        let with = |field: &str, value: Value| {
            let mut init = json!({"name": "i", "image": "busybox"});
            init[field] = value;
            json!({"containers": [{"name": "c", "image": "nginx"}], "initContainers": [init]})
        };
        check(with("restartPolicy", json!("Always")), "");
        check(with("name", json!("c")), "spec.initContainers[0].name: Duplicate value: \"c\"");
        check(
            with("livenessProbe", json!({"exec": {"command": ["true"]}})),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        );
    }
    #[test]
    fn restarts_by_rules() {
        let with = |policy: Value, rules: Value| json!({"containers": [{"name": "c", "image": "x", "restartPolicy": policy, "restartPolicyRules": rules}]});
        let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        check(with(json!("Never"), rule.clone()), "");
        check(
            with(Value::Null, rule),
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        );
        check(
            with(json!("Never"), json!([{"action": "Halt"}])),
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Halt\": supported values: \"Restart\"\n\
             spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
        );
    }

    #[test]
    fn resources_of_the_pod() {
        let pod = |own: Value, container: Value| json!({"resources": own, "containers": [{"name": "c", "image": "x", "resources": container}]});
        check(pod(json!({"limits": {"cpu": "2"}}), json!({"limits": {"cpu": "1"}})), "");
        check(
            pod(json!({"requests": {"ephemeral-storage": "1"}, "claims": [{"name": "a"}]}), json!({})),
            "spec.resources.claims: Forbidden: claims cannot be set for Resources at pod-level\n\
             spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"\n\
             spec.resources.claims[0]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty",
        );
        check(
            pod(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}})),
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2\n\
             spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1",
        );
    }
}
