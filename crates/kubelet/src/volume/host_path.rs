//! hostPath volumes: what the path has to be, and what is made when it is absent.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// `type_` as in the API: empty means anything goes.
pub fn check(path: &Path, type_: &str) -> Result<(), String> {
    let failed = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let made = |error: std::io::Error| format!("{}: {error}", path.display());
    let kind = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    match (type_, kind) {
        // As every runtime does when the path is absent.
        ("", None) => fs::create_dir_all(path).map_err(made),
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(made)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(made)
        }
        ("FileOrCreate", None) => {
            fs::File::create(path).map_err(made)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(made)
        }
        ("Directory" | "DirectoryOrCreate", Some(kind)) if kind.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(kind)) if kind.is_file() => Ok(()),
        ("Socket", Some(kind)) if kind.is_socket() => Ok(()),
        ("CharDevice", Some(kind)) if kind.is_char_device() => Ok(()),
        ("BlockDevice", Some(kind)) if kind.is_block_device() => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => failed("a directory"),
        ("File" | "FileOrCreate", _) => failed("a file"),
        ("Socket", _) => failed("a socket file"),
        ("CharDevice", _) => failed("a character device"),
        ("BlockDevice", _) => failed("a block device"),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn verify(path: &str, type_: &str, expected: &str) {
        assert_eq!(check(Path::new(path), type_).err().unwrap_or_default(), expected);
    }

    #[test]
    fn types() {
        verify("/proc", "", "");
        verify("/proc", "Directory", "");
        verify("/nowhere", "Directory", "hostPath type check failed: /nowhere is not a directory");
        verify("/proc", "File", "hostPath type check failed: /proc is not a file");
        verify("/dev/null", "CharDevice", "");
        verify("/dev/null", "BlockDevice", "hostPath type check failed: /dev/null is not a block device");
    }
}
