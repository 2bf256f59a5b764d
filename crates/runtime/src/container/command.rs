//! Which file a command means, and what is said when there is none: the words that users search for.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub struct Program {
    pub path: CString,
}

/// Looks `args[0]` up as a shell would, as the user and in the root directory of this process.
pub fn find(args: &[String], env: &[String]) -> Result<Program, String> {
    let name = match args.first() {
        Some(name) if !name.is_empty() => name.as_str(),
        _ => return Err("exec: \"\": executable file not found in $PATH".to_string()),
    };
    let program = |path: &str| {
        let path = CString::new(path).map_err(|_| format!("exec: {name:?}: invalid argument"))?;
        Ok(Program { path })
    };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => program(name),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                Err(format!("exec: {name:?}: stat {name}: {}", plain(&cause)))
            }
            Err(cause) => Err(format!("exec: {name:?}: {}", plain(&cause))),
        };
    }
    let path = env.iter().find_map(|it| it.strip_prefix("PATH=")).unwrap_or_default();
    let mut denied = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{}/{name}", directory.trim_end_matches('/'));
        match executable(Path::new(&candidate)) {
            Ok(()) => return program(&candidate),
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => denied = Some(cause),
            Err(_) => {}
        }
    }
    match denied {
        Some(cause) => Err(format!("exec: {name:?}: {}", plain(&cause))),
        None => Err(format!("exec: {name:?}: executable file not found in $PATH")),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).map_err(io::Error::from)
}

/// An error as Go prints it: without Rust's number, in lower case.
pub fn plain(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, path: &str, expected: &str) {
        let found = match find(&[name.to_string()], &[format!("PATH={path}")]) {
            Ok(program) => program.path.into_string().expect("text"),
            Err(problem) => problem,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn finds_programs() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display().to_string();
        for (name, mode) in [("run", 0o755), ("text", 0o644)] {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        check("run", &at, &format!("{at}/run"));
        check("run", &format!("/nowhere:{at}/"), &format!("{at}/run"));
        check("absent", &at, "exec: \"absent\": executable file not found in $PATH");
        check("text", &at, "exec: \"text\": permission denied");
        check("", &at, "exec: \"\": executable file not found in $PATH");
        check("/absent", "", "exec: \"/absent\": stat /absent: no such file or directory");
        check("/etc", "", "exec: \"/etc\": is a directory");
        let text = format!("{at}/text");
        check(&text, "", &format!("exec: {text:?}: permission denied"));
    }
}
