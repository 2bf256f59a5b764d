//! `~/.kube/kuberc`: what a user prefers, aliases of commands and defaults of flags.
//!
//! Invariant: what stands on the command line wins over what stands in the file, and a command of this program over an
//! alias of its name. Read from `--kuberc`, else `$KUBERC`, else the home; `KUBECTL_KUBERC=false` or `KUBERC=off` and
//! nothing is read. Deliberately absent: changing the file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::command::{Found, find};
use crate::error::{Error, Result};
use crate::fail;
use crate::kubeconfig::go_io;
use crate::session::{Environment, GLOBALS};

/// v1beta1's names, and those of v1alpha1 that differ.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preferences {
    api_version: String,
    kind: String,
    aliases: Vec<Alias>,
    #[serde(alias = "overrides")]
    defaults: Vec<Defaults>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Alias {
    name: String,
    command: String,
    prepend_args: Vec<String>,
    append_args: Vec<String>,
    #[serde(alias = "flags")]
    options: Vec<FlagDefault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Defaults {
    command: String,
    #[serde(alias = "flags")]
    options: Vec<FlagDefault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FlagDefault {
    name: String,
    default: String,
}

impl Preferences {
    pub fn load(args: &[String], environment: &Environment) -> Result<Preferences> {
        let Some((path, named)) = path(args, environment) else { return Ok(Preferences::default()) };
        let shown = path.display();
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Preferences::default()),
            Err(error) => fail!("kuberc: open {shown}: {}", go_io(&error)),
        };
        let broken = |why: String| Error::Message(format!("kuberc: {shown}: {why}"));
        let (value, _) = api::yaml::to_json(&content).map_err(|error| broken(error.to_string()))?;
        let found: Preferences = serde_json::from_value(value).map_err(|error| broken(error.to_string()))?;
        if found.kind != "Preference" || !matches!(found.api_version.as_str(), "kubectl.config.k8s.io/v1beta1" | "kubectl.config.k8s.io/v1alpha1") {
            return Err(broken(format!("no kind {:?} is registered for version {:?}", found.kind, found.api_version)));
        }
        Ok(found)
    }

    /// The command line with an alias in it written out.
    pub fn written_out(&self, args: &[String]) -> Vec<String> {
        let builtin = |name: &str| crate::commands::ROOT.subcommands.iter().any(|one| one.name == name || one.aliases.contains(&name));
        let Some(first) = args.iter().position(|word| !word.starts_with('-')) else { return args.to_vec() };
        let Some(alias) = self.aliases.iter().find(|alias| alias.name == args[first] && !builtin(&alias.name)) else { return args.to_vec() };
        let mut words: Vec<String> = args[..first].to_vec();
        words.extend(alias.command.split_whitespace().map(str::to_owned));
        words.extend(alias.prepend_args.iter().cloned());
        words.extend(args[first + 1..].iter().cloned());
        words.extend(alias.append_args.iter().cloned());
        with_defaults(&words, &alias.options)
    }

    /// The command line with the flags that the file sets for the command it names.
    pub fn with_defaults(&self, args: &[String]) -> Vec<String> {
        if self.defaults.is_empty() {
            return args.to_vec();
        }
        let Ok(found) = find(&crate::commands::ROOT, GLOBALS, args) else { return args.to_vec() };
        let called = found.path.trim_start_matches("kubectl ");
        let options = self.defaults.iter().filter(|one| one.command.split_whitespace().eq(called.split_whitespace())).flat_map(|one| &one.options);
        with_defaults(args, options)
    }
}

fn with_defaults<'a>(args: &[String], options: impl IntoIterator<Item = &'a FlagDefault>) -> Vec<String> {
    let Ok(Found { parsed, .. }) = find(&crate::commands::ROOT, GLOBALS, args) else { return args.to_vec() };
    let unset = options.into_iter().filter(|option| !parsed.changed(&option.name));
    let mut words: Vec<String> = unset.map(|option| format!("--{}={}", option.name, option.default)).collect();
    words.extend(args.iter().cloned());
    words
}

/// The file, and whether somebody named it.
fn path(args: &[String], environment: &Environment) -> Option<(PathBuf, bool)> {
    if environment.var("KUBECTL_KUBERC") == Some("false") || environment.var("KUBERC") == Some("off") {
        return None;
    }
    let mut words = args.iter().take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if let Some(rest) = word.strip_prefix("--kuberc") {
            match rest.strip_prefix('=') {
                Some(path) => return Some((PathBuf::from(path), true)),
                None if rest.is_empty() => return words.next().map(|path| (PathBuf::from(path), true)),
                None => {}
            }
        }
    }
    match environment.var("KUBERC").filter(|path| !path.is_empty()) {
        Some(path) => Some((PathBuf::from(path), true)),
        None => environment.var("HOME").map(|home| (Path::new(home).join(".kube/kuberc"), false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: kubectl.config.k8s.io/v1beta1
kind: Preference
defaults:
- command: apply
  options: [{name: server-side, default: \"true\"}]
- command: create deployment
  options: [{name: replicas, default: \"3\"}]
aliases:
- name: prod
  command: get
  prependArgs: [pods]
  appendArgs: [--namespace, prod]
  options: [{name: output, default: wide}]
- name: get
  command: delete
";

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("rc");
        std::fs::write(&file, FILE).unwrap();
        let environment = Environment { variables: [("KUBERC".to_owned(), file.display().to_string())].into() };
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let preferences = Preferences::load(&words, &environment).unwrap();
        assert_eq!(preferences.with_defaults(&preferences.written_out(&words)).join(" "), expected);
    }

    #[test]
    fn the_command_line_wins() {
        check("prod", "--output=wide get pods --namespace prod");
        check("prod -o yaml web", "get pods -o yaml web --namespace prod");
        check("get pods", "get pods");
        check("apply -f x", "--server-side=true apply -f x");
        check("apply -f x --server-side=false", "apply -f x --server-side=false");
        check("create deployment web --image=x", "--replicas=3 create deployment web --image=x");
        check("create namespace web", "create namespace web");
    }

    #[test]
    fn what_is_named_must_be_there() {
        let load = |variables: &[(&str, &str)], args: &[&str]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
            Preferences::load(&args, &Environment { variables }).map(|_| ()).map_err(|error| error.message())
        };
        assert_eq!(load(&[("HOME", "/nowhere")], &["get"]), Ok(()));
        assert_eq!(load(&[("HOME", "/nowhere")], &["get", "--kuberc=/nowhere/x"]), Err("error: kuberc: open /nowhere/x: no such file or directory".to_owned()));
        assert_eq!(load(&[("KUBERC", "off")], &["get", "--kuberc", "/nowhere/x"]), Ok(()));
        assert_eq!(load(&[("KUBECTL_KUBERC", "false"), ("KUBERC", "/nowhere/x")], &["get"]), Ok(()));
    }
}
