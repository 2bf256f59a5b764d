//! Pseudo terminals.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::checked;

/// Opens a pair in the `/dev/pts` of this mount namespace: our side and the program's side.
pub fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let master: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/ptmx")?
        .into();
    // SAFETY: it takes the open descriptor of a pseudo terminal only.
    checked(unsafe { libc::unlockpt(master.as_raw_fd()) }.into())?;
    // SAFETY: the call takes open flags and hands out a new descriptor.
    let result = unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    };
    // SAFETY: the kernel has just handed this descriptor to us.
    let slave = unsafe { OwnedFd::from_raw_fd(checked(result.into())? as i32) };
    Ok((master, slave))
}

/// Makes it the controlling terminal of this session.
pub fn control(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: the call takes a plain integer.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    checked(result.into()).map(drop)
}

pub fn resize(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a `winsize`.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) };
    checked(result.into()).map(drop)
}

/// Gives it to the user that the program runs as.
pub fn give_to(terminal: OwnedFd, uid: u32, gid: Option<u32>) -> io::Result<OwnedFd> {
    let file = File::from(terminal);
    std::os::unix::fs::fchown(&file, Some(uid), gid)?;
    Ok(file.into())
}
