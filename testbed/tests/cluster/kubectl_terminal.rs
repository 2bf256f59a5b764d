//! Our kubectl at a terminal: colours, tables in place, bars, and a terminal left sane; none of it in a pipe.

use std::time::Duration;

use testbed::cluster::for_test;

use crate::ours::Ours;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "busybox:1.35", command: [sleep, "3600"]}]}}
"#;

#[test]
fn a_terminal_shows_more_than_a_pipe() {
    let Some(cluster) = for_test(&[]) else { return };
    let home = tempfile::tempdir().expect("a scratch directory");
    let ours = Ours { cluster: &cluster, home: home.path() };
    ours.apply(WEB);
    // `script` gives its command a terminal of its own and passes on what it writes.
    let at_terminal = |variables: &str, line: &str| {
        let output = ours.output(&format!("TERM=xterm {variables} script -qefc '\"$CORACLE\" kubectl {line}' /dev/null"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status = at_terminal("", "rollout status deployment/web --timeout=60s");
    assert!(status.contains("deployment.apps/web [") && status.contains("] 2/2 ") || status.contains("successfully"), "{status:?}");
    assert!(status.ends_with("\r\u{1b}[Kdeployment \"web\" successfully rolled out\r\n"), "{status:?}");

    let table = at_terminal("", "get pods");
    assert!(table.contains("\u{1b}[32mRunning\u{1b}[0m"), "{table:?}");
    for plain in [at_terminal("NO_COLOR=1", "get pods"), ours.run("kubectl get pods")] {
        assert!(plain.contains("Running") && !plain.contains('\u{1b}'), "{plain:?}");
    }

    // Somebody scales while the table is watched: the frame that follows stands where the last one stood.
    let scaling = ours.command("sleep 1; kubectl scale deployment/web --replicas=1").spawn().expect("starts");
    let watched = ours.output("TERM=xterm timeout 8 script -qefc 'timeout 4 \"$CORACLE\" kubectl get deployment web -w' /dev/null");
    let watched = String::from_utf8_lossy(&watched.stdout).into_owned();
    let frames: Vec<&str> = watched.split("\u{1b}[2A\r").collect();
    assert!(frames.len() > 1 && frames.iter().all(|frame| frame.matches("NAME ").count() == 1), "{watched:?}");
    assert!(frames[0].contains("2/2") && frames.last().is_some_and(|last| last.contains("1/1")), "{watched:?}");
    drop(scaling.wait_with_output());

    // In a pipe a watch is the original's: a line for each change, nothing moves.
    let scaling = ours.command("sleep 1; kubectl scale deployment/web --replicas=2").spawn().expect("starts");
    let piped = ours.output("timeout 4 \"$CORACLE\" kubectl get deployment web -w");
    let piped = String::from_utf8_lossy(&piped.stdout).into_owned();
    assert!(!piped.contains('\u{1b}') && piped.matches("NAME ").count() == 1 && piped.lines().count() > 2, "{piped:?}");
    drop(scaling.wait_with_output());

    // An exec with a terminal hands it back as it was, however it ends.
    let after = ours.output(
        "pod=$(kubectl get pods -o name | head -1)\n\
         export pod; TERM=xterm script -qefc 'before=$(stty -g); \"$CORACLE\" kubectl exec -it $pod -- sh -c \"stty size >/dev/null; exit 5\"; \
         echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo sane' /dev/null",
    );
    let after = String::from_utf8_lossy(&after.stdout).into_owned();
    assert!(after.contains("code 5") && after.contains("sane"), "{after:?}");
    ours.eventually("kubectl get deployment web -o jsonpath='{.status.readyReplicas}'", &["2"], Duration::from_secs(30));
}
