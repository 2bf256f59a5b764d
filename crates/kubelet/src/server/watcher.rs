//! Tells readers of growing files when there is more to read: one inotify instance for the whole agent.
//!
//! Invariant: a reader that watches before it reads misses nothing; the kernel's limit of instances (128) is not
//! used up by followers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

pub struct Watcher {
    inotify: Arc<Inotify>,
    directories: Arc<Mutex<Directories>>,
}

#[derive(Default)]
struct Directories {
    by_descriptor: HashMap<WatchDescriptor, Entry>,
}

struct Entry {
    path: PathBuf,
    changes: watch::Sender<()>,
    watchers: usize,
}

/// One reader's interest in a directory; dropping it ends the interest.
pub struct Watch {
    pub changes: watch::Receiver<()>,
    descriptor: WatchDescriptor,
    inotify: Arc<Inotify>,
    directories: Arc<Mutex<Directories>>,
}

impl Watcher {
    /// Must be called within a tokio runtime.
    pub fn start() -> std::io::Result<Watcher> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?);
        let directories: Arc<Mutex<Directories>> = Arc::default();
        // Its successor is unsafe: it asks for the promise that the descriptor stays open, which the Arc keeps here.
        #[allow(deprecated)]
        let file = AsyncFd::new(Descriptor(inotify.clone()))?;
        let told = directories.clone();
        tokio::spawn(async move {
            while let Ok(mut ready) = file.readable().await {
                // Emptied before it is waited for again.
                while let Ok(events) = file.get_ref().0.read_events() {
                    let directories = told.lock();
                    for event in events {
                        if let Some(entry) = directories.by_descriptor.get(&event.wd) {
                            entry.changes.send_replace(());
                        }
                    }
                }
                ready.clear_ready();
            }
        });
        Ok(Watcher { inotify, directories })
    }

    pub fn watch(&self, directory: &Path) -> std::io::Result<Watch> {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        let mut directories = self.directories.lock();
        // The same directory yields the same descriptor.
        let descriptor = self.inotify.add_watch(directory, flags)?;
        let entry = directories.by_descriptor.entry(descriptor).or_insert_with(|| Entry {
            path: directory.to_owned(),
            changes: watch::Sender::new(()),
            watchers: 0,
        });
        entry.watchers += 1;
        let changes = entry.changes.subscribe();
        Ok(Watch { changes, descriptor, inotify: self.inotify.clone(), directories: self.directories.clone() })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut directories = self.directories.lock();
        if let Some(entry) = directories.by_descriptor.get_mut(&self.descriptor) {
            entry.watchers -= 1;
            if entry.watchers == 0 {
                tracing::trace!(directory = %entry.path.display(), "no longer watched");
                directories.by_descriptor.remove(&self.descriptor);
                // It fails when the directory has gone, and then the kernel has forgotten it already.
                let _ = self.inotify.rm_watch(self.descriptor);
            }
        }
    }
}

struct Descriptor(Arc<Inotify>);

impl std::os::fd::AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd as _;
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_of_growth() {
        let directory = std::env::temp_dir().join(format!("coracle-watch-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("made");
        let watcher = Watcher::start().expect("started");
        let mut first = watcher.watch(&directory).expect("watched");
        let mut second = watcher.watch(&directory).expect("watched");
        std::fs::write(directory.join("0.log"), "x").expect("written");
        first.changes.changed().await.expect("told");
        second.changes.changed().await.expect("told");
        drop((first, second));
        assert!(watcher.directories.lock().by_descriptor.is_empty());
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
