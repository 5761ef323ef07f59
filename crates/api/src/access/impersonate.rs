//! Acting as somebody else: the `Impersonate-*` headers, each claim of which the requester must be allowed to make
//! (apiserver `endpoints/filters/impersonation`).

use std::collections::BTreeMap;

use http::HeaderMap;
use knarr_access::{
    Attributes, User,
    user::{
        ANONYMOUS, AUTHENTICATED, MASTERS, NODES, UNAUTHENTICATED, account_groups, split_account,
    },
};
use percent_encoding::percent_decode_str;

use crate::{identity::Identity, names, registry::NameRule, server::Inner, status::Failure};

const AUTHENTICATION: &str = "authentication.k8s.io";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// What the headers ask for.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

fn read(headers: &HeaderMap) -> Result<Option<Wanted>, Failure> {
    let texts = |name: &str| -> Vec<String> {
        let all = headers.get_all(name).iter();
        all.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    };
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let mut wanted = Wanted {
        user: first("impersonate-user"),
        groups: texts("impersonate-group"),
        uid: first("impersonate-uid"),
        extra: BTreeMap::new(),
    };
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            let decoded = percent_decode_str(key).decode_utf8();
            let key = decoded.map_or_else(|_| key.to_string(), |k| k.into_owned());
            wanted
                .extra
                .entry(key)
                .or_default()
                .extend(texts(name.as_str()));
        }
    }
    if !wanted.user.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == Wanted::default() {
        return Ok(None);
    }
    Err(Failure::bad_request(format!(
        "requested {} without impersonating a user name",
        shown(&wanted)
    )))
}

/// Go's `%#v` of upstream's `user.DefaultInfo`.
fn shown(wanted: &Wanted) -> String {
    let list = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
        format!("[]string{{{}}}", words.join(", "))
    };
    let groups = match wanted.groups.as_slice() {
        [] => "[]string(nil)".to_string(),
        some => list(some),
    };
    let extra = wanted.extra.iter();
    let extra: Vec<String> = extra.map(|(k, v)| format!("{k:?}:{}", list(v))).collect();
    let extra = match extra.as_slice() {
        [] => "map[string][]string(nil)".to_string(),
        some => format!("map[string][]string{{{}}}", some.join(", ")),
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        wanted.user, wanted.uid
    )
}

/// A way to impersonate, each with verbs of its own (KEP-5284). All but the last allow certain requests alone
/// (`impersonate-on:<mode>:<verb>`), and know what groups a node or service account has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}
const MODES: [Mode; 5] = [
    Mode::AssociatedNode,
    Mode::ArbitraryNode,
    Mode::ServiceAccount,
    Mode::UserInfo,
    Mode::Legacy,
];

fn node_name(user: &str) -> Option<&str> {
    let name = user.strip_prefix("system:node:")?;
    names::check(NameRule::DnsSubdomain, name, false)
        .is_empty()
        .then_some(name)
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    /// Whether it is made for this user, asked for by this requester.
    fn fits(self, wanted: &Wanted, requester: &User) -> bool {
        let bare = wanted.groups.is_empty() && wanted.uid.is_empty() && wanted.extra.is_empty();
        let node = node_name(&wanted.user);
        let account = split_account(&wanted.user).is_some();
        match self {
            Mode::AssociatedNode => {
                let own = requester
                    .extra
                    .get("authentication.kubernetes.io/node-name");
                let own = own.and_then(|values| match values.as_slice() {
                    [one] => Some(one.as_str()),
                    _ => None,
                });
                bare && node.is_some() && split_account(&requester.name).is_some() && own == node
            }
            Mode::ArbitraryNode => bare && node.is_some(),
            Mode::ServiceAccount => bare && account,
            Mode::UserInfo => node.is_none() && !account,
            Mode::Legacy => true,
        }
    }

    /// The user, if the requester may be them for this request.
    fn check(
        self,
        inner: &Inner,
        who: &Identity,
        wanted: &Wanted,
        request: &Attributes,
    ) -> Result<User, Failure> {
        let constrained = self != Mode::Legacy;
        if constrained {
            let mut on = request.clone();
            on.verb = format!("impersonate-on:{}:{}", self.name(), request.verb);
            super::authorize(inner, who, &on)?;
        }
        let verb = match constrained {
            true => format!("impersonate:{}", self.name()),
            false => "impersonate".to_string(),
        };
        let claim = |group: &str, resource: &str, namespace: &str, name: &str| {
            let mut a = Attributes::resource(&verb, group, resource, namespace, name);
            a.version = "v1".into();
            a
        };
        let may = |a: Attributes| super::authorize(inner, who, &a);
        let names = if constrained { AUTHENTICATION } else { "" };
        let mut groups = wanted.groups.clone();
        let node = node_name(&wanted.user).filter(|_| constrained);
        if let Some((namespace, name)) = split_account(&wanted.user) {
            may(claim(names, "serviceaccounts", namespace, name))?;
            if groups.is_empty() {
                groups = account_groups(namespace);
            }
        } else if let Some(node) = node {
            let any = self == Mode::AssociatedNode;
            may(claim(names, "nodes", "", if any { "*" } else { node }))?;
            groups = vec![NODES.to_string()];
        } else {
            may(claim(names, "users", "", &wanted.user))?;
        }
        if !wanted.uid.is_empty() {
            may(claim(AUTHENTICATION, "uids", "", &wanted.uid))?;
        }
        let refused = |a: Attributes, why: &str| super::forbidden(who.user(), &a, why);
        for group in &wanted.groups {
            let a = claim(names, "groups", "", group);
            if constrained && group.is_empty() {
                let why = "impersonating the empty string group is not allowed";
                return Err(refused(a, why));
            }
            if constrained && group == MASTERS {
                let why = "impersonating the system:masters group is not allowed";
                return Err(refused(a, why));
            }
            may(a)?;
        }
        for (key, values) in &wanted.extra {
            let a = claim(AUTHENTICATION, "userextras", "", "");
            if constrained && key.is_empty() {
                let why = "impersonating the empty string key in extra is not allowed";
                return Err(refused(a, why));
            }
            if constrained && values.iter().any(String::is_empty) {
                let why = "impersonating the empty string value in extra is not allowed";
                return Err(refused(a, why));
            }
            for value in values {
                may(claim(AUTHENTICATION, "userextras", "", value).part(key))?;
            }
        }
        let has = |group: &str| groups.iter().any(|g| g == group);
        if wanted.user == ANONYMOUS {
            if !has(UNAUTHENTICATED) {
                groups.push(UNAUTHENTICATED.into());
            }
        } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Ok(User {
            name: wanted.user.clone(),
            uid: wanted.uid.clone(),
            groups,
            extra: wanted.extra.clone(),
        })
    }
}

/// The user the request is made as; 403 when the requester may not act as that user, 400 when the headers make no user.
/// Of several refusals the first is told, as upstream does.
pub fn impersonated(
    inner: &Inner,
    who: Identity,
    headers: &HeaderMap,
    request: &Attributes,
) -> Result<Identity, Failure> {
    let Some(wanted) = read(headers)? else {
        return Ok(who);
    };
    let mut refusal = None;
    for mode in MODES {
        if !mode.fits(&wanted, who.info()) {
            continue;
        }
        match mode.check(inner, &who, &wanted, request) {
            Ok(user) => return Ok(Identity::of(user)),
            Err(f) => refusal = refusal.or(Some(f)),
        }
    }
    Err(refusal.unwrap_or_else(|| Failure::internal("all impersonation modes failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_make_a_user() {
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Headers, Result<Option<&str>, &str>); 5] = [
            (&[], Ok(None)),
            (&[("impersonate-user", "a")], Ok(Some("a"))),
            (
                &[
                    ("impersonate-user", "a"),
                    ("impersonate-extra-x%2fy", "1"),
                    ("impersonate-extra-x%2fy", "2"),
                ],
                Ok(Some("a")),
            ),
            (
                &[("impersonate-group", "g")],
                Err(
                    r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"g"}, Extra:map[string][]string(nil)} without impersonating a user name"#,
                ),
            ),
            (
                &[("impersonate-uid", "1"), ("impersonate-extra-k", "v")],
                Err(
                    r#"requested &user.DefaultInfo{Name:"", UID:"1", Groups:[]string(nil), Extra:map[string][]string{"k":[]string{"v"}}} without impersonating a user name"#,
                ),
            ),
        ];
        for (given, want) in cases {
            let mut headers = HeaderMap::new();
            for (k, v) in given {
                headers.append(http::HeaderName::try_from(*k).unwrap(), v.parse().unwrap());
            }
            match (read(&headers), want) {
                (Ok(got), Ok(user)) => {
                    assert_eq!(got.as_ref().map(|w| w.user.as_str()), user, "{given:?}");
                    if given.len() == 3 {
                        assert_eq!(got.unwrap().extra["x/y"], ["1", "2"]);
                    }
                }
                (Err(f), Err(why)) => assert_eq!(f.message(), why),
                (got, want) => panic!("{given:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn modes_are_for_their_users() {
        let wanted = |user: &str| Wanted {
            user: user.into(),
            ..Wanted::default()
        };
        let mut agent = User::service_account("ns", "agent", "u");
        agent.extra.insert(
            "authentication.kubernetes.io/node-name".into(),
            vec!["n1".into()],
        );
        let fits = |wanted: &Wanted, requester: &User| -> Vec<&str> {
            let modes = MODES.iter().filter(|m| m.fits(wanted, requester));
            modes.map(|m| m.name()).collect()
        };
        let alice = User::new("alice", &[]);
        let cases: [(&str, &User, &[&str]); 6] = [
            ("bob", &alice, &["user-info", ""]),
            ("system:serviceaccount:a:b", &alice, &["serviceaccount", ""]),
            ("system:node:n1", &alice, &["arbitrary-node", ""]),
            (
                "system:node:n1",
                &agent,
                &["associated-node", "arbitrary-node", ""],
            ),
            ("system:node:n2", &agent, &["arbitrary-node", ""]),
            ("system:node:", &alice, &["user-info", ""]),
        ];
        for (user, requester, want) in cases {
            assert_eq!(fits(&wanted(user), requester), want, "{user}");
        }
        let grouped = Wanted {
            groups: vec!["g".into()],
            ..wanted("system:node:n1")
        };
        assert_eq!(fits(&grouped, &agent), [""]);
    }
}
