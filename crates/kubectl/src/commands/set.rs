//! `kubectl set`: image, env, resources, selector, serviceaccount, subject

use serde_json::{Value, json};

use super::create::rolebinding::subjects;
use crate::command::{Alone, COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{DEEP_FILENAMES, FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::output::{DRY_RUN, DryRun, PRINT, report};
use crate::rest::{MERGE_PATCH, STRATEGIC_PATCH};
use crate::selection::{ALL, Info, SELECTOR, select};
use crate::session::Session;
use crate::threeway;
use crate::value::{list, name_of, object_at, text};

pub static SET: Command = Command {
    name: "set",
    about: "Change single features of objects.",
    usage: "SUBCOMMAND [options]",
    alone: Alone::Complains,
    subcommands: &[&ENV, &IMAGE, &RESOURCES, &SELECTOR_COMMAND, &SERVICE_ACCOUNT, &SUBJECT],
    ..COMMAND
};

const COMMON: &[Flag] = &[
    Flag::text("field-manager", "Name that owns the fields set here.").default("kubectl-set"),
    Flag::switch("local", "Change what the file says without asking a server."),
];
const CONTAINERS: &[Flag] = &[Flag::text("containers", "Names of the containers; * stands for any text.").short('c').default("*")];

static IMAGE: Command = Command {
    name: "image",
    about: "Change the images of containers.",
    usage: "(-f FILENAME | TYPE NAME) CONTAINER_NAME_1=CONTAINER_IMAGE_1 ... CONTAINER_NAME_N=CONTAINER_IMAGE_N [options]",
    examples: "kubectl set image deployment/web nginx=nginx:1.17",
    flags: &[COMMON, FILENAMES, SELECTOR, ALL, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(image(session, args))),
    ..COMMAND
};
static ENV: Command = Command {
    name: "env",
    about: "Change or show the environment of containers.",
    usage: "RESOURCE/NAME KEY_1=VAL_1 ... KEY_N=VAL_N [options]",
    examples: "
kubectl set env deployment/web COLOR=blue
kubectl set env deployment/web COLOR-
kubectl set env deployment/web --list",
    flags: &[COMMON, CONTAINERS, ENV_FLAGS, FILENAMES, SELECTOR, ALL, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(env(session, args))),
    ..COMMAND
};
const ENV_FLAGS: &[Flag] = &[
    Flag::array("env", "KEY=VALUE.").short('e'),
    Flag::text("from", "Config map or secret to take variables from, as configmap/name."),
    Flag::list("keys", "Which keys of --from."),
    Flag::switch("list", "Show the environment."),
    Flag::switch("overwrite", "Replace variables that are there.").default("true"),
    Flag::text("prefix", "What to put in front of the names of --from."),
    Flag::switch("resolve", "With --list, look up what variables refer to."),
];
static RESOURCES: Command = Command {
    name: "resources",
    about: "Change resource requests and limits of containers.",
    usage: "(-f FILENAME | TYPE NAME)  ([--limits=LIMITS & --requests=REQUESTS] [options]",
    examples: "kubectl set resources deployment web --limits=cpu=200m,memory=512Mi",
    flags: &[
        COMMON,
        CONTAINERS,
        &[Flag::text("limits", "cpu=100m,memory=256Mi"), Flag::text("requests", "cpu=100m,memory=256Mi")],
        FILENAMES,
        SELECTOR,
        ALL,
        DRY_RUN,
        PRINT,
    ],
    run: Some(|session, args| Box::pin(resources(session, args))),
    ..COMMAND
};
static SELECTOR_COMMAND: Command = Command {
    name: "selector",
    about: "Set the selector of a service.",
    usage: "(-f FILENAME | TYPE NAME) EXPRESSIONS [--resource-version=version] [options]",
    examples: "kubectl create service clusterip web --tcp=80 --dry-run=client -o yaml | kubectl set selector --local -f - app=web -o yaml",
    flags: &[COMMON, &[Flag::text("resource-version", "Change only while the object has this version.")], DEEP_FILENAMES, ALL, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(selector(session, args))),
    ..COMMAND
};
static SERVICE_ACCOUNT: Command = Command {
    name: "serviceaccount",
    aliases: &["sa"],
    about: "Set the service account of pod templates.",
    usage: "(-f FILENAME | TYPE NAME) SERVICE_ACCOUNT [options]",
    examples: "kubectl set serviceaccount deployment web robot",
    flags: &[COMMON, FILENAMES, ALL, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(service_account(session, args))),
    ..COMMAND
};
static SUBJECT: Command = Command {
    name: "subject",
    about: "Add users, groups or service accounts to a role binding.",
    usage: "(-f FILENAME | TYPE NAME) [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname] [--dry-run=server|client|none] [options]",
    examples: "
kubectl set subject rolebinding readers --user=ann --group=team
kubectl set subject clusterrolebinding admins --serviceaccount=default:robot",
    flags: &[
        COMMON,
        &[Flag::list("group", "Groups."), Flag::list("serviceaccount", "Service accounts: <namespace>:<name>."), Flag::list("user", "Users.")],
        FILENAMES,
        SELECTOR,
        ALL,
        DRY_RUN,
        PRINT,
    ],
    run: Some(|session, args| Box::pin(subject(session, args))),
    ..COMMAND
};

/// What is to be changed; with `--local` what the files say, which nobody is told of.
async fn chosen(session: &Session, args: &Parsed, words: &[String]) -> Result<(Vec<Info>, Vec<Error>, DryRun)> {
    if args.is_set("local") {
        return Ok((local_objects(session, args).await?, Vec::new(), DryRun::Client));
    }
    let dry_run = DryRun::of(session, args)?;
    let (infos, problems) = select(session, args, words).await?;
    Ok((infos, problems, dry_run))
}

/// The objects of files, filled in as the original's types would be.
async fn local_objects(session: &Session, args: &Parsed) -> Result<Vec<Info>> {
    let mut infos = crate::files::local(session, args).await?;
    for info in &mut infos {
        for container in containers_of(pod_spec(&info.clone(), &mut info.object)?) {
            object_at(container, &["resources"]);
        }
        object_at(&mut info.object, &["status"]);
    }
    Ok(infos)
}

/// Changes each chosen object by `change` and sends the difference. A change that changes nothing is not sent.
async fn each(session: &Session, args: &Parsed, words: &[String], done: &str, mut change: impl FnMut(&Info, &mut Value) -> Result) -> Result {
    let (infos, mut problems, dry_run) = chosen(session, args, words).await?;
    for mut info in infos {
        let mut wanted = info.object.clone();
        if let Err(error) = change(&info, &mut wanted) {
            problems.push(error);
            continue;
        }
        let (kind, patch) = match api::schema::definition_of_kind(&info.resource.api_version(), &info.resource.kind) {
            Some(definition) => (STRATEGIC_PATCH, threeway::strategic(&info.object, &wanted, &info.object, definition)),
            None => (MERGE_PATCH, threeway::merge(&info.object, &wanted, &info.object)),
        };
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            continue;
        }
        if dry_run == DryRun::Client {
            info.object = wanted;
        } else {
            let url = info.url().with_filled("dryRun", dry_run.query()).with("fieldManager", args.text("field-manager"));
            match session.patch(url, kind, &patch).await {
                Ok(object) => info.object = object,
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            }
        }
        report(session, args, &info, done, dry_run)?;
    }
    Error::all(problems)
}

/// The pod specification within an object.
fn pod_spec<'a>(info: &Info, object: &'a mut Value) -> Result<&'a mut Value> {
    let pointer = match info.resource.kind.as_str() {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => "/spec/template/spec",
    };
    match object.pointer_mut(pointer) {
        Some(spec) => Ok(spec),
        None => fail!("the object is not a pod or does not have a pod template: {}", info.shown()),
    }
}

fn containers_of(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let Value::Object(fields) = spec else { return Vec::new().into_iter() };
    let both = fields.iter_mut().filter(|(name, _)| *name == "containers" || *name == "initContainers");
    let all: Vec<&mut Value> = both.filter_map(|(_, containers)| containers.as_array_mut()).flatten().collect();
    all.into_iter()
}

/// `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((prefix, rest)) => name.strip_prefix(prefix).is_some_and(|tail| {
            rest.is_empty() || (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

fn split_changes(args: &Parsed) -> (Vec<String>, Vec<String>) {
    args.args.iter().cloned().partition(|word| !(word.contains('=') || word.len() > 1 && word.ends_with('-')))
}

async fn image(session: &Session, args: &Parsed) -> Result {
    let (words, changes) = split_changes(args);
    let images: Vec<(&str, &str)> = changes.iter().filter_map(|change| change.split_once('=')).collect();
    if images.is_empty() {
        // What is wrong with the objects comes first.
        let (_, problems) = select(session, args, &words).await?;
        Error::all(problems)?;
        fail!("at least one image update is required");
    }
    each(session, args, &words, "image updated", |info, object| {
        let spec = pod_spec(info, object)?;
        for (container, image) in &images {
            let mut found = false;
            for one in containers_of(spec) {
                if *container == "*" || name_of(one) == *container {
                    one["image"] = (*image).into();
                    found = true;
                }
            }
            if !found {
                fail!("unable to find container named {container:?}");
            }
        }
        Ok(())
    })
    .await
}

async fn env(session: &Session, args: &Parsed) -> Result {
    let (words, mut changes) = split_changes(args);
    changes.extend(args.list("env"));
    if args.is_set("list") {
        let (infos, problems) = select(session, args, &words).await?;
        for info in infos {
            let mut object = info.object.clone();
            for container in containers_of(pod_spec(&info, &mut object)?) {
                session.say(format!("# {} {}, container {}", info.resource.kind, info.name, name_of(container)))?;
                for variable in list(container, "/env") {
                    match variable.get("valueFrom") {
                        None => session.say(format!("{}={}", name_of(variable), text(variable, "/value")))?,
                        Some(from) => session.say(format!("# {} from {}", name_of(variable), origin(from)))?,
                    }
                }
            }
        }
        return Error::all(problems);
    }
    if words.is_empty() && !crate::files::given(args) {
        fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>");
    }
    let mut added: Vec<Value> = Vec::new();
    if args.changed("from") {
        added = from_source(session, args).await?;
    }
    if changes.is_empty() && added.is_empty() {
        fail!("at least one environment variable must be provided");
    }
    let mut removed = Vec::new();
    for change in &changes {
        match change.split_once('=') {
            Some((name, value)) => added.push(json!({"name": name, "value": value})),
            None => removed.push(change.trim_end_matches('-').to_owned()),
        }
    }
    let overwrite = args.is_set("overwrite");
    each(session, args, &words, "env updated", |info, object| {
        for container in containers_of(pod_spec(info, object)?) {
            if !matches(args.text("containers"), name_of(container)) {
                continue;
            }
            let mut variables = list(container, "/env").to_vec();
            for new in &added {
                match variables.iter_mut().find(|known| name_of(known) == name_of(new)) {
                    Some(_) if !overwrite => fail!("'{}' already has a value ({}), and --overwrite is false", name_of(new), text(new, "/value")),
                    Some(known) => *known = new.clone(),
                    None => variables.push(new.clone()),
                }
            }
            variables.retain(|known| !removed.iter().any(|name| name == name_of(known)));
            if variables.is_empty() {
                container.as_object_mut().map(|fields| fields.remove("env"));
            } else {
                container["env"] = variables.into();
            }
        }
        Ok(())
    })
    .await
}

fn origin(from: &Value) -> String {
    for (field, shown) in [("configMapKeyRef", "configmap"), ("secretKeyRef", "secret")] {
        if let Some(reference) = from.get(field) {
            return format!("{shown} {}, key {}", name_of(reference), text(reference, "/key"));
        }
    }
    match from.get("fieldRef") {
        Some(field) => format!("field path {}", text(field, "/fieldPath")),
        None => "a resource".to_owned(),
    }
}

async fn from_source(session: &Session, args: &Parsed) -> Result<Vec<Value>> {
    let source = crate::selection::one(session, &[args.text("from").to_owned()], "").await?;
    let reference = match source.resource.kind.as_str() {
        "ConfigMap" => "configMapKeyRef",
        "Secret" => "secretKeyRef",
        other => fail!("unsupported resource specified in --from: {other}"),
    };
    let wanted = args.list("keys");
    let keys = crate::value::map(&source.object, "/data").map(|(key, _)| key.to_owned()).filter(|key| wanted.is_empty() || wanted.contains(key));
    Ok(keys
        .map(|key| {
            let upper: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            json!({"name": format!("{}{upper}", args.text("prefix")), "valueFrom": {reference: {"name": source.name, "key": key}}})
        })
        .collect())
}

async fn resources(session: &Session, args: &Parsed) -> Result {
    if !args.changed("limits") && !args.changed("requests") {
        fail!("you must specify an update to requests or limits (in the form of --requests/--limits)");
    }
    each(session, args, &args.args, "resource requirements updated", |info, object| {
        let mut found = false;
        for container in containers_of(pod_spec(info, object)?).filter(|one| matches(args.text("containers"), name_of(one))) {
            found = true;
            for field in ["limits", "requests"] {
                for pair in args.text(field).split(',').filter(|pair| !pair.is_empty()) {
                    let Some((name, quantity)) = pair.split_once('=') else { fail!("Invalid argument syntax {pair}, expected <resource>=<value>") };
                    let quantity = api::quantity::canonical(quantity).map_err(|error| Error::Message(error.to_string()))?;
                    let at = crate::value::object_at(container, &["resources", field]);
                    if quantity == "0" {
                        at.remove(name);
                    } else {
                        at.insert(name.to_owned(), quantity.into_owned().into());
                    }
                }
            }
        }
        if found { Ok(()) } else { fail!("unable to find container named {}", args.text("containers")) }
    })
    .await
}

async fn selector(session: &Session, args: &Parsed) -> Result {
    let Some((expression, words)) = args.args.split_last() else { fail!("one or more resources must be specified as <resource> <name> or <resource>/<name>") };
    let mut labels = json!({});
    for pair in expression.split(',').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else { fail!("invalid selector: {pair}") };
        labels[key] = value.into();
    }
    each(session, args, words, "selector updated", |info, object| {
        if info.resource.kind != "Service" {
            fail!("setting a selector is only supported for Services");
        }
        object["spec"]["selector"] = labels.clone();
        Ok(())
    })
    .await
}

async fn service_account(session: &Session, args: &Parsed) -> Result {
    let Some((account, words)) = args.args.split_last() else { fail!("serviceaccount is required") };
    each(session, args, words, "serviceaccount updated", |info, object| {
        pod_spec(info, object)?["serviceAccountName"] = account.clone().into();
        Ok(())
    })
    .await
}

async fn subject(session: &Session, args: &Parsed) -> Result {
    let added = subjects(args)?;
    if added.is_empty() {
        fail!("you must specify at least one value of user, group or serviceaccount");
    }
    each(session, args, &args.args, "subjects updated", |info, object| {
        if !info.resource.kind.ends_with("RoleBinding") {
            fail!("setting subjects is only supported for RoleBinding/ClusterRoleBinding");
        }
        let mut all = list(object, "/subjects").to_vec();
        all.extend(added.iter().filter(|new| !list(object, "/subjects").contains(new)).cloned());
        object["subjects"] = all.into();
        Ok(())
    })
    .await
}
