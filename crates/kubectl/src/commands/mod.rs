//! All commands, one file each.

use crate::command::{COMMAND, Command};

pub mod apply;
mod applyset;
pub mod auth;
pub mod autoscale;
pub mod certificate;
pub mod cluster;
pub mod completion;
pub mod config;
pub mod cp;
pub mod create;
pub mod debug;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod dump;
pub mod edit;
pub mod events;
pub mod exec;
pub mod explain;
pub mod expose;
pub mod get;
pub mod kustomize;
pub mod label;
mod live;
pub mod logs;
mod migrate;
pub mod node;
pub mod patch;
pub mod plugin;
pub mod port_forward;
pub mod proxy;
pub mod prune;
pub mod reconcile;
pub mod replace;
pub mod rollout;
pub mod run;
pub mod scale;
pub mod set;
pub mod top;
pub mod wait;
pub mod why;

pub static ROOT: Command = Command {
    name: "kubectl",
    about: "kubectl controls a Kubernetes cluster.",
    usage: "[flags] [options]",
    groups: &[
        ("Basic Commands (Beginner):", "create"),
        ("Basic Commands (Intermediate):", "explain"),
        ("Deploy Commands:", "rollout"),
        ("Cluster Management Commands:", "certificate"),
        ("Troubleshooting and Debugging Commands:", "describe"),
        ("Advanced Commands:", "diff"),
        ("Settings Commands:", "label"),
        ("Other Commands:", "api-resources"),
        ("", "alpha"),
    ],
    subcommands: &[
        &create::CREATE,
        &expose::EXPOSE,
        &run::RUN,
        &set::SET,
        &explain::EXPLAIN,
        &get::GET,
        &edit::EDIT,
        &delete::DELETE,
        &rollout::ROLLOUT,
        &scale::SCALE,
        &autoscale::AUTOSCALE,
        &certificate::CERTIFICATE,
        &cluster::CLUSTER_INFO,
        &top::TOP,
        &node::CORDON,
        &node::UNCORDON,
        &node::DRAIN,
        &node::TAINT,
        &describe::DESCRIBE_COMMAND,
        &why::WHY,
        &logs::LOGS,
        &exec::ATTACH,
        &exec::EXEC,
        &port_forward::PORT_FORWARD,
        &proxy::PROXY,
        &cp::CP,
        &auth::AUTH,
        &debug::DEBUG,
        &events::EVENTS,
        &diff::DIFF,
        &apply::APPLY,
        &patch::PATCH,
        &replace::REPLACE,
        &wait::WAIT,
        &kustomize::KUSTOMIZE,
        &label::LABEL,
        &label::ANNOTATE,
        &completion::COMPLETION,
        &cluster::API_RESOURCES,
        &cluster::API_VERSIONS,
        &config::CONFIG,
        &plugin::PLUGIN,
        &cluster::VERSION,
        &cluster::ALPHA,
        &cluster::OPTIONS,
    ],
    ..COMMAND
};
