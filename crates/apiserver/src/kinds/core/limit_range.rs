//! Bounds and defaults for the resources of one namespace.

use serde_json::{Value, json};

use crate::kinds::edit::{each, fill, object as object_at, text};
use crate::kinds::pod_spec::containers::{container_resource_name, may_overcommit, resource_name};
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
        let sentences = api::names::qualified_name(kind.str());
        if !sentences.is_empty() {
            problems.invalid_each(&kind, sentences);
        } else if !kind.str().contains('/') && !matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim") {
            problems.invalid(&kind, "must be a standard limit type or fully qualified");
        }
        if types.contains(&kind.str()) {
            problems.duplicate(&kind);
        }
        types.push(kind.str());
        let fields: &[&str] = if kind.str() == "Pod" { &FIELDS[..2] } else { &FIELDS[..4] };
        for field in fields {
            let at = item.at(field);
            for (name, amount) in at.entries() {
                match kind.str() {
                    "Pod" | "Container" => container_resource_name(&amount, name, problems),
                    _ => resource_name(&amount, name, problems),
                }
            }
        }
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
            problems.required(
                &item.at("limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            );
        }
        validate_bounds(&item, problems);
    }
}

const FIELDS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn validate_bounds(item: &Cursor, problems: &mut Problems) {
    let mut names: Vec<&str> = FIELDS
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
        // `shown` is the one of the two whose value the original prints.
        let mut complain = |field: &str, shown: &str, sentence: String| {
            let (at, shown) = (item.at(field), item.at(shown).key(name).value);
            problems.invalid(&at.key(name).with(shown), &sentence);
        };
        let above = |low: &Option<_>, high: &Option<_>| low.is_some() && high.is_some() && low > high;
        let show =
            |amount: &Option<api::quantity::Quantity>| amount.as_ref().map(ToString::to_string).unwrap_or_default();
        if above(&min, &max) {
            complain("min", "min", format!("min value {} is greater than max value {}", show(&min), show(&max)));
        }
        if above(&min, &request) {
            complain(
                "defaultRequest",
                "defaultRequest",
                format!("min value {} is greater than default request value {}", show(&min), show(&request)),
            );
        }
        if above(&request, &max) {
            complain(
                "defaultRequest",
                "defaultRequest",
                format!("default request value {} is greater than max value {}", show(&request), show(&max)),
            );
        }
        if above(&request, &limit) {
            complain(
                "defaultRequest",
                "defaultRequest",
                format!(
                    "default request value {} is greater than default limit value {}",
                    show(&request),
                    show(&limit)
                ),
            );
        }
        if above(&min, &limit) {
            complain("default", "min", format!("min value {} is greater than default value {}", show(&min), show(&limit)));
        }
        if above(&limit, &max) {
            complain("default", "max", format!("default value {} is greater than max value {}", show(&limit), show(&max)));
        }
        if ratio.as_ref().is_some_and(|ratio| ratio.milli_value() < 1000) {
            complain("maxLimitRequestRatio", "maxLimitRequestRatio", format!("ratio {} is less than 1", show(&ratio)));
        }
        if let (Some(own), Some(min), Some(max)) = (&ratio, &min, &max) {
            let most = max.milli_value() as f64 / min.milli_value() as f64;
            if own.milli_value() as f64 / 1000.0 > most {
                let sentence = format!("ratio {own} is greater than max/min = {most:.6}");
                complain("maxLimitRequestRatio", "maxLimitRequestRatio", sentence);
            }
        }
        if !may_overcommit(name) && limit.is_some() && request.is_some() && limit != request {
            let sentence =
                format!("default value {} must equal to defaultRequest value {} in {name}", show(&limit), show(&request));
            complain("defaultRequest", "defaultRequest", sentence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::check;

    #[test]
    fn problems() {
        let with = |item: Value| json!({"spec": {"limits": [item]}});
        let all = |value: &str| json!({"cpu": value});
        check(&KIND, with(json!({"type": "Container", "min": all("1"), "max": all("2"), "default": all("2")})), "");
        check(&KIND, with(json!({"type": "Node"})), "spec.limits[0].type: Invalid value: \"Node\": must be a standard limit type or fully qualified");
        check(
            &KIND,
            with(json!({"type": "Container", "max": {"gpu": "1", "storage": "1", "example.org/gpu": "1"}})),
            "spec.limits[0].max[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified\n\
             spec.limits[0].max[gpu]: Invalid value: \"gpu\": must be a standard resource for containers\n\
             spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
        );
        check(
            &KIND,
            with(json!({"type": "PersistentVolumeClaim"})),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        );
        check(
            &KIND,
            with(json!({"type": "Container", "min": all("1"), "max": all("2"), "default": all("3"), "maxLimitRequestRatio": all("4")})),
            "spec.limits[0].default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2\n\
             spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"4\": ratio 4 is greater than max/min = 2.000000",
        );
        check(
            &KIND,
            with(json!({"type": "Container", "default": {"example.org/gpu": "1"}, "defaultRequest": {"example.org/gpu": "0"}})),
            "spec.limits[0].defaultRequest[example.org/gpu]: Invalid value: \"0\": default value 1 must equal to defaultRequest value 0 in example.org/gpu",
        );
    }
}
