//! `apiserver.config.k8s.io/v1` EncryptionConfiguration, with upstream's rules and words
//! (apiserver `pkg/apis/apiserver/validation`).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Provider,
    cipher::{self, Provider as Kind},
    kms::{self, Kms, Settings},
};

/// Which resources are written how: by the first provider. All read.
pub struct Rule {
    pub patterns: Vec<Pattern>,
    pub providers: Vec<Provider>,
}

/// `secrets`, `*.apps`, `*.`, `*.*`.
pub struct Pattern {
    /// None: all
    group: Option<String>,
    /// None: all
    plural: Option<String>,
}

impl Pattern {
    pub fn read(text: &str) -> Pattern {
        let (plural, group) = text.split_once('.').unwrap_or((text, ""));
        let all = |t: &str| (t != "*").then(|| t.to_string());
        Pattern {
            group: all(group),
            plural: all(plural),
        }
    }
    /// Does the store's key belong to such a resource?
    pub fn fits(&self, key: &str) -> bool {
        let mut parts = key.strip_prefix("/registry/").unwrap_or("").split('/');
        let (group, plural) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let group = if group == "core" { "" } else { group };
        self.group.as_deref().is_none_or(|g| g == group)
            && self.plural.as_deref().is_none_or(|p| p == plural)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Providers>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Providers {
    identity: Option<Value>,
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    kms: Option<KmsSettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsSettings {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    name: String,
    cachesize: Option<i32>,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

/// The rules of a configuration; Err says which field is wrong, and never a key.
pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let c: Configuration = serde_saphyr::from_str(text).map_err(|e| {
        // the parser shows the text around an error, which may be a key
        let text = e.to_string();
        text.lines().next().unwrap_or_default().to_string()
    })?;
    if c.api_version != "apiserver.config.k8s.io/v1" || c.kind != "EncryptionConfiguration" {
        return Err(format!(
            "it must have apiVersion: apiserver.config.k8s.io/v1 and kind: EncryptionConfiguration, not {:?} and {:?}",
            c.api_version, c.kind
        ));
    }
    if c.resources.is_empty() {
        return Err("resources: Required value: at least one resources is required".into());
    }
    let mut names = vec![];
    for (i, r) in c.resources.iter().enumerate() {
        for (j, p) in r.providers.iter().enumerate() {
            let Some(kms) = &p.kms else { continue };
            let path = format!("resources[{i}].providers[{j}].kms");
            if names.contains(&kms.name.as_str()) {
                let name = &kms.name;
                return Err(format!(
                    "{path}.name: Invalid value: {name:?}: duplicate KMS provider name {name}, names must be unique"
                ));
            }
            plugin(&path, kms)?;
            names.push(kms.name.as_str());
        }
    }
    let rules = c.resources.iter().enumerate();
    rules
        .map(|(i, r)| rule(&format!("resources[{i}]"), r))
        .collect()
}

fn rule(path: &str, r: &Resources) -> Result<Rule, String> {
    if r.resources.is_empty() {
        return Err(format!(
            "{path}.resources: Required value: at least one {path}.resources is required"
        ));
    }
    if r.providers.is_empty() {
        return Err(format!(
            "{path}.providers: Required value: at least one {path}.providers is required"
        ));
    }
    for (i, name) in r.resources.iter().enumerate() {
        let why = match name.as_str() {
            n if n.chars().any(char::is_uppercase) => {
                "resource name should not contain capital letters"
            }
            "*" => {
                "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
            }
            n if r.resources[..i].iter().any(|o| o == n) => {
                "the same resource cannot be specified multiple times"
            }
            _ => continue,
        };
        return Err(format!(
            "{path}.resources[{i}]: Invalid value: {name:?}: {why}"
        ));
    }
    let providers = r.providers.iter().enumerate();
    Ok(Rule {
        patterns: r.resources.iter().map(|n| Pattern::read(n)).collect(),
        providers: providers
            .map(|(i, p)| provider(&format!("{path}.providers[{i}]"), p))
            .collect::<Result<_, _>>()?,
    })
}

fn provider(path: &str, p: &Providers) -> Result<Provider, String> {
    let all = [
        (Kind::AesGcm, &p.aesgcm),
        (Kind::AesCbc, &p.aescbc),
        (Kind::SecretBox, &p.secretbox),
    ];
    let mut given = all
        .iter()
        .filter_map(|(kind, keys)| Some((*kind, keys.as_ref()?)));
    let first = given.next();
    let more = given.count();
    let others = usize::from(p.identity.is_some()) + usize::from(p.kms.is_some());
    if more + others + usize::from(first.is_some()) > 1 {
        return Err(format!(
            "{path}: Invalid value: more than one provider specified in a single element, should split into different list elements"
        ));
    }
    match first {
        Some((kind, keys)) => {
            let path = format!("{path}.{}.keys", kind.name());
            ciphers(&path, kind, &keys.keys).map(Provider::Keys)
        }
        None if p.identity.is_some() => Ok(Provider::Identity),
        None if p.kms.is_some() => {
            let settings = p.kms.iter().map(|k| plugin(&format!("{path}.kms"), k));
            let opened = settings.map(|s| Kms::open(s?)).next();
            // there is one
            opened
                .unwrap_or_else(|| Err(path.to_string()))
                .map(Provider::Kms)
        }
        None => Err(format!(
            "{path}: Invalid value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
        )),
    }
}

/// Upstream's words for what is wrong.
fn plugin(path: &str, k: &KmsSettings) -> Result<Settings, String> {
    let name = &k.name;
    if name.is_empty() {
        return Err(format!(
            "{path}.name: Required value: name is a mandatory field for a provider"
        ));
    }
    if name.contains(':') {
        return Err(format!(
            "{path}.name: Invalid value: {name:?}: invalid KMS provider name {name}, must not contain ':'"
        ));
    }
    let timeout = k.timeout.as_deref().unwrap_or("3s");
    let nanos = knarr_schema::duration(timeout)
        .ok_or_else(|| format!("{path}.timeout: {timeout:?} is no duration"))?;
    let timeout = match u64::try_from(nanos) {
        Ok(nanos @ 1..) => Duration::from_nanos(nanos),
        _ => {
            return Err(format!(
                "{path}.timeout: Invalid value: {timeout:?}: timeout should be a positive value"
            ));
        }
    };
    let endpoint = &k.endpoint;
    if endpoint.is_empty() {
        return Err(format!(
            "{path}.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms"
        ));
    }
    let socket = kms::socket(endpoint)
        .map_err(|why| format!("{path}.endpoint: Invalid value: {endpoint:?}: {why}"))?;
    match k.api_version.as_str() {
        "v2" => {}
        "" | "v1" => {
            return Err(format!(
                "{path}.apiVersion: KMSv1 is deprecated and is not supported here: use apiVersion: v2"
            ));
        }
        other => {
            return Err(format!(
                "{path}.apiVersion: Invalid value: {other:?}: unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"
            ));
        }
    }
    if let Some(size) = k.cachesize {
        return Err(format!(
            "{path}.cachesize: Invalid value: {size}: cachesize is not supported in v2"
        ));
    }
    Ok(Settings {
        name: name.clone(),
        socket,
        timeout,
    })
}

fn ciphers(path: &str, kind: Kind, keys: &[Key]) -> Result<Vec<cipher::Key>, String> {
    if keys.is_empty() {
        return Err(format!(
            "{path}: Required value: at least one keys is required"
        ));
    }
    let one = |(i, key): (usize, &Key)| {
        let path = format!("{path}[{i}]");
        let secret = format!("{path}.secret");
        if key.name.is_empty() {
            return Err(format!(
                "{path}.name: Required value: name is a mandatory field for a key"
            ));
        }
        if key.name.len() > 128 {
            return Err(format!(
                "{path}.name: Too long: may not be more than 128 bytes"
            ));
        }
        if key.secret.is_empty() {
            return Err(format!(
                "{secret}: Required value: secret is a mandatory field for a key"
            ));
        }
        let Ok(bytes) = STANDARD.decode(&key.secret) else {
            return Err(format!(
                "{secret}: Invalid value: \"REDACTED\": secrets must be base64 encoded"
            ));
        };
        cipher::Key::new(kind, &key.name, &bytes).ok_or_else(|| {
            format!(
                "{secret}: Invalid value: \"REDACTED\": secret is not of the expected length, got {}, expected one of {:?}",
                bytes.len(),
                kind.key_bytes()
            )
        })
    };
    keys.iter().enumerate().map(one).collect()
}
