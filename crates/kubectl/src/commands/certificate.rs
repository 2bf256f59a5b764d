//! `kubectl certificate`: approve, deny

use serde_json::json;

use crate::command::{COMMAND, Command};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::FILENAMES;
use crate::flags::{Flag, Parsed};
use crate::output::{DryRun, PRINT, report};
use crate::rest::Url;
use crate::selection::select;
use crate::session::Session;
use crate::value::{list, text};

pub static CERTIFICATE: Command = Command {
    name: "certificate",
    about: "Approve or deny certificate requests.",
    usage: "SUBCOMMAND [options]",
    subcommands: &[&APPROVE, &DENY],
    ..COMMAND
};

const FORCE: &[Flag] = &[Flag::switch("force", "Also a request that has been decided.")];

static APPROVE: Command = Command {
    name: "approve",
    about: "Approve a certificate request.",
    usage: "(-f FILENAME | NAME) [options]",
    examples: "kubectl certificate approve ann",
    flags: &[FORCE, FILENAMES, PRINT],
    run: Some(|session, args| Box::pin(decide(session, args, "Approved", "KubectlApprove", "approved", "This CSR was approved by kubectl certificate approve."))),
    ..COMMAND
};
static DENY: Command = Command {
    name: "deny",
    about: "Deny a certificate request.",
    usage: "(-f FILENAME | NAME) [options]",
    examples: "kubectl certificate deny ann",
    flags: &[FORCE, FILENAMES, PRINT],
    run: Some(|session, args| Box::pin(decide(session, args, "Denied", "KubectlDeny", "denied", "This CSR was denied by kubectl certificate deny."))),
    ..COMMAND
};

async fn decide(session: &Session, args: &Parsed, kind: &str, reason: &str, done: &str, message: &str) -> Result {
    if args.args.is_empty() && !crate::files::given(args) {
        fail!("one or more CSRs must be specified as <name> or -f <filename>");
    }
    let words: Vec<String> = args.args.iter().map(|word| if word.contains('/') { word.clone() } else { format!("certificatesigningrequests/{word}") }).collect();
    let (infos, mut problems) = select(session, args, &words).await?;
    for mut info in infos {
        let mut conditions = list(&info.object, "/status/conditions").to_vec();
        if let Some(other) = conditions.iter().map(|one| text(one, "/type")).find(|other| matches!(*other, "Approved" | "Denied") && *other != kind) {
            problems.push(Error::Message(format!("certificate signing request {:?} is already {other}", info.name)));
            continue;
        }
        let decided = conditions.iter().any(|one| text(one, "/type") == kind);
        if !decided || args.is_set("force") {
            let now = jiff::Timestamp::from_second(session.clock.now().as_second()).expect("a clock's second is in range").to_string();
            conditions.retain(|one| text(one, "/type") != kind);
            conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now}));
            let mut object = info.object.clone();
            crate::value::set(&mut object, &["status", "conditions"], conditions.into());
            match session.put(Url::new(format!("{}/approval", info.url().as_str())), &object).await {
                Ok(answer) => info.object = answer,
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            }
        }
        report(session, args, &info, done, DryRun::None)?;
    }
    Error::all(problems)
}
