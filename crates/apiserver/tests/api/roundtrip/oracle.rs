//! Messages judged by somebody else: the types that prost makes of the published protobuf files.
//!
//! A message that these types read and write again byte for byte has only fields, tags and wire types that exist.

use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;

/// Takes the envelope off.
pub fn raw(body: &[u8]) -> Vec<u8> {
    let message = body.strip_prefix(b"k8s\0").expect("starts with the magic number");
    Unknown::decode(message).expect("an envelope").raw.expect("something in the envelope")
}

fn again<M: Message + Default>(raw: &[u8]) -> Vec<u8> {
    M::decode(raw).expect("a message of that type").encode_to_vec()
}

/// The message of a kind, read and written by the published types. None: not in the table.
pub fn through_published_types(definition: &str, raw: &[u8]) -> Option<Vec<u8>> {
    use k8s_pb::api::admissionregistration::v1 as admissionregistration_v1;
    use k8s_pb::api::apps::v1 as apps_v1;
    use k8s_pb::api::authentication::v1 as authentication_v1;
    use k8s_pb::api::authorization::v1 as authorization_v1;
    use k8s_pb::api::autoscaling::v1 as autoscaling_v1;
    use k8s_pb::api::autoscaling::v2 as autoscaling_v2;
    use k8s_pb::api::batch::v1 as batch_v1;
    use k8s_pb::api::certificates::v1 as certificates_v1;
    use k8s_pb::api::coordination::v1 as coordination_v1;
    use k8s_pb::api::core::v1 as core_v1;
    use k8s_pb::api::discovery::v1 as discovery_v1;
    use k8s_pb::api::events::v1 as events_v1;
    use k8s_pb::api::flowcontrol::v1 as flowcontrol_v1;
    use k8s_pb::api::networking::v1 as networking_v1;
    use k8s_pb::api::node::v1 as node_v1;
    use k8s_pb::api::policy::v1 as policy_v1;
    use k8s_pb::api::rbac::v1 as rbac_v1;
    use k8s_pb::api::resource::v1 as resource_v1;
    use k8s_pb::api::scheduling::v1 as scheduling_v1;
    use k8s_pb::api::storage::v1 as storage_v1;
    use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions_v1;
    use k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration_v1;

    macro_rules! published {
        ($($prefix:literal $module:ident: $($kind:ident)+;)+) => {
            match definition {
                $($(concat!($prefix, ".", stringify!($kind)) => Some(again::<$module::$kind>(raw)),)+)+
                _ => None,
            }
        };
    }
    published! {
        "io.k8s.api.admissionregistration.v1" admissionregistration_v1: MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
        "io.k8s.api.apps.v1" apps_v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        "io.k8s.api.authentication.v1" authentication_v1: SelfSubjectReview TokenReview;
        "io.k8s.api.authorization.v1" authorization_v1: LocalSubjectAccessReview SelfSubjectAccessReview
            SelfSubjectRulesReview SubjectAccessReview;
        "io.k8s.api.autoscaling.v1" autoscaling_v1: HorizontalPodAutoscaler;
        "io.k8s.api.autoscaling.v2" autoscaling_v2: HorizontalPodAutoscaler;
        "io.k8s.api.batch.v1" batch_v1: CronJob Job;
        "io.k8s.api.certificates.v1" certificates_v1: CertificateSigningRequest;
        "io.k8s.api.coordination.v1" coordination_v1: Lease;
        "io.k8s.api.core.v1" core_v1: Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node
            PersistentVolume PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service
            ServiceAccount;
        "io.k8s.api.discovery.v1" discovery_v1: EndpointSlice;
        "io.k8s.api.events.v1" events_v1: Event;
        "io.k8s.api.flowcontrol.v1" flowcontrol_v1: FlowSchema PriorityLevelConfiguration;
        "io.k8s.api.networking.v1" networking_v1: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
        "io.k8s.api.node.v1" node_v1: RuntimeClass;
        "io.k8s.api.policy.v1" policy_v1: PodDisruptionBudget;
        "io.k8s.api.rbac.v1" rbac_v1: ClusterRole ClusterRoleBinding Role RoleBinding;
        "io.k8s.api.resource.v1" resource_v1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        "io.k8s.api.scheduling.v1" scheduling_v1: PriorityClass;
        "io.k8s.api.storage.v1" storage_v1: CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment
            VolumeAttributesClass;
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1" apiextensions_v1: CustomResourceDefinition;
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1" apiregistration_v1: APIService;
    }
}
