//! Who a process is: names and numbers looked up in the container's `/etc/passwd` and `/etc/group`.

use std::fs;
use std::path::Path;

use crate::spec::UserSpec;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary, with the primary one first.
    pub groups: Vec<u32>,
    pub home: String,
}

/// `root` is the directory that is the container's `/`.
pub fn resolve(spec: &UserSpec, root: &Path) -> Result<Identity, String> {
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let group = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    look_up(spec, &passwd, &group)
}

fn look_up(spec: &UserSpec, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, primary) = match spec.user.split_once(':') {
        Some((user, primary)) => (user, primary),
        None => (spec.user.as_str(), ""),
    };
    let user = if user.is_empty() { "0" } else { user };
    // name:password:uid:gid:comment:home:shell
    let entry = lines(passwd).find(|fields| match user.parse::<u32>() {
        Ok(uid) => field(fields, 2) == Some(uid) || fields[0] == user,
        Err(_) => fields[0] == user,
    });
    let uid = match (&entry, user.parse::<u32>()) {
        (Some(fields), _) => field(fields, 2).unwrap_or(0),
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    let gid = match primary {
        "" => entry.as_ref().and_then(|fields| field(fields, 3)).unwrap_or(0),
        primary => match (lines(group).find(|fields| fields[0] == primary), primary.parse()) {
            (_, Ok(gid)) => gid,
            (Some(fields), _) => field(&fields, 2).unwrap_or(0),
            (None, _) => {
                return Err(format!("unable to find group {primary}: no matching entries in group file"));
            }
        },
    };
    let mut groups = vec![gid];
    // The image's own memberships count as well as those of the pod.
    if let Some(name) = entry.as_ref().map(|fields| fields[0]) {
        let member_of = |fields: &Vec<&str>| fields.get(3).is_some_and(|it| it.split(',').any(|member| member == name));
        groups.extend(lines(group).filter(member_of).filter_map(|fields| field(&fields, 2)));
    }
    groups.extend(&spec.supplemental_groups);
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    let home = entry.and_then(|fields| fields.get(5).map(|home| home.to_string())).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_string()) })
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let content = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    content.map(|line| line.split(':').collect())
}

fn field(fields: &[&str], index: usize) -> Option<u32> {
    fields.get(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n# none\nodd:x:7:8\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlog:x:4:web,other\nstaff:x:50:root\n";

    #[track_caller]
    fn check(user: &str, supplemental: &[u32], expected: &str) {
        let spec = UserSpec { user: user.into(), supplemental_groups: supplemental.into() };
        let found = match look_up(&spec, PASSWD, GROUP) {
            Ok(it) => format!("{}:{} {:?} {}", it.uid, it.gid, it.groups, it.home),
            Err(problem) => problem,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn looks_users_up() {
        check("", &[], "0:0 [0, 50] /root");
        check("web", &[2000], "101:102 [102, 4, 2000] /srv");
        check("101", &[4], "101:102 [102, 4] /srv");
        check("101:50", &[], "101:50 [50, 4] /srv");
        check("web:staff", &[], "101:50 [50, 4] /srv");
        check("1000", &[], "1000:0 [0] /");
        check("1000:3000", &[2000, 2000], "1000:3000 [3000, 2000] /");
        check("odd", &[], "7:8 [8] /");
        check("nobody", &[], "unable to find user nobody: no matching entries in passwd file");
        check("web:none", &[], "unable to find group none: no matching entries in group file");
    }
}
