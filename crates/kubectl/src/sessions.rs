//! Whole sessions, as a user would type them.

use crate::fake::Play;

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  color: blue\n";

#[test]
fn a_deployment_comes_and_goes() {
    for play in [Play::new(), Play::group_by_group()] {
        comes_and_goes(&play);
    }
}

#[track_caller]
fn comes_and_goes(play: &Play) {
    play.check("get deployments", "No resources found in default namespace.\n");
    play.check("create deployment web --image=nginx:1.16 --replicas=2", "deployment.apps/web created\n");
    play.check("create deployment web --image=nginx", "error: failed to create deployment: deployments \"web\" already exists\n[exit code 1]\n");
    play.check("get deploy", "NAME\nweb\n");
    play.check("get deploy -o wide", "NAME   REPLICAS\nweb    2\n");
    play.check("get deployment/web -o name", "deployment.apps/web\n");
    play.check("get deploy web --no-headers --show-labels", "web   app=web\n");
    play.check("get deploy -L app", "NAME   APP\nweb    web\n");
    play.check("get deploy web -o 'jsonpath={.spec.replicas}'", "2");
    play.check("get deploy -o custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[*].image", "NAME   IMAGE\nweb    nginx:1.16\n");
    play.check("scale deployment/web --replicas=3", "deployment.apps/web scaled\n");
    play.check("scale deployment/web", "error: required flag(s) \"replicas\" not set\n[exit code 1]\n");
    play.check("set image deployment/web nginx=nginx:1.17", "deployment.apps/web image updated\n");
    play.check("get deploy web -o go-template='{{(index .spec.template.spec.containers 0).image}}'", "nginx:1.17");
    play.check("label deploy web tier=front", "deployment.apps/web labeled\n");
    play.check("label deploy web tier=back", "error: 'tier' already has a value (front), and --overwrite is false\n[exit code 1]\n");
    play.check("label deploy web tier-", "deployment.apps/web unlabeled\n");
    play.check("annotate deploy web a=b", "deployment.apps/web annotated\n");
    play.check("rollout restart deploy/web", "deployment.apps/web restarted\n");
    play.check("delete deployment web", "deployment.apps \"web\" deleted from default namespace\n");
    play.check("delete deployment web", "Error from server (NotFound): deployments.apps \"web\" not found\n[exit code 1]\n");
    play.check("delete deployment web --ignore-not-found", "");
    play.check("api-resources -o name --sort-by=name", "configmaps\ndeployments.apps\nnamespaces\npods\n");
    play.check("get all", "No resources found in default namespace.\n");
}

#[test]
fn apply_says_what_it_did() {
    let play = Play::new();
    play.check_with("apply -f -", CONFIG, "configmap/settings created\n");
    play.check_with("apply -f -", CONFIG, "configmap/settings unchanged\n");
    play.check_with("apply -f -", &CONFIG.replace("blue", "green"), "configmap/settings configured\n");
    play.check("get cm settings -o 'jsonpath={.data.color}'", "green");
    play.check_with("apply -f -", &CONFIG.replace("  color: blue\n", "  size: big\n"), "configmap/settings configured\n");
    play.check("get cm settings -o 'jsonpath={.data}'", "{\"size\":\"big\"}");
    play.check_with("delete -f -", CONFIG, "configmap \"settings\" deleted from default namespace\n");
    play.check_with("apply -f -", "kind: [", "error: error parsing STDIN: error converting YAML to JSON: yaml: line 1: did not find expected node content\n[exit code 1]\n");
    play.check("apply -f nowhere.yaml", "error: the path \"nowhere.yaml\" does not exist\n[exit code 1]\n");
    play.check_with("create -f - --dry-run=client", CONFIG, "configmap/settings created (dry run)\n");
}

#[test]
fn what_is_wrong_is_said_as_the_original_says_it() {
    let play = Play::new();
    play.check("get nonsense", "error: the server doesn't have a resource type \"nonsense\"\n[exit code 1]\n");
    play.check("get pods web", "Error from server (NotFound): pods \"web\" not found\n[exit code 1]\n");
    play.check("get pods web --ignore-not-found", "");
    play.check("get pods --nope", "error: unknown flag: --nope\nSee 'kubectl get --help' for usage.\n[exit code 1]\n");
    play.check("gett pods", "error: unknown command \"gett\" for \"kubectl\"\n\nDid you mean this?\n\tset\n\tget\n[exit code 1]\n");
    play.check("delete pods", "error: resource(s) were provided, but no name was specified\n[exit code 1]\n");
}

#[test]
fn generators_print_what_they_would_send() {
    let play = Play::new();
    play.check("create cm a --from-literal=x=y --dry-run=client -o yaml", "apiVersion: v1\ndata:\n  x: \"y\"\nkind: ConfigMap\nmetadata:\n  name: a\n");
    play.check(
        "run web --image=nginx --port=80 --dry-run=client -o yaml",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    run: web\n  name: web\nspec:\n  containers:\n  - image: nginx\n    name: web\n    ports:\n    - containerPort: 80\n    resources: {}\n  dnsPolicy: ClusterFirst\n  restartPolicy: Always\nstatus: {}\n",
    );
}

#[test]
fn kubeconfig_is_changed_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config");
    let play = Play::new().with_variable("KUBECONFIG", file.to_str().unwrap());
    play.check("config current-context", "error: current-context is not set\n[exit code 1]\n");
    play.check("config set-cluster c --server=https://c:6443", "Cluster \"c\" set.\n");
    play.check("config set-credentials ann --token=secret", "User \"ann\" set.\n");
    play.check("config set-context work --cluster=c --user=ann --namespace=team", "Context \"work\" created.\n");
    play.check("config use-context work", "Switched to context \"work\".\n");
    play.check("config current-context", "work\n");
    play.check("config get-contexts", "CURRENT   NAME   CLUSTER   AUTHINFO   NAMESPACE\n*         work   c         ann        team\n");
    play.check("config use-context nowhere", "error: no context exists with the name: \"nowhere\"\n[exit code 1]\n");
    play.check(
        "config view",
        "apiVersion: v1\nclusters:\n- cluster:\n    server: https://c:6443\n  name: c\ncontexts:\n- context:\n    cluster: c\n    namespace: team\n    user: ann\n  name: work\ncurrent-context: work\nkind: Config\nusers:\n- name: ann\n  user:\n    token: REDACTED\n",
    );
}

#[test]
fn words_are_completed() {
    let play = Play::new();
    play.check("create deployment web --image=nginx", "deployment.apps/web created\n");
    let check = |line: &str, candidates: &str, directive: u8, name: &str| {
        play.check(&format!("__completeNoDesc {line}"), &format!("{candidates}:{directive}\nCompletion ended with directive: {name}\n"));
    };
    check("get dep", "deployments.apps\n", 4, "ShellCompDirectiveNoFileComp");
    check("get pods,dep", "pods,deployments.apps\n", 4, "ShellCompDirectiveNoFileComp");
    check("get deploy w", "web\n", 4, "ShellCompDirectiveNoFileComp");
    check("get deploy/w", "deploy/web\n", 4, "ShellCompDirectiveNoFileComp");
    check("rollout re", "restart\nresume\n", 4, "ShellCompDirectiveNoFileComp");
    check("get pods -o jsonpath-", "jsonpath-as-json\njsonpath-file\n", 4, "ShellCompDirectiveNoFileComp");
    check("get pods --output=ya", "yaml\n", 4, "ShellCompDirectiveNoFileComp");
    check("get pods --ignore", "--ignore-not-found\n", 4, "ShellCompDirectiveNoFileComp");
    check("apply -f web", "", 8, "ShellCompDirectiveFilterFileExt");
}

/// What help promises: each command says what it is for, how it is called, and what each of its flags does.
#[test]
fn every_command_explains_itself() {
    fn look(command: &'static crate::command::Command, path: &str) {
        assert!(!command.about.is_empty() && !command.usage.is_empty(), "{path}");
        // The original shows none for `completion` and the groups; what ours alone has shows some.
        let group = !command.subcommands.is_empty() || matches!(command.name, "alpha" | "options");
        assert!(group || !command.examples.is_empty(), "{path} has no example");
        let mut seen = Vec::new();
        for flag in command.flags.iter().flat_map(|flags| flags.iter()) {
            assert!(flag.hidden || !flag.help.is_empty(), "{path} --{}", flag.long);
            assert!(!seen.contains(&flag.long), "{path} --{} twice", flag.long);
            seen.push(flag.long);
        }
        command.subcommands.iter().for_each(|sub| look(sub, &format!("{path} {}", sub.name)));
    }
    look(&crate::commands::ROOT, "kubectl");
}
