//! The parts of the control plane that faults may kill and that are then started anew.

use std::time::Duration;

use api::clock::Clock;
use client::lease::{LeaseConfig, lead};
use client::{EventRecorder, Informers, ObjectKey};
use controllers::{ControllerManager, ControllersConfig};
use scheduler::{Scheduler, SchedulerConfig};
use tokio_util::sync::CancellationToken;

use crate::link::Link;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    ControllerManager,
    Scheduler,
}

impl Component {
    pub const ALL: [Component; 2] = [Component::ControllerManager, Component::Scheduler];

    pub fn name(self) -> &'static str {
        match self {
            Component::ControllerManager => "kube-controller-manager",
            Component::Scheduler => "kube-scheduler",
        }
    }

    /// One life; with an identity it works only while it leads.
    pub async fn run(self, link: Link, clock: Clock, seed: u64, identity: Option<String>, cancel: CancellationToken) {
        let client = link.client(self.name());
        let Some(identity) = identity else { return self.work(client, clock, seed, cancel).await };
        let config = LeaseConfig::new(ObjectKey::new("kube-system", self.name()), identity);
        let (of_work, work_clock) = (client.clone(), clock.clone());
        lead(client, clock, config, cancel, move |stop| self.work(of_work, work_clock, seed, stop)).await;
        // What it spawned may still have requests in hand: the process ends here.
        link.kill();
        tokio::time::sleep(Duration::ZERO).await;
    }

    async fn work(self, client: kube::Client, clock: Clock, seed: u64, cancel: CancellationToken) {
        let informers = Informers::new(client.clone(), cancel.clone());
        match self {
            Component::ControllerManager => {
                let config = ControllersConfig { ca_pem: String::new() };
                ControllerManager::new(client, informers, clock, config).run(cancel).await;
            }
            Component::Scheduler => {
                let recorder = EventRecorder::new(client.clone(), clock.clone(), "default-scheduler", "");
                let config = SchedulerConfig { seed, ..SchedulerConfig::default() };
                Scheduler::new(client, informers, recorder, clock, config).run(cancel).await;
            }
        }
    }
}
