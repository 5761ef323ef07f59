//! Named keys, and values sealed with them as upstream writes them (apiserver `pkg/storage/value/encrypt`):
//! `k8s:enc:<provider>:v1:<name>:`, then a nonce and the ciphertext.

use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::Pkcs7};
use crypto_secretbox::{XSalsa20Poly1305, aead::Aead};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// What a configuration may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// AES-GCM: authenticates the value and its place.
    AesGcm,
    /// AES-CBC with PKCS#7 padding: authenticates nothing; for those who have it already.
    AesCbc,
    /// XSalsa20-Poly1305 (NaCl's secretbox): authenticates the value.
    SecretBox,
}

impl Provider {
    /// As configurations name it.
    pub fn name(self) -> &'static str {
        match self {
            Provider::AesGcm => "aesgcm",
            Provider::AesCbc => "aescbc",
            Provider::SecretBox => "secretbox",
        }
    }
    /// Lengths of its keys, in bytes. (`ring` has no AES-GCM with the 24 that upstream takes, too.)
    pub fn key_bytes(self) -> &'static [usize] {
        match self {
            Provider::AesGcm => &[16, 32],
            Provider::AesCbc => &[16, 24, 32],
            Provider::SecretBox => &[32],
        }
    }
}

enum Cipher {
    Gcm(Box<LessSafeKey>),
    Cbc(Vec<u8>),
    SecretBox(Box<XSalsa20Poly1305>),
}

/// A named key.
pub struct Key {
    prefix: Vec<u8>,
    cipher: Cipher,
}

const IV_BYTES: usize = 16;
const BOX_NONCE_BYTES: usize = 24;

impl Key {
    /// None when the secret hasn't one of the provider's lengths.
    pub fn new(provider: Provider, name: &str, secret: &[u8]) -> Option<Key> {
        if !provider.key_bytes().contains(&secret.len()) {
            return None;
        }
        let cipher = match provider {
            Provider::AesGcm => {
                let algorithm = if secret.len() == 16 {
                    &AES_128_GCM
                } else {
                    &AES_256_GCM
                };
                let key = UnboundKey::new(algorithm, secret).ok()?;
                Cipher::Gcm(Box::new(LessSafeKey::new(key)))
            }
            Provider::AesCbc => Cipher::Cbc(secret.to_vec()),
            Provider::SecretBox => {
                use crypto_secretbox::KeyInit;
                Cipher::SecretBox(Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?))
            }
        };
        Some(Key {
            prefix: format!("k8s:enc:{}:v1:{name}:", provider.name()).into_bytes(),
            cipher,
        })
    }

    pub fn seal(&self, at: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        match &self.cipher {
            Cipher::Gcm(key) => seal(key, &self.prefix, rand::random(), at, value),
            Cipher::Cbc(key) => {
                let iv: [u8; IV_BYTES] = rand::random();
                let sealed = cbc_encrypt(key, &iv, value).ok_or("a key of an odd length")?;
                Ok([self.prefix.as_slice(), &iv, &sealed].concat())
            }
            Cipher::SecretBox(key) => {
                let nonce: [u8; BOX_NONCE_BYTES] = rand::random();
                let sealed = key
                    .encrypt(&nonce.into(), value)
                    .map_err(|_| format!("the value of {at} is too long to be sealed"))?;
                Ok([self.prefix.as_slice(), &nonce, &sealed].concat())
            }
        }
    }

    /// None: sealed by somebody else.
    pub fn unseal(&self, at: &str, written: &[u8]) -> Option<Result<Vec<u8>, String>> {
        let sealed = written.strip_prefix(self.prefix.as_slice())?;
        Some(match &self.cipher {
            Cipher::Gcm(key) => unseal(key, at, sealed),
            Cipher::Cbc(key) => sealed
                .split_first_chunk::<IV_BYTES>()
                .and_then(|(iv, sealed)| cbc_decrypt(key, iv, sealed))
                .ok_or_else(|| refused(at)),
            Cipher::SecretBox(key) => sealed
                .split_first_chunk::<BOX_NONCE_BYTES>()
                .and_then(|(nonce, sealed)| key.decrypt(&(*nonce).into(), sealed).ok())
                .ok_or_else(|| refused(at)),
        })
    }
}

fn cbc_encrypt(key: &[u8], iv: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    macro_rules! with {
        ($aes:ty) => {
            cbc::Encryptor::<$aes>::new_from_slices(key, iv)
                .ok()?
                .encrypt_padded_vec_mut::<Pkcs7>(value)
        };
    }
    Some(match key.len() {
        16 => with!(aes::Aes128),
        24 => with!(aes::Aes192),
        _ => with!(aes::Aes256),
    })
}

fn cbc_decrypt(key: &[u8], iv: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    macro_rules! with {
        ($aes:ty) => {
            cbc::Decryptor::<$aes>::new_from_slices(key, iv)
                .ok()?
                .decrypt_padded_vec_mut::<Pkcs7>(sealed)
                .ok()
        };
    }
    match key.len() {
        16 => with!(aes::Aes128),
        24 => with!(aes::Aes192),
        _ => with!(aes::Aes256),
    }
}

fn refused(at: &str) -> String {
    format!(
        "the value of {at} was sealed with another key of the same name, or has been changed: bring back the key, or the store from a backup"
    )
}

/// AES-GCM: the head, the nonce, the ciphertext, the tag.
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
    let (nonce, text) = sealed
        .split_at_checked(NONCE_LEN)
        .ok_or_else(|| refused(at))?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused(at))?;
    let mut text = text.to_vec();
    let length = key
        .open_in_place(nonce, Aad::from(at.as_bytes()), &mut text)
        .map_err(|_| refused(at))?
        .len();
    text.truncate(length);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::STANDARD};

    const FROM_UPSTREAM: &[(Provider, u8, &str)] = &[
        (
            Provider::AesGcm,
            16,
            "omrESn7Aa4AlF/H78Ze5lcBKakzy/JkZdRh3Ocbf1tk7xHY=",
        ),
        (
            Provider::AesGcm,
            32,
            "idxIvMhc/III37lNzAQNtZAYWWn5mSRE2dhmlDGOas1QR9M=",
        ),
        (
            Provider::AesCbc,
            16,
            "BdrC4q/RInGF/hSWQcCLmCwcYBMNK6JJM2p4VKJceH4=",
        ),
        (
            Provider::AesCbc,
            24,
            "RDsMw+tGP/Yh+GkLPeaUOP0zJgxOXCw8teODDU9Y/T4=",
        ),
        (
            Provider::AesCbc,
            32,
            "ZbG9ETdS7QTLpDnfSXqi1Dh+aF/4kruwdoXKADt17iw=",
        ),
        (
            Provider::SecretBox,
            32,
            "cvaGsPNaBgpXz/CLF7VAlPu26aaMsc1RP/ju+JVFLDmeEzGGvSACHfl8dwXY4fk=",
        ),
    ];

    #[test]
    fn what_upstream_has_sealed_is_read() {
        // made by apiserver v0.36.0's encrypters with a key of bytes 1, 2, 3, …, for the place "/registry/x"
        for (provider, bytes, sealed) in FROM_UPSTREAM {
            let secret: Vec<u8> = (1..=*bytes).collect();
            let key = Key::new(*provider, "k", &secret).unwrap();
            let written = [key.prefix.clone(), STANDARD.decode(sealed).unwrap()].concat();
            let opened = key.unseal("/registry/x", &written).unwrap();
            assert_eq!(opened.unwrap(), b"a value", "{provider:?} {bytes}");
        }
    }

    #[test]
    fn every_provider_opens_what_it_seals_and_nothing_else() {
        for provider in [Provider::AesGcm, Provider::AesCbc, Provider::SecretBox] {
            for bytes in provider.key_bytes() {
                let key = Key::new(provider, "k", &vec![7; *bytes]).unwrap();
                let other = Key::new(provider, "k", &vec![8; *bytes]).unwrap();
                let sealed = key.seal("/a", b"a value").unwrap();
                assert_eq!(key.unseal("/a", &sealed).unwrap().unwrap(), b"a value");
                assert!(sealed.len() <= 7 + knarr_store::SEAL_BYTES_MAX);
                let wrong = other.unseal("/a", &sealed).unwrap();
                // CBC can't tell for sure
                assert!(
                    wrong.is_err() || wrong.unwrap() != b"a value",
                    "{provider:?}"
                );
                assert!(
                    key.unseal("/a", &sealed[..key.prefix.len() + 3])
                        .unwrap()
                        .is_err()
                );
                assert!(key.unseal("/a", b"{}").is_none());
            }
            assert!(Key::new(provider, "k", &[1; 5]).is_none());
        }
    }
}
