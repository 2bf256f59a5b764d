//! The command-line client: kubectl, in the binary.
//!
//! Invariant: one file per command holds its help, its flags and what it does; only `main` here and `terminal` know
//! the process, everything else works on the streams and the environment it is given, so a session can be replayed in
//! a test. Whatever is asked of a server is asked of any Kubernetes: nothing here is private to Coracle. Deliberately
//! absent: caches other than discovery's, and any knowledge of the columns of tables.

mod command;
mod commands;
mod connection;
mod discovery;
mod error;
mod files;
mod flags;
mod kubeconfig;
mod kuberc;
mod kustomize;
mod output;
mod remote;
mod rest;
mod selection;
mod session;
mod terminal;
mod threeway;
mod value;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod sessions;

use std::process::ExitCode;

use command::{Found, find, help};
use error::{Error, Result};
use session::{Environment, GLOBALS, Session, Streams};

/// Runs one command line; `args` without the program's name.
pub fn main(args: Vec<String>) -> ExitCode {
    let streams = Streams {
        input: Box::new(tokio::io::stdin()),
        out: Box::new(std::io::LineWriter::new(std::io::stdout())),
        err: Box::new(std::io::stderr()),
        terminal: terminal::StandardTerminal::open().map(|terminal| Box::new(terminal) as Box<dyn terminal::Terminal>),
        screen: terminal::screen,
    };
    let environment = Environment { variables: std::env::vars().collect() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(args, streams, environment, None));
    // A read of standard input may be waiting for ever.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Runs one command line on the given streams; the answer is the exit code.
async fn run(args: Vec<String>, mut streams: Streams, environment: Environment, client: Option<kube::Client>) -> u8 {
    if let Some((first, words)) = args.split_first()
        && (first == "__complete" || first == "__completeNoDesc")
    {
        return commands::completion::complete(words, first == "__complete", streams, environment, client).await;
    }
    let args = match kuberc::Preferences::load(&args, &environment) {
        Ok(preferences) => preferences.with_defaults(&preferences.written_out(&args)),
        Err(error) => {
            let _ = writeln!(streams.err, "{}", error.message());
            return 1;
        }
    };
    let found = match find(&commands::ROOT, GLOBALS, &args) {
        Ok(found) => found,
        Err(error) => {
            if let Some(code) = commands::plugin::try_plugin(&args, &environment) {
                return code;
            }
            let early = args.first().filter(|word| word.starts_with('-') && error.message().starts_with("error: unknown command"));
            let _ = match early {
                Some(flag) => writeln!(streams.err, "Error: flags cannot be placed before plugin name: {flag}"),
                None => writeln!(streams.err, "{}", error.message()),
            };
            return 1;
        }
    };
    let Found { command, path, parsed } = found;
    // A command's own flag hides a global one of the same name.
    let own = |name: &str| command.flags.iter().flat_map(|group| group.iter()).any(|flag| flag.long == name);
    let globals: Vec<&str> = GLOBALS.iter().map(|flag| flag.long).filter(|name| own(name)).collect();
    let explained = help(command, &path);
    let mut session = Session::new(streams, environment, parsed.without(&globals), path).with_help(explained);
    if let Some(client) = client {
        session = session.with_client(client);
    }
    if let (false, Some(why)) = (own("profile"), profile(&session.globals)) {
        return finish(&session, Err(Error::Message(why)));
    }
    let outcome = if parsed.is_set("help") || command.run.is_none() {
        if let (Some(word), false) = (parsed.args.first(), parsed.is_set("help")) {
            Err(Error::Message(format!("unknown command {word:?} for {:?}", session.path)))
        } else {
            alone(&session, command, parsed.is_set("help"))
        }
    } else {
        let work = command.run.expect("looked at just above");
        work(&session, &parsed).await
    };
    finish(&session, outcome)
}

/// Why no profile will be recorded, if one is wanted.
fn profile(parsed: &flags::Parsed) -> Option<String> {
    match parsed.text("profile") {
        "none" | "" => None,
        known @ ("cpu" | "heap" | "goroutine" | "threadcreate" | "block" | "mutex" | "trace") => Some(format!("--profile={known} is not supported")),
        unknown => Some(format!("unknown profile '{unknown}'")),
    }
}

/// A command that is to explain itself.
fn alone(session: &Session, command: &command::Command, asked: bool) -> Result {
    let text = session.help();
    match command.alone {
        _ if asked => session.print(text),
        command::Alone::Helps => session.print(text),
        command::Alone::HelpsAndFails => session.print(text).and(Err(Error::Exit(1))),
        command::Alone::Complains => {
            session.print_err(text.as_bytes());
            Err(Error::Exit(1))
        }
    }
}

fn finish(session: &Session, outcome: Result) -> u8 {
    let outcome = outcome.and_then(|()| session.flush()).and_then(|()| session.check_warnings());
    match outcome {
        Ok(()) if session.failed() => 1,
        Ok(()) => 0,
        Err(error) => {
            let _ = session.flush();
            let message = error.message();
            if !message.is_empty() {
                session.complain(message.strip_suffix('\n').unwrap_or(&message));
            }
            error.exit_code()
        }
    }
}
