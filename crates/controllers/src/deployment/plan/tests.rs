use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentSpec, DeploymentStrategy, ReplicaSetSpec, ReplicaSetStatus, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures;

fn template(image: &str) -> PodTemplateSpec {
    let containers = vec![Container { name: "c".into(), image: Some(image.into()), ..Container::default() }];
    PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers, ..PodSpec::default() }) }
}

/// `replicas [surge=N] [unavailable=N] [recreate] [paused] [limit=N] [image=X]`; the image is `v2` by default.
fn deployment(text: &str) -> Deployment {
    let mut words = text.split_whitespace();
    let replicas = words.next().unwrap().parse().unwrap();
    let mut rolling = RollingUpdateDeployment::default();
    let mut spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: LabelSelector::default(),
        template: template("v2"),
        progress_deadline_seconds: Some(600),
        revision_history_limit: Some(10),
        ..DeploymentSpec::default()
    };
    let mut kind = "RollingUpdate";
    let number = |value: &str| match value.parse() {
        Ok(number) => IntOrString::Int(number),
        Err(_) => IntOrString::String(value.into()),
    };
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "surge" => rolling.max_surge = Some(number(value)),
            "unavailable" => rolling.max_unavailable = Some(number(value)),
            "recreate" => kind = "Recreate",
            "paused" => spec.paused = Some(true),
            "limit" => spec.revision_history_limit = Some(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    spec.strategy = Some(DeploymentStrategy { type_: Some(kind.into()), rolling_update: Some(rolling) });
    let mut deployment = Deployment { spec: Some(spec), ..Deployment::default() };
    deployment.metadata.name = Some("web".into());
    deployment.metadata.generation = Some(2);
    deployment
}

/// `image:wanted[/available[/actual]][@noted size]`, oldest first. Without `@` the size noted is `size`.
fn sets(text: &str, size: i32, max: i32) -> Vec<Arc<ReplicaSet>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .iter()
        .enumerate()
        .map(|(at, word)| {
            let (image, counts) = word.split_once(':').unwrap();
            let (counts, noted) = counts.split_once('@').map_or((counts, size), |(counts, noted)| (counts, noted.parse().unwrap()));
            let mut numbers = counts.split('/').map(|number| number.parse::<i32>().unwrap());
            let wanted = numbers.next().unwrap();
            let available = numbers.next().unwrap_or(wanted);
            let actual = numbers.next().unwrap_or(wanted);
            let mut set = ReplicaSet::default();
            set.metadata.name = Some(image.into());
            set.metadata.creation_timestamp = Some(fixtures::ago(1000 - at as i64));
            let annotations = [
                (revision::REVISION, (at + 1).to_string()),
                (revision::DESIRED_REPLICAS, noted.to_string()),
                (revision::MAX_REPLICAS, (noted + max - size).to_string()),
            ];
            set.metadata.annotations = Some(annotations.map(|(name, value)| (name.to_owned(), value)).into());
            set.spec = Some(ReplicaSetSpec { replicas: Some(wanted), template: Some(template(image)), ..ReplicaSetSpec::default() });
            set.status = Some(ReplicaSetStatus {
                replicas: actual,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                terminating_replicas: Some(0),
                ..ReplicaSetStatus::default()
            });
            Arc::new(set)
        })
        .collect()
}

fn describe(plan: &Plan) -> String {
    let wanted = |set: &ReplicaSet| set.spec.as_ref().unwrap().replicas.unwrap();
    let name = |set: &ReplicaSet| set.metadata.name.clone().unwrap();
    let steps = plan.steps.iter().filter_map(|step| match step {
        Step::Create(set) => Some(format!("create({})", wanted(set))),
        Step::Update { set, from } if *from == wanted(set) => None,
        Step::Update { set, from } => Some(format!("{}:{from}->{}", name(set), wanted(set))),
        Step::Delete(set) => Some(format!("delete({})", name(set))),
        Step::Revision(revision) => Some(format!("revision={revision}")),
    });
    steps.collect::<Vec<_>>().join(" ")
}

fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], runs_pods: bool) -> Plan {
    decide(&Observed { deployment, sets, runs_pods: &|_| runs_pods }, fixtures::now())
}

#[track_caller]
fn check(spec: &str, members: &str, expected: &str) {
    let deployment = deployment(spec);
    let size = rolling::replicas(&deployment);
    let sets = sets(members, size, size + rolling::max_surge(&deployment));
    assert_eq!(describe(&plan(&deployment, &sets, false)), expected);
}

#[test]
fn rolls_within_surge_and_availability() {
    //    deployment                    sets (wanted/available)  steps
    check("3", "", "create(3) revision=1");
    check("3 surge=1 unavailable=0", "v1:3", "create(1) revision=2");
    check("3 surge=0 unavailable=0", "v1:3", "create(0) revision=2"); // One may be missing then.
    check("3 surge=0 unavailable=0", "v1:3 v2:0", "v1:3->2 revision=2");
    check("3 surge=1 unavailable=0", "v1:3 v2:1/0", "revision=2"); // Waits for the new pod.
    check("3 surge=1 unavailable=0", "v1:3 v2:1", "v1:3->2 revision=2");
    check("3 surge=1 unavailable=0", "v1:2 v2:1", "v2:1->2 revision=2");
    check("3 surge=1 unavailable=0", "v1:0 v2:3", "revision=2");
    check("10 surge=25% unavailable=25%", "v1:10", "create(3) revision=2");
    check("10 surge=25% unavailable=25%", "v1:10 v2:3/0", "v1:10->8 revision=2");
    check("3 surge=1 unavailable=1", "v0:2/0 v1:2 v2:0", "v0:2->0 revision=3"); // Unhealthy pods go first.
}

#[test]
fn an_old_template_becomes_the_newest_revision() {
    check("3 surge=1 unavailable=0", "v2:0 v1:3", "v2:0->1 revision=3");
    let deployment = deployment("3 surge=1 unavailable=0");
    let plan = plan(&deployment, &sets("v2:0 v1:3", 3, 4), false);
    let Step::Update { set, .. } = &plan.steps[0] else { panic!() };
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    check("2 recreate", "v1:2", "v1:2->0");
    check("2 recreate", "v1:0/0/2", ""); // Still counted by its set.
    check("2 recreate", "v1:0", "create(2) revision=2");
    let deployment = deployment("2 recreate");
    let terminating = plan(&deployment, &sets("v1:0", 2, 2), true);
    assert_eq!(describe(&terminating), "");
}

#[test]
fn scaling_is_followed_and_shared_out() {
    check("5", "v2:3@3", "v2:3->5 revision=1");
    check("5 paused", "v1:3@3", "v1:3->5");
    check("0", "v2:3@3", "v2:3->0 revision=1");
    // In the middle of a rollout 10 become 20.
    check("20 surge=3 unavailable=0", "v1:8@10 v2:5/0@10", "v2:5->9 v1:8->14 revision=2");
    check("5 surge=1 unavailable=0", "v1:8@10 v2:3/0@10", "v2:3->2 v1:8->4 revision=2");
}

#[test]
fn the_new_set_grows_into_the_room_that_surge_leaves() {
    check("10 surge=0 unavailable=2", "v1:10 v2:0", "v1:10->8 revision=2"); // None: the old one makes room first.
    check("10 surge=2 unavailable=2", "v1:10 v2:0", "v2:0->2 revision=2");
    check("10 surge=2 unavailable=2", "v1:5 v2:0", "v2:0->7 revision=2");
    check("10 surge=2 unavailable=2", "v1:10 v2:2", "v1:10->6 revision=2");
    check("10 surge=2 unavailable=2", "v1:2 v2:11", "v2:11->10 revision=2");
    check("10 surge=100% unavailable=0", "v1:10 v2:0", "v2:0->10 revision=2");
    check("1 surge=25% unavailable=25%", "v1:1 v2:0", "v2:0->1 revision=2"); // One more than a quarter of one.
}

#[test]
fn old_sets_shrink_as_far_as_availability_allows() {
    check("10 surge=1 unavailable=0", "v1:10 v2:1/0", "revision=2");
    check("10 surge=0 unavailable=2", "v1:10/9 v2:0", "v1:10->8 revision=2");
    check("10 surge=0 unavailable=2", "v1:10/8 v2:0", "v1:10->8 revision=2"); // Just those that were down anyway.
    check("10 surge=0 unavailable=2", "v0:2/0 v1:8 v2:0", "v0:2->0 revision=3");
    check("10 surge=0 unavailable=2", "v1:8 v2:2/0", "revision=2"); // The new ones are not there yet.
    check("10 surge=0 unavailable=2", "v1:8 v2:2", "v1:8->6 revision=2");
    check("10 surge=0 unavailable=100%", "v1:10 v2:0", "v1:10->0 revision=2");
    check("10 surge=0 unavailable=20", "v1:10 v2:0", "v1:10->0 revision=2"); // More than there are.
    check("10 surge=0 unavailable=2", "v1:8/8/10 v2:0", "v2:0->2 revision=2"); // Two are on their way out.
}

#[test]
fn sets_in_the_middle_of_a_rollout_share_in_proportion() {
    //    deployment                    sets (wanted@size before)        steps
    check("10 surge=0 unavailable=1", "v1:3@5 v2:2@5", "v2:2->4 v1:3->6 revision=2");
    check("5 surge=0 unavailable=1", "v1:6@10 v2:4@10", "v2:4->2 v1:6->3 revision=2");
    check("9 surge=0 unavailable=1", "v1:3@5 v2:2@5", "v2:2->4 v1:3->5 revision=2"); // To the nearest.
    check("20 surge=0 unavailable=1", "v0:5@15 v1:5@15 v2:5@15", "v2:5->7 v0:5->6 v1:5->7 revision=3"); // Of equals the newest gains first,
    check("10 surge=0 unavailable=1", "v0:5@15 v1:5@15 v2:5@15", "v2:5->4 v0:5->3 v1:5->3 revision=3"); // and the oldest loses first.
    check("20 surge=0 unavailable=1", "v1:0@10 v2:10@10", "v2:10->20 revision=2"); // None is in the middle of anything.
    check("0 surge=0 unavailable=1", "v1:3@5 v2:2@5", "v2:2->0 v1:3->0 revision=2");
    check("6 surge=0 unavailable=1", "v1:4@5 v2:1@5", "v1:4->5 revision=2"); // What is left goes to the largest.
}

#[test]
fn paused_creates_nothing() {
    check("3 paused", "", "");
    check("3 paused", "v1:3", "");
}

#[test]
fn history_is_limited_once_complete() {
    let mut deployment = deployment("3 limit=1");
    deployment.status = Some(DeploymentStatus {
        observed_generation: Some(2),
        replicas: Some(3),
        updated_replicas: Some(3),
        available_replicas: Some(3),
        ..DeploymentStatus::default()
    });
    let plan = plan(&deployment, &sets("a:0 b:0 v2:3", 3, 4), false);
    assert_eq!(describe(&plan), "revision=3 delete(a)");
}

/// `TYPE=STATUS:REASON[-SECONDS]`: as the status has it, last updated so long ago.
fn with_conditions(mut deployment: Deployment, words: &str, counts: (i32, i32, i32)) -> Deployment {
    let (replicas, updated, available) = counts;
    let conditions = words.split_whitespace().map(|word| {
        let (type_, rest) = word.split_once('=').unwrap();
        let (status, rest) = rest.split_once(':').unwrap();
        let (reason, age) = rest.split_once('-').unwrap_or((rest, "0"));
        let time = Some(fixtures::ago(age.parse().unwrap()));
        DeploymentCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: None,
            last_update_time: time.clone(),
            last_transition_time: time,
        }
    });
    deployment.status = Some(DeploymentStatus {
        observed_generation: Some(2),
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(available),
        available_replicas: Some(available),
        conditions: Some(conditions.collect()),
        ..DeploymentStatus::default()
    });
    deployment
}

/// What Progressing becomes: its status, reason and message, when it was last updated and when it last changed, in seconds
/// before now, and when to look again. `before` is its condition, with the counts of replicas, updated and available ones.
#[track_caller]
fn check_progress(spec: &str, before: &str, counts: (i32, i32, i32), members: &str, expected: &str) {
    let deployment = with_conditions(deployment(spec), before, counts);
    let size = rolling::replicas(&deployment);
    let plan = plan(&deployment, &sets(members, size, size + rolling::max_surge(&deployment)), false);
    let conditions = plan.status.conditions.unwrap_or_default();
    let told = conditions.iter().find(|condition| condition.type_ == "Progressing").map_or_else(String::new, |condition| {
        let ago = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            fixtures::now().as_second() - time.as_ref().unwrap().0.as_second()
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (reason, message) = (text(&condition.reason), text(&condition.message));
        let (updated, changed) = (ago(&condition.last_update_time), ago(&condition.last_transition_time));
        format!("{} {reason} ({message}) {updated}/{changed}", condition.status)
    });
    let next = match plan.next {
        Next::Settled => String::new(),
        Next::After(delay) => format!(" in {}s", delay.as_secs()),
    };
    assert_eq!(told + &next, expected);
}

#[test]
fn progress_is_told_as_it_goes() {
    let spec = "3 surge=1 unavailable=0";
    let updated = "Progressing=True:ReplicaSetUpdated-50";
    //             spec  before    was        sets              after
    check_progress(spec, "", (0, 0, 0), "", "True NewReplicaSetCreated (Created new replica set \"web-5cc859577\") 0/0 in 601s");
    check_progress(spec, "", (3, 3, 3), "v2:3/2", "True FoundNewReplicaSet (Found new replica set \"v2\") 0/0 in 601s");
    check_progress(spec, updated, (4, 1, 3), "v1:3 v2:1", "True ReplicaSetUpdated (ReplicaSet \"v2\" is progressing.) 0/50 in 601s"); // One more available.
    check_progress(spec, updated, (4, 2, 3), "v1:3 v2:1/0", "True ReplicaSetUpdated () 50/50 in 551s"); // Nothing new.
    check_progress(spec, updated, (4, 0, 3), "v1:3 v2:1/0", "True ReplicaSetUpdated (ReplicaSet \"v2\" is progressing.) 0/50 in 601s");
    check_progress(spec, updated, (5, 1, 3), "v1:3 v2:1/0", "True ReplicaSetUpdated (ReplicaSet \"v2\" is progressing.) 0/50 in 601s"); // One old less.
    check_progress(spec, updated, (4, 3, 3), "v1:0 v2:3", "True NewReplicaSetAvailable (ReplicaSet \"v2\" has successfully progressed.) 0/50");
    check_progress(spec, "Progressing=True:ReplicaSetUpdated-600", (4, 2, 3), "v1:3 v2:1/0", "True ReplicaSetUpdated () 600/600 in 1s");
    check_progress(spec, "Progressing=True:ReplicaSetUpdated-601", (4, 2, 3), "v1:3 v2:1/0", "False ProgressDeadlineExceeded (ReplicaSet \"v2\" has timed out progressing.) 0/0");
    check_progress(spec, "Progressing=False:ProgressDeadlineExceeded-50", (4, 2, 3), "v1:3 v2:1/0", "False ProgressDeadlineExceeded () 50/50");
    check_progress(spec, "Progressing=False:ProgressDeadlineExceeded-50", (4, 0, 3), "v1:3 v2:1/0", "True ReplicaSetUpdated (ReplicaSet \"v2\" is progressing.) 0/0 in 601s"); // After all.
    check_progress(spec, "Progressing=True:NewReplicaSetAvailable-999", (3, 3, 3), "v2:3/2", "True NewReplicaSetAvailable () 999/999"); // It has been rolled out.
    check_progress(spec, "Progressing=True:NewReplicaSetAvailable-999", (3, 3, 3), "v1:3", "True NewReplicaSetCreated (Created new replica set \"web-5cc859577\") 0/999 in 601s");
    check_progress(spec, "Progressing=False:ReplicaSetCreateError-9", (3, 0, 3), "v1:3 v2:0", "False ReplicaSetCreateError () 9/9 in 592s");
}

#[test]
fn time_does_not_run_while_paused() {
    let (spec, paused) = ("3 surge=1 unavailable=0", "3 surge=1 unavailable=0 paused");
    let members = "v1:3 v2:1/0";
    check_progress(paused, "Progressing=True:ReplicaSetUpdated-700", (4, 1, 3), members, "Unknown DeploymentPaused (Deployment is paused) 0/0");
    check_progress(paused, "Progressing=Unknown:DeploymentPaused-700", (4, 1, 3), members, "Unknown DeploymentPaused () 700/700");
    check_progress(paused, "Progressing=False:ProgressDeadlineExceeded-9", (4, 1, 3), members, "False ProgressDeadlineExceeded () 9/9"); // Stays said.
    check_progress(spec, "Progressing=Unknown:DeploymentPaused-700", (4, 1, 3), members, "Unknown DeploymentResumed (Deployment is resumed) 0/700 in 601s");
    check_progress(spec, "Progressing=Unknown:DeploymentResumed-601", (4, 1, 3), members, "False ProgressDeadlineExceeded (ReplicaSet \"v2\" has timed out progressing.) 0/0");
    check_progress(paused, "", (0, 0, 0), "", "Unknown DeploymentPaused (Deployment is paused) 0/0");
}

#[test]
fn without_a_deadline_nothing_is_said_of_progress() {
    let mut deployment = with_conditions(deployment("3"), "Progressing=True:ReplicaSetUpdated-50", (3, 0, 3));
    deployment.spec.as_mut().unwrap().progress_deadline_seconds = Some(i32::MAX);
    check_conditions(&deployment, "v1:3 v2:0", "Available=True:MinimumReplicasAvailable");
}

#[test]
fn available_means_as_many_as_may_not_be_missing() {
    #[track_caller]
    fn check(spec: &str, members: &str, expected: &str) {
        let status = plan(&deployment(spec), &sets(members, 10, 13), false).status;
        let conditions = status.conditions.unwrap();
        let condition = conditions.iter().find(|condition| condition.type_ == "Available").unwrap();
        assert_eq!(format!("{} {}", condition.status, condition.message.as_deref().unwrap()), expected);
    }
    let (yes, no) = ("True Deployment has minimum availability.", "False Deployment does not have minimum availability.");
    check("10 unavailable=2", "v2:10/8", yes);
    check("10 unavailable=2", "v2:10/7", no);
    check("10 unavailable=25%", "v2:10/8", yes);
    check("10 unavailable=25%", "v2:10/7", no);
    check("10 unavailable=2", "v1:5/4 v2:5/4", yes); // Of whatever revision.
    check("10 recreate", "v2:10/9", no);
    check("0", "v2:0", yes);
}

#[test]
fn a_failure_of_a_set_shows() {
    #[track_caller]
    fn check(failing: &[&str], expected: Option<&str>) {
        let failure = |name: &str| k8s_openapi::api::apps::v1::ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(format!("of {name}")),
            last_transition_time: Some(fixtures::ago(7)),
        };
        let members: Vec<Arc<ReplicaSet>> = sets("v1:3 v2:1", 3, 4)
            .iter()
            .map(|set| {
                let mut set = (**set).clone();
                let name = set.metadata.name.clone().unwrap();
                set.status.as_mut().unwrap().conditions = failing.contains(&name.as_str()).then(|| vec![failure(&name)]);
                Arc::new(set)
            })
            .collect();
        let deployment = with_conditions(deployment("3"), "ReplicaFailure=True:FailedDelete", (4, 1, 4));
        let conditions = plan(&deployment, &members, false).status.conditions.unwrap();
        let shown = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure");
        assert_eq!(shown.and_then(|condition| condition.message.as_deref()), expected);
    }
    check(&[], None);
    check(&["v1"], Some("of v1"));
    check(&["v1", "v2"], Some("of v2")); // The new one's first.
}

#[test]
fn the_status_counts() {
    let plan = plan(&deployment("5"), &sets("v0:0 v1:3/2/4 v2:2/1", 5, 7), false);
    let status = plan.status;
    let counts = [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas, status.terminating_replicas];
    assert_eq!(counts, [Some(6), Some(2), Some(3), Some(3), Some(0)]);
    assert_eq!(status.unavailable_replicas, Some(4)); // Of those wanted after this round, the new one having grown by two.
    assert_eq!(status.observed_generation, Some(2));
}

#[track_caller]
fn check_conditions(deployment: &Deployment, members: &str, expected: &str) -> DeploymentStatus {
    let plan = plan(deployment, &sets(members, 3, 4), false);
    let mut conditions: Vec<String> = plan
        .status
        .conditions
        .iter()
        .flatten()
        .map(|condition| format!("{}={}:{}", condition.type_, condition.status, condition.reason.as_deref().unwrap()))
        .collect();
    conditions.sort();
    assert_eq!(conditions.join(" "), expected);
    plan.status
}

#[test]
fn conditions_tell_the_story() {
    let mut deployment = deployment("3 surge=1 unavailable=0");
    let created = "Available=False:MinimumReplicasUnavailable Progressing=True:NewReplicaSetCreated";
    deployment.status = Some(check_conditions(&deployment, "", created));
    let updating = "Available=False:MinimumReplicasUnavailable Progressing=True:ReplicaSetUpdated";
    deployment.status = Some(check_conditions(&deployment, "v2:3/1", updating));
    let done = "Available=True:MinimumReplicasAvailable Progressing=True:NewReplicaSetAvailable";
    deployment.status = Some(check_conditions(&deployment, "v2:3", done));
    // A finished rollout that loses pods is unavailable, but never out of time.
    let lost = "Available=False:MinimumReplicasUnavailable Progressing=True:NewReplicaSetAvailable";
    check_conditions(&deployment, "v2:3/2", lost);
    deployment.spec.as_mut().unwrap().paused = Some(true);
    let paused = "Available=True:MinimumReplicasAvailable Progressing=Unknown:DeploymentPaused";
    check_conditions(&deployment, "v2:3", paused);
}

#[test]
fn no_progress_within_the_deadline_is_reported() {
    let mut deployment = deployment("3 surge=1 unavailable=0");
    let mut status = plan(&deployment, &sets("v1:3 v2:1/0", 3, 4), false).status;
    deployment.status = Some(status.clone());
    let waiting = plan(&deployment, &sets("v1:3 v2:1/0", 3, 4), false);
    assert_eq!(waiting.next, Next::after_seconds(Some(601)));
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_update_time = Some(fixtures::ago(601));
    }
    deployment.status = Some(status);
    let late = "Available=True:MinimumReplicasAvailable Progressing=False:ProgressDeadlineExceeded";
    check_conditions(&deployment, "v1:3 v2:1/0", late);
}
