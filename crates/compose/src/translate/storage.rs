//! Volumes, configs and secrets.

use super::{Context, dns_name, names::digest};
use crate::{FileObject, FileSource, Mode, Mount, Service, Source, Volume};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Size asked for a named volume; the local provisioner gives the disk's free space and enforces nothing.
const VOLUME_SIZE: &str = "1Gi";
/// The label of claims of volumes without a name.
pub const UNNAMED: &str = "knarr.dev/unnamed";
/// The annotation of such a claim: whose it is, and its place there.
pub const UNNAMED_OF: &str = "knarr.dev/unnamed-of";

/// A named volume's claim.
fn claim_name(key: &str, volume: &Volume) -> String {
    match volume {
        Volume::Claim {
            name: Some(name), ..
        } => dns_name(name),
        _ => dns_name(key),
    }
}

pub(super) fn claims(
    context: &Context<'_>,
    shared: &mut Vec<Value>,
    elsewhere: &mut Vec<(&'static str, String)>,
) {
    for (key, volume) in &context.project.volumes {
        let Volume::Claim {
            labels, external, ..
        } = volume
        else {
            continue;
        };
        let name = claim_name(key, volume);
        if *external {
            elsewhere.push(("PersistentVolumeClaim", name));
            continue;
        }
        let mut metadata = context.meta(name, None);
        super::pod::annotate(&mut metadata, labels);
        shared.push(claim(metadata));
    }
}

/// The places of a service's volumes that have no name and outlast their container: those of the file, and those that the
/// image declares and the file says nothing of.
pub(super) fn unnamed(context: &Context<'_>, service: &Service) -> Vec<String> {
    let lead = service.namespaces.joins.as_ref().unwrap_or(&service.name);
    let mode = context.project.services.get(lead).map(|s| &s.mode);
    let lasts = match mode {
        // Each container has its own on each node.
        None | Some(Mode::Global) => false,
        // Elsewhere nobody can hand each of several its own.
        Some(Mode::Replicated(n)) => context.project.at_home || *n <= 1,
        Some(Mode::Job(..)) => context.project.at_home,
    };
    if !lasts {
        return vec![];
    }
    let of_file = service
        .mounts
        .iter()
        .filter(|m| m.source == Source::Anonymous);
    let mut all: Vec<String> = of_file.map(|m| m.target.clone()).collect();
    all.extend(declared(context, service));
    all
}

/// What the image declares a volume and the file says nothing of.
pub(super) fn declared(context: &Context<'_>, service: &Service) -> Vec<String> {
    let mut taken: BTreeSet<&str> = service.mounts.iter().map(|m| m.target.as_str()).collect();
    let others = service
        .volumes_from
        .iter()
        .filter_map(|(from, _)| context.project.services.get(from));
    let theirs: Vec<String> = others.flat_map(|s| unnamed(context, s)).collect();
    taken.extend(theirs.iter().map(String::as_str));
    let all = context.facts(&service.name).volumes;
    let all = all.iter().map(|t| crate::read::volume::clean(t));
    all.filter(|t| t.starts_with('/') && !taken.contains(t.as_str()))
        .collect()
}

/// Whether it hands a volume without a name on to who comes after it.
pub(super) fn hands_on(context: &Context<'_>, service: &Service) -> bool {
    !unnamed(context, service).is_empty()
}

fn unnamed_claim(context: &Context<'_>, service: &str, target: &str) -> String {
    let known = &context.project.unnamed;
    let key = (service.to_string(), target.to_string());
    known.kept.get(&key).cloned().unwrap_or_else(|| {
        let all = format!("{}\n{service}\n{target}", known.seed);
        dns_name(&format!("{service}-{}", digest(all.as_bytes(), 6)))
    })
}

/// The claims of volumes without a name.
pub(super) fn unnamed_claims(context: &Context<'_>, shared: &mut Vec<Value>) {
    for service in context.project.services.values() {
        for target in unnamed(context, service) {
            let name = unnamed_claim(context, &service.name, &target);
            let mut metadata = context.meta(name, None);
            metadata["labels"][UNNAMED] = json!("true");
            metadata["annotations"] = json!({ UNNAMED_OF: format!("{} {target}", service.name) });
            shared.push(claim(metadata));
        }
    }
}

fn claim(metadata: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": VOLUME_SIZE } } },
    })
}

/// What a config or secret is called: with its content, so that what ran before an update finds what it had.
fn content_name(key: &str, bytes: &[u8]) -> String {
    dns_name(&format!("{key}-{}", digest(bytes, 8)))
}

/// ConfigMaps and Secrets: one each, with the content under its own name.
pub(super) fn objects(
    context: &Context<'_>,
    shared: &mut Vec<Value>,
    elsewhere: &mut Vec<(&'static str, String)>,
) {
    let services = || context.project.services.values();
    let mounted = |key: &String, secret: bool| {
        services().any(|s| {
            let files = if secret { &s.secrets } else { &s.configs };
            files.iter().any(|f| f.source == *key)
        })
    };
    for (key, object) in &context.project.configs {
        match &object.source {
            FileSource::Content(bytes) if mounted(key, false) => {
                let mut made = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": context.meta(content_name(key, bytes), None) });
                super::pod::annotate(&mut made["metadata"], &object.labels);
                match std::str::from_utf8(bytes) {
                    Ok(text) => made["data"] = json!({ key: text }),
                    Err(_) => made["binaryData"] = json!({ key: base64(bytes) }),
                }
                shared.push(made);
            }
            FileSource::External(name) => elsewhere.push(("ConfigMap", dns_name(name))),
            _ => {}
        }
    }
    for (key, object) in &context.project.secrets {
        match &object.source {
            FileSource::Content(bytes) if mounted(key, true) => {
                let mut made = json!({
                    "apiVersion": "v1", "kind": "Secret", "metadata": context.meta(content_name(key, bytes), None),
                    "type": "Opaque", "data": { key: base64(bytes) },
                });
                super::pod::annotate(&mut made["metadata"], &object.labels);
                shared.push(made);
            }
            FileSource::External(name) => elsewhere.push(("Secret", dns_name(name))),
            _ => {}
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Whether it writes files that are there again after it is replaced.
pub(super) fn writes(service: &Service) -> bool {
    service
        .mounts
        .iter()
        .any(|m| !m.read_only && matches!(m.source, Source::Named(_) | Source::Bind { .. }))
}

/// The volumes of one Pod, by name, while its containers' mounts are gathered.
#[derive(Default)]
pub(super) struct Volumes {
    pub all: BTreeMap<String, Value>,
    /// What the contents of configs and secrets come to: a change of them replaces the Pods.
    pub contents: Vec<String>,
    /// Of these claims each Pod has a folder of its own.
    pub own_folders: Vec<String>,
    next: usize,
}

impl Volumes {
    /// A name of its own for something that nobody else names.
    fn fresh(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next - 1)
    }

    fn add(&mut self, name: String, mut volume: Value) -> String {
        volume["name"] = json!(name);
        self.all.insert(name.clone(), volume);
        name
    }

    fn memory(&mut self, size_bytes: Option<u64>) -> String {
        let mut volume = json!({ "emptyDir": { "medium": "Memory" } });
        if let Some(size) = size_bytes {
            volume["emptyDir"]["sizeLimit"] = json!(size.to_string());
        }
        let name = self.fresh("tmpfs");
        self.add(name, volume)
    }

    fn host(&mut self, path: &std::path::Path, create: bool) -> String {
        let mut volume = json!({ "hostPath": { "path": path } });
        // A path that is there may be a file.
        if create && !path.exists() {
            volume["hostPath"]["type"] = json!("DirectoryOrCreate");
        }
        let same = self
            .all
            .iter()
            .find(|(_, v)| v["hostPath"] == volume["hostPath"]);
        match same.map(|(name, _)| name.clone()) {
            Some(name) => name,
            None => {
                let name = self.fresh("bind");
                self.add(name, volume)
            }
        }
    }

    /// What its containers may open of the machine's devices is seen by whoever judges its volumes.
    pub fn all_devices(&mut self) {
        self.host(std::path::Path::new("/dev"), false);
    }

    /// The mount's volume, and its volumeMount.
    pub fn mount(&mut self, context: &Context<'_>, service: &Service, mount: &Mount) -> Value {
        let mut made = json!({ "mountPath": mount.target });
        let mut read_only = mount.read_only;
        let name = match &mount.source {
            Source::Named(key) => match &context.project.volumes[key] {
                volume @ Volume::Claim { .. } => {
                    let claim = claim_name(key, volume);
                    self.add(
                        dns_name(&format!("volume-{key}")),
                        json!({ "persistentVolumeClaim": { "claimName": claim } }),
                    )
                }
                Volume::Host(path) => self.host(path, false),
                Volume::Nfs {
                    server,
                    path,
                    read_only: ro,
                } => {
                    read_only |= ro;
                    self.add(
                        dns_name(&format!("volume-{key}")),
                        json!({ "nfs": { "server": server, "path": path } }),
                    )
                }
                Volume::Tmpfs { size_bytes } => self.memory(*size_bytes),
            },
            Source::Bind {
                path,
                create,
                propagation,
            } => {
                if let Some(p) = propagation {
                    made["mountPropagation"] = json!(p);
                }
                self.host(path, *create)
            }
            Source::Anonymous => {
                let name = self.fresh("anonymous");
                let lasts = unnamed(context, service).contains(&mount.target);
                if lasts && context.project.at_home {
                    self.own_folders.push(name.clone());
                }
                let claim = || unnamed_claim(context, &service.name, &mount.target);
                let volume = match lasts {
                    true => json!({ "persistentVolumeClaim": { "claimName": claim() } }),
                    false => json!({ "emptyDir": {} }),
                };
                self.add(name, volume)
            }
            Source::Tmpfs { size_bytes, .. } => self.memory(*size_bytes),
            Source::Image(reference) => {
                let name = self.fresh("image");
                self.add(
                    name,
                    json!({ "image": { "reference": reference, "pullPolicy": "IfNotPresent" } }),
                )
            }
        };
        made["name"] = json!(name);
        if read_only {
            made["readOnly"] = json!(true);
        }
        if let Some(subpath) = &mount.subpath {
            made["subPath"] = json!(subpath);
        }
        made
    }

    /// A volume without a name of another service's first container.
    pub fn of_other(
        &mut self,
        context: &Context<'_>,
        service: &str,
        target: &str,
        read_only: bool,
    ) -> Value {
        let name = self.fresh("shared");
        let claim = unnamed_claim(context, service, target);
        let volume = json!({ "persistentVolumeClaim": { "claimName": claim } });
        let mut made = json!({ "mountPath": target, "name": self.add(name, volume) });
        if context.project.at_home {
            made["subPath"] = json!("0");
        }
        if read_only {
            made["readOnly"] = json!(true);
        }
        made
    }

    /// A config's or secret's file.
    pub fn file(
        &mut self,
        key: &str,
        object: &FileObject,
        file: &crate::FileMount,
        secret: bool,
    ) -> Value {
        let mode = file.mode.unwrap_or(object.mode);
        let items = json!([{ "key": key, "path": key, "mode": mode }]);
        let own = |name: String| match secret {
            true => json!({ "secret": { "secretName": name, "items": items } }),
            false => json!({ "configMap": { "name": name, "items": items } }),
        };
        let kind = if secret { "secret" } else { "config" };
        let volume = match &object.source {
            FileSource::Path(path) => {
                let name = self.host(path, false);
                return json!({ "name": name, "mountPath": file.target, "readOnly": true });
            }
            FileSource::External(name) => own(dns_name(name)),
            FileSource::Content(bytes) => {
                self.contents.push(digest(bytes, 16));
                own(content_name(key, bytes))
            }
        };
        let name = self.add(dns_name(&format!("{kind}-{key}-{mode:o}")), volume);
        json!({ "name": name, "mountPath": file.target, "subPath": key, "readOnly": true })
    }
}
