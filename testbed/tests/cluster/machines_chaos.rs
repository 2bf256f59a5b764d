//! Random kills and partitions from a seed, on machines of their own kernel namespaces, with a client that counts.
//!
//! `CORACLE_CHAOS_SECONDS` is how long it goes on (30 by default), `CORACLE_SEED` which run it is.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use testbed::machines::{Machines, Plan, Request};

use crate::machines::{machines, web};

const PORT: u16 = 30080;
const EVERY: Duration = Duration::from_millis(100);
/// After the last fault is mended everything must be as wanted within this.
const CONVERGED_WITHIN: Duration = Duration::from_secs(90);

/// What the API server knows every node knows, and does, this much later; the client has its answers by then.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Milliseconds that the client waits. A machine that has other work may let one pass in some hundreds; what is not led
/// anywhere at all lets every one pass.
const PATIENCE: u64 = 1000;

/// Three with a name each; what they run is found among the host's processes, where it is told from other runs'.
const DATABASE: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - name: main
        image: busybox:1.35
        command: [sh, -c, "n=${HOSTNAME##*-}; exec sleep MARK$n"]
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Server or agent is killed; pods go on.
    Process,
    /// Everything on the machine ends.
    Power,
    /// The plug is pulled.
    Network,
}

struct Random(u64);

impl Random {
    /// splitmix64
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

struct Row {
    faults: Vec<(usize, Fault)>,
    held: Duration,
    converged: Duration,
    from: u64,
    until: u64,
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A number of seconds that nobody else sleeps.
fn mark() -> String {
    format!("7{:07}", std::process::id())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[test]
fn random_kills_and_partitions() {
    let flags = "--node-monitor-grace-period 5s --node-lease-duration 4s";
    let Some(mut machines) = machines(Plan::of(3).flags(flags)) else { return };
    let seed = setting("CORACLE_SEED", 1);
    let mut random = Random(seed);
    machines.apply(&(web(6) + "---" + &DATABASE.replace("MARK", &mark())));
    machines.kubectl("rollout status deployment/web --timeout=60s");
    machines.kubectl("rollout status statefulset/db --timeout=60s");
    let client = machines.requests(EVERY, PORT).expect("the client starts");
    let end = Instant::now() + Duration::from_secs(setting("CORACLE_CHAOS_SECONDS", 30));
    let mut rows: Vec<Row> = Vec::new();
    let mut written = 0;
    let mut requests = Vec::new();
    while Instant::now() < end {
        let row = round(&mut machines, &mut random, seed, &mut written);
        eprintln!("{:?} held {:.1} s, converged after {:.1} s", row.faults, row.held.as_secs_f64(), row.converged.as_secs_f64());
        rows.push(row);
        requests = client.so_far();
        if rows.len() % 25 == 0 {
            eprintln!("{}", table(&rows, &requests));
        }
    }
    let maps = machines.kubectl("get configmaps -l chaos=yes -o name");
    assert_eq!(maps.lines().count(), written, "seed {seed}: an acknowledged write is lost");
    drop(client);
    eprintln!("seed {seed}\n{}", table(&rows, &requests));
    // Also one that was under way when something went wrong is not calm.
    let calm = |request: &&Request| !rows.iter().any(|row| request.at <= row.until && row.from <= request.at + request.took);
    let calm: Vec<&Request> = requests.iter().filter(calm).collect();
    let (late, failed): (Vec<&Request>, Vec<&Request>) = calm.iter().filter(|request| !request.ok).partition(|it| it.took >= PATIENCE);
    assert!(failed.is_empty(), "seed {seed}: requests failed while nothing was wrong: {failed:?}");
    eprintln!("while nothing was wrong: {} requests, {} of them not answered within a second", calm.len(), late.len());
    assert!(late.len() <= 1 + calm.len() / 500, "seed {seed}: requests were not answered while nothing was wrong: {late:?}");
    assert!(requests.iter().any(|request| request.ok), "seed {seed}: the client must have been answered");
}

/// One or two faults, held for a while, mended, and waited for.
fn round(machines: &mut Machines, random: &mut Random, seed: u64, written: &mut usize) -> Row {
    // Some of the time nothing is wrong, and nothing may fail.
    std::thread::sleep(HEARD_WITHIN + Duration::from_millis(500 + random.below(2000)));
    let name = format!("map-{written}");
    machines.kubectl(&format!("create configmap {name}"));
    machines.kubectl(&format!("label configmap {name} chaos=yes"));
    *written += 1;

    let count = if random.below(4) == 0 { 2 } else { 1 };
    let first = random.below(3) as usize;
    let mut faults = Vec::new();
    for index in 0..count {
        let machine = (first + index) % 3;
        let fault = [Fault::Process, Fault::Power, Fault::Network][random.below(3) as usize];
        faults.push((machine, fault));
    }
    let held = Duration::from_millis(500 + random.below(11_500));
    let from = now();
    for (machine, fault) in &faults {
        match fault {
            Fault::Process => machines.kill_coracle(*machine).expect("is killed"),
            Fault::Power => machines.cut_power(*machine),
            Fault::Network => machines.cut_network(*machine),
        }
    }
    let mend_at = Instant::now() + held;
    while Instant::now() < mend_at {
        nobody_is_doubled(seed, &faults);
        std::thread::sleep(Duration::from_millis(200));
    }
    for (machine, fault) in &faults {
        match fault {
            Fault::Process => machines.start_coracle(*machine).expect("starts"),
            Fault::Power => machines.boot(*machine).expect("boots"),
            Fault::Network => machines.heal_network(*machine),
        }
    }
    let mended = Instant::now();
    while !is_as_wanted(machines) {
        nobody_is_doubled(seed, &faults);
        assert!(
            mended.elapsed() < CONVERGED_WITHIN,
            "seed {seed}: not as wanted {CONVERGED_WITHIN:?} after {faults:?}\n{}\n{:?}\n{}\n{}",
            machines.kubectl("get nodes,pods,endpointslices,deployment,statefulset -o wide"),
            observed(machines),
            machines.kubectl("get pods -o jsonpath={range.items[*]}{.metadata.name}{.status.conditions}{end}"),
            machines.logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Row { faults, held, converged: mended.elapsed(), from, until: now() + HEARD_WITHIN.as_millis() as u64 }
}

/// Every name of the StatefulSet runs once at most, whatever anybody believes of a node that is cut off.
fn nobody_is_doubled(seed: u64, faults: &[(usize, Fault)]) {
    for ordinal in 0..3 {
        let output = Command::new("pgrep").args(["-fxc", &format!("sleep {}{ordinal}", mark())]).output().expect("pgrep runs");
        let count = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(matches!(count.as_str(), "0" | "1"), "seed {seed}: db-{ordinal} runs {count} times after {faults:?}");
    }
}

fn is_as_wanted(machines: &Machines) -> bool {
    observed(machines) == [Some("True True True"), Some("6 3"), Some(""), Some("")].map(|text| text.map(str::to_owned))
}

/// Readiness of the nodes, ready replicas, deletions under way, taints; None: not answered.
fn observed(machines: &Machines) -> [Option<String>; 4] {
    [
        ["nodes", "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"],
        ["deployment,statefulset", "jsonpath={.items[*].status.readyReplicas}"],
        ["pods", "jsonpath={.items[*].metadata.deletionTimestamp}"],
        ["nodes", "jsonpath={.items[*].spec.taints}"],
    ]
    .map(|[what, path]| {
        let output = machines.kubectl_command(&["get", what, "-o", path, "--request-timeout=3s"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// Per kind of fault: how often, how fast it was over, and what the client saw at the machines that were not hit.
fn table(rows: &[Row], requests: &[Request]) -> String {
    #[derive(Default)]
    struct Sum {
        rounds: u32,
        converged: Vec<f64>,
        asked: u64,
        failed: u64,
        worst: f64,
        gap: f64,
    }
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for row in rows {
        let name = |(machine, fault): &(usize, Fault)| format!("{} {fault:?}", if *machine == 0 { "server" } else { "worker" });
        let names: Vec<String> = row.faults.iter().map(name).collect();
        let sum = sums.entry(names.join(" + ").to_lowercase()).or_default();
        sum.rounds += 1;
        sum.converged.push(row.converged.as_secs_f64());
        let hit: Vec<usize> = row.faults.iter().map(|(machine, _)| *machine).collect();
        let of_round = requests.iter().filter(|it| (row.from..=row.until).contains(&it.at) && !hit.contains(&it.machine));
        let failed: Vec<u64> = of_round.clone().filter(|it| !it.ok).map(|it| it.at).collect();
        sum.asked += of_round.count() as u64;
        sum.failed += failed.len() as u64;
        let last = failed.iter().max().map_or(0.0, |at| (at - row.from) as f64 / 1000.0);
        sum.worst = sum.worst.max(last);
        let unhit = (0..3).filter(|machine| !hit.contains(machine));
        let of_machine = |machine| requests.iter().filter(move |it| it.machine == machine && (row.from..=row.until).contains(&it.at));
        sum.gap = unhit.map(|machine| longest_gap(of_machine(machine))).fold(sum.gap, f64::max);
    }
    let mut text = format!(
        "{:<34} {:>6} {:>13} {:>9} {:>9} {:>7} {:>15} {:>15}\n",
        "fault", "rounds", "converged p50", "worst (s)", "requests", "failed", "last failed (s)", "longest gap (s)"
    );
    for (name, mut sum) in sums {
        sum.converged.sort_by(f64::total_cmp);
        let median = sum.converged[sum.converged.len() / 2];
        let worst = sum.converged.last().copied().unwrap_or_default();
        text += &format!(
            "{name:<34} {:>6} {median:>13.1} {worst:>9.1} {:>9} {:>7} {:>15.1} {:>15.1}\n",
            sum.rounds, sum.asked, sum.failed, sum.worst, sum.gap
        );
    }
    let failed = requests.iter().filter(|it| !it.ok).count();
    text + &format!("all requests {}, failed {failed} (also those to machines that were down or cut off)\n", requests.len())
}

/// Seconds from the first failure to the next answer, at worst.
fn longest_gap<'a>(requests: impl Iterator<Item = &'a Request>) -> f64 {
    let mut failing_since = None;
    let mut longest = 0;
    for request in requests {
        if request.ok {
            longest = longest.max(failing_since.take().map_or(0, |since| request.at - since));
        } else {
            failing_since.get_or_insert(request.at);
        }
    }
    longest as f64 / 1000.0
}
