use super::*;
use crate::fixtures;
use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;

/// `available=N|N%` or `unavailable=N|N%`, `granted=NAME@SECONDS ago`, `was=STATUS:REASON@SECONDS ago`.
fn budget(text: &str) -> PodDisruptionBudget {
    let mut spec = PodDisruptionBudgetSpec::default();
    let mut status = PodDisruptionBudgetStatus::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap();
        let number = || value.parse().map_or_else(|_| IntOrString::String(value.into()), IntOrString::Int);
        let (what, seconds) = value.split_once('@').unwrap_or((value, "0"));
        let time = || fixtures::ago(seconds.parse().unwrap());
        match name {
            "available" => spec.min_available = Some(number()),
            "unavailable" => spec.max_unavailable = Some(number()),
            "granted" => drop(status.disrupted_pods.get_or_insert_default().insert(what.into(), time())),
            "was" => {
                let (value, reason) = what.split_once(':').unwrap();
                status.conditions = Some(vec![Condition {
                    type_: CONDITION.into(),
                    status: value.into(),
                    reason: reason.into(),
                    message: String::new(),
                    last_transition_time: time(),
                    observed_generation: Some(6),
                }]);
            }
            other => panic!("{other}"),
        }
    }
    status.observed_generation = Some(6);
    let mut budget = PodDisruptionBudget { spec: Some(spec), status: Some(status), ..PodDisruptionBudget::default() };
    budget.metadata.generation = Some(7);
    budget
}

/// Compared are what is allowed, how many are healthy of how many to be healthy, and when to look again.
#[track_caller]
fn check(text: &str, expected_pods: i32, pods: &str, expected: &str) {
    let (status, next) = decide(&budget(text), &fixtures::pods(pods), expected_pods, fixtures::now());
    let next = match next {
        Next::Settled => String::new(),
        Next::After(delay) => format!(" in {}s", delay.as_secs()),
    };
    let told = format!("{} {}/{}{next}", status.disruptions_allowed, status.current_healthy, status.desired_healthy);
    assert_eq!(told, expected);
    assert_eq!((status.expected_pods, status.observed_generation), (expected_pods, Some(7)));
}

#[test]
fn so_many_must_stay() {
    //    budget                 expected pods                allowed healthy/desired
    check("available=2", 3, "a b c", "1 3/2");
    check("available=2", 3, "a b c:unready", "0 2/2");
    check("available=2", 3, "a b c:pending", "0 2/2");
    check("available=2", 3, "a b c:failed", "0 2/2");
    check("available=5", 3, "a b c", "0 3/5");
    check("available=0", 2, "a b:deleting", "1 1/0");
    check("available=0", 0, "", "0 0/0"); // Nothing is allowed before the first pod is known.
    check("available=50%", 5, "a b c d e", "2 5/3"); // Rounded up.
    check("available=1%", 3, "a b c", "2 3/1");
    check("available=100%", 3, "a b c", "0 3/3");
    check("available=0%", 3, "a b c", "3 3/0");
    check("", 3, "a b c", "3 3/0"); // Neither is said.
}

#[test]
fn so_many_may_be_missing() {
    check("unavailable=1", 3, "a b c", "1 3/2");
    check("unavailable=1", 3, "a b", "0 2/2"); // One is missing already.
    check("unavailable=9", 3, "a b c", "3 3/0");
    check("unavailable=0", 3, "a b c", "0 3/3");
    check("unavailable=30%", 10, "a b c d e f g h i j", "3 10/7");
    check("unavailable=30%", 5, "a b c d e", "2 5/3"); // Rounded up.
    check("unavailable=1", 0, "", "0 0/0");
    check("unavailable=1", 3, "a b c d", "2 4/2"); // One too many, say in the middle of a rollout.
}

#[test]
fn what_was_granted_is_spent() {
    check("unavailable=1 granted=a@20", 3, "a b c", "0 2/2 in 100s");
    check("unavailable=1 granted=a@20", 3, "a:deleting b c", "0 2/2");
    check("unavailable=1 granted=a@20", 3, "b c", "0 2/2");
    check("unavailable=1 granted=a@120", 3, "a b c", "1 3/2 in 0s");
    check("unavailable=1 granted=a@200", 3, "a b c", "1 3/2"); // Not used in time.
    check("unavailable=2 granted=a@20 granted=b@50", 3, "a b c", "0 1/1 in 70s");
    check("unavailable=2 granted=a@20 granted=b@200", 3, "a b c", "1 2/1 in 100s");
    let still_granted = |text: &str, pods: &str| {
        let (status, _) = decide(&budget(text), &fixtures::pods(pods), 3, fixtures::now());
        status.disrupted_pods.unwrap_or_default().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(still_granted("unavailable=2 granted=a@20 granted=b@200 granted=x@20", "a b c"), ["a"]);
}

#[test]
fn who_was_to_go_and_is_still_there_is_told() {
    let told = |text: &str, pods: &str| {
        let (budget, pods) = (budget(text), fixtures::pods(pods));
        overdue(&budget, &pods, fixtures::now()).map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(told("granted=a@121 granted=b@120 granted=c@999", "a b c:deleting d"), ["a"]);
}

#[test]
fn the_condition_tells_why() {
    #[track_caller]
    fn check(text: &str, pods: &str, expected: &str) {
        let (status, _) = decide(&budget(text), &fixtures::pods(pods), 3, fixtures::now());
        let condition = &status.conditions.unwrap()[0];
        let age = fixtures::now().as_second() - condition.last_transition_time.0.as_second();
        assert_eq!(format!("{}:{}@{age}", condition.status, condition.reason), expected);
        assert_eq!(condition.observed_generation, Some(7));
    }
    check("unavailable=1", "a b c", "True:SufficientPods@0");
    check("unavailable=1", "a b", "False:InsufficientPods@0");
    check("unavailable=1 was=True:SufficientPods@50", "a b c", "True:SufficientPods@50");
    check("unavailable=1 was=True:SufficientPods@50", "a b", "False:InsufficientPods@0");
    check("unavailable=1 was=False:SyncFailed@50", "a b", "False:InsufficientPods@50");
}

#[test]
fn when_in_doubt_nothing_is_allowed() {
    let why = "daemonsets.apps does not implement the scale subresource";
    let status = failed(&budget("unavailable=1 was=True:SufficientPods@50"), why, fixtures::now());
    let condition = &status.conditions.as_ref().unwrap()[0];
    let told = (condition.status.as_str(), condition.reason.as_str(), condition.message.as_str(), condition.observed_generation);
    assert_eq!(told, ("False", "SyncFailed", why, Some(6)));
    // The generation is not taken for observed, so that evictions are refused as long.
    assert_eq!((status.disruptions_allowed, status.observed_generation), (0, Some(6)));
}

#[test]
fn unmanaged_pods_are_complained_about() {
    let mut budget = budget("unavailable=1");
    let selector = serde_json::json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "In", "values": ["1", "2"]}]});
    budget.spec.as_mut().unwrap().selector = Some(serde_json::from_value(selector).unwrap());
    let start = "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,},\
                 MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:x,Operator:In,Values:[1 2],},},}) \
                 were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly";
    assert!(unmanaged(&budget).starts_with(start), "{}", unmanaged(&budget));
}
