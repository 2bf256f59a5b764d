//! Entering network namespaces, and making them for tests and probes.
//!
//! Invariant: only threads started here change their namespace, and they end before anyone else could run on them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::NetError;

/// A handle on a network namespace; the namespace lives at least as long.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: OwnedFd,
}

impl NetworkNamespace {
    pub fn open(path: &Path) -> Result<NetworkNamespace, NetError> {
        let file = File::open(path).map_err(|source| NetError::io("opening network namespace", path, source))?;
        Ok(NetworkNamespace { file: file.into() })
    }

    /// That of the calling thread.
    pub fn current() -> Result<NetworkNamespace, NetError> {
        NetworkNamespace::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// An empty one, bound to no path: it goes with its last handle, process or socket, so nothing can leak.
    pub fn create() -> Result<NetworkNamespace, NetError> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NetError::system("creating a network namespace", errno))?;
            NetworkNamespace::current()
        })
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, NetError> + Send) -> Result<T, NetError> {
        on_own_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Moves the calling thread into the namespace, for good. For threads that belong to one namespace.
    pub fn enter(&self) -> Result<(), NetError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetError::system("entering a network namespace", errno))
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NetError> + Send) -> Result<T, NetError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|source| NetError::io("starting a thread for", "a network namespace", source))?;
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
