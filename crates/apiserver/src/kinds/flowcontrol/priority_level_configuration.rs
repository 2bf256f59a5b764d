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
    let (kind, limited, exempt) = (spec.at("type"), spec.at("limited"), spec.at("exempt"));
    match kind.str() {
        "Exempt" => {
            if limited.exists() {
                problems.forbidden(&limited, "must be nil if the type is not Limited");
            }
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
}

fn validate_limited(limited: &Cursor, problems: &mut Problems) {
    let shares = limited.at("nominalConcurrencyShares");
    if shares.int() < 0 {
        problems.invalid_plain(&shares, shares.int(), "must be a non-negative integer");
    }
    let lendable = limited.at("lendablePercent");
    if !(0..=100).contains(&lendable.int()) {
        problems.invalid_plain(&lendable, lendable.int(), "must be between 0 and 100, inclusive");
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
            for (field, sentence) in [
                ("queueLengthLimit", "must be positive"),
                ("queues", "must be positive"),
                ("handSize", "must be positive"),
            ] {
                let at = queuing.at(field);
                if at.int() <= 0 {
                    problems.invalid_plain(&at, at.int(), sentence);
                }
            }
            let (hand, queues) = (queuing.at("handSize"), queuing.at("queues"));
            if hand.int() > queues.int() {
                let sentence = format!("should not be greater than queues ({})", queues.int());
                problems.invalid_plain(&hand, hand.int(), &sentence);
            }
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
