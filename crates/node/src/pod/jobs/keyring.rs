//! The logins that a Pod's secrets have for an image.
//!
//! Source: kubernetes `pkg/credentialprovider/keyring.go`, `config.go`.

use std::collections::BTreeMap;

use base64::Engine;
use knarr_image::client::{Credential, Reference};
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

#[derive(Deserialize)]
struct File {
    auths: BTreeMap<String, Entry>,
}

/// The secret's logins by the server's address; none when it holds no such thing.
pub(super) fn logins(data: &BTreeMap<String, Vec<u8>>) -> Option<Vec<(String, Credential)>> {
    let entries = if let Some(bytes) = data.get(".dockerconfigjson") {
        serde_json::from_slice::<File>(bytes).ok()?.auths
    } else {
        serde_json::from_slice(data.get(".dockercfg")?).ok()?
    };
    let all = entries.into_iter().filter_map(|(key, entry)| {
        let mut username = entry.username.unwrap_or_default();
        let mut password = entry.password.unwrap_or_default();
        if let Some(auth) = entry.auth.filter(|a| !a.is_empty()) {
            // with its filling or without
            let auth = auth.trim_end_matches('=');
            let decoded = base64::engine::general_purpose::STANDARD_NO_PAD.decode(auth);
            let text = String::from_utf8(decoded.ok()?).ok()?;
            let (user, secret) = text.split_once(':')?;
            (username, password) = (user.into(), secret.into());
        }
        let login = Credential {
            username,
            password,
            ..Credential::default()
        };
        Some((key, login))
    });
    Some(all.collect())
}

/// Those that are for this image, the most particular address first.
pub(super) fn fitting(all: &[(String, Credential)], image: &Reference) -> Vec<Credential> {
    let name = image.name();
    let mut known: Vec<(String, &Credential)> =
        all.iter().map(|(key, c)| (address(key), c)).collect();
    known.sort_by(|a, b| b.0.cmp(&a.0));
    let pick = |wanted: &dyn Fn(&str) -> bool| -> Vec<Credential> {
        let found = known.iter().filter(|(key, _)| wanted(key));
        found.map(|(_, c)| (*c).clone()).collect()
    };
    let found = pick(&|key| matches(key, &name));
    if found.is_empty() && image.registry == "docker.io" {
        return pick(&|key| key == "index.docker.io" || key.starts_with("index.docker.io/"));
    }
    found
}

/// Without the scheme and the API's version.
fn address(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or(key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    let path = match path {
        "v1" | "v2" => "",
        other => other
            .strip_prefix("v1/")
            .or(other.strip_prefix("v2/"))
            .unwrap_or(other),
    };
    match path.is_empty() {
        true => host.to_owned(),
        false => format!("{host}/{path}"),
    }
}

/// Host by host part, where `*` is any text in one part; the path by its beginning.
fn matches(key: &str, image: &str) -> bool {
    let (want, want_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    let split = |text: &str| -> (Vec<String>, String) {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port),
            _ => (text, ""),
        };
        (name.split('.').map(String::from).collect(), port.into())
    };
    let ((want, want_port), (host, port)) = (split(want), split(host));
    want_port == port
        && want.len() == host.len()
        && want.iter().zip(&host).all(|(w, h)| glob(w, h))
        && path.starts_with(want_path)
}

/// `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(first) else {
        return false;
    };
    let mut starts = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
    starts.any(|at| glob(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_fit_as_the_kubelet_matches_them() {
        let check = |keys: &[&str], image: &str, want: &[&str]| {
            let all: Vec<(String, Credential)> = keys
                .iter()
                .map(|key| {
                    let login = Credential {
                        username: (*key).into(),
                        ..Credential::default()
                    };
                    ((*key).to_owned(), login)
                })
                .collect();
            let found = fitting(&all, &Reference::parse(image).unwrap());
            let found: Vec<&str> = found.iter().map(|c| c.username.as_str()).collect();
            assert_eq!(found, want, "{image} of {keys:?}");
        };
        check(&["r.example"], "r.example/a:1", &["r.example"]);
        check(
            &["https://r.example/v1/"],
            "r.example/a",
            &["https://r.example/v1/"],
        );
        check(&["r.example:5000"], "r.example/a", &[]);
        check(&["r.example:5000"], "r.example:5000/a", &["r.example:5000"]);
        check(&["*.example", "*.*.example"], "r.example/a", &["*.example"]);
        check(&["r*.example"], "reg.example/a", &["r*.example"]);
        check(
            &["r.example", "r.example/team", "r.example/other"],
            "r.example/team/a",
            &["r.example/team", "r.example"],
        );
        check(
            &["https://index.docker.io/v1/"],
            "redis",
            &["https://index.docker.io/v1/"],
        );
        check(&["docker.io"], "redis", &["docker.io"]);
        check(&["index.docker.io"], "r.example/redis", &[]);
    }

    #[test]
    fn secrets_of_both_kinds_are_read() {
        let check = |key: &str, text: &str, want: Option<&[(&str, &str, &str)]>| {
            let data = BTreeMap::from([(key.to_owned(), text.as_bytes().to_vec())]);
            let found = logins(&data);
            let found = found.as_ref().map(|all| {
                let one = |(k, c): &(String, Credential)| {
                    (k.clone(), c.username.clone(), c.password.clone())
                };
                all.iter().map(one).collect::<Vec<_>>()
            });
            let want = want.map(|all| {
                let one =
                    |(k, u, p): &(&str, &str, &str)| (k.to_string(), u.to_string(), p.to_string());
                all.iter().map(one).collect::<Vec<_>>()
            });
            assert_eq!(found, want, "{key} {text}");
        };
        let both: &[(&str, &str, &str)] = &[("r", "u", "p:q")];
        check(
            ".dockerconfigjson",
            r#"{"auths":{"r":{"auth":"dTpwOnE="}}}"#,
            Some(both),
        );
        check(
            ".dockerconfigjson",
            r#"{"auths":{"r":{"auth":"dTpwOnE"}}}"#,
            Some(both),
        );
        check(
            ".dockercfg",
            r#"{"r":{"username":"u","password":"p:q","email":"x"}}"#,
            Some(both),
        );
        check(
            ".dockerconfigjson",
            r#"{"auths":{"r":{"auth":"%"}}}"#,
            Some(&[]),
        );
        check(".dockerconfigjson", "[]", None);
        check("other", "{}", None);
    }
}
