//! The server as a process: whether it runs, and how it is ended.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Held as long as a server runs; freed by the kernel however it ends.
pub struct ServerLock {
    _file: Flock<File>,
}

/// Takes the lock and writes this process's pid into it.
pub fn lock(path: &Path) -> Result<ServerLock, String> {
    let named = |cause: &dyn std::fmt::Display| format!("{}: {cause}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|cause| named(&cause))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|cause| named(&cause))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| write!(*file, "{}", std::process::id()))
                .map_err(|cause| named(&cause))?;
            Ok(ServerLock { _file: file })
        }
        Err((_, Errno::EWOULDBLOCK)) => Err(match running(path) {
            Some(pid) => format!("a server with this data dir runs already (pid {pid})"),
            None => "a server with this data dir runs already".into(),
        }),
        Err((_, cause)) => Err(named(&cause)),
    }
}

/// The pid of the server that holds the lock.
pub fn running(path: &Path) -> Option<i32> {
    let mut file = File::open(path).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => None, // Nobody holds it: what stands in it is old.
        Err(_) => text.trim().parse().ok(),
    }
}

/// Asks the server to end, then insists.
pub fn stop(lock: &Path, patience: Duration) -> Result<(), String> {
    let Some(pid) = running(lock) else { return Ok(()) };
    signal(pid, Signal::SIGTERM)?;
    if gone(lock, patience) {
        return Ok(());
    }
    signal(pid, Signal::SIGKILL)?;
    match gone(lock, Duration::from_secs(5)) {
        true => Ok(()),
        false => Err(format!("the server (pid {pid}) does not end")),
    }
}

fn signal(pid: i32, signal: Signal) -> Result<(), String> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(cause) => Err(format!("pid {pid}: {cause}")),
    }
}

fn gone(lock: &Path, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if running(lock).is_none() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_freed_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/lock");
        assert_eq!(running(&path), None);
        let held = lock(&path).expect("takes it");
        assert_eq!(running(&path), Some(std::process::id() as i32));
        let problem = lock(&path).map(|_| ()).expect_err("is held");
        assert!(problem.contains("runs already (pid"), "{problem}");
        drop(held);
        assert_eq!(running(&path), None);
    }
}
