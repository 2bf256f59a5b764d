//! `registries.yaml`: where images are pulled from, in k3s's format (mirrors, auth, TLS).
//!
//! Deliberately absent: any connection. This module only answers "which endpoints, in which order, with what".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cri::AuthConfig;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistriesConfig {
    /// By registry host; `*` serves every registry.
    pub mirrors: BTreeMap<String, Mirror>,
    /// By endpoint host (with port).
    pub configs: BTreeMap<String, RegistryConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mirror {
    #[serde(rename = "endpoint")]
    pub endpoints: Vec<String>,
    /// Prefix of the repository to its replacement. k3s takes regular expressions here; a leading `^` and a
    /// trailing `(.*)` with `$1` are understood, other expressions are refused when the file is read.
    pub rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    pub auth: Option<RegistryAuth>,
    pub tls: Option<RegistryTls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
    /// base64 of `username:password`.
    pub auth: String,
    pub identity_token: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryTls {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub insecure_skip_verify: bool,
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port, plus a path prefix if the endpoint has one.
    pub host: String,
    pub plain_http: bool,
    pub repository: String,
}

impl RegistriesConfig {
    /// An absent file is an empty configuration.
    pub fn read(path: &Path) -> Result<RegistriesConfig, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|cause| format!("{}: {cause}", path.display())),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(RegistriesConfig::default()),
            Err(cause) => Err(format!("{}: {cause}", path.display())),
        }
    }

    pub fn parse(text: &str) -> Result<RegistriesConfig, String> {
        if text.trim().is_empty() {
            return Ok(RegistriesConfig::default());
        }
        let config: RegistriesConfig = serde_saphyr::from_str(text).map_err(|cause| cause.to_string())?;
        for mirror in config.mirrors.values() {
            for (pattern, replacement) in &mirror.rewrite {
                Rewrite::parse(pattern, replacement)?;
            }
        }
        Ok(config)
    }

    /// The mirrors of `registry` in order, then the registry itself.
    pub fn endpoints(&self, registry: &str, repository: &str) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let mut endpoints: Vec<Endpoint> = mirror
            .into_iter()
            .flat_map(|mirror| mirror.endpoints.iter().map(move |url| (mirror, url)))
            .map(|(mirror, url)| endpoint(url, &mirror.rewritten(repository)))
            .collect();
        let itself = endpoint(default_host(registry), repository);
        if !endpoints.contains(&itself) {
            endpoints.push(itself);
        }
        endpoints
    }

    pub fn auth(&self, host: &str) -> Option<AuthConfig> {
        let auth = self.configs.get(host)?.auth.as_ref()?;
        let (mut username, mut password) = (auth.username.clone(), auth.password.clone());
        if !auth.auth.is_empty() {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, secret) = text.split_once(':')?;
            (username, password) = (user.to_string(), secret.to_string());
        }
        Some(AuthConfig { username, password, registry_token: auth.identity_token.clone() })
    }

    pub fn tls(&self, host: &str) -> Option<&RegistryTls> {
        self.configs.get(host)?.tls.as_ref()
    }
}

impl Mirror {
    fn rewritten(&self, repository: &str) -> String {
        self.rewrite
            .iter()
            .filter_map(|(pattern, replacement)| Rewrite::parse(pattern, replacement).ok())
            .find_map(|rewrite| rewrite.apply(repository))
            .unwrap_or_else(|| repository.to_string())
    }
}

/// `^prefix(.*)` -> `new$1`, or a whole name.
struct Rewrite<'a> {
    prefix: &'a str,
    open: bool,
    replacement: &'a str,
}

impl<'a> Rewrite<'a> {
    fn parse(pattern: &'a str, replacement: &'a str) -> Result<Rewrite<'a>, String> {
        let rest = pattern.strip_prefix('^').unwrap_or(pattern);
        let (prefix, open) = match rest.strip_suffix("(.*)") {
            Some(prefix) => (prefix, true),
            None => (rest.strip_suffix('$').unwrap_or(rest), false),
        };
        if prefix.contains(['(', ')', '[', ']', '*', '+', '?', '|', '\\']) {
            return Err(format!("rewrite {pattern:?}: only a prefix with a closing (.*) is supported"));
        }
        Ok(Rewrite { prefix, open, replacement })
    }

    fn apply(&self, repository: &str) -> Option<String> {
        let rest = repository.strip_prefix(self.prefix)?;
        if !self.open && !rest.is_empty() {
            return None;
        }
        Some(self.replacement.replace("$1", rest))
    }
}

fn endpoint(url: &str, repository: &str) -> Endpoint {
    let (plain_http, rest) = match url.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some((_, rest)) => (false, rest),
        None => (is_loopback(url), url),
    };
    let rest = rest.trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_start_matches("v2").trim_matches('/');
    let repository = if path.is_empty() { repository.to_string() } else { format!("{path}/{repository}") };
    Endpoint { host: host.to_string(), plain_http, repository }
}

/// Registries on loopback speak plain HTTP unless a mirror says `https://`, as with containerd.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with("127.") || name == "[::1]"
}

fn default_host(registry: &str) -> &str {
    match registry {
        "docker.io" => "index.docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["http://127.0.0.1:5000", "https://mirror.example/v2/hub"]
    rewrite:
      "^library/(.*)": "official/$1"
  "*":
    endpoint: ["https://all.example"]
configs:
  "mirror.example":
    auth: {auth: "dTpw"}
    tls: {insecure_skip_verify: true}
"#;

    #[track_caller]
    fn check(registry: &str, repository: &str, expected: &str) {
        let config = RegistriesConfig::parse(FILE).expect("parses");
        let found: Vec<String> = config
            .endpoints(registry, repository)
            .iter()
            .map(|it| format!("{}{}/{}", if it.plain_http { "http:" } else { "" }, it.host, it.repository))
            .collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn mirrors_come_first_and_the_registry_last() {
        check(
            "docker.io",
            "library/nginx",
            "http:127.0.0.1:5000/official/nginx mirror.example/hub/official/nginx index.docker.io/library/nginx",
        );
        check("quay.io", "a/b", "all.example/a/b quay.io/a/b");
        check("localhost:5000", "a", "all.example/a http:localhost:5000/a");
    }

    #[test]
    fn credentials_and_bad_files() {
        let config = RegistriesConfig::parse(FILE).expect("parses");
        let auth = config.auth("mirror.example").expect("has credentials");
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p"));
        assert!(config.tls("mirror.example").expect("has tls").insecure_skip_verify);
        assert!(RegistriesConfig::parse("mirrors: {a: {endpoints: []}}").is_err());
        assert!(RegistriesConfig::parse("mirrors: {a: {rewrite: {'a|b': c}}}").is_err());
        assert!(RegistriesConfig::parse("").expect("empty").mirrors.is_empty());
    }
}
