//! `kubectl completion SHELL`, and `__complete`, which the scripts ask: what could stand in the place of the last word.
//!
//! ```text
//! kubectl __complete get pods we     ->  web
//!                                        website
//!                                        :4
//! ```
//!
//! Invariant: the last line is `:` and a number whose bits tell the shell how to go on; these are the ones of the
//! original's command-line library, so either program's scripts work with either program. Whatever goes wrong, no
//! line of it reaches standard output. Deliberately absent: help that appears while typing.

mod words;

use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::Flag;
use crate::session::Session;

pub use words::complete;

pub static COMPLETION: Command = Command {
    name: "completion",
    about: "Write the completion script of a shell: bash, zsh, fish or powershell.",
    usage: "SHELL [options]",
    examples: "
# In this shell, and in every one from now on
source <(kubectl completion bash)
echo 'source <(kubectl completion bash)' >> ~/.bashrc

# The same for zsh and fish
source <(kubectl completion zsh)
kubectl completion fish | source",
    flags: &[FLAGS],
    run: Some(|session, args| Box::pin(async move { run(session, &args.args) })),
    ..COMMAND
};

const FLAGS: &[Flag] = &[];

const BASH: &str = include_str!("completion.bash");
const ZSH: &str = include_str!("completion.zsh");
const FISH: &str = include_str!("completion.fish");
const POWERSHELL: &str = include_str!("completion.ps1");

fn run(session: &Session, args: &[String]) -> Result {
    match args {
        [] => Err(session.usage_error("Shell not specified.")),
        [shell] => session.print(match shell.as_str() {
            "bash" => BASH,
            "zsh" => ZSH,
            "fish" => FISH,
            "powershell" => POWERSHELL,
            other => fail!("Unsupported shell type {other:?}.\nSee 'kubectl completion -h' for help and examples"),
        }),
        _ => Err(session.usage_error("Too many arguments. Expected only the shell type.")),
    }
}
