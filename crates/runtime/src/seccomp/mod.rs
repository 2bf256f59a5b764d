//! Seccomp: from a profile to programs for the kernel, by way of `seccompiler`.
//!
//! Invariant: what a profile does not mention gets its default action. Several programs stand for one profile with
//! several actions, since the kernel applies the strictest answer. Deliberately absent: notification to an agent,
//! and 32-bit programs under a profile (they are killed).

mod default_profile;
mod profile;
mod syscalls;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::cri::SeccompProfile;
use profile::{Action, Argument, Operator, Profile};

/// The programs of a profile in base64, to be loaded in order, for a container with these capabilities.
pub fn programs(wanted: &SeccompProfile, capabilities: u64) -> Result<Vec<String>, String> {
    let profile = match wanted {
        SeccompProfile::Unconfined => return Ok(Vec::new()),
        SeccompProfile::RuntimeDefault => default_profile::profile(capabilities),
        SeccompProfile::Localhost(path) => {
            let file = path.strip_prefix("localhost/").unwrap_or(path);
            let text = std::fs::read(file).map_err(|cause| format!("cannot load seccomp profile {file:?}: {cause}"))?;
            serde_json::from_slice(&text).map_err(|cause| format!("decoding seccomp profile failed {file:?}: {cause}"))?
        }
    };
    let encode = |program: BpfProgram| {
        let bytes: Vec<u8> = program
            .iter()
            .flat_map(|it| [&it.code.to_ne_bytes()[..], &[it.jt, it.jf], &it.k.to_ne_bytes()[..]].concat())
            .collect();
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    Ok(compile(&profile)?.into_iter().map(encode).collect())
}

/// Eight bytes in the kernel's layout.
pub fn instruction(bytes: &[u8]) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    }
}

/// Rules by system call; an empty list fits every call of it.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The actions of a program go by their number for the kernel, so that equal ones are one.
type Verdict = (Action, u32);

fn compile(profile: &Profile) -> Result<Vec<BpfProgram>, String> {
    let verdict = |action: Action, errno: Option<u32>| match action {
        Action::Errno | Action::Trace => (action, errno.unwrap_or(libc::EPERM as u32)),
        _ => (action, 0),
    };
    let default = verdict(profile.default_action, profile.default_errno_ret);
    let mut by_verdict: BTreeMap<Verdict, Rules> = BTreeMap::new();
    for rule in &profile.syscalls {
        let verdict = verdict(rule.action, rule.errno_ret);
        let conditions = conditions(&rule.args)?;
        // A name that this kernel's library does not know cannot be called by it either.
        for number in rule.names.iter().filter_map(|name| syscalls::number(name)) {
            if verdict != default {
                add(by_verdict.entry(verdict).or_default(), number, &conditions);
            }
        }
    }
    let target = std::env::consts::ARCH.try_into().map_err(|cause| format!("seccomp: {cause}"))?;
    let build = |rules: Rules, otherwise: SeccompAction, matched: SeccompAction| -> Result<BpfProgram, String> {
        let filter = SeccompFilter::new(rules, otherwise, matched, target).map_err(|cause| format!("seccomp: {cause}"))?;
        filter.try_into().map_err(|cause| format!("seccomp: {cause}"))
    };
    // With each whether it hinders the loading of a further one. At most one does.
    let mut programs = Vec::new();
    // One says which calls are mentioned at all.
    if default.0 != Action::Allow {
        let mut mentioned = Rules::new();
        for rules in by_verdict.values() {
            for (number, chain) in rules {
                let chains: Vec<_> = chain.to_vec();
                add(&mut mentioned, *number, &chains);
            }
        }
        let hinders = !mentioned.contains_key(&libc::SYS_seccomp);
        programs.push((hinders, build(mentioned, kernel_action(default), SeccompAction::Allow)?));
    }
    // The others say what is done with those that are not simply let through.
    for (verdict, rules) in by_verdict {
        if verdict.0 != Action::Allow {
            let hinders = rules.contains_key(&libc::SYS_seccomp);
            programs.push((hinders, build(rules, SeccompAction::Allow, kernel_action(verdict))?));
        }
    }
    programs.sort_by_key(|(hinders, _)| *hinders);
    Ok(programs.into_iter().map(|(_, program)| program).collect())
}

/// `conditions` empty: every call. Once that is so it remains so.
fn add(rules: &mut Rules, number: i64, conditions: &[SeccompRule]) {
    match rules.get_mut(&number) {
        Some(chain) if chain.is_empty() || conditions.is_empty() => chain.clear(),
        Some(chain) => chain.extend_from_slice(conditions),
        None => {
            rules.insert(number, conditions.to_vec());
        }
    }
}

/// All arguments must fit; but where one argument is named twice, as runc has it, either may.
fn conditions(args: &[Argument]) -> Result<Vec<SeccompRule>, String> {
    let condition = |argument: &Argument| {
        let (operator, value) = match argument.op {
            Operator::Equal => (SeccompCmpOp::Eq, argument.value),
            Operator::NotEqual => (SeccompCmpOp::Ne, argument.value),
            Operator::Less => (SeccompCmpOp::Lt, argument.value),
            Operator::LessOrEqual => (SeccompCmpOp::Le, argument.value),
            Operator::Greater => (SeccompCmpOp::Gt, argument.value),
            Operator::GreaterOrEqual => (SeccompCmpOp::Ge, argument.value),
            Operator::MaskedEqual => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
        };
        SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value)
            .map_err(|cause| format!("seccomp: {cause}"))
    };
    let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions).map_err(|cause| format!("seccomp: {cause}"));
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let all = args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let distinct: BTreeSet<u8> = args.iter().map(|argument| argument.index).collect();
    match distinct.len() == args.len() {
        true => Ok(vec![rule(all)?]),
        false => all.into_iter().map(|condition| rule(vec![condition])).collect(),
    }
}

fn kernel_action((action, number): Verdict) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno => SeccompAction::Errno(number),
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trace => SeccompAction::Trace(number),
        Action::Trap => SeccompAction::Trap,
    }
}

#[cfg(test)]
mod tests;
