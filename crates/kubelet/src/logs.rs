//! Container logs on disk: CRI's line format, reading whole and rotated files, rotating what has grown.
//!
//! ```text
//! 2026-11-21T10:00:00.000000001Z stdout F the text
//! <name>/<attempt>.log, <attempt>.log.20261121-100000 (newest rotated), ... .gz never: reading stays cheap
//! ```
//!
//! Periodic work of this module: a look at the sizes of running containers' logs, every 10 s.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::cri::{ContainerState, RuntimeService};

/// As the original's containerLogMaxSize and containerLogMaxFiles.
pub const SIZE_MAX: u64 = 10 * 1024 * 1024;
pub const FILES_MAX: usize = 5;
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// One line, or a part of one when the runtime cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: &'a str,
    pub stderr: bool,
    pub partial: bool,
    pub text: &'a [u8],
}

/// `raw` without its line feed.
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut parts = raw.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let partial = parts.next()?.starts_with(b"P");
    Some(Line { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// The files of one run, oldest first; the last is the one being written.
pub fn files_of(current: &Path) -> Vec<PathBuf> {
    let mut rotated = rotated_files(current);
    if current.exists() {
        rotated.push(current.to_owned());
    }
    rotated
}

fn rotated_files(current: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (current.parent(), current.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort(); // The suffix is a time.
    found
}

/// The last lines as plain text, for a container's last words.
pub fn plain_tail(current: &Path, lines: usize, bytes: usize) -> String {
    let Ok(mut file) = fs::File::open(current) else { return String::new() };
    // Each line carries its header: read more than is shown.
    let window = (bytes + lines * 64) as u64;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let from = length.saturating_sub(window);
    let mut data = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut data).is_err() {
        return String::new();
    }
    let mut all: Vec<&[u8]> = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    if from > 0 && !all.is_empty() {
        all.remove(0); // Cut in the middle.
    }
    let mut text = Vec::new();
    for line in all.iter().skip(all.len().saturating_sub(lines)).filter_map(|line| parse(line)) {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    let start = text.len().saturating_sub(bytes);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// Rotates logs that have grown too large, until cancelled.
pub async fn keep_small(runtime: Arc<dyn RuntimeService>, log_root: PathBuf, clock: api::clock::Clock) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let candidates = large_logs(&log_root);
        if candidates.is_empty() {
            continue; // The usual case costs a few directory reads and no question to the runtime.
        }
        let Ok(containers) = runtime.list_containers().await else { continue };
        for path in candidates {
            let running = containers
                .iter()
                .find(|container| container.state == ContainerState::Running && !container.log_path.is_empty() && path.ends_with(&container.log_path));
            let Some(container) = running else { continue };
            let stamp = clock.now().strftime("%Y%m%d-%H%M%S").to_string();
            if let Err(error) = rotate(&path, &stamp) {
                tracing::warn!(log = %path.display(), %error, "rotating");
                continue;
            }
            if let Err(error) = runtime.reopen_container_log(&container.id).await {
                tracing::warn!(log = %path.display(), %error, "reopening after rotation");
            }
        }
    }
}

fn large_logs(root: &Path) -> Vec<PathBuf> {
    let children = |path: &Path| -> Vec<PathBuf> { fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect() };
    children(root)
        .iter()
        .flat_map(|pod| children(pod))
        .flat_map(|container| children(&container))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > SIZE_MAX))
        .collect()
}

fn rotate(current: &Path, stamp: &str) -> std::io::Result<()> {
    let rotated = rotated_files(current);
    let surplus = (rotated.len() + 2).saturating_sub(FILES_MAX);
    for old in rotated.iter().take(surplus) {
        fs::remove_file(old)?;
    }
    let mut target = current.as_os_str().to_owned();
    target.push(format!(".{stamp}"));
    fs::rename(current, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = parse(b"2026-11-21T10:00:00.5Z stderr F hello world").expect("a line");
        assert_eq!((line.time, line.stderr, line.partial, line.text), ("2026-11-21T10:00:00.5Z", true, false, &b"hello world"[..]));
        assert!(parse(b"2026-11-21T10:00:00Z stdout P x").is_some_and(|line| line.partial));
        assert_eq!(parse(b"2026-11-21T10:00:00Z stdout F ").expect("an empty line").text, b"");
        assert_eq!(parse(b"garbage"), None);
    }

    #[test]
    fn rotation_keeps_a_few() {
        let directory = std::env::temp_dir().join(format!("coracle-logs-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&directory).expect("made");
        let current = directory.join("0.log");
        for round in 0..8 {
            fs::write(&current, format!("2026-11-21T10:00:00Z stdout F round {round}\n")).expect("written");
            rotate(&current, &format!("20261121-00000{round}")).expect("rotated");
        }
        fs::write(&current, "2026-11-21T10:00:00Z stdout P a\n2026-11-21T10:00:00Z stdout F b\n").expect("written");
        let names: Vec<String> =
            files_of(&current).iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        let expected = ["0.log.20261121-000004", "0.log.20261121-000005", "0.log.20261121-000006", "0.log.20261121-000007", "0.log"];
        assert_eq!(names, expected);
        assert_eq!(plain_tail(&current, 10, 100), "ab\n");
        fs::remove_dir_all(directory).expect("removed");
    }
}
