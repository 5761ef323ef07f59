//! Who a request is made for (upstream's `user.Info`).

use std::collections::BTreeMap;

/// Group whose members may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of everybody who has proven who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of a request without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group of the nodes' agents.
pub const NODES: &str = "system:nodes";
/// Group of all service accounts; with `:<namespace>` behind it, of one namespace's.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const NODE_PREFIX: &str = "system:node:";

/// A user with their groups and whatever the authenticator found out beside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Name.
    pub name: String,
    /// What outlives the name; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts, each a list.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A name and groups, nothing else.
    pub fn new(name: &str, groups: &[&str]) -> User {
        User {
            name: name.to_string(),
            groups: groups.iter().map(|g| g.to_string()).collect(),
            ..User::default()
        }
    }
    /// Somebody without credentials.
    pub fn anonymous() -> User {
        User::new(ANONYMOUS, &[UNAUTHENTICATED])
    }
    /// The user a service account is.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
        User {
            name: account_user(namespace, name),
            uid: uid.to_string(),
            groups: account_groups(namespace),
            extra: BTreeMap::new(),
        }
    }
    /// Member of this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
    /// May do everything.
    pub fn is_master(&self) -> bool {
        self.is_in(MASTERS)
    }
    /// The node whose agent this is: `system:node:<name>` in `system:nodes`.
    pub fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.is_in(NODES).then_some(name)
    }
}

/// User name of a service account.
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("{ACCOUNT_PREFIX}{namespace}:{name}")
}

/// Groups of a namespace's service accounts.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec![
        SERVICE_ACCOUNTS.to_string(),
        format!("{SERVICE_ACCOUNTS}:{namespace}"),
    ]
}

/// Namespace and name in a service account's user name; None for any other user.
pub fn split_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
    let plain = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    (plain(namespace) && plain(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names() {
        let cases = [
            ("system:serviceaccount:a:b", Some(("a", "b"))),
            ("system:serviceaccount:a:b.c", Some(("a", "b.c"))),
            ("system:serviceaccount:a:b:c", None),
            ("system:serviceaccount::b", None),
            ("system:serviceaccount:a:", None),
            ("system:serviceaccount:a", None),
            ("alice", None),
        ];
        for (name, want) in cases {
            assert_eq!(split_account(name), want, "{name}");
        }
    }

    #[test]
    fn nodes_need_name_and_group() {
        assert_eq!(User::new("system:node:a", &[NODES]).node(), Some("a"));
        assert_eq!(User::new("system:node:a", &[]).node(), None);
        assert_eq!(User::new("a", &[NODES]).node(), None);
    }
}
