//! What a job's spec may say, and what may change.

use serde_json::Value;

use super::job_indexes;
use crate::kinds::cursor::walk;
use crate::kinds::edit::object as object_at;
use crate::kinds::pod_spec;
use crate::kinds::{Cursor, Problems, checks};

const INDEXED_PARALLELISM_MAX: i64 = 100_000;
const MANAGED_BY_MAX: usize = 63;
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const INDEXES_BYTES_MAX: usize = 64 * 1024;

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
    let max_failed = spec.at("maxFailedIndexes");
    if max_failed.exists() {
        checks::non_negative(&max_failed, problems);
        if !spec.at("backoffLimitPerIndex").exists() {
            problems.required(&spec.at("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
        }
    }
    let managed_by = spec.at("managedBy");
    if managed_by.exists() {
        checks::domain_prefixed_path(&managed_by, problems);
        if managed_by.len() > MANAGED_BY_MAX {
            problems.too_long(&managed_by, MANAGED_BY_MAX);
        }
    }
    validate_indexed(spec, problems);
    let template = spec.at("template");
    let policy = spec.at("podFailurePolicy");
    if policy.exists() {
        validate_failure_policy(&policy, spec, problems);
    }
    let success = spec.at("successPolicy");
    if success.exists() {
        if spec.at("completionMode").str() == "Indexed" {
            validate_success_policy(&success, spec, problems);
        } else {
            problems.invalid(&success, "requires indexed completion mode");
        }
    }
    let replacement = spec.at("podReplacementPolicy");
    if replacement.exists() {
        if policy.exists() {
            checks::one_of(&replacement, &["Failed"], problems);
        } else {
            checks::one_of(&replacement, &["Failed", "TerminatingOrFailed"], problems);
        }
    }
    pod_spec::validate_template(&template, problems);
    let restart = template.at("spec.restartPolicy");
    match restart.str() {
        "" | "Always" => problems.required(&restart, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if policy.exists() => {
            problems.invalid(&restart, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => checks::one_of(&restart, &["OnFailure", "Never"], problems),
    }
}

fn validate_indexed(spec: &Cursor, problems: &mut Problems) {
    let mode = spec.at("completionMode");
    checks::optional_one_of(&mode, &["NonIndexed", "Indexed"], problems);
    match mode.str() {
        "Indexed" => {
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
        }
        "" | "NonIndexed" => {
            for at in [spec.at("backoffLimitPerIndex"), spec.at("maxFailedIndexes")] {
                if at.exists() {
                    problems.invalid(&at, "requires indexed completion mode");
                }
            }
        }
        _ => {}
    }
}

fn validate_success_policy(policy: &Cursor, spec: &Cursor, problems: &mut Problems) {
    let rules = policy.at("rules");
    if rules.is_empty() {
        problems.required(&rules, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        problems.too_many(&rules, rules.len(), RULES_MAX);
    }
    let completions = spec.at("completions").int();
    for rule in rules.items() {
        let (count, indexes) = (rule.at("succeededCount"), rule.at("succeededIndexes"));
        if !count.exists() && !indexes.exists() {
            problems.required(&rule, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = None;
        if indexes.exists() {
            if indexes.len() > INDEXES_BYTES_MAX {
                problems.too_long(&indexes, INDEXES_BYTES_MAX);
            }
            match job_indexes::count(indexes.str(), completions) {
                Ok(number) => total = Some(number),
                Err(why) => {
                    problems.invalid(&indexes, &format!("error parsing succeededIndexes: {why}"));
                    total = Some(0);
                }
            }
        }
        if !count.exists() {
            continue;
        }
        checks::non_negative(&count, problems);
        if count.int() > completions {
            let sentence =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            problems.invalid(&count, &sentence);
        }
        if let Some(total) = total.filter(|total| count.int() > *total) {
            problems.invalid(
                &count,
                &format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"),
            );
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
    if rules.len() > RULES_MAX {
        problems.too_many(&rules, rules.len(), RULES_MAX);
    }
    let names: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| walk(spec.value, "template.spec").get(list).and_then(Value::as_array).into_iter().flatten())
        .filter_map(|container| walk(container, "name").as_str())
        .collect();
    for rule in rules.items() {
        let action = rule.at("action");
        match action.str() {
            "FailIndex" => {
                if !spec.at("backoffLimitPerIndex").exists() {
                    problems.invalid(&action, "requires the backoffLimitPerIndex to be set");
                }
            }
            _ => one_of_listed(&action, &["Count", "FailIndex", "FailJob", "Ignore"], problems),
        }
        let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
        if codes.exists() {
            validate_exit_codes(&codes, &names, problems);
        }
        validate_conditions(&conditions, problems);
        match (codes.exists(), !conditions.is_empty()) {
            (true, true) => {
                problems.invalid_omitted(&rule, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, false) => {
                problems.invalid_omitted(&rule, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

/// One of a few words, which the original lists where none is said, too.
fn one_of_listed(at: &Cursor, supported: &[&str], problems: &mut Problems) {
    if at.is_empty() {
        let quoted: Vec<String> = supported.iter().map(|word| format!("\"{word}\"")).collect();
        problems.required(at, &format!("valid values: [{}]", quoted.join(" ")));
    } else {
        checks::one_of(at, supported, problems);
    }
}

fn validate_exit_codes(codes: &Cursor, names: &[&str], problems: &mut Problems) {
    one_of_listed(&codes.at("operator"), &["In", "NotIn"], problems);
    let container = codes.at("containerName");
    if container.exists() && !names.contains(&container.str()) {
        problems.invalid(&container, "must be one of the container or initContainer names in the pod template");
    }
    let values = codes.at("values");
    if values.is_empty() {
        problems.invalid_object(&values, "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        problems.too_many(&values, values.len(), EXIT_CODES_MAX);
    }
    let mut seen: Vec<i64> = Vec::new();
    for value in values.items() {
        if value.int() == 0 && codes.at("operator").str() == "In" {
            problems.invalid(&value, "must not be 0 for the In operator");
        }
        if seen.contains(&value.int()) {
            problems.duplicate(&value);
        }
        seen.push(value.int());
    }
    if !seen.is_sorted() {
        problems.invalid(&values, "must be ordered");
    }
}

fn validate_conditions(conditions: &Cursor, problems: &mut Problems) {
    if conditions.len() > RULES_MAX {
        problems.too_many(conditions, conditions.len(), RULES_MAX);
    }
    for condition in conditions.items() {
        let kind = condition.at("type");
        problems.invalid_each(&kind, api::names::qualified_name(kind.str()));
        one_of_listed(&condition.at("status"), &["False", "True", "Unknown"], problems);
    }
}

/// The whole of a job but for its spec: its selector and the labels of its pods are the generated ones unless they are
/// manual, and every index can have its host name.
pub fn validate_job(root: &Cursor, problems: &mut Problems) {
    let spec = root.at("spec");
    validate_generated(root, problems);
    validate_spec(&spec, problems);
    let (selector, template) = (spec.at("selector"), spec.at("template"));
    if selector.exists() {
        checks::label_selector(&selector, problems);
    } else {
        problems.required(&selector, "");
    }
    if !pod_spec::selector_matches(&selector, &template) {
        problems.invalid_object(&template.at("metadata.labels"), pod_spec::SELECTOR_MISMATCH);
    }
    let completions = spec.at("completions").int();
    if spec.at("completionMode").str() == "Indexed" && completions > 0 {
        let name = root.at("metadata.name");
        let longest = format!("{}-{}", name.str(), completions - 1);
        if !api::names::dns1123_label(&longest).is_empty() {
            let sentence = format!("will not able to create pod with invalid DNS label: {longest}");
            problems.invalid_str(&name, name.str(), &sentence);
        }
    }
}

fn validate_generated(root: &Cursor, problems: &mut Problems) {
    let (spec, uid, name) = (root.at("spec"), root.at("metadata.uid"), root.at("metadata.name"));
    let selector = spec.at("selector");
    if spec.at("manualSelector").bool() || !selector.exists() {
        return;
    }
    if uid.is_empty() {
        problems.required(&uid, "");
    }
    let expected = [
        ("controller-uid", uid.str()),
        ("job-name", name.str()),
        ("batch.kubernetes.io/controller-uid", uid.str()),
        ("batch.kubernetes.io/job-name", name.str()),
    ];
    let labels = spec.at("template.metadata.labels");
    for (key, value) in expected {
        let label = labels.key(key);
        let sentence = format!("must be '{value}'");
        match label.value.as_str() {
            None => problems.required(&label, &sentence),
            Some(own) if own != value => problems.invalid(&label.with(labels.value), &sentence),
            Some(_) => {}
        }
    }
    if let Ok(parsed) = api::selector::LabelSelector::from_json(selector.value)
        && !parsed.matches_with(|key| expected.iter().find(|(own, _)| *own == key).map(|(_, value)| *value))
    {
        problems.invalid(&selector, "`selector` not auto-generated");
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
        } else if completions.exists() && completions.value != spec.at("parallelism").value {
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
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified\n\
             spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
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
    #[test]
    fn rules_of_policies() {
        let rule = |rule: Value| {
            let mut job = job();
            job["spec"]["podFailurePolicy"] = json!({"rules": [rule]});
            job
        };
        const AT: &str = "spec.podFailurePolicy.rules[0]";
        check_defaulted(
            &KIND,
            rule(json!({"action": ""})),
            &format!(
                "{AT}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]\n\
                 {AT}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
            ),
        );
        check_defaulted(
            &KIND,
            rule(json!({"action": "Stop", "onExitCodes": {"operator": "", "containerName": "x", "values": [1]},
                "onPodConditions": [{"type": "a b", "status": "No"}]})),
            &format!(
                "{AT}.action: Unsupported value: \"Stop\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"\n\
                 {AT}.onExitCodes.operator: Required value: valid values: [\"In\" \"NotIn\"]\n\
                 {AT}.onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template\n\
                 {AT}.onPodConditions[0].type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')\n\
                 {AT}.onPodConditions[0].status: Unsupported value: \"No\": supported values: \"False\", \"True\", \"Unknown\"\n\
                 {AT}: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported"
            ),
        );
    }

    #[test]
    fn success_policies() {
        let with = |mode: &str, rule: Value| {
            let mut job = job();
            job["spec"]["completionMode"] = mode.into();
            job["spec"]["completions"] = json!(5);
            job["spec"]["successPolicy"] = json!({"rules": [rule]});
            job
        };
        const AT: &str = "spec.successPolicy.rules[0]";
        check_defaulted(&KIND, with("Indexed", json!({"succeededIndexes": "0,2-4", "succeededCount": 2})), "");
        check_defaulted(
            &KIND,
            with("NonIndexed", json!({})),
            "spec.successPolicy: Invalid value: {\"rules\":[{}]}: requires indexed completion mode",
        );
        check_defaulted(
            &KIND,
            with("Indexed", json!({})),
            &format!("{AT}: Required value: at least one of succeededCount or succeededIndexes must be specified"),
        );
        check_defaulted(
            &KIND,
            with("Indexed", json!({"succeededIndexes": "0,7", "succeededCount": 6})),
            &format!(
                "{AT}.succeededIndexes: Invalid value: \"0,7\": error parsing succeededIndexes: too large index: \"7\"\n\
                 {AT}.succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)\n\
                 {AT}.succeededCount: Invalid value: 6: must be less than or equal to 0 (the number of indexes in the specified succeededIndexes field)"
            ),
        );
    }

    #[test]
    fn pods_are_the_jobs_own() {
        let mut labelled = job();
        labelled["spec"]["template"]["metadata"]["labels"]["job-name"] = "x".into();
        labelled["spec"]["managedBy"] = "me".into();
        check_defaulted(
            &KIND,
            labelled,
            "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"u\",\"job-name\":\"x\"}: must be 'j'\n\
             spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
        let mut long = job();
        long["metadata"]["name"] = "n".repeat(62).into();
        for key in ["job-name", "batch.kubernetes.io/job-name"] {
            long["spec"]["template"]["metadata"]["labels"][key] = "n".repeat(62).into();
        }
        long["spec"]["completionMode"] = "Indexed".into();
        long["spec"]["completions"] = json!(1);
        let name = "n".repeat(62);
        check_defaulted(
            &KIND,
            long,
            &format!("metadata.name: Invalid value: \"{name}\": will not able to create pod with invalid DNS label: {name}-0"),
        );
    }
}
