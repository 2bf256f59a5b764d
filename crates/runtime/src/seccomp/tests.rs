//! Programs are run here by a small interpreter of the kernel's filter machine.

use super::*;

/// The kernel's answer to one program: `SECCOMP_RET_*`.
fn evaluate(program: &BpfProgram, number: i64, args: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&(number as u32).to_ne_bytes());
    let architecture: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    data[4..8].copy_from_slice(&architecture.to_ne_bytes());
    for (index, value) in args.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&value.to_ne_bytes());
    }
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let it = &program[at];
        at += 1;
        let mut jump = |condition: bool| at += usize::from(if condition { it.jt } else { it.jf });
        match it.code {
            0x20 => {
                let from = it.k as usize;
                accumulator = u32::from_ne_bytes([data[from], data[from + 1], data[from + 2], data[from + 3]]);
            }
            0x54 => accumulator &= it.k,
            0x15 => jump(accumulator == it.k),
            0x25 => jump(accumulator > it.k),
            0x35 => jump(accumulator >= it.k),
            0x05 => at += it.k as usize,
            0x06 => return it.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

/// The strictest answer wins; of these the errno ones are all that is compared here.
#[track_caller]
fn check(programs: &[BpfProgram], call: &str, argument: u64, expected: &str) {
    let number = syscalls::number(call).expect("a known call");
    let answers = programs.iter().map(|program| evaluate(program, number, [argument, 0, 0, 0, 0, 0]));
    let strictest = answers.min_by_key(|answer| (answer & 0xffff_0000) as i32).unwrap_or(libc::SECCOMP_RET_ALLOW);
    let found = match strictest & 0xffff_0000 {
        libc::SECCOMP_RET_ALLOW => "allow".to_string(),
        libc::SECCOMP_RET_ERRNO => format!("errno {}", strictest & 0xffff),
        libc::SECCOMP_RET_KILL_PROCESS => "kill".to_string(),
        other => format!("{other:#x}"),
    };
    assert_eq!(found, expected, "{call}({argument:#x})");
}

#[test]
fn runtime_default() {
    let usual = capabilities(&[]);
    let programs = compile(&default_profile::profile(usual)).unwrap();
    let new_user = libc::CLONE_NEWUSER as u64;
    for (call, argument, expected) in [
        ("read", 0, "allow"),
        ("futex_waitv", 0, "allow"),
        ("clone", libc::CLONE_VM as u64, "allow"),
        ("clone", new_user, "errno 1"),
        ("clone3", 0, "errno 38"),
        ("unshare", 0, "errno 1"),
        ("mount", 0, "errno 1"),
        ("io_uring_setup", 0, "errno 1"),
        ("keyctl", 0, "errno 1"),
        ("socket", libc::AF_INET as u64, "allow"),
        ("socket", libc::AF_VSOCK as u64, "errno 1"),
        ("personality", 0xffff_ffff, "allow"),
        ("personality", 0x40000, "errno 1"),
        ("chroot", 0, "allow"), // SYS_CHROOT is one of the usual ones.
        ("reboot", 0, "errno 1"),
        ("settimeofday", 0, "errno 1"),
    ] {
        check(&programs, call, argument, expected);
    }
    let programs = compile(&default_profile::profile(capabilities(&["SYS_ADMIN", "SYS_TIME"]))).unwrap();
    for call in ["mount", "unshare", "clone3", "settimeofday", "bpf"] {
        check(&programs, call, new_user, "allow");
    }
    check(&programs, "reboot", 0, "errno 1");
}

fn capabilities(add: &[&str]) -> u64 {
    let add: Vec<_> = add.iter().map(|name| name.to_string()).collect();
    crate::capabilities::of_container(false, &add, &[]).expect("known capabilities")
}

#[test]
fn profiles_of_the_node() {
    let deny: Profile = serde_json::from_str(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["mkdir","mkdirat","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["ptrace"],"action":"SCMP_ACT_KILL_PROCESS","args":null},
            {"names":["kill"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":5,"op":"SCMP_CMP_EQ"},
                {"index":0,"value":100,"op":"SCMP_CMP_GE"}]}]}"#,
    )
    .unwrap();
    let programs = compile(&deny).unwrap();
    for (call, argument, expected) in [
        ("mkdirat", 0, "errno 13"),
        ("ptrace", 0, "kill"),
        ("kill", 5, "errno 1"),
        ("kill", 6, "allow"),
        ("kill", 1 << 40, "errno 1"),
        ("read", 0, "allow"),
    ] {
        check(&programs, call, argument, expected);
    }

    let allow: Profile = serde_json::from_str(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW"},
            {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
            {"names":["open"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
            {"names":["close"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    )
    .unwrap();
    let programs = compile(&allow).unwrap();
    for (call, argument, expected) in [
        ("read", 7, "allow"),
        ("write", 1, "allow"),
        ("write", 2, "errno 38"),
        ("open", 0, "errno 38"),
        ("close", 0, "kill"),
        ("mkdir", 0, "errno 38"),
    ] {
        check(&programs, call, argument, expected);
    }
    let nothing: Profile = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap();
    assert!(compile(&nothing).unwrap().is_empty());
}

#[test]
fn profile_files() {
    let problem = |path: &str| programs(&SeccompProfile::Localhost(path.into()), 0).unwrap_err();
    assert!(problem("/nowhere.json").starts_with("cannot load seccomp profile \"/nowhere.json\":"));
    assert!(problem("/etc/hostname").starts_with("decoding seccomp profile failed \"/etc/hostname\":"));
}
