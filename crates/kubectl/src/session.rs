//! One run of kubectl: its streams, environment, configuration and connection.
//!
//! Invariant: the streams and the environment are given; nothing here looks at the process. The connection and the
//! list of resources are made when first needed, once. Deliberately absent: knowledge of any command.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio::sync::OnceCell as AsyncOnceCell;

use crate::discovery::Discovery;
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::{self, Files};
use crate::terminal::{Size, Terminal};
use crate::value::{list, name_of, set, text};

pub const GLOBALS: &[Flag] = &[
    Flag::text("as", "Act as this user. It may be a plain user or a service account in a namespace."),
    Flag::array("as-group", "Act as a member of this group; may be given several times."),
    Flag::text("as-uid", "Act as the user with this UID."),
    Flag::text("cache-dir", "Directory of cached answers of the API server.").default("~/.kube/cache"),
    Flag::text("certificate-authority", "File with the certificate of the authority that signed the server's."),
    Flag::text("client-certificate", "File with a client certificate for TLS."),
    Flag::text("client-key", "File with the client certificate's key."),
    Flag::text("cluster", "Name of the kubeconfig's cluster to use."),
    Flag::text("context", "Name of the kubeconfig's context to use."),
    Flag::switch("disable-compression", "Do not ask the server for compressed answers."),
    Flag::switch("insecure-skip-tls-verify", "Do not check the server's certificate. This makes the connection insecure."),
    Flag::text("kubeconfig", "File to read the configuration from."),
    Flag::text("kuberc", "File to read preferences from."),
    Flag::duration("log-flush-frequency", "5s", "Longest time between two writes of the log."),
    Flag::switch("match-server-version", "Require the server's version to be the client's."),
    Flag::text("namespace", "Namespace of this request.").short('n'),
    Flag::text("password", "Password for basic authentication."),
    Flag::text("profile", "Name of the profile to record.").default("none"),
    Flag::text("profile-output", "File to write the profile to.").default("profile.pprof"),
    Flag::text("request-timeout", "How long to wait for one answer of the server, such as 1s, 2m, 3h. Zero means for ever.").default("0"),
    Flag::text("server", "Address and port of the API server.").short('s'),
    Flag::text("tls-server-name", "Name that the server's certificate must have."),
    Flag::text("token", "Bearer token to authenticate with."),
    Flag::text("user", "Name of the kubeconfig's user to use."),
    Flag::text("username", "User name for basic authentication."),
    Flag::int("v", "0", "How much to log.").short('v'),
    Flag::pairs("vmodule", "Log levels by file, as pattern=level."),
    Flag::switch("warnings-as-errors", "Fail when the server warns."),
];

#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub variables: BTreeMap<String, String>,
}

impl Environment {
    pub fn var(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    pub fn home(&self) -> PathBuf {
        PathBuf::from(self.var("HOME").unwrap_or("/"))
    }
}

pub struct Streams {
    pub input: Box<dyn AsyncRead + Unpin>,
    pub out: Box<dyn Write>,
    pub err: Box<dyn Write>,
    /// None when there is no terminal.
    pub terminal: Option<Box<dyn Terminal>>,
    /// The size of the terminal that standard output is; answers None when it is none.
    pub screen: fn() -> Option<Size>,
}

pub struct Session {
    /// `kubectl get`, as help and errors name it.
    pub path: String,
    help: String,
    pub environment: Environment,
    pub terminal: Option<Box<dyn Terminal>>,
    screen: fn() -> Option<Size>,
    pub globals: Parsed,
    pub clock: api::clock::Clock,
    input: RefCell<Option<Box<dyn AsyncRead + Unpin>>>,
    out: RefCell<Box<dyn Write>>,
    err: RefCell<Box<dyn Write>>,
    client: OnceCell<kube::Client>,
    discovery: AsyncOnceCell<Rc<Discovery>>,
    selected: OnceCell<Selected>,
    warned: RefCell<BTreeSet<String>>,
    failure: Cell<bool>,
    documents: Cell<usize>,
}

/// The part of the kubeconfig that this run uses, overrides applied.
pub struct Selected {
    /// Namespace of the context or of `-n`.
    pub namespace: String,
    /// Whether `-n` named it.
    pub namespace_given: bool,
    /// `https://127.0.0.1:6443`
    pub server: String,
    /// Names of the kubeconfig's entries.
    cluster: String,
    user: String,
    /// Whether a UID is impersonated.
    uid: bool,
    config: Value,
}

impl Selected {
    /// What is wrong with cluster and user, as the original tells.
    fn check(&self) -> Result {
        let mut problems = Vec::new();
        let readable = |pointer: &str, word: &str, whose: &str| {
            let path = text(&self.config, pointer);
            let error = (!path.is_empty()).then(|| std::fs::File::open(path).err()).flatten()?;
            Some(format!("unable to read {word} {path} for {whose} due to open {path}: {}", kubeconfig::go_io(&error)))
        };
        problems.extend(readable("/clusters/0/cluster/certificate-authority", "certificate-authority", &self.cluster));
        let (user, name) = (&self.config["users"][0]["user"], &self.user);
        let has = |field: &str| !text(user, &format!("/{field}")).is_empty();
        if has("client-certificate") || has("client-certificate-data") {
            if has("client-certificate") && has("client-certificate-data") {
                problems.push(format!("client-cert-data and client-cert are both specified for {name}. client-cert-data will override."));
            }
            match (has("client-key"), has("client-key-data")) {
                (true, true) => problems.push(format!("client-key-data and client-key are both specified for {name}; client-key-data will override")),
                (false, false) => problems.push(format!("client-key-data or client-key must be specified for {name} to use the clientCert authentication method.")),
                _ => {}
            }
            problems.extend(readable("/users/0/user/client-certificate", "client-cert", name));
            problems.extend(readable("/users/0/user/client-key", "client-key", name));
        }
        if let Some(plugin) = user.get("exec").filter(|plugin| plugin.is_object()) {
            for (field, missing) in [("/command", "command"), ("/apiVersion", "apiVersion")] {
                if text(plugin, field).is_empty() {
                    problems.push(format!("{missing} must be specified for {name} to use exec authentication plugin"));
                }
            }
        }
        let groups = user.get("as-groups").and_then(Value::as_array).is_some_and(|groups| !groups.is_empty());
        if !has("as") && (groups || self.uid) {
            problems.push(format!("requesting uid, groups or user-extra for {name} without impersonating a user"));
        }
        let basic = has("username") || has("password");
        if has("token") && basic {
            problems.push(format!("more than one authentication method found for {name}; found [token basicAuth], only one is allowed"));
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::Message(one.clone())),
            // Said without the usual `error: ` in front.
            all => Err(Error::Unreachable(format!("Error in configuration: \n* {}", all.join("\n* ")))),
        }
    }

    fn proxy_url(&self) -> String {
        text(&self.config, "/clusters/0/cluster/proxy-url").to_owned()
    }
}

impl Session {
    pub fn new(streams: Streams, environment: Environment, globals: Parsed, path: String) -> Self {
        Session {
            path,
            help: String::new(),
            environment,
            terminal: streams.terminal,
            screen: streams.screen,
            globals,
            clock: api::clock::Clock::system(),
            input: RefCell::new(Some(streams.input)),
            out: RefCell::new(streams.out),
            err: RefCell::new(streams.err),
            client: OnceCell::new(),
            discovery: AsyncOnceCell::new(),
            selected: OnceCell::new(),
            warned: RefCell::default(),
            failure: Cell::new(false),
            documents: Cell::new(0),
        }
    }

    /// A session that talks to `client` whatever the kubeconfig says.
    pub fn with_client(self, client: kube::Client) -> Self {
        let _ = self.client.set(client);
        self
    }

    /// With what `--help` says of the command.
    pub fn with_help(self, help: String) -> Self {
        Session { help, ..self }
    }

    /// What `--help` says of the command.
    pub fn help(&self) -> &str {
        &self.help
    }

    pub fn print(&self, text: impl AsRef<[u8]>) -> Result {
        Ok(self.out.borrow_mut().write_all(text.as_ref())?)
    }

    /// The command goes on, but fails in the end.
    pub fn note_failure(&self) {
        self.failure.set(true);
    }

    /// The size of the screen, where somebody looks on.
    pub fn screen_size(&self) -> Option<Size> {
        (self.screen)()
    }

    /// Whether somebody looks on at a terminal that can move its cursor.
    pub fn live(&self) -> bool {
        self.environment.var("TERM") != Some("dumb") && self.screen_size().is_some()
    }

    /// Whether that terminal is to be given colours (<https://no-color.org>).
    pub fn colours(&self) -> bool {
        self.environment.var("NO_COLOR").unwrap_or_default().is_empty() && self.live()
    }

    /// Counts the documents of a YAML stream; whether there was one before.
    pub fn another_document(&self) -> bool {
        self.documents.replace(self.documents.get() + 1) > 0
    }

    pub fn failed(&self) -> bool {
        self.failure.get()
    }

    /// Warnings where they are to count as errors.
    pub fn check_warnings(&self) -> Result {
        match self.warned.borrow().len() {
            1.. if !self.globals.is_set("warnings-as-errors") => Ok(()),
            0 => Ok(()),
            1 => fail!("1 warning received"),
            count => fail!("{count} warnings received"),
        }
    }

    pub fn flush(&self) -> Result {
        Ok(self.out.borrow_mut().flush()?)
    }

    pub fn say(&self, line: impl AsRef<str>) -> Result {
        self.print(format!("{}\n", line.as_ref()))
    }

    /// A line on standard error. A standard error that is gone is no reason to stop.
    pub fn complain(&self, line: impl AsRef<str>) {
        let mut err = self.err.borrow_mut();
        let _ = writeln!(err, "{}", line.as_ref());
    }

    pub fn print_err(&self, bytes: &[u8]) {
        let mut err = self.err.borrow_mut();
        let _ = err.write_all(bytes);
        let _ = err.flush();
    }

    /// A warning of the server, once.
    pub fn warn(&self, text: &str) {
        if self.warned.borrow_mut().insert(text.to_owned()) {
            self.complain(format!("Warning: {text}"));
        }
    }

    /// Standard input; it can be taken once.
    pub fn take_input(&self) -> Box<dyn AsyncRead + Unpin> {
        self.input.borrow_mut().take().unwrap_or_else(|| Box::new(tokio::io::empty()))
    }

    pub async fn read_input(&self) -> Result<Vec<u8>> {
        let mut input = self.take_input();
        let mut content = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut input, &mut content).await?;
        Ok(content)
    }

    pub fn verbosity(&self) -> i64 {
        self.globals.int("v")
    }

    pub fn kubeconfig_files(&self) -> Files {
        kubeconfig::files(self.globals.text("kubeconfig"), &self.environment)
    }

    /// `UsageErrorf`
    pub fn usage_error(&self, message: impl AsRef<str>) -> Error {
        Error::Message(format!("{}\nSee '{} -h' for help and examples", message.as_ref(), self.path))
    }

    pub fn selected(&self) -> Result<&Selected> {
        if self.selected.get().is_none() {
            let selected = self.select()?;
            let _ = self.selected.set(selected);
        }
        Ok(self.selected.get().expect("set just above"))
    }

    pub fn namespace(&self) -> Result<&str> {
        Ok(&self.selected()?.namespace)
    }

    fn select(&self) -> Result<Selected> {
        let globals = &self.globals;
        let merged = if self.client.get().is_some() { kubeconfig::empty() } else { self.kubeconfig_files().merged()? };
        let pick = |flag: &str, fallback: &str| {
            let given = globals.text(flag);
            if given.is_empty() { fallback.to_owned() } else { given.to_owned() }
        };
        let context_name = pick("context", text(&merged, "/current-context"));
        let context = kubeconfig::entry(&merged, "contexts", "context", &context_name).cloned();
        if context.is_none() && !context_name.is_empty() {
            match globals.text("context") {
                "" if globals.changed("server") => {}
                // Said without the usual `error: ` in front.
                _ => return Err(Error::Unreachable(format!("Error in configuration: context was not found for specified context: {context_name}"))),
            }
        }
        let context = context.unwrap_or(Value::Null);
        let cluster_name = pick("cluster", text(&context, "/cluster"));
        let cluster = kubeconfig::entry(&merged, "clusters", "cluster", &cluster_name).cloned();
        if cluster.is_none() && !cluster_name.is_empty() {
            fail!("no server found for cluster {cluster_name:?}");
        }
        let user_name = pick("user", text(&context, "/user"));
        let user = kubeconfig::entry(&merged, "users", "user", &user_name).cloned();
        if user.is_none() && globals.changed("user") {
            fail!("auth info {user_name:?} does not exist");
        }
        let mut cluster = cluster.filter(Value::is_object).unwrap_or_else(|| json!({}));
        let mut user = user.filter(Value::is_object).unwrap_or_else(|| json!({}));
        if globals.changed("server") {
            set(&mut cluster, &["server"], globals.text("server").into());
        }
        if text(&cluster, "/server").is_empty() {
            set(&mut cluster, &["server"], "http://localhost:8080".into());
        }
        let mut server = text(&cluster, "/server").trim_end_matches('/').to_owned();
        if !server.contains("://") {
            server = format!("http://{server}");
        }
        set(&mut cluster, &["server"], server.clone().into());
        self.override_cluster(&mut cluster);
        self.override_user(&mut user);

        let given = globals.text("namespace");
        let of_context = text(&context, "/namespace");
        let namespace = [given, of_context, "default"].into_iter().find(|name| !name.is_empty()).unwrap_or("default").to_owned();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x", "namespace": namespace}}],
            "clusters": [{"name": "x", "cluster": cluster}],
            "users": [{"name": "x", "user": user}],
        });
        Ok(Selected { namespace, namespace_given: !given.is_empty(), server, cluster: cluster_name, user: user_name, uid: globals.changed("as-uid"), config })
    }

    fn override_cluster(&self, cluster: &mut Value) {
        let globals = &self.globals;
        if globals.changed("certificate-authority") {
            let path = globals.text("certificate-authority").into();
            set(cluster, &["certificate-authority"], path);
            cluster.as_object_mut().expect("set just above").remove("certificate-authority-data");
        }
        if globals.is_set("insecure-skip-tls-verify") {
            set(cluster, &["insecure-skip-tls-verify"], true.into());
            let cluster = cluster.as_object_mut().expect("set just above");
            cluster.remove("certificate-authority");
            cluster.remove("certificate-authority-data");
        }
        if globals.changed("tls-server-name") {
            set(cluster, &["tls-server-name"], globals.text("tls-server-name").into());
        }
    }

    fn override_user(&self, user: &mut Value) {
        let globals = &self.globals;
        for (flag, field, clears) in [
            ("token", "token", &["tokenFile", "exec"][..]),
            ("client-certificate", "client-certificate", &[]),
            ("client-key", "client-key", &[]),
            ("username", "username", &[]),
            ("password", "password", &[]),
            ("as", "as", &[]),
        ] {
            if globals.changed(flag) {
                set(user, &[field], globals.text(flag).into());
                for other in clears {
                    user.as_object_mut().expect("set just above").remove(*other);
                }
            }
        }
        let groups = globals.list("as-group");
        if !groups.is_empty() {
            set(user, &["as-groups"], groups.into());
        }
    }

    /// The connection. Nothing is sent yet.
    pub async fn client(&self) -> Result<&kube::Client> {
        if self.client.get().is_none() {
            let selected = self.selected()?;
            selected.check()?;
            if !self.globals.text("request-timeout").is_empty() && crate::rest::timeout(self.globals.text("request-timeout")).is_none() {
                fail!("Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a corresponding time unit (e.g. 1s | 2m | 3h)");
            }
            let config: kube::config::Kubeconfig = serde_json::from_value(selected.config.clone())
                .map_err(|error| Error::Message(format!("invalid configuration: {error}")))?;
            let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default())
                .await
                .map_err(|error| Error::Message(crate::rest::chain(&error)))?;
            let uid = self.globals.text("as-uid");
            if let Ok(uid) = uid.parse()
                && !self.globals.text("as-uid").is_empty()
            {
                config.headers.push((http::HeaderName::from_static("impersonate-uid"), uid));
            }
            config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("kubectl/v1.35.0 (linux/amd64) coracle")));
            config.default_retry = false;
            let client = crate::connection::client(config, &selected.proxy_url(), &self.environment)?;
            let _ = self.client.set(client);
            if self.globals.is_set("match-server-version") {
                Box::pin(self.check_version()).await?;
            }
        }
        Ok(self.client.get().expect("set just above"))
    }

    async fn check_version(&self) -> Result {
        let server = self.get(crate::rest::Url::new("/version")).await?;
        let (server, client) = (text(&server, "/gitVersion"), crate::commands::cluster::CLIENT);
        if server != client {
            fail!("server version ({server}) differs from client version ({client})");
        }
        Ok(())
    }

    /// What the server can do, from the cache where that is fresh.
    pub async fn discovery(&self) -> Result<&Rc<Discovery>> {
        self.discovery.get_or_try_init(|| async { Ok(Rc::new(Discovery::load(self).await?)) }).await
    }

    /// `~/.kube/cache` or what `--cache-dir` and `$KUBECACHEDIR` say; none for a session without a configured server.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        let given = self.globals.text("cache-dir");
        if self.globals.changed("cache-dir") {
            return Some(PathBuf::from(given));
        }
        if let Some(dir) = self.environment.var("KUBECACHEDIR") {
            return Some(PathBuf::from(dir));
        }
        self.environment.var("HOME").map(|home| PathBuf::from(home).join(".kube/cache"))
    }
}

/// Names of all contexts, for completion and `config`.
pub fn entry_names(config: &Value, field: &str) -> Vec<String> {
    list(config, &format!("/{field}")).iter().map(|entry| name_of(entry).to_owned()).collect()
}
