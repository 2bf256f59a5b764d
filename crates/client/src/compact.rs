//! What decoding reserves beyond what it read goes back before an object is kept.
//!
//! A list that is read grows to room for four, and a container alone takes a KiB: of a decoded pod with one container
//! more than half was room for nothing. Only pods are numerous enough to look at field by field.

use std::any::Any;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Any object that an informer keeps.
pub(crate) fn compact<K: Any>(object: &mut K) {
    if let Some(pod) = (object as &mut dyn Any).downcast_mut::<Pod>() {
        pod.spec.iter_mut().for_each(spec);
        pod.status.iter_mut().for_each(status);
    }
}

pub(crate) fn metadata(metadata: &mut ObjectMeta) {
    fit(&mut metadata.owner_references);
    fit(&mut metadata.finalizers);
}

fn fit<T>(list: &mut Option<Vec<T>>) {
    list.iter_mut().for_each(Vec::shrink_to_fit);
}

fn spec(spec: &mut PodSpec) {
    spec.containers.shrink_to_fit();
    fit(&mut spec.init_containers);
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(container);
    fit(&mut spec.volumes);
    spec.volumes.iter_mut().flatten().for_each(volume);
    fit(&mut spec.tolerations);
    fit(&mut spec.image_pull_secrets);
    fit(&mut spec.topology_spread_constraints);
    fit(&mut spec.readiness_gates);
    fit(&mut spec.scheduling_gates);
}

fn container(container: &mut Container) {
    fit(&mut container.args);
    fit(&mut container.command);
    fit(&mut container.env);
    fit(&mut container.env_from);
    fit(&mut container.ports);
    fit(&mut container.volume_mounts);
}

fn volume(volume: &mut Volume) {
    let Some(sources) = volume.projected.as_mut().and_then(|projected| projected.sources.as_mut()) else { return };
    sources.shrink_to_fit();
    for source in sources {
        source.config_map.iter_mut().for_each(|source| fit(&mut source.items));
        source.downward_api.iter_mut().for_each(|source| fit(&mut source.items));
        source.secret.iter_mut().for_each(|source| fit(&mut source.items));
    }
}

fn status(status: &mut PodStatus) {
    fit(&mut status.conditions);
    fit(&mut status.host_ips);
    fit(&mut status.pod_ips);
    for statuses in [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses] {
        fit(statuses);
        statuses.iter_mut().flatten().for_each(|status: &mut ContainerStatus| fit(&mut status.volume_mounts));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kept_pod_has_no_room_for_more() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1"}]},
            "spec": {
                "containers": [{"name": "c", "volumeMounts": [{"name": "token", "mountPath": "/token"}]}],
                "volumes": [{"name": "token", "projected": {"sources": [{"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": []},
        }))
        .unwrap();
        let before = pod.clone();
        compact(&mut pod);
        metadata(&mut pod.metadata);
        assert_eq!(pod, before);
        let (spec, status) = (pod.spec.as_ref().unwrap(), pod.status.as_ref().unwrap());
        assert_eq!((spec.containers.capacity(), spec.volumes.as_ref().unwrap().capacity()), (1, 1));
        assert_eq!(spec.containers[0].volume_mounts.as_ref().unwrap().capacity(), 1);
        assert_eq!(status.conditions.as_ref().unwrap().capacity(), 1);
        assert_eq!(pod.metadata.owner_references.as_ref().unwrap().capacity(), 1);
    }
}
