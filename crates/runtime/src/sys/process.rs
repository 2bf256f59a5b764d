//! Processes: forking, privileges, what is inherited by a new program.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::checked;

/// Forks; `child` runs in the new process and never returns. The process must have one thread.
pub fn fork(child: impl FnOnce() -> std::convert::Infallible) -> io::Result<i32> {
    // SAFETY: the shim has a single thread, so no lock is held by a thread that the child would lack.
    match checked(unsafe { libc::fork() }.into())? {
        #[allow(unreachable_code)] // `child` does not return, as its type says.
        0 => match child() {},
        pid => Ok(pid as i32),
    }
}

/// Ends this process at once, running nothing of its parent's.
pub fn exit(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

/// A descriptor of a process, by which its namespaces can be entered.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes plain integers.
    let result = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just handed this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Makes descriptors `first` and above vanish when a program is executed.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: it takes plain integers and closes nothing by itself.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    checked(result).map(drop)
}

/// Closes descriptors `first` and above. Nothing may own one of them.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: called where this process has not opened anything yet.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Makes `number` (0, 1 or 2) refer to what `file` is open on.
pub fn become_descriptor(file: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    if file.as_raw_fd() == number {
        // SAFETY: the descriptor is open; the call clears its close-on-exec flag.
        return checked(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: only the numbers of standard streams are given, which nothing owns.
    checked(unsafe { libc::dup2(file.as_raw_fd(), number) }.into()).map(drop)
}

/// Every signal at its default and none blocked, as a new program expects it.
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition; for the numbers that cannot be set the call fails, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an empty set is built in place and becomes the mask.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn prctl(option: i32, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take plain integers.
    checked(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into()).map(drop)
}

pub fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is terminated; the kernel reads at most 16 bytes of it.
    checked(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }.into()).map(drop)
}

/// Orphans among our descendants become our children.
pub fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// This process is killed when its parent ends. Changing credentials undoes it.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

/// Others without privileges may not look into this process.
pub fn hide() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into())
}

pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Takes a capability out of the bounding set. One that this process or kernel lacks is no error.
pub fn drop_bounding(capability: u32) -> io::Result<()> {
    match prctl(libc::PR_CAPBSET_DROP, capability.into()) {
        Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        result => result,
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Version 3: 64 capabilities in two halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// The permitted capabilities of this process, as a bit mask.
pub fn permitted_capabilities() -> io::Result<u64> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut halves = [CapabilityHalf::default(); 2];
    // SAFETY: both structures have the layout that version 3 of the call uses.
    checked(unsafe { libc::syscall(libc::SYS_capget, &header, halves.as_mut_ptr()) })?;
    Ok(u64::from(halves[0].permitted) | u64::from(halves[1].permitted) << 32)
}

/// Sets permitted and effective to `mask`, inheritable to nothing.
pub fn set_capabilities(mask: u64) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let half = |bits: u32| CapabilityHalf { effective: bits, permitted: bits, inheritable: 0 };
    let halves = [half(mask as u32), half((mask >> 32) as u32)];
    // SAFETY: both structures have the layout that version 3 of the call uses.
    checked(unsafe { libc::syscall(libc::SYS_capset, &header, halves.as_ptr()) }).map(drop)
}

/// Takes all ambient capabilities away.
pub fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)
}

/// Loads one seccomp program for this thread. Needs CAP_SYS_ADMIN or no_new_privs.
pub fn load_seccomp(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which copies it and does not write to it.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program)
    };
    checked(result).map(drop)
}

/// Joins the network namespace that `file` is open on; for this thread only.
pub fn enter_network(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: it takes plain integers and changes only what the calling thread's sockets belong to.
    checked(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop)
}

/// Brings up `lo` in the network namespace of this process.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: a plain socket call; the descriptor is ours.
    let socket = unsafe {
        let number = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        OwnedFd::from_raw_fd(checked(number.into())? as i32)
    };
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }.into()).map(drop)
}

/// Children that end are forgotten by the kernel at once.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Sends a signal by number: it may be a real-time one.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: it takes plain integers. A pid of a child that was not waited for cannot be another process's.
    checked(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Collects a child that has ended: its pid and its exit code as a shell reports it. None while all run.
pub fn reap() -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the call to write to.
    match checked(unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) }.into())? {
        0 => Ok(None),
        pid if libc::WIFSIGNALED(status) => Ok(Some((pid as i32, 128 + libc::WTERMSIG(status)))),
        pid => Ok(Some((pid as i32, libc::WEXITSTATUS(status)))),
    }
}
