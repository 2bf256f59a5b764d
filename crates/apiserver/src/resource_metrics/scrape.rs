//! Reads all kubelets every 15 seconds while somebody asks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::points::{Look, Pods, Usage, parse, rate};
use crate::cache::Filter;
use crate::error::RequestError;
use crate::proxying;
use crate::server::ApiServer;

/// As metrics-server's `--metric-resolution`.
const PERIOD: Duration = Duration::from_secs(15);
/// Between the two looks that the first who asks waits for.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// When nobody has asked for this long, nobody is watching.
const IDLE_AFTER: Duration = Duration::from_secs(75);
const AT_ONCE_MAX: usize = 32;
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 16 << 20;

/// What is known of all nodes and pods at one time.
#[derive(Default)]
pub struct Usages {
    nodes: BTreeMap<String, Usage>,
    pods: HashMap<(String, String), Vec<(String, Usage)>>,
}

impl Usages {
    pub fn node(&self, name: &str) -> Option<&Usage> {
        self.nodes.get(name)
    }

    /// By container, in the order of their names.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&[(String, Usage)]> {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).map(Vec::as_slice)
    }
}

#[derive(Default)]
pub struct Scraper {
    looks: Mutex<HashMap<String, Look>>,
    current: Mutex<Option<(Instant, Arc<Usages>)>>,
    asked: Mutex<Option<Instant>>,
    /// One round at a time, and whoever comes meanwhile shares its outcome.
    round: tokio::sync::Mutex<()>,
    running: AtomicBool,
}

impl Scraper {
    /// What is used now: at most a period old.
    pub async fn get(&self, server: &Arc<ApiServer>) -> Result<Arc<Usages>, RequestError> {
        if server.config.kubelet.is_none() {
            return Err(RequestError::ServiceUnavailable("this server has no credentials for kubelets".into()));
        }
        *self.asked.lock() = Some(Instant::now());
        if let Some(usages) = self.fresh() {
            return Ok(usages);
        }
        let _round = self.round.lock().await;
        if let Some(usages) = self.fresh() {
            return Ok(usages);
        }
        self.looks.lock().clear(); // From long ago: a rate since then is nobody's present.
        self.look(server).await;
        tokio::time::sleep(FIRST_WINDOW).await;
        self.look(server).await;
        if !self.running.swap(true, Ordering::SeqCst) {
            tokio::spawn(keep_looking(server.clone()));
        }
        self.fresh().ok_or_else(|| RequestError::Internal("no metrics after reading them".into()))
    }

    fn fresh(&self) -> Option<Arc<Usages>> {
        let current = self.current.lock();
        let (taken, usages) = current.as_ref()?;
        (taken.elapsed() < PERIOD * 2).then(|| usages.clone())
    }

    async fn look(&self, server: &Arc<ApiServer>) {
        let Some(nodes) = server.stored_kind("", "nodes") else { return };
        let selected = server.cache.select(nodes, &Filter::default(), None, 0);
        let names: Vec<String> = selected.entries.iter().map(|entry| entry.name().to_owned()).collect();
        let found: Vec<(String, Look)> = futures::stream::iter(names)
            .map(|name| async {
                match tokio::time::timeout(NODE_TIMEOUT, read(server, &name)).await {
                    Ok(Ok(look)) => Some((name, look)),
                    Ok(Err(error)) => {
                        tracing::debug!(node = name, %error, "reading a kubelet's metrics");
                        None
                    }
                    Err(_) => None,
                }
            })
            .buffer_unordered(AT_ONCE_MAX)
            .filter_map(|found| async { found })
            .collect()
            .await;
        let found: HashMap<String, Look> = found.into_iter().collect();
        let mut looks = self.looks.lock();
        let usages = usages(&looks, &found);
        *looks = found;
        *self.current.lock() = Some((Instant::now(), Arc::new(usages)));
    }

    fn is_idle(&self) -> bool {
        self.asked.lock().is_none_or(|asked| asked.elapsed() > IDLE_AFTER)
    }
}

async fn keep_looking(server: Arc<ApiServer>) {
    let cancel = server.config.cancel.clone();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let scraper = &server.usages;
        let _round = scraper.round.lock().await;
        if scraper.is_idle() {
            *scraper.current.lock() = None;
            scraper.looks.lock().clear();
            scraper.running.store(false, Ordering::SeqCst); // Before the next round may begin.
            break;
        }
        scraper.look(&server).await;
    }
}

async fn read(server: &ApiServer, node: &str) -> Result<Look, RequestError> {
    let text = proxying::fetch_from_kubelet(server, node, "/metrics/resource", ANSWER_MAX).await?;
    let now = server.config.clock.now().as_millisecond();
    Ok(parse(&String::from_utf8_lossy(&text), now))
}

fn usages(old: &HashMap<String, Look>, new: &HashMap<String, Look>) -> Usages {
    let mut usages = Usages::default();
    let nothing = Pods::default();
    for (node, look) in new {
        let before = old.get(node);
        if let Some(usage) = rate(before.map(|look| &look.node), &look.node) {
            usages.nodes.insert(node.clone(), usage);
        }
        let pods_before = before.map_or(&nothing, |look| &look.pods);
        for (pod, containers) in &look.pods {
            let before = pods_before.get(pod);
            let rates = containers
                .iter()
                .map(|(name, point)| Some((name.clone(), rate(before.and_then(|old| old.get(name)), point)?)));
            // Half a pod would look like a small pod.
            if let Some(containers) = rates.collect::<Option<Vec<_>>>() {
                usages.pods.insert(pod.clone(), containers);
            }
        }
    }
    usages
}
