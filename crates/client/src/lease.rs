//! Leader election by a `coordination.k8s.io/v1` Lease: of several copies of a component one works.
//!
//! ```text
//! waiting --lease free or expired, written--> leading --not renewed in time, or lost--> deposed (returns)
//! ```
//!
//! Invariant: the token handed to the work is cancelled before another copy may take over, since the
//! renewal deadline is shorter than the lease, and expiry is judged by the own clock from the moment at
//! which a change was seen, never by comparing clocks of machines.

use std::future::Future;
use std::time::Duration;

use api::clock::Clock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::BoxError;
use tracing::{debug, info};

use crate::errors::{ErrorKind, error_kind};
use crate::key::ObjectKey;
use crate::rest::{Error, Rest};

/// The original's defaults for its components.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub lease: ObjectKey,
    /// Unique per copy.
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl LeaseConfig {
    pub fn new(lease: ObjectKey, identity: impl Into<String>) -> Self {
        LeaseConfig {
            lease,
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Waits to become the leader, then runs `work` until it ends, leadership is lost or `cancel` is cancelled.
/// `work` is given the token that says stop; it is dropped when leadership is lost, so that not one
/// further write of it begins.
pub async fn lead<F, Fut>(client: Client, clock: Clock, config: LeaseConfig, cancel: CancellationToken, work: F)
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut candidate = Candidate { rest: Rest::new(client), clock, config, seen: None };
    let held_since = loop {
        if cancel.is_cancelled() {
            return;
        }
        let asked = Instant::now();
        match candidate.try_to_hold().await {
            Ok(true) => break asked,
            Ok(false) => {}
            Err(error) => debug!(lease = %candidate.config.lease, %error, "cannot acquire lease"),
        }
        tokio::select! {
            biased;
            _ = cancel.cancelled() => return,
            _ = tokio::time::sleep(candidate.config.retry_period) => {}
        }
    };
    info!(lease = %candidate.config.lease, identity = candidate.config.identity, "became leader");
    let stop = cancel.child_token();
    tokio::select! {
        biased;
        _ = work(stop.clone()) => {}
        _ = candidate.renew_until_lost(held_since) => info!(lease = %candidate.config.lease, "lost the lease"),
        _ = cancel.cancelled() => {}
    }
    stop.cancel();
    candidate.release().await;
}

/// A client for the work of a leader: once `stop` is cancelled not one further request goes out, whatever tasks the
/// work has started.
pub fn fenced(client: &Client, stop: CancellationToken) -> Client {
    let client = client.clone();
    crate::in_process(tower::service_fn(move |request| {
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            if stop.is_cancelled() {
                return Err(BoxError::from("this copy leads no longer"));
            }
            client.send(request).await.map_err(BoxError::from)
        }
    }))
}

struct Candidate {
    rest: Rest,
    clock: Clock,
    config: LeaseConfig,
    /// The record last seen to change, and when.
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    /// A renewal counts from when it was asked for: others count from when it was written, and its answer may be late.
    async fn renew_until_lost(&mut self, mut renewed: Instant) {
        // Half as often as the original, which keeps an idle cluster idle; after a failure as often.
        let calm = self.config.renew_deadline / 2;
        let mut next = renewed + calm;
        loop {
            tokio::time::sleep_until(next).await;
            let deadline = renewed + self.config.renew_deadline;
            let asked = Instant::now();
            match tokio::time::timeout_at(deadline, self.try_to_hold()).await {
                Ok(Ok(true)) => (renewed, next) = (asked, asked + calm),
                Ok(Ok(false)) => return, // Somebody else holds it.
                Ok(Err(error)) => {
                    debug!(lease = %self.config.lease, %error, "cannot renew lease");
                    next = Instant::now() + self.config.retry_period;
                }
                Err(_) => return,
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Takes or renews the lease; `false` while another holds it.
    async fn try_to_hold(&mut self) -> Result<bool, Error> {
        let now = MicroTime(self.clock.now());
        let current = match self.rest.get::<Lease>(&self.config.lease).await {
            Ok(lease) => lease,
            Err(error) if error_kind(&error) == ErrorKind::NotFound => return self.create(now).await,
            Err(error) => return Err(error),
        };
        let changed = self.seen.as_ref().is_none_or(|(seen, _)| seen.spec != current.spec);
        if changed {
            self.seen = Some((current.clone(), Instant::now()));
        }
        let since = self.seen.as_ref().map_or_else(Instant::now, |(_, at)| *at);
        let spec = current.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let mine = holder == self.config.identity;
        let valid_for = Duration::from_secs(spec.lease_duration_seconds.unwrap_or(0).max(0) as u64);
        if !holder.is_empty() && !mine && Instant::now() < since + valid_for {
            return Ok(false);
        }
        let mut wanted = current;
        wanted.spec = Some(LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(self.config.lease_duration.as_secs() as i32),
            acquire_time: if mine { spec.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!mine)),
            preferred_holder: spec.preferred_holder,
            strategy: spec.strategy,
        });
        match self.rest.update(&wanted).await {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            // Another was faster; look again after the retry period.
            Err(error) if error_kind(&error) == ErrorKind::Conflict && !mine => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&mut self, now: MicroTime) -> Result<bool, Error> {
        let mut lease = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                lease_duration_seconds: Some(self.config.lease_duration.as_secs() as i32),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        lease.metadata.name = Some(self.config.lease.name.clone());
        lease.metadata.namespace = Some(self.config.lease.namespace.clone());
        match self.rest.create(&lease).await {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            Err(error) if error_kind(&error) == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the next copy take over at once. Best effort: otherwise the lease expires.
    async fn release(&mut self) {
        let Some((lease, _)) = &self.seen else { return };
        let mut lease = lease.clone();
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() != Some(self.config.identity.as_str()) {
            return;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(self.clock.now()));
        let released = tokio::time::timeout(self.config.retry_period, self.rest.update(&lease)).await;
        if !matches!(released, Ok(Ok(_))) {
            debug!(lease = %self.config.lease, "lease not released, it will expire");
        }
    }
}
