use super::*;
use crate::fixtures;
use crate::job::TRACKING_FINALIZER;
use k8s_openapi::api::batch::v1::{SuccessPolicy, SuccessPolicyRule};

/// `[completions=N] [parallelism=N] [indexed] [limit=N] [perindex=N] [deadline=N] [suspend] [replace]`.
fn job(text: &str) -> Job {
    let mut spec = JobSpec { parallelism: Some(1), backoff_limit: Some(6), ..JobSpec::default() };
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, "0"));
        let value: i32 = value.parse().unwrap();
        match name {
            "completions" => spec.completions = Some(value),
            "parallelism" => spec.parallelism = Some(value),
            "indexed" => spec.completion_mode = Some("Indexed".into()),
            "limit" => spec.backoff_limit = Some(value),
            "perindex" => {
                spec.backoff_limit_per_index = Some(value);
                spec.backoff_limit = Some(i32::MAX);
            }
            "deadline" => spec.active_deadline_seconds = Some(value.into()),
            "suspend" => spec.suspend = Some(true),
            "replace" => spec.pod_replacement_policy = Some("Failed".into()),
            other => panic!("{other}"),
        }
    }
    let mut job = Job { spec: Some(spec), ..Job::default() };
    job.metadata.name = Some("j".into());
    job
}

/// Words of `fixtures::pod`, tracked unless they end with `~`; `name#3` has index 3.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    text.split_whitespace()
        .map(|word| {
            let (word, tracked) = word.strip_suffix('~').map_or((word, true), |word| (word, false));
            let (name, flags) = word.split_once(':').unwrap_or((word, ""));
            let (name, index) = name.split_once('#').map_or((name, None), |(name, index)| (name, Some(index)));
            let mut pod = fixtures::pod(&format!("{name}:{flags}"));
            if tracked {
                pod.metadata.finalizers = Some(vec![TRACKING_FINALIZER.into()]);
            }
            if let Some(index) = index {
                pod.metadata.annotations.get_or_insert_default().insert(pod::INDEX_KEY.into(), index.into());
            }
            Arc::new(pod)
        })
        .collect()
}

fn describe(plan: &Plan) -> String {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let mut steps: Vec<String> = plan.release.iter().map(|pod| format!("count({})", name(pod))).collect();
    steps.extend(plan.delete.iter().map(|pod| format!("-{}", name(pod))));
    steps.extend(plan.create.iter().map(|pod| match pod::index(pod) {
        Some(index) => format!("+#{index}"),
        None => "+".into(),
    }));
    let number = |value: Option<i32>| value.unwrap_or(0);
    steps.push(format!("{}/{}/{}", number(plan.counted.active), number(plan.counted.succeeded), number(plan.counted.failed)));
    for condition in plan.counted.conditions.iter().flatten().filter(|condition| condition.status == "True") {
        steps.push(format!("{}:{}", condition.type_, condition.reason.as_deref().unwrap()));
    }
    if let Next::After(delay) = plan.next {
        steps.push(format!("in {}s", delay.as_secs()));
    }
    steps.join(" ")
}

/// Compared are steps, then active/succeeded/failed, then conditions.
#[track_caller]
fn check(spec: &str, pod_words: &str, expected: &str) -> Plan {
    let (job, pods) = (job(spec), pods(pod_words));
    let plan = decide(&Observed { job: &job, pods: &pods }, &mut Backoff::default(), fixtures::now());
    assert_eq!(describe(&plan), expected);
    plan
}

#[test]
fn makes_as_many_as_are_open() {
    //    job                        pods                    plan
    check("completions=1", "", "+ 0/0/0");
    check("completions=3 parallelism=2", "", "+ + 0/0/0");
    check("completions=3 parallelism=2", "a b:succeeded", "count(b) + 1/1/0");
    check("completions=3 parallelism=5", "a:succeeded b", "count(a) + 1/1/0");
    check("parallelism=3", "a b:succeeded", "count(b) 1/1/0"); // A work queue that has begun to end.
    check("completions=3 parallelism=1", "a b:age=5", "-b 2/0/0");
    check("completions=3 suspend", "a", "-a 1/0/0 Suspended:JobSuspended");
}

#[test]
fn ends_when_pods_have_ended() {
    let done = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    check("completions=1", "a:succeeded", &format!("count(a) 0/1/0 {done}"));
    check("parallelism=2", "a:succeeded b:succeeded", &format!("count(a) count(b) 0/2/0 {done}"));
    check("completions=1 parallelism=2", "a:succeeded b", "count(a) -b 1/1/0 SuccessCriteriaMet:CompletionsReached");
    let failed = "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded";
    check("completions=1 limit=0", "a:failed", &format!("count(a) 0/0/1 {failed}"));
    check("completions=2 limit=0 parallelism=2", "a:failed b", "count(a) -b 1/0/1 FailureTarget:BackoffLimitExceeded");
}

#[test]
fn failures_are_followed_by_a_growing_wait() {
    check("completions=1", "a:failed,age=5", "count(a) 0/0/1 in 5s");
    let (job, pods) = (job("completions=1"), pods("a:failed~"));
    let mut backoff = Backoff { failures: 3, last: Some(fixtures::ago(5).0) };
    let plan = decide(&Observed { job: &job, pods: &pods }, &mut backoff, fixtures::now());
    assert_eq!(plan.next, Next::after_seconds(Some(35)));
}

#[test]
fn each_pod_is_counted_once_whatever_is_lost_in_between() {
    let mut job = job("completions=5 parallelism=2");
    let two = pods("a:succeeded b");
    let observe = |job: &Job, pods: &[Arc<Pod>]| decide(&Observed { job, pods }, &mut Backoff::default(), fixtures::now());
    let first = observe(&job, &two);
    // Noted, then crashed before the finalizer went: released again, not noted again.
    job.status = Some(first.noted.clone());
    assert_eq!(first.noted.succeeded, None);
    let again = observe(&job, &two);
    assert_eq!((again.release.len(), again.counted.succeeded), (1, Some(1)));
    // Released, then crashed before it was counted: counted now, although the pod is gone.
    let late = observe(&job, &pods("b"));
    assert_eq!((late.release.len(), late.noted.succeeded, late.counted.succeeded), (0, Some(1), Some(1)));
    // Counted: its pod may stay around.
    job.status = Some(late.counted);
    assert_eq!(observe(&job, &pods("a:succeeded~ b")).counted.succeeded, Some(1));
}

#[test]
fn indexes_each_succeed_once() {
    check("indexed completions=3 parallelism=3", "", "+#0 +#1 +#2 0/0/0");
    check("indexed completions=3 parallelism=3", "a#0 b#1:succeeded", "count(b) +#2 1/1/0");
    check("indexed completions=2 parallelism=2", "a#0 b#0:age=5 c#1", "-b 3/0/0");
    check("indexed completions=2 parallelism=2 replace", "a#0:deleting c#1", "1/0/0");
    let plan = check("indexed completions=9 parallelism=1", "a#0:succeeded b#1:succeeded c#2:succeeded d#4", "count(a) count(b) count(c) 1/3/0");
    assert_eq!(plan.counted.completed_indexes.as_deref(), Some("0-2"));
}

#[test]
fn an_index_fails_for_itself() {
    // The failed pod is kept as the index's memory until it is replaced.
    let plan = check("indexed completions=2 parallelism=2 perindex=1", "a#0:failed,age=100 b#1", "+#0 1/0/0");
    assert_eq!(plan.create[0].metadata.annotations.as_ref().unwrap()[pod::FAILURE_COUNT], "1");
    let plan = check(
        "indexed completions=2 parallelism=2 perindex=0",
        "a#0:failed b#1:succeeded",
        "count(a) count(b) 0/1/1 FailureTarget:FailedIndexes Failed:FailedIndexes",
    );
    assert_eq!(plan.counted.failed_indexes.as_deref(), Some("0"));
}

#[test]
fn a_success_policy_ends_early() {
    let mut job = job("indexed completions=5 parallelism=5");
    let rule = SuccessPolicyRule { succeeded_indexes: Some("0,2".into()), succeeded_count: Some(1) };
    job.spec.as_mut().unwrap().success_policy = Some(SuccessPolicy { rules: vec![rule] });
    let pods = pods("a#1:succeeded b#2:succeeded c#0");
    let plan = decide(&Observed { job: &job, pods: &pods }, &mut Backoff::default(), fixtures::now());
    assert_eq!(describe(&plan), "count(a) count(b) -c 1/2/0 SuccessCriteriaMet:SuccessPolicy");
}

#[test]
fn the_deadline_is_kept() {
    let mut job = job("completions=1 deadline=60");
    job.status = Some(JobStatus { start_time: Some(fixtures::ago(20)), ..JobStatus::default() });
    let pods = pods("a");
    let observe = |job: &Job| decide(&Observed { job, pods: &pods }, &mut Backoff::default(), fixtures::now());
    assert_eq!(observe(&job).next, Next::after_seconds(Some(40)));
    job.status.as_mut().unwrap().start_time = Some(fixtures::ago(60));
    assert_eq!(describe(&observe(&job)), "-a 1/0/0 FailureTarget:DeadlineExceeded");
}
