//! What the status of a job may say, whoever writes it.
//!
//! Invariant: what an older writer left is not held against a writer who does not touch it.

use serde_json::Value;

use super::job_indexes;
use crate::kinds::cursor::walk;
use crate::kinds::printing::{condition, parse_time};
use crate::kinds::{Cursor, Problems, checks};

fn is(job: &Value, kind: &str) -> bool {
    condition(job, kind).is_some_and(|condition| walk(condition, "status").as_str() == Some("True"))
}

fn finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

pub fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let root = Cursor::root(new);
    let status = root.at("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        checks::non_negative(&status.at(field), problems);
    }
    validate_uncounted(&status.at("uncountedTerminatedPods"), problems);
    validate_end(new, old, &status, problems);
    validate_indexes(new, old, &status, problems);
    validate_success(new, &status, problems);
    validate_steps(new, old, &status, problems);
}

fn validate_uncounted(uncounted: &Cursor, problems: &mut Problems) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in uncounted.at(list).items() {
            if uid.is_empty() {
                problems.invalid_str(&uid, "", "must not be empty");
            } else if seen.contains(&uid.str()) {
                problems.duplicate(&uid);
            } else {
                seen.push(uid.str());
            }
        }
    }
}

/// How a job ends, once and for all.
fn validate_end(new: &Value, old: &Value, status: &Cursor, problems: &mut Problems) {
    let turned = |kind: &str| is(new, kind) != is(old, kind);
    let changed = |field: &str| walk(new, "status").get(field) != walk(old, "status").get(field);
    let conditions = status.at("conditions");
    let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
    let (turned_complete, turned_failed) = (turned("Complete"), turned("Failed"));
    if (turned_complete || turned_failed) && complete && failed {
        problems.invalid_omitted(&conditions, "cannot set Complete=True and Failed=true conditions");
    }
    if (turned_complete || turned("FailureTarget")) && complete && is(new, "FailureTarget") {
        problems.invalid_omitted(&conditions, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let (start, completion) = (status.at("startTime"), status.at("completionTime"));
    let completion_changed = changed("completionTime");
    if turned_complete || completion_changed {
        if completion.exists() && !complete {
            problems.invalid(&completion, "cannot set completionTime when there is no Complete=True condition");
        }
        if !completion.exists() && complete {
            problems.required(&completion, "completionTime is required for Complete jobs");
        }
    }
    if completion_changed || changed("startTime") {
        let (start, completion_time) = (parse_time(start.value), parse_time(completion.value));
        if start.is_some() && completion_time.is_some() && completion_time < start {
            problems.invalid(&completion, "completionTime cannot be set before startTime");
        }
    }
    if turned_failed && failed && !is(new, "FailureTarget") {
        problems
            .invalid_omitted(&conditions, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if turned_complete && complete && !is(new, "SuccessCriteriaMet") {
        problems.invalid_omitted(
            &conditions,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        );
    }
    if !finished(new) {
        return;
    }
    let ended = !finished(old);
    let (active, terminating) = (status.at("active"), status.at("terminating"));
    if (ended || changed("active")) && active.int() > 0 {
        problems.invalid(&active, "active>0 is invalid for finished job");
    }
    if (ended || changed("startTime")) && !start.exists() {
        problems.required(&start, "startTime is required for finished job");
    }
    let uncounted = status.at("uncountedTerminatedPods");
    if (ended || changed("uncountedTerminatedPods"))
        && !(uncounted.at("failed").is_empty() && uncounted.at("succeeded").is_empty())
    {
        problems.invalid(&uncounted, "uncountedTerminatedPods needs to be empty for finished job");
    }
    if (ended || changed("terminating")) && terminating.int() > 0 {
        problems.invalid(&terminating, "terminating>0 is invalid for finished job");
    }
}

fn validate_indexes(new: &Value, old: &Value, status: &Cursor, problems: &mut Problems) {
    let changed = |field: &str| walk(new, "status").get(field) != walk(old, "status").get(field);
    let (completed, failed) = (status.at("completedIndexes"), status.at("failedIndexes"));
    let (completed_changed, failed_changed) = (changed("completedIndexes"), changed("failedIndexes"));
    let spec = walk(new, "spec");
    let completions = walk(spec, "completions").as_i64();
    let per_index = !walk(spec, "backoffLimitPerIndex").is_null();
    if let Some(completions) = completions {
        if completed_changed && let Err(why) = job_indexes::count(completed.str(), completions) {
            problems.invalid(&completed, &format!("error parsing completedIndexes: {why}"));
        }
        if failed_changed && per_index && let Err(why) = job_indexes::count(failed.str(), completions) {
            problems.invalid(&failed, &format!("error parsing failedIndexes: {why}"));
        }
    }
    let indexed = walk(spec, "completionMode").as_str() == Some("Indexed");
    if completed_changed && !completed.is_empty() && !indexed {
        problems.invalid(&completed, "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if failed_changed && !per_index && failed.exists() {
        problems.invalid(&failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    if (completed_changed || failed_changed)
        && let Some(index) = completions.and_then(|all| job_indexes::overlap(completed.str(), failed.str(), all))
    {
        problems.invalid(&failed, &format!("failedIndexes and completedIndexes overlap at index: {index}"));
    }
    let (active, ready) = (status.at("active"), status.at("ready"));
    if (changed("ready") || changed("active")) && ready.int() > active.int() {
        problems.invalid(&ready, "cannot set more ready pods than active");
    }
}

fn validate_success(new: &Value, status: &Cursor, problems: &mut Problems) {
    let conditions = status.at("conditions");
    let met = is(new, "SuccessCriteriaMet");
    if met && is(new, "Failed") {
        problems.invalid_omitted(&conditions, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && is(new, "FailureTarget") {
        problems.invalid_omitted(&conditions, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if !walk(new, "spec.successPolicy").is_null() && !met && is(new, "Complete") {
        problems.invalid_omitted(
            &conditions,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        );
    }
}

/// What may not go backwards.
fn validate_steps(new: &Value, old: &Value, status: &Cursor, problems: &mut Problems) {
    let conditions = status.at("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            problems.invalid_omitted(&conditions, &format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    let before = |field: &str| walk(old, "status").get(field).unwrap_or(&Value::Null);
    let spec = walk(new, "spec");
    let indexed = walk(spec, "completionMode").as_str() == Some("Indexed");
    // Elastic indexed jobs lose with an index what it has done.
    let elastic = indexed && walk(spec, "completions") == walk(spec, "parallelism");
    for (field, free) in [("failed", false), ("succeeded", elastic)] {
        let count = status.at(field);
        if !free && count.int() < before(field).as_i64().unwrap_or(0) {
            problems.invalid_plain(&count, count.int(), &format!("cannot decrease the {field} counter"));
        }
    }
    let (start, completion) = (status.at("startTime"), status.at("completionTime"));
    if completion.exists() && !before("completionTime").is_null() && completion.value != before("completionTime") {
        problems.invalid(&completion, "completionTime cannot be mutated");
    }
    let suspended = walk(spec, "suspend").as_bool() == Some(true);
    // It starts anew when it is resumed.
    let resumed = is(old, "Suspended") && !is(new, "Suspended");
    if !before("startTime").is_null() && start.value != before("startTime") && !suspended && !resumed {
        problems.required(&start, "startTime cannot be removed for unsuspended job");
    }
    let (met, was_met) = (is(new, "SuccessCriteriaMet"), is(old, "SuccessCriteriaMet"));
    if was_met && !met {
        problems.invalid_omitted(&conditions, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is(old, "Complete") && !was_met && met {
        problems.invalid_omitted(
            &conditions,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(new: Value, old: Value, expected: &str) {
        let job = |status: Value| json!({"spec": {"completions": 3, "parallelism": 3, "completionMode": "NonIndexed"}, "status": status});
        let mut problems = Problems::default();
        validate_update(&job(new), &job(old), &mut problems);
        let lines: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
        assert_eq!(lines.join("\n"), expected);
    }

    fn conditions(kinds: &[&str]) -> Value {
        kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    }

    const START: &str = "2026-01-01T00:00:00Z";
    const END: &str = "2026-01-01T00:01:00Z";

    #[test]
    fn a_job_ends_once() {
        let done = json!({"startTime": START, "completionTime": END, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
        check(done.clone(), json!({"startTime": START}), "");
        check(done.clone(), done.clone(), "");
        check(
            json!({"conditions": conditions(&["Complete"])}),
            json!({}),
            "status.completionTime: Required value: completionTime is required for Complete jobs\n\
             status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition\n\
             status.startTime: Required value: startTime is required for finished job",
        );
        check(
            json!({"startTime": START, "active": 1, "conditions": conditions(&["Failed"])}),
            json!({"startTime": START}),
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition\n\
             status.active: Invalid value: 1: active>0 is invalid for finished job",
        );
        check(
            json!({"startTime": START}),
            done,
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition\n\
             status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        );
        check(
            json!({"startTime": END, "completionTime": START}),
            json!({}),
            "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": cannot set completionTime when there is no Complete=True condition\n\
             status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": completionTime cannot be set before startTime",
        );
    }

    #[test]
    fn counts_go_up() {
        check(
            json!({"failed": 1, "succeeded": 1}),
            json!({"failed": 2, "succeeded": 2, "startTime": START}),
            "status.failed: Invalid value: 1: cannot decrease the failed counter\n\
             status.succeeded: Invalid value: 1: cannot decrease the succeeded counter\n\
             status.startTime: Required value: startTime cannot be removed for unsuspended job",
        );
        let suspended = json!({"startTime": START, "conditions": conditions(&["Suspended"])});
        check(json!({"startTime": END}), suspended, "");
        check(
            json!({"active": 1, "ready": 2, "completedIndexes": "0-5", "failedIndexes": "1"}),
            json!({}),
            "status.completedIndexes: Invalid value: \"0-5\": error parsing completedIndexes: too large index: \"5\"\n\
             status.completedIndexes: Invalid value: \"0-5\": cannot set non-empty completedIndexes when non-indexed completion mode\n\
             status.failedIndexes: Invalid value: \"1\": cannot set non-null failedIndexes when backoffLimitPerIndex is null\n\
             status.ready: Invalid value: 2: cannot set more ready pods than active",
        );
        check(
            json!({"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}),
            json!({}),
            "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty\n\
             status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
        );
    }
}
