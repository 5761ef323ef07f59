//! Signatures that lie beside an image in its repository, as `cosign sign --key` and `skopeo copy --sign-by-sigstore` put them:
//! under the tag `sha256-DIGEST.sig`, a manifest whose layers are what was signed.
//!
//! Source: sigstore/cosign `specs/SIGNATURE_SPEC.md`; containers/image `docker/docker_image_src.go`
//! (`getSignaturesFromSigstoreAttachments`), `signature/internal/sigstore_payload.go`.

use super::{Reference, policy::Signed};
use base64::Engine;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;

/// What a layer with a signed statement is.
const STATEMENT: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where its signature stands.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The most bytes of a statement, and the most signatures of an image that are looked at.
pub(super) const STATEMENT_BYTES_MAX: usize = 1 << 20;
const SIGNATURES_MAX: usize = 64;

/// A public key.
#[derive(Clone)]
pub(super) struct Key {
    kind: &'static dyn VerificationAlgorithm,
    key: Vec<u8>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.kind).finish()
    }
}

/// The content of a DER element with this tag at the start, and what comes after it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

const SEQUENCE: u8 = 0x30;
const BITS: u8 = 0x03;
const OBJECT: u8 = 0x06;
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EDWARDS: &[u8] = &[0x2b, 0x65, 0x70];

impl Key {
    /// A key as `cosign generate-key-pair` writes `cosign.pub`: `BEGIN PUBLIC KEY`.
    pub fn from_pem(pem: &[u8]) -> Result<Key, String> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|_| "no public key in PEM (BEGIN PUBLIC KEY)")?;
        let parts = || {
            let (whole, _) = element(SEQUENCE, &info)?;
            let (algorithm, rest) = element(SEQUENCE, whole)?;
            let (kind, parameters) = element(OBJECT, algorithm)?;
            let (bits, _) = element(BITS, rest)?;
            // no bits of the last byte are unused
            Some((kind, parameters, bits.strip_prefix(&[0])?))
        };
        let (kind, parameters, key) = parts().ok_or("a damaged public key")?;
        let curve = element(OBJECT, parameters).map(|(curve, _)| curve);
        let kind: &'static dyn VerificationAlgorithm = match (kind, curve) {
            (EC, Some(P256)) => &ECDSA_P256_SHA256_ASN1,
            (EC, Some(P384)) => &ECDSA_P384_SHA384_ASN1,
            (EDWARDS, _) => &ED25519,
            (RSA, _) => &RSA_PKCS1_2048_8192_SHA256,
            _ => return Err("a public key of a kind that knarr doesn't know: ECDSA P-256 and P-384, Ed25519 and RSA it does".into()),
        };
        Ok(Key {
            kind,
            key: key.to_vec(),
        })
    }

    fn signed(&self, statement: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(self.kind, &self.key);
        key.verify(statement, signature).is_ok()
    }
}

/// The tag that an image's signatures have.
pub(super) fn tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// A statement with its signature.
pub(super) struct Signature {
    pub statement: Vec<u8>,
    /// As it stands beside the statement.
    pub signature: Option<String>,
}

/// The layers of a manifest of signatures that are statements.
pub(super) fn statements(
    manifest: &crate::manifest::Manifest,
) -> Vec<(crate::manifest::Descriptor, Option<String>)> {
    let layers = manifest.layers.iter().filter(|l| l.media_type == STATEMENT);
    let with = |l: &crate::manifest::Descriptor| {
        let signature = l.annotations.get(SIGNATURE).cloned();
        (l.clone(), signature)
    };
    layers.map(with).take(SIGNATURES_MAX).collect()
}

#[derive(Deserialize)]
struct Statement {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Names,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
struct Names {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// Whether one of the signatures is what is wanted for the manifest `digest` of `image`.
///
/// # Errors
/// Why none is.
pub(super) fn satisfies(
    wanted: &Signed,
    image: &Reference,
    digest: &str,
    signatures: &[Signature],
) -> Result<(), String> {
    if signatures.is_empty() {
        return Err("A signature was required, but no signature exists".into());
    }
    let mut reasons: Vec<String> = Vec::new();
    for signature in signatures {
        match accepts(wanted, image, digest, signature) {
            Ok(()) => return Ok(()),
            Err(why) if reasons.contains(&why) => {}
            Err(why) => reasons.push(why),
        }
    }
    Err(match reasons.as_slice() {
        [one] => one.clone(),
        all => format!(
            "None of the signatures were accepted, reasons: {}",
            all.join("; ")
        ),
    })
}

fn accepts(
    wanted: &Signed,
    image: &Reference,
    digest: &str,
    one: &Signature,
) -> Result<(), String> {
    let text = one.signature.as_deref();
    let text = text.ok_or_else(|| format!("missing {SIGNATURE} annotation"))?;
    let signature = base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map_err(|e| format!("base64 decoding: {e}"))?;
    // first whether it is signed at all: what isn't is nobody's word
    if !wanted
        .keys
        .iter()
        .any(|k| k.signed(&one.statement, &signature))
    {
        return Err("cryptographic signature verification failed: invalid signature when validating ASN.1 encoded signature".into());
    }
    let parsed: Statement = serde_json::from_slice(&one.statement)
        .map_err(|e| format!("the signed statement is not of cosign's form: {e}"))?;
    let critical = parsed.critical;
    if critical.kind != "cosign container image signature" {
        return Err(format!("Unrecognized signature type {}", critical.kind));
    }
    if critical.image.digest != digest {
        return Err(format!(
            "Signature for digest {} does not match",
            critical.image.digest
        ));
    }
    match wanted.identity.fits(image, &critical.identity.reference) {
        true => Ok(()),
        false => Err(format!(
            "Signature for identity {:?} is not accepted",
            critical.identity.reference
        )),
    }
}
