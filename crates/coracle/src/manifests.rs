//! Applies the manifests in `<data-dir>/server/manifests/`, and keeps them applied when a file changes.
//!
//! Deliberately absent: deleting what a removed file once declared; that stays the user's decision.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::{Discovery, Scope};
use kube::{Api, Client};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

const FIELD_MANAGER: &str = "coracle-manifests";
/// Editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(15);

/// Runs until cancelled; what cannot be applied is logged and tried again.
pub async fn run(client: Client, directory: PathBuf, cancel: CancellationToken) {
    loop {
        let turn = async {
            let changes = watch(&directory)?;
            if !apply_all(&client, &directory).await {
                tokio::time::sleep(RETRY).await;
                return Ok(());
            }
            changes.readable().await?.clear_ready();
            tokio::time::sleep(SETTLE).await;
            Ok::<(), std::io::Error>(())
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            done = turn => if let Err(cause) = done {
                tracing::warn!(directory = %directory.display(), %cause, "manifests cannot be watched");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Made before the files are read, so that no change falls between.
fn watch(directory: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    std::fs::create_dir_all(directory)?;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(directory, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)?;
    #[expect(deprecated, reason = "the descriptor is owned and never closed beneath it; the replacement is unsafe")]
    AsyncFd::new(inotify.into())
}

/// Whether everything was applied.
async fn apply_all(client: &Client, directory: &Path) -> bool {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_manifest(path)).collect(),
        Err(cause) => {
            tracing::warn!(directory = %directory.display(), %cause, "manifests cannot be listed");
            return false;
        }
    };
    if files.is_empty() {
        return true;
    }
    files.sort();
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(cause) => {
            tracing::warn!(%cause, "manifests wait for discovery");
            return false;
        }
    };
    let mut all = true;
    for file in files {
        for object in documents(&file) {
            let applied = match object {
                Ok(object) => apply(client, &discovery, object).await,
                Err(problem) => Err(problem),
            };
            match applied {
                Ok(name) => tracing::info!(file = %file.display(), %name, "manifest applied"),
                Err(problem) => {
                    tracing::warn!(file = %file.display(), %problem, "manifest not applied");
                    all = false;
                }
            }
        }
    }
    all
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
}

fn documents(file: &Path) -> Vec<Result<Value, String>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(cause) => return vec![Err(cause.to_string())],
    };
    api::yaml::documents(&text)
        .iter()
        .map(|document| api::yaml::to_json(document.as_bytes()).map(|(value, _)| value).map_err(|it| it.to_string()))
        .flat_map(|document| match document {
            Ok(Value::Null) => Vec::new(),
            Ok(list) if list["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                list["items"].as_array().into_iter().flatten().cloned().map(Ok).collect()
            }
            single => vec![single],
        })
        .collect()
}

async fn apply(client: &Client, discovery: &Discovery, object: Value) -> Result<String, String> {
    let object: DynamicObject = serde_json::from_value(object).map_err(|cause| cause.to_string())?;
    let types = object.types.clone().ok_or("apiVersion and kind are missing")?;
    let kind = kube::core::GroupVersionKind::try_from(&types).map_err(|cause| cause.to_string())?;
    let (resource, capabilities) = discovery
        .resolve_gvk(&kind)
        .ok_or_else(|| format!("no matches for kind {:?} in version {:?}", types.kind, types.api_version))?;
    let name = object.metadata.name.clone().ok_or("metadata.name is missing")?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        Scope::Cluster => Api::all_with(client.clone(), &resource),
    };
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&parameters, &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            api.patch(&name, &parameters, &Patch::Merge(&object)).await.map_err(|cause| cause.to_string())?;
        }
        Err(cause) => return Err(cause.to_string()),
    }
    Ok(format!("{}/{name}", resource.plural))
}
