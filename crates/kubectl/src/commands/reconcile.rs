//! `kubectl auth reconcile`: brings roles and bindings to what a file says, without taking anything away unasked.

use serde_json::{Value, json};

use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::files::{self, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::rest::Url;
use crate::selection::{Info, from_files};
use crate::session::Session;
use crate::value::{list, object_at, text};

pub static RECONCILE: Command = Command {
    name: "reconcile",
    about: "Bring roles and bindings to what a file says: missing rules and subjects are added.",
    usage: "-f FILENAME [options]",
    examples: "
kubectl auth reconcile -f rbac.yaml
kubectl auth reconcile -f rbac.yaml --remove-extra-subjects --remove-extra-permissions",
    flags: &[FLAGS, FILENAMES, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("remove-extra-permissions", "Take away rules that the file does not name."),
    Flag::switch("remove-extra-subjects", "Take away subjects that the file does not name."),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    if !files::given(args) {
        fail!("must specify one of -f and -k");
    }
    let dry_run = DryRun::of(session, args)?;
    if dry_run == DryRun::Server {
        fail!("--dry-run=server for command reconcile is not supported yet");
    }
    for info in from_files(session, args).await? {
        match (info.resource.group.as_str(), info.resource.version.as_str(), info.resource.kind.as_str()) {
            ("rbac.authorization.k8s.io", "v1", "Role" | "ClusterRole") => {
                reconcile(session, args, info, dry_run, "rules", args.is_set("remove-extra-permissions")).await?;
            }
            ("rbac.authorization.k8s.io", "v1", "RoleBinding" | "ClusterRoleBinding") => {
                reconcile(session, args, info, dry_run, "subjects", args.is_set("remove-extra-subjects")).await?;
            }
            ("rbac.authorization.k8s.io", version, kind) => fail!("only rbac.authorization.k8s.io/v1 is supported: not {version}.{kind}"),
            // Anything else in the file is another command's business.
            _ => {}
        }
    }
    Ok(())
}

/// What is to be done about one object.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    operation: Option<&'static str>,
    object: Value,
    missing: Vec<Value>,
    extra: Vec<Value>,
    protected: bool,
}

async fn reconcile(session: &Session, args: &Parsed, mut info: Info, dry_run: DryRun, field: &str, remove: bool) -> Result {
    let live = match session.get(info.url()).await {
        Ok(live) => Some(live),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let plan = decide(&info.object, live.as_ref(), field, remove);
    info.object = plan.object.clone();
    if dry_run == DryRun::None && !plan.protected {
        info.object = match plan.operation {
            Some("create") => {
                ensure_namespace(session, &info).await?;
                session.post(info.collection(), &plan.object).await?
            }
            Some("update") => session.put(info.url(), &plan.object).await?,
            Some(_) => {
                session.delete(info.url(), &json!({"kind": "DeleteOptions", "apiVersion": "v1"})).await?;
                session.post(info.collection(), &plan.object).await?
            }
            None => plan.object.clone(),
        };
    }
    report(session, args, &info, "reconciled", dry_run)?;
    session.flush()?;
    let Some(operation) = plan.operation else { return Ok(()) };
    let caveat = if plan.protected { ", but object opted out (rbac.authorization.kubernetes.io/autoupdate: false)" } else { "" };
    session.complain(format!("\treconciliation required {operation}{caveat}"));
    for (what, items) in [(format!("missing {field} added"), &plan.missing), (format!("extra {field} removed"), &plan.extra)] {
        if items.is_empty() || what.starts_with("extra") && !remove {
            continue;
        }
        session.complain(format!("\t{what}:"));
        for item in items {
            session.complain(format!("\t\t{}", shown(item, field)));
        }
    }
    Ok(())
}

async fn ensure_namespace(session: &Session, info: &Info) -> Result {
    if info.namespace.is_empty() {
        return Ok(());
    }
    match session.get(Url::new(format!("/api/v1/namespaces/{}", info.namespace))).await {
        Err(error) if error.is_not_found() => {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": info.namespace}});
            session.post(Url::new("/api/v1/namespaces"), &namespace).await.map(|_| ())
        }
        // Whoever may not look at namespaces may still make roles.
        _ => Ok(()),
    }
}

fn decide(wanted: &Value, live: Option<&Value>, field: &str, remove: bool) -> Plan {
    let pointer = format!("/{field}");
    let Some(live) = live else {
        return Plan { operation: Some("create"), object: wanted.clone(), missing: list(wanted, &pointer).to_vec(), ..Plan::default() };
    };
    let protected = text(live, "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate") == "false";
    if field == "subjects" && live["roleRef"] != wanted["roleRef"] {
        return Plan { operation: Some("recreate"), object: wanted.clone(), protected, ..Plan::default() };
    }
    let mut object = live.clone();
    let mut changed = false;
    for map in ["labels", "annotations"] {
        for (key, value) in crate::value::map(wanted, &format!("/metadata/{map}")) {
            // What is there already stays.
            if live["metadata"].get(map).and_then(|known| known.get(key)).is_none() {
                object_at(&mut object, &["metadata", map]).insert(key.to_owned(), value.clone());
                changed = true;
            }
        }
    }
    let covers = |item: &Value, by: &Value| list(by, &pointer).iter().any(|other| covered(item, other, field));
    let missing: Vec<Value> = atoms(wanted, field).into_iter().filter(|item| !covers(item, live)).collect();
    let extra: Vec<Value> = atoms(live, field).into_iter().filter(|item| !covers(item, wanted)).collect();
    if remove && !extra.is_empty() {
        object[field] = wanted[field].clone();
        changed = true;
    } else if !missing.is_empty() {
        let mut all = list(live, &pointer).to_vec();
        all.extend(missing.clone());
        object[field] = all.into();
        changed = true;
    }
    if wanted.get("aggregationRule").is_some() && wanted["aggregationRule"] != live["aggregationRule"] {
        object["aggregationRule"] = wanted["aggregationRule"].clone();
        changed = true;
    }
    Plan { operation: changed.then_some("update"), object, missing, extra, protected }
}

/// Subjects as they are; rules taken apart until each allows one thing.
fn atoms(object: &Value, field: &str) -> Vec<Value> {
    let items = list(object, &format!("/{field}"));
    if field == "subjects" {
        return items.to_vec();
    }
    let mut atoms = Vec::new();
    for rule in items {
        let names = list(rule, "/resourceNames");
        for verb in list(rule, "/verbs") {
            for group in list(rule, "/apiGroups") {
                for resource in list(rule, "/resources") {
                    let plain = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
                    if names.is_empty() {
                        atoms.push(plain.clone());
                    }
                    for name in names {
                        let mut named = plain.clone();
                        named["resourceNames"] = json!([name]);
                        atoms.push(named);
                    }
                }
            }
            atoms.extend(list(rule, "/nonResourceURLs").iter().map(|url| json!({"verbs": [verb], "nonResourceURLs": [url]})));
        }
    }
    atoms
}

/// Whether `by` allows all that the atom `item` allows, or names the same subject.
fn covered(item: &Value, by: &Value, field: &str) -> bool {
    if field == "subjects" {
        return ["kind", "name", "namespace"].iter().all(|key| item[*key] == by[*key]);
    }
    let has = |key: &str, wanted: &Value| {
        let wanted = wanted.as_str().unwrap_or_default();
        list(by, &format!("/{key}")).iter().filter_map(Value::as_str).any(|known| {
            let subresource = known.strip_prefix("*/").is_some_and(|sub| wanted.ends_with(&format!("/{sub}")));
            let below = key == "nonResourceURLs" && known.strip_suffix('*').is_some_and(|prefix| wanted.starts_with(prefix));
            known == "*" || known == wanted || key == "resources" && subresource || below
        })
    };
    if !has("verbs", &item["verbs"][0]) {
        return false;
    }
    if let Some(url) = item.pointer("/nonResourceURLs/0") {
        return has("nonResourceURLs", url);
    }
    let names = list(by, "/resourceNames");
    let named = names.is_empty() || item.pointer("/resourceNames/0").is_some_and(|name| names.contains(name));
    has("apiGroups", &item["apiGroups"][0]) && has("resources", &item["resources"][0]) && named
}

/// `%+v` of the original's structs.
fn shown(item: &Value, field: &str) -> String {
    if field == "subjects" {
        return format!(
            "{{Kind:{} APIGroup:{} Name:{} Namespace:{}}}",
            text(item, "/kind"), text(item, "/apiGroup"), text(item, "/name"), text(item, "/namespace")
        );
    }
    let words = |key: &str| list(item, &format!("/{key}")).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    format!(
        "{{Verbs:[{}] APIGroups:[{}] Resources:[{}] ResourceNames:[{}] NonResourceURLs:[{}]}}",
        words("verbs"), words("apiGroups"), words("resources"), words("resourceNames"), words("nonResourceURLs")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value) -> Value {
        json!({"metadata": {"name": "r"}, "rules": rules})
    }

    #[test]
    fn rules_are_added_and_taken_away_when_asked() {
        let get = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
        let check = |wanted: Value, live: Option<Value>, remove: bool, operation: Option<&str>, missing: usize| {
            let plan = decide(&role(wanted), live.map(role).as_ref(), "rules", remove);
            assert_eq!((plan.operation, plan.missing.len()), (operation, missing));
        };
        check(json!([get]), None, false, Some("create"), 1);
        check(json!([get]), Some(json!([get])), false, None, 0);
        check(json!([get]), Some(json!([all])), false, None, 0);
        check(json!([get]), Some(json!([all])), true, Some("update"), 0);
        check(json!([get]), Some(json!([])), false, Some("update"), 2);
        check(json!([{"verbs": ["get"], "nonResourceURLs": ["/a/b"]}]), Some(json!([{"verbs": ["*"], "nonResourceURLs": ["/a/*"]}])), false, None, 0);
    }

    #[test]
    fn another_role_makes_another_binding() {
        let binding = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"name": role}, "subjects": [{"kind": "User", "name": "ann"}]});
        assert_eq!(decide(&binding("x"), Some(&binding("y")), "subjects", false).operation, Some("recreate"));
        assert_eq!(decide(&binding("x"), Some(&binding("x")), "subjects", false).operation, None);
        assert_eq!(shown(&binding("x")["subjects"][0], "subjects"), "{Kind:User APIGroup: Name:ann Namespace:}");
    }
}
