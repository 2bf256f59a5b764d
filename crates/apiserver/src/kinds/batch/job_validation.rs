//! What a job's spec may say, and what may change.

use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::object as object_at;
use crate::kinds::pod_spec;
use crate::kinds::{Cursor, Problems, checks};

const INDEXED_PARALLELISM_MAX: i64 = 100_000;

/// Also for the template of a cron job.
pub fn validate_spec(spec: &Cursor, problems: &mut Problems) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ] {
        checks::non_negative(&spec.at(field), problems);
    }
    validate_indexed(spec, problems);
    let managed_by = spec.at("managedBy");
    if managed_by.exists() {
        problems.invalid_each(&managed_by, api::names::qualified_name(managed_by.str()));
        if !managed_by.str().contains('/') {
            problems.invalid(&managed_by, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        if managed_by.len() > 63 {
            problems.too_long(&managed_by, 63);
        }
    }
    let template = spec.at("template");
    let policy = spec.at("podFailurePolicy");
    if policy.exists() {
        validate_failure_policy(&policy, spec, problems);
    }
    let replacement = spec.at("podReplacementPolicy");
    if replacement.exists() {
        if policy.exists() && replacement.str() != "Failed" {
            problems.not_supported(&replacement, &["Failed"]);
        } else {
            checks::one_of(&replacement, &["Failed", "TerminatingOrFailed"], problems);
        }
    }
    pod_spec::validate_template(&template, problems);
    let restart = template.at("spec.restartPolicy");
    if !matches!(restart.str(), "OnFailure" | "Never") {
        problems.required(&restart, "valid values: \"OnFailure\", \"Never\"");
    } else if policy.exists() && restart.str() != "Never" {
        problems.invalid(&restart, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn validate_indexed(spec: &Cursor, problems: &mut Problems) {
    let mode = spec.at("completionMode");
    let indexed = mode.str() == "Indexed";
    checks::optional_one_of(&mode, &["NonIndexed", "Indexed"], problems);
    if indexed {
        let (completions, parallelism) = (spec.at("completions"), spec.at("parallelism"));
        if !completions.exists() {
            problems.required(&completions, "when completion mode is Indexed");
        }
        if parallelism.int() > INDEXED_PARALLELISM_MAX {
            problems.invalid(
                &parallelism,
                &format!("must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed"),
            );
        }
        validate_many_indexes(spec, problems);
    } else {
        let per_index = spec.at("backoffLimitPerIndex");
        if per_index.exists() {
            problems.invalid(&per_index, "requires indexed completion mode");
        }
        let max_failed = spec.at("maxFailedIndexes");
        if max_failed.exists() {
            problems.invalid(&max_failed, "requires indexed completion mode");
        }
    }
    let max_failed = spec.at("maxFailedIndexes");
    if max_failed.exists() {
        if !spec.at("backoffLimitPerIndex").exists() {
            problems.required(&spec.at("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
        }
        checks::non_negative(&max_failed, problems);
    }
    let success = spec.at("successPolicy");
    if success.exists() {
        if !indexed {
            problems.invalid_object(&success, "requires indexed completion mode");
        }
        let rules = success.at("rules");
        if rules.is_empty() {
            problems.required(&rules, "at least one rules must be specified when the successPolicy is specified");
        }
        if rules.len() > 20 {
            problems.too_many(&rules, rules.len(), 20);
        }
        for rule in rules.items() {
            if !rule.at("succeededCount").exists() && !rule.at("succeededIndexes").exists() {
                problems.required(&rule, "at least one of succeededCount or succeededIndexes must be specified");
            }
        }
    }
}

/// With a limit for each index, many indexes take much room in the status.
fn validate_many_indexes(spec: &Cursor, problems: &mut Problems) {
    const MANY: i64 = 100_000;
    const LIMIT: i64 = 10_000;
    let (completions, max_failed, parallelism) =
        (spec.at("completions"), spec.at("maxFailedIndexes"), spec.at("parallelism"));
    if max_failed.exists() && completions.exists() && max_failed.int() > completions.int() {
        problems.invalid(&max_failed, "must be less than or equal to completions");
    }
    if max_failed.int() > MANY {
        problems.invalid(&max_failed, &format!("must be less than or equal to {MANY}"));
    }
    if completions.int() <= MANY || !spec.at("backoffLimitPerIndex").exists() {
        return;
    }
    if !max_failed.exists() {
        problems.required(&max_failed, &format!("must be specified when completions is above {MANY}"));
    }
    let sentence = format!(
        "must be less than or equal to {LIMIT} when completions are above {MANY} and used with backoff limit per index"
    );
    for at in [parallelism, max_failed] {
        if at.int() > LIMIT {
            problems.invalid(&at, &sentence);
        }
    }
}

fn validate_failure_policy(policy: &Cursor, spec: &Cursor, problems: &mut Problems) {
    let rules = policy.at("rules");
    if rules.len() > 20 {
        problems.too_many(&rules, rules.len(), 20);
    }
    let names: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| walk(spec.value, "template.spec").get(list).and_then(Value::as_array).into_iter().flatten())
        .filter_map(|container| walk(container, "name").as_str())
        .collect();
    for rule in rules.items() {
        let action = rule.at("action");
        if action.is_empty() {
            let words = "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"";
            problems.required(&action, words);
        } else {
            checks::one_of(&action, &["Count", "FailIndex", "FailJob", "Ignore"], problems);
        }
        if action.str() == "FailIndex" && !spec.at("backoffLimitPerIndex").exists() {
            problems.invalid(&action, "requires the backoffLimitPerIndex to be set");
        }
        let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
        match (codes.exists(), !conditions.is_empty()) {
            (true, true) => problems.invalid(&rule, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => problems.invalid(&rule, "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
        if codes.exists() {
            checks::one_of(&codes.at("operator"), &["In", "NotIn"], problems);
            let container = codes.at("containerName");
            if container.exists() && !names.contains(&container.str()) {
                problems.invalid(&container, "must be one of the container or initContainer names in the pod template");
            }
            let values = codes.at("values");
            if values.is_empty() {
                problems.invalid(&values, "at least one value is required");
            } else if values.len() > 255 {
                problems.too_many(&values, values.len(), 255);
            }
            let mut seen: Vec<i64> = Vec::new();
            for value in values.items() {
                if seen.contains(&value.int()) {
                    problems.duplicate(&value);
                }
                seen.push(value.int());
                if value.int() == 0 && codes.at("operator").str() == "In" {
                    problems.invalid(&value, "must not be 0 for the In operator");
                }
            }
        }
        if codes.exists() && !codes.at("values").array().is_sorted_by_key(|value| value.as_i64()) {
            problems.invalid(&codes.at("values"), "must be ordered");
        }
        if conditions.len() > 20 {
            problems.too_many(&conditions, conditions.len(), 20);
        }
        for condition in conditions.items() {
            let kind = condition.at("type");
            problems.invalid_each(&kind, api::names::qualified_name(kind.str()));
            checks::one_of(&condition.at("status"), &["False", "True", "Unknown"], problems);
        }
    }
}

/// The selector must be there, pick the pods, and be the generated one unless it is manual.
pub fn validate_generated_selector(root: &Cursor, problems: &mut Problems) {
    let spec = root.at("spec");
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    let uid = root.at("metadata.uid");
    if !selector.exists() {
        problems.required(&selector, "");
        return;
    }
    checks::label_selector(&selector, problems);
    if spec.at("manualSelector").bool() {
        if !pod_spec::selector_matches(&selector, &template) {
            problems.invalid_object(&template.at("metadata.labels"), pod_spec::SELECTOR_MISMATCH);
        }
        return;
    }
    let expected = selector.at("matchLabels");
    let own = expected.key("batch.kubernetes.io/controller-uid").str() == uid.str()
        || expected.key("controller-uid").str() == uid.str();
    if !own {
        problems.invalid(&selector, "`selector` not auto-generated");
    }
    if !pod_spec::selector_matches(&selector, &template) {
        problems.invalid_object(&template.at("metadata.labels"), pod_spec::SELECTOR_MISMATCH);
    }
}

pub fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let (spec, before) = (root.at("spec"), walk(old, "spec"));
    let was = |field: &str| walk(before, field);
    let (completions, had) = (spec.at("completions"), was("completions"));
    if completions.value != had {
        let indexed = was("completionMode").as_str() == Some("Indexed");
        // Elastic indexed jobs scale both alike.
        if !indexed {
            problems.immutable(&completions, had);
        } else if completions.value != spec.at("parallelism").value {
            problems.invalid(&completions, "can only be modified in tandem with spec.parallelism");
        }
    }
    problems.immutable(&spec.at("selector"), was("selector"));
    if template_for_update(new, old) != *was("template") {
        problems.invalid(&spec.at("template"), crate::kinds::problems::IMMUTABLE);
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        problems.immutable(&spec.at(field), was(field));
    }
}

/// The new template, without what may change while the job is suspended and has not started: scheduling directives.
fn template_for_update(new: &Value, old: &Value) -> Value {
    let mut template = walk(new, "spec.template").clone();
    let suspended = walk(old, "spec.suspend").as_bool() == Some(true);
    let not_started = walk(old, "status.startTime").is_null();
    if suspended && not_started {
        let before = walk(old, "spec.template");
        for (object, fields) in [
            ("spec", &["nodeSelector", "tolerations", "affinity", "schedulingGates"][..]),
            ("metadata", &["labels", "annotations"][..]),
        ] {
            let Some(map) = object_at(&mut template, object) else { continue };
            for field in fields {
                match walk(before, object).get(field) {
                    Some(value) => map.insert((*field).to_owned(), value.clone()),
                    None => map.remove(*field),
                };
            }
        }
    }
    template
}

pub fn validate_status_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let status = root.at("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        checks::non_negative(&status.at(field), problems);
    }
    let finished = |object: &Value, kind: &str| {
        crate::kinds::printing::condition(object, kind)
            .is_some_and(|condition| walk(condition, "status").as_str() == Some("True"))
    };
    let conditions = status.at("conditions");
    if finished(new, "Complete") && finished(new, "Failed") {
        problems.invalid_object(&conditions, "cannot set Complete=True and Failed=true conditions");
    }
    for (kind, sentence) in
        [("Complete", "cannot unset the Complete=True condition"), ("Failed", "cannot unset the Failed=True condition")]
    {
        if finished(old, kind) && !finished(new, kind) {
            problems.invalid_object(&conditions, sentence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::KIND;
    use crate::kinds::testing::{check_defaulted, check_update};
    use serde_json::{Value, json};

    fn job() -> Value {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}}});
        (KIND.prepare_create)(&mut job);
        job
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, job(), "");
        let mut always = job();
        always["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
        check_defaulted(
            &KIND,
            always,
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        );
        let mut indexed = job();
        indexed["spec"]["completionMode"] = "Indexed".into();
        indexed["spec"]["parallelism"] = json!(2);
        check_defaulted(&KIND, indexed, "spec.completions: Required value: when completion mode is Indexed");
    }

    #[test]
    fn failure_policies() {
        let with = |action: &str, operator: &str, values: &[i64]| {
            let mut job = job();
            job["spec"]["podFailurePolicy"] = json!({"rules": [{"action": action, "onExitCodes": {"operator": operator, "values": values}}]});
            job
        };
        check_defaulted(&KIND, with("FailJob", "In", &[1, 42]), "");
        check_defaulted(
            &KIND,
            with("FailIndex", "In", &[42]),
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        );
        check_defaulted(
            &KIND,
            with("Ignore", "In", &[42, 1, 1, 0]),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 1\n\
             spec.podFailurePolicy.rules[0].onExitCodes.values[3]: Invalid value: 0: must not be 0 for the In operator\n\
             spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [42,1,1,0]: must be ordered",
        );
    }

    #[test]
    fn many_indexes() {
        let mut many = job();
        for (field, value) in [("completions", 200_000), ("parallelism", 20_000), ("backoffLimitPerIndex", 1)] {
            many["spec"][field] = json!(value);
        }
        many["spec"]["completionMode"] = "Indexed".into();
        check_defaulted(
            &KIND,
            many,
            "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000\n\
             spec.parallelism: Invalid value: 20000: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
        );
        let mut plain = job();
        plain["spec"]["maxFailedIndexes"] = json!(1);
        check_defaulted(
            &KIND,
            plain,
            "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode\n\
             spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        );
    }

    #[test]
    fn the_template_stays_unless_suspended() {
        let mut new = job();
        new["spec"]["parallelism"] = json!(5);
        check_update(&KIND, new, job(), "");
        let mut old = job();
        old["spec"]["suspend"] = true.into();
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        check_update(&KIND, new, old, "");
    }
}
