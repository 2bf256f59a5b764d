//! The admission plugins, in the original's order.
//!
//! Invariant: plugins ask the cluster only through [`crate::admission_chain::Cluster`]; what state they keep may be
//! lost at any time. Deliberately absent: webhooks and CEL policies.

mod certificates;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod owner_references;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;

use std::sync::Arc;

use crate::admission_chain::Admission;

/// Those that are on unless somebody says otherwise.
pub fn plugins() -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity),
        Arc::new(priority::Priority),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_storage_class::DefaultStorageClass),
        Arc::new(storage_protection::StorageObjectInUseProtection),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificates::CertificateRequester),
        Arc::new(certificates::CertificateApproval),
        Arc::new(certificates::CertificateSigning),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_ingress_class::DefaultIngressClass),
        Arc::new(resource_quota::ResourceQuota::default()),
    ]
}

/// Those that must be asked for by name, as in the original.
pub fn optional_plugins() -> Vec<Arc<dyn Admission>> {
    vec![Arc::new(owner_references::OwnerReferencesPermissionEnforcement)]
}

#[cfg(test)]
mod testing;
