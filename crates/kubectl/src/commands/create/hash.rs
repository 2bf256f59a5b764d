//! `--append-hash`: a name that changes with the content

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::output::go_json;
use crate::value::{name, set, text};

/// Appends to the name of a config map or secret what its content makes of it.
pub fn append(object: &mut Value) {
    let named = format!("{}-{}", name(object), suffix(object, name(object)));
    set(object, &["metadata", "name"], named.into());
}

/// What a config map's or secret's content makes of it under that name; kustomizations leave the name out.
pub fn suffix(object: &Value, named: &str) -> String {
    let mut hashed = json!({"kind": object["kind"], "name": named, "data": object.get("data").cloned().unwrap_or_else(|| json!(""))});
    match text(object, "/kind") {
        "Secret" => hashed["type"] = text(object, "/type").into(),
        _ => {
            if let Some(binary) = object.get("binaryData") {
                hashed["binaryData"] = binary.clone();
            }
        }
    }
    hash(&hashed)
}

/// Ten characters, none of which makes a word.
fn hash(content: &Value) -> String {
    let digest = Sha256::digest(go_json(content).as_bytes());
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let safe = |c| match c {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        other => other,
    };
    hex.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_original_hashes() {
        let check = |mut object: Value, expected: &str| {
            append(&mut object);
            assert_eq!(name(&object), expected);
        };
        check(json!({"kind": "ConfigMap", "metadata": {"name": "my-config"}, "data": {"a": "b"}}), "my-config-f4666b6bb5");
        check(json!({"kind": "Secret", "metadata": {"name": "my-secret"}, "data": {"PASSWORD": "czNjcmV0", "USER": "YW5u"}}), "my-secret-b529b2kg8c");
    }
}
