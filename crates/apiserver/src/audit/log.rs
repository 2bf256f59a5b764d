//! The audit log's file: JSON lines, turned over by size, old files taken away by age and number.
//!
//! Invariant: the queue is bounded; a writer that cannot keep up costs records, which are counted, never requests.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use api::clock::Clock;
use tokio::sync::mpsc;

/// Records that may wait to be written.
const QUEUE_MAX: usize = 10_000;
/// Records written at a time.
const BATCH_MAX: usize = 256;
/// How long a request waits for room in the queue.
const PATIENCE: Duration = Duration::from_millis(50);
const MEGABYTE: u64 = 1 << 20;

/// Where to, and how much is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// `-` is the standard output.
    pub path: PathBuf,
    /// Days after which old files go; 0: never.
    pub age_max: u64,
    /// Old files that are kept; 0: all.
    pub backups_max: usize,
    /// Megabytes after which the file is turned over; 0: never.
    pub size_max: u64,
}

pub struct Log {
    sender: mpsc::Sender<Vec<u8>>,
    pub written: AtomicU64,
    pub lost: AtomicU64,
}

impl Log {
    pub fn open(settings: LogSettings, clock: Clock) -> io::Result<Log> {
        let mut file = LogFile::open(settings, clock)?;
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(QUEUE_MAX);
        // A thread of its own: the disk may be slow.
        std::thread::Builder::new().name("audit-log".into()).spawn(move || {
            let mut lines = Vec::with_capacity(BATCH_MAX);
            while receiver.blocking_recv_many(&mut lines, BATCH_MAX) > 0 {
                let batch = lines.concat();
                lines.clear();
                if let Err(cause) = file.write(&batch) {
                    tracing::warn!("audit log: {cause}");
                }
            }
        })?;
        Ok(Log { sender, written: AtomicU64::new(0), lost: AtomicU64::new(0) })
    }

    /// Queues a line. Waits for room at most for a moment.
    pub async fn write(&self, line: Vec<u8>) {
        let sent = match self.sender.try_send(line) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(line)) => self.sender.send_timeout(line, PATIENCE).await.is_ok(),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        };
        self.count(sent);
    }

    /// The same for who cannot wait at all.
    pub fn write_now(&self, line: Vec<u8>) {
        self.count(self.sender.try_send(line).is_ok());
    }

    fn count(&self, sent: bool) {
        let counter = if sent { &self.written } else { &self.lost };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct LogFile {
    settings: LogSettings,
    clock: Clock,
    /// None: the standard output.
    file: Option<File>,
    len: u64,
}

impl LogFile {
    fn open(settings: LogSettings, clock: Clock) -> io::Result<LogFile> {
        let mut log = LogFile { settings, clock, file: None, len: 0 };
        if log.settings.path != Path::new("-") {
            log.reopen()?;
        }
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        if let Some(directory) = self.settings.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.settings.path)?;
        self.len = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let limit = self.settings.size_max * MEGABYTE;
        if self.file.is_some() && limit > 0 && self.len > 0 && self.len + bytes.len() as u64 > limit {
            self.turn_over()?;
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes)?,
            None => io::stdout().lock().write_all(bytes)?,
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        let path = &self.settings.path;
        std::fs::rename(path, path.with_file_name(backup_name(path, now)))?;
        self.reopen()?;
        let mut backups = backups(&self.settings.path)?;
        backups.sort_by(|a, b| b.cmp(a)); // The newest first: the time is in the name.
        for (at, name) in backups.iter().enumerate() {
            let old = self.settings.path.with_file_name(name);
            let too_many = self.settings.backups_max > 0 && at >= self.settings.backups_max;
            let too_old = self.settings.age_max > 0 && age(&old, now) > Duration::from_secs(self.settings.age_max * 24 * 3600);
            if too_many || too_old {
                std::fs::remove_file(&old)?;
            }
        }
        Ok(())
    }
}

/// `audit-2026-01-02T03-04-05.678.log`
fn backup_name(path: &Path, now: jiff::Timestamp) -> String {
    let (stem, extension) = parts(path);
    format!("{stem}-{}{extension}", now.strftime("%Y-%m-%dT%H-%M-%S.%3f"))
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

fn backups(path: &Path) -> io::Result<Vec<String>> {
    let (stem, extension) = parts(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        if time.is_some_and(|time| time.len() == "2026-01-02T03-04-05.678".len() && time.as_bytes()[10] == b'T') {
            found.push(name);
        }
    }
    Ok(found)
}

fn age(path: &Path, now: jiff::Timestamp) -> Duration {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|modified| SystemTime::from(now).duration_since(modified).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turned_over_by_size_and_kept_by_number() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let settings = LogSettings { path: path.clone(), age_max: 0, backups_max: 2, size_max: 1 };
        let mut now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let line = vec![b'x'; 600 << 10];
        for _ in 0..5 {
            let mut log = LogFile::open(settings.clone(), Clock::starting_at(now)).expect("opens");
            log.write(&line).expect("writes");
            now += jiff::SignedDuration::from_secs(1);
        }
        let mut names: Vec<String> = std::fs::read_dir(directory.path())
            .expect("lists")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["audit-2026-01-01T00-00-03.000.log", "audit-2026-01-01T00-00-04.000.log", "audit.log"]);
        assert_eq!(std::fs::metadata(&path).expect("is there").len(), 600 << 10);
    }
}
