//! The kernel's calls that the standard library lacks, made safe.
//!
//! Invariant: with `embedded::network_namespace` this is the only place of the crate with `unsafe` around kernel
//! calls whose arguments are pointers. Deliberately absent: any knowledge of pods and containers.

pub mod mount;
pub mod process;
pub mod socket;
pub mod terminal;

use std::io;

/// The wall clock, in nanoseconds since the epoch. The shim stamps log lines and exits with it.
pub fn now_nanoseconds() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the call to write to; CLOCK_REALTIME always exists.
    #[allow(unsafe_code)]
    unsafe {
        libc::clock_gettime(libc::CLOCK_REALTIME, &mut time)
    };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The result of a raw system call as the standard library would report it.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
