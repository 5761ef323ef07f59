//! What a client asks of the Dockerfile's frontend: its options, as our builder takes them.
//!
//! SOURCE: moby/buildkit `frontend/dockerui/{config,attr,context}.go`, docker/buildx `build/opt.go`

use super::linked;
use knarr_build::{BuildRequest, Entitlement, NamedContext, NoCache};
use knarr_dockerfile::{Network, Platform};
use knarr_grpc::{
    Status, code,
    proto::{Fields, Map},
};
use std::collections::BTreeMap;

/// What is made of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// `moby`, `local`, `tar`, …
    pub kind: String,
    pub attrs: Map,
}

/// `Control.Solve`
#[derive(Debug, Clone, Default)]
pub struct Solve {
    pub reference: String,
    pub session: String,
    pub frontend: String,
    pub options: Map,
    pub entitlements: Vec<String>,
    /// Nobody's build: a client looks what there is.
    pub internal: bool,
    pub exports: Vec<Export>,
    /// LLB of the client's own
    pub definition: bool,
    /// `--cache-to`
    pub caches: Vec<Export>,
    /// Results of other builds that this one begins with, as images; None: it is something else.
    pub inputs: BTreeMap<String, Option<String>>,
}

fn export(fields: Fields) -> Export {
    let mut export = Export {
        kind: String::new(),
        attrs: Map::new(),
    };
    for (field, value) in fields {
        match field {
            1 => export.kind = value.text(),
            2 => export.attrs.extend([value.pair()]),
            _ => {}
        }
    }
    export
}

impl Solve {
    pub fn read(bytes: &[u8]) -> Solve {
        let mut solve = Solve::default();
        let mut old = Export {
            kind: String::new(),
            attrs: Map::new(),
        };
        for (field, value) in Fields(bytes) {
            match field {
                1 => solve.reference = value.text(),
                2 => solve.definition |= !value.bytes().is_empty(),
                3 => old.kind = value.text(),
                4 => old.attrs.extend([value.pair()]),
                5 => solve.session = value.text(),
                6 => solve.frontend = value.text(),
                7 => solve.options.extend([value.pair()]),
                8 => {
                    for (field, value) in value.fields() {
                        // what is wanted of others is the frontend's to know
                        if field == 4 {
                            solve.caches.push(export(value.fields()));
                        }
                    }
                }
                10 => linked::input(value, &mut solve.inputs),
                9 => solve.entitlements.push(value.text()),
                11 => solve.internal = value.number() != 0,
                13 => solve.exports.push(export(value.fields())),
                _ => {}
            }
        }
        if solve.exports.is_empty() && !old.kind.is_empty() {
            solve.exports.push(old);
        }
        solve
    }
}

impl Solve {
    /// `LLBBridge.Solve`
    pub fn read_inner(bytes: &[u8]) -> Solve {
        let mut solve = Solve::default();
        for (field, value) in Fields(bytes) {
            match field {
                1 => solve.definition |= !value.bytes().is_empty(),
                2 => solve.frontend = value.text(),
                3 => solve.options.extend([value.pair()]),
                13 => linked::input(value, &mut solve.inputs),
                _ => {}
            }
        }
        solve
    }
}

/// Which files of the client's are needed, and what is asked besides.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub request: BuildRequest,
    /// In the Dockerfile's folder.
    pub dockerfile: String,
    /// Of the folder that is the context; None: it's elsewhere.
    pub context: Option<String>,
    pub dockerfile_dir: String,
    /// An archive or a Dockerfile that the client lends under this id.
    pub upload: Option<String>,
    /// Name → folder of the client's.
    pub named: BTreeMap<String, String>,
    /// Name → `STORE:TAG@DIGEST`, a layout of the client's.
    pub layouts: BTreeMap<String, String>,
    /// Folder of the client's → the session that has it, when it isn't the build's own.
    pub sessions: BTreeMap<String, String>,
    /// `--attest`: kind and value
    pub attests: Vec<(String, String)>,
    /// The text of the context's ignore file, once it was fetched.
    pub ignore: Option<String>,
}

pub fn refused(what: impl std::fmt::Display) -> Status {
    Status::new(
        code::UNIMPLEMENTED,
        format!("{what} is not supported by knarr"),
    )
}

/// # Errors
/// By name, for what can't be had.
pub fn asked(
    options: &Map,
    entitlements: &[String],
    inputs: &BTreeMap<String, Option<String>>,
) -> Result<Asked, Status> {
    let mut asked = Asked {
        dockerfile: "Dockerfile".into(),
        context: Some("context".into()),
        dockerfile_dir: "dockerfile".into(),
        ..Asked::default()
    };
    let request = &mut asked.request;
    for name in entitlements {
        let known = Entitlement::parse(name).ok_or_else(|| refused(format!("--allow {name}")))?;
        request.allow.insert(known);
    }
    for (key, value) in options {
        let (kind, name) = key.split_once(':').unwrap_or((key, ""));
        match (kind, name) {
            ("build-arg", name) => {
                request.args.insert(name.into(), value.clone());
            }
            ("label", name) => {
                request.labels.insert(name.into(), value.clone());
            }
            ("context", "") => location(&mut asked.context, &mut asked.upload, request, value)?,
            ("context", name) => {
                // `name::platform` is the context for that platform alone
                let name = name.split("::").next().unwrap_or(name);
                match value.split_once(':') {
                    Some(("local", dir)) => {
                        asked.named.insert(name.into(), dir.into());
                    }
                    Some(("oci-layout", rest)) => {
                        let rest = rest.trim_start_matches('/');
                        asked.layouts.insert(name.into(), rest.into());
                    }
                    Some(("input", of)) => {
                        let image = inputs.get(of).cloned().flatten();
                        let image =
                            image.ok_or_else(|| refused(format!("the input {of} as a context")))?;
                        let image = NamedContext::Image(image);
                        request.contexts.insert(name.into(), image);
                    }
                    _ => {
                        request.contexts.insert(name.into(), named(name, value)?);
                    }
                }
            }
            ("filename", _) => asked.dockerfile = value.clone(),
            ("contextkey", _) => asked.context = Some(value.clone()),
            ("dockerfilekey", _) => asked.dockerfile_dir = value.clone(),
            ("target", _) => request.target = Some(value.clone()).filter(|t| !t.is_empty()),
            ("no-cache", _) => {
                request.no_cache = match value.as_str() {
                    "" => NoCache::Always,
                    stages => NoCache::Stages(stages.split(',').map(str::to_string).collect()),
                };
            }
            ("image-resolve-mode", _) => request.pull = value == "pull",
            ("platform", _) => {
                for platform in value.split(',').filter(|p| !p.is_empty()) {
                    let platform = Platform::parse(platform).map_err(Status::unknown)?;
                    request.platforms.push(platform);
                }
            }
            ("force-network-mode", _) => {
                request.network = match value.as_str() {
                    "host" => Network::Host,
                    "none" => Network::None,
                    "" | "default" | "sandbox" => Network::Default,
                    other => return Err(refused(format!("building in the network {other}"))),
                };
            }
            ("add-hosts", _) => {
                for pair in value.split(',').filter(|p| !p.is_empty()) {
                    let (name, address) = pair.split_once('=').ok_or_else(|| {
                        Status::new(code::INVALID_ARGUMENT, format!("invalid host {pair}"))
                    })?;
                    request.add_hosts.push((name.into(), address.into()));
                }
            }
            ("shm-size", _) => {
                let size = value.parse().map_err(|_| {
                    Status::new(code::INVALID_ARGUMENT, format!("invalid shm size {value}"))
                })?;
                request.shm_size = size;
            }
            // our own frontend reads every Dockerfile
            ("source" | "cmdline" | "frontend.caps" | "multi-platform", _) => {}
            // read where they are used
            ("cache-imports" | "cache-from", _) => {}
            // named at its place
            ("requestid", _) => {}
            // what is shown of the source
            ("vcs" | "input-metadata", _) => {}
            ("local-sessionid", name) => {
                asked.sessions.insert(name.into(), value.clone());
            }
            ("attest", name) => asked.attests.push((name.into(), value.clone())),
            ("ulimit", _) => {
                for text in value.split(',').filter(|t| !t.is_empty()) {
                    request.ulimits.push(ulimit(text)?);
                }
            }
            ("hostname" | "cgroup-parent", _) if value.is_empty() => {}
            _ => return Err(refused(format!("the build option {key}={value}"))),
        }
    }
    Ok(asked)
}

/// Where the context is, when it isn't a folder of the client's.
fn location(
    context: &mut Option<String>,
    upload: &mut Option<String>,
    request: &mut BuildRequest,
    value: &str,
) -> Result<(), Status> {
    if let Some(id) = value.strip_prefix("http://buildkit-session/") {
        *context = None;
        *upload = Some(id.to_string());
    } else if let Some(name) = value.strip_prefix("local:") {
        *context = Some(name.to_string());
    } else {
        *context = None;
        request.context = knarr_build::Context::Url(value.to_string());
    }
    Ok(())
}

/// `NAME=SOFT:HARD`; -1 is no limit.
fn ulimit(text: &str) -> Result<knarr_build::Rlimit, Status> {
    let bad = || Status::new(code::INVALID_ARGUMENT, format!("invalid ulimit {text}"));
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| bad());
    Ok(knarr_build::Rlimit {
        name: name.into(),
        soft: u64::try_from(number(soft)?).ok(),
        hard: u64::try_from(number(hard)?).ok(),
    })
}

fn named(name: &str, value: &str) -> Result<NamedContext, Status> {
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image(image.into()));
    }
    if let Some(stage) = value.strip_prefix("target:") {
        return Ok(NamedContext::Stage(stage.into()));
    }
    let remote = ["https://", "http://", "git@", "ssh://", "git://"];
    match remote.iter().any(|p| value.starts_with(p)) {
        true => Ok(NamedContext::Url(value.into())),
        false => Err(refused(format!("the named context {name}={value}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let inputs = BTreeMap::from([
            ("base".to_string(), Some("a@sha256:b".to_string())),
            ("graph".to_string(), None),
        ]);
        let read = |list: &[(&str, &str)]| {
            let map = list.iter().map(|(k, v)| (k.to_string(), v.to_string()));
            asked(&map.collect(), &[], &inputs)
        };
        let got = read(&[
            ("filename", "a/Dockerfile"),
            ("build-arg:A", "1"),
            ("label:l", "2"),
            ("target", "t"),
            ("no-cache", ""),
            ("image-resolve-mode", "pull"),
            ("platform", "linux/amd64"),
            ("force-network-mode", "none"),
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("context:base", "docker-image://busybox"),
            ("context:src", "local:src"),
            ("ulimit", "nofile=5:-1"),
            ("attest:provenance", "mode=min,inline-only=true"),
            ("local-sessionid:context", "other"),
            ("context:lay", "oci-layout://store:latest@sha256:a"),
            ("context:linked", "input:base"),
            ("context:st", "target:one"),
        ])
        .unwrap();
        assert_eq!(got.dockerfile, "a/Dockerfile");
        assert_eq!(got.context.as_deref(), Some("context"));
        assert_eq!(got.named["src"], "src");
        assert_eq!(got.layouts["lay"], "store:latest@sha256:a");
        assert_eq!(got.attests.len(), 1);
        assert_eq!(got.sessions["context"], "other");
        let request = got.request;
        assert_eq!(
            request.contexts["linked"],
            NamedContext::Image("a@sha256:b".into())
        );
        assert_eq!(request.contexts["st"], NamedContext::Stage("one".into()));
        assert_eq!((&*request.args["A"], &*request.labels["l"]), ("1", "2"));
        assert_eq!(request.target.as_deref(), Some("t"));
        assert_eq!((request.no_cache, request.pull), (NoCache::Always, true));
        assert_eq!(request.add_hosts.len(), 2);
        let limit = &request.ulimits[0];
        assert_eq!((limit.soft, limit.hard), (Some(5), None));
        assert_eq!(
            request.contexts["base"],
            NamedContext::Image("busybox".into())
        );
        let got = read(&[("context", "http://buildkit-session/abc")]).unwrap();
        assert_eq!((got.context, got.upload), (None, Some("abc".into())));
        for (key, value) in [
            ("cgroup-parent", "x"),
            ("context:x", "input:graph"),
            ("context:x", "input:missing"),
            ("novelty", "1"),
        ] {
            let told = read(&[(key, value)]).unwrap_err();
            assert_eq!(told.code, code::UNIMPLEMENTED, "{key}");
        }
    }
}
