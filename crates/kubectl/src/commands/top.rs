//! `kubectl top`: what nodes and pods use, as the metrics API (metrics.k8s.io) has it.
//!
//! Invariant: the figures are the server's, only added up and sorted here. Deliberately absent: any other source.

use std::cmp::Ordering;

use api::quantity::Quantity;
use serde_json::Value;

use crate::command::{COMMAND, Command};
use crate::error::Result;
use crate::fail;
use crate::flags::{Flag, Parsed};
use crate::output::age_of;
use crate::output::tabs::{TABLE, align};
use crate::rest::Url;
use crate::selection::{ALL_NAMESPACES, FIELD_SELECTOR, SELECTOR};
use crate::session::Session;
use crate::value::{list, name, namespace, text};

pub static TOP: Command = Command {
    name: "top",
    about: "Show how much CPU and memory nodes or pods use. The cluster needs a metrics server.",
    usage: "[flags] [options]",
    subcommands: &[&NODE, &POD],
    ..COMMAND
};

static NODE: Command = Command {
    name: "node",
    aliases: &["nodes", "no"],
    about: "Show what nodes use.",
    usage: "[NAME | -l label] [options]",
    examples: "
kubectl top node
kubectl top node worker-1 --show-capacity",
    flags: &[FLAGS, SELECTOR, &[
        Flag::switch("show-capacity", "Percentages of the node's capacity, not of what is allocatable."),
        Flag::switch("show-swap", "Also show what swap is used.").hidden(),
    ]],
    run: Some(|session, args| Box::pin(nodes(session, args))),
    ..COMMAND
};

static POD: Command = Command {
    name: "pod",
    aliases: &["pods", "po"],
    about: "Show what pods use.",
    usage: "[NAME | -l label] [options]",
    examples: "
kubectl top pod
kubectl top pod web --containers
kubectl top pod -A --sort-by=memory --sum",
    flags: &[FLAGS, SELECTOR, FIELD_SELECTOR, ALL_NAMESPACES, &[
        Flag::switch("containers", "A line for every container."),
        Flag::switch("show-swap", "Also show what swap is used.").hidden(),
        Flag::switch("sum", "Also show the sum."),
    ]],
    run: Some(|session, args| Box::pin(pods(session, args))),
    ..COMMAND
};

const FLAGS: &[Flag] = &[
    Flag::switch("no-headers", "Leave out the header line."),
    Flag::text("sort-by", "cpu or memory; by name if left out."),
    Flag::switch("use-protocol-buffers", "Has no effect: answers are JSON.").default("true"),
];

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";
/// Metrics of a pod younger than this may not be there yet.
const YOUNG_SECONDS: i64 = 120;

/// Milli-CPUs and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu: i64,
    memory: i64,
}

impl Usage {
    fn of(resources: &Value) -> Self {
        let amount = |name: &str| Quantity::parse(text(resources, &format!("/{name}"))).ok();
        Usage { cpu: amount("cpu").map_or(0, |cpu| cpu.milli_value()), memory: amount("memory").map_or(0, |memory| memory.value()) }
    }

    fn plus(self, other: Usage) -> Self {
        Usage { cpu: self.cpu.saturating_add(other.cpu), memory: self.memory.saturating_add(other.memory) }
    }

    fn cells(self) -> String {
        format!("{}m\t{}Mi\t", self.cpu, self.memory / (1024 * 1024))
    }
}

#[derive(Clone, Copy)]
enum SortBy {
    Name,
    Cpu,
    Memory,
}

impl SortBy {
    fn of(args: &Parsed) -> Result<Self> {
        Ok(match args.text("sort-by") {
            "" => SortBy::Name,
            "cpu" => SortBy::Cpu,
            "memory" => SortBy::Memory,
            _ => fail!("--sort-by accepts only cpu or memory"),
        })
    }

    fn compare(self, (left_name, left): (&str, Usage), (right_name, right): (&str, Usage)) -> Ordering {
        match self {
            SortBy::Name => left_name.cmp(right_name),
            SortBy::Cpu => right.cpu.cmp(&left.cpu),
            SortBy::Memory => right.memory.cmp(&left.memory),
        }
    }
}

fn name_argument<'a>(session: &Session, args: &'a Parsed, what: &str) -> Result<Option<&'a str>> {
    match args.args.as_slice() {
        [] => Ok(None),
        [name] => Ok(Some(name)),
        _ => Err(session.usage_error(format!("{what} [NAME | -l label]"))),
    }
}

/// The metrics of one object or of all that match.
async fn metrics(session: &Session, url: Url, single: bool) -> Result<Vec<Value>> {
    let versions = &session.discovery().await?.versions;
    if !versions.iter().any(|version| version == "metrics.k8s.io/v1beta1") {
        let fresh = crate::discovery::Discovery::fetch(session).await?;
        if !fresh.versions.iter().any(|version| version == "metrics.k8s.io/v1beta1") {
            fail!("Metrics API not available");
        }
    }
    let found = session.get(url).await?;
    Ok(if single { vec![found] } else { list(&found, "/items").to_vec() })
}

async fn nodes(session: &Session, args: &Parsed) -> Result {
    let sort_by = SortBy::of(args)?;
    let wanted = name_argument(session, args, "node")?;
    if wanted.is_some() && args.changed("selector") {
        fail!("only one of NAME or --selector can be provided");
    }
    let suffix = wanted.map(|name| format!("/{name}")).unwrap_or_default();
    let url = |base: &str| Url::new(format!("{base}/nodes{suffix}")).with_filled("labelSelector", args.text("selector"));
    let mut measured = metrics(session, url(GROUP), wanted.is_some()).await?;
    if measured.is_empty() {
        fail!("metrics not available yet");
    }
    let found = session.get(url("/api/v1")).await?;
    let known = if wanted.is_some() { vec![found] } else { list(&found, "/items").to_vec() };
    let field = if args.is_set("show-capacity") { "/status/capacity" } else { "/status/allocatable" };
    let usage = |metrics: &Value| Usage::of(&metrics["usage"]);
    measured.sort_by(|left, right| sort_by.compare((name(left), usage(left)), (name(right), usage(right))));
    let mut shown = String::new();
    if !args.is_set("no-headers") {
        shown += "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\t\n";
    }
    let mut missing: Vec<&str> = known.iter().map(name).collect();
    for metrics in &measured {
        missing.retain(|missing| *missing != name(metrics));
        let node = known.iter().find(|node| name(node) == name(metrics)).unwrap_or(&Value::Null);
        let available = Usage::of(node.pointer(field).unwrap_or(&Value::Null));
        let percent = |used: i64, available: i64| if available == 0 { 0 } else { (used as f64 / available as f64 * 100.0) as i64 };
        let used = usage(metrics);
        shown += &format!(
            "{}\t{}m\t{}%\t{}Mi\t{}%\t\n",
            name(metrics), used.cpu, percent(used.cpu, available.cpu), used.memory / (1024 * 1024), percent(used.memory, available.memory)
        );
    }
    missing.sort_unstable();
    for node in missing {
        shown += &format!("{node}\t<unknown>\t<unknown>\t<unknown>\t<unknown>\t\n");
    }
    session.print(align(&shown, TABLE))
}

async fn pods(session: &Session, args: &Parsed) -> Result {
    let sort_by = SortBy::of(args)?;
    let wanted = name_argument(session, args, "pod")?;
    if wanted.is_some() && (args.changed("selector") || args.changed("field-selector")) {
        fail!("only one of NAME or selector can be provided");
    }
    let all = args.is_set("all-namespaces");
    let place = if all { String::new() } else { format!("/namespaces/{}", session.namespace()?) };
    let suffix = wanted.map(|name| format!("/{name}")).unwrap_or_default();
    let url = |base: &str| {
        Url::new(format!("{base}{place}/pods{suffix}"))
            .with_filled("labelSelector", args.text("selector"))
            .with_filled("fieldSelector", args.text("field-selector"))
    };
    let mut measured = metrics(session, url(GROUP), wanted.is_some()).await?;
    if measured.is_empty() {
        let found = session.get(url("/api/v1")).await?;
        refuse_old(session, list(&found, "/items"))?;
        session.complain(if all { "No resources found".to_owned() } else { format!("No resources found in {} namespace.", session.namespace()?) });
    }
    measured.sort_by(|left, right| {
        let by_namespace = if all { namespace(left).cmp(namespace(right)) } else { Ordering::Equal };
        by_namespace.then_with(|| sort_by.compare((name(left), total(left)), (name(right), total(right))))
    });
    session.print(align(&pod_lines(&measured, args, sort_by), TABLE))
}

/// No metrics of a pod that has been there for long are a fault.
fn refuse_old(session: &Session, pods: &[Value]) -> Result {
    let now = session.clock.now();
    for pod in pods {
        let created = text(pod, "/metadata/creationTimestamp");
        let age = crate::output::timestamp(created).map_or(0, |created| now.as_second() - created.as_second());
        if age > YOUNG_SECONDS {
            fail!("Metrics not available for pod {}/{}, age: {}", namespace(pod), name(pod), age_of(created, now));
        }
    }
    Ok(())
}

fn total(pod: &Value) -> Usage {
    list(pod, "/containers").iter().fold(Usage::default(), |sum, container| sum.plus(Usage::of(&container["usage"])))
}

fn pod_lines(measured: &[Value], args: &Parsed, sort_by: SortBy) -> String {
    let (all, by_container) = (args.is_set("all-namespaces"), args.is_set("containers"));
    let mut shown = String::new();
    if !args.is_set("no-headers") && !measured.is_empty() {
        shown += if all { "NAMESPACE\t" } else { "" };
        shown += if by_container { "POD\t" } else { "" };
        shown += "NAME\tCPU(cores)\tMEMORY(bytes)\t\n";
    }
    for pod in measured {
        let prefix = if all { format!("{}\t", namespace(pod)) } else { String::new() };
        if !by_container {
            shown += &format!("{prefix}{}\t{}\n", name(pod), total(pod).cells());
            continue;
        }
        let mut containers: Vec<(&str, Usage)> = list(pod, "/containers").iter().map(|container| (text(container, "/name"), Usage::of(&container["usage"]))).collect();
        containers.sort_by(|left, right| sort_by.compare(*left, *right));
        for (container, used) in containers {
            shown += &format!("{prefix}{}\t{container}\t{}\n", name(pod), used.cells());
        }
    }
    if args.is_set("sum") && !measured.is_empty() {
        let blank = "\t".repeat(1 + usize::from(all) + usize::from(by_container));
        let sum = measured.iter().fold(Usage::default(), |sum, pod| sum.plus(total(pod)));
        shown += &format!("{blank}________\t________\t\n{blank}{}\n", sum.cells());
    }
    shown
}
