//! `kubectl create rolebinding` and `clusterrolebinding`

use serde_json::{Value, json};

use super::{GENERATED, create, name_argument};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;

pub static ROLE_BINDING: Command = Command {
    name: "rolebinding",
    about: "Bind a role or cluster role within a namespace.",
    usage: "NAME --clusterrole=NAME|--role=NAME [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [--dry-run=server|client|none] [options]",
    examples: "kubectl create rolebinding readers --clusterrole=view --user=ann",
    flags: &[&[Flag::text("role", "Role to bind.")], SUBJECTS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "RoleBinding"))),
    ..COMMAND
};

pub static CLUSTER_ROLE_BINDING: Command = Command {
    name: "clusterrolebinding",
    about: "Bind a cluster role in the whole cluster.",
    usage: "NAME --clusterrole=NAME [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [--dry-run=server|client|none] [options]",
    examples: "kubectl create clusterrolebinding admins --clusterrole=cluster-admin --group=admins",
    flags: &[SUBJECTS, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(run(session, args, "ClusterRoleBinding"))),
    ..COMMAND
};

const SUBJECTS: &[Flag] = &[
    Flag::text("clusterrole", "Cluster role to bind."),
    Flag::array("group", "Groups to bind it to."),
    Flag::array("serviceaccount", "Service accounts to bind it to: <namespace>:<name>."),
    Flag::array("user", "Users to bind it to."),
];

async fn run(session: &Session, args: &Parsed, kind: &str) -> Result {
    let name = name_argument(session, args)?;
    if kind == "ClusterRoleBinding" {
        super::required(args, &["clusterrole"])?;
    }
    let (role, cluster_role) = (args.text("role"), args.text("clusterrole"));
    let (role_kind, role_name) = match (role.is_empty(), cluster_role.is_empty()) {
        (true, false) => ("ClusterRole", cluster_role),
        (false, true) => ("Role", role),
        _ if kind == "RoleBinding" => fail!("exactly one of clusterrole or role must be specified"),
        _ => fail!("clusterrole must be specified"),
    };
    let mut binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role_name}});
    let subjects = subjects(args)?;
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    create(session, args, binding).await
}

/// Users, groups and service accounts of the flags.
pub fn subjects(args: &Parsed) -> Result<Vec<Value>> {
    let rbac = |kind: &str, name: String| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let mut subjects: Vec<Value> = args.list("user").into_iter().map(|name| rbac("User", name)).collect();
    subjects.extend(args.list("group").into_iter().map(|name| rbac("Group", name)));
    for account in args.list("serviceaccount") {
        match account.split_once(':') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
            }
            _ => fail!("serviceaccount must be <namespace>:<name>"),
        }
    }
    Ok(subjects)
}
