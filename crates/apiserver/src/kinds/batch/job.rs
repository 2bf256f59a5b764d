//! Runs pods until enough have succeeded.
//!
//! Invariant: a job's selector picks its own pods by its uid, unless `manualSelector` says otherwise.

use jiff::Timestamp;
use serde_json::Value;

use super::{job_status, job_validation};
use crate::kinds::cursor::walk;
use crate::kinds::edit::{Object, default, default_text, each, inside, make, object as object_at};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, human_duration, parse_time, text, wide};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, lifecycle};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    definition: "io.k8s.api.batch.v1.Job",
    storage: "jobs",
    subresources: &[STATUS],
    defaults: |object| {
        defaults::default_template(object, "spec.template");
        default_job(object);
    },
    prepare_create,
    prepare_update: lifecycle::keep_status_and_count,
    validate: |object, problems| {
        job_validation::validate_job(&Cursor::root(object), problems);
    },
    validate_update: job_validation::validate_update,
    validate_status_update: job_status::validate_update,
    warnings: |new, old| {
        let mut out = pod_spec::controller_warnings(new, old, "spec.template");
        out.extend(super::too_many_indexes(walk(new, "spec"), "spec"));
        out
    },
    selectable_fields: &["status.successful"],
    field_value: |object, _| walk(object, "status.succeeded").as_i64().unwrap_or(0).to_string(),
    columns: &[
        NAME,
        text("Status", "Status of the job."),
        text("Completions", "io.k8s.api.batch.v1.JobStatus#succeeded"),
        text("Duration", "Time required to complete the job."),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "io.k8s.api.batch.v1.JobSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

fn default_job(object: &mut Value) {
    let labels = walk(object, "spec.template.metadata.labels").clone();
    let Some(map) = object.as_object_mut() else { return };
    inside(map, "spec", |spec| {
        let missing = |field: &str, spec: &Object| spec.get(field).is_none_or(Value::is_null);
        if missing("completions", spec) && missing("parallelism", spec) {
            default(spec, "completions", 1);
        }
        default(spec, "parallelism", 1);
        let per_index = !missing("backoffLimitPerIndex", spec);
        default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
        default_text(spec, "completionMode", "NonIndexed");
        default(spec, "suspend", false);
        let replacement = if missing("podFailurePolicy", spec) { "TerminatingOrFailed" } else { "Failed" };
        default_text(spec, "podReplacementPolicy", replacement);
        inside(spec, "podFailurePolicy", |policy| {
            each(policy, "rules", |rule| {
                each(rule, "onPodConditions", |pattern| default_text(pattern, "status", "True"));
            });
        });
    });
    let metadata = make(map, "metadata");
    if labels.is_object() && metadata.get("labels").and_then(Value::as_object).is_none_or(|own| own.is_empty()) {
        metadata.insert("labels".into(), labels);
    }
}

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Name and uid are set by now.
fn prepare_create(object: &mut Value) {
    lifecycle::first_generation(object);
    let string = |path: &str| walk(object, path).as_str().unwrap_or("").to_owned();
    let (name, uid) = (string("metadata.name"), string("metadata.uid"));
    let manual = walk(object, "spec.manualSelector").as_bool() == Some(true);
    let Some(spec) = object_at(object, "spec") else { return };
    if manual {
        return;
    }
    let labels = make(make(make(spec, "template"), "metadata"), "labels");
    for (key, value) in
        [("controller-uid", &uid), ("job-name", &name), (CONTROLLER_UID, &uid), ("batch.kubernetes.io/job-name", &name)]
    {
        labels.entry(key).or_insert_with(|| value.as_str().into());
    }
    let match_labels = make(make(spec, "selector"), "matchLabels");
    match_labels.entry(CONTROLLER_UID).or_insert_with(|| uid.as_str().into());
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &str| walk(object, path).as_i64();
    let succeeded = number("status.succeeded").unwrap_or(0);
    let completions = match (number("spec.completions"), number("spec.parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |path: &str| parse_time(walk(object, path)).map(Timestamp::as_second);
    let duration = match (time("status.startTime"), time("status.completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(end.unwrap_or(now.as_second()) - start),
    };
    let [names, images] = printing::containers(walk(object, "spec.template.spec"));
    vec![
        printing::name(object),
        status(object).into(),
        completions.into(),
        duration.into(),
        printing::age(object, now),
        names,
        images,
        printing::selector(walk(object, "spec.selector")).into(),
    ]
}

fn status(object: &Value) -> &'static str {
    let has = |kind: &str| {
        printing::condition(object, kind).is_some_and(|condition| walk(condition, "status").as_str() == Some("True"))
    };
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if !walk(object, "metadata.deletionTimestamp").is_null() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check_row;
    use serde_json::json;

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        prepare_create(&mut job);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {CONTROLLER_UID: "u"}}));
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"controller-uid": "u", "job-name": "j", CONTROLLER_UID: "u", "batch.kubernetes.io/job-name": "j"})
        );
    }

    #[test]
    fn defaults() {
        let mut job = json!({"spec": {}});
        default_job(&mut job);
        assert_eq!(
            job["spec"],
            json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
                "suspend": false, "podReplacementPolicy": "TerminatingOrFailed"})
        );
    }

    #[test]
    fn rows() {
        let mut job = json!({"metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"completions": 3}, "status": {"startTime": "2026-01-01T00:00:00Z"}});
        check_row(&KIND, job.clone(), "2026-01-01T00:00:30Z", "j | Running | 0/3 | 30s | 30s |  |  | <none>");
        job["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:10Z",
            "succeeded": 3, "conditions": [{"type": "Complete", "status": "True"}]});
        check_row(&KIND, job, "2026-01-01T00:00:30Z", "j | Complete | 3/3 | 10s | 30s |  |  | <none>");
    }
}
