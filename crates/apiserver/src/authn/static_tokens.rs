//! Tokens from a file, or given at start.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::user::{AUTHENTICATED, User};

#[derive(Clone, Debug)]
pub struct StaticToken {
    pub token: String,
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
}

/// By digest: finding one tells nothing of the others by the time that it takes.
pub struct StaticTokens(HashMap<[u8; 32], User>);

impl StaticTokens {
    pub fn new(tokens: &[StaticToken]) -> Self {
        let users = tokens.iter().map(|token| {
            let mut groups = token.groups.clone();
            groups.push(AUTHENTICATED.into());
            let user = User { name: token.user.clone(), uid: token.uid.clone(), groups, ..User::default() };
            (digest(&token.token), user)
        });
        StaticTokens(users.collect())
    }

    pub fn user(&self, token: &str) -> Option<User> {
        if self.0.is_empty() { None } else { self.0.get(&digest(token)).cloned() }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Lines `token,user,uid,"group1,group2"`, as `--token-auth-file` takes them.
pub fn parse(text: &str) -> Vec<StaticToken> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut parts = line.splitn(4, ',').map(|part| part.trim().trim_matches('"'));
            let (token, user, uid) = (parts.next()?, parts.next()?, parts.next()?);
            let groups = parts.next().unwrap_or("").split(',').map(str::trim).filter(|group| !group.is_empty());
            Some(StaticToken {
                token: token.into(),
                user: user.into(),
                uid: uid.into(),
                groups: groups.map(str::to_owned).collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file() {
        let tokens = parse("# comment\nt1,alice,1,\"dev,ops\"\nt2,bob,2\nbad\n");
        let users = StaticTokens::new(&tokens);
        assert_eq!(users.user("t1").map(|user| user.groups), Some(vec!["dev".into(), "ops".into(), AUTHENTICATED.into()]));
        assert_eq!(users.user("t2").map(|user| user.name), Some("bob".into()));
        assert_eq!(users.user("t3"), None);
    }
}
