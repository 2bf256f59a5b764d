use super::*;
use crate::fixtures;
use crate::history::POD_REVISION_LABEL;
use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{NodeSpec, PodSpec, PodTemplateSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `[ondelete] [unavailable=N|N%] [surge=N|N%] [minready=N] [select=LABEL] [tolerate=KEY] [host] [node=NAME]`.
fn set(text: &str) -> DaemonSet {
    let mut rolling = RollingUpdateDaemonSet::default();
    let mut kind = "RollingUpdate";
    let mut pod = PodSpec::default();
    let mut spec = DaemonSetSpec::default();
    let count = |value: &str| value.parse().map_or_else(|_| IntOrString::String(value.into()), IntOrString::Int);
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "ondelete" => kind = "OnDelete",
            "unavailable" => rolling.max_unavailable = Some(count(value)),
            "surge" => rolling.max_surge = Some(count(value)),
            "minready" => spec.min_ready_seconds = Some(value.parse().unwrap()),
            "select" => drop(pod.node_selector.get_or_insert_default().insert(value.into(), "yes".into())),
            "tolerate" => {
                let toleration = Toleration { key: Some(value.into()), operator: Some("Exists".into()), ..Toleration::default() };
                pod.tolerations.get_or_insert_default().push(toleration);
            }
            "host" => pod.host_network = Some(true),
            "node" => pod.node_name = Some(value.into()),
            other => panic!("{other}"),
        }
    }
    spec.update_strategy = Some(DaemonSetUpdateStrategy { type_: Some(kind.into()), rolling_update: Some(rolling) });
    spec.template = PodTemplateSpec { spec: Some(pod), metadata: None };
    DaemonSet { spec: Some(spec), ..DaemonSet::default() }
}

/// `name[+label][!taint:effect]`.
fn node(word: &str) -> Arc<Node> {
    let (word, taint) = word.split_once('!').map_or((word, None), |(word, taint)| (word, Some(taint)));
    let (name, label) = word.split_once('+').map_or((word, None), |(name, label)| (name, Some(label)));
    let mut node = Node::default();
    node.metadata.name = Some(name.into());
    node.metadata.labels = label.map(|label| [(label.to_owned(), "yes".to_owned())].into());
    let taints = taint.map(|taint| {
        let (key, effect) = taint.split_once(':').unwrap();
        vec![Taint { key: key.into(), effect: effect.into(), ..Taint::default() }]
    });
    node.spec = Some(NodeSpec { taints, ..NodeSpec::default() });
    Arc::new(node)
}

/// Nodes as above, pods `name@node[:flags]`, outdated with a trailing `~`, not bound yet with `name?node`.
fn plan(spec: &str, nodes: &str, pods: &str) -> Plan {
    let set = set(spec);
    let nodes: Vec<Arc<Node>> = nodes.split_whitespace().map(node).collect();
    let pods: Vec<Arc<Pod>> = pods
        .split_whitespace()
        .map(|word| {
            let hash = if word.ends_with('~') { "old" } else { "new" };
            let bound = word.contains('@');
            let (name, rest) = word.trim_end_matches('~').split_once(['@', '?']).unwrap();
            let (node, flags) = rest.split_once(':').unwrap_or((rest, ""));
            let mut pod = fixtures::pod(&format!("{name}:{flags}"));
            if bound {
                pod.spec.as_mut().unwrap().node_name = Some(node.into());
            } else {
                pod.spec.as_mut().unwrap().affinity = template::new_pod(&set, node, hash).spec.unwrap().affinity;
            }
            pod.metadata.labels.get_or_insert_default().insert(POD_REVISION_LABEL.into(), hash.into());
            Arc::new(pod)
        })
        .collect();
    decide(&Observed { set: &set, nodes: &nodes, pods: &pods, hash: "new", collisions: 0 }, fixtures::now())
}

#[track_caller]
fn check(spec: &str, nodes: &str, pods: &str, expected: &str) {
    let plan = plan(spec, nodes, pods);
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
    let mut steps: Vec<String> = plan.create.iter().map(|node| format!("+{node}")).collect();
    steps.extend(plan.delete.iter().map(|pod| format!("-{}", name(pod))));
    steps.extend(plan.lost.iter().map(|loss| format!("{}({})", if loss.failed { "failed" } else { "ended" }, name(&loss.pod))));
    assert_eq!(steps.join(" "), expected);
}

#[test]
fn one_per_fitting_node() {
    check("", "n1 n2", "", "+n1 +n2");
    check("", "n1 n2", "a@n1", "+n2");
    check("", "n1 n2", "a?n1", "+n2"); // On its way to its node.
    check("", "n1", "a@n1:age=9 b@n1:age=5", "-b"); // The oldest stays.
    check("", "n1", "a?n1:age=9 b@n1:age=5", "-a"); // The bound one stays.
    check("", "n1", "a@n1:deleting", ""); // The next one when it is gone.
    check("", "n1", "a@n1:deleting,failed", "+n1"); // Ended: it is in nobody's way.
    check("", "n1", "a@n1:failed", "failed(a)");
    check("", "n1", "a@n1:succeeded", "ended(a)");
    check("", "n1", "a@gone b?gone", "+n1 -b"); // What was bound the node's end takes along.
    check("", "", "", "");
}

#[test]
fn which_nodes_fit() {
    #[track_caller]
    fn check(spec: &str, word: &str, expected: &str) {
        let told = match placement(&set(spec), &node(word)) {
            Placement { starts: true, stays: true } => "runs",
            Placement { starts: false, stays: true } => "stays",
            Placement { starts: false, stays: false } => "goes",
            other => panic!("{other:?}"),
        };
        assert_eq!(told, expected);
    }
    check("", "n", "runs");
    check("", "n!x:NoSchedule", "stays");
    check("", "n!x:NoExecute", "goes");
    check("", "n!x:PreferNoSchedule", "runs");
    check("tolerate=x", "n!x:NoExecute", "runs");
    check("tolerate=x", "n!y:NoExecute", "goes");
    check("select=ssd", "n", "goes");
    check("select=ssd", "n+ssd", "runs");
    check("select=ssd", "n+ssd!x:NoSchedule", "stays");
    check("node=n", "n", "runs");
    check("node=n", "m", "goes");
    // Troubles of its node a daemon lives with.
    for taint in ["not-ready:NoExecute", "unreachable:NoExecute", "unschedulable:NoSchedule", "disk-pressure:NoSchedule",
        "memory-pressure:NoSchedule", "pid-pressure:NoSchedule"]
    {
        check("", &format!("n!node.kubernetes.io/{taint}"), "runs");
    }
    check("", "n!node.kubernetes.io/network-unavailable:NoSchedule", "stays");
    check("host", "n!node.kubernetes.io/network-unavailable:NoSchedule", "runs");
    check("", "n!node.kubernetes.io/out-of-service:NoExecute", "goes");
}

#[test]
fn what_no_longer_fits_goes() {
    check("", "n1!x:NoSchedule", "", "");
    check("", "n1!x:NoSchedule", "a@n1", "");
    check("", "n1!x:NoSchedule", "a@n1:failed", "failed(a)");
    check("", "n1!x:NoExecute", "a@n1 b@n1:failed c@n1:deleting", "-a -b");
    check("select=ssd", "n1 n2+ssd", "a@n1", "+n2 -a");
    check("", "n1!node.kubernetes.io/not-ready:NoExecute", "", "+n1");
}

#[test]
fn updates_a_few_nodes_at_a_time() {
    check("", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "-a");
    check("unavailable=2", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "-a -b");
    check("unavailable=50%", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "-a -b"); // Rounded up.
    check("unavailable=0", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "-a"); // Neither that nor surge: one.
    check("", "n1 n2 n3", "a@n1:unready b@n2~ c@n3~", "");
    check("", "n1 n2 n3", "a@n1:deleting~ b@n2~ c@n3~", "");
    check("", "n1 n2 n3", "b@n2~ c@n3~", "+n1");
    check("unavailable=2", "n1 n2 n3", "a@n1:unready b@n2~ c@n3~", "-b");
    check("minready=30", "n1 n2", "a@n1:age=10 b@n2~", ""); // Ready, not yet available.
    check("", "n1 n2 n3", "a@n1 b@n2:unready~ c@n3~", "-b"); // Costs nothing.
    check("", "n1 n2 n3", "a@n1:unready~ b@n2:unready~ c@n3~", "-a -b");
    check("", "n1 n2", "a@n1:failed~ b@n2~", "failed(a)");
    check("", "n1 n2", "a@n1:age=9~ d@n1:age=5 b@n2~", "-d"); // Tidied up first.
    check("ondelete", "n1", "a@n1~", "");
    check("ondelete", "n1 n2", "a@n1~", "+n2");
}

#[test]
fn surging_waits_for_the_new_one() {
    let surge = "surge=1 unavailable=0";
    check(surge, "n1 n2", "a@n1~ b@n2~", "+n1");
    check("surge=2 unavailable=0", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "+n1 +n2");
    check("surge=50% unavailable=0", "n1 n2 n3", "a@n1~ b@n2~ c@n3~", "+n1 +n2");
    check(surge, "n1 n2", "a@n1:age=9~ b@n2~ c@n1:age=5,unready", "");
    check(surge, "n1 n2", "a@n1:age=9~ b@n2~ c@n1:age=5", "+n2 -a");
    check("surge=1 unavailable=0 minready=30", "n1 n2", "a@n1~ b@n2~ c@n1:age=10", "");
    check(surge, "n1 n2", "a@n1:unready~ b@n2:unready~", "+n1 +n2"); // Those are of no use anyway.
    check(surge, "n1 n2", "a@n1:unready~ b@n2~ c@n1:unready", "-a"); // Neither is ready: the new one stays.
    check(surge, "n1", "a@n1:age=9~ b@n1:age=8~ c@n1:unready d@n1:unready", "-b -d");
    check(surge, "n1", "a@n1:deleting~", "");
    check(surge, "n1!x:NoSchedule", "a@n1~", ""); // It stays where it could not start.
}

/// Compared are desired, current, ready, available, unavailable, updated, misscheduled.
#[track_caller]
fn check_status(spec: &str, nodes: &str, pods: &str, expected: [i32; 7]) {
    let status = plan(spec, nodes, pods).status;
    let number = |value: Option<i32>| value.unwrap_or(0);
    let told = [
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        number(status.number_available),
        number(status.number_unavailable),
        number(status.updated_number_scheduled),
        status.number_misscheduled,
    ];
    assert_eq!(told, expected);
}

#[test]
fn the_status_counts_nodes() {
    //                                                              desired, current, ready, available, un-, updated, mis-
    check_status("", "n1 n2", "", [2, 0, 0, 0, 2, 0, 0]);
    check_status("", "n1 n2", "a@n1 b@n2:unready~", [2, 2, 1, 1, 1, 1, 0]);
    check_status("", "n1 n2!x:NoSchedule", "a@n1 b@n2", [1, 1, 1, 1, 0, 1, 1]);
    check_status("minready=30", "n1 n2", "a@n1:age=10 b@n2", [2, 2, 2, 1, 1, 2, 0]);
    check_status("", "n1", "a@n1:deleting~", [1, 1, 1, 1, 0, 0, 0]); // It stands for its node until it is gone.
    check_status("surge=1 unavailable=0", "n1", "a@n1:age=9~ b@n1:age=5,unready", [1, 1, 1, 1, 0, 0, 0]); // So does the older one.
    check_status("", "n1", "a@n1:deleting,failed", [1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn looks_again_when_a_pod_may_have_become_available() {
    assert_eq!(plan("minready=30", "n1 n2", "a@n1:age=10 b@n2:age=25").next, Next::after_seconds(Some(5)));
    assert_eq!(plan("", "n1", "a@n1:unready").next, Next::Settled);
}

#[test]
fn a_burst_is_limited() {
    let nodes: String = (0..300).map(|at| format!("n{at} ")).collect();
    assert_eq!(plan("", &nodes, "").create.len(), 250);
}
