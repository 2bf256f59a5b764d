//! `kubectl exec` and `attach`

use serde_json::Value;

use super::logs::{containers, default_container};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::files::{self, PLAIN_FILENAMES};
use crate::flags::{Flag, Parsed};
use crate::remote::{Remote, run_remote};
use crate::rest::Url;
use crate::selection::{from_files, one, pod_of};
use crate::session::Session;
use crate::value::{name, namespace, text};

pub static EXEC: Command = Command {
    name: "exec",
    about: "Run a command in a container.",
    usage: "(POD | TYPE/NAME) [-c CONTAINER] [flags] -- COMMAND [args...] [options]",
    examples: "
kubectl exec web -- date
kubectl exec -it web -- sh",
    flags: &[FLAGS, PLAIN_FILENAMES],
    run: Some(|session, args| Box::pin(exec(session, args))),
    ..COMMAND
};

pub static ATTACH: Command = Command {
    name: "attach",
    about: "Attach to the process that runs in a container.",
    usage: "(POD | TYPE/NAME) -c CONTAINER [options]",
    examples: "kubectl attach web -c main -it",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(attach(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("container", "The container.").short('c'),
    Flag::duration("pod-running-timeout", "1m0s", "How long to wait until a pod runs."),
    Flag::switch("quiet", "Show only what the command writes.").short('q'),
    Flag::switch("stdin", "Pass standard input on.").short('i'),
    Flag::switch("tty", "Standard input is a terminal.").short('t'),
];

async fn exec(session: &Session, args: &Parsed) -> Result {
    let (words, command): (Vec<String>, Vec<String>) = match args.dash {
        Some(at) => (args.args[..at].to_vec(), args.args[at..].to_vec()),
        None if files::given(args) => (Vec::new(), args.args.clone()),
        None if args.args.len() > 1 => fail!("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kubectl exec -h' for help and examples"),
        None => (args.args.clone(), Vec::new()),
    };
    if words.is_empty() && !files::given(args) {
        fail!("pod, type/name or --filename must be specified");
    }
    if command.is_empty() {
        fail!("you must specify at least one command for the container");
    }
    let pod = pod(session, args, &words).await?;
    let phase = text(&pod, "/status/phase");
    if phase == "Succeeded" || phase == "Failed" {
        fail!("cannot exec into a container in a completed pod; current phase is {phase}");
    }
    let container = container(session, args, &pod)?;
    let (stdin, tty) = terminal_wishes(session, args);
    let mut url = Url::new(format!("/api/v1/namespaces/{}/pods/{}/exec", namespace(&pod), name(&pod)));
    for word in &command {
        url = url.with("command", word);
    }
    let url = streams(url.with("container", &container), stdin, tty);
    run_remote(session, Remote { url, stdin, tty }).await
}

async fn attach(session: &Session, args: &Parsed) -> Result {
    if args.args.is_empty() {
        fail!("at least 1 argument is required for attach");
    }
    let pod = pod(session, args, &args.args).await?;
    attach_to(session, args, &pod).await
}

/// Attaches to a pod that runs.
pub async fn attach_to(session: &Session, args: &Parsed, pod: &Value) -> Result {
    let phase = text(pod, "/status/phase");
    if phase == "Succeeded" || phase == "Failed" {
        fail!("cannot attach a container in a completed pod; current phase is {phase}");
    }
    let container = container(session, args, pod)?;
    attach_container(session, args, pod, &container).await
}

/// Attaches to a container that runs.
pub async fn attach_container(session: &Session, args: &Parsed, pod: &Value, container: &str) -> Result {
    let (stdin, mut tty) = terminal_wishes(session, args);
    let wants_tty = super::debug::has_terminal(pod, container);
    if tty && !wants_tty {
        tty = false;
        session.complain(format!("error: Unable to use a TTY - container {container} did not allocate one"));
    }
    if !args.is_set("quiet") && stdin && tty {
        session.complain("If you don't see a command prompt, try pressing enter.");
    }
    let url = Url::new(format!("/api/v1/namespaces/{}/pods/{}/attach", namespace(pod), name(pod))).with("container", container);
    run_remote(session, Remote { url: streams(url, stdin, tty || wants_tty && tty), stdin, tty }).await
}

fn streams(mut url: Url, stdin: bool, tty: bool) -> Url {
    if stdin {
        url = url.with("stdin", "true");
    }
    url = url.with("stdout", "true");
    if tty { url.with("tty", "true") } else { url.with("stderr", "true") }
}

fn terminal_wishes(session: &Session, args: &Parsed) -> (bool, bool) {
    let (stdin, mut tty) = (args.is_set("stdin"), args.is_set("tty"));
    if tty && !(stdin && session.terminal.is_some()) {
        session.complain("Unable to use a TTY - input is not a terminal or the right kind of file");
        tty = false;
    }
    (stdin, tty)
}

async fn pod(session: &Session, args: &Parsed, words: &[String]) -> Result<Value> {
    let info = if files::given(args) {
        let mut infos = from_files(session, args).await?;
        if infos.len() != 1 {
            fail!("exec needs exactly one object");
        }
        let info = infos.remove(0);
        let object = session.get(info.url()).await?;
        crate::selection::Info { object, ..info }
    } else {
        one(session, words, "pods").await?
    };
    pod_of(session, &info, args.duration("pod-running-timeout")).await
}

pub fn container(session: &Session, args: &Parsed, pod: &Value) -> Result<String> {
    let containers = containers(pod);
    let wanted = args.text("container");
    if wanted.is_empty() {
        return Ok(default_container(session, pod, &containers).to_owned());
    }
    // The server says when there is none of that name.
    Ok(wanted.to_owned())
}
