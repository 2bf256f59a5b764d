//! A heartbeat or a lock.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::printing::{self, AGE, NAME, text};
use crate::kinds::{Cursor, Kind, NAMESPACED, Problems, checks};

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    definition: "io.k8s.api.coordination.v1.Lease",
    storage: "leases",
    create_on_update: true,
    validate,
    columns: &[NAME, text("Holder", "io.k8s.api.coordination.v1.LeaseSpec#holderIdentity"), AGE],
    cells,
    ..NAMESPACED
};

fn validate(object: &Value, problems: &mut Problems) {
    let root = Cursor::root(object);
    let spec = root.at("spec");
    let (duration, transitions) = (spec.at("leaseDurationSeconds"), spec.at("leaseTransitions"));
    if duration.exists() && duration.int() <= 0 {
        problems.invalid(&duration, "must be greater than 0");
    }
    if transitions.int() < 0 {
        problems.invalid(&transitions, checks::NEGATIVE);
    }
    let strategy = spec.at("strategy");
    if strategy.exists() && !strategy.str().contains('/') {
        checks::one_of(&strategy, &["OldestEmulationVersion"], problems);
    }
    let preferred = spec.at("preferredHolder");
    if !preferred.is_empty() && strategy.is_empty() {
        problems.forbidden(&preferred, "may only be specified if `strategy` is defined");
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![printing::name(object), printing::string_at(object, "spec.holderIdentity"), printing::age(object, now)]
}
