//! Bounds and defaults for the resources of one namespace.

use serde_json::{Value, json};

use crate::kinds::edit::{each, fill, object as object_at, text};
use crate::kinds::printing;
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks};

pub static KIND: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    definition: "io.k8s.api.core.v1.LimitRange",
    storage: "limitranges",
    create_on_update: true,
    defaults,
    validate,
    columns: printing::NAME_AND_CREATION,
    cells: printing::name_and_creation,
    ..NAMESPACED
};

/// For containers: the limit defaults to the maximum, the request to the limit or else the minimum.
fn defaults(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    each(spec, "limits", |item| {
        if text(item, "type") != "Container" {
            return;
        }
        let map = |field: &str| item.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        let (mut limit, mut request) = (map("default"), map("defaultRequest"));
        fill(&mut limit, &map("max"));
        fill(&mut request, &limit);
        fill(&mut request, &map("min"));
        for (field, value) in [("default", limit), ("defaultRequest", request)] {
            if !value.is_empty() {
                item.insert(field.into(), json!(value));
            }
        }
    });
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let limits = root.at("spec.limits");
    let mut types = Vec::new();
    for item in limits.items() {
        let kind = item.at("type");
        for sentence in api::names::qualified_name(kind.str()) {
            problems.invalid_str(&kind, kind.str(), &sentence);
        }
        if types.contains(&kind.str()) {
            problems.duplicate(&kind);
        }
        types.push(kind.str());
        if kind.str() == "Pod" {
            for field in ["default", "defaultRequest"] {
                let at = item.at(field);
                if !at.is_empty() {
                    problems.forbidden(&at, "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind.str() == "PersistentVolumeClaim"
            && !item.at("min").key("storage").exists()
            && !item.at("max").key("storage").exists()
        {
            problems.required(&item, "either minimum or maximum storage value is required, but neither was provided");
        }
        validate_bounds(&item, problems);
    }
}

fn validate_bounds(item: &Cursor, problems: &mut Problems) {
    let mut names: Vec<&str> = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"]
        .iter()
        .filter_map(|field| item.at(field).object())
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let amount = |field: &str| checks::quantity(item.at(field).key(name).value);
        let (min, max) = (amount("min"), amount("max"));
        let (limit, request, ratio) = (amount("default"), amount("defaultRequest"), amount("maxLimitRequestRatio"));
        let mut complain = |field: &str, sentence: String| {
            let at = item.at(field);
            let at = at.key(name);
            problems.invalid(&at, &sentence);
        };
        let above = |low: &Option<_>, high: &Option<_>| low.is_some() && high.is_some() && low > high;
        let show =
            |amount: &Option<api::quantity::Quantity>| amount.as_ref().map(ToString::to_string).unwrap_or_default();
        if above(&min, &max) {
            complain("min", format!("min value {} is greater than max value {}", show(&min), show(&max)));
        }
        if above(&min, &request) {
            complain(
                "defaultRequest",
                format!("min value {} is greater than default request value {}", show(&min), show(&request)),
            );
        }
        if above(&request, &max) {
            complain(
                "defaultRequest",
                format!("default request value {} is greater than max value {}", show(&request), show(&max)),
            );
        }
        if above(&request, &limit) {
            complain(
                "defaultRequest",
                format!(
                    "default request value {} is greater than default limit value {}",
                    show(&request),
                    show(&limit)
                ),
            );
        }
        if above(&min, &limit) {
            complain("default", format!("min value {} is greater than default value {}", show(&min), show(&limit)));
        }
        if above(&limit, &max) {
            complain("default", format!("default value {} is greater than max value {}", show(&limit), show(&max)));
        }
        if ratio.as_ref().is_some_and(|ratio| ratio.milli_value() < 1000) {
            complain("maxLimitRequestRatio", format!("ratio {} is less than 1", show(&ratio)));
        }
    }
}
