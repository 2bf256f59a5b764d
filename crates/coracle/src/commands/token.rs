//! `coracle token create`, `list`, `delete`: the tokens by which further nodes join.

use std::fs::File;
use std::io::Read;

use clap::{Arg, ArgMatches, Command};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::{block_on, data_dir_argument, instance, say, seconds, table};
use crate::config::duration;
use crate::instance::Instance;
use crate::join_token::{BootstrapToken, JoinToken};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";
const GROUPS: &str = "system:bootstrappers:coracle:default-node-token";
const HEADER: [&str; 6] = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"];
const USAGES: [&str; 2] = ["signing", "authentication"];

pub fn command() -> Command {
    let text = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("VALUE").default_value(default).help(help)
    };
    Command::new("token")
        .about("Create, list and delete the tokens by which nodes join")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("create")
                .about("Make a token and print it")
                .arg(data_dir_argument())
                .arg(text("ttl", "24h", "How long it is valid, such as 2h or 30m; 0 for ever"))
                .arg(Arg::new("description").long("description").value_name("TEXT").help("What it is for"))
                .arg(text("usages", "signing,authentication", "What it may be used for").value_delimiter(',')),
        )
        .subcommand(Command::new("list").about("Show the tokens that there are").arg(data_dir_argument()))
        .subcommand(
            Command::new("delete")
                .about("Take tokens back")
                .arg(data_dir_argument())
                .arg(Arg::new("token").num_args(1..).required(true).value_name("TOKEN").help("A token, or its ID")),
        )
}

pub fn run(matches: &ArgMatches) -> Result<(), String> {
    match matches.subcommand() {
        Some(("create", matches)) => create(matches),
        Some(("list", matches)) => list(&instance(matches)?),
        Some(("delete", matches)) => delete(matches),
        _ => Err("no command given; see coracle token --help".into()),
    }
}

fn create(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    let given = matches.get_one::<String>("ttl").map_or("24h", String::as_str);
    let ttl = duration(given).map_err(|problem| format!("--ttl {given:?}: {problem}"))?;
    let usages: Vec<&String> = matches.get_many("usages").into_iter().flatten().collect();
    if let Some(wrong) = usages.iter().find(|usage| !USAGES.contains(&usage.as_str())) {
        return Err(format!("--usages {wrong:?}: expected signing or authentication"));
    }
    let path = instance.tls().join("ca.crt");
    let authority = std::fs::read_to_string(&path).map_err(|cause| format!("{}: {cause}; tokens are made on a server", path.display()))?;
    let authority_sha256 = client::remote::authority_digest(&authority).map_err(|cause| format!("{}: {cause}", path.display()))?;
    let bootstrap = new_token()?;
    let mut data = json!({
        "token-id": bootstrap.id,
        "token-secret": bootstrap.secret,
        "auth-extra-groups": GROUPS,
    });
    if !ttl.is_zero() {
        let end = Timestamp::now() + SignedDuration::try_from(ttl).map_err(|cause| cause.to_string())?;
        data["expiration"] = seconds(end).into();
    }
    for usage in usages {
        data[format!("usage-bootstrap-{usage}")] = "true".into();
    }
    if let Some(description) = matches.get_one::<String>("description") {
        data["description"] = description.as_str().into();
    }
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": format!("{NAME_PREFIX}{}", bootstrap.id), "namespace": NAMESPACE},
        "type": TYPE,
        "stringData": data,
    }))
    .map_err(|cause| cause.to_string())?;
    block_on(async {
        let secrets = secrets(&instance).await?;
        secrets.create(&PostParams::default(), &secret).await.map_err(|cause| cause.to_string())
    })?;
    say(&JoinToken { authority_sha256, bootstrap }.to_string());
    Ok(())
}

fn list(instance: &Instance) -> Result<(), String> {
    let found = block_on(async {
        let of_type = ListParams::default().fields(&format!("type={TYPE}"));
        secrets(instance).await?.list(&of_type).await.map_err(|cause| cause.to_string())
    })?;
    let rows: Vec<[String; 6]> = found.items.iter().map(|secret| row(secret, Timestamp::now())).collect();
    say(&table(HEADER, &rows));
    Ok(())
}

fn delete(matches: &ArgMatches) -> Result<(), String> {
    let instance = instance(matches)?;
    let tokens: Vec<&String> = matches.get_many("token").into_iter().flatten().collect();
    block_on(async {
        let secrets = secrets(&instance).await?;
        for token in tokens {
            // The whole join token, the bootstrap token, or the ID alone.
            let rest = token.rsplit("::").next().unwrap_or(token);
            let id = rest.split('.').next().unwrap_or(rest);
            let name = format!("{NAME_PREFIX}{id}");
            match secrets.delete(&name, &DeleteParams::default()).await {
                Ok(_) => say(&format!("bootstrap token {id:?} deleted")),
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    return Err(format!("there is no token with ID {id:?}; see coracle token list"));
                }
                Err(cause) => return Err(cause.to_string()),
            }
        }
        Ok(())
    })
}

async fn secrets(instance: &Instance) -> Result<Api<Secret>, String> {
    let path = instance.admin_kubeconfig();
    let client = client::from_kubeconfig(&path).await.map_err(|cause| format!("{cause}; tokens are kept by a running server"))?;
    Ok(Api::namespaced(client, NAMESPACE))
}

fn new_token() -> Result<BootstrapToken, String> {
    /// The largest multiple of 36: above it the first letters would come more often.
    const FAIR: u8 = 252;
    let mut random = File::open("/dev/urandom").map_err(|cause| format!("/dev/urandom: {cause}"))?;
    let mut bytes = [0; 64];
    let mut letters = Vec::new();
    while letters.len() < 22 {
        random.read_exact(&mut bytes).map_err(|cause| format!("/dev/urandom: {cause}"))?;
        letters.extend(bytes.iter().copied().filter(|byte| *byte < FAIR));
    }
    let mut letters = letters.into_iter();
    Ok(BootstrapToken::from_letters(|| letters.next().unwrap_or_default()))
}

/// TOKEN, TTL, EXPIRES, USAGES, DESCRIPTION, EXTRA GROUPS, as kubeadm shows them.
fn row(secret: &Secret, now: Timestamp) -> [String; 6] {
    let field = |name: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(name)).map(|value| value.0.clone());
        value.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|text| !text.is_empty())
    };
    let none = || "<none>".to_owned();
    let (ttl, expires) = match field("expiration").map(|text| (text.parse::<Timestamp>(), text)) {
        None => ("<forever>".to_owned(), "<never>".to_owned()),
        Some((Ok(end), text)) if end > now => (short(end.duration_since(now).as_secs()), text),
        Some((_, text)) => ("<invalid>".to_owned(), text),
    };
    let usages: Vec<&str> = {
        let is_set = |usage: &&str| field(&format!("usage-bootstrap-{usage}")).as_deref() == Some("true");
        let mut usages: Vec<&str> = USAGES.into_iter().filter(is_set).collect();
        usages.sort_unstable();
        usages
    };
    [
        format!("{}.{}", field("token-id").unwrap_or_default(), field("token-secret").unwrap_or_default()),
        ttl,
        expires,
        if usages.is_empty() { none() } else { usages.join(",") },
        field("description").unwrap_or_else(none),
        field("auth-extra-groups").unwrap_or_else(none),
    ]
}

/// The largest unit that fits, as Kubernetes' tools shorten ages.
fn short(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn secret(fields: &[(&str, &str)]) -> Secret {
        let data: serde_json::Map<String, serde_json::Value> =
            fields.iter().map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into())).collect();
        serde_json::from_value(json!({"data": data})).unwrap()
    }

    #[test]
    fn tokens_are_shown_as_kubeadm_shows_them() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let named = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef")];
        let with = |more: &[(&'static str, &'static str)]| secret(&[&named[..], more].concat());
        let forever = with(&[("usage-bootstrap-authentication", "true")]);
        let expired = with(&[("expiration", "2025-12-31T00:00:00Z"), ("description", "old")]);
        let fresh = with(&[("expiration", "2026-01-01T23:30:00Z"), ("usage-bootstrap-signing", "true"), ("usage-bootstrap-authentication", "true")]);
        let rows: Vec<[String; 6]> = [forever, expired, fresh].iter().map(|secret| row(secret, now)).collect();
        let expected = "\
TOKEN                     TTL         EXPIRES                USAGES                   DESCRIPTION   EXTRA GROUPS
abcdef.0123456789abcdef   <forever>   <never>                authentication           <none>        <none>
abcdef.0123456789abcdef   <invalid>   2025-12-31T00:00:00Z   <none>                   old           <none>
abcdef.0123456789abcdef   23h         2026-01-01T23:30:00Z   authentication,signing   <none>        <none>";
        assert_eq!(table(HEADER, &rows), expected);
    }
}
