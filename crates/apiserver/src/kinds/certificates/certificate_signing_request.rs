//! Asks a signer for a certificate.

use crate::kinds::lifecycle;
use crate::kinds::subresources::{STATUS, same};
use crate::kinds::{CLUSTER, Kind};

pub static KIND: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    definition: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    storage: "certificatesigningrequests",
    subresources: &[same("approval"), STATUS],
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    ..CLUSTER
};
