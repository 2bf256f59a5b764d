//! Which requests are recorded, and how much of each: audit.k8s.io/v1 `Policy`.
//!
//! Invariant: the first rule that matches decides; what no rule matches is not recorded.

use serde::Deserialize;
use serde_json::Value;

use crate::http::request_info::RequestInfo;
use crate::user::User;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub omitted: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Verdict {
    pub fn records(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted.contains(&stage)
    }
}

impl Policy {
    /// From YAML or JSON. Err says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Policy, String> {
        let (value, _) = api::yaml::to_json(text).map_err(|cause| format!("failed decoding: {cause}"))?;
        let version = value["apiVersion"].as_str().unwrap_or("");
        if version != "audit.k8s.io/v1" || value["kind"] != "Policy" {
            return Err(format!("unknown group version field {version:?} in policy: want audit.k8s.io/v1, kind Policy"));
        }
        let policy = Policy::deserialize(&value).map_err(|cause| format!("failed decoding: {cause}"))?;
        policy.check(&value)?;
        Ok(policy)
    }

    fn check(&self, value: &Value) -> Result<(), String> {
        if self.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        for (at, rule) in self.rules.iter().enumerate() {
            if value["rules"][at]["level"].is_null() {
                return Err(format!("rules[{at}].level: Required value"));
            }
            if !rule.non_resource_urls.is_empty() && (!rule.resources.is_empty() || !rule.namespaces.is_empty()) {
                return Err(format!(
                    "rules[{at}].nonResourceURLs: Invalid value: {:?}: rules cannot apply to both regular resources and non-resource URLs",
                    rule.non_resource_urls
                ));
            }
            for url in &rule.non_resource_urls {
                let inner = url.strip_suffix('*').unwrap_or(url);
                if url != "*" && (!url.starts_with('/') || inner.contains('*')) {
                    return Err(format!("rules[{at}].nonResourceURLs: Invalid value: {url:?}: non-resource URL wildcards '*' must be the final character of the rule"));
                }
            }
        }
        Ok(())
    }

    pub fn judge(&self, user: &User, info: &RequestInfo) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, info)) else { return Verdict::default() };
        let mut omitted = self.omit_stages.clone();
        omitted.extend(rule.omit_stages.iter().copied().filter(|stage| !self.omit_stages.contains(stage)));
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Verdict { level: rule.level, omitted, omit_managed_fields }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == wanted)
}

impl Rule {
    fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        if !self.users.is_empty() && !has(&self.users, &user.name) {
            return false;
        }
        if !self.user_groups.is_empty() && !user.groups.iter().any(|group| has(&self.user_groups, group)) {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, info.verb) {
            return false;
        }
        if !self.resources.is_empty() || !self.namespaces.is_empty() {
            return info.is_resource && self.matches_resource(info);
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        !info.is_resource
            && self.non_resource_urls.iter().any(|own| match own.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => *own == info.path,
            })
    }

    fn matches_resource(&self, info: &RequestInfo) -> bool {
        if !self.namespaces.is_empty() && !has(&self.namespaces, &info.namespace) {
            return false;
        }
        self.resources.is_empty()
            || self.resources.iter().filter(|own| own.group == info.group).any(|own| {
                own.resources.is_empty()
                    || ((own.resource_names.is_empty() || has(&own.resource_names, &info.name))
                        && own.resources.iter().any(|resource| names(resource, info)))
            })
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`
fn names(rule: &str, info: &RequestInfo) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => info.subresource.is_empty() && rule == info.resource,
        Some((resource, "*")) => resource == info.resource,
        Some((resource, subresource)) => {
            !info.subresource.is_empty() && subresource == info.subresource && (resource == "*" || resource == info.resource)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::http::query::Query;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints, services]}]}
- {level: None, userGroups: ["system:authenticated"], nonResourceURLs: ["/api*", "/version"]}
- {level: RequestResponse, resources: [{group: "", resources: [pods]}], omitManagedFields: true}
- {level: Metadata, resources: [{group: "", resources: ["pods/log", "pods/status"]}]}
- {level: None, resources: [{group: "", resources: [configmaps], resourceNames: [controller-leader]}]}
- {level: Request, resources: [{group: "", resources: [configmaps]}], namespaces: [kube-system]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps]}]}
- {level: Request, resources: [{group: apps}, {group: batch, resources: ["*/status"]}]}
- {level: Metadata, nonResourceURLs: ["*"], omitStages: [ResponseStarted]}
"#;

    #[test]
    fn the_first_rule_decides() {
        let policy = Policy::parse(POLICY.as_bytes()).expect("valid");
        let check = |user: &str, request: &str, expected: Level| {
            let (method, path) = request.split_once(' ').expect("method and path");
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let method: Method = method.parse().expect("a method");
            let info = RequestInfo::parse(&method, path, &Query::parse(query));
            assert_eq!(policy.judge(&User::authenticated(user, &[]), &info).level, expected, "{user} {request}");
        };
        check("system:kube-proxy", "GET /api/v1/services?watch=1", Level::None);
        check("alice", "GET /api/v1/namespaces/a/pods/x", Level::RequestResponse);
        check("alice", "GET /api/v1/namespaces/a/pods/x/log", Level::Metadata);
        check("alice", "GET /api/v1/namespaces/a/pods/x/exec", Level::None);
        check("alice", "GET /api/v1/namespaces/a/configmaps/controller-leader", Level::None);
        check("alice", "GET /api/v1/namespaces/kube-system/configmaps/x", Level::Request);
        check("alice", "GET /api/v1/namespaces/a/configmaps/x", Level::Metadata);
        check("alice", "PUT /apis/apps/v1/namespaces/a/deployments/x", Level::Request);
        check("alice", "PUT /apis/batch/v1/namespaces/a/jobs/x/status", Level::Request);
        check("alice", "PUT /apis/batch/v1/namespaces/a/jobs/x", Level::None);
        check("alice", "GET /version", Level::None);
        check("alice", "GET /healthz", Level::Metadata);
        let info = RequestInfo::parse(&Method::GET, "/healthz", &Query::default());
        let verdict = policy.judge(&User::anonymous(), &info);
        assert_eq!(verdict.omitted, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(verdict.records(Stage::ResponseComplete) && !verdict.records(Stage::RequestReceived));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |rules: &str, expected: &str| {
            let text = format!("{{\"apiVersion\": \"audit.k8s.io/v1\", \"kind\": \"Policy\", \"rules\": {rules}}}");
            let error = Policy::parse(text.as_bytes()).expect_err("is refused");
            assert!(error.contains(expected), "{error}");
        };
        check("[]", "loaded illegal policy with 0 rules");
        check("[{}]", "rules[0].level: Required value");
        check(r#"[{"level": "Loud"}]"#, "unknown variant `Loud`");
        check(r#"[{"level": "None", "nonResourceURLs": ["/a*b"]}]"#, "wildcards '*' must be the final character");
        check(r#"[{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}]"#, "cannot apply to both");
        assert!(Policy::parse(b"kind: Policy").is_err());
    }
}
