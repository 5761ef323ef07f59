//! AES-GCM as upstream writes it (apiserver `pkg/storage/value/encrypt/aes`): `k8s:enc:aesgcm:v1:<name>:`, a random nonce,
//! ciphertext and tag.

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// A named key.
pub struct Gcm {
    prefix: Vec<u8>,
    key: LessSafeKey,
}

/// Lengths of keys, in bytes. (Upstream's 24 is what `ring` hasn't.)
pub const KEY_BYTES: [usize; 2] = [16, 32];

impl Gcm {
    /// A key of 16 or 32 bytes.
    pub fn new(name: &str, secret: &[u8]) -> Option<Gcm> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        Some(Gcm {
            prefix: format!("k8s:enc:aesgcm:v1:{name}:").into_bytes(),
            key: LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?),
        })
    }

    pub fn seal(&self, at: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        seal(&self.key, &self.prefix, rand::random(), at, value)
    }

    /// None: sealed by somebody else.
    pub fn unseal(&self, at: &str, written: &[u8]) -> Option<Result<Vec<u8>, String>> {
        let sealed = written.strip_prefix(self.prefix.as_slice())?;
        Some(unseal(&self.key, at, sealed))
    }
}

/// The head, the nonce, the ciphertext, the tag.
pub fn seal(
    key: &LessSafeKey,
    head: &[u8],
    nonce: [u8; NONCE_LEN],
    at: &str,
    value: &[u8],
) -> Result<Vec<u8>, String> {
    let tag_bytes = key.algorithm().tag_len();
    let mut out = Vec::with_capacity(head.len() + NONCE_LEN + value.len() + tag_bytes);
    out.extend_from_slice(head);
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(value);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(at.as_bytes()),
            &mut out[start..],
        )
        .map_err(|_| format!("the value of {at} is too long to be sealed"))?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// The opposite, of what follows the head.
pub fn unseal(key: &LessSafeKey, at: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
    let refused = || {
        format!(
            "the value of {at} was sealed with another key of the same name, or has been changed: bring back the key, or the store from a backup"
        )
    };
    let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or_else(refused)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
    let mut text = text.to_vec();
    let length = key
        .open_in_place(nonce, Aad::from(at.as_bytes()), &mut text)
        .map_err(|_| refused())?
        .len();
    text.truncate(length);
    Ok(text)
}
