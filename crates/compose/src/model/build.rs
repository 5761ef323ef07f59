//! `build:`.

use super::values;
use crate::{Error, tree::Node};
use std::{collections::BTreeMap, path::PathBuf};

/// Where a build's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// Absolute.
    Folder(PathBuf),
    /// A Git or HTTP URL.
    Remote(String),
    /// `docker-image://…`, `oci-layout://…`
    Image(String),
    /// What another service builds.
    Service(String),
}

/// A secret of a build: its id, and the name of the project's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSecret {
    pub id: String,
    pub secret: String,
}

/// How a service's image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub context: Context,
    pub dockerfile: String,
    pub dockerfile_inline: Option<String>,
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
    pub additional_contexts: BTreeMap<String, Context>,
    pub secrets: Vec<BuildSecret>,
    /// Id and socket or key; None: the agent's socket of the environment.
    pub ssh: Vec<(String, Option<String>)>,
    pub labels: BTreeMap<String, String>,
    /// Further names of the image.
    pub tags: Vec<String>,
    pub network: Option<String>,
    pub no_cache: bool,
    /// Stages that are built anew.
    pub no_cache_filter: Vec<String>,
    pub pull: bool,
    pub platforms: Vec<String>,
    pub shm_size_bytes: Option<u64>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    /// `HOST=ADDRESS`
    pub extra_hosts: Vec<(String, String)>,
    pub entitlements: Vec<String>,
    pub privileged: bool,
    pub provenance: Option<String>,
    pub sbom: Option<String>,
    /// Name → (soft, hard); -1: none.
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// `x-knarr: {cargo: <package>}`: built by the machine's cargo and packed.
    pub cargo: Option<String>,
}

impl Build {
    /// The services whose images it is built on.
    pub fn bases(&self) -> Vec<String> {
        let of = |context: &Context| match context {
            Context::Service(name) => Some(name.clone()),
            _ => None,
        };
        self.additional_contexts.values().filter_map(of).collect()
    }
}

pub(super) fn build(service: &Node) -> Result<Option<Build>, Error> {
    let Some(node) = service.get("build") else {
        return Ok(None);
    };
    let text = node.text_of("context").unwrap_or_default();
    let at = node.get("context").unwrap_or(node);
    let inline = node.text_of("dockerfile_inline");
    let context = context(&text);
    if let Context::Folder(path) = &context
        && !path.is_dir()
    {
        return Err(at.error(format!(
            "the build context {} is not a folder: create it, or correct the path",
            path.display()
        )));
    }
    let cargo = node
        .map()
        .and_then(|m| m.get("x-knarr"))
        .and_then(|x| x.text_of("cargo"));
    if let Some(at) = node.get("isolation") {
        return Err(at.error("build.isolation: knarr cannot honour it: leave it out"));
    }
    let secrets = node.get("secrets").map(Node::items).unwrap_or_default();
    Ok(Some(Build {
        context,
        dockerfile: node.text_of("dockerfile").unwrap_or("Dockerfile".into()),
        dockerfile_inline: inline,
        args: values::pairs(node, "args").into_iter().collect(),
        target: node.text_of("target"),
        additional_contexts: values::pairs(node, "additional_contexts")
            .into_iter()
            .map(|(k, v)| (k, self::context(&v)))
            .collect(),
        secrets: secrets
            .iter()
            .map(|s| {
                let secret = s.text_of("source").unwrap_or_default();
                BuildSecret {
                    id: s.text_of("target").unwrap_or(secret.clone()),
                    secret,
                }
            })
            .collect(),
        ssh: node
            .get("ssh")
            .and_then(Node::map)
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.scalar().filter(|s| !s.is_empty())))
            .collect(),
        labels: values::pairs(node, "labels").into_iter().collect(),
        tags: node.texts_of("tags"),
        network: node.text_of("network"),
        no_cache: node.bool_of("no_cache"),
        no_cache_filter: node.texts_of("no_cache_filter"),
        pull: node.bool_of("pull"),
        platforms: node.texts_of("platforms"),
        shm_size_bytes: values::size(node, "shm_size")?,
        cache_from: node.texts_of("cache_from"),
        cache_to: node.texts_of("cache_to"),
        extra_hosts: super::networking::extra_hosts(node),
        entitlements: node.texts_of("entitlements"),
        privileged: node.bool_of("privileged"),
        provenance: node.text_of("provenance"),
        sbom: node.text_of("sbom"),
        ulimits: super::service::ulimits(node)?,
        cargo,
    }))
}

fn context(text: &str) -> Context {
    if let Some(service) = text.strip_prefix("service:") {
        return Context::Service(service.into());
    }
    if text.starts_with("docker-image://") || text.starts_with("oci-layout://") {
        return Context::Image(text.into());
    }
    match text.starts_with('/') {
        true => Context::Folder(text.into()),
        false => Context::Remote(text.into()),
    }
}
