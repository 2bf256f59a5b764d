//! The parts of the control plane that faults may kill and that are then started anew.

use api::clock::Clock;
use client::lease::{LeaseConfig, fenced, lead};
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

    /// One life; with an identity it works only while it leads, and stands by again when it has been deposed.
    pub async fn run(self, link: Link, clock: Clock, seed: u64, identity: Option<String>, cancel: CancellationToken) {
        let client = link.client(self.name());
        let Some(identity) = identity else { return self.work(client, clock, seed, cancel).await };
        while !cancel.is_cancelled() {
            let config = LeaseConfig::new(ObjectKey::new("kube-system", self.name()), &identity);
            let work = |stop: CancellationToken| self.turn(&client, clock.clone(), seed, stop);
            lead(client.clone(), clock.clone(), config, cancel.clone(), work).await;
        }
    }

    /// One turn as the leader, as the server gives it: nothing that it has started writes after its end.
    fn turn(self, client: &kube::Client, clock: Clock, seed: u64, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let ended = stop.child_token();
        let work = self.work(fenced(client, ended.clone()), clock, seed, ended.clone());
        async move {
            let _guard = ended.drop_guard();
            work.await;
        }
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
