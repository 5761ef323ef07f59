//! The platform's own key.
//!
//! Every start derives a key of its own from it (HKDF-SHA256, 16 random bytes of salt) and counts its nonces: however many
//! values and snapshots are written, none is used twice. Form: `k8s:enc:knarr:v1:<name>:`, salt, nonce, ciphertext, tag.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use ring::{
    aead::{AES_256_GCM, LessSafeKey, NONCE_LEN},
    hkdf,
};

use super::cipher;
use crate::pki;

const FILE: &str = "encryption.key";
const PREFIX: &str = "k8s:enc:knarr:v1:";
const SALT_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// Derived keys kept at a time: a store holds the values of a few starts.
const DERIVED_MAX: usize = 32;
const PURPOSE: &[u8] = b"knarr store values";

type Salt = [u8; SALT_BYTES];

struct Master {
    /// with the colon behind its name
    prefix: Vec<u8>,
    secret: [u8; KEY_BYTES],
}

impl Master {
    fn derive(&self, salt: &Salt) -> Result<LessSafeKey, String> {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&self.secret);
        let expanded = extracted.expand(&[PURPOSE], &AES_256_GCM);
        // the length is the algorithm's own
        let unbound = expanded.map_err(|_| "no key can be derived".to_string())?;
        Ok(LessSafeKey::new(unbound.into()))
    }
}

/// Keys by name, the first of which writes.
pub struct Own {
    masters: Vec<Master>,
    head: Vec<u8>,
    writing: LessSafeKey,
    written: AtomicU64,
    derived: Mutex<HashMap<(usize, Salt), Arc<LessSafeKey>>>,
}

impl Own {
    /// Reads the file, or makes it with one key: lines of a name and 32 bytes in base64.
    pub fn open(dir: &Path) -> Result<Own, pki::Error> {
        let path = dir.join(FILE);
        if !path.exists() {
            pki::private_dir(dir)?;
            let secret: [u8; KEY_BYTES] = rand::random();
            let name = hex::encode(rand::random::<[u8; 4]>());
            let line = format!("{name} {}\n", STANDARD.encode(secret));
            pki::write(&path, &line, 0o600)?;
        }
        let unusable = |why: String| pki::Error::Unusable {
            path: path.clone(),
            why,
        };
        let text = std::fs::read_to_string(&path).map_err(pki::file(&path))?;
        let masters: Vec<Master> = text
            .lines()
            .filter(|l| !l.trim().is_empty())
            .map(|line| {
                let (name, secret) = line.split_once(' ')?;
                let secret = STANDARD.decode(secret.trim()).ok()?.try_into().ok()?;
                let plain = !name.is_empty() && name.len() <= 64 && !name.contains(':');
                plain.then(|| Master {
                    prefix: format!("{PREFIX}{name}:").into_bytes(),
                    secret,
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| unusable("each line must be a name and 32 bytes in base64".into()))?;
        let first = masters
            .first()
            .ok_or_else(|| unusable("it is empty".into()))?;
        let salt: Salt = rand::random();
        let writing = first.derive(&salt).map_err(unusable)?;
        Ok(Own {
            head: [first.prefix.as_slice(), &salt].concat(),
            masters,
            writing,
            written: AtomicU64::new(0),
            derived: Mutex::default(),
        })
    }

    pub fn seal(&self, at: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        let mut nonce = [0; NONCE_LEN];
        let n = self.written.fetch_add(1, Ordering::Relaxed);
        nonce[NONCE_LEN - 8..].copy_from_slice(&n.to_be_bytes());
        cipher::seal(&self.writing, &self.head, nonce, at, value)
    }

    /// The value, and whether the first key sealed it. None: sealed by somebody else, or by a key that isn't here.
    pub fn unseal(&self, at: &str, written: &[u8]) -> Option<Result<(Vec<u8>, bool), String>> {
        let (i, sealed) = self
            .masters
            .iter()
            .enumerate()
            .find_map(|(i, m)| Some((i, written.strip_prefix(m.prefix.as_slice())?)))?;
        let (salt, sealed) = sealed.split_first_chunk::<SALT_BYTES>()?;
        let key = match self.key(i, salt) {
            Ok(key) => key,
            Err(why) => return Some(Err(why)),
        };
        Some(cipher::unseal(&key, at, sealed).map(|value| (value, i == 0)))
    }

    fn key(&self, i: usize, salt: &Salt) -> Result<Arc<LessSafeKey>, String> {
        let mut derived = self.derived.lock();
        if let Some(key) = derived.get(&(i, *salt)) {
            return Ok(key.clone());
        }
        let key = Arc::new(self.masters[i].derive(salt)?);
        if derived.len() >= DERIVED_MAX {
            derived.clear();
        }
        derived.insert((i, *salt), key.clone());
        Ok(key)
    }
}
