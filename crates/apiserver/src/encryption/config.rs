//! apiserver.config.k8s.io/v1 `EncryptionConfiguration`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::cipher::{Cipher, Provider};
use crate::cache::is_stored;
use crate::kinds::registry::REGISTRY;

/// Checked: who has one can write and read with it.
pub struct EncryptionConfiguration {
    rules: Vec<Rule>,
}

struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (core), `*.*`
    resources: Vec<String>,
    providers: Vec<Draft>,
}

#[derive(Clone)]
enum Draft {
    Identity,
    Key { cipher: Cipher, name: String, key: Vec<u8> },
}

impl EncryptionConfiguration {
    /// From YAML or JSON. Err names the field.
    pub fn parse(text: &[u8]) -> Result<EncryptionConfiguration, String> {
        let (value, _) = api::yaml::to_json(text).map_err(|cause| format!("error decoding encryption provider configuration: {cause}"))?;
        if !matches!(value["apiVersion"].as_str(), Some("apiserver.config.k8s.io/v1" | "v1")) || value["kind"] != "EncryptionConfiguration" {
            return Err("error decoding encryption provider configuration: want apiserver.config.k8s.io/v1, kind EncryptionConfiguration".into());
        }
        let list = value["resources"].as_array().filter(|list| !list.is_empty());
        let list = list.ok_or("resources: Required value: at least one encryption configuration resource must be specified")?;
        let rules = list.iter().enumerate().map(|(at, rule)| parse_rule(&format!("resources[{at}]"), rule)).collect::<Result<_, _>>()?;
        Ok(EncryptionConfiguration { rules })
    }

    /// Providers by the prefix of store keys. The first rule that names a resource counts.
    pub(super) fn by_prefix(&self) -> Vec<(String, Vec<Provider>)> {
        let mut found: Vec<(String, Vec<Provider>)> = Vec::new();
        for kind in REGISTRY.iter().copied().filter(|kind| is_stored(kind)) {
            let prefix = format!("/registry/{}/", kind.storage);
            let Some(rule) = self.rules.iter().find(|rule| rule.names(kind.group, kind.plural)) else { continue };
            if !found.iter().any(|(own, _)| *own == prefix) {
                found.push((prefix, rule.providers.iter().cloned().map(Draft::finish).collect()));
            }
        }
        found
    }
}

impl Draft {
    fn finish(self) -> Provider {
        match self {
            Draft::Identity => Provider::Identity,
            Draft::Key { cipher, name, key } => Provider::key(cipher, &name, key),
        }
    }
}

impl Rule {
    fn names(&self, group: &str, plural: &str) -> bool {
        self.resources.iter().any(|own| {
            let (resource, own_group) = own.split_once('.').unwrap_or((own, ""));
            own == "*.*" || (own_group == group && (resource == "*" || resource == plural))
        })
    }
}

fn parse_rule(path: &str, rule: &Value) -> Result<Rule, String> {
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let resources = strings(&rule["resources"]);
    if resources.is_empty() {
        return Err(format!("{path}.resources: Required value: at least one resource must be specified"));
    }
    if resources.iter().any(|resource| resource == "*") {
        return Err(format!("{path}.resources: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"));
    }
    let list = rule["providers"].as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| format!("{path}.providers: Required value: at least one provider must be specified"))?;
    let mut providers = Vec::new();
    for (at, provider) in list.iter().enumerate() {
        parse_provider(&format!("{path}.providers[{at}]"), provider, &mut providers)?;
    }
    Ok(Rule { resources, providers })
}

fn parse_provider(path: &str, provider: &Value, found: &mut Vec<Draft>) -> Result<(), String> {
    let fields = provider.as_object().filter(|fields| fields.len() == 1);
    let fields = fields.ok_or_else(|| format!("{path}: Invalid value: provider must contain exactly one of aesgcm, aescbc, secretbox, identity"))?;
    for (name, own) in fields {
        let cipher = match name.as_str() {
            "identity" => {
                found.push(Draft::Identity);
                continue;
            }
            "aescbc" => Cipher::AesCbc,
            "aesgcm" => Cipher::AesGcm,
            "secretbox" => Cipher::Secretbox,
            "kms" => return Err(format!("{path}.kms: not supported: use aesgcm, aescbc or secretbox")),
            other => return Err(format!("{path}: Invalid value: unknown provider {other:?}")),
        };
        let keys = own["keys"].as_array().filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| format!("{path}.{name}.keys: Required value: at least one key must be specified"))?;
        for (at, key) in keys.iter().enumerate() {
            found.push(parse_key(&format!("{path}.{name}.keys[{at}]"), cipher, key)?);
        }
    }
    Ok(())
}

fn parse_key(path: &str, cipher: Cipher, key: &Value) -> Result<Draft, String> {
    let text = |field: &str| key[field].as_str().filter(|text| !text.is_empty());
    let name = text("name").ok_or_else(|| format!("{path}.name: Required value: key name must be specified"))?;
    if name.contains(':') {
        return Err(format!("{path}.name: Invalid value: {name:?}: key name must not contain a colon"));
    }
    let secret = text("secret").ok_or_else(|| format!("{path}.secret: Required value: secret must be specified"))?;
    let key = STANDARD.decode(secret).map_err(|_| format!("{path}.secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"))?;
    if !cipher.key_sizes().contains(&key.len()) {
        return Err(format!(
            "{path}.secret: Invalid value: \"REDACTED\": secret is not of the expected length, got {}, expected one of {:?}",
            key.len(),
            cipher.key_sizes()
        ));
    }
    Ok(Draft::Key { cipher, name: name.to_owned(), key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(resources: &str) -> Result<EncryptionConfiguration, String> {
        let text = format!("{{\"apiVersion\": \"apiserver.config.k8s.io/v1\", \"kind\": \"EncryptionConfiguration\", \"resources\": {resources}}}");
        EncryptionConfiguration::parse(text.as_bytes())
    }

    #[test]
    fn resources() {
        #[track_caller]
        fn check(names: &str, expected: &[&str]) {
            let rule = format!(r#"[{{"resources": {names}, "providers": [{{"identity": {{}}}}]}}]"#);
            let prefixes: Vec<String> = parse(&rule).expect("valid").by_prefix().into_iter().map(|(prefix, _)| prefix).collect();
            for prefix in expected {
                assert!(prefixes.iter().any(|own| own == prefix), "{names}: {prefixes:?}");
            }
            assert!(names.contains('*') || prefixes.len() == expected.len(), "{names}: {prefixes:?}");
        }
        check(r#"["secrets", "services"]"#, &["/registry/secrets/", "/registry/services/specs/"]);
        check(r#"["deployments.apps"]"#, &["/registry/deployments/"]);
        check(r#"["*.apps"]"#, &["/registry/deployments/", "/registry/daemonsets/"]);
        check(r#"["*."]"#, &["/registry/pods/", "/registry/minions/"]);
        check(r#"["*.*"]"#, &["/registry/pods/", "/registry/deployments/"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        #[track_caller]
        fn check(resources: &str, expected: &str) {
            let error = parse(resources).err().expect("is refused");
            assert!(error.contains(expected), "{error}");
        }
        let with = |provider: &str| format!(r#"[{{"resources": ["secrets"], "providers": [{provider}]}}]"#);
        check("[]", "resources: Required value");
        check(&with(""), "resources[0].providers: Required value");
        check(&with(r#"{"aescbc": {"keys": []}}"#), "resources[0].providers[0].aescbc.keys: Required value");
        check(&with(r#"{"aescbc": {"keys": [{"name": "a", "secret": "?"}]}}"#), "secrets must be base64 encoded");
        check(&with(r#"{"secretbox": {"keys": [{"name": "a", "secret": "AAAA"}]}}"#), "got 3, expected one of [32]");
        check(&with(r#"{"aescbc": {"keys": [{"name": "a:b", "secret": "AAAA"}]}}"#), "must not contain a colon");
        check(&with(r#"{"kms": {}}"#), "kms: not supported");
        check(r#"[{"resources": ["*"], "providers": [{"identity": {}}]}]"#, "use '*.'");
    }
}
