//! Which devices a container may open: words for version 1's `devices.allow`, a small BPF program for version 2.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// `b`, `c`.
    pub kind: char,
    /// None is every one.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub make: bool,
}

impl DeviceRule {
    const fn all(kind: char, major: Option<u32>, minor: Option<u32>) -> DeviceRule {
        DeviceRule { kind, major, minor, read: true, write: true, make: true }
    }

    /// What every container has: making nodes (opening them is another matter), the usual ones, terminals.
    pub const DEFAULT: [DeviceRule; 10] = [
        DeviceRule { read: false, write: false, ..DeviceRule::all('c', None, None) },
        DeviceRule { read: false, write: false, ..DeviceRule::all('b', None, None) },
        DeviceRule::all('c', Some(1), Some(3)),
        DeviceRule::all('c', Some(1), Some(5)),
        DeviceRule::all('c', Some(1), Some(7)),
        DeviceRule::all('c', Some(1), Some(8)),
        DeviceRule::all('c', Some(1), Some(9)),
        DeviceRule::all('c', Some(5), Some(0)),
        DeviceRule::all('c', Some(5), Some(2)),
        DeviceRule::all('c', Some(136), None),
    ];
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_string(), |it| it.to_string());
        write!(f, "{} {}:{} ", self.kind, number(self.major), number(self.minor))?;
        for (allowed, letter) in [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')] {
            if allowed {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// From the kernel's `bpf.h`: classes and modes, only those used here.
mod bpf {
    pub const LOAD_WORD: u8 = 0x61;
    pub const MOVE: u8 = 0xbf;
    pub const MOVE_VALUE: u8 = 0xb7;
    pub const AND_VALUE: u8 = 0x57;
    pub const SHIFT_RIGHT: u8 = 0x77;
    pub const JUMP_NOT_EQUAL: u8 = 0x55;
    pub const EXIT: u8 = 0x95;

    pub const PROG_LOAD: i32 = 5;
    pub const PROG_ATTACH: i32 = 8;
    pub const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    pub const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
    pub const ALLOW_MULTI: u32 = 2;

    pub const ACCESS_MAKE: i32 = 1;
    pub const ACCESS_READ: i32 = 2;
    pub const ACCESS_WRITE: i32 = 4;
    pub const DEVICE_BLOCK: i32 = 1;
    pub const DEVICE_CHARACTER: i32 = 2;
}

/// r2: kind, r3: access asked for, r4: major, r5: minor; each rule falls through to the next where it does not fit.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    };
    let mut program = vec![
        instruction(bpf::LOAD_WORD, 2, 1, 0, 0),
        instruction(bpf::MOVE, 3, 2, 0, 0),
        instruction(bpf::AND_VALUE, 2, 0, 0, 0xffff),
        instruction(bpf::SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(bpf::LOAD_WORD, 4, 1, 4, 0),
        instruction(bpf::LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == 'b' { bpf::DEVICE_BLOCK } else { bpf::DEVICE_CHARACTER };
        let access = [(rule.read, bpf::ACCESS_READ), (rule.write, bpf::ACCESS_WRITE), (rule.make, bpf::ACCESS_MAKE)];
        let allowed: i32 = access.iter().filter(|(given, _)| *given).map(|(_, bit)| bit).sum();
        // What is asked for beyond what is allowed must be nothing.
        let mut tests = vec![
            instruction(bpf::JUMP_NOT_EQUAL, 2, 0, 0, kind),
            instruction(bpf::MOVE, 6, 3, 0, 0),
            instruction(bpf::AND_VALUE, 6, 0, 0, !allowed & 7),
            instruction(bpf::JUMP_NOT_EQUAL, 6, 0, 0, 0),
        ];
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                tests.push(instruction(bpf::JUMP_NOT_EQUAL, register, 0, 0, number as i32));
            }
        }
        let end = tests.len() + 2;
        for (index, test) in tests.iter_mut().enumerate() {
            if test.code == bpf::JUMP_NOT_EQUAL {
                test.offset = (end - index - 1) as i16;
            }
        }
        program.extend(tests);
        program.push(instruction(bpf::MOVE_VALUE, 0, 0, 0, 1));
        program.push(instruction(bpf::EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(bpf::MOVE_VALUE, 0, 0, 0, 0));
    program.push(instruction(bpf::EXIT, 0, 0, 0, 0));
    program
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadArguments {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

/// The beginning of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachArguments {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

pub fn attach(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let instructions = compile(rules);
    let load = LoadArguments {
        program_type: bpf::PROG_TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
    };
    // SAFETY: the arguments have the kernel's layout and size; what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, bpf::PROG_LOAD, &load, size_of::<LoadArguments>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed this descriptor to us.
    let program = unsafe { OwnedFd::from_raw_fd(result as i32) };
    let group = File::open(directory)?;
    let attach = AttachArguments {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: bpf::ATTACH_TYPE_CGROUP_DEVICE,
        flags: bpf::ALLOW_MULTI,
    };
    // SAFETY: as above; both descriptors are open.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, bpf::PROG_ATTACH, &attach, size_of::<AttachArguments>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_rules_for_version_1() {
        let words: Vec<_> = DeviceRule::DEFAULT.iter().map(ToString::to_string).collect();
        assert_eq!(words[0], "c *:* m");
        assert_eq!(words[2], "c 1:3 rwm");
        assert_eq!(words[9], "c 136:* rwm");
    }

    /// Runs the program as the kernel would.
    fn run(program: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> u64 {
        let context = [(access << 16 | kind) as u32, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let it = program[at];
            let (destination, source) = (usize::from(it.registers & 15), usize::from(it.registers >> 4));
            at += 1;
            match it.code {
                bpf::LOAD_WORD => registers[destination] = context[it.offset as usize / 4].into(),
                bpf::MOVE => registers[destination] = registers[source],
                bpf::MOVE_VALUE => registers[destination] = it.immediate as u64,
                bpf::AND_VALUE => registers[destination] &= it.immediate as i64 as u64,
                bpf::SHIFT_RIGHT => registers[destination] >>= it.immediate,
                bpf::JUMP_NOT_EQUAL if registers[destination] != it.immediate as i64 as u64 => {
                    at += it.offset as usize;
                }
                bpf::JUMP_NOT_EQUAL => {}
                bpf::EXIT => return registers[0],
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn decides_as_version_1_would() {
        let program = compile(&DeviceRule::DEFAULT);
        let (read, make, character, block) =
            (bpf::ACCESS_READ, bpf::ACCESS_MAKE, bpf::DEVICE_CHARACTER, bpf::DEVICE_BLOCK);
        for (kind, access, major, minor, expected) in [
            (character, read, 1, 3, 1),
            (character, read | bpf::ACCESS_WRITE | make, 1, 9, 1),
            (character, read, 136, 77, 1),
            (character, read, 1, 1, 0), // /dev/mem
            (block, make, 254, 0, 1),
            (block, read, 254, 0, 0), // the host's disk
            (block, read | make, 254, 0, 0),
        ] {
            let found = run(&program, kind, access, major, minor);
            assert_eq!(found, expected, "kind {kind} access {access} {major}:{minor}");
        }
    }

    /// With the kernel's own verifier and verdict, where there is a version 2 hierarchy and we are root.
    #[test]
    fn the_kernel_takes_the_program() {
        use std::fs;
        let Some(root) = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|root| Path::new(root).join("cgroup.controllers").exists())
        else {
            return;
        };
        let group = Path::new(root).join(format!("coracle-test-devices-{}", std::process::id()));
        if !nix::unistd::geteuid().is_root() || fs::create_dir(&group).is_err() {
            return;
        }
        let attached = attach(&group, &DeviceRule::DEFAULT);
        let script = format!("echo $$ > {}/cgroup.procs && head -c 1 /dev/zero && ! head -c 1 /dev/kmsg", group.display());
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        fs::remove_dir(&group).unwrap();
        attached.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && text.contains("not permitted"), "{text}");
    }
}
