//! Several copies of controllers and scheduler: one of each works, another takes over, and who was deposed writes no
//! more. That no two write at a time is an invariant of every run with copies.

use std::time::Duration;

use client::Patch;
use serde_json::{Value, json};
use sim::{ClusterConfig, FaultRates, NodeConfig, SimulatedCluster};
use tokio::time::Instant;

use crate::{seeds, service_account_key, with_virtual_time};

const CONTROLLERS: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";
const SECOND: Duration = Duration::from_secs(1);

/// The lease less one period of renewal, and the lease with a retry of the standby and what is lost on the way.
const LEASE_LEAST: Duration = Duration::from_secs(15 - 5 - 1);
const LEASE_MOST: Duration = Duration::from_secs(15 + 2 + 2);

/// Runs a scenario with two copies of all, for some seeds, and looks at the invariants at the end.
fn with_two_copies(scenario: impl AsyncFn(&SimulatedCluster)) {
    for seed in seeds(3) {
        with_virtual_time(async {
            let config = ClusterConfig { copies: 2, ..ClusterConfig::new(seed, service_account_key()) };
            let cluster = SimulatedCluster::start_with(config).await.expect("starts");
            cluster.add_node(NodeConfig::named("n"));
            for lease in [CONTROLLERS, SCHEDULER] {
                leader_other_than(&cluster, lease, "").await;
            }
            scenario(&cluster).await;
            assert_eq!(cluster.broken(false), [""; 0], "CORACLE_SEED={seed}");
        });
    }
}

async fn leader_other_than(cluster: &SimulatedCluster, lease: &str, former: &str) -> String {
    let found = cluster.eventually(Duration::from_secs(60), async || cluster.leader(lease).filter(|leader| leader != former)).await;
    found.unwrap_or_else(|| panic!("nobody took over {lease} from {former:?}, CORACLE_SEED={}", cluster.seed))
}

/// `kube-scheduler_1-0` is a life of the copy `kube-scheduler-1`.
fn copy_of(identity: &str) -> String {
    let (component, life) = identity.split_once('_').expect("an identity");
    format!("{component}-{}", life.split('-').next().expect("a copy"))
}

/// A Deployment's pods run: controllers and scheduler both work.
async fn expect_work(cluster: &SimulatedCluster, name: &str, within: Duration) {
    let deployment = json!({"metadata": {"name": name}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": {
        "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    }}});
    cluster.rest.post_at::<Value>("/apis/apps/v1/namespaces/default/deployments".into(), &deployment).await.expect("is created");
    let running = async || {
        let ready = |world: &sim::World| world.pods().filter(|pod| pod.name.starts_with(name) && pod.is_available()).count();
        (cluster.world(ready) == 3).then_some(())
    };
    let done = cluster.eventually(within, running).await;
    assert!(done.is_some(), "three pods of {name} within {within:?}, CORACLE_SEED={}", cluster.seed);
}

#[test]
fn a_second_copy_takes_over_from_one_that_was_killed() {
    with_two_copies(async |cluster| {
        expect_work(cluster, "before", 10 * SECOND).await;
        for lease in [CONTROLLERS, SCHEDULER] {
            let former = cluster.leader(lease).expect("one leads");
            let killed = Instant::now();
            cluster.kill(&copy_of(&former));
            leader_other_than(cluster, lease, &former).await;
            let took = killed.elapsed();
            assert!((LEASE_LEAST..=LEASE_MOST).contains(&took), "{lease} after {took:?}, CORACLE_SEED={}", cluster.seed);
        }
        expect_work(cluster, "after", 10 * SECOND).await;
    });
}

#[test]
fn a_parted_leader_stops_before_another_begins() {
    with_two_copies(async |cluster| {
        for lease in [CONTROLLERS, SCHEDULER] {
            let former = cluster.leader(lease).expect("one leads");
            let parted = Instant::now();
            cluster.set_cut(&copy_of(&former), true);
            let next = leader_other_than(cluster, lease, &former).await;
            let took = parted.elapsed();
            assert!((LEASE_LEAST..=LEASE_MOST).contains(&took), "{lease} after {took:?}, CORACLE_SEED={}", cluster.seed);
            // It is back and full of what it had wanted to do; but it leads no longer.
            cluster.set_cut(&copy_of(&former), false);
            expect_work(cluster, if lease == SCHEDULER { "second" } else { "first" }, 10 * SECOND).await;
            assert_eq!(cluster.leader(lease), Some(next), "it is not taken back");
        }
    });
}

/// The leader's work is not done at the moment at which it is parted, and has changed when it is back.
#[test]
fn what_a_deposed_leader_had_in_hand_is_not_written() {
    with_two_copies(async |cluster| {
        expect_work(cluster, "web", 10 * SECOND).await;
        let former = cluster.leader(CONTROLLERS).expect("one leads");
        let scale = async |replicas: i64| {
            let change = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            cluster.rest.patch_at::<Value>("/apis/apps/v1/namespaces/default/deployments/web".into(), &change).await.expect("is scaled");
        };
        scale(40).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        cluster.set_cut(&copy_of(&former), true);
        scale(1).await;
        leader_other_than(cluster, CONTROLLERS, &former).await;
        cluster.set_cut(&copy_of(&former), false);
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(cluster.world(|world| world.pods().filter(|pod| pod.is_active()).count()), 1, "CORACLE_SEED={}", cluster.seed);
    });
}

/// A renewal counts from when it was asked for: its answer may take nearly as long as the lease.
#[test]
fn late_answers_make_no_second_leader() {
    with_two_copies(async |cluster| {
        cluster.faults.begin(FaultRates { answer_delay_max: 12 * SECOND, ..FaultRates::default() });
        for round in 0..40 {
            // Something for the controllers to do.
            let deployment = json!({"metadata": {"name": format!("d-{round}")}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}},
                "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
            cluster.rest.post_at::<Value>("/apis/apps/v1/namespaces/default/deployments".into(), &deployment).await.expect("is created");
            tokio::time::sleep(5 * SECOND).await;
        }
        cluster.faults.end();
        leader_other_than(cluster, CONTROLLERS, "").await;
    });
}
