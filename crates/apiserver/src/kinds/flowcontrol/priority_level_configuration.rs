//! How many requests run at once.

use jiff::Timestamp;
use serde_json::Value;

use crate::flow::built_in;
use crate::kinds::cursor::walk;
use crate::kinds::edit::{default, default_number, inside, object as object_at};
use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::subresources::STATUS;
use crate::kinds::{CLUSTER, Cursor, Kind, Problems, checks, lifecycle};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    definition: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    storage: "prioritylevelconfigurations",
    subresources: &[STATUS],
    defaults,
    prepare_create: lifecycle::first_generation,
    prepare_update: lifecycle::keep_status_and_count,
    validate,
    columns: &[
        NAME,
        text("Type", "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec#type"),
        text(
            "NominalConcurrencyShares",
            "io.k8s.api.flowcontrol.v1.LimitedPriorityLevelConfiguration#nominalConcurrencyShares",
        ),
        text("Queues", "io.k8s.api.flowcontrol.v1.QueuingConfiguration#queues"),
        text("HandSize", "io.k8s.api.flowcontrol.v1.QueuingConfiguration#handSize"),
        text("QueueLengthLimit", "io.k8s.api.flowcontrol.v1.QueuingConfiguration#queueLengthLimit"),
        AGE,
    ],
    cells,
    ..CLUSTER
};

fn defaults(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    inside(spec, "limited", |limited| {
        default(limited, "nominalConcurrencyShares", 30);
        default(limited, "lendablePercent", 0);
        inside(limited, "limitResponse", |response| {
            inside(response, "queuing", |queuing| {
                default_number(queuing, "queues", 64);
                default_number(queuing, "handSize", 8);
                default_number(queuing, "queueLengthLimit", 50);
            });
        });
    });
    inside(spec, "exempt", |exempt| {
        default(exempt, "nominalConcurrencyShares", 0);
        default(exempt, "lendablePercent", 0);
    });
}

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let name = root.at("metadata.name").str();
    let (kind, limited, exempt) = (spec.at("type"), spec.at("limited"), spec.at("exempt"));
    if (name == "exempt") != (kind.str() == "Exempt") {
        problems.invalid_str(&kind, kind.str(), "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind.str() {
        "Exempt" => {
            if limited.exists() {
                problems.forbidden(&limited, "must be nil if the type is not Limited");
            }
            validate_shares(&exempt, problems);
        }
        "Limited" => {
            if exempt.exists() {
                problems.forbidden(&exempt, "must be nil if the type is Limited");
            }
            if !limited.exists() {
                problems.required(&limited, "must not be empty when type is Limited");
            } else {
                validate_limited(&limited, problems);
            }
        }
        _ => problems.not_supported(&kind, &["Exempt", "Limited"]),
    }
    if let Some(mut fixed) = built_in::mandatory_spec(built_in::LEVELS, name) {
        let lent = name == "exempt";
        // What the exempt level lends is the administrator's affair.
        if lent && let Some(exempt) = object["spec"].get("exempt") {
            fixed["exempt"] = exempt.clone();
        }
        let except = if lent { " except the 'spec.exempt' field" } else { "" };
        if fixed != object["spec"] {
            problems.invalid(&spec, &format!("spec of '{name}'{except} must equal the fixed value"));
        }
    }
    super::validate_conditions(&root, problems);
}

/// Of limited and exempt levels.
fn validate_shares(level: &Cursor, problems: &mut Problems) {
    let shares = level.at("nominalConcurrencyShares");
    if shares.int() < 0 {
        problems.invalid_plain(&shares, shares.int(), "must be a non-negative integer");
    }
    let lendable = level.at("lendablePercent");
    if !(0..=100).contains(&lendable.int()) {
        problems.invalid_plain(&lendable, lendable.int(), "must be between 0 and 100, inclusive");
    }
}

const QUEUES_MAX: i64 = 10_000_000;
/// What the hash that deals out hands of queues yields.
const HASH_BITS: f64 = 60.0;

fn validate_limited(limited: &Cursor, problems: &mut Problems) {
    validate_shares(limited, problems);
    let borrowing = limited.at("borrowingLimitPercent");
    if borrowing.int() < 0 {
        problems.invalid_plain(&borrowing, borrowing.int(), "if specified, must be a non-negative integer");
    }
    let response = limited.at("limitResponse");
    let (kind, queuing) = (response.at("type"), response.at("queuing"));
    match kind.str() {
        "Reject" => {
            if queuing.exists() {
                problems.forbidden(&queuing, "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" => {
            if !queuing.exists() {
                return problems.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
            }
            let (length, queues, hand) = (queuing.at("queueLengthLimit"), queuing.at("queues"), queuing.at("handSize"));
            for at in [&length, &queues] {
                if at.int() <= 0 {
                    problems.invalid_plain(at, at.int(), "must be positive");
                }
            }
            if queues.int() > QUEUES_MAX {
                problems.invalid_plain(&queues, queues.int(), &format!("must not be greater than {QUEUES_MAX}"));
            }
            let bits = ((queues.int() as f64).log2() * hand.int() as f64).ceil();
            let sentence = match (hand.int(), queues.int()) {
                (..=0, _) => "must be positive".to_owned(),
                (hand, queues) if hand > queues => format!("should not be greater than queues ({queues})"),
                (hand, queues) if bits > HASH_BITS => format!(
                    "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
                ),
                _ => return,
            };
            problems.invalid_plain(&hand, hand.int(), &sentence);
        }
        _ => checks::one_of(&kind, &["Queue", "Reject"], problems),
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &str| match walk(object, path).as_i64() {
        Some(number) => Value::from(number),
        None => "<none>".into(),
    };
    vec![
        printing::name(object),
        printing::string_at(object, "spec.type"),
        number("spec.limited.nominalConcurrencyShares"),
        number("spec.limited.limitResponse.queuing.queues"),
        number("spec.limited.limitResponse.queuing.handSize"),
        number("spec.limited.limitResponse.queuing.queueLengthLimit"),
        printing::age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::KIND;
    use crate::kinds::testing::check_defaulted;
    use serde_json::{Value, json};

    fn queuing(queuing: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {"limitResponse":
            {"type": "Queue", "queuing": queuing}}}})
    }

    #[test]
    fn queues_and_hands() {
        for (value, expected) in [
            (json!({}), ""),
            (
                json!({"queues": 20_000_000, "handSize": 10}),
                "spec.limited.limitResponse.queuing.queues: Invalid value: 20000000: must not be greater than 10000000\n\
                 spec.limited.limitResponse.queuing.handSize: Invalid value: 10: required entropy bits of deckSize 20000000 and handSize 10 should not be greater than 60",
            ),
            (
                json!({"queues": 5, "queueLengthLimit": -1}),
                "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive\n\
                 spec.limited.limitResponse.queuing.handSize: Invalid value: 8: should not be greater than queues (5)",
            ),
        ] {
            check_defaulted(&KIND, queuing(value), expected);
        }
        check_defaulted(
            &KIND,
            json!({"metadata": {"name": "a"}, "spec": {"type": "Exempt", "exempt": {"lendablePercent": 101}}}),
            "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'\n\
             spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
        );
    }
}
