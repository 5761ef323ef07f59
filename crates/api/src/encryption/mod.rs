//! What is sealed on disk, and with which key.
//!
//! Secrets are sealed with AES-256-GCM by a key that the first start makes (`encryption.key` beside the platform's other
//! keys). A file in upstream's format (`apiserver.config.k8s.io/v1` EncryptionConfiguration) may name other resources and
//! keys. Sealed values are told from plain ones by their beginning, `k8s:enc:`, as in upstream's storage; the object's key in
//! the store is authenticated with them, so that no value can be put in another's place.

mod cipher;
mod config;
mod kms;
mod own;

use std::{path::Path, sync::Arc};

use knarr_store::{Sealer, Unsealed};

use cipher::Key;
use config::{Pattern, Rule};
use kms::Kms;
use own::Own;

/// What every sealed value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// Why values can't be sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key's file.
    #[error(transparent)]
    Key(#[from] crate::pki::Error),
    /// The configuration's file can't be read.
    #[error("the encryption configuration {path} can't be read: {source}")]
    Read {
        /// which
        path: std::path::PathBuf,
        /// why
        source: std::io::Error,
    },
    /// It says something impossible.
    #[error("the encryption configuration {path} can't be used: {why}")]
    Config {
        /// which
        path: std::path::PathBuf,
        /// why
        why: String,
    },
}

/// One way to write values.
enum Provider {
    /// As they are.
    Identity,
    /// Keys of the configuration; the first one writes.
    Keys(Vec<Key>),
    /// A plug-in's.
    Kms(Kms),
    /// The platform's own.
    Own,
}

/// The rules and keys in use.
pub struct Encryption {
    rules: Vec<Rule>,
    own: Own,
}

impl Encryption {
    /// Reads the configuration, if one is given, and reads or makes the platform's own key; blocking.
    pub fn open(pki_dir: &Path, config: Option<&Path>) -> Result<Arc<Encryption>, Error> {
        let mut rules = match config {
            None => vec![],
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
                    path: path.into(),
                    source,
                })?;
                config::parse(&text).map_err(|why| Error::Config {
                    path: path.into(),
                    why,
                })?
            }
        };
        // what the configuration doesn't name keeps its default
        rules.push(Rule {
            patterns: vec![Pattern::read("secrets")],
            providers: vec![Provider::Own],
        });
        Ok(Arc::new(Encryption {
            rules,
            own: Own::open(pki_dir)?,
        }))
    }

    /// The provider that writes values at this key of the store.
    fn writer(&self, key: &str) -> &Provider {
        let rule = self
            .rules
            .iter()
            .find(|r| r.patterns.iter().any(|p| p.fits(key)));
        rule.and_then(|r| r.providers.first())
            .unwrap_or(&Provider::Identity)
    }

    /// All keys that configurations name, and whether each is the first of its provider.
    fn ciphers(&self) -> impl Iterator<Item = &Key> {
        let providers = self.rules.iter().flat_map(|r| &r.providers);
        providers
            .filter_map(|p| match p {
                Provider::Keys(keys) => Some(keys),
                _ => None,
            })
            .flatten()
    }
}

impl Sealer for Encryption {
    fn seal(&self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self.writer(key) {
            Provider::Identity => Ok(None),
            Provider::Own => self.own.seal(key, value).map(Some),
            Provider::Kms(kms) => kms.seal(key, value).map(Some),
            Provider::Keys(keys) => match keys.first() {
                Some(first) => first.seal(key, value).map(Some),
                None => Err("a provider without keys".into()), // the configuration's check refuses it
            },
        }
    }

    fn unseal(&self, key: &str, written: &[u8]) -> Result<Unsealed, String> {
        let writer = self.writer(key);
        if !written.starts_with(MARK) {
            return Ok(Unsealed {
                value: None,
                stale: !matches!(writer, Provider::Identity),
            });
        }
        if let Some(opened) = self.own.unseal(key, written) {
            let (value, first) = opened?;
            return Ok(Unsealed {
                value: Some(value),
                stale: !first || !matches!(writer, Provider::Own),
            });
        }
        for provider in self.rules.iter().flat_map(|r| &r.providers) {
            let Provider::Kms(kms) = provider else {
                continue;
            };
            if let Some(opened) = kms.unseal(key, written) {
                let (value, fresh) = opened?;
                return Ok(Unsealed {
                    value: Some(value),
                    stale: !fresh || !std::ptr::eq(writer, provider),
                });
            }
        }
        // names may be used twice: the one that opens it is the one
        let mut refused = None;
        for cipher in self.ciphers() {
            match cipher.unseal(key, written) {
                None => {}
                Some(Err(why)) => refused = Some(why),
                Some(Ok(value)) => {
                    let fresh = matches!(writer, Provider::Keys(keys) if keys.first().is_some_and(|k| std::ptr::eq(k, cipher)));
                    return Ok(Unsealed {
                        value: Some(value),
                        stale: !fresh,
                    });
                }
            }
        }
        let named = written.iter().take(96).take_while(|b| b.is_ascii_graphic());
        let head: String = named.map(|b| *b as char).collect();
        let head = head
            .rsplit_once(':')
            .map_or("", |(head, _)| head)
            .to_string();
        Err(refused.unwrap_or_else(|| {
            format!("the value of {key} is sealed with {head:?}, and no such key is known: bring back the encryption.key or the encryption configuration it was sealed with")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const SECRET: &str = "/registry/core/secrets/ns/s";
    const MAP: &str = "/registry/core/configmaps/ns/m";
    const TEXT: &[u8] = b"{\"data\":\"plain text\"}";

    fn config(dir: &Path, name: &str, resources: &str) -> PathBuf {
        let path = dir.join(name);
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {resources}\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }
    fn keys(list: &[(&str, u8, usize)]) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let one = |(name, byte, n): &(&str, u8, usize)| {
            format!(
                "{{name: {name}, secret: {}}}",
                STANDARD.encode(vec![*byte; *n])
            )
        };
        let all: Vec<String> = list.iter().map(one).collect();
        format!("{{aesgcm: {{keys: [{}]}}}}", all.join(", "))
    }
    fn with(resources: &str, providers: &str) -> String {
        format!("[{{resources: [{resources}], providers: [{providers}]}}]")
    }

    #[test]
    fn secrets_are_sealed_by_default_each_time_differently() {
        let dir = tempfile::tempdir().unwrap();
        let e = Encryption::open(dir.path(), None).unwrap();
        assert_eq!(e.seal(MAP, TEXT).unwrap(), None);
        let (one, two) = (
            e.seal(SECRET, TEXT).unwrap().unwrap(),
            e.seal(SECRET, TEXT).unwrap().unwrap(),
        );
        assert!(one.starts_with(b"k8s:enc:knarr:v1:") && one != two);
        assert!(!one.windows(5).any(|w| w == b"plain"));
        assert!(one.len() <= TEXT.len() + knarr_store::SEAL_BYTES_MAX);
        // another start has the same key, and another derived one
        let again = Encryption::open(dir.path(), None).unwrap();
        for sealed in [one.clone(), two] {
            let want = Unsealed {
                value: Some(TEXT.to_vec()),
                stale: false,
            };
            assert_eq!(again.unseal(SECRET, &sealed).unwrap(), want);
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join("encryption.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // neither in another's place, nor changed, nor without the key
        let mut changed = one.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(
            again
                .unseal("/registry/core/secrets/ns/other", &one)
                .is_err()
        );
        assert!(again.unseal(SECRET, &changed).is_err());
        assert!(again.unseal(SECRET, &one[..one.len() - 30]).is_err());
        let stranger = Encryption::open(&dir.path().join("b"), None).unwrap();
        let said = stranger.unseal(SECRET, &one).unwrap_err();
        assert!(
            said.contains("no such key is known") && !said.contains("plain"),
            "{said}"
        );
        let plain = again.unseal(SECRET, TEXT).unwrap();
        assert_eq!(
            plain,
            Unsealed {
                value: None,
                stale: true
            }
        );
        assert!(!again.unseal(MAP, TEXT).unwrap().stale);
    }

    #[test]
    fn keys_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let open = |resources: Option<&str>| {
            let file = resources.map(|r| config(dir.path(), "c.yaml", r));
            Encryption::open(dir.path(), file.as_deref()).unwrap()
        };
        let (a, b) = (("a", 1, 32), ("b", 2, 16));
        // sealed by, unsealed by: stale?
        let both = with("secrets", &keys(&[b, a]));
        let mine = with("secrets", &keys(&[a]));
        let off = with("secrets", &format!("{{identity: {{}}}}, {}", keys(&[a])));
        let others = with("configmaps", &keys(&[a]));
        for (name, before, now, stale) in [
            ("the same", Some(&mine), Some(&mine), false),
            ("a new first key", Some(&mine), Some(&both), true),
            ("switched off", Some(&mine), Some(&off), true),
            ("the default to a key", None, Some(&mine), true),
            ("a key to the default", Some(&mine), None, true),
            (
                "another resource's configuration",
                None,
                Some(&others),
                false,
            ),
        ] {
            let sealed = open(before.map(String::as_str))
                .seal(SECRET, TEXT)
                .unwrap()
                .unwrap();
            let got = open(now.map(String::as_str)).unseal(SECRET, &sealed);
            if name == "a key to the default" {
                assert!(got.unwrap_err().contains("k8s:enc:aesgcm:v1:a"), "{name}");
                continue;
            }
            assert_eq!(
                got.unwrap(),
                Unsealed {
                    value: Some(TEXT.to_vec()),
                    stale
                },
                "{name}"
            );
        }
        // the default key's own turn: a line put before it
        let path = dir.path().join("encryption.key");
        let sealed = open(None).seal(SECRET, TEXT).unwrap().unwrap();
        let old = std::fs::read_to_string(&path).unwrap();
        let new = "next AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
        std::fs::write(&path, format!("{new}{old}")).unwrap();
        assert!(open(None).unseal(SECRET, &sealed).unwrap().stale);
        assert!(
            open(None)
                .seal(SECRET, TEXT)
                .unwrap()
                .unwrap()
                .starts_with(b"k8s:enc:knarr:v1:next:")
        );
    }

    #[test]
    fn resources_are_named_as_upstream_does() {
        for (pattern, key, want) in [
            ("secrets", SECRET, true),
            ("secrets", MAP, false),
            ("*.", MAP, true),
            ("*.", "/registry/apps/deployments/ns/d", false),
            ("*.apps", "/registry/apps/deployments/ns/d", true),
            ("deployments.apps", "/registry/apps/deployments/ns/d", true),
            ("things.example.com", "/registry/example.com/things/t", true),
            ("*.*", "/registry/example.com/things/t", true),
        ] {
            assert_eq!(Pattern::read(pattern).fits(key), want, "{pattern} {key}");
        }
    }

    #[test]
    fn wrong_configurations_are_refused_without_showing_keys() {
        let dir = tempfile::tempdir().unwrap();
        for (name, resources, want) in [
            (
                "none",
                "[]".to_string(),
                "at least one resources is required",
            ),
            (
                "no resources",
                with("", &keys(&[("a", 1, 32)])),
                "resources[0].resources: Required value",
            ),
            (
                "no providers",
                with("secrets", ""),
                "resources[0].providers: Required value",
            ),
            (
                "capitals",
                with("Secrets", "{identity: {}}"),
                "resource name should not contain capital letters",
            ),
            (
                "a star",
                with("'*'", "{identity: {}}"),
                "use '*.' to encrypt all",
            ),
            (
                "twice",
                with("a, a", "{identity: {}}"),
                "cannot be specified multiple times",
            ),
            (
                "two in one",
                with("a", "{identity: {}, aesgcm: {keys: []}}"),
                "more than one provider specified in a single element",
            ),
            (
                "no key",
                with("a", "{aesgcm: {keys: []}}"),
                "resources[0].providers[0].aesgcm.keys: Required value: at least one keys is required",
            ),
            (
                "a short key",
                with("a", &keys(&[("a", 1, 5)])),
                "secret is not of the expected length, got 5, expected one of [16, 32]",
            ),
            (
                "no name",
                with("a", &keys(&[("''", 1, 32)])),
                "name is a mandatory field for a key",
            ),
            (
                "not base64",
                with("a", "{aesgcm: {keys: [{name: a, secret: '???'}]}}"),
                "secrets must be base64 encoded",
            ),
            (
                "the older KMS",
                with("a", "{kms: {name: x, endpoint: 'unix:///x'}}"),
                "KMSv1 is deprecated and is not supported here: use apiVersion: v2",
            ),
            (
                "a KMS of no version",
                with(
                    "a",
                    "{kms: {apiVersion: v3, name: x, endpoint: 'unix:///x'}}",
                ),
                "kms.apiVersion: Invalid value: \"v3\": unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported",
            ),
            (
                "a KMS without a name",
                with("a", "{kms: {apiVersion: v2, endpoint: 'unix:///x'}}"),
                "kms.name: Required value: name is a mandatory field for a provider",
            ),
            (
                "a KMS with a colon",
                with(
                    "a",
                    "{kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///x'}}",
                ),
                "invalid KMS provider name a:b, must not contain ':'",
            ),
            (
                "a KMS without a socket",
                with("a", "{kms: {apiVersion: v2, name: x}}"),
                "kms.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms",
            ),
            (
                "a KMS elsewhere",
                with(
                    "a",
                    "{kms: {apiVersion: v2, name: x, endpoint: 'https://x'}}",
                ),
                "unsupported scheme \"https\" for KMS provider, only unix is supported",
            ),
            (
                "a KMS in no time",
                with(
                    "a",
                    "{kms: {apiVersion: v2, name: x, endpoint: 'unix:///x', timeout: 0s}}",
                ),
                "timeout should be a positive value",
            ),
            (
                "a KMS with a cache",
                with(
                    "a",
                    "{kms: {apiVersion: v2, name: x, endpoint: 'unix:///x', cachesize: 3}}",
                ),
                "cachesize is not supported in v2",
            ),
            (
                "a KMS that isn't there",
                with(
                    "a",
                    "{kms: {apiVersion: v2, name: x, endpoint: 'unix:///no/such'}}",
                ),
                "the KMS plug-in \"x\" at /no/such fails to status",
            ),
            (
                "an odd field",
                with(
                    "a",
                    "{aesgcm: {keys: [{name: a, secret: MTIzNDU2Nzg5MDEyMzQ1Ng==, x: 1}]}}",
                ),
                "unknown field",
            ),
        ] {
            let path = config(dir.path(), "c.yaml", &resources);
            let said = Encryption::open(dir.path(), Some(&path))
                .err()
                .unwrap()
                .to_string();
            assert!(said.contains(want), "{name}: {said}");
            assert!(
                !said.contains("MTIz") && !said.contains("AQEB"),
                "{name}: {said}"
            );
        }
    }
}
