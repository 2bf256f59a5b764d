//! The pod spec: shared by pods and by everything that holds a pod template.
//!
//! Invariant: problems come in the original's order: volumes, containers, then the rest field by field.
//! Deliberately absent: what the original lets an update keep because an older version had let it in.

mod affinity;
pub mod annotations;
pub mod containers;
pub mod defaults;
mod env;
mod mounts;
mod probes;
mod security;
mod spread;
pub mod tolerations;
mod volume_sources;
pub mod volumes;
mod warnings;
mod windows;

use serde_json::Value;

use super::cursor::walk;
use super::{Cursor, Problems, checks};

pub use affinity::validate_node_selector;
pub use volume_sources::driver_name;
pub use warnings::{
    DEPRECATED_VOLUMES, claim_spec_warnings, controller_warnings, node_term_warnings, pod_warnings, template_warnings,
};

pub const SELECTOR_MISMATCH: &str = "`selector` does not match template `labels`";

/// Whose spec it is. Some rules came too late to hold for templates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Pod,
    Template,
}

/// What containers are judged against.
struct Context<'v> {
    of: Of,
    volumes: Vec<(&'v str, &'v Value)>,
    /// Claim templates of a StatefulSet, which count as volumes.
    claims: &'v [&'v str],
    resource_claims: Vec<&'v str>,
    grace_seconds: Option<i64>,
    restart_policy: &'v str,
    host_users: bool,
}

/// A whole pod but for its metadata.
pub fn validate_pod(root: &Cursor, problems: &mut Problems) {
    let spec = root.at("spec");
    annotations::validate(&root.at("metadata.annotations"), &spec, problems);
    validate_spec(&spec, Of::Pod, root.at("metadata.name").str(), &[], problems);
    validate_pod_only(&spec, problems);
}

fn validate_spec(spec: &Cursor, of: Of, pod: &str, claims: &[&str], problems: &mut Problems) {
    let grace = spec.at("terminationGracePeriodSeconds");
    if !grace.exists() {
        problems.required(&grace, "");
    }
    let volume_list = spec.at("volumes");
    let context = Context {
        of,
        volumes: volumes::validate(&volume_list, of, pod, problems),
        claims,
        resource_claims: names_of(spec.at("resourceClaims").array()),
        grace_seconds: grace.opt_int(),
        restart_policy: spec.at("restartPolicy").str(),
        host_users: spec.at("hostUsers").value.as_bool() != Some(false),
    };
    validate_resource_claims(&spec.at("resourceClaims"), problems);
    containers::validate(spec, &context, problems);
    validate_host_network(spec, of, problems);
    validate_policies(spec, problems);
    super::metadata::validate_labels(&spec.at("nodeSelector"), problems);
    security::validate_pod(spec, problems);
    affinity::validate(&spec.at("affinity"), problems);
    validate_dns(spec, problems);
    for gate in spec.at("readinessGates").items() {
        let kind = gate.at("conditionType");
        problems.invalid_each(&kind, api::names::qualified_name(kind.str()));
    }
    validate_scheduling_gates(&spec.at("schedulingGates"), problems);
    spread::validate(&spec.at("topologySpreadConstraints"), problems);
    windows::validate_host_process(spec, problems);
    security::validate_host_users(spec, problems);
    validate_names(spec, problems);
    tolerations::validate_tolerations(&spec.at("tolerations"), problems);
    validate_host_aliases(&spec.at("hostAliases"), problems);
    validate_classes(spec, problems);
    windows::validate_os(spec, problems);
}

fn names_of(list: &[Value]) -> Vec<&str> {
    list.iter().filter_map(|item| walk(item, "name").as_str()).filter(|name| !name.is_empty()).collect()
}

fn validate_resource_claims(claims: &Cursor, problems: &mut Problems) {
    let mut seen: Vec<&str> = Vec::new();
    for claim in claims.items() {
        let name = claim.at("name");
        if name.is_empty() {
            problems.required(&name, "");
        } else if seen.contains(&name.str()) {
            problems.duplicate(&name);
        } else {
            checks::label(&name, problems);
            seen.push(name.str());
        }
        let (own, template) = (claim.at("resourceClaimName"), claim.at("resourceClaimTemplateName"));
        match (own.exists(), template.exists()) {
            (true, true) => problems
                .invalid(&claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => {
                problems.invalid(&claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
            }
            _ => {}
        }
        for at in [own, template] {
            if at.exists() {
                checks::subdomain(&at, problems);
            }
        }
    }
}

/// With the host's network, a port of the container is a port of the host.
fn validate_host_network(spec: &Cursor, of: Of, problems: &mut Problems) {
    if !spec.at("hostNetwork").bool() {
        return;
    }
    for container in spec.at("containers").items() {
        for port in container.at("ports").items() {
            let (host, own) = (port.at("hostPort"), port.at("containerPort"));
            if (of == Of::Pod || host.int() != 0) && host.int() != own.int() {
                problems.invalid_plain(&host, host.int(), "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn validate_policies(spec: &Cursor, problems: &mut Problems) {
    for (field, supported) in [
        ("restartPolicy", &["Always", "OnFailure", "Never"][..]),
        ("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]),
    ] {
        let at = spec.at(field);
        if checks::required(&at, problems) {
            checks::one_of(&at, supported, problems);
        }
    }
}

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;
const SUBDOMAIN_MAX: usize = 253;
/// What a kernel takes.
const HOSTNAME_MAX: usize = 64;

fn validate_dns(spec: &Cursor, problems: &mut Problems) {
    let config = spec.at("dnsConfig");
    let servers = config.at("nameservers");
    if spec.at("dnsPolicy").str() == "None" {
        if !config.exists() {
            return problems.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return problems.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        problems.invalid(&servers, &format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    for server in servers.items() {
        checks::ip(&server, problems);
    }
    let searches = config.at("searches");
    if searches.len() > SEARCHES_MAX {
        problems.invalid(&searches, &format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    let bytes: usize = searches.array().iter().map(|search| search.as_str().map_or(0, str::len) + 1).sum();
    if bytes > SEARCH_BYTES_MAX + 1 {
        problems.invalid(
            &searches,
            &format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list"),
        );
    }
    for search in searches.items() {
        // A lone dot searches the root; underscores are allowed, and so is a trailing dot.
        if search.str() != "." {
            let text = search.str().strip_suffix('.').unwrap_or(search.str());
            problems.invalid_each_str(&search, text, search_problems(text));
        }
    }
    for option in config.at("options").items() {
        if option.at("name").is_empty() {
            problems.required(&option, "must not be empty");
        }
    }
}

/// A subdomain whose labels may hold underscores, at their beginning too.
fn search_problems(text: &str) -> Vec<String> {
    const RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const LABEL: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let plain = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        api::names::dns1123_label(&label.chars().map(|c| if c == '_' { '-' } else { c }).take(63).collect::<String>())
            .is_empty()
            && !label.ends_with('_')
            && !label.starts_with('_')
    };
    if text.len() > SUBDOMAIN_MAX {
        return vec![format!("must be no more than {SUBDOMAIN_MAX} bytes")];
    }
    if text.split('.').all(plain) {
        return Vec::new();
    }
    vec![api::names::regex_problem(RULE, &format!("{LABEL}(\\.{LABEL})*"), &["example.com"])]
}

fn validate_scheduling_gates(gates: &Cursor, problems: &mut Problems) {
    let mut seen: Vec<&str> = Vec::new();
    for gate in gates.items() {
        let name = walk(gate.value, "name").as_str().unwrap_or("");
        problems.invalid_each_str(&gate, name, api::names::qualified_name(name));
        if seen.contains(&name) {
            problems.duplicate_str(&gate, name);
        }
        seen.push(name);
    }
}

fn validate_names(spec: &Cursor, problems: &mut Problems) {
    for field in ["serviceAccountName", "nodeName"] {
        let at = spec.at(field);
        if !at.is_empty() {
            checks::subdomain(&at, problems);
        }
    }
    let deadline = spec.at("activeDeadlineSeconds");
    if deadline.exists() && !(1..=i64::from(i32::MAX)).contains(&deadline.int()) {
        problems.invalid(&deadline, "must be between 1 and 2147483647, inclusive");
    }
    for field in ["hostname", "subdomain"] {
        let at = spec.at(field);
        if !at.is_empty() {
            checks::label(&at, problems);
        }
    }
    let hostname = spec.at("hostnameOverride");
    if hostname.is_empty() {
        return;
    }
    checks::subdomain(&hostname, problems);
    if hostname.len() > HOSTNAME_MAX {
        problems.too_long(&hostname, HOSTNAME_MAX);
    }
    if spec.at("setHostnameAsFQDN").bool() {
        problems.forbidden(&hostname, "may not be specified when `setHostnameAsFQDN` is true");
    }
    if spec.at("hostNetwork").bool() {
        problems.forbidden(&hostname, "may not be specified when `hostNetwork` is true");
    }
}

fn validate_host_aliases(aliases: &Cursor, problems: &mut Problems) {
    for alias in aliases.items() {
        checks::ip(&alias.at("ip"), problems);
        for hostname in alias.at("hostnames").items() {
            checks::subdomain(&hostname, problems);
        }
    }
}

fn validate_classes(spec: &Cursor, problems: &mut Problems) {
    let priority = spec.at("priorityClassName");
    if !priority.is_empty() {
        checks::subdomain(&priority, problems);
    }
    let runtime = spec.at("runtimeClassName");
    if runtime.exists() {
        checks::subdomain(&runtime, problems);
    }
    preemption_policy(&spec.at("preemptionPolicy"), problems);
    validate_overhead(&spec.at("overhead"), problems);
}

pub fn preemption_policy(policy: &Cursor, problems: &mut Problems) {
    if policy.exists() && checks::required(policy, problems) {
        checks::one_of(policy, &["PreemptLowerPriority", "Never"], problems);
    }
}

/// Judged like the limits of a container, by their name too.
pub fn validate_overhead(overhead: &Cursor, problems: &mut Problems) {
    if overhead.exists() {
        let limits = serde_json::json!({ "limits": overhead.value });
        containers::validate_resources(&overhead.with(&limits), &[], problems);
    }
}

fn validate_pod_only(spec: &Cursor, problems: &mut Problems) {
    if spec.at("serviceAccountName").is_empty() {
        for volume in spec.at("volumes").items() {
            for source in volume.at("projected.sources").items() {
                let token = source.at("serviceAccountToken");
                if token.exists() {
                    problems.forbidden(&token, "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.at(list).items() {
            containers::no_whitespace(&container.at("image"), problems);
        }
    }
}

/// What holds for new pods only.
pub fn validate_new_pod(root: &Cursor, problems: &mut Problems) {
    let spec = root.at("spec");
    let ephemeral = spec.at("ephemeralContainers");
    if !ephemeral.is_empty() {
        problems.forbidden(&ephemeral, "cannot be set on create");
    }
    if !spec.at("nodeName").is_empty() && !spec.at("schedulingGates").is_empty() {
        problems.forbidden(&spec.at("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    annotations::validate_match(&root.at("metadata.annotations"), &spec, problems);
}

/// Whether a `metav1.LabelSelector` selects the template's labels. One that cannot be parsed has been reported already.
/// One that is missing selects nothing.
pub fn selector_matches(selector: &Cursor, template: &Cursor) -> bool {
    if !selector.exists() {
        return false;
    }
    if checks::selects_everything(selector) {
        return true;
    }
    let labels = template.at("metadata.labels");
    match api::selector::LabelSelector::from_json(selector.value) {
        Ok(selector) => selector.matches_with(|key| labels.value.get(key).and_then(Value::as_str)),
        Err(_) => true,
    }
}

/// Metadata and spec of a template.
pub fn validate_template(template: &Cursor, problems: &mut Problems) {
    validate_template_with_claims(template, &[], problems);
}

/// The same where claims of these names count as volumes.
pub fn validate_template_with_claims(template: &Cursor, claims: &[&str], problems: &mut Problems) {
    // The original leaves out `metadata` where it names these two.
    let (labels, annotations, spec) = (template.at("labels"), template.at("annotations"), template.at("spec"));
    super::metadata::validate_labels(&labels.with(walk(template.value, "metadata.labels")), problems);
    let annotations = annotations.with(walk(template.value, "metadata.annotations"));
    super::metadata::validate_annotations(&annotations, problems);
    annotations::validate(&annotations, &spec, problems);
    validate_spec(&spec, Of::Template, "", claims, problems);
    annotations::validate_match(&annotations, &spec, problems);
    let ephemeral = template.at("spec.ephemeralContainers");
    if !ephemeral.is_empty() {
        problems.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}

/// What controllers keep alive must restart.
pub fn only_restart_always(template: &Cursor, problems: &mut Problems) {
    let policy = template.at("spec.restartPolicy");
    if policy.str() != "Always" {
        problems.not_supported(&policy, &["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.exists() {
        problems.forbidden(&deadline, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::registry;
    use crate::kinds::testing::check_defaulted;
    use serde_json::{Value, json};

    #[track_caller]
    pub fn check(spec: Value, expected: &str) {
        let kind = registry::by_plural("", "v1", "pods").expect("pods");
        check_defaulted(kind, json!({"metadata": {"name": "p"}, "spec": spec}), expected);
    }

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "nginx"}]});
        spec[field] = value;
        spec
    }

    #[test]
    fn fields_of_the_spec() {
        check(with("nodeName", json!("")), "");
        check(json!({}), "spec.containers: Required value");
        check(
            with("restartPolicy", json!("Sometimes")),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        );
        check(
            with("dnsPolicy", json!("None")),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        );
        check(
            with("activeDeadlineSeconds", json!(0)),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        );
        check(
            with("hostAliases", json!([{"ip": "x"}])),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
        check(
            with("schedulingGates", json!([{"name": "a/b"}, {"name": "a/b"}])),
            "spec.schedulingGates[1]: Duplicate value: \"a/b\"",
        );
        check(
            with("tolerations", json!([{"key": "a", "operator": "Exists", "value": "x"}])),
            "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
        );
        check(
            with(
                "ephemeralContainers",
                json!([{"name": "e", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]),
            ),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        );
    }
    #[test]
    fn names_of_hosts() {
        check(with("hostnameOverride", json!("my.host.example")), "");
        check(
            json!({"containers": [{"name": "c", "image": "nginx"}], "hostnameOverride": "h", "setHostnameAsFQDN": true, "hostNetwork": true}),
            "spec.hostnameOverride: Forbidden: may not be specified when `setHostnameAsFQDN` is true\n\
             spec.hostnameOverride: Forbidden: may not be specified when `hostNetwork` is true",
        );
        check(with("dnsConfig", json!({"searches": [".", "_sip.a_b.example.org.", "svc"]})), "");
        check(
            with("dnsConfig", json!({"searches": ["a_.b"], "options": [{"value": "1"}]})),
            "spec.dnsConfig.searches[0]: Invalid value: \"a_.b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')\n\
             spec.dnsConfig.options[0]: Required value: must not be empty",
        );
    }

    #[test]
    fn overhead_and_policies() {
        check(
            with("overhead", json!({"cpus": "1"})),
            "spec.overhead.limits[cpus]: Invalid value: \"cpus\": must be a standard resource type or fully qualified\n\
             spec.overhead.limits[cpus]: Invalid value: \"cpus\": must be a standard resource for containers",
        );
        check(with("preemptionPolicy", json!("")), "spec.preemptionPolicy: Required value");
        check(
            with("preemptionPolicy", json!("x")),
            "spec.preemptionPolicy: Unsupported value: \"x\": supported values: \"PreemptLowerPriority\", \"Never\"",
        );
    }
}
