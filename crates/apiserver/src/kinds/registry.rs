//! Every built-in kind, in the order in which discovery lists them.

use super::{
    Kind, admissionregistration, apiextensions, apiregistration, apps, authentication, authorization, autoscaling,
    batch, certificates, coordination, core, discovery, events, flowcontrol, networking, node, policy, rbac, resource,
    scheduling, storage,
};

pub static REGISTRY: &[&Kind] = &[
    &core::binding::KIND,
    &core::component_status::KIND,
    &core::config_map::KIND,
    &core::endpoints::KIND,
    &core::event::KIND,
    &core::limit_range::KIND,
    &core::namespace::KIND,
    &core::node::KIND,
    &core::persistent_volume_claim::KIND,
    &core::persistent_volume::KIND,
    &core::pod::KIND,
    &core::pod_template::KIND,
    &core::replication_controller::KIND,
    &core::resource_quota::KIND,
    &core::secret::KIND,
    &core::service_account::KIND,
    &core::service::KIND,
    &apiregistration::api_service::KIND,
    &apps::controller_revision::KIND,
    &apps::daemon_set::KIND,
    &apps::deployment::KIND,
    &apps::replica_set::KIND,
    &apps::stateful_set::KIND,
    &events::event::KIND,
    &authentication::self_subject_review::KIND,
    &authentication::token_review::KIND,
    &authorization::local_subject_access_review::KIND,
    &authorization::self_subject_access_review::KIND,
    &authorization::self_subject_rules_review::KIND,
    &authorization::subject_access_review::KIND,
    &autoscaling::horizontal_pod_autoscaler_v2::KIND,
    &autoscaling::horizontal_pod_autoscaler_v1::KIND,
    &batch::cron_job::KIND,
    &batch::job::KIND,
    &certificates::certificate_signing_request::KIND,
    &networking::ingress_class::KIND,
    &networking::ingress::KIND,
    &networking::ip_address::KIND,
    &networking::network_policy::KIND,
    &networking::service_cidr::KIND,
    &policy::pod_disruption_budget::KIND,
    &rbac::cluster_role_binding::KIND,
    &rbac::cluster_role::KIND,
    &rbac::role_binding::KIND,
    &rbac::role::KIND,
    &storage::csi_driver::KIND,
    &storage::csi_node::KIND,
    &storage::csi_storage_capacity::KIND,
    &storage::storage_class::KIND,
    &storage::volume_attachment::KIND,
    &storage::volume_attributes_class::KIND,
    &admissionregistration::mutating_webhook_configuration::KIND,
    &admissionregistration::validating_admission_policy::KIND,
    &admissionregistration::validating_admission_policy_binding::KIND,
    &admissionregistration::validating_webhook_configuration::KIND,
    &apiextensions::custom_resource_definition::KIND,
    &scheduling::priority_class::KIND,
    &coordination::lease::KIND,
    &node::runtime_class::KIND,
    &discovery::endpoint_slice::KIND,
    &flowcontrol::flow_schema::KIND,
    &flowcontrol::priority_level_configuration::KIND,
    &resource::device_class::KIND,
    &resource::resource_claim::KIND,
    &resource::resource_claim_template::KIND,
    &resource::resource_slice::KIND,
];

/// The kind behind `/apis/<group>/<version>/<plural>`.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    REGISTRY.iter().copied().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind of an object's apiVersion (split) and kind.
pub fn by_kind(group: &str, version: &str, name: &str) -> Option<&'static Kind> {
    REGISTRY.iter().copied().find(|kind| kind.group == group && kind.version == version && kind.kind == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::{Problems, validate_metadata};

    #[test]
    fn names_are_unique_and_complete() {
        let mut seen = BTreeSet::new();
        for kind in REGISTRY {
            assert!(seen.insert((kind.group, kind.version, kind.plural)), "{} twice", kind.plural);
            assert_eq!(kind.singular, kind.kind.to_lowercase());
            assert!(api::schema::definition(kind.definition).is_some(), "no schema for {}", kind.definition);
            let stored = !matches!(kind.verbs, super::super::Verbs::Create | super::super::Verbs::Read);
            assert_eq!(!kind.storage.is_empty(), stored, "storage of {}", kind.plural);
            assert!(kind.columns.iter().any(|column| column.format == "name"), "name of {}", kind.plural);
            for column in kind.columns {
                assert!(!column.description().is_empty(), "{} of {}", column.name, kind.plural);
            }
        }
    }

    /// An object with every field of its schema set, to some depth.
    fn filled(kind: api::schema::Type, depth: usize) -> Value {
        use api::schema::Type;
        match kind {
            Type::Boolean => true.into(),
            Type::Int32 | Type::Int64 => 7.into(),
            Type::Double => 1.5.into(),
            Type::Time | Type::MicroTime => "2026-01-01T00:00:00Z".into(),
            Type::Quantity => "1500m".into(),
            Type::IntOrString => "50%".into(),
            Type::RawExtension | Type::FieldsV1 | Type::Json => json!({"a": "b"}),
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStringArray => true.into(),
            Type::List(inner) => json!([filled(*inner, depth), filled(*inner, depth)]),
            Type::Map(inner) => json!({"a/b": filled(*inner, depth)}),
            Type::Object(_) if depth == 0 => json!({}),
            Type::Object(definition) => {
                let fields = definition.fields.iter();
                Value::Object(fields.map(|field| (field.name.to_owned(), filled(field.kind, depth - 1))).collect())
            }
            _ => "x".into(),
        }
    }

    #[test]
    fn any_shape_is_judged_and_shown() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        for kind in REGISTRY {
            let definition = api::schema::definition(kind.definition).expect("a schema");
            // Deeper than seven, objects grow beyond sense.
            for depth in 0..7 {
                let mut object = filled(api::schema::Type::Object(definition), depth);
                if let Some(conversion) = &kind.conversion {
                    (conversion.from_storage)((conversion.to_storage)(object.clone()));
                }
                (kind.defaults)(&mut object);
                let once = object.clone();
                (kind.defaults)(&mut object);
                assert_eq!(object, once, "defaults of {} settle at once", kind.plural);

                let mut problems = Problems::default();
                validate_metadata(kind, &object, &mut problems);
                (kind.validate)(&object, &mut problems);
                let empty = json!({});
                for (new, old) in [(&object, &empty), (&empty, &object), (&object, &object)] {
                    (kind.validate_update)(new, old, &mut problems);
                    (kind.validate_status_update)(new, old, &mut problems);
                    (kind.validate_part_update)("resize", new, old, &mut problems);
                    (kind.warnings)(new, Some(old));
                    let mut changed = new.clone();
                    (kind.prepare_update)(&mut changed, old);
                    (kind.prepare_status_update)(&mut changed, old);
                }
                let mut created = object.clone();
                (kind.prepare_create)(&mut created);
                assert_eq!((kind.cells)(&object, now).len(), kind.columns.len(), "cells of {}", kind.plural);
                for field in kind.selectable_fields {
                    (kind.field_value)(&object, field);
                }
            }
        }
    }
}
