//! `coracle image import/pull/ls/rm`: the node's images, through the running server or directly.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command};
use runtime::image::{ImageStore, RegistriesConfig};

use super::{block_on, data_dir_argument, instance, process, say};
use crate::instance::Instance;
use crate::local::{self, ImageRequest, Reply, Request};

pub fn command() -> Command {
    let many = |name: &'static str, help: &'static str| Arg::new(name).required(true).num_args(1..).help(help);
    Command::new("image")
        .about("Import, pull, list and remove images of this node")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(data_dir_argument().global(true))
        .subcommand(
            Command::new("import")
                .about("Import image archives (docker save, OCI image layout); garbage collection never takes them")
                .arg(many("archive", "Archive files, or directories with an OCI image layout")),
        )
        .subcommand(Command::new("pull").about("Pull images from their registry").arg(many("name", "Image names")))
        .subcommand(Command::new("ls").alias("list").about("List images"))
        .subcommand(Command::new("rm").about("Remove images").arg(many("name", "Image names or IDs")))
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    let names = |matches: &ArgMatches, id: &str| -> Vec<String> {
        matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
    };
    match matches.subcommand() {
        Some(("import", matches)) => {
            for path in names(matches, "archive") {
                let path = std::path::absolute(&path).map_err(|cause| format!("{path}: {cause}"))?;
                for name in ask(&instance, ImageRequest::Import { path })?.names {
                    say(&format!("imported {name}"));
                }
            }
        }
        Some(("pull", matches)) => {
            for name in names(matches, "name") {
                let reply = ask(&instance, ImageRequest::Pull { name: name.clone() })?;
                say(&format!("pulled {name} {}", reply.names.join(" ")));
            }
        }
        Some(("rm", matches)) => {
            for name in names(matches, "name") {
                ask(&instance, ImageRequest::Remove { name: name.clone() })?;
                say(&format!("removed {name}"));
            }
        }
        _ => list(ask(&instance, ImageRequest::List)?),
    }
    Ok(())
}

fn list(reply: Reply) {
    say(&format!("{:<56} {:<14} {:>10}  PINNED", "IMAGE", "ID", "SIZE"));
    for image in reply.images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = format!("{:.1} MiB", image.bytes as f64 / f64::from(1 << 20));
        let names = if image.references.is_empty() { vec!["<none>".to_string()] } else { image.references };
        for name in names {
            say(&format!("{name:<56} {id:<14} {size:>10}  {}", if image.pinned { "yes" } else { "no" }));
        }
    }
}

fn ask(instance: &Instance, request: ImageRequest) -> Result<Reply, String> {
    block_on(async {
        let holders = [instance.lock(), instance.component_lock("kubelet")];
        if holders.iter().any(|lock| process::running(lock).is_some()) {
            return local::ask(&instance.socket(), &Request::Image(request)).await;
        }
        let registries = RegistriesConfig::read(&PathBuf::from("/etc/coracle/registries.yaml"))?;
        let images = ImageStore::open(&instance.image_store(), registries)
            .map_err(|cause| format!("{}: {cause}", instance.image_store().display()))?;
        local::handle_image(request, &images).await.checked()
    })
}
