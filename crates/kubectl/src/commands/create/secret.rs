//! `kubectl create secret`: generic, tls, docker-registry

use serde_json::{Value, json};

use super::configmap::{HASH, SOURCES, base64};
use super::{GENERATED, create, name_argument, object, sources};
use crate::command::{Alone, COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::kubeconfig::go_io;
use crate::output::{DRY_RUN, PRINT};
use crate::session::Session;
use crate::value::set;

pub static SECRET: Command = Command {
    name: "secret",
    about: "Create a secret by one of the commands below.",
    usage: "(docker-registry | generic | tls) [options]",
    alone: Alone::Complains,
    subcommands: &[&DOCKER_REGISTRY, &GENERIC, &TLS],
    ..COMMAND
};

static GENERIC: Command = Command {
    name: "generic",
    about: "Create a secret from files, directories or literal values.",
    usage: "NAME [--type=string] [--from-file=[key=]source] [--from-literal=key1=value1] [--dry-run=server|client|none] [options]",
    examples: "kubectl create secret generic database --from-literal=password=swordfish",
    flags: &[&[Flag::text("type", "The type of the secret.")], SOURCES, HASH, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(generic(session, args))),
    ..COMMAND
};

static TLS: Command = Command {
    name: "tls",
    about: "Create a secret from a certificate and its key.",
    usage: "NAME --cert=path/to/cert/file --key=path/to/key/file [--dry-run=server|client|none] [options]",
    examples: "kubectl create secret tls web --cert=web.crt --key=web.key",
    flags: &[&[Flag::text("cert", "File with the PEM certificate."), Flag::text("key", "File with its private key.")], HASH, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(tls(session, args))),
    ..COMMAND
};

static DOCKER_REGISTRY: Command = Command {
    name: "docker-registry",
    about: "Create a secret for pulling images from a registry.",
    usage: "NAME --docker-username=user --docker-password=password --docker-email=email [--docker-server=string] [--from-file=[key=]source] [--dry-run=server|client|none] [options]",
    examples: "
kubectl create secret docker-registry ours --docker-server=registry.example.com --docker-username=ann --docker-password=swordfish
kubectl create secret docker-registry ours --from-file=.dockerconfigjson=$HOME/.docker/config.json",
    flags: &[DOCKER, HASH, GENERATED, DRY_RUN, PRINT],
    run: Some(|session, args| Box::pin(docker_registry(session, args))),
    ..COMMAND
};

const DOCKER: &[Flag] = &[
    Flag::text("docker-email", "Mail address."),
    Flag::text("docker-password", "Password."),
    Flag::text("docker-server", "Address of the registry.").default("https://index.docker.io/v1/"),
    Flag::text("docker-username", "User name."),
    Flag::list("from-file", "File in Docker's own format, as .dockerconfigjson=path."),
];

async fn generic(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    let mut secret = object("v1", "Secret", name);
    for (key, value) in sources(args, "Secret", name)? {
        set(&mut secret, &["data", &key], base64(&value).into());
    }
    if args.changed("type") {
        secret["type"] = args.text("type").into();
    }
    create(session, args, secret).await
}

async fn tls(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    if !args.changed("cert") || !args.changed("key") {
        fail!("key and cert must be specified");
    }
    let read = |path: &str| std::fs::read(path).map_err(|error| Error::Message(format!("Cannot read file {path}, open {path}: {}", go_io(&error))));
    let (certificate, key) = (read(args.text("cert"))?, read(args.text("key"))?);
    if !String::from_utf8_lossy(&certificate).contains("-----BEGIN CERTIFICATE-----") {
        fail!("tls: failed to find any PEM data in certificate input");
    }
    let key_text = String::from_utf8_lossy(&key);
    if !key_text.contains("PRIVATE KEY-----") {
        if key_text.contains("-----BEGIN CERTIFICATE-----") {
            fail!("tls: found a certificate rather than a key in the PEM for the private key");
        }
        fail!("tls: failed to find any PEM data in key input");
    }
    let mut secret = object("v1", "Secret", name);
    secret["type"] = "kubernetes.io/tls".into();
    secret["data"] = json!({"tls.crt": base64(&certificate), "tls.key": base64(&key)});
    create(session, args, secret).await
}

async fn docker_registry(session: &Session, args: &Parsed) -> Result {
    let name = name_argument(session, args)?;
    let mut secret = object("v1", "Secret", name);
    secret["type"] = "kubernetes.io/dockerconfigjson".into();
    let content = if args.changed("from-file") {
        let (_, content) = sources(args, "Secret", name)?.into_iter().next().unwrap_or_default();
        content
    } else {
        let (user, password, email) = (args.text("docker-username"), args.text("docker-password"), args.text("docker-email"));
        if user.is_empty() || password.is_empty() {
            fail!("either --from-file or the combination of --docker-username, --docker-password and --docker-server is required");
        }
        // In the order in which the original's structs have them: the bytes are the same then.
        let auth = base64(format!("{user}:{password}").as_bytes());
        let fields = [("username", user), ("password", password), ("email", email), ("auth", auth.as_str())];
        let filled = fields.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("\"{name}\":{}", Value::from(*value)));
        let entry: Vec<String> = filled.collect();
        format!("{{\"auths\":{{{}:{{{}}}}}}}", Value::from(args.text("docker-server")), entry.join(",")).into_bytes()
    };
    secret["data"] = json!({".dockerconfigjson": base64(&content)});
    create(session, args, secret).await
}
