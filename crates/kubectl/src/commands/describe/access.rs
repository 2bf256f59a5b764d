//! Who may do what: roles, bindings, service accounts, certificate requests

use serde_json::Value;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509CertificationRequest};

use super::{head, labels_and_annotations, rfc1123};
use crate::output::human_duration;
use crate::rest::Url;
use crate::selection::Info;
use crate::session::Session;
use crate::value::{int, list, name, name_of, pairs, plain, text};

/// One line of a role: a single resource or path with the verbs it allows.
pub struct Rule {
    group: String,
    resource: String,
    names: Vec<String>,
    path: String,
    verbs: Vec<String>,
}

impl Rule {
    /// `deployments.apps/scale`
    pub fn resource(&self) -> String {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let subresource = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
        format!("{resource}{group}{subresource}")
    }

    /// Resource, paths, names, verbs.
    pub fn cells(&self) -> [String; 4] {
        [self.resource(), format!("[{}]", self.path), format!("[{}]", self.names.join(" ")), format!("[{}]", self.verbs.join(" "))]
    }

    /// What the original orders by: its own debugging text.
    fn order(&self) -> String {
        let within = |word: &str, of: bool| if of { format!("[{word}]") } else { "[]".to_owned() };
        let of_resource = !self.resource.is_empty();
        format!(
            "{},{},{},[{}],{}",
            within(&self.verbs.join(" "), true),
            within(&self.group, of_resource),
            within(&self.resource, of_resource),
            self.names.join(" "),
            within(&self.path, !of_resource)
        )
    }
}

/// Rules taken apart to single resources and put together again by resource, in the original's order.
pub fn compact(rules: &[Value]) -> Vec<Rule> {
    let words = |rule: &Value, pointer: &str| -> Vec<String> { list(rule, pointer).iter().map(plain).collect() };
    let mut all: Vec<Rule> = Vec::new();
    for rule in rules {
        let (verbs, names) = (words(rule, "/verbs"), words(rule, "/resourceNames"));
        for group in words(rule, "/apiGroups") {
            for resource in words(rule, "/resources") {
                let each: Vec<Vec<String>> = if names.is_empty() { vec![Vec::new()] } else { names.iter().map(|name| vec![name.clone()]).collect() };
                for names in each {
                    match all.iter_mut().find(|known| known.group == group && known.resource == resource && known.names == names && known.path.is_empty()) {
                        Some(known) => {
                            let new: Vec<String> = verbs.iter().filter(|verb| !known.verbs.contains(verb)).cloned().collect();
                            known.verbs.extend(new);
                        }
                        None => all.push(Rule { group: group.clone(), resource: resource.clone(), names, path: String::new(), verbs: verbs.clone() }),
                    }
                }
            }
        }
        for path in words(rule, "/nonResourceURLs") {
            // These stay apart, verb by verb.
            all.extend(verbs.iter().map(|verb| Rule { group: String::new(), resource: String::new(), names: Vec::new(), path: path.clone(), verbs: vec![verb.clone()] }));
        }
    }
    all.sort_by_key(Rule::order);
    all
}

pub fn role(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object);
    out += "PolicyRule:\n  Resources\tNon-Resource URLs\tResource Names\tVerbs\n  ---------\t-----------------\t--------------\t-----\n";
    for rule in compact(list(object, "/rules")) {
        out += &format!("  {}\n", rule.cells().join("\t"));
    }
    out
}

pub fn binding(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", name(object)) + &labels_and_annotations(object);
    out += &format!("Role:\n  Kind:\t{}\n  Name:\t{}\n", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    out += "Subjects:\n  Kind\tName\tNamespace\n  ----\t----\t---------\n";
    for subject in list(object, "/subjects") {
        out += &format!("  {}\t{}\t{}\n", text(subject, "/kind"), name_of(subject), text(subject, "/namespace"));
    }
    out
}

pub async fn service_account(session: &Session, info: &Info) -> String {
    let object = &info.object;
    let secrets = session.get(Url::new(format!("/api/v1/namespaces/{}/secrets", info.namespace))).await.ok();
    let existing: Option<&[Value]> = secrets.as_ref().map(|found| list(found, "/items"));
    let shown = |secret: &str| match existing {
        Some(existing) if !existing.iter().any(|one| name(one) == secret) => format!("{secret} (not found)"),
        _ => secret.to_owned(),
    };
    let lines = |header: &str, names: Vec<&str>| match names.is_empty() {
        true => format!("{header}\t<none>\n"),
        false => {
            let all: Vec<String> = names.into_iter().map(shown).collect();
            format!("{header}\t{}\n", all.join("\n                   \t"))
        }
    };
    let referenced = |pointer: &str| list(object, pointer).iter().map(name_of).collect::<Vec<_>>();
    let is_token = |secret: &&Value| {
        text(secret, "/type") == "kubernetes.io/service-account-token"
            && text(secret, "/metadata/annotations/kubernetes.io~1service-account.name") == info.name
            && text(secret, "/metadata/annotations/kubernetes.io~1service-account.uid") == text(object, "/metadata/uid")
    };
    let tokens = existing.unwrap_or_default().iter().filter(is_token).map(name).collect();
    head(object)
        + &labels_and_annotations(object)
        + &lines("Image pull secrets:", referenced("/imagePullSecrets"))
        + &lines("Mountable secrets: ", referenced("/secrets"))
        + &lines("Tokens:            ", tokens)
}

pub fn certificate_request(object: &Value) -> String {
    let mut out = format!(
        "Name:\t{}\nLabels:\t{}\nAnnotations:\t{}\nCreationTimestamp:\t{}\nRequesting User:\t{}\n",
        name(object),
        pairs(object, "/metadata/labels", "<none>"),
        pairs(object, "/metadata/annotations", "<none>"),
        rfc1123(text(object, "/metadata/creationTimestamp")),
        text(object, "/spec/username"),
    );
    if !text(object, "/spec/signerName").is_empty() {
        out += &format!("Signer:\t{}\n", text(object, "/spec/signerName"));
    }
    if object.pointer("/spec/expirationSeconds").is_some() {
        out += &format!("Requested Duration:\t{}\n", human_duration(int(object, "/spec/expirationSeconds")));
    }
    let has = |wanted: &str| list(object, "/status/conditions").iter().any(|one| text(one, "/type") == wanted);
    let mut status = if has("Denied") { "Denied" } else if has("Approved") { "Approved" } else { "Pending" }.to_owned();
    if has("Failed") {
        status += ",Failed";
    }
    if !text(object, "/status/certificate").is_empty() {
        status += ",Issued";
    }
    out += &format!("Status:\t{status}\n");
    out + &subject(text(object, "/spec/request")).unwrap_or_default()
}

/// Whom the request names. None when it cannot be read.
fn subject(request: &str) -> Option<String> {
    let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, request).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &parsed.certification_request_info.subject;
    fn strings<'a>(attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
        attributes.filter_map(|one| one.as_str().ok()).map(str::to_owned).collect()
    }
    let lines = |title: &str, values: Vec<String>| match values.is_empty() {
        true => String::new(),
        false => format!("\t{title}:\t{}\n", values.join("\n\t\t")),
    };
    let first = |values: Vec<String>| values.into_iter().next().unwrap_or_default();
    let of = |oid: x509_parser::der_parser::Oid<'static>| -> Vec<String> { strings(subject.iter_by_oid(&oid)) };
    use x509_parser::oid_registry as oid;
    let mut out = format!(
        "Subject:\n\tCommon Name:\t{}\n\tSerial Number:\t{}\n",
        first(strings(subject.iter_common_name())),
        first(of(oid::OID_X509_SERIALNUMBER))
    );
    out += &lines("Organization", strings(subject.iter_organization()));
    out += &lines("Organizational Unit", strings(subject.iter_organizational_unit()));
    out += &lines("Country", strings(subject.iter_country()));
    out += &lines("Locality", strings(subject.iter_locality()));
    out += &lines("Province", strings(subject.iter_state_or_province()));
    let (mut dns, mut mail, mut uris, mut ips) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => mail.push((*name).to_owned()),
                GeneralName::URI(name) => uris.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match bytes {
                    [a, b, c, d] => ips.push(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
                    long => ips.extend(<[u8; 16]>::try_from(&**long).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())),
                },
                _ => {}
            }
        }
    }
    if dns.len() + mail.len() + uris.len() + ips.len() > 0 {
        out += "Subject Alternative Names:\n";
        out += &lines("DNS Names", dns);
        out += &lines("Email Addresses", mail);
        out += &lines("URIs", uris);
        out += &lines("IP Addresses", ips);
    }
    Some(out)
}
