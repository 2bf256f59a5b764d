//! The volumes of a pod: made before its containers, kept up to date while they run, taken away after them.
//!
//! ```text
//! pods/<uid>/volumes/kubernetes.io~<plugin>/<name>      what containers mount
//! pods/<uid>/volume-subpaths/<volume>/<container>/<n>   bind mounts of sub-paths
//! ```
//!
//! Invariant: setting up is idempotent; a second pass changes only what differs. Taking away never follows a
//! symbolic link and never touches what a hostPath or local volume points at.
//! Deliberately absent: attaching, CSI and in-tree cloud volumes: they answer with a clear error.

pub mod atomic_writer;
pub mod host_path;
pub mod local_path;
pub mod payload;
pub mod projected;
pub mod sub_path;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::{ObjectKey, Rest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PersistentVolume, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use self::payload::Files;
use crate::container::fields::Facts;
use crate::objects::{Objects, Waker};
use crate::pod::spec;
use crate::tokens::Tokens;

/// The built-in provisioner, whose volumes are directories of the node.
const LOCAL_PATH: &str = "coracle.io/local-path";

/// One volume as it stands on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    pub read_only: bool,
}

/// Why one volume could not be made, as the event words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeProblem {
    pub message: String,
}

pub struct Volumes {
    pub rest: Rest,
    pub objects: Arc<Objects>,
    pub tokens: Arc<Tokens>,
    pub clock: api::clock::Clock,
    /// `<data-dir>/agent/kubelet`
    pub data_dir: PathBuf,
}

/// What one pass needs to know of the pod.
pub struct PodVolumes<'a> {
    pub pod: &'a Pod,
    pub directory: &'a Path,
    pub facts: &'a Facts,
    pub waker: &'a Waker,
}

/// What a pass found: where volumes are, and when a token in one of them is due for renewal.
#[derive(Clone, Debug, Default)]
pub struct SetUp {
    pub mounted: BTreeMap<String, Mounted>,
    pub refresh_at: Option<Timestamp>,
}

impl Volumes {
    /// Makes or renews every volume that a container mounts. All problems are found, not only the first.
    pub async fn set_up(&self, of: &PodVolumes<'_>) -> Result<SetUp, Vec<VolumeProblem>> {
        let used = used_volumes(of.pod);
        let mut done = SetUp::default();
        let mut problems = Vec::new();
        for volume in spec::spec(of.pod).volumes.iter().flatten().filter(|volume| used.contains(&volume.name)) {
            match self.set_up_one(of, volume, &mut done.refresh_at).await {
                Ok(mounted) => {
                    done.mounted.insert(volume.name.clone(), mounted);
                }
                Err(message) => problems.push(VolumeProblem {
                    message: format!("MountVolume.SetUp failed for volume \"{}\" : {message}", volume.name),
                }),
            }
        }
        if problems.is_empty() { Ok(done) } else { Err(problems) }
    }

    async fn set_up_one(&self, of: &PodVolumes<'_>, volume: &Volume, refresh_at: &mut Option<Timestamp>) -> Result<Mounted, String> {
        let owner = owner_group(of.pod);
        if let Some(source) = &volume.host_path {
            host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
            return Ok(Mounted { path: source.path.clone().into(), read_only: false });
        }
        if let Some(source) = &volume.empty_dir {
            let path = plugin_path(of.directory, "empty-dir", &volume.name);
            make_empty_dir(&path, source, owner).map_err(|error| format!("{}: {error}", path.display()))?;
            return Ok(Mounted { path, read_only: false });
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.set_up_claim(of, &claim.claim_name, claim.read_only.unwrap_or(false), owner).await;
        }
        if volume.ephemeral.is_some() {
            let claim_name = format!("{}-{}", of.pod.metadata.name.as_deref().unwrap_or_default(), volume.name);
            return self.set_up_claim(of, &claim_name, false, owner).await;
        }
        let (plugin, files) = self.files(of, volume, refresh_at).await?;
        let path = plugin_path(of.directory, plugin, &volume.name);
        if plugin != "configmap" {
            keep_off_the_disk(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let stamp = self.clock.now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
        atomic_writer::write(&path, &files, owner, &stamp).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Mounted { path, read_only: true })
    }

    /// The plugin's name and the files of a volume that is made of objects.
    async fn files(&self, of: &PodVolumes<'_>, volume: &Volume, refresh_at: &mut Option<Timestamp>) -> Result<(&'static str, Files), String> {
        let mode = |mode: Option<i32>| mode.unwrap_or(payload::DEFAULT_MODE);
        let namespace = spec::namespace(of.pod);
        let uid = spec::uid(of.pod);
        if let Some(source) = &volume.config_map {
            let name = &source.name;
            let object = self.objects.config_maps.hold(&ObjectKey::new(namespace, name.clone()), uid, of.waker).await?;
            let optional = source.optional.unwrap_or(false);
            let files = payload::config_map(object.as_ref(), name, source.items.as_ref(), optional, mode(source.default_mode))?;
            return Ok(("configmap", files));
        }
        if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            let object = self.objects.secrets.hold(&ObjectKey::new(namespace, name.clone()), uid, of.waker).await?;
            let optional = source.optional.unwrap_or(false);
            let files = payload::secret(object.as_ref(), &name, source.items.as_ref(), optional, mode(source.default_mode))?;
            return Ok(("secret", files));
        }
        if let Some(source) = &volume.downward_api {
            let files = payload::downward_api(of.pod, source.items.as_ref(), mode(source.default_mode), of.facts)?;
            return Ok(("downward-api", files));
        }
        if let Some(source) = &volume.projected {
            return Ok(("projected", projected::files(self, of, source, refresh_at).await?));
        }
        Err("this kind of volume is not supported by this node: use emptyDir, hostPath, configMap, secret, downwardAPI, projected or persistentVolumeClaim".to_owned())
    }

    async fn set_up_claim(&self, of: &PodVolumes<'_>, claim_name: &str, read_only: bool, owner: Option<u32>) -> Result<Mounted, String> {
        let key = ObjectKey::new(spec::namespace(of.pod), claim_name);
        let claim = self.objects.claims.hold(&key, spec::uid(of.pod), of.waker).await?;
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim \"{claim_name}\" not found"))?;
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let Some(volume_name) = volume_name.filter(|_| bound) else {
            return Err("PVC is not bound".to_owned());
        };
        let volume: PersistentVolume =
            self.rest.get(&ObjectKey::cluster(volume_name)).await.map_err(|error| error.to_string())?;
        let spec = volume.spec.unwrap_or_default();
        if let Some(source) = &spec.host_path {
            let path = PathBuf::from(&source.path);
            let annotations = volume.metadata.annotations.unwrap_or_default();
            let fresh = !path.exists() && annotations.get("pv.kubernetes.io/provisioned-by").is_some_and(|by| by == LOCAL_PATH);
            if fresh {
                local_path::note(&self.data_dir, &path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
            if fresh {
                // Whoever runs in the container writes to its own volume; there is no disk whose group could be set.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            return Ok(Mounted { path, read_only });
        }
        if let Some(source) = &spec.local {
            let path = PathBuf::from(&source.path);
            if !path.exists() {
                return Err(format!("path \"{}\" does not exist", source.path));
            }
            if let Some(gid) = owner {
                own_tree(&path, gid).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            return Ok(Mounted { path, read_only });
        }
        Err("this kind of persistent volume is not supported by this node: use hostPath or local".to_owned())
    }

    /// Everything under the pod's directory that is mounted, then the volumes' own directories.
    pub fn tear_down(&self, pod_uid: &str, directory: &Path) -> Result<(), String> {
        self.objects.release(pod_uid);
        self.tokens.forget(pod_uid);
        unmount_below(directory)?;
        for part in ["volume-subpaths", "volumes"] {
            match fs::remove_dir_all(directory.join(part)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The names of volumes that some container mounts: others are not made, as in the original.
fn used_volumes(pod: &Pod) -> std::collections::BTreeSet<String> {
    spec::containers(pod)
        .into_iter()
        .flat_map(|(_, container)| container.volume_mounts.unwrap_or_default())
        .map(|mount| mount.name)
        .collect()
}

pub(crate) fn owner_group(pod: &Pod) -> Option<u32> {
    let group = spec::spec(pod).security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn plugin_path(pod_directory: &Path, plugin: &str, volume: &str) -> PathBuf {
    pod_directory.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

fn make_empty_dir(path: &Path, source: &EmptyDirVolumeSource, owner: Option<u32>) -> std::io::Result<()> {
    fs::create_dir_all(path)?;
    if source.medium.as_deref() == Some("Memory") && !is_mount_point(path) {
        let limit = source.size_limit.as_ref().and_then(|limit| api::quantity::Quantity::parse(&limit.0).ok());
        let options = limit.map(|limit| format!("size={}", limit.value())).unwrap_or_default();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    if let Some(gid) = owner {
        chown(path, None, Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2777))?;
    }
    Ok(())
}

/// Secrets, tokens and what is projected beside them live in memory, as in the original.
fn keep_off_the_disk(path: &Path) -> std::io::Result<()> {
    // What an earlier version of the agent has filled stays as it is: containers look at it.
    if path.join("..data").exists() || is_mount_point(path) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>)?)
}

/// The group of the pod may read and write everything in it.
fn own_tree(root: &Path, gid: u32) -> std::io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() {
            continue;
        }
        chown(&path, None, Some(gid))?;
        let extra = if metadata.is_dir() { 0o2770 } else { 0o660 };
        fs::set_permissions(&path, fs::Permissions::from_mode((metadata.permissions().mode() | extra) & 0o7777))?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(())
}

pub(crate) fn is_mount_point(path: &Path) -> bool {
    mounts_below(path).iter().any(|mounted| mounted == path)
}

/// Mount points at or below a directory, deepest first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .filter(|path| path.starts_with(directory))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

pub(crate) fn unmount_below(directory: &Path) -> Result<(), String> {
    for mounted in mounts_below(directory) {
        umount2(&mounted, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|error| format!("unmounting {}: {error}", mounted.display()))?;
    }
    Ok(())
}
