//! A group and version and who serves it.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, inside, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    definition: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    storage: "apiregistration.k8s.io/apiservices",
    subresources: &[STATUS],
    name_problems: checks::path_segment_name,
    defaults: |object| {
        if let Some(spec) = object_at(object, "spec") {
            inside(spec, "service", |service| default(service, "port", 443));
        }
    },
    prepare_create: lifecycle::empty_status,
    prepare_update: lifecycle::keep_status,
    validate,
    columns: &[
        NAME,
        text("Service", "The reference to the service that hosts this API endpoint."),
        text("Available", "Whether this service is available."),
        AGE,
    ],
    cells,
    ..CLUSTER
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let (group, version, name) = (spec.at("group"), spec.at("version"), root.at("metadata.name"));
    let required = format!("{}.{}", version.str(), group.str());
    let own = if group.is_empty() { format!("{}.", version.str()) } else { required };
    if name.str() != own {
        problems.invalid(&name, &format!("must be `spec.version+\".\"+spec.group`: \"{own}\""));
    }
    if version.is_empty() {
        problems.required(&version, "");
    } else {
        problems.invalid_each(&version, api::names::dns1035_label(version.str()));
    }
    for (field, max) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let at = spec.at(field);
        if at.int() <= 0 || at.int() > max {
            problems.invalid_plain(&at, at.int(), &format!("must be positive and less than {max}"));
        }
    }
    let service = spec.at("service");
    let (bundle, insecure) = (spec.at("caBundle"), spec.at("insecureSkipTLSVerify"));
    if !service.exists() {
        if !bundle.is_empty() {
            problems.invalid_str(
                &bundle,
                &format!("{} bytes", bundle.len()),
                "local APIServices may not have a caBundle",
            );
        }
        if insecure.bool() {
            problems.invalid_plain(&insecure, true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for field in ["namespace", "name"] {
        checks::required(&service.at(field), problems);
    }
    checks::port_number(&service.at("port"), problems);
    if insecure.bool() && !bundle.is_empty() {
        problems.invalid_plain(&insecure, true, "may not be true if caBundle is present");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = walk(object, "spec.service");
    let string = |value: &Value, field: &str| walk(value, field).as_str().unwrap_or("").to_owned();
    let shown = match service.is_null() {
        true => "Local".to_owned(),
        false => format!("{}/{}", string(service, "namespace"), string(service, "name")),
    };
    let available = match printing::condition(object, "Available") {
        Some(condition) if string(condition, "status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", string(condition, "status"), string(condition, "reason")),
        None => "Unknown".to_owned(),
    };
    vec![printing::name(object), shown.into(), available.into(), printing::age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{check, check_row};
    use serde_json::json;

    #[test]
    fn rules() {
        let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"group": "apps", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
        check(&KIND, service("v1.apps"), "");
        check(
            &KIND,
            service("x"),
            "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.apps\"",
        );
        check_row(&KIND, service("v1.apps"), "2026-01-01T00:00:00Z", "v1.apps | Local | Unknown | <unknown>");
    }
}
