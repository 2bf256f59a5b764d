//! Mounts by file descriptor (Linux 5.12 and later): a mount is made detached and then put into its place, and
//! that place is found without leaving the container's root.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::checked;

pub use libc::{MOUNT_ATTR_NODEV as NODEV, MOUNT_ATTR_NOEXEC as NOEXEC, MOUNT_ATTR_NOSUID as NOSUID, MOUNT_ATTR_RDONLY as READONLY};

/// How a mount shares later mounts below it with its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    Slave,
}

/// A file system being configured.
pub struct Filesystem(OwnedFd);

impl Filesystem {
    pub fn open(kind: &CStr) -> io::Result<Filesystem> {
        // SAFETY: `kind` is a terminated string that outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
        Ok(Filesystem(owned(checked(result)?)))
    }

    pub fn set(&self, key: &CStr, value: &Path) -> io::Result<()> {
        let value = c_path(value)?;
        self.configure(libc::FSCONFIG_SET_STRING, Some(key), Some(&value))
    }

    pub fn flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// The detached mount of it, with `attributes` such as `READONLY | NOSUID`.
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: the descriptor is open; the call takes plain integers.
        let result = unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes)
        };
        Ok(owned(checked(result)?))
    }

    fn configure(&self, command: u32, key: Option<&CStr>, value: Option<&CStr>) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: both are null or terminated strings that outlive the call.
        let result = unsafe {
            libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, pointer(key), pointer(value), 0)
        };
        checked(result).map(drop)
    }
}

/// A detached copy of what is mounted at `path`; with everything below it when `recursive`.
pub fn copy_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: `path` is a terminated string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    Ok(owned(checked(result)?))
}

/// The same of something already open.
pub fn copy_open_tree(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: the descriptor is open and the path an empty terminated string.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, file.as_raw_fd(), c"".as_ptr(), flags) };
    Ok(owned(checked(result)?))
}

/// Puts a detached mount onto the file or directory that `target` is open on.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    // SAFETY: both descriptors are open and both paths are empty terminated strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    checked(result).map(drop)
}

/// Adds `attributes` to a mount, and to those below it when `recursive`.
pub fn restrict(mount: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    set_attributes(mount.as_fd(), attributes, 0, recursive)
}

/// Sets how a mount and all below it propagate.
pub fn propagate(mount: impl AsFd, propagation: Propagation) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
    };
    set_attributes(mount.as_fd(), 0, propagation, true)
}

fn set_attributes(mount: BorrowedFd<'_>, set: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attributes` is the structure that the call reads, with its own size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(result).map(drop)
}

/// Opens `path` as if `root` were the root directory: neither `..` nor a symbolic link leads out of it.
/// `O_PATH | O_CLOEXEC` are added.
pub fn open_inside(root: impl AsFd, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: all-zero bytes are a valid `open_how`; it is non-exhaustive, so it cannot be written literally.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    loop {
        // SAFETY: `path` is terminated, `how` is the structure that the call reads, with its own size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_fd().as_raw_fd(),
                path.as_ptr(),
                &how,
                size_of::<libc::open_how>(),
            )
        };
        match checked(result) {
            // A rename elsewhere on the system raced with the resolution of `..`.
            Err(cause) if cause.raw_os_error() == Some(libc::EAGAIN) => continue,
            result => return Ok(owned(result?)),
        }
    }
}

fn owned(result: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just handed this descriptor to us and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
