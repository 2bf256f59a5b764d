//! What could stand in the place of the last word.

use serde_json::Value;

use crate::command::{Command, Found, all_flags, find};
use crate::commands::ROOT;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::rest::Url;
use crate::session::{Environment, GLOBALS, Session, Streams, entry_names};
use crate::value::{list, name, name_of};

const ERROR: u8 = 1;
const NO_SPACE: u8 = 2;
const NO_FILES: u8 = 4;
const FILE_ENDINGS: u8 = 8;
/// Objects asked for; nobody chooses from more.
const NAMES_MAX: &str = "500";
/// Kinds that a pod can be found by.
const OF_PODS: &[&str] = &["daemonsets", "deployments", "pods", "jobs", "replicasets", "replicationcontrollers", "services", "statefulsets"];

/// Candidates, perhaps with a tab and what they mean, and the directive.
#[derive(Debug, Default)]
struct Answer {
    candidates: Vec<String>,
    directive: u8,
}

impl Answer {
    fn of(candidates: Vec<String>) -> Self {
        Answer { candidates, directive: NO_FILES }
    }

    fn fixed(words: &[&str]) -> Self {
        Answer::of(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn files() -> Self {
        Answer::default()
    }
}

/// Answers `__complete WORDS...`, of which the last is the one to be completed.
pub async fn complete(words: &[String], described: bool, streams: Streams, environment: Environment, client: Option<kube::Client>) -> u8 {
    let Some((last, before)) = words.split_last() else {
        let mut streams = streams;
        let _ = writeln!(streams.err, "error: completion needs at least the word to be completed");
        return 1;
    };
    let Streams { input, mut out, mut err, terminal, screen } = streams;
    // What goes wrong on the way must not stand among the candidates.
    let quiet = Streams { input, out: Box::new(std::io::sink()), err: Box::new(std::io::sink()), terminal, screen };
    let mut answer = match Place::find(before, last) {
        None => Answer { candidates: Vec::new(), directive: ERROR },
        Some(place) => {
            let mut session = Session::new(quiet, environment, place.found.parsed.clone(), place.found.path.clone());
            if let Some(client) = client {
                session = session.with_client(client);
            }
            place.answer(&session).await
        }
    };
    let wanted = last.split_once('=').filter(|_| last.starts_with('-')).map_or(last.as_str(), |(_, value)| value);
    answer.candidates.retain(|candidate| candidate.starts_with(wanted));
    let mut text = String::new();
    for candidate in answer.candidates {
        text += if described { &candidate } else { candidate.split('\t').next().unwrap_or_default() };
        text.push('\n');
    }
    text += &format!(":{}\n", answer.directive);
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    let _ = writeln!(err, "Completion ended with directive: {}", directive_name(answer.directive));
    0
}

fn directive_name(directive: u8) -> String {
    let names = ["ShellCompDirectiveError", "ShellCompDirectiveNoSpace", "ShellCompDirectiveNoFileComp", "ShellCompDirectiveFilterFileExt"];
    let set: Vec<&str> = names.iter().enumerate().filter(|(bit, _)| directive & 1 << bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "ShellCompDirectiveDefault".to_owned() } else { set.join(", ") }
}

/// Where the last word stands.
struct Place<'a> {
    found: Found,
    /// The last word is this flag's value.
    flag: Option<Flag>,
    last: &'a str,
}

impl<'a> Place<'a> {
    fn find(before: &[String], last: &'a str) -> Option<Self> {
        let parse = |words: &[String]| find(&ROOT, GLOBALS, words).ok();
        if let Some(found) = parse(before) {
            let flag = match last.split_once('=') {
                Some((flag, _)) if last.starts_with('-') => Some(flag_named(found.command, flag)?),
                _ => None,
            };
            return Some(Place { found, flag, last });
        }
        // The word before is a flag that still wants its value.
        let (flag, rest) = before.split_last()?;
        let found = parse(rest)?;
        let flag = flag_named(found.command, flag)?;
        Some(Place { found, flag: Some(flag), last })
    }

    async fn answer(&self, session: &Session) -> Answer {
        let outcome = match &self.flag {
            Some(flag) => self.flag_value(session, flag.long).await,
            None if self.last.starts_with('-') && self.found.parsed.dash.is_none() => Ok(self.flags()),
            None => self.argument(session).await,
        };
        outcome.unwrap_or_else(|_| Answer::of(Vec::new()))
    }

    fn flags(&self) -> Answer {
        let mut flags: Vec<Flag> = all_flags(self.found.command, GLOBALS).into_iter().filter(|flag| !flag.hidden).collect();
        flags.sort_by_key(|flag| flag.long);
        let mut candidates = Vec::new();
        for flag in flags {
            // A flag that is given is not offered again, unless it can be repeated.
            let repeated = matches!(flag.kind, crate::flags::Kind::List | crate::flags::Kind::Array);
            if self.found.parsed.changed(flag.long) && !repeated {
                continue;
            }
            candidates.push(format!("--{}\t{}", flag.long, flag.help));
            if let (Some(short), false) = (flag.short, self.last.starts_with("--")) {
                candidates.push(format!("-{short}\t{}", flag.help));
            }
        }
        candidates.push("--help\tHelp for this command".to_owned());
        Answer::of(candidates)
    }

    async fn flag_value(&self, session: &Session, flag: &str) -> Result<Answer> {
        let command = self.found.path.trim_start_matches("kubectl ");
        Ok(match flag {
            "namespace" => Answer::of(names(session, "namespaces").await?),
            "context" | "cluster" | "user" => Answer::of(entry_names(&session.kubeconfig_files().merged()?, &format!("{flag}s"))),
            "filename" => Answer { candidates: ["json", "yaml", "yml"].map(str::to_owned).to_vec(), directive: FILE_ENDINGS },
            "output" => Answer::fixed(outputs(command, &self.found.parsed)),
            "dry-run" => Answer::fixed(&["none", "server", "client"]),
            "cascade" => Answer::fixed(&["background", "foreground", "orphan"]),
            "validate" => Answer::fixed(&["strict", "warn", "ignore", "true", "false"]),
            "container" => Answer::of(containers(session, self.found.parsed.args.first()).await?),
            "target" if command == "debug" => Answer::of(containers(session, self.found.parsed.args.first()).await?),
            "profile" if command == "debug" => Answer::fixed(&["legacy", "general", "baseline", "netadmin", "restricted", "sysadmin"]),
            "restart" => Answer::fixed(&["Always", "OnFailure", "Never"]),
            "image-pull-policy" => Answer::fixed(&["Always", "IfNotPresent", "Never"]),
            "sort-by" if command.starts_with("top") => Answer::fixed(&["cpu", "memory"]),
            "sort-by" if command == "api-resources" => Answer::fixed(&["name", "kind"]),
            "clusterrole" => Answer::of(names(session, "clusterroles").await?),
            "role" => Answer::of(names(session, "roles").await?),
            "serviceaccount" => Answer::of(names(session, "serviceaccounts").await?),
            _ => Answer::files(),
        })
    }

    async fn argument(&self, session: &Session) -> Result<Answer> {
        let Found { command, parsed, path } = &self.found;
        let args = &parsed.args;
        let path = path.strip_prefix("kubectl").unwrap_or(path).trim_start();
        if !command.subcommands.is_empty() && args.is_empty() {
            let own = command.subcommands.iter().map(|sub| format!("{}\t{}", sub.name, sub.about));
            let mut all: Vec<String> = own.collect();
            all.sort();
            if path.is_empty() {
                all.extend(crate::commands::plugin::names(&session.environment));
            }
            if !all.iter().any(|candidate| candidate.starts_with(self.last)) && command.run.is_some() {
                return self.objects(session, path).await;
            }
            return Ok(Answer::of(all));
        }
        match (path, args.len()) {
            ("exec" | "debug", 0) => self.pods_or(session, &["daemonsets", "deployments", "pods", "cronjobs", "jobs", "replicasets", "statefulsets"]).await,
            ("attach", 0) => self.pods_or(session, OF_PODS).await,
            ("logs", 0) => self.pods_or(session, &["daemonsets", "deployments", "pods", "jobs", "replicasets", "statefulsets"]).await,
            ("port-forward", 0) => self.pods_or(session, OF_PODS).await,
            ("logs", 1) => Ok(Answer::of(containers(session, args.first()).await?)),
            ("cordon" | "uncordon" | "drain", _) | ("top node", 0) => Ok(Answer::of(without(names(session, "nodes").await?, args))),
            ("taint", 0) => Ok(Answer::fixed(&["node"])),
            ("taint", 1) => Ok(Answer::of(names(session, "nodes").await?)),
            ("top pod", 0) => Ok(Answer::of(names(session, "pods").await?)),
            ("completion", 0) => Ok(Answer::fixed(&["bash", "zsh", "fish", "powershell"])),
            ("config use-context" | "config delete-context" | "config rename-context" | "config get-contexts", 0) => self.entries(session, "contexts"),
            ("config delete-cluster", 0) => self.entries(session, "clusters"),
            ("config delete-user", 0) => self.entries(session, "users"),
            ("cp", _) => self.copied(session).await,
            ("certificate approve" | "certificate deny", _) => Ok(Answer::of(without(names(session, "certificatesigningrequests").await?, args))),
            _ => self.objects(session, path).await,
        }
    }

    fn entries(&self, session: &Session, field: &str) -> Result<Answer> {
        Ok(Answer::of(entry_names(&session.kubeconfig_files().merged()?, field)))
    }

    /// `TYPE NAME...` and `TYPE/NAME...`, for the commands that take them.
    async fn objects(&self, session: &Session, path: &str) -> Result<Answer> {
        let kinds: &[&str] = match path {
            "get" | "describe" | "delete" | "edit" | "label" | "annotate" | "patch" | "wait" | "expose" | "explain" | "why" | "apply view-last-applied" | "apply edit-last-applied" => &[],
            "scale" | "autoscale" => &["deployment", "replicaset", "replicationcontroller", "statefulset"],
            "rollout restart" | "rollout status" | "rollout undo" | "rollout history" => &["deployment", "daemonset", "statefulset"],
            "rollout pause" | "rollout resume" => &["deployment"],
            "set image" | "set env" | "set resources" | "set serviceaccount" => &["daemonsets", "deployments", "pods", "cronjobs", "replicasets", "replicationcontrollers", "statefulsets"],
            "set selector" => &["services"],
            "set subject" => &["clusterrolebindings", "rolebindings"],
            _ if self.found.command.usage.contains("FILENAME") || path.is_empty() => return Ok(Answer::files()),
            _ => return Ok(Answer::of(Vec::new())),
        };
        let args = &self.found.parsed.args;
        if path == "explain" && !args.is_empty() {
            return Ok(Answer::of(Vec::new()));
        }
        if let Some((kind, _)) = self.last.split_once('/') {
            let found = names(session, kind).await?;
            return Ok(Answer::of(without(found.into_iter().map(|name| format!("{kind}/{name}")).collect(), args)));
        }
        match args.first() {
            Some(kind) if !kind.contains('/') => Ok(Answer::of(without(names(session, kind).await?, &args[1..]))),
            Some(_) => Ok(Answer { candidates: self.kinds(session, kinds).await?.into_iter().map(|kind| format!("{kind}/")).collect(), directive: NO_SPACE | NO_FILES }),
            None => {
                // `pods,se`: what stands before the comma stays.
                let before = self.last.rfind(',').map_or("", |at| &self.last[..=at]);
                let found = self.kinds(session, kinds).await?;
                Ok(Answer::of(found.into_iter().filter(|kind| !before.split(',').any(|given| given == kind)).map(|kind| format!("{before}{kind}")).collect()))
            }
        }
    }

    async fn kinds(&self, session: &Session, kinds: &[&str]) -> Result<Vec<String>> {
        if !kinds.is_empty() {
            return Ok(kinds.iter().map(|kind| (*kind).to_owned()).collect());
        }
        let discovery = session.discovery().await?;
        let mut found: Vec<String> = Vec::new();
        for resource in discovery.resources.iter().filter(|one| discovery.is_preferred(one) && one.allows("get")) {
            let shown = resource.qualified();
            if !found.contains(&shown) {
                found.push(shown);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Names of pods, and kinds that stand for pods with a slash behind them.
    async fn pods_or(&self, session: &Session, kinds: &[&str]) -> Result<Answer> {
        if let Some((kind, _)) = self.last.split_once('/') {
            let found = names(session, kind).await?;
            return Ok(Answer::of(found.into_iter().map(|name| format!("{kind}/{name}")).collect()));
        }
        let pods = names(session, "pods").await?;
        let kinds: Vec<String> = kinds.iter().map(|kind| format!("{kind}/")).filter(|kind| kind.starts_with(self.last)).collect();
        let only_kinds = !pods.iter().any(|pod| pod.starts_with(self.last)) && !kinds.is_empty();
        Ok(Answer { candidates: pods.into_iter().chain(kinds).collect(), directive: if only_kinds { NO_SPACE | NO_FILES } else { NO_FILES } })
    }

    /// `pod:`, `namespace/`, or a file of this machine.
    async fn copied(&self, session: &Session) -> Result<Answer> {
        let last = self.last;
        if self.found.parsed.args.len() > 1 || last.contains(':') {
            return Ok(Answer::files());
        }
        if last.starts_with(['.', '/', '~']) {
            return Ok(Answer { candidates: Vec::new(), directive: 0 });
        }
        let mut candidates = Vec::new();
        if let Some((namespace, _)) = last.split_once('/') {
            let found = session.get(Url::new(format!("/api/v1/namespaces/{namespace}/pods")).with("limit", NAMES_MAX)).await?;
            candidates.extend(list(&found, "/items").iter().map(|pod| format!("{namespace}/{}:", name(pod))));
        } else {
            candidates.extend(names(session, "pods").await?.into_iter().map(|pod| format!("{pod}:")));
            candidates.extend(names(session, "namespaces").await?.into_iter().map(|namespace| format!("{namespace}/")));
            if last.is_empty() {
                candidates.extend(["./".to_owned(), "/".to_owned()]);
            }
        }
        let any = candidates.iter().any(|candidate| candidate.starts_with(last));
        Ok(Answer { candidates, directive: if any && !last.is_empty() { NO_SPACE | NO_FILES } else { NO_SPACE } })
    }
}

fn without(names: Vec<String>, given: &[String]) -> Vec<String> {
    names.into_iter().filter(|name| !given.contains(name)).collect()
}

fn flag_named(command: &Command, word: &str) -> Option<Flag> {
    let flags = all_flags(command, GLOBALS);
    if let Some(long) = word.strip_prefix("--") {
        return flags.into_iter().find(|flag| flag.long == long);
    }
    let last = word.strip_prefix('-')?.chars().next_back()?;
    flags.into_iter().find(|flag| flag.short == Some(last))
}

/// Names of all objects of a kind in the namespace.
async fn names(session: &Session, kind: &str) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for kind in kind.split(',').filter(|kind| !kind.is_empty()) {
        let resource = session.resource(kind).await?;
        let namespace = if resource.namespaced { session.namespace()? } else { "" };
        // Names alone: the metadata is all that is asked for.
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let url = Url::new(resource.collection(namespace)).with("limit", NAMES_MAX);
        let answer = session.call(http::Method::GET, url, accept, "", Vec::new()).await?;
        found.extend(list(&answer, "/items").iter().map(|object| name(object).to_owned()));
    }
    found.sort();
    Ok(found)
}

async fn containers(session: &Session, pod: Option<&String>) -> Result<Vec<String>> {
    let Some(pod) = pod else { return Ok(Vec::new()) };
    let info = crate::selection::one(session, std::slice::from_ref(pod), "pods").await?;
    let spec = if info.resource.name == "pods" { info.object.pointer("/spec") } else { info.object.pointer("/spec/template/spec") };
    let spec = spec.unwrap_or(&Value::Null);
    let of = |pointer: &str| list(spec, pointer).iter().map(|container| name_of(container).to_owned()).collect::<Vec<_>>();
    Ok([of("/initContainers"), of("/containers"), of("/ephemeralContainers")].concat())
}

fn outputs(command: &str, parsed: &Parsed) -> &'static [&'static str] {
    const OBJECTS: &[&str] = &["json", "yaml", "name", "go-template", "go-template-file", "template", "templatefile", "jsonpath", "jsonpath-as-json", "jsonpath-file"];
    match command {
        "get" => &["json", "yaml", "name", "go-template", "go-template-file", "template", "templatefile", "jsonpath", "jsonpath-as-json", "jsonpath-file", "custom-columns", "custom-columns-file", "wide"],
        "api-resources" => &["wide", "name"],
        "version" => &["json", "yaml"],
        "delete" | "config get-contexts" => &["name"],
        "explain" => &["plaintext", "plaintext-openapiv2"],
        _ if parsed.knows("template") => OBJECTS,
        _ => &["json", "yaml"],
    }
}
