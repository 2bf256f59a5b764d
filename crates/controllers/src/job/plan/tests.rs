use super::*;
use crate::fixtures;
use crate::job::TRACKING_FINALIZER;
use k8s_openapi::api::batch::v1::{
    JobCondition, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule, UncountedTerminatedPods,
};
use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Words say what the spec holds: `completions=3 parallelism=2 indexed limit=N perindex=N maxfailed=N deadline=N suspend
/// replace onfailure deleting`, `on=EXIT/ACTION` and `disruption=ACTION` are rules of the pod failure policy, `success=INDEXES/COUNT`
/// one of the success policy. `~succeeded=2 ~failed=1 ~completed=0-2 ~failedindexes=3 ~noted=a,b ~lost=c ~start=SECONDS
/// ~cond=TYPE/REASON` is what the status holds.
fn job(text: &str) -> Job {
    let mut spec = JobSpec { parallelism: Some(1), backoff_limit: Some(6), ..JobSpec::default() };
    spec.template.spec = Some(PodSpec { containers: vec![Container::default()], ..PodSpec::default() });
    let mut status = JobStatus::default();
    let mut deleting = false;
    let mut rules = Vec::new();
    let mut success = Vec::new();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<i32>().unwrap();
        let names = || Some(value.split(',').map(|name| format!("uid-{name}")).collect());
        let (first, second) = value.split_once('/').unwrap_or((value, ""));
        match name {
            "completions" => spec.completions = Some(number()),
            "parallelism" => spec.parallelism = Some(number()),
            "indexed" => spec.completion_mode = Some("Indexed".into()),
            "limit" => spec.backoff_limit = Some(number()),
            "perindex" => {
                spec.backoff_limit_per_index = Some(number());
                spec.backoff_limit = Some(i32::MAX);
            }
            "maxfailed" => spec.max_failed_indexes = Some(number()),
            "deadline" => spec.active_deadline_seconds = Some(number().into()),
            "suspend" => spec.suspend = Some(true),
            "replace" => spec.pod_replacement_policy = Some("Failed".into()),
            "onfailure" => spec.template.spec.as_mut().unwrap().restart_policy = Some("OnFailure".into()),
            "deleting" => deleting = true,
            "on" => rules.push(PodFailurePolicyRule {
                action: second.into(),
                on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                    container_name: None,
                    operator: "In".into(),
                    values: vec![first.parse().unwrap()],
                }),
                on_pod_conditions: None,
            }),
            "disruption" => rules.push(PodFailurePolicyRule {
                action: value.into(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".into(),
                    status: Some("True".into()),
                }]),
            }),
            "success" => success.push(SuccessPolicyRule {
                succeeded_indexes: (!first.is_empty()).then(|| first.into()),
                succeeded_count: second.parse().ok(),
            }),
            "~succeeded" => status.succeeded = Some(number()),
            "~failed" => status.failed = Some(number()),
            "~completed" => status.completed_indexes = Some(value.into()),
            "~failedindexes" => status.failed_indexes = Some(value.into()),
            "~noted" => status.uncounted_terminated_pods.get_or_insert_with(UncountedTerminatedPods::default).succeeded = names(),
            "~lost" => status.uncounted_terminated_pods.get_or_insert_with(UncountedTerminatedPods::default).failed = names(),
            "~start" => status.start_time = Some(fixtures::ago(number().into())),
            "~cond" => status.conditions.get_or_insert_default().push(JobCondition {
                type_: first.into(),
                status: "True".into(),
                reason: Some(second.into()),
                ..JobCondition::default()
            }),
            other => panic!("{other}"),
        }
    }
    spec.pod_failure_policy = (!rules.is_empty()).then_some(PodFailurePolicy { rules });
    spec.success_policy = (!success.is_empty()).then_some(SuccessPolicy { rules: success });
    let mut job = Job { spec: Some(spec), status: Some(status), ..Job::default() };
    job.metadata.name = Some("j".into());
    job.metadata.deletion_timestamp = deleting.then(|| fixtures::ago(1));
    job
}

/// Words of `fixtures::pod`, tracked unless they end with `~`; `name#3` has index 3, `name#3/2` had two failures before it,
/// `name#3/2/1` one more that was ignored.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    text.split_whitespace()
        .map(|word| {
            let (word, tracked) = word.strip_suffix('~').map_or((word, true), |word| (word, false));
            let (name, flags) = word.split_once(':').unwrap_or((word, ""));
            let (name, marks) = name.split_once('#').unwrap_or((name, ""));
            let mut pod = fixtures::pod(&format!("{name}:{flags}"));
            if tracked {
                pod.metadata.finalizers = Some(vec![TRACKING_FINALIZER.into()]);
            }
            for (key, value) in [pod::INDEX_KEY, pod::FAILURE_COUNT, pod::IGNORED_FAILURE_COUNT].into_iter().zip(marks.split('/')) {
                if !value.is_empty() {
                    pod.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
                }
            }
            Arc::new(pod)
        })
        .collect()
}

fn describe(plan: &Plan) -> String {
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let mut steps: Vec<String> = plan.release.iter().map(|pod| format!("count({})", name(pod))).collect();
    steps.extend(plan.withdraw.iter().map(|pod| format!("drop({})", name(pod))));
    steps.extend(plan.delete.iter().map(|pod| format!("-{}", name(pod))));
    steps.extend(plan.create.iter().map(|pod| {
        let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|marks| marks.get(key)).map(|mark| format!("/{mark}"));
        let mark = |key: &str| annotation(key).unwrap_or_default();
        match pod::index(pod) {
            Some(index) => format!("+#{index}{}{}", mark(pod::FAILURE_COUNT), mark(pod::IGNORED_FAILURE_COUNT)),
            None => "+".into(),
        }
    }));
    let number = |value: Option<i32>| value.unwrap_or(0);
    let status = &plan.counted;
    steps.push(format!("{}/{}/{}", number(status.active), number(status.succeeded), number(status.failed)));
    steps.extend(status.terminating.filter(|count| *count > 0).map(|count| format!("ending={count}")));
    steps.extend(status.completed_indexes.as_ref().map(|set| format!("done={set}")));
    steps.extend(status.failed_indexes.as_ref().filter(|set| !set.is_empty()).map(|set| format!("lost={set}")));
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status == "True") {
        steps.push(format!("{}:{}", condition.type_, condition.reason.as_deref().unwrap()));
    }
    if let Next::After(delay) = plan.next {
        steps.push(format!("in {}s", delay.as_secs()));
    }
    steps.join(" ")
}

fn plan(spec: &str, pod_words: &str, backoff: &mut Backoff) -> Plan {
    let (job, pods) = (job(spec), pods(pod_words));
    decide(&Observed { job: &job, pods: &pods }, backoff, fixtures::now())
}

/// Compared are steps, then active/succeeded/failed, then what else the status says.
#[track_caller]
fn check(spec: &str, pod_words: &str, expected: &str) -> Plan {
    let plan = plan(spec, pod_words, &mut Backoff::default());
    assert_eq!(describe(&plan), expected);
    plan
}

#[track_caller]
fn check_events(spec: &str, pod_words: &str, expected: &[&str]) {
    let plan = plan(spec, pod_words, &mut Backoff::default());
    let events: Vec<String> = plan.events.iter().map(|(kind, reason, text)| format!("{kind:?} {reason}: {text}")).collect();
    assert_eq!(events, expected);
}

#[test]
fn makes_as_many_as_are_open() {
    //    job                                    pods                              plan
    check("completions=1", "", "+ 0/0/0");
    check("completions=3 parallelism=2", "", "+ + 0/0/0");
    check("completions=3 parallelism=2", "a b:succeeded", "count(b) + 1/1/0");
    check("completions=3 parallelism=5", "a:succeeded b", "count(a) + 1/1/0");
    check("completions=5 parallelism=2 ~succeeded=4", "", "+ 0/4/0");
    check("completions=5 parallelism=0", "", "0/0/0");
    check("parallelism=2", "", "+ + 0/0/0"); // A work queue.
    check("parallelism=2", "a", "+ 1/0/0");
    check("parallelism=3", "a b:succeeded", "count(b) 1/1/0"); // It has begun to end.
    check("parallelism=1 ~succeeded=1", "a b c", "3/1/0"); // Whoever still works may finish.
    check("completions=900 parallelism=900", "", &format!("{}0/0/0", "+ ".repeat(500)));
}

#[test]
fn what_is_too_much_goes_and_does_not_count() {
    check("completions=3 parallelism=1", "a b:age=5", "drop(b) 1/0/0 ending=1");
    check("completions=3 parallelism=0", "a b", "drop(a) drop(b) 0/0/0 ending=2");
    check("completions=3 parallelism=1", "a:node=n b:node=n,pending", "drop(b) 1/0/0 ending=1");
    check("completions=3 parallelism=1", "a b:unready", "drop(b) 1/0/0 ending=1");
    check("completions=3 parallelism=1", "a:cost=9 b:age=5,cost=-9 c:age=9", "drop(b) drop(c) 1/0/0 ending=2"); // Costs do not count.
    check("completions=3 parallelism=1", "a b:deleting~", "1/0/0 ending=1"); // What was dropped before.
    check("completions=3 parallelism=3 ~succeeded=2", "a b c:succeeded~", "drop(a) 1/2/0 ending=1");
}

#[test]
fn ends_when_pods_have_ended() {
    let done = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    check("completions=1", "a:succeeded", &format!("count(a) 0/1/0 {done}"));
    check("completions=0", "", &format!("0/0/0 {done}"));
    check("completions=2 ~succeeded=1", "a:succeeded", &format!("count(a) 0/2/0 {done}"));
    check("parallelism=2", "a:succeeded b:succeeded", &format!("count(a) count(b) 0/2/0 {done}"));
    check("parallelism=2", "a:succeeded b:failed", &format!("count(a) count(b) 0/1/1 {done}"));
    check("parallelism=2", "a:succeeded b", "count(a) 1/1/0");
    // What still runs is in the way and has not failed; the end is told when it is gone.
    check("completions=1 parallelism=2", "a:succeeded b", "count(a) count(b) drop(b) 0/1/0 ending=1 SuccessCriteriaMet:CompletionsReached");
    check("completions=1 ~succeeded=1 ~cond=SuccessCriteriaMet/CompletionsReached", "b:deleting~", "0/1/0 ending=1 SuccessCriteriaMet:CompletionsReached");
    check("completions=1 ~succeeded=1 ~cond=SuccessCriteriaMet/CompletionsReached", "", &format!("0/1/0 {done}"));
    let failed = "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded";
    check("completions=1 limit=0", "a:failed", &format!("count(a) 0/0/1 {failed}"));
    check("completions=1 limit=2 ~failed=2", "a:failed", &format!("count(a) 0/0/3 {failed}"));
    check("completions=1 limit=2 ~failed=2", "a", "1/0/2");
    // What still runs then has failed as well.
    check(
        "completions=2 limit=0 parallelism=2",
        "a:failed b",
        "count(a) count(b) -b 0/0/2 ending=1 FailureTarget:BackoffLimitExceeded",
    );
    check("completions=2 limit=0 ~failed=2 ~cond=FailureTarget/BackoffLimitExceeded", "b:deleting~", "0/0/2 ending=1 FailureTarget:BackoffLimitExceeded");
    check("completions=2 limit=0 ~failed=2 ~cond=FailureTarget/BackoffLimitExceeded", "b:failed~", &format!("0/0/2 {failed}"));
    // Failure comes before success.
    check("completions=1 limit=0", "a:failed b:succeeded", &format!("count(a) count(b) 0/1/1 {failed}"));
}

#[test]
fn restarts_in_place_are_failures_too() {
    let failed = "FailureTarget:BackoffLimitExceeded";
    check("completions=1 limit=0 onfailure", "a:restarts=0", "1/0/0");
    check("completions=1 limit=0 onfailure", "a:restarts=1", &format!("count(a) -a 0/0/1 ending=1 {failed}"));
    check("completions=1 limit=1 onfailure", "a:restarts=1", &format!("count(a) -a 0/0/1 ending=1 {failed}"));
    check("completions=1 limit=2 onfailure", "a:restarts=1", "1/0/0");
    check("completions=2 parallelism=2 limit=2 onfailure", "a:restarts=1 b:pending,restarts=1", &format!("count(a) count(b) -a -b 0/0/2 ending=2 {failed}"));
    check("completions=1 limit=2", "a:restarts=9", "1/0/0"); // Only with restartPolicy: OnFailure.
}

#[test]
fn failures_are_followed_by_a_growing_wait() {
    #[track_caller]
    fn check_wait(failures: u32, last: i64, pod_words: &str, expected: &str) {
        let mut backoff = Backoff { failures, last: (failures > 0).then(|| fixtures::ago(last).0) };
        let spec = "completions=9 parallelism=1 limit=99";
        assert_eq!(describe(&plan(spec, pod_words, &mut backoff)), expected);
    }
    //         failures, last  pods                                          plan
    check_wait(0, 0, "a:failed,finished=0", "count(a) 0/0/1 in 10s");
    check_wait(0, 0, "a:failed,finished=5", "count(a) 0/0/1 in 5s");
    check_wait(0, 0, "a:failed,finished=15", "count(a) + 0/0/1");
    check_wait(1, 30, "a:failed,finished=5", "count(a) 0/0/1 in 15s");
    check_wait(3, 5, "a:failed~", "0/0/0 in 35s");
    check_wait(50, 5, "", "0/0/0 in 595s"); // Ten minutes at most.
    check_wait(3, 40, "", "+ 0/0/0");
    check_wait(3, 5, "a:succeeded,finished=0", "count(a) + 0/1/0"); // A success makes good.
    check_wait(3, 5, "a:succeeded,finished=9 b:failed,finished=2", "count(a) count(b) 0/1/1 in 8s");
    check_wait(3, 5, "a:succeeded,finished=2 b:failed,finished=9", "count(a) count(b) + 0/1/1");
    check_wait(0, 0, "a:failed,finished=4 b:failed,finished=8", "count(a) count(b) 0/0/2 in 16s");
}

#[test]
fn when_a_pod_ended() {
    #[track_caller]
    fn check(word: &str, grace: i64, seconds_ago: i64) {
        let mut pod = fixtures::pod(word);
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        assert_eq!(pod::finish_time(&pod, fixtures::now()), fixtures::ago(seconds_ago).0);
    }
    check("a:age=9,failed,finished=3", 0, 3); // Its containers' end.
    check("a:age=9,failed", 0, 9); // When it stopped being ready.
    check("a:age=9,deleting", 0, 1); // Its deletion, less the time it was given.
    check("a:age=9,deleting", 30, 31);
    check("a:age=9", 0, 9); // Its creation.
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
fn what_is_noted_is_counted_when_it_is_let_go() {
    #[track_caller]
    fn check(spec: &str, pod_words: &str, noted: &str) {
        let plan = plan(&format!("completions=9 parallelism=1 {spec}"), pod_words, &mut Backoff::default());
        let uncounted = plan.noted.uncounted_terminated_pods.unwrap();
        let list = |uids: Option<Vec<String>>| uids.unwrap_or_default().join(",");
        let count = |value: Option<i32>| value.unwrap_or(0);
        let text = format!(
            "{}+{} {}+{}",
            count(plan.noted.succeeded),
            list(uncounted.succeeded),
            count(plan.noted.failed),
            list(uncounted.failed)
        );
        assert_eq!(text, noted);
        assert_eq!(plan.counted.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    }
    //    status and spec                   pods                       noted: succeeded+uids failed+uids
    check("", "a:succeeded b:failed", "0+uid-a 0+uid-b");
    check("~succeeded=3 ~failed=1", "a:succeeded b:failed", "3+uid-a 1+uid-b");
    check("~noted=a ~lost=b", "a:succeeded b:failed", "0+uid-a 0+uid-b");
    check("~noted=a ~lost=b", "a:succeeded~ b:failed~", "1+ 1+");
    check("~noted=a ~lost=b", "", "1+ 1+");
    check("~noted=a,c ~lost=b", "c:succeeded d:failed", "1+uid-c 1+uid-d");
    check("", "a:deleting", "0+ 0+uid-a"); // On its way out before it succeeded.
    check("", "a:deleting,succeeded", "0+uid-a 0+");
    check("replace", "a:deleting", "0+ 0+"); // To be seen to fail first.
    check("replace", "a:deleting,failed", "0+ 0+uid-a");
    check("indexed", "a#0:succeeded b#1:failed", "1+ 0+uid-b"); // Indexes are counted by themselves.
    check("indexed", "a:failed b#9:failed c#-1:failed", "0+ 0+"); // No index, or none of this Job.
    check("disruption=Ignore", "a:failed,disrupted b:failed", "0+ 0+uid-b");
    check("deleting", "a:failed b", "0+ 0+uid-a");
}

#[test]
fn a_job_on_its_way_out_lets_its_pods_go() {
    check("completions=3 parallelism=2 deleting", "a:failed b", "count(a) count(b) 1/0/1");
    check("completions=3 parallelism=2 deleting", "", "0/0/0");
    check("completions=3 parallelism=2 deleting suspend", "a~", "1/0/0");
    check("completions=1 deleting", "a:succeeded b~", "count(a) 1/1/0");
    let done = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    check("completions=1 deleting", "a:succeeded", &format!("count(a) 0/1/0 {done}"));
}

#[test]
fn one_round_counts_so_many() {
    let many: String = (0..501).map(|at| format!("p{at}:succeeded ")).collect();
    let plan = plan("completions=501 parallelism=501", &many, &mut Backoff::default());
    assert!(plan.again && plan.release.len() == 500);
    assert!(!verdict::is_true(&plan.counted, "Complete")); // The last is not counted yet.
    assert!(verdict::is_true(&plan.counted, "SuccessCriteriaMet"));
}

#[test]
fn indexes_each_succeed_once() {
    check("indexed completions=3 parallelism=3", "", "+#0 +#1 +#2 0/0/0");
    check("indexed completions=3 parallelism=3", "a#0 b#1:succeeded", "count(b) +#2 1/1/0 done=1");
    check("indexed completions=5 parallelism=2 ~completed=0,1", "", "+#2 +#3 0/2/0 done=0,1");
    check("indexed completions=9 parallelism=2 ~completed=2,4", "a#0", "+#1 1/2/0 done=2,4");
    check("indexed completions=2 parallelism=2 replace", "a#0:deleting c#1", "1/0/0 ending=1");
    check("indexed completions=3 parallelism=3 replace", "a#0:deleting c#1", "+#2 1/0/0 ending=1");
    check("indexed completions=3 parallelism=2", "a#0:failed,finished=99 b#1", "count(a) +#0 1/0/1");
    check(
        "indexed completions=9 parallelism=1",
        "a#0:succeeded b#1:succeeded c#2:succeeded d#4",
        "count(a) count(b) count(c) 1/3/0 done=0-2",
    );
    check(
        "indexed completions=2 parallelism=2 ~completed=0",
        "b#1:succeeded",
        "count(b) 0/2/0 done=0,1 SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached",
    );
    check("indexed completions=3 parallelism=1 ~completed=0,5-7", "", "+#1 0/1/0 done=0"); // Scaled down since.
    // Twice the same index: the one that came less far goes, and nothing is made meanwhile.
    check("indexed completions=2 parallelism=2", "a#0 b#0:age=5 c#1", "drop(b) 2/0/0 ending=1");
    check("indexed completions=3 parallelism=3", "a#0 b#0:unready", "drop(b) 1/0/0 ending=1");
    check("indexed completions=2 parallelism=3", "a#0 b#2 c", "drop(c) drop(b) 1/0/0 ending=2"); // None or no such index.
    check("indexed completions=2 parallelism=2 ~completed=0", "a#0 b#1", "drop(a) 1/1/0 ending=1 done=0");
}

#[test]
fn a_pod_of_an_index_knows_it() {
    let mut job = job("indexed completions=2 parallelism=1");
    job.metadata.name = Some("n".repeat(60));
    let plan = decide(&Observed { job: &job, pods: &[] }, &mut Backoff::default(), fixtures::now());
    let pod = &plan.create[0];
    assert_eq!(pod.metadata.generate_name.as_deref(), Some(format!("{}-0-", "n".repeat(55)).as_str())); // 58, so that the index stays.
    assert_eq!(pod.metadata.labels.as_ref().unwrap()[pod::INDEX_KEY], "0");
    assert_eq!(pod.metadata.finalizers.as_deref(), Some(&[TRACKING_FINALIZER.to_owned()][..]));
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname, Some(format!("{}-0", "n".repeat(60))));
    let variable = &spec.containers[0].env.as_ref().unwrap()[0];
    assert_eq!(variable.name, "JOB_COMPLETION_INDEX");
    let source = variable.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
    assert_eq!(source.field_path, "metadata.labels['batch.kubernetes.io/job-completion-index']");
}

#[test]
fn an_index_fails_for_itself() {
    // The failed pod is kept as the index's memory until it is replaced.
    check("indexed completions=2 parallelism=2 perindex=1", "a#0:failed,finished=99 b#1", "+#0/1 1/0/0");
    check("indexed completions=2 parallelism=2 perindex=1", "a#0:failed,finished=4 b#1", "1/0/0 in 6s");
    check("indexed completions=2 parallelism=2 perindex=3", "a#0/2:failed,finished=4 b#1", "1/0/0 in 36s");
    check("indexed completions=2 parallelism=2 perindex=3", "a#0/1/1:failed,finished=99 b#1", "+#0/2/1 1/0/0");
    check("indexed completions=2 parallelism=2 perindex=1", "a#0:failed b#0/1 c#1", "count(a) 2/0/1"); // It has been.
    check("indexed completions=2 parallelism=2 perindex=3", "a#0:failed,finished=99 b#0/1:failed,finished=50 c#1", "count(a) +#0/2 1/0/1");
    check("indexed completions=3 parallelism=3 perindex=0", "a#0:failed b#1", "count(a) +#2/0 1/0/1 lost=0");
    check("indexed completions=3 parallelism=3 perindex=1", "a#0/1:failed b#1/0", "count(a) +#2/0 1/0/1 lost=0");
    // One index waits, another need not.
    check("indexed completions=3 parallelism=3 perindex=2", "a#0:failed,finished=3 b#1:failed,finished=30 c#2", "+#1/1 1/0/0 in 7s");
    check(
        "indexed completions=2 parallelism=2 perindex=0",
        "a#0:failed b#1:succeeded",
        "count(a) count(b) 0/1/1 done=1 lost=0 FailureTarget:FailedIndexes Failed:FailedIndexes",
    );
    check(
        "indexed completions=4 parallelism=4 perindex=0 maxfailed=1",
        "a#0:failed b#1:failed c#2",
        "count(a) count(b) count(c) -c 0/0/3 ending=1 lost=0,1 FailureTarget:MaxFailedIndexesExceeded",
    );
    check("indexed completions=4 parallelism=2 perindex=0 maxfailed=2", "a#0:failed b#1:failed", "count(a) count(b) +#2/0 +#3/0 0/0/2 lost=0,1");
    // What was kept to remember is let go and counted when the Job ends otherwise.
    check(
        "indexed completions=3 parallelism=3 perindex=5 on=42/FailJob",
        "a#0:failed,exit=1 b#1:failed,exit=42",
        "count(a) count(b) 0/0/2 FailureTarget:PodFailurePolicy Failed:PodFailurePolicy",
    );
}

#[test]
fn a_pod_failure_policy_decides() {
    let ended = "FailureTarget:PodFailurePolicy";
    check("completions=2 parallelism=2 on=42/FailJob", "a:failed,exit=42 b", &format!("count(a) count(b) -b 0/0/2 ending=1 {ended}"));
    check("completions=2 parallelism=2 on=42/FailJob", "a:failed,exit=1,finished=20 b", "count(a) + 1/0/1");
    check("completions=1 limit=0 disruption=Ignore", "a:failed,disrupted,finished=20", "count(a) + 0/0/0");
    check("completions=1 limit=0 disruption=Ignore", "a:failed,disrupted,finished=4", "count(a) 0/0/0 in 6s"); // It waits all the same.
    check("completions=1 limit=0 on=3/Count disruption=Ignore", "a:failed,disrupted,exit=3", "count(a) 0/0/1 FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded");
    check("indexed completions=2 parallelism=2 perindex=5 on=9/FailIndex", "a#0:failed,exit=9 b#1", "count(a) 1/0/1 lost=0");
    check("indexed completions=2 parallelism=2 perindex=0 disruption=Ignore", "a#0:failed,disrupted,finished=20 b#1", "+#0/0/1 1/0/0");
    check("completions=1 on=42/FailJob", "a:deleting", "0/0/0 ending=1"); // With a policy a pod is to be seen to fail.
    let message = |spec: &str, words: &str| {
        let plan = plan(spec, words, &mut Backoff::default());
        plan.counted.conditions.unwrap()[0].message.clone().unwrap()
    };
    assert_eq!(
        message("completions=1 on=42/FailJob", "a:failed,exit=42"),
        "Container main for pod ns/a failed with exit code 42 matching FailJob rule at index 0",
    );
    assert_eq!(
        message("completions=1 on=42/Ignore disruption=FailJob", "a:failed,exit=1,disrupted"),
        "Pod ns/a has condition DisruptionTarget matching FailJob rule at index 1",
    );
}

#[test]
fn a_success_policy_ends_early() {
    let met = "SuccessCriteriaMet:SuccessPolicy";
    let five = "indexed completions=5 parallelism=5";
    // What still runs is let go of and has not failed.
    check(&format!("{five} success=0,2/1"), "a#1:succeeded b#2:succeeded c#0", &format!("count(c) count(a) count(b) -c 0/2/0 ending=1 done=1,2 {met}"));
    check(&format!("{five} success=/2"), "a#1:succeeded b#2:succeeded", &format!("count(a) count(b) 0/2/0 done=1,2 {met} Complete:SuccessPolicy"));
    check(&format!("{five} success=0-1/"), "a#0:succeeded b#1:succeeded", &format!("count(a) count(b) 0/2/0 done=0,1 {met} Complete:SuccessPolicy"));
    check(&format!("{five} success=0-1/"), "a#0:succeeded b#1 c#2 d#3 e#4", "count(a) 4/1/0 done=0");
    check(&format!("{five} success=0-9/7 ~completed=0-4"), "", &format!("0/5/0 done=0-4 {met} Complete:SuccessPolicy")); // All that there are.
    check(&format!("{five} success=7-9/ ~completed=0"), "a#1 b#2 c#3 d#4", "4/1/0 done=0"); // No such indexes: no rule.
    check(&format!("{five} success=/0"), "a#0 b#1 c#2 d#3 e#4", "5/0/0"); // Nothing has succeeded.
    // A failure is looked for first.
    check(&format!("{five} success=0/ limit=0"), "a#0:succeeded b#1:failed", "count(a) count(b) 0/1/1 done=0 FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded");
    check(
        "indexed completions=2 parallelism=2 perindex=0 success=0/",
        "a#0:succeeded b#1:failed",
        "count(a) count(b) 0/1/1 done=0 lost=1 FailureTarget:FailedIndexes Failed:FailedIndexes",
    );
    // But not once the criteria are met.
    check(&format!("{five} success=0/ limit=0 ~completed=0 ~cond=SuccessCriteriaMet/SuccessPolicy"), "b#1:failed", &format!("count(b) 0/1/1 done=0 {met} Complete:SuccessPolicy"));
    let plan = plan(&format!("{five} success=4/ success=0/"), "a#0:succeeded", &mut Backoff::default());
    assert_eq!(plan.counted.conditions.unwrap()[0].message.as_deref(), Some("Matched rules at index 1"));
}

#[test]
fn suspended_jobs_run_nothing() {
    check("completions=3 suspend", "a", "drop(a) 0/0/0 ending=1 Suspended:JobSuspended");
    check("completions=3 suspend ~start=50 deadline=10", "", "0/0/0 Suspended:JobSuspended"); // Nor does the clock.
    check("completions=3 suspend", "a:failed", "count(a) 0/0/1 Suspended:JobSuspended");
    let done = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    check("completions=1 suspend", "a:succeeded", &format!("count(a) 0/1/0 {done}"));
    check("completions=1 suspend ~cond=Suspended/JobSuspended limit=0", "a:failed", "count(a) 0/0/1 Suspended:JobSuspended FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded");
    check("completions=1 ~start=50", "", "+ 0/0/0");

    let started = |spec: &str| plan(spec, "", &mut Backoff::default()).counted.start_time;
    assert_eq!(started("completions=1"), Some(fixtures::ago(0)));
    assert_eq!(started("completions=1 suspend"), None);
    assert_eq!(started("completions=1 ~start=50"), Some(fixtures::ago(50)));
    assert_eq!(started("completions=1 suspend ~start=50"), Some(fixtures::ago(50))); // It did start once.
    assert_eq!(started("completions=1 ~start=50 ~cond=Suspended/JobSuspended"), Some(fixtures::ago(0))); // And starts anew.
}

#[test]
fn the_deadline_is_kept() {
    check("completions=1 deadline=60 ~start=20", "a", "1/0/0 in 40s");
    check("completions=1 deadline=60 ~start=60", "a", "count(a) -a 0/0/1 ending=1 FailureTarget:DeadlineExceeded");
    check("completions=1 deadline=60 ~start=61", "", "0/0/0 FailureTarget:DeadlineExceeded Failed:DeadlineExceeded");
    check("completions=1 deadline=60", "", "+ 0/0/0 in 60s");
}

#[test]
fn says_what_happened() {
    check_events("completions=1", "", &[]);
    check_events("completions=1", "a:succeeded", &["Normal Completed: Job completed"]);
    check_events(
        "completions=1",
        "a:succeeded b:succeeded",
        &[
            "Warning TooManySucceededPods: Too many succeeded pods running after completion count reached",
            "Normal Completed: Job completed",
        ],
    );
    check_events("completions=1 parallelism=2", "a:succeeded b", &[]); // Not before all are gone.
    check_events("completions=1 limit=0", "a:failed", &["Warning BackoffLimitExceeded: Job has reached the specified backoff limit"]);
    check_events("completions=1 deadline=5 ~start=9", "", &["Warning DeadlineExceeded: Job was active longer than specified deadline"]);
    check_events("indexed completions=1 perindex=0", "a#0:failed", &["Warning FailedIndexes: Job has failed indexes"]);
    check_events(
        "indexed completions=2 perindex=0 maxfailed=0",
        "a#0:failed",
        &["Warning MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes"],
    );
    check_events("completions=1 suspend", "", &["Normal Suspended: Job suspended"]);
    check_events("completions=1 ~cond=Suspended/JobSuspended", "", &["Normal Resumed: Job resumed"]);
}
