//! Generates the schema table: one static `Definition` for every definition of Kubernetes' API.
//!
//! Two published crates are read as source text, neither is linked here: `k8s-openapi` carries the OpenAPI
//! document (names, types, descriptions), `k8s-pb` the protobuf files (tags, inlined structs and the Go markers
//! such as `+listType=map`). `go_fields.txt` adds what only the Go types know.

#[path = "build/emit.rs"]
mod emit;
#[path = "build/join.rs"]
mod join;
#[path = "build/openapi.rs"]
mod openapi;
#[path = "build/proto.rs"]
mod proto;

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    for path in ["build.rs", "build", "go_fields.txt", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let here = PathBuf::from(environment("CARGO_MANIFEST_DIR"));
    let metadata = cargo_metadata(&here);
    let documents = openapi::read(&source_of(&metadata, "k8s-openapi").join("v1_35"));
    let messages = proto::read(&source_of(&metadata, "k8s-pb"));
    let facts = join::read_facts(
        &std::fs::read_to_string(here.join("go_fields.txt"))
            .expect("go_fields.txt is part of the crate"),
    );
    let table = join::join(documents, &messages, &facts);
    let target = PathBuf::from(environment("OUT_DIR")).join("definitions.rs");
    std::fs::write(target, emit::source(&table)).expect("OUT_DIR is writable");
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

fn cargo_metadata(here: &Path) -> serde_json::Value {
    let output = Command::new(environment("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--manifest-path",
        ])
        .arg(here.join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo metadata: {problem} (is everything fetched? `cargo fetch --locked`)"
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// The `src` directory of a package in the lock file.
fn source_of(metadata: &serde_json::Value, package: &str) -> PathBuf {
    metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|found| found["name"] == package))
        .and_then(|found| Path::new(found["manifest_path"].as_str()?).parent())
        .unwrap_or_else(|| panic!("{package} is a dependency of this crate"))
        .join("src")
}

/// Every `.rs` file below `directory`, in a stable order.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in
            std::fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display()))
        {
            let path = entry.expect("the directory stays readable").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
