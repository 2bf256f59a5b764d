//! `kubectl events`

use super::describe::{first_seen, last_seen};
use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::tabs::Rows;
use crate::output::{Format, PRINT, age_of, list_of};
use crate::rest::{JSON, Url};
use crate::selection::{ALL_NAMESPACES, CHUNK, list_all};
use crate::session::Session;
use crate::value::{int, list, text};
use serde_json::Value;

pub static EVENTS: Command = Command {
    name: "events",
    about: "Show events, the latest last.",
    usage: "[(-o|--output=)json|yaml|name|go-template|go-template-file|template|templatefile|jsonpath|jsonpath-as-json|jsonpath-file] [--for TYPE/NAME] [--watch] [--types=Normal,Warning] [options]",
    examples: "
kubectl events --all-namespaces
kubectl events --for pod/web --watch
kubectl events --types=Warning -o yaml",
    flags: &[FLAGS, PRINT, ALL_NAMESPACES, CHUNK],
    run: Some(|session, args| Box::pin(run(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::text("for", "Only events about this object: TYPE/NAME."),
    Flag::switch("no-headers", "Leave out the header line."),
    Flag::list("types", "Only events of these types: Normal, Warning."),
    Flag::switch("watch", "After showing what there is, go on.").short('w'),
];

async fn run(session: &Session, args: &Parsed) -> Result {
    let all = args.is_set("all-namespaces");
    let path = if all { "/api/v1/events".to_owned() } else { format!("/api/v1/namespaces/{}/events", session.namespace()?) };
    let mut url = Url::new(path);
    if args.changed("for") {
        let mut found = crate::selection::targets(session, &[args.text("for").to_owned()]).await?;
        let target = found.remove(0);
        let name = target.name.unwrap_or_default();
        url = url.with("fieldSelector", &format!("involvedObject.kind={},involvedObject.name={name}", target.resource.kind));
    }
    let found = list_all(session, url.clone(), args.int("chunk-size")).await?;
    let types = args.list("types");
    let wanted = |event: &Value| types.is_empty() || types.iter().any(|kind| kind.eq_ignore_ascii_case(text(event, "/type")));
    let mut events: Vec<Value> = list(&found, "/items").iter().filter(|event| wanted(event)).cloned().collect();
    events.sort_by(|a, b| last_seen(a).cmp(last_seen(b)));
    let mut format = Format::of(args)?;
    if !format.is_table() {
        return session.print(format.show(&list_of(events), args)?);
    }
    if events.is_empty() && !args.is_set("watch") {
        session.complain(if all { "No events found.".to_owned() } else { format!("No events found in {} namespace.", session.namespace()?) });
        return Ok(());
    }
    let mut rows = Rows::default();
    let mut lines = Vec::new();
    if !args.is_set("no-headers") {
        let mut header: Vec<String> = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"].iter().map(|cell| (*cell).to_owned()).collect();
        if all {
            header.insert(0, "NAMESPACE".to_owned());
        }
        lines.push(header);
    }
    lines.extend(events.iter().map(|event| row(session, event, all)));
    session.print(rows.lines(&lines))?;
    if !args.is_set("watch") {
        return Ok(());
    }
    session.flush()?;
    let mut watch = session.watch(url.with("watch", "true").with("resourceVersion", text(&found, "/metadata/resourceVersion")), JSON).await?;
    while let Some((kind, event)) = watch.event().await? {
        if kind != "DELETED" && kind != "BOOKMARK" && wanted(&event) {
            session.print(rows.lines(&[row(session, &event, all)]))?;
            session.flush()?;
        }
    }
    Ok(())
}

fn row(session: &Session, event: &Value, all: bool) -> Vec<String> {
    let now = session.clock.now();
    let count = int(event, "/count").max(int(event, "/series/count"));
    let last = age_of(last_seen(event), now);
    let seen = if count > 1 { format!("{last} (x{count} over {})", age_of(first_seen(event), now)) } else { last };
    let object = format!("{}/{}", text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    let mut row = vec![seen, text(event, "/type").to_owned(), text(event, "/reason").to_owned(), object, text(event, "/message").trim().to_owned()];
    if all {
        row.insert(0, text(event, "/metadata/namespace").to_owned());
    }
    row
}
