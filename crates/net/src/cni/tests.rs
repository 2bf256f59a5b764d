use std::os::unix::fs::PermissionsExt;

use super::*;

/// Writes what it was given to `$dir/<type>-<command>`; fails when asked to.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
{ echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS"; cat; } > "$here/$(basename "$0")-$CNI_COMMAND"
echo "$(basename "$0") $CNI_COMMAND" >> "$here/order"
if [ -e "$here/fail" ] && [ "$CNI_COMMAND" = ADD ]; then
  echo '{"code": 11, "msg": "no luck", "details": "today"}'; exit 1
fi
echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}]}'
"#;

struct World {
    directory: tempfile::TempDir,
    cni: Cni,
}

const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
    {"type": "one"}, {"type": "two", "capabilities": {"portMappings": true, "dns": true, "mac": false}}]}"#;

fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let path = directory.path().join(name);
        fs::write(&path, PLUGIN).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(directory.path().join("10-net.conflist"), LIST).unwrap();
    fs::write(directory.path().join("20-other.conf"), "broken").unwrap();
    let config = CniConfig { state_dir: directory.path().join("state"), plugin_dirs: vec![directory.path().to_owned()] };
    let cni = Cni::load(directory.path(), config).unwrap().unwrap();
    World { directory, cni }
}

impl World {
    fn told(&self, file: &str) -> (String, Value) {
        let text = fs::read_to_string(self.directory.path().join(file)).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        (first.to_owned(), serde_json::from_str(rest).unwrap())
    }

    fn order(&self) -> String {
        fs::read_to_string(self.directory.path().join("order")).unwrap_or_default().replace('\n', ", ")
    }
}

fn pod() -> CniPod {
    let port = HostPort { host_ip: None, host_port: 80, container_port: 8080, protocol: 17 };
    CniPod { namespace: "ns".into(), name: "web".into(), uid: "u".into(), ports: vec![port] }
}

#[tokio::test]
async fn plugins_run_in_order_and_back() {
    let world = world();
    let addresses = world.cni.add("/proc/self/ns/net", "sandbox", &pod()).await.unwrap();
    assert_eq!(addresses, ["10.9.8.7".parse::<IpAddr>().unwrap()]);
    let (told, config) = world.told("two-ADD");
    let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=sandbox;K8S_POD_UID=u";
    assert_eq!(told, format!("ADD sandbox eth0 {arguments}"));
    assert_eq!((&config["name"], &config["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    assert_eq!(config["prevResult"]["ips"][0]["address"], "10.9.8.7/24");
    let mapping = json!([{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": ""}]);
    assert_eq!(config["runtimeConfig"], json!({"portMappings": mapping}));
    assert!(world.told("one-ADD").1.get("prevResult").is_none());

    // As after a restart with another configuration: what was made is undone as it was made.
    let later = Cni::of_the_past(world.directory.path().join("state"));
    later.remove("/gone", "sandbox").await.unwrap();
    later.remove("/gone", "sandbox").await.unwrap();
    assert_eq!(world.order(), "one ADD, two ADD, two DEL, one DEL, ");
    assert_eq!(world.told("one-DEL").1["prevResult"]["ips"][0]["address"], "10.9.8.7/24");
}

#[tokio::test]
async fn half_a_network_is_removed() {
    let world = world();
    fs::write(world.directory.path().join("fail"), "").unwrap();
    let problem = world.cni.add("", "sandbox", &pod()).await.unwrap_err();
    assert_eq!(problem.to_string(), "plugin type=\"one\" failed (add): no luck today");
    assert_eq!(world.order(), "one ADD, two DEL, one DEL, ");
    assert!(!world.cni.file("sandbox").exists());
}

#[tokio::test]
async fn what_nobody_uses_is_removed() {
    let world = world();
    world.cni.add("", "a", &pod()).await.unwrap();
    world.cni.add("", "b", &pod()).await.unwrap();
    world.cni.collect_garbage(&["b".to_owned()]).await.unwrap();
    assert!(!world.cni.file("a").exists() && world.cni.file("b").exists());
}

#[tokio::test]
async fn a_missing_plugin_is_named() {
    let world = world();
    fs::remove_file(world.directory.path().join("one")).unwrap();
    let problem = world.cni.add("", "sandbox", &pod()).await.unwrap_err().to_string();
    assert!(problem.starts_with("failed to find plugin \"one\" in path ["), "{problem}");
}

#[track_caller]
fn check_parse(text: &str, expected: &str) {
    let told = parse(text.as_bytes()).map(|network| plugins(&network).map(|it| it["type"].to_string()).collect::<String>());
    assert_eq!(told.unwrap_or_else(|problem| problem), expected);
}

#[test]
fn configurations() {
    check_parse(LIST, "\"one\"\"two\"");
    check_parse(r#"{"cniVersion": "1.0.0", "name": "n", "type": "bridge"}"#, "\"bridge\"");
    check_parse(r#"{"plugins": [{"type": "x"}]}"#, "the network has no name");
    check_parse(r#"{"name": "n", "plugins": []}"#, "no plugins in list");
    check_parse("{", "EOF while parsing an object at line 1 column 1");
}
