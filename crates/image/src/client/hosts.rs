//! Which hosts stand for a registry, by containerd's `hosts.toml` and Docker's `certs.d`.
//!
//! Source: containerd `docs/hosts.md`, `core/remotes/docker/config/hosts.go`; Docker "Verify repository client with
//! certificates" (`*.crt` in the host's folder are its authorities).

use super::{ClientConfig, Error};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The most bytes that a file of settings may have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// `https` or `http`; none: HTTPS, and plain HTTP where nothing answers that.
    pub scheme: Option<&'static str>,
    /// `HOST[:PORT]`.
    pub authority: String,
    /// What comes before `/REPOSITORY`: `/v2`, unless a mirror says otherwise.
    pub path: String,
    /// Stands for another registry, and is told which.
    pub mirror: bool,
    pub resolve: bool,
    pub pull: bool,
    pub push: bool,
    pub skip_verify: bool,
    /// PEM files of authorities besides the system's.
    pub authorities: Vec<PathBuf>,
    pub headers: Vec<(String, String)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    server: Option<String>,
    host: toml::Table,
    #[serde(flatten)]
    own: Entry,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<Texts>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, Texts>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn all(&self) -> &[String] {
        match self {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        }
    }
}

/// The host part is this machine's own: plain HTTP is no risk there.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The hosts for a registry, in the order they are asked.
pub(super) fn of(config: &ClientConfig, registry: &str) -> Result<Vec<Host>, Error> {
    let upstream = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let insecure = config
        .insecure
        .iter()
        .any(|i| i == registry || i == upstream);
    let default = Host {
        scheme: (!insecure && !is_loopback(upstream)).then_some("https"),
        authority: upstream.into(),
        path: "/v2".into(),
        mirror: false,
        resolve: true,
        pull: true,
        push: true,
        skip_verify: insecure,
        authorities: Vec::new(),
        headers: Vec::new(),
    };
    let Some(folder) = folder(config, registry) else {
        return Ok(vec![default]);
    };
    let file = folder.join("hosts.toml");
    if !file.exists() {
        let authorities = certificates(&folder);
        return Ok(vec![Host {
            authorities,
            ..default
        }]);
    }
    let told = |why: String| Error::Config {
        path: file.display().to_string(),
        why,
    };
    let size = std::fs::metadata(&file)
        .map_err(|e| told(e.to_string()))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(told("it is too large".into()));
    }
    let text = std::fs::read_to_string(&file).map_err(|e| told(e.to_string()))?;
    read(&text, &folder, default).map_err(told)
}

fn read(text: &str, folder: &Path, default: Host) -> Result<Vec<Host>, String> {
    let parsed: File = toml::from_str(text).map_err(|e| e.to_string().trim().to_string())?;
    let mut hosts = Vec::new();
    for (url, entry) in &parsed.host {
        let entry: Entry = entry
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| format!("host {url:?}: {}", e.message()))?;
        hosts.push(host(url, &entry, folder, true)?);
    }
    let mut last = match &parsed.server {
        Some(url) => host(url, &parsed.own, folder, false)?,
        None => Host {
            authorities: own_authorities(&parsed.own, folder),
            skip_verify: default.skip_verify || parsed.own.skip_verify,
            ..default.clone()
        },
    };
    last.mirror = last.authority != default.authority;
    hosts.push(last);
    Ok(hosts)
}

fn own_authorities(entry: &Entry, folder: &Path) -> Vec<PathBuf> {
    let files = entry.ca.iter().flat_map(Texts::all);
    files.map(|file| folder.join(file)).collect()
}

fn host(url: &str, entry: &Entry, folder: &Path, mirror: bool) -> Result<Host, String> {
    let full = match url.contains("://") {
        true => url.to_string(),
        false => format!("https://{url}"),
    };
    let uri: ::http::Uri = full.parse().map_err(|e| format!("host {url:?}: {e}"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => return Err(format!("host {url:?}: it must be an http or https address")),
    };
    let authority = uri.authority().map(ToString::to_string);
    let path = uri.path().trim_end_matches('/');
    let can = |what: &str| {
        let listed = entry.capabilities.as_ref();
        listed.is_none_or(|all| all.iter().any(|c| c == what))
    };
    if let Some(other) = entry
        .capabilities
        .iter()
        .flatten()
        .find(|c| !matches!(c.as_str(), "pull" | "resolve" | "push" | "referrers"))
    {
        return Err(format!("host {url:?}: unknown capability {other:?}"));
    }
    Ok(Host {
        scheme: Some(scheme),
        authority: authority.ok_or_else(|| format!("host {url:?} has no name"))?,
        path: match (
            path.is_empty(),
            entry.override_path || path.ends_with("/v2"),
        ) {
            (true, false) => "/v2".into(),
            (_, true) => path.into(),
            (false, false) => format!("{path}/v2"),
        },
        mirror,
        resolve: can("resolve"),
        pull: can("pull"),
        push: can("push"),
        skip_verify: entry.skip_verify,
        authorities: own_authorities(entry, folder),
        headers: entry
            .header
            .iter()
            .flat_map(|(name, values)| values.all().iter().map(|v| (name.clone(), v.clone())))
            .collect(),
    })
}

/// The host's folder, or `_default`'s; a port's colon may be written `_PORT_`, as containerd allows.
fn folder(config: &ClientConfig, registry: &str) -> Option<PathBuf> {
    let written = match registry.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}_"),
        None => registry.to_string(),
    };
    let names = [registry, written.as_str(), "_default"];
    let folders = config.hosts_dirs.iter();
    let mut found = folders.flat_map(|dir| names.map(|name| dir.join(name)));
    found.find(|path| path.is_dir())
}

fn certificates(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "crt"))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(hosts: &[Host]) -> Vec<String> {
        let one = |h: &Host| {
            let mut text = format!("{}://{}{}", h.scheme.unwrap_or("any"), h.authority, h.path);
            for (yes, word) in [
                (h.mirror, " mirror"),
                (!h.resolve, " no-resolve"),
                (!h.pull, " no-pull"),
                (!h.push, " no-push"),
                (h.skip_verify, " unchecked"),
            ] {
                text.push_str(if yes { word } else { "" });
            }
            text
        };
        hosts.iter().map(one).collect()
    }

    #[test]
    fn registries_are_asked_where_the_settings_say() {
        let dir = tempfile::tempdir().unwrap();
        let check = |registry: &str, file: Option<&str>, want: &[&str]| {
            let folder = dir.path().join(registry);
            let _ = std::fs::remove_dir_all(&folder);
            if let Some(text) = file {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("hosts.toml"), text).unwrap();
            }
            let config = ClientConfig {
                hosts_dirs: vec![dir.path().into()],
                insecure: vec!["plain.example:80".into()],
                ..ClientConfig::default()
            };
            assert_eq!(shown(&of(&config, registry).unwrap()), want, "{registry}");
        };
        check("docker.io", None, &["https://registry-1.docker.io/v2"]);
        check("r.example", None, &["https://r.example/v2"]);
        check("localhost:5000", None, &["any://localhost:5000/v2"]);
        check("127.0.0.1:5000", None, &["any://127.0.0.1:5000/v2"]);
        check("[::1]:5000", None, &["any://[::1]:5000/v2"]);
        check(
            "plain.example:80",
            None,
            &["any://plain.example:80/v2 unchecked"],
        );
        check(
            "docker.io",
            Some(
                "server = \"https://docker.io\"\n[host.\"https://m.example\"]\n capabilities = [\"pull\", \"resolve\"]\n\
                 [host.\"http://a.example:1/x\"]\n skip_verify = true\n[host.\"https://b.example/own\"]\n override_path = true",
            ),
            &[
                "https://m.example/v2 mirror no-push",
                "http://a.example:1/x/v2 mirror unchecked",
                "https://b.example/own mirror",
                "https://docker.io/v2 mirror",
            ],
        );
        check(
            "r.example",
            Some("skip_verify = true"),
            &["https://r.example/v2 unchecked"],
        );
    }

    #[test]
    fn bad_settings_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("r.example")).unwrap();
        let file = dir.path().join("r.example/hosts.toml");
        for bad in [
            "x = ",
            "[host.\"ftp://x\"]",
            "[host.\"https://x\"]\ncapabilities = [\"fly\"]",
        ] {
            std::fs::write(&file, bad).unwrap();
            let config = ClientConfig {
                hosts_dirs: vec![dir.path().into()],
                ..ClientConfig::default()
            };
            let error = of(&config, "r.example").unwrap_err().to_string();
            assert!(error.contains("hosts.toml"), "{error}");
        }
    }
}
