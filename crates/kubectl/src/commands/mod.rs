//! All commands, one file each.

use crate::command::{COMMAND, Command};

pub mod apply;
pub mod create;
pub mod delete;
pub mod edit;
pub mod exec;
pub mod expose;
pub mod get;
pub mod label;
pub mod logs;
pub mod patch;
pub mod plugin;
pub mod replace;
pub mod run;
pub mod scale;

pub static ROOT: Command = Command {
    name: "kubectl",
    about: "kubectl controls a Kubernetes cluster.",
    usage: "[flags] [options]",
    subcommands: &[
        &create::CREATE,
        &expose::EXPOSE,
        &run::RUN,
        &get::GET,
        &edit::EDIT,
        &delete::DELETE,
        &scale::SCALE,
        &logs::LOGS,
        &exec::ATTACH,
        &exec::EXEC,
        &apply::APPLY,
        &patch::PATCH,
        &replace::REPLACE,
        &label::LABEL,
        &label::ANNOTATE,
        &plugin::PLUGIN,
    ],
    ..COMMAND
};
