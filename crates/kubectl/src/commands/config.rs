//! `kubectl config`: the kubeconfig

use serde_json::{Value, json};

use crate::command::{Alone, COMMAND, Command, Run};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::{Files, empty, entry, write};
use crate::output::{Format, PRINT_YAML};
use crate::session::{Session, entry_names};
use crate::value::{list, name_of, object_at, set, text};

pub static CONFIG: Command = Command {
    name: "config",
    about: "Look at and change kubeconfig files.",
    usage: "SUBCOMMAND [options]",
    alone: Alone::Complains,
    subcommands: &[
        &CURRENT_CONTEXT, &DELETE_CLUSTER, &DELETE_CONTEXT, &DELETE_USER, &GET_CLUSTERS, &GET_CONTEXTS, &GET_USERS,
        &RENAME_CONTEXT, &SET, &SET_CLUSTER, &SET_CONTEXT, &SET_CREDENTIALS, &UNSET, &USE_CONTEXT, &VIEW,
    ],
    ..COMMAND
};

/// A subcommand without flags of its own.
const fn plain(name: &'static str, about: &'static str, usage: &'static str, examples: &'static str, run: Run) -> Command {
    Command { name, about, usage, examples, run: Some(run), ..COMMAND }
}

static CURRENT_CONTEXT: Command = plain("current-context", "Show the name of the context in use.", "[flags] [options]", "kubectl config current-context", |session, _| Box::pin(async move {
        let config = session.kubeconfig_files().as_written().merged()?;
        match text(&config, "/current-context") {
            "" => fail!("current-context is not set"),
            name => session.say(name),
        }
    }));
static GET_CLUSTERS: Command = plain("get-clusters", "Show the names of the clusters.", "[flags] [options]", "kubectl config get-clusters", |session, _| Box::pin(async move { names(session, "clusters") }));
static GET_USERS: Command = plain("get-users", "Show the names of the users.", "[flags] [options]", "kubectl config get-users", |session, _| Box::pin(async move { names(session, "users") }));
static GET_CONTEXTS: Command = Command {
    name: "get-contexts",
    about: "Show one or all contexts.",
    usage: "[(-o|--output=)name)] [options]",
    examples: "
kubectl config get-contexts
kubectl config get-contexts work",
    flags: &[&[Flag::switch("no-headers", "Leave out the header line."), Flag::text("output", "name").short('o')]],
    run: Some(|session, args| Box::pin(async move { get_contexts(session, args) })),
    ..COMMAND
};
static USE_CONTEXT: Command = Command {
    name: "use-context",
    aliases: &["use"],
    about: "Use this context from now on.",
    usage: "CONTEXT_NAME [options]",
    examples: "kubectl config use-context work",
    run: Some(|session, args| Box::pin(async move { use_context(session, args) })),
    ..COMMAND
};
static RENAME_CONTEXT: Command = plain("rename-context", "Give a context another name.", "CONTEXT_NAME NEW_NAME [options]", "kubectl config rename-context old new", |session, args| Box::pin(async move { rename_context(session, args) }));
static DELETE_CLUSTER: Command = plain("delete-cluster", "Delete a cluster from the kubeconfig.", "NAME [options]", "kubectl config delete-cluster old", |session, args| Box::pin(async move { delete(session, args, "clusters", "cluster") }));
static DELETE_CONTEXT: Command = plain("delete-context", "Delete a context from the kubeconfig.", "NAME [options]", "kubectl config delete-context old", |session, args| Box::pin(async move { delete(session, args, "contexts", "context") }));
static DELETE_USER: Command = plain("delete-user", "Delete a user from the kubeconfig.", "NAME [options]", "kubectl config delete-user old", |session, args| Box::pin(async move { delete(session, args, "users", "user") }));
static SET_CLUSTER: Command = Command {
    name: "set-cluster",
    about: "Set a cluster in the kubeconfig.",
    usage: "NAME [--server=server] [--certificate-authority=path/to/certificate/authority] [--insecure-skip-tls-verify=true] [--tls-server-name=example.com] [options]",
    examples: "
kubectl config set-cluster work --server=https://1.2.3.4:6443
kubectl config set-cluster work --embed-certs --certificate-authority=ca.crt",
    flags: &[&[
        Flag::text("certificate-authority", "File with the certificate of the authority that signed the server's."),
        EMBED,
        Flag::switch("insecure-skip-tls-verify", "Do not check the server's certificate."),
        Flag::text("proxy-url", "Proxy for the cluster."),
        Flag::text("server", "Address and port of the API server."),
        Flag::text("tls-server-name", "Name that the server's certificate must have."),
    ]],
    run: Some(|session, args| Box::pin(async move { set_cluster(session, args) })),
    ..COMMAND
};
static SET_CONTEXT: Command = Command {
    name: "set-context",
    about: "Set a context in the kubeconfig.",
    usage: "[NAME | --current] [--cluster=cluster_nickname] [--user=user_nickname] [--namespace=namespace] [options]",
    examples: "
kubectl config set-context work --cluster=work --user=ann
kubectl config set-context --current --namespace=team",
    flags: &[&[
        Flag::text("cluster", "Name of the kubeconfig's cluster."),
        Flag::switch("current", "The context in use."),
        Flag::text("namespace", "Namespace of requests in this context."),
        Flag::text("user", "Name of the kubeconfig's user."),
    ]],
    run: Some(|session, args| Box::pin(async move { set_context(session, args) })),
    ..COMMAND
};
static SET_CREDENTIALS: Command = Command {
    name: "set-credentials",
    about: "Set a user in the kubeconfig.",
    usage: "NAME [--client-certificate=path/to/certfile] [--client-key=path/to/keyfile] [--token=bearer_token] [--username=basic_user] [--password=basic_password] [--auth-provider=provider_name] [--auth-provider-arg=key=value] [--exec-command=exec_command] [--exec-api-version=exec_api_version] [--exec-arg=arg] [--exec-env=key=value] [options]",
    examples: "
kubectl config set-credentials ann --client-key=ann.key --client-certificate=ann.crt
kubectl config set-credentials ann --exec-api-version=client.authentication.k8s.io/v1 --exec-command=/opt/login --exec-arg=--fast",
    flags: &[&[
        Flag::text("client-certificate", "File with a client certificate for TLS."),
        Flag::text("client-key", "File with the client certificate's key."),
        EMBED,
        Flag::text("password", "Password for basic authentication."),
        Flag::text("token", "Bearer token to authenticate with."),
        Flag::text("username", "User name for basic authentication."),
        Flag::text("exec-api-version", "API version of the credential plugin."),
        Flag::list("exec-arg", "Arguments of the credential plugin."),
        Flag::text("exec-command", "The credential plugin."),
        Flag::array("exec-env", "Its environment: NAME=value."),
        Flag::text("exec-interactive-mode", "Never, IfAvailable or Always."),
        Flag::switch("exec-provide-cluster-info", "Tell the credential plugin about the cluster."),
        Flag::text("auth-provider", "Authentication provider."),
        Flag::list("auth-provider-arg", "Its settings: key=value."),
    ]],
    run: Some(|session, args| Box::pin(async move { set_credentials(session, args) })),
    ..COMMAND
};
static SET: Command = Command {
    name: "set",
    about: "Set one value in the kubeconfig.",
    usage: "PROPERTY_NAME PROPERTY_VALUE [options]",
    examples: "kubectl config set clusters.work.server https://1.2.3.4:6443",
    flags: &[&[Flag::switch("set-raw-bytes", "The value is base64 of what is meant.")]],
    run: Some(|session, args| Box::pin(async move { set_property(session, args) })),
    ..COMMAND
};
static UNSET: Command = plain("unset", "Remove one value from the kubeconfig.", "PROPERTY_NAME [options]", "
kubectl config unset current-context
kubectl config unset contexts.old.namespace", |session, args| Box::pin(async move { unset_property(session, args) }));
static VIEW: Command = Command {
    name: "view",
    about: "Show the merged kubeconfig.",
    usage: "[flags] [options]",
    examples: "
kubectl config view --raw
kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}'",
    flags: &[PRINT_YAML, &[Flag::switch("flatten", "Files' contents in place of their names."), Flag::switch("minify", "Only what the context in use needs."), Flag::switch("raw", "Secrets and certificates as they are."), Flag::switch("merge", "All files of $KUBECONFIG merged; with =false only the first.").default("true")]],
    run: Some(|session, args| Box::pin(async move { view(session, args) })),
    ..COMMAND
};
const EMBED: Flag = Flag::switch("embed-certs", "Keep certificates in the kubeconfig itself.");

fn names(session: &Session, field: &str) -> Result {
    let config = session.kubeconfig_files().as_written().merged()?;
    let names = entry_names(&config, field);
    session.say("NAME")?;
    for name in names {
        session.say(name)?;
    }
    Ok(())
}

fn get_contexts(session: &Session, args: &Parsed) -> Result {
    let config = session.kubeconfig_files().as_written().merged()?;
    let wanted = if args.args.is_empty() { entry_names(&config, "contexts") } else { args.args.clone() };
    let by_name = args.text("output") == "name";
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut missing = Vec::new();
    if !args.is_set("no-headers") {
        rows.push(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].iter().map(|cell| (*cell).to_owned()).collect());
    }
    for name in wanted {
        let Some(context) = entry(&config, "contexts", "context", &name) else {
            missing.push(Error::Message(format!("context {name} not found")));
            continue;
        };
        if by_name {
            session.say(&name)?;
            continue;
        }
        let mark = if text(&config, "/current-context") == name { "*" } else { "" };
        rows.push([mark, &name, text(context, "/cluster"), text(context, "/user"), text(context, "/namespace")].iter().map(|cell| (*cell).to_owned()).collect());
    }
    if !by_name {
        session.print(super::cluster::table(&rows))?;
    }
    Error::all(missing)
}

/// Changes the file at `path`.
fn change(path: &std::path::Path, change: impl FnOnce(&mut Value) -> Result) -> Result {
    let mut config = Files::read(path)?.unwrap_or_else(empty);
    change(&mut config)?;
    write(path, &config)
}

fn one_name<'a>(session: &Session, args: &'a Parsed) -> Result<&'a str> {
    match args.args.as_slice() {
        [name] => Ok(name),
        other => {
            session.print(session.help())?;
            fail!("Unexpected args: [{}]", other.join(" "))
        }
    }
}

fn use_context(session: &Session, args: &Parsed) -> Result {
    let name = one_name(session, args)?;
    let files = session.kubeconfig_files().as_written();
    if entry(&files.merged()?, "contexts", "context", name).is_none() {
        fail!("no context exists with the name: {name:?}");
    }
    // The file that says which context is in use; else the first.
    let says = |path: &&std::path::PathBuf| Files::read(path).ok().flatten().is_some_and(|config| !text(&config, "/current-context").is_empty());
    let path = files.paths.iter().find(says).cloned().unwrap_or_else(|| files.default_file().to_owned());
    change(&path, |config| {
        config["current-context"] = name.into();
        Ok(())
    })?;
    session.say(format!("Switched to context {name:?}."))
}

fn rename_context(session: &Session, args: &Parsed) -> Result {
    let [old, new] = args.args.as_slice() else {
        session.print(session.help())?;
        fail!("Unexpected args: [{}]", args.args.join(" "));
    };
    let files = session.kubeconfig_files().as_written();
    let merged = files.merged()?;
    if entry(&merged, "contexts", "context", old).is_none() {
        fail!("cannot rename the context {old:?}, it's not in {}", files.default_file().display());
    }
    if entry(&merged, "contexts", "context", new).is_some() {
        fail!("cannot rename the context {old:?}, the context {new:?} already exists in {}", files.default_file().display());
    }
    change(&files.file_of("contexts", old), |config| {
        for context in config["contexts"].as_array_mut().into_iter().flatten().filter(|context| name_of(context) == old) {
            context["name"] = new.clone().into();
        }
        if text(config, "/current-context") == old {
            config["current-context"] = new.clone().into();
        }
        Ok(())
    })?;
    session.say(format!("Context {old:?} renamed to {new:?}."))
}

fn delete(session: &Session, args: &Parsed, field: &str, shown: &str) -> Result {
    let name = one_name(session, args)?;
    let files = session.kubeconfig_files().as_written();
    let path = files.file_of(field, name);
    let merged = files.merged()?;
    if !entry_names(&merged, field).iter().any(|known| known == name) {
        fail!("cannot delete {shown} {name}, not in {}", path.display());
    }
    if field == "contexts" && text(&merged, "/current-context") == name {
        session.complain(format!("warning: this removed your active context, use \"kubectl config use-context\" to select a different one"));
    }
    change(&path, |config| {
        if let Some(entries) = config[field].as_array_mut() {
            entries.retain(|entry| name_of(entry) != name);
        }
        Ok(())
    })?;
    session.say(format!("deleted {shown} {name} from {}", path.display()))
}

/// The inner object of the named entry, made where it is missing.
fn entry_mut<'a>(config: &'a mut Value, field: &str, inner: &str, name: &str) -> &'a mut Value {
    let entries = config[field].as_array_mut().expect("reading made it an array");
    let at = match entries.iter().position(|entry| name_of(entry) == name) {
        Some(at) => at,
        None => {
            entries.push(json!({"name": name, inner: {}}));
            entries.len() - 1
        }
    };
    if !entries[at][inner].is_object() {
        entries[at][inner] = json!({});
    }
    &mut entries[at][inner]
}

fn absolute(path: &str) -> Result<String> {
    Ok(std::path::absolute(path)?.display().to_string())
}

/// Sets a file's name or, embedded, its content.
fn set_file(into: &mut Value, field: &str, path: &str, embed: bool) -> Result {
    let data = format!("{field}-data");
    if embed {
        let content = std::fs::read(path).map_err(|error| Error::Message(format!("could not stat {field} file {path}: stat {path}: {}", crate::kubeconfig::go_io(&error))))?;
        into[&data] = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, content).into();
        object_at(into, &[]).remove(field);
    } else {
        into[field] = absolute(path)?.into();
        object_at(into, &[]).remove(&data);
    }
    Ok(())
}

fn set_cluster(session: &Session, args: &Parsed) -> Result {
    let name = one_name(session, args)?;
    change(&session.kubeconfig_files().as_written().file_of("clusters", name), |config| {
        let cluster = entry_mut(config, "clusters", "cluster", name);
        for (flag, field) in [("server", "server"), ("tls-server-name", "tls-server-name"), ("proxy-url", "proxy-url")] {
            if args.changed(flag) {
                cluster[field] = args.text(flag).into();
            }
        }
        if args.changed("insecure-skip-tls-verify") {
            cluster["insecure-skip-tls-verify"] = args.is_set("insecure-skip-tls-verify").into();
        }
        if args.changed("certificate-authority") {
            set_file(cluster, "certificate-authority", args.text("certificate-authority"), args.is_set("embed-certs"))?;
        }
        Ok(())
    })?;
    session.say(format!("Cluster {name:?} set."))
}

fn set_context(session: &Session, args: &Parsed) -> Result {
    let files = session.kubeconfig_files().as_written();
    let merged = files.merged()?;
    let name = if args.is_set("current") {
        match text(&merged, "/current-context") {
            "" => fail!("no current context is set"),
            name => name.to_owned(),
        }
    } else {
        if args.args.is_empty() {
            fail!("you must specify a non-empty context name or --current");
        }
        one_name(session, args)?.to_owned()
    };
    let known = entry(&merged, "contexts", "context", &name).is_some();
    change(&files.file_of("contexts", &name), |config| {
        let context = entry_mut(config, "contexts", "context", &name);
        for (flag, field) in [("cluster", "cluster"), ("user", "user"), ("namespace", "namespace")] {
            if args.changed(flag) {
                context[field] = args.text(flag).into();
            }
        }
        Ok(())
    })?;
    session.say(format!("Context {name:?} {}.", if known { "modified" } else { "created" }))
}

fn set_credentials(session: &Session, args: &Parsed) -> Result {
    if args.changed("token") && (args.changed("username") || args.changed("password")) {
        fail!("you cannot specify more than one authentication method at the same time: --token, --username/--password");
    }
    if !matches!(args.text("exec-interactive-mode"), "" | "IfAvailable" | "Never" | "Always") {
        fail!("invalid interactive mode type, can be only IfAvailable, Never, Always");
    }
    let name = one_name(session, args)?;
    change(&session.kubeconfig_files().as_written().file_of("users", name), |config| {
        let user = entry_mut(config, "users", "user", name);
        for field in ["token", "username", "password"] {
            if args.changed(field) {
                user[field] = args.text(field).into();
            }
        }
        for field in ["client-certificate", "client-key"] {
            if args.changed(field) {
                set_file(user, field, args.text(field), args.is_set("embed-certs"))?;
            }
        }
        if args.changed("exec-command") {
            // Arguments belong to the command before; the rest stays.
            set(user, &["exec", "command"], args.text("exec-command").into());
            set(user, &["exec", "args"], Value::Null);
        }
        if user["exec"].is_object() {
            set_exec(&mut user["exec"], args);
        }
        if args.changed("auth-provider") {
            user["auth-provider"] = json!({"name": args.text("auth-provider")});
        }
        for pair in args.list("auth-provider-arg") {
            // A key with a minus behind it is taken away.
            match pair.split_once('=') {
                Some((key, value)) => set(user, &["auth-provider", "config", key], value.into()),
                None => drop(object_at(user, &["auth-provider", "config"]).remove(pair.trim_end_matches('-'))),
            }
        }
        Ok(())
    })?;
    session.say(format!("User {name:?} set."))
}

/// The settings of a credential plugin.
fn set_exec(exec: &mut Value, args: &Parsed) {
    for (flag, field) in [("exec-api-version", "apiVersion"), ("exec-interactive-mode", "interactiveMode")] {
        if args.changed(flag) {
            exec[field] = args.text(flag).into();
        }
    }
    if args.changed("exec-provide-cluster-info") || exec.get("provideClusterInfo").is_none() {
        exec["provideClusterInfo"] = args.is_set("exec-provide-cluster-info").into();
    }
    if args.changed("exec-arg") {
        exec["args"] = args.list("exec-arg").into();
    }
    let mut environment = list(exec, "/env").to_vec();
    for pair in args.list("exec-env") {
        // A name with a minus behind it is taken away.
        let (name, value) = pair.split_once('=').map_or((pair.trim_end_matches('-'), None), |(name, value)| (name, Some(value)));
        environment.retain(|known| name_of(known) != name);
        environment.extend(value.map(|value| json!({"name": name, "value": value})));
    }
    exec["env"] = if environment.is_empty() { Value::Null } else { environment.into() };
}

/// `contexts.web.namespace`: the path of fields that a property name means.
fn property(config: &mut Value, name: &str) -> Result<Vec<String>> {
    let parts: Vec<&str> = name.split('.').collect();
    let inner = match parts[0] {
        "current-context" => return Ok(vec!["current-context".to_owned()]),
        "clusters" => "cluster",
        "contexts" => "context",
        "users" => "user",
        "preferences" => return Ok(parts.iter().map(|part| (*part).to_owned()).collect()),
        _ => fail!("unable to parse {name} after [] at api.Config"),
    };
    // Names may hold dots: the longest that exists wins, else all but the last part.
    if parts.len() < 3 {
        return Ok(vec![parts[0].to_owned(), parts[1..].join(".")]);
    }
    let known = entry_names(config, parts[0]);
    let end = (2..parts.len()).rev().find(|end| known.contains(&parts[1..*end].join("."))).unwrap_or(parts.len() - 1);
    Ok(vec![parts[0].to_owned(), parts[1..end].join("."), inner.to_owned(), parts[end..].join(".")])
}

fn set_property(session: &Session, args: &Parsed) -> Result {
    let [name, value] = args.args.as_slice() else {
        session.print(session.help())?;
        fail!("Unexpected args: [{}]", args.args.join(" "));
    };
    let files = session.kubeconfig_files().as_written();
    let path = property(&mut files.merged()?, name)?;
    let file = match path.as_slice() {
        [field, entry, ..] => files.file_of(field, entry),
        _ => files.default_file().to_owned(),
    };
    change(&file, |config| {
        match path.as_slice() {
            [field, entry, inner, property] => {
                let new = match value.as_str() {
                    "true" | "false" if property.starts_with("insecure") || property.starts_with("disable") => (value == "true").into(),
                    text => text.into(),
                };
                entry_mut(config, field, inner, entry)[property] = new;
            }
            [field] => config[field] = value.clone().into(),
            _ => {
                let parts: Vec<&str> = path.iter().map(String::as_str).collect();
                set(config, &parts, value.clone().into());
            }
        }
        Ok(())
    })?;
    session.say(format!("Property {name:?} set."))
}

fn unset_property(session: &Session, args: &Parsed) -> Result {
    let name = one_name(session, args)?;
    let files = session.kubeconfig_files().as_written();
    let path = property(&mut files.merged()?, name)?;
    let file = match path.as_slice() {
        [field, entry, ..] => files.file_of(field, entry),
        _ => files.default_file().to_owned(),
    };
    change(&file, |config| {
        match path.as_slice() {
            [field, entry, inner, property] => {
                object_at(entry_mut(config, field, inner, entry), &[]).remove(property);
            }
            [field, entry] => {
                if let Some(entries) = config[field].as_array_mut() {
                    entries.retain(|one| name_of(one) != entry);
                }
            }
            _ => config[&path[0]] = "".into(),
        }
        Ok(())
    })?;
    session.say(format!("Property {name:?} unset."))
}

fn view(session: &Session, args: &Parsed) -> Result {
    if !args.is_set("merge") && session.globals.text("kubeconfig").is_empty() {
        fail!("if merge==false a precise file must be specified");
    }
    let mut config = session.kubeconfig_files().as_written().merged()?;
    if args.is_set("minify") {
        let given = session.globals.text("context");
        let current = if given.is_empty() { text(&config, "/current-context").to_owned() } else { given.to_owned() };
        let Some(context) = entry(&config, "contexts", "context", &current).cloned() else {
            match current.as_str() {
                "" => fail!("current-context must exist in order to minify"),
                _ => fail!("cannot locate context {current}"),
            }
        };
        config["current-context"] = current.clone().into();
        for (field, wanted) in [("contexts", current.as_str()), ("clusters", text(&context, "/cluster")), ("users", text(&context, "/user"))] {
            if let Some(entries) = config[field].as_array_mut() {
                entries.retain(|entry| name_of(entry) == wanted);
            }
        }
    }
    if args.is_set("flatten") {
        for (field, inner, names) in [("clusters", "cluster", &["certificate-authority"][..]), ("users", "user", &["client-certificate", "client-key"])] {
            for one in config[field].as_array_mut().into_iter().flatten() {
                for name in names {
                    let path = text(one, &format!("/{inner}/{name}")).to_owned();
                    if !path.is_empty() {
                        set_file(&mut one[inner], name, &path, true)?;
                    }
                }
            }
        }
    }
    if !args.is_set("raw") {
        redact(&mut config);
    }
    for field in ["clusters", "contexts", "users"] {
        if list(&config, &format!("/{field}")).is_empty() {
            config[field] = Value::Null;
        }
    }
    match Format::of(args)? {
        // Whatever is read by programs alone; people read it in the original's order.
        Format::Json => session.print(in_order(&config, 0) + "\n"),
        mut format => session.print(format.show(&config, args)?),
    }
}

fn redact(config: &mut Value) {
    let mut hide = |field: &str, inner: &str, name: &str, shown: &str| {
        for one in config[field].as_array_mut().into_iter().flatten() {
            if one[inner].get(name).is_some() {
                one[inner][name] = shown.into();
            }
        }
    };
    hide("clusters", "cluster", "certificate-authority-data", "DATA+OMITTED");
    hide("users", "user", "client-certificate-data", "DATA+OMITTED");
    hide("users", "user", "client-key-data", "DATA+OMITTED");
    hide("users", "user", "token", "REDACTED");
    hide("users", "user", "password", "REDACTED");
}

/// The order in which the original writes the fields of a kubeconfig as JSON.
const ORDER: &[&str] = &[
    "name", "kind", "apiVersion", "preferences", "clusters", "users", "contexts", "current-context", "server", "tls-server-name",
    "insecure-skip-tls-verify", "certificate-authority", "certificate-authority-data", "proxy-url", "disable-compression", "cluster",
    "client-certificate", "client-certificate-data", "client-key", "client-key-data", "token", "tokenFile", "user", "namespace", "as", "as-uid",
    "as-groups", "as-user-extra", "username", "password", "auth-provider", "command", "args", "env", "exec",
];

/// Pretty JSON with the fields in that order.
fn in_order(value: &Value, depth: usize) -> String {
    let (indent, end) = ("    ".repeat(depth + 1), "    ".repeat(depth));
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_by_key(|name| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
            let shown: Vec<String> = names.into_iter().map(|name| format!("{indent}{}: {}", Value::from(name.as_str()), in_order(&fields[name], depth + 1))).collect();
            format!("{{\n{}\n{end}}}", shown.join(",\n"))
        }
        Value::Array(items) if !items.is_empty() => {
            let shown: Vec<String> = items.iter().map(|item| format!("{indent}{}", in_order(item, depth + 1))).collect();
            format!("[\n{}\n{end}]", shown.join(",\n"))
        }
        other => other.to_string(),
    }
}
