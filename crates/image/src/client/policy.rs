//! Which images may be pulled: containers-policy.json(5).
//!
//! Source: containers/image `docs/containers-policy.json.5.md`, `signature/policy_config.go` (what is refused in a file),
//! `docker/policyconfiguration` (which scopes an image has), `signature/policy_reference_match.go`.

use super::{ClientConfig, Error, Reference, signatures::Key};
use base64::Engine;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The most bytes of a policy, and of a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where podman and skopeo look.
pub(super) fn default_files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty());
    let own = home.map(|h| PathBuf::from(h).join(".config/containers/policy.json"));
    own.into_iter()
        .chain([PathBuf::from("/etc/containers/policy.json")])
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// One of what must all hold.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Requirement {
    InsecureAcceptAnything {},
    Reject {},
    SigstoreSigned(Box<Sigstore>),
    /// GPG's, whatever it asks for.
    SignedBy(serde::de::IgnoredAny),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Sigstore {
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    fulcio: Option<serde_json::Value>,
    pki: Option<serde_json::Value>,
    rekor_public_key_path: Option<serde_json::Value>,
    rekor_public_key_paths: Option<serde_json::Value>,
    rekor_public_key_data: Option<serde_json::Value>,
    rekor_public_key_datas: Option<serde_json::Value>,
    signed_identity: Identity,
}

/// What a signature must say that it signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(super) enum Identity {
    MatchExact {},
    #[default]
    #[serde(rename = "matchRepoDigestOrExact")]
    RepoDigestOrExact,
    MatchRepository {},
    ExactReference {
        docker_reference: String,
    },
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename = "remapIdentity")]
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

/// What a policy asks of one image.
#[derive(Debug)]
pub(super) enum Wanted {
    Nothing,
    Signatures(Vec<Signed>),
}

/// A signature by one of the keys, for this identity.
#[derive(Debug)]
pub(super) struct Signed {
    pub keys: Vec<Key>,
    pub identity: Identity,
}

/// Where a policy was found, and what it asks of an image. None: there is no policy.
///
/// # Errors
/// `Policy` when the image isn't allowed whatever signatures it has; `Config` when the file, or a key, is not what it should be:
/// then nothing may be pulled.
pub(super) fn of(
    config: &ClientConfig,
    image: &Reference,
) -> Result<Option<(PathBuf, Wanted)>, Error> {
    let usual = || config.policies.iter().find(|f| f.exists());
    let Some(path) = config.signature_policy.as_ref().or_else(usual) else {
        return Ok(None);
    };
    let bytes = read(path)?;
    let told = |why: String| Error::Config {
        path: path.display().to_string(),
        why,
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|e| {
        told(format!(
            "no policy as containers-policy.json(5) has it: {e}"
        ))
    })?;
    let lists = file.transports.values().flat_map(BTreeMap::values);
    if lists.chain([&file.default]).any(Vec::is_empty) {
        return Err(told("a list of requirements is empty".into()));
    }
    let scopes = file.transports.get("docker");
    let requirements = scopes
        .and_then(|scopes| scopes_of(image).iter().find_map(|s| scopes.get(s)))
        .unwrap_or(&file.default);
    let refused = |why: String| Error::Policy {
        path: path.display().to_string(),
        image: image.to_string(),
        why,
    };
    let mut signed = Vec::new();
    for requirement in requirements {
        match requirement {
            Requirement::InsecureAcceptAnything {} => {}
            Requirement::Reject {} => {
                return Err(refused("it rejects all images of this scope".into()));
            }
            Requirement::SignedBy(_) => {
                let why = "signedBy asks for a GPG signature, which knarr does not check; sigstoreSigned with a key it does";
                return Err(refused(why.into()));
            }
            Requirement::SigstoreSigned(sigstore) => {
                signed.push(Signed {
                    keys: keys(sigstore, path).map_err(|e| match e {
                        Problem::Unknown(why) => refused(why),
                        Problem::Broken(error) => error,
                    })?,
                    identity: sigstore.signed_identity.clone(),
                });
            }
        }
    }
    let wanted = match signed.is_empty() {
        true => Wanted::Nothing,
        false => Wanted::Signatures(signed),
    };
    Ok(Some((path.clone(), wanted)))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let told = |why: String| Error::Config {
        path: path.display().to_string(),
        why,
    };
    let size = std::fs::metadata(path)
        .map_err(|e| told(e.to_string()))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(told("it is too large".into()));
    }
    std::fs::read(path).map_err(|e| told(e.to_string()))
}

enum Problem {
    /// A way of signing that isn't known here.
    Unknown(String),
    Broken(Error),
}

fn keys(sigstore: &Sigstore, policy: &Path) -> Result<Vec<Key>, Problem> {
    for (name, set) in [
        ("fulcio", sigstore.fulcio.is_some()),
        ("pki", sigstore.pki.is_some()),
        (
            "rekorPublicKeyPath",
            sigstore.rekor_public_key_path.is_some(),
        ),
        (
            "rekorPublicKeyPaths",
            sigstore.rekor_public_key_paths.is_some(),
        ),
        (
            "rekorPublicKeyData",
            sigstore.rekor_public_key_data.is_some(),
        ),
        (
            "rekorPublicKeyDatas",
            sigstore.rekor_public_key_datas.is_some(),
        ),
    ] {
        if set {
            return Err(Problem::Unknown(format!(
                "sigstoreSigned asks for {name}, which knarr does not check; keyPath and keyData it does"
            )));
        }
    }
    let told = |why: String| {
        Problem::Broken(Error::Config {
            path: policy.display().to_string(),
            why,
        })
    };
    let set = [
        sigstore.key_path.is_some(),
        sigstore.key_paths.is_some(),
        sigstore.key_data.is_some(),
        sigstore.key_datas.is_some(),
    ];
    if set.into_iter().filter(|s| *s).count() != 1 {
        let why = "sigstoreSigned needs exactly one of keyPath, keyPaths, keyData, keyDatas";
        return Err(told(why.into()));
    }
    let mut keys = Vec::new();
    for path in sigstore
        .key_path
        .iter()
        .chain(sigstore.key_paths.iter().flatten())
    {
        let pem = read(path).map_err(Problem::Broken)?;
        let key = Key::from_pem(&pem);
        keys.push(key.map_err(|why| told(format!("{}: {why}", path.display())))?);
    }
    for data in sigstore
        .key_data
        .iter()
        .chain(sigstore.key_datas.iter().flatten())
    {
        let pem = base64::engine::general_purpose::STANDARD
            .decode(data)
            .map_err(|e| told(format!("keyData: {e}")))?;
        keys.push(Key::from_pem(&pem).map_err(|why| told(format!("keyData: {why}")))?);
    }
    match keys.is_empty() {
        true => Err(told("sigstoreSigned has no key".into())),
        false => Ok(keys),
    }
}

/// The scopes of transport `docker` that an image lies in, the closest first.
fn scopes_of(image: &Reference) -> Vec<String> {
    let name = image.name();
    let mut scopes = vec![match (&image.digest, &image.tag) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, tag) => format!("{name}:{}", tag.as_deref().unwrap_or("latest")),
    }];
    let mut rest = name.as_str();
    loop {
        scopes.push(rest.into());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    let mut host = image.registry.as_str();
    while let Some((_, above)) = host.split_once('.') {
        scopes.push(format!("*.{above}"));
        host = above;
    }
    scopes.push(String::new());
    scopes
}

/// A reference as a signature or a policy writes it: nothing is added that isn't written.
struct Written {
    name: String,
    /// `:TAG` or `@DIGEST`, or both.
    rest: String,
}

impl Written {
    fn parse(text: &str) -> Option<Written> {
        let parsed = Reference::parse(text).ok()?;
        let bare = text.split('@').next().unwrap_or(text);
        let last = bare.rsplit('/').next().unwrap_or(bare);
        let tag = last.split_once(':').map(|(_, tag)| format!(":{tag}"));
        let digest = parsed.digest.as_ref().map(|d| format!("@{d}"));
        Some(Written {
            name: parsed.name(),
            rest: tag.unwrap_or_default() + &digest.unwrap_or_default(),
        })
    }

    /// The same, and said whole.
    fn is(&self, other: &Written) -> bool {
        !self.rest.is_empty() && self.name == other.name && self.rest == other.rest
    }
}

impl Identity {
    /// Whether a signature that says it signs `signed` counts for `image`.
    pub fn fits(&self, image: &Reference, signed: &str) -> bool {
        let Some(signed) = Written::parse(signed) else {
            return false;
        };
        let intended = Written {
            name: image.name(),
            rest: match (&image.digest, &image.tag) {
                (Some(digest), _) => format!("@{digest}"),
                (None, tag) => format!(":{}", tag.as_deref().unwrap_or("latest")),
            },
        };
        let digest_or_exact = |intended: &Written| match image.digest.is_some() {
            true => !signed.rest.is_empty() && signed.name == intended.name,
            false => signed.is(intended),
        };
        let same_name = |text: &str| Written::parse(text).is_some_and(|t| t.name == signed.name);
        match self {
            Identity::MatchExact {} => signed.is(&intended),
            Identity::RepoDigestOrExact => digest_or_exact(&intended),
            Identity::MatchRepository {} => signed.name == intended.name,
            Identity::ExactReference { docker_reference } => {
                Written::parse(docker_reference).is_some_and(|wanted| signed.is(&wanted))
            }
            Identity::ExactRepository { docker_repository } => same_name(docker_repository),
            Identity::Remap {
                prefix,
                signed_prefix,
            } => {
                let below = intended.name.strip_prefix(prefix.as_str());
                let below = below.filter(|b| b.is_empty() || b.starts_with('/'));
                let name = match below {
                    Some(below) => format!("{signed_prefix}{below}"),
                    None => intended.name.clone(),
                };
                digest_or_exact(&Written {
                    name,
                    rest: intended.rest,
                })
            }
        }
    }
}
