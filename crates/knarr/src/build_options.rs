//! The flags of `knarr build`, which are those of `docker buildx build`.

mod call;
mod output;

pub use call::{Call, Question};

use crate::{build_progress::How, error::Error};
use clap::Args;
use knarr_build::{
    Annotations, BuildRequest, CacheFrom, CacheTo, Context, DockerfileFrom, Entitlement,
    NamedContext, NoCache, Output, OutputKind, Secret,
};
use knarr_dockerfile::{Network, Platform};
use knarr_runtime::Rlimit;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

#[derive(Args)]
pub struct BuildArguments {
    /// The build context: a folder, a git or http(s) URL, or - for a Dockerfile or tar archive on standard input
    #[arg(default_value = ".", value_name = "FOLDER|URL|-")]
    pub context: String,
    /// The Dockerfile, - for standard input [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Name for the image; may be repeated
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// NAME=value, or NAME to take it from the environment; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// A further context: NAME=FOLDER, docker-image://IMAGE, oci-layout://FOLDER, target:STAGE or a URL; may be repeated
    #[arg(long, value_name = "NAME=CONTEXT")]
    pub build_context: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long)]
    pub target: Option<String>,
    /// What the image is for, e.g. linux/arm64; with several it is an index
    #[arg(long, value_delimiter = ',')]
    pub platform: Vec<String>,
    /// A label of the image; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// An annotation of the image's manifest, or with index: or manifest-descriptor: before it of these; may be repeated
    #[arg(long, value_name = "[TYPE:]KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Say what packages are in the image, in an SPDX document beside it
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub sbom: Option<String>,
    /// Say how the image was made, beside it: true, or mode=min|max,version=v1|v0.2,builder-id=URL
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "OPTIONS")]
    pub provenance: Option<String>,
    /// The same as type=sbom or type=provenance,OPTION=VALUE,…; may be repeated
    #[arg(long, value_name = "type=TYPE,…")]
    pub attest: Vec<String>,
    /// For RUN --mount=type=secret: id=ID[,src=FILE|,env=NAME]; may be repeated
    #[arg(long, value_name = "id=ID[,src=FILE]")]
    pub secret: Vec<String>,
    /// For RUN --mount=type=ssh: default, or ID=SOCKET of an agent; may be repeated
    #[arg(long, value_name = "default|ID[=SOCKET]")]
    pub ssh: Vec<String>,
    /// A line for /etc/hosts in RUN; may be repeated
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// The network of RUN
    #[arg(long, default_value = "default", value_name = "default|none|host")]
    pub network: String,
    /// Leave for what needs it: network.host, security.insecure; may be repeated
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Run all steps anew
    #[arg(long)]
    pub no_cache: bool,
    /// Run the steps of these stages anew; may be repeated
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Take steps that other machines made: type=registry,ref=NAME, type=local,src=FOLDER, or a name; may be repeated
    #[arg(long, value_name = "type=TYPE,…")]
    pub cache_from: Vec<String>,
    /// Give steps to other machines: type=registry,ref=NAME, type=local,dest=FOLDER or type=inline, mode=min|max; may be repeated
    #[arg(long, value_name = "type=TYPE,…")]
    pub cache_to: Vec<String>,
    /// Ask the registries for newer base images
    #[arg(long)]
    pub pull: bool,
    /// type=image|registry|oci|docker|tar|local|cacheonly,dest=PATH,…, or a folder; with --check: text or json; may be repeated
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// Send the image to the registries of its names
    #[arg(long)]
    pub push: bool,
    /// Put the image into the store, which is done without outputs anyway
    #[arg(long)]
    pub load: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// How the build is shown
    #[arg(long, value_enum, default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: How,
    /// Print only the image's id
    #[arg(short, long)]
    pub quiet: bool,
    /// Size of /dev/shm in RUN, e.g. 64m
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Most memory that all of RUN may use together, e.g. 2g
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// The containers' share of the processors, against 1024 for what else runs
    #[arg(short, long, value_name = "SHARES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub cpu_shares: u64,
    /// A bound of processes of RUN, e.g. nofile=1024:2048; may be repeated
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// The cgroup below which the containers of RUN are
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// What to do with the Dockerfile: build it, check it, or tell its targets or the arguments of one
    #[arg(long, value_name = "build|check|outline|targets[,format=json]", default_value = "build", value_parser = call::call)]
    pub call: Call,
    /// Check the Dockerfile, build nothing
    #[arg(long)]
    pub check: bool,
    /// There for scripts: nothing of a step stays
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub rm: Option<String>,
    /// There for scripts, as --rm
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub force_rm: Option<String>,
    /// There for scripts: a context is not sent anywhere
    #[arg(long, hide = true)]
    pub compress: bool,
    /// There for scripts: there is one builder
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    #[command(flatten)]
    classic: Classic,
}

/// Of Docker's builder before BuildKit: there for scripts, without effect, as with buildx.
#[derive(Args)]
struct Classic {
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    squash: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_content_trust: Option<String>,
}

fn input(text: impl Into<String>) -> Error {
    Error::Input(text.into())
}

/// `a=b,c="d,e"` to pairs; a word alone has no value.
fn fields(text: &str) -> Vec<(String, Option<String>)> {
    let mut all = vec![];
    let (mut field, mut quoted) = (String::new(), false);
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let done = std::mem::take(&mut field);
                all.push(match done.split_once('=') {
                    Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
                    None => (done, None),
                });
            }
            c => field.push(c),
        }
    }
    all
}

/// `64m`
pub fn bytes(text: &str) -> Result<u64, Error> {
    let bad = || input(format!("{text:?} is not a size: use e.g. 64m or 2g"));
    let low = text.to_lowercase();
    let low = low.strip_suffix('b').unwrap_or(&low);
    let digits = low.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &low[digits.len()..] {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        _ => return Err(bad()),
    };
    let number: f64 = digits.parse().map_err(|_| bad())?;
    Ok((number * (1_u64 << shift) as f64) as u64)
}

fn pairs(all: &[String], what: &str) -> Result<BTreeMap<String, String>, Error> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(input(format!("{what} {text:?}: expected KEY=VALUE"))),
    };
    all.iter().map(pair).collect()
}

/// A label without a value is empty.
/// SOURCE: buildx util/buildflags, docker/cli opts.ConvertKVStringsToMap
fn labels(all: &[String]) -> Result<BTreeMap<String, String>, Error> {
    let full = |text: &String| match text.contains('=') {
        true => text.clone(),
        false => format!("{text}="),
    };
    pairs(&all.iter().map(full).collect::<Vec<_>>(), "label")
}

fn is_url(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"]
        .iter()
        .any(|p| text.starts_with(p))
        || text.starts_with("github.com/")
}

fn named(text: &str) -> Result<(String, NamedContext), Error> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| input(format!("invalid context value: {text}, expected key=value")))?;
    let context = if let Some(image) = value.strip_prefix("docker-image://") {
        NamedContext::Image(image.into())
    } else if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (folder, digest) = match layout.split_once('@') {
            Some((folder, digest)) => (folder, Some(digest.to_owned())),
            None => (layout, None),
        };
        let tag = || {
            folder
                .rsplit_once(':')
                .filter(|(_, tag)| !tag.contains('/'))
        };
        let (folder, tag) = match tag() {
            Some((folder, tag)) if !Path::new(folder).join(tag).exists() => {
                (folder, Some(tag.to_owned()))
            }
            _ => (folder, None),
        };
        NamedContext::Layout {
            folder: folder.into(),
            reference: digest.or(tag),
        }
    } else if let Some(stage) = value.strip_prefix("target:") {
        NamedContext::Stage(stage.into())
    } else if is_url(value) {
        NamedContext::Url(value.into())
    } else if Path::new(value).is_dir() {
        NamedContext::Folder(value.into())
    } else {
        return Err(input(format!("build context {name}: {value} is no folder")));
    };
    Ok((name.to_owned(), context))
}

fn secret(text: &str) -> Result<(String, Secret), Error> {
    let bad = |why: &str| input(format!("secret {text:?}: {why}"));
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for (key, value) in fields(text) {
        let value =
            value.ok_or_else(|| bad(&format!("invalid field '{key}' must be a key=value pair")))?;
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => env = Some(value),
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(bad(&format!("unsupported secret type {value:?}"))),
            _ => return Err(bad(&format!("unexpected key '{key}'"))),
        }
    }
    if kind.as_deref() == Some("env") && env.is_none() {
        env = file.take();
    }
    let id = id.ok_or_else(|| bad("an id is needed"))?;
    let from = |name: &str| {
        std::env::var_os(name).map(|v| {
            use std::os::unix::ffi::OsStringExt;
            Secret::Bytes(v.into_vec())
        })
    };
    let secret = match (file, env) {
        (Some(file), _) => Secret::File(file.into()),
        (None, Some(name)) => {
            from(&name).ok_or_else(|| bad(&format!("{name} is not in the environment")))?
        }
        // SOURCE: buildx secretsprovider: the variable of that name, else the file
        (None, None) => from(&id).unwrap_or_else(|| Secret::File(id.clone().into())),
    };
    if let Secret::File(path) = &secret
        && !path.is_file()
    {
        return Err(bad(&format!("{} is no file", path.display())));
    }
    Ok((id, secret))
}

fn agent(text: &str) -> Result<(String, PathBuf), Error> {
    let (id, path) = match text.split_once('=') {
        Some((id, path)) => (id.to_owned(), PathBuf::from(path)),
        None => {
            let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or_else(|| {
                input("--ssh: there is no agent (SSH_AUTH_SOCK is not set): start one with `eval $(ssh-agent)`")
            })?;
            (text.to_owned(), socket.into())
        }
    };
    use std::os::unix::fs::FileTypeExt;
    match std::fs::metadata(&path) {
        Ok(m) if m.file_type().is_socket() => Ok((id, path)),
        Ok(_) => Err(input(format!(
            "--ssh {text}: {} is no agent's socket; keys are given to an agent with `ssh-add`",
            path.display()
        ))),
        Err(e) => Err(input(format!("--ssh {text}: {}: {e}", path.display()))),
    }
}

impl BuildArguments {
    /// What matters to the checks.
    pub fn request_for_check(&self) -> Result<BuildRequest, Error> {
        self.asked(vec![])
    }
    /// What they ask for. The context of standard input is read by the caller.
    pub fn request(&self) -> Result<BuildRequest, Error> {
        let outputs = self.output.iter().map(|o| output::output(o));
        let mut outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        // SOURCE: buildx commands/build.go: they are said of an image output that is there, or are one more
        if self.push || self.load {
            match outputs.iter_mut().find(|o| o.kind == OutputKind::Image) {
                Some(output) => output.push |= self.push,
                None => outputs.push(Output {
                    push: self.push,
                    ..Output::default()
                }),
            }
        }
        self.asked(outputs)
    }
    /// What is asked instead of a build.
    pub fn call(&self) -> Option<Call> {
        let mut call = match self.check {
            true => Call::of(Question::Check),
            false => self.call,
        };
        call.json |= self.output.iter().any(|output| output == "json");
        Some(call).filter(|call| call.question != Question::Build)
    }
    fn asked(&self, outputs: Vec<Output>) -> Result<BuildRequest, Error> {
        let mut args = BTreeMap::new();
        for arg in &self.build_arg {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), std::env::var(arg).ok()),
            };
            args.extend(value.map(|value| (name.to_owned(), value)));
        }
        let platform = |text: &String| match text.as_str() {
            "local" => Ok(Platform::host()),
            text => Platform::parse(text).map_err(|e| input(e.to_string())),
        };
        let host = |text: &String| {
            let pair = text.split_once('=').or_else(|| text.split_once(':'));
            pair.map(|(host, ip)| (host.to_owned(), ip.trim_matches(['[', ']']).to_owned()))
                .filter(|(_, ip)| ip == "host-gateway" || ip.parse::<std::net::IpAddr>().is_ok())
                .ok_or_else(|| input(format!("bad format for add-host: {text:?}: use HOST:IP")))
        };
        let allow = |text: &String| {
            Entitlement::parse(text).ok_or_else(|| {
                input(format!(
                    "{text:?}: the entitlements are network.host and security.insecure"
                ))
            })
        };
        let mut attestations = knarr_build::attest::Attestations::default();
        let attest = self.attest.iter().map(|value| ("", value));
        let sbom = self.sbom.iter().map(|value| ("sbom", value));
        let provenance = self.provenance.iter().map(|value| ("provenance", value));
        for (kind, value) in attest.chain(sbom).chain(provenance) {
            let added = attestations.add(kind, value);
            added.map_err(|e| input(e.to_string()))?;
        }
        let mut annotations = Annotations::default();
        for text in &self.annotation {
            annotations.add(text).map_err(input)?;
        }
        let mut allow: BTreeSet<Entitlement> =
            self.allow.iter().map(allow).collect::<Result<_, _>>()?;
        // SOURCE: buildx build/opt.go: who asks for the machine's network for all steps has allowed it
        if self.network == "host" {
            allow.insert(Entitlement::NetworkHost);
        }
        let from = self.cache_from.iter().map(|t| CacheFrom::parse(t));
        let to = self.cache_to.iter().map(|t| CacheTo::parse(t));
        Ok(BuildRequest {
            lender: None,
            attestations,
            context: match self.context.as_str() {
                "-" => Context::Empty,
                url if is_url(url) => Context::Url(url.into()),
                // SOURCE: buildx build/build.go
                folder if !Path::new(folder).exists() => {
                    return Err(input(format!(
                        "unable to prepare context: path {folder:?} not found"
                    )));
                }
                folder => Context::Folder(folder.into()),
            },
            dockerfile: match &self.file {
                None => DockerfileFrom::default(),
                Some(file) if is_url(&self.context) => DockerfileFrom::Context(file.clone()),
                Some(file) => DockerfileFrom::File(file.clone()),
            },
            target: self.target.clone(),
            args,
            labels: labels(&self.label)?,
            annotations,
            contexts: self
                .build_context
                .iter()
                .map(|c| named(c))
                .collect::<Result<_, _>>()?,
            secrets: self
                .secret
                .iter()
                .map(|s| secret(s))
                .collect::<Result<_, _>>()?,
            ssh: self
                .ssh
                .iter()
                .map(|s| agent(s))
                .collect::<Result<_, _>>()?,
            no_cache: match (self.no_cache, self.no_cache_filter.as_slice()) {
                (true, _) => NoCache::Always,
                (false, []) => NoCache::Never,
                (false, stages) => NoCache::Stages(stages.to_vec()),
            },
            pull: self.pull,
            platforms: self
                .platform
                .iter()
                .map(platform)
                .collect::<Result<_, _>>()?,
            tags: self.tag.clone(),
            network: match self.network.as_str() {
                "default" => Network::Default,
                "none" => Network::None,
                "host" => Network::Host,
                other => {
                    return Err(input(format!(
                        "network mode {other:?} not supported by buildkit: use default, none or host"
                    )));
                }
            },
            add_hosts: self.add_host.iter().map(host).collect::<Result<_, _>>()?,
            allow,
            source_date_epoch: match std::env::var("SOURCE_DATE_EPOCH") {
                Ok(text) if !text.is_empty() => Some(text.parse().map_err(|_| {
                    input(format!(
                        "invalid SOURCE_DATE_EPOCH: {text}: it is seconds since 1970"
                    ))
                })?),
                _ => None,
            },
            not_stored: !outputs.is_empty() && self.tag.is_empty(),
            outputs,
            cache_from: from.collect::<Result<_, _>>().map_err(input)?,
            cache_to: to.collect::<Result<_, _>>().map_err(input)?,
            ulimits: self
                .ulimit
                .iter()
                .map(|u| u.parse::<Rlimit>().map_err(input))
                .collect::<Result<_, _>>()?,
            shm_size: self.shm_size.as_deref().map_or(Ok(0), bytes)?,
        })
    }
    /// `--memory` in bytes.
    pub fn memory_bytes(&self) -> Result<Option<i64>, Error> {
        let bytes = self.memory.as_deref().map(bytes).transpose()?;
        Ok(bytes.and_then(|b| i64::try_from(b).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("64m", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("2GB", Some(2 << 30)),
            ("x", None),
        ] {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
    }
}
