//! The key service-account tokens are signed with: `sa.key` beside the certificates, made at the first start.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use knarr_access::jwt::{self, Claims, Signer};
use parking_lot::Mutex;
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

use crate::pki;

/// Tokens whose signature is remembered as good; beyond that, all are forgotten.
const VERIFIED_MAX: usize = 256;

/// The key, and the tokens it was found to have signed. Only the signature is remembered: whether the claims still hold
/// is asked each time.
pub struct Keys {
    signer: Signer,
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Keys {
    /// Reads or makes the key; blocking.
    pub fn open(dir: &Path) -> Result<Keys, pki::Error> {
        let path = dir.join("sa.key");
        let unusable = |why: String| pki::Error::Unusable {
            path: path.clone(),
            why,
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let key = rcgen::KeyPair::generate().map_err(|e| unusable(e.to_string()))?;
                let text = key.serialize_pem();
                pki::write(&path, &text, 0o600)?;
                text
            }
            Err(source) => return Err(pki::Error::File { path, source }),
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|e| unusable(format!("{e:?}")))?;
        let signer = Signer::new(der.secret_pkcs8_der()).map_err(|e| unusable(e.to_string()))?;
        Ok(Keys {
            signer,
            verified: Mutex::default(),
        })
    }

    /// Signs and publishes.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The claims of a token signed by us.
    pub fn verified(&self, token: &str) -> Result<Arc<Claims>, jwt::Error> {
        let name: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.verified.lock().get(&name) {
            return Ok(known.clone());
        }
        let claims = Arc::new(self.signer.verify(token)?);
        let mut verified = self.verified.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(name, claims.clone());
        Ok(claims)
    }
}
