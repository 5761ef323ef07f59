//! Acting as somebody else: the `Impersonate-*` headers, each claim of which the requester must be allowed to make
//! (apiserver `endpoints/filters/impersonation`).

use std::collections::BTreeMap;

use http::HeaderMap;
use knarr_access::{
    Attributes, User,
    user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, account_groups, split_account},
};
use percent_encoding::percent_decode_str;

use crate::{identity::Identity, server::Inner, status::Failure};

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
    let mut claims: Vec<&str> = vec![];
    for (name, there) in [
        ("groups", !wanted.groups.is_empty()),
        ("extra", !wanted.extra.is_empty()),
        ("uid", !wanted.uid.is_empty()),
    ] {
        if there {
            claims.push(name);
        }
    }
    Err(Failure::bad_request(format!(
        "requested [{}] without impersonating a user",
        claims.join(" ")
    )))
}

/// The user the request is made as; 403 when the requester may not act as that user, 400 when the headers make no user.
pub fn impersonated(
    inner: &Inner,
    who: Identity,
    headers: &HeaderMap,
) -> Result<Identity, Failure> {
    let Some(wanted) = read(headers)? else {
        return Ok(who);
    };
    let may = |a: Attributes| super::authorize(inner, &who, &a);
    let claim = |group: &str, resource: &str, namespace: &str, name: &str| {
        let mut a = Attributes::resource("impersonate", group, resource, namespace, name);
        a.version = if group.is_empty() { "" } else { "v1" }.into();
        a
    };
    let mut groups = wanted.groups;
    match split_account(&wanted.user) {
        Some((namespace, name)) => {
            may(claim("", "serviceaccounts", namespace, name))?;
            if groups.is_empty() {
                groups = account_groups(namespace);
            } else {
                for g in &groups {
                    may(claim("", "groups", "", g))?;
                }
            }
        }
        None => {
            may(claim("", "users", "", &wanted.user))?;
            for g in &groups {
                may(claim("", "groups", "", g))?;
            }
        }
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may(claim(AUTHENTICATION, "userextras", "", value).part(key))?;
        }
    }
    if !wanted.uid.is_empty() {
        may(claim(AUTHENTICATION, "uids", "", &wanted.uid))?;
    }
    let has = |group: &str| groups.iter().any(|g| g == group);
    if wanted.user == ANONYMOUS {
        if !has(UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.into());
        }
    } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(Identity::of(User {
        name: wanted.user,
        uid: wanted.uid,
        groups,
        extra: wanted.extra,
    }))
}
