//! Getting a container's image onto the node: policy, credentials, events, errors in the original's words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use client::{EventType, ObjectKey};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use runtime::cri::{AuthConfig, Image, ImageService};
use serde_json::Value;

use crate::objects::{Objects, Waker};
use crate::pod::spec;

/// Why there is no image: the waiting reason, and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProblem {
    pub reason: &'static str,
    pub message: String,
}

pub struct ImagePuller<'a> {
    pub images: &'a Arc<dyn ImageService>,
    pub objects: &'a Objects,
    pub waker: &'a Waker,
    pub tell: &'a (dyn Fn(EventType, &str, &str) + Send + Sync),
}

impl ImagePuller<'_> {
    pub async fn ensure(&self, pod: &Pod, container: &Container) -> Result<Image, ImageProblem> {
        let written = container.image.as_deref().unwrap_or_default();
        let answer = self.try_ensure(pod, container, written).await;
        if let Err(problem) = &answer {
            (self.tell)(EventType::Warning, "Failed", &format!("Error: {}", problem.reason));
        }
        answer
    }

    async fn try_ensure(&self, pod: &Pod, container: &Container, written: &str) -> Result<Image, ImageProblem> {
        if !is_reference(written) {
            let message = format!(
                "Failed to apply default image tag \"{written}\": couldn't parse image name \"{written}\": invalid reference format"
            );
            (self.tell)(EventType::Warning, "InspectFailed", &message);
            return Err(ImageProblem { reason: "InvalidImageName", message });
        }
        let image = with_default_tag(written);
        let present = match self.images.image_status(&image).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image \"{written}\": {error}");
                (self.tell)(EventType::Warning, "InspectFailed", &message);
                return Err(ImageProblem { reason: "ImageInspectError", message });
            }
        };
        match (present, pull_policy(container)) {
            (Some(image), "IfNotPresent" | "Never") => {
                let text = format!("Container image \"{written}\" already present on machine and can be accessed by the pod");
                (self.tell)(EventType::Normal, "Pulled", &text);
                Ok(image)
            }
            (None, "Never") => {
                let message = format!("Container image \"{written}\" is not present with pull policy of Never");
                (self.tell)(EventType::Warning, "ErrImageNeverPull", &message);
                Err(ImageProblem { reason: "ErrImageNeverPull", message })
            }
            _ => self.pull(pod, written, &image).await,
        }
    }

    async fn pull(&self, pod: &Pod, written: &str, image: &str) -> Result<Image, ImageProblem> {
        let auth = self.credentials(pod, image).await;
        (self.tell)(EventType::Normal, "Pulling", &format!("Pulling image \"{written}\""));
        let begun = tokio::time::Instant::now();
        let pulled = self.images.pull_image(image, &auth).await;
        let id = match pulled {
            Ok(id) => id,
            Err(error) => {
                let message = error.to_string();
                (self.tell)(EventType::Warning, "Failed", &format!("Failed to pull image \"{written}\": {message}"));
                let reason = match &message {
                    text if text.starts_with("RegistryUnavailable") => "RegistryUnavailable",
                    text if text.starts_with("SignatureValidationFailed") => "SignatureValidationFailed",
                    _ => "ErrImagePull",
                };
                return Err(ImageProblem { reason, message });
            }
        };
        let took = go_duration(begun.elapsed());
        let found = match self.images.image_status(&id).await {
            Ok(Some(found)) => found,
            _ => Image { id, ..Image::default() },
        };
        let text = format!("Successfully pulled image \"{written}\" in {took} ({took} including waiting). Image size: {} bytes.", found.size);
        (self.tell)(EventType::Normal, "Pulled", &text);
        Ok(found)
    }

    async fn credentials(&self, pod: &Pod, image: &str) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
            let key = ObjectKey::new(spec::namespace(pod), reference.name.clone());
            match self.objects.secrets.hold(&key, spec::uid(pod), self.waker).await {
                Ok(Some(secret)) => found.extend(credentials_for(image, &secret)),
                Ok(None) | Err(_) => missing.push(reference.name.clone()),
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            (self.tell)(EventType::Warning, "FailedToRetrieveImagePullSecret", &text);
        }
        found
    }
}

fn pull_policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    match container.image_pull_policy.as_deref() {
        Some(policy @ ("Always" | "IfNotPresent" | "Never")) => policy,
        // Only objects that no API server has defaulted come without one.
        _ if with_default_tag(image).ends_with(":latest") => "Always",
        _ => "IfNotPresent",
    }
}

/// `nginx` as `nginx:latest`; what has a tag or digest stays.
pub fn with_default_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// The grammar of image references, as far as it can be broken by hand.
fn is_reference(image: &str) -> bool {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !digest.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))) {
        return false;
    }
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].rfind(':') {
        Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
        None => (rest, None),
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if tag.is_some_and(|tag| !tag.bytes().next().is_some_and(word) || tag.len() > 128 || !tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))) {
        return false;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 1 && (parts[0].contains('.') || parts[0].contains(':') || parts[0] == "localhost") {
        parts.remove(0);
    }
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    parts.iter().all(|part| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|byte| letter(*byte))
            && bytes.last().is_some_and(|byte| letter(*byte))
            && bytes.iter().all(|byte| letter(*byte) || b"._-".contains(byte))
    })
}

fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains('.') || first.contains(':') || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// What a docker configuration in a Secret holds for the registry of an image, the most exact entry first.
pub fn credentials_for(image: &str, secret: &Secret) -> Vec<AuthConfig> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).and_then(|bytes| serde_json::from_slice::<Value>(&bytes.0).ok());
    let auths = match data(".dockerconfigjson") {
        Some(mut config) => config["auths"].take(),
        None => data(".dockercfg").unwrap_or_default(),
    };
    let registry = registry_of(image);
    let full = if image.starts_with(registry) { image.to_owned() } else { format!("{registry}/{image}") };
    let mut matching: BTreeMap<std::cmp::Reverse<usize>, AuthConfig> = BTreeMap::new();
    for (key, entry) in auths.as_object().into_iter().flatten() {
        let place = key.trim_start_matches("https://").trim_start_matches("http://");
        let place = place.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let place = if matches!(place, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { place };
        let wildcard = place.strip_prefix("*.").is_some_and(|suffix| registry.split_once('.').is_some_and(|(_, rest)| rest == suffix));
        if wildcard || full == place || full.starts_with(&format!("{place}/")) {
            matching.insert(std::cmp::Reverse(place.len()), auth_of(entry));
        }
    }
    matching.into_values().collect()
}

fn auth_of(entry: &Value) -> AuthConfig {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut auth = AuthConfig { username: text("username"), password: text("password"), registry_token: text("registrytoken") };
    if auth.username.is_empty()
        && let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(text("auth").trim())
        && let Some((username, password)) = String::from_utf8_lossy(&decoded).split_once(':')
    {
        auth.username = username.to_owned();
        auth.password = password.trim_end_matches('\0').to_owned();
    }
    auth
}

/// As Go prints a duration that was cut to milliseconds: `523ms`, `1.234s`, `1m2.5s`.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references() {
        for good in ["nginx", "nginx:1.16", "docker.io/library/nginx", "localhost:5000/a/b_c:v1", "a@sha256:0123456789abcdef0123456789abcdef"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "Nginx", "nginx:", "nginx:a b", "a//b", "-a", "a@sha256:xyz", "INVALID IMAGE"] {
            assert!(!is_reference(bad), "{bad}");
        }
        assert_eq!(with_default_tag("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(with_default_tag("a:1"), "a:1");
    }

    #[test]
    fn durations() {
        for (millis, text) in [(0, "0s"), (5, "5ms"), (1234, "1.234s"), (1200, "1.2s"), (2000, "2s"), (62_500, "1m2.5s"), (3_600_000, "1h0m0s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_most_exact_credentials_first() {
        let config = json!({"auths": {
            "registry.example": {"username": "wide", "password": "p"},
            "registry.example/team": {"auth": "bmFycm93OnE="},
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
        }});
        let encoded = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": encoded}})).expect("a secret");
        let users = |image: &str| credentials_for(image, &secret).into_iter().map(|auth| auth.username).collect::<Vec<_>>();
        assert_eq!(users("registry.example/team/app:1"), ["narrow", "wide"]);
        assert_eq!(users("registry.example/other"), ["wide"]);
        assert_eq!(users("nginx"), ["hub"]);
        assert_eq!(users("quay.io/x"), Vec::<String>::new());
    }
}
