//! Jobs by the clock.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::job_validation;
use super::schedule;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_text, object as object_at};
use crate::kinds::pod_spec::{self, defaults};
use crate::kinds::printing::{self, AGE, CONTAINERS, IMAGES, NAME, boolean, integer, text, wide};
use crate::kinds::subresources::STATUS;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    definition: "io.k8s.api.batch.v1.CronJob",
    storage: "cronjobs",
    subresources: &[STATUS],
    defaults: |object| {
        defaults::default_template(object, "spec.jobTemplate.spec.template");
        let Some(spec) = object_at(object, "spec") else { return };
        default_text(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
    },
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    warnings: |new, old| {
        let mut out = pod_spec::controller_warnings(new, old, "spec.jobTemplate.spec.template");
        out.extend(super::too_many_indexes(walk(new, "spec.jobTemplate.spec"), "spec.jobTemplate.spec"));
        if walk(new, "spec.schedule").as_str().unwrap_or("").contains("TZ") {
            // Named so by the original.
            out.push("CRON_TZ or TZ used in spec.spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".into());
        }
        out
    },
    columns: &[
        NAME,
        text("Schedule", "io.k8s.api.batch.v1.CronJobSpec#schedule"),
        text("Timezone", "io.k8s.api.batch.v1.CronJobSpec#timeZone"),
        boolean("Suspend", "io.k8s.api.batch.v1.CronJobSpec#suspend"),
        integer("Active", "io.k8s.api.batch.v1.CronJobStatus#active"),
        text("Last Schedule", "io.k8s.api.batch.v1.CronJobStatus#lastScheduleTime"),
        AGE,
        CONTAINERS,
        IMAGES,
        wide("Selector", "io.k8s.api.batch.v1.JobSpec#selector"),
    ],
    cells,
    ..NAMESPACED
};

/// Jobs are named after it, with eleven characters more.
const NAME_MAX: usize = 52;

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let schedule = spec.at("schedule");
    if schedule.is_empty() {
        problems.required(&schedule, "");
    } else {
        if schedule.str().contains("TZ") {
            problems.invalid(&schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if let Err(why) = schedule::parse(schedule.str()) {
            problems.invalid(&schedule, &why);
        }
    }
    validate_time_zone(&spec.at("timeZone"), problems);
    checks::non_negative(&spec.at("startingDeadlineSeconds"), problems);
    let policy = spec.at("concurrencyPolicy");
    match policy.str() {
        "" => problems.required(&policy, ""),
        _ => checks::one_of(&policy, &["Allow", "Forbid", "Replace"], problems),
    }
    let job = spec.at("jobTemplate.spec");
    job_validation::validate_spec(&job, problems);
    let selector = job.at("selector");
    if selector.exists() {
        problems.invalid(&selector, "`selector` will be auto-generated");
    }
    if job.at("manualSelector").bool() {
        problems.not_supported_str(&job.at("manualSelector"), "true", &["nil", "false"]);
    }
    checks::non_negative(&spec.at("successfulJobsHistoryLimit"), problems);
    checks::non_negative(&spec.at("failedJobsHistoryLimit"), problems);
    let name = root.at("metadata.name");
    // Older ones may have longer names.
    if name.len() > NAME_MAX && root.at("metadata.resourceVersion").is_empty() {
        problems.invalid(&name, "must be no more than 52 characters");
    }
}

fn validate_time_zone(zone: &Cursor, problems: &mut Problems) {
    if !zone.exists() {
        return;
    }
    if zone.is_empty() {
        problems.invalid(zone, "timeZone must be nil or non-empty string");
    } else if !zone.str().split('/').all(is_zone_part) {
        problems.invalid(zone, &format!("unknown time zone {}", zone.str()));
    } else if zone.str().eq_ignore_ascii_case("local") {
        problems.invalid(zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if jiff::tz::TimeZone::get(zone.str()).is_err() {
        problems.invalid(zone, &format!("unknown time zone {}", zone.str()));
    }
}

fn is_zone_part(part: &str) -> bool {
    (1..=14).contains(&part.len())
        && !matches!(part, "." | "..")
        && !part.starts_with('-')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+'))
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = walk(object, "status.lastScheduleTime");
    let suspended = match walk(object, "spec.suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let [names, images] = printing::containers(walk(object, "spec.jobTemplate.spec.template.spec"));
    vec![
        printing::name(object),
        printing::string_at(object, "spec.schedule"),
        printing::text_or(object, "spec.timeZone", "<none>"),
        suspended.into(),
        json!(walk(object, "status.active").as_array().map_or(0, Vec::len)),
        if last.is_null() { "<none>".into() } else { printing::since(last, now).into() },
        printing::age(object, now),
        names,
        images,
        printing::selector(walk(object, "spec.jobTemplate.spec.selector")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check_defaulted, check_row};

    fn cron_job(schedule: &str) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "busybox"}]}}}}}})
    }

    #[test]
    fn problems() {
        check_defaulted(&KIND, cron_job("*/5 * * * *"), "");
        check_defaulted(
            &KIND,
            cron_job("* *"),
            "spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]",
        );
        check_defaulted(
            &KIND,
            cron_job("TZ=UTC 0 * * * *"),
            "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
        let mut zoned = cron_job("0 0 * * *");
        zoned["spec"]["timeZone"] = "Mars/Base".into();
        check_defaulted(&KIND, zoned, "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base");
    }

    #[test]
    fn rows() {
        check_row(
            &KIND,
            cron_job("@daily"),
            "2026-01-01T00:00:00Z",
            "c | @daily | <none> | <unset> | 0 | <none> | <unknown> | c | busybox | <none>",
        );
    }
}
