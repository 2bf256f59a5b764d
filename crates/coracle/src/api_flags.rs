//! The flags of the API server alone, under the original's names.
//!
//! Invariant: files that they name are read at start; what is wrong in one is said then, with the flag.

use std::path::{Path, PathBuf};

use apiserver::audit::{AuditSettings, LogSettings, Policy};
use apiserver::authn::static_tokens;
use apiserver::encryption::{EncryptedStore, EncryptionConfiguration};
use apiserver::{FlowSettings, StaticToken};
use store::SharedStore;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFlags {
    audit_policy_file: Option<PathBuf>,
    audit_log: LogSettings,
    encryption_provider_config: Option<PathBuf>,
    token_auth_file: Option<PathBuf>,
    anonymous_auth: bool,
    flow: FlowSettings,
}

impl ApiFlags {
    /// `one`: the value of a flag.
    pub fn parse<'a>(one: &dyn Fn(&str) -> &'a str) -> Result<ApiFlags, String> {
        let number = |name: &str| {
            let text = one(name);
            text.parse::<u64>().map_err(|_| format!("--{name} {text:?}: expected a number"))
        };
        let switch = |name: &str| {
            let text = one(name);
            text.parse::<bool>().map_err(|_| format!("--{name} {text:?}: expected true or false"))
        };
        let path = |name: &str| Some(one(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
        let audit_log = LogSettings {
            path: path("audit-log-path").unwrap_or_default(),
            age_max: number("audit-log-maxage")?,
            backups_max: number("audit-log-maxbackup")? as usize,
            size_max: number("audit-log-maxsize")?,
        };
        Ok(ApiFlags {
            audit_policy_file: path("audit-policy-file"),
            audit_log,
            encryption_provider_config: path("encryption-provider-config"),
            token_auth_file: path("token-auth-file"),
            anonymous_auth: switch("anonymous-auth")?,
            flow: FlowSettings {
                priority_and_fairness: switch("enable-priority-and-fairness")?,
                requests_max: number("max-requests-inflight")? as usize,
                mutating_requests_max: number("max-mutating-requests-inflight")? as usize,
            },
        })
    }

    /// The settings with what the files say.
    pub fn apply(&self, mut config: apiserver::Config) -> Result<apiserver::Config, String> {
        config.anonymous = self.anonymous_auth;
        config.flow = self.flow.clone();
        config.static_tokens.extend(self.static_tokens()?);
        config.audit = self.audit()?;
        config.store = self.store(config.store)?;
        Ok(config)
    }

    fn static_tokens(&self) -> Result<Vec<StaticToken>, String> {
        match &self.token_auth_file {
            None => Ok(Vec::new()),
            Some(path) => {
                let text = String::from_utf8(read("token-auth-file", path)?).map_err(|_| wrong("token-auth-file", path, "not UTF-8"))?;
                Ok(static_tokens::parse(&text))
            }
        }
    }

    /// Without a policy nothing is recorded, as with one and nowhere to record to.
    fn audit(&self) -> Result<Option<AuditSettings>, String> {
        let Some(path) = self.audit_policy_file.as_deref().filter(|_| self.audit_log.path != Path::new("")) else {
            return Ok(None);
        };
        let policy = Policy::parse(&read("audit-policy-file", path)?).map_err(|cause| wrong("audit-policy-file", path, &cause))?;
        Ok(Some(AuditSettings { policy, log: self.audit_log.clone() }))
    }

    fn store(&self, store: SharedStore) -> Result<SharedStore, String> {
        const FLAG: &str = "encryption-provider-config";
        let Some(path) = &self.encryption_provider_config else { return Ok(store) };
        let configuration = EncryptionConfiguration::parse(&read(FLAG, path)?).map_err(|cause| wrong(FLAG, path, &cause))?;
        Ok(EncryptedStore::over(store, configuration))
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|cause| wrong(flag, path, &cause.to_string()))
}

fn wrong(flag: &str, path: &Path, cause: &str) -> String {
    format!("--{flag} {}: {cause}", path.display())
}
