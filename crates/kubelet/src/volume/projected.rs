//! Projected volumes: several sources in one directory, among them the pod's service account token.

use client::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource};

use super::payload::{self, Files};
use super::{PodVolumes, Volumes, owner_group};
use crate::pod::spec;

const DEFAULT_TOKEN_SECONDS: i64 = 3600;

pub(super) async fn files(
    volumes: &Volumes,
    of: &PodVolumes<'_>,
    source: &ProjectedVolumeSource,
    refresh_at: &mut Option<Timestamp>,
) -> Result<Files, String> {
    let mode = source.default_mode.unwrap_or(payload::DEFAULT_MODE);
    let namespace = spec::namespace(of.pod);
    let uid = spec::uid(of.pod);
    let mut files = Files::new();
    let mut problems = Vec::new();
    for part in source.sources.iter().flatten() {
        let found = if let Some(part) = &part.config_map {
            let name = &part.name;
            let object = volumes.objects.config_maps.hold(&ObjectKey::new(namespace, name.clone()), uid, of.waker).await;
            object.and_then(|object| {
                payload::config_map(object.as_ref(), name, part.items.as_ref(), part.optional.unwrap_or(false), mode)
            })
        } else if let Some(part) = &part.secret {
            let name = &part.name;
            let object = volumes.objects.secrets.hold(&ObjectKey::new(namespace, name.clone()), uid, of.waker).await;
            object.and_then(|object| {
                payload::secret(object.as_ref(), name, part.items.as_ref(), part.optional.unwrap_or(false), mode)
            })
        } else if let Some(part) = &part.downward_api {
            payload::downward_api(of.pod, part.items.as_ref(), mode, of.facts)
        } else if let Some(part) = &part.service_account_token {
            let seconds = part.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
            match volumes.tokens.get(of.pod, part.audience.as_deref().unwrap_or_default(), seconds).await {
                Ok(token) => {
                    *refresh_at = Some(refresh_at.map_or(token.refresh_at, |moment| moment.min(token.refresh_at)));
                    Ok(Files::from([(payload::clean(&part.path), token_file(of.pod, token.text, mode))]))
                }
                Err(error) => Err(error),
            }
        } else {
            Err("this source of a projected volume is not supported by this node".to_owned())
        };
        match found {
            Ok(found) => files.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    match problems.len() {
        0 => Ok(files),
        1 => Err(problems.remove(0)),
        _ => Err(format!("[{}]", problems.join(", "))),
    }
}

/// A token is for the pod's user alone, where there is one or a group stands in for one.
fn token_file(pod: &Pod, text: String, mode: i32) -> super::atomic_writer::File {
    let mut file = payload::file(text.into_bytes(), mode);
    let user = common_user(pod);
    if user.is_some() || owner_group(pod).is_some() {
        file.mode = 0o600;
    }
    if owner_group(pod).is_none() {
        file.uid = user;
    }
    file
}

/// The user that every container runs as, when they agree on one.
fn common_user(pod: &Pod) -> Option<u32> {
    let of_pod = spec::spec(pod).security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec::containers(pod)
        .into_iter()
        .map(|(_, container)| container.security_context.and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}
