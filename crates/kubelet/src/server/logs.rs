//! `/containerLogs`: which container is meant, and its lines from the files on disk, followed on demand.
//!
//! Invariant: nothing polls; a follower sleeps until inotify or the runtime tells it of more. Memory is bounded by
//! the longest line, not by the log.

use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use runtime::cri::{ContainerEventKind, ContainerState, RuntimeService};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::watcher::Watcher;
use crate::logs;

const READ_SIZE: usize = 64 * 1024;
/// A line that is longer is given out in pieces.
const LINE_MAX: usize = 1024 * 1024;
/// Chunks that wait for a slow client.
pub const CHUNKS_LIMIT: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// `Stdout`, `Stderr`; None for both.
    pub stream: Option<String>,
}

impl LogOptions {
    /// From a query; the error is the answer's text.
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<LogOptions, String> {
        let mut options = LogOptions::default();
        for (key, value) in query {
            let yes = !matches!(value.as_str(), "false" | "0");
            let number = || value.parse::<u64>().map_err(|_| format!("invalid value {value:?} for {key}"));
            match key.as_str() {
                "follow" => options.follow = yes,
                "previous" => options.previous = yes,
                "timestamps" => options.timestamps = yes,
                // `all` is what very old clients say.
                "tailLines" | "tail" if value != "all" => options.tail_lines = Some(number()?),
                "limitBytes" => options.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).map_err(|_| format!("invalid value {value:?} for {key}"))?;
                    options.since = Some(now - SignedDuration::from_secs(seconds));
                }
                "sinceTime" => options.since = Some(value.parse().map_err(|_| format!("invalid value {value:?} for {key}"))?),
                "stream" if !value.is_empty() && value != "All" => options.stream = Some(value.clone()),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// The container whose log is meant, or why there is none, as kubectl shows it.
pub fn container_of(pod: &str, status: &PodStatus, container: &str, previous: bool) -> Result<String, String> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == container);
    let Some(status) = found else { return Err(format!("container {container:?} in pod {pod:?} is not available")) };
    let bare = |id: Option<&String>| id.map(|id| id.rsplit('/').next().unwrap_or_default().to_owned()).filter(|id| !id.is_empty());
    let terminated = |status: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        bare(status.and_then(|state| state.terminated.as_ref()).and_then(|terminated| terminated.container_id.as_ref()))
    };
    let last = terminated(status.last_state.as_ref());
    if previous {
        return last.ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"));
    }
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return bare(status.container_id.as_ref()).ok_or_else(|| waiting(pod, status));
    }
    if state.is_some_and(|state| state.terminated.is_some()) {
        let ended = terminated(state).or(last);
        return ended.ok_or_else(|| format!("container {container:?} in pod {pod:?} is terminated"));
    }
    last.ok_or_else(|| waiting(pod, status))
}

fn waiting(pod: &str, status: &ContainerStatus) -> String {
    let reason = status.state.as_ref().and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let start = format!("container {:?} in pod {pod:?} is waiting to start", status.name);
    match reason {
        Some("ErrImagePull") => format!("{start}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{start}: trying and failing to pull image"),
        Some(reason) => format!("{start}: {reason}"),
        None => format!("{start} - no logs yet"),
    }
}

pub struct LogReader {
    pub runtime: Arc<dyn RuntimeService>,
    pub watcher: Option<Arc<Watcher>>,
    pub container_id: String,
    /// The file that is being written.
    pub path: PathBuf,
    pub options: LogOptions,
}

impl LogReader {
    /// Until everything is read, and with `follow` until the container has ended.
    pub async fn run(self, chunks: mpsc::Sender<Bytes>) -> io::Result<()> {
        // Before the first read, so that nothing falls between.
        let mut events = self.options.follow.then(|| self.runtime.events());
        let directory = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut watch = match (&self.watcher, self.options.follow) {
            (Some(watcher), true) => Some(watcher.watch(&directory)?),
            _ => None,
        };
        let mut output = Output::new(self.options.clone(), chunks);
        let start = self.start().await?;
        let mut current = None;
        for (path, offset) in start {
            let mut tail = Tail::open(&path, offset).await?;
            tail.read(&mut output).await?;
            if output.is_done() {
                return output.flush().await;
            }
            current = Some(tail);
        }
        output.flush().await?;
        let mut running = self.options.follow && self.is_running().await;
        while running && !output.is_done() {
            let watched = async {
                match &mut watch {
                    Some(watch) => drop(watch.changes.changed().await),
                    None => std::future::pending().await,
                }
            };
            let ended = async {
                match &mut events {
                    Some(events) => loop {
                        match events.recv().await {
                            Ok(event) if event.kind == ContainerEventKind::Stopped && event.container_id == self.container_id => return,
                            Ok(_) => {}
                            Err(RecvError::Lagged(_)) => return, // It may have been among them: looked at below.
                            Err(RecvError::Closed) => return,
                        }
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = output.closed() => return Ok(()),
                _ = watched => {}
                _ = ended => running = self.is_running().await,
            }
            self.read_on(&mut current, &mut output).await?;
            output.flush().await?;
        }
        Ok(())
    }

    async fn is_running(&self) -> bool {
        let status = self.runtime.container_status(&self.container_id).await;
        status.is_ok_and(|status| matches!(status.state, ContainerState::Running | ContainerState::Created))
    }

    /// What was appended, also across a rotation.
    async fn read_on(&self, current: &mut Option<Tail>, output: &mut Output) -> io::Result<()> {
        if let Some(tail) = current {
            tail.read(output).await?;
            if !tail.was_rotated(&self.path).await {
                return Ok(());
            }
            // What was written between the read and the rename.
            tail.read(output).await?;
        }
        match Tail::open(&self.path, 0).await {
            Ok(mut tail) => {
                tail.read(output).await?;
                *current = Some(tail);
                Ok(())
            }
            // Between rename and reopen there is none; its making will be told.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The files to read, and where to begin in each.
    async fn start(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let files = logs::files_of(&self.path);
        let Some(wanted) = self.options.tail_lines else {
            return Ok(files.into_iter().map(|path| (path, 0)).collect());
        };
        let mut chosen = VecDeque::new();
        let mut left = wanted;
        for path in files.into_iter().rev() {
            let (offset, found) = tail_offset(&path, left).await?;
            left -= found;
            chosen.push_front((path, offset));
            if left == 0 {
                break;
            }
        }
        Ok(chosen.into())
    }
}

/// Where the last `wanted` lines begin, and how many there are.
async fn tail_offset(path: &Path, wanted: u64) -> io::Result<(u64, u64)> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    if wanted == 0 {
        return Ok((length, 0));
    }
    let mut end = length;
    let mut found = 0;
    let mut buffer = vec![0; READ_SIZE];
    while end > 0 {
        let begin = end.saturating_sub(READ_SIZE as u64);
        let size = usize::try_from(end - begin).unwrap_or(0);
        file.seek(SeekFrom::Start(begin)).await?;
        file.read_exact(&mut buffer[..size]).await?;
        for at in (0..size).rev() {
            let position = begin + at as u64;
            // The last line feed ends the last line; each one before it begins another.
            if buffer[at] == b'\n' && position + 1 < length {
                found += 1;
                if found == wanted {
                    return Ok((position + 1, found));
                }
            }
        }
        end = begin;
    }
    Ok((0, if length > 0 { found + 1 } else { 0 }))
}

/// One open file and what of its last line has been read.
struct Tail {
    file: File,
    inode: u64,
    unfinished: Vec<u8>,
}

impl Tail {
    async fn open(path: &Path, offset: u64) -> io::Result<Tail> {
        use std::os::unix::fs::MetadataExt as _;
        let mut file = File::open(path).await?;
        let inode = file.metadata().await?.ino();
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(Tail { file, inode, unfinished: Vec::new() })
    }

    async fn read(&mut self, output: &mut Output) -> io::Result<()> {
        let mut buffer = vec![0; READ_SIZE];
        while !output.is_done() {
            let count = self.file.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..count];
            while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                if self.unfinished.is_empty() {
                    output.line(&rest[..at]).await?;
                } else {
                    self.unfinished.extend_from_slice(&rest[..at]);
                    output.line(&self.unfinished).await?;
                    self.unfinished.clear();
                }
                rest = &rest[at + 1..];
            }
            self.unfinished.extend_from_slice(rest);
            if self.unfinished.len() > LINE_MAX {
                output.line(&self.unfinished).await?;
                self.unfinished.clear();
            }
        }
        Ok(())
    }

    async fn was_rotated(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        tokio::fs::metadata(path).await.map_or(true, |metadata| metadata.ino() != self.inode)
    }
}

/// Picks, formats and bounds what goes to the client.
struct Output {
    options: LogOptions,
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    left: Option<u64>,
    at_line_start: bool,
    gone: bool,
}

impl Output {
    fn new(options: LogOptions, chunks: mpsc::Sender<Bytes>) -> Output {
        Output { left: options.limit_bytes, options, chunks, buffer: Vec::new(), at_line_start: true, gone: false }
    }

    fn is_done(&self) -> bool {
        self.gone || self.left == Some(0)
    }

    async fn closed(&self) {
        self.chunks.closed().await;
    }

    async fn line(&mut self, raw: &[u8]) -> io::Result<()> {
        let Some(line) = logs::parse(raw) else { return Ok(()) };
        let other_stream = match self.options.stream.as_deref() {
            Some("Stdout") => line.stderr,
            Some("Stderr") => !line.stderr,
            _ => false,
        };
        let too_old = || self.options.since.is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|time| time < since));
        if other_stream || too_old() {
            return Ok(());
        }
        let mut piece = Vec::with_capacity(line.text.len() + 40);
        if self.options.timestamps && self.at_line_start {
            piece.extend_from_slice(line.time.as_bytes());
            piece.push(b' ');
        }
        piece.extend_from_slice(line.text);
        if !line.partial {
            piece.push(b'\n');
        }
        self.at_line_start = !line.partial;
        if let Some(left) = &mut self.left {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
        }
        self.buffer.extend_from_slice(&piece);
        if self.buffer.len() >= READ_SIZE {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() && self.chunks.send(Bytes::from(std::mem::take(&mut self.buffer))).await.is_err() {
            self.gone = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(status: serde_json::Value, previous: bool, expected: Result<&str, &str>) {
        let mut status = status;
        for (key, value) in [("name", json!("c")), ("image", json!("")), ("imageID", json!("")), ("ready", json!(false)), ("restartCount", json!(0))] {
            status[key] = value;
        }
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [status]})).expect("a status");
        let answer = container_of("p", &status, "c", previous);
        assert_eq!(answer.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn which_container() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": format!("coracle://{id}")}});
        let waiting = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        check(json!({"containerID": "coracle://now", "state": {"running": {}}}), false, Ok("now"));
        check(json!({"state": {"running": {}}, "lastState": ended("old")}), true, Ok("old"));
        check(json!({"state": {"running": {}}}), true, Err("previous terminated container \"c\" in pod \"p\" not found"));
        check(json!({"state": ended("x")}), false, Ok("x"));
        check(waiting("ContainerCreating"), false, Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"));
        check(waiting("ErrImagePull"), false, Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"));
        check(waiting("ImagePullBackOff"), false, Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"));
        check(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended("x")}), false, Ok("x"));
    }

    async fn read(options: &str, files: &[&str]) -> String {
        let directory = std::env::temp_dir().join(format!("coracle-read-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&directory).expect("made");
        let current = directory.join("0.log");
        for (index, text) in files.iter().enumerate() {
            let last = index + 1 == files.len();
            let name = if last { current.clone() } else { directory.join(format!("0.log.{index}")) };
            std::fs::write(name, text).expect("written");
        }
        let query: Vec<(String, String)> = options
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let now = "2026-11-21T10:00:10Z".parse().expect("a time");
        let options = LogOptions::parse(&query, now).expect("options");
        let (sender, mut chunks) = mpsc::channel(CHUNKS_LIMIT);
        let reader = LogReader {
            runtime: Arc::new(crate::fixtures::FakeRuntime::default()),
            watcher: None,
            container_id: String::new(),
            path: current,
            options,
        };
        reader.run(sender).await.expect("read");
        let mut text = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            text.extend_from_slice(&chunk);
        }
        std::fs::remove_dir_all(directory).expect("removed");
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn lines() {
        let old = "2026-11-21T10:00:00Z stdout F one\n2026-11-21T10:00:01Z stderr F two\n";
        let new = "2026-11-21T10:00:05Z stdout P th\n2026-11-21T10:00:05Z stdout F ree\n2026-11-21T10:00:06Z stdout F four\n";
        assert_eq!(read("", &[old, new]).await, "one\ntwo\nthree\nfour\n");
        assert_eq!(read("tailLines=1", &[old, new]).await, "four\n");
        assert_eq!(read("tailLines=4", &[old, new]).await, "two\nthree\nfour\n");
        assert_eq!(read("tailLines=100", &[old, new]).await, "one\ntwo\nthree\nfour\n");
        assert_eq!(read("tailLines=0", &[old, new]).await, "");
        assert_eq!(read("sinceSeconds=5", &[old, new]).await, "three\nfour\n");
        assert_eq!(read("sinceTime=2026-11-21T10:00:01Z&timestamps=true", &[old]).await, "2026-11-21T10:00:01Z two\n");
        assert_eq!(read("limitBytes=6", &[old, new]).await, "one\ntw");
        assert_eq!(read("stream=Stderr", &[old, new]).await, "two\n");
        assert_eq!(read("tailLines=1", &[""]).await, "");
    }
}
