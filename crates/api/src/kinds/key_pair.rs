//! Whether a certificate and a key belong together, in the words of Go's `tls.X509KeyPair`.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::pem::Pem;

fn blocks(text: &[u8]) -> Vec<Pem> {
    Pem::iter_from_buffer(text).map_while(Result::ok).collect()
}

fn labels(blocks: &[Pem]) -> String {
    let all: Vec<&str> = blocks.iter().map(|b| b.label.as_str()).collect();
    all.join(" ")
}

/// What is wrong with them; None when nothing is.
pub(crate) fn fault(certificate: &[u8], key: &[u8]) -> Option<String> {
    let (certificates, keys) = (blocks(certificate), blocks(key));
    let Some(first) = certificates.iter().find(|b| b.label == "CERTIFICATE") else {
        return Some(match certificates.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".into(),
            [one] if one.label.ends_with("PRIVATE KEY") => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".into(),
            many => format!("tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]", labels(many)),
        });
    };
    let is_key = |b: &&Pem| b.label == "PRIVATE KEY" || b.label.ends_with(" PRIVATE KEY");
    if keys.iter().find(is_key).is_none() {
        return Some(match keys.as_slice() {
            [] => "tls: failed to find any PEM data in key input".into(),
            [one] if one.label == "CERTIFICATE" => {
                "tls: found a certificate rather than a key in the PEM for the private key".into()
            }
            many => format!(
                "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
                labels(many)
            ),
        });
    }
    let der = CertificateDer::from(first.contents.clone());
    if x509_parser::parse_x509_certificate(&der).is_err() {
        return Some("x509: malformed certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).ok();
    let key = key.and_then(|k| rustls::crypto::ring::sign::any_supported_type(&k).ok());
    let Some(key) = key else {
        return Some("tls: failed to parse private key".into());
    };
    let pair = rustls::sign::CertifiedKey::new(vec![der], key);
    match pair.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Some("tls: private key does not match public key".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_told_as_go_does() {
        let make = || rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let (one, other) = (make(), make());
        let (certificate, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        for (name, certificate, key, want) in [
            ("good", certificate.as_str(), key.as_str(), ""),
            (
                "another's",
                &certificate,
                &other.signing_key.serialize_pem(),
                "does not match",
            ),
            (
                "nothing",
                "x",
                &key,
                "failed to find any PEM data in certificate input",
            ),
            (
                "switched",
                &key,
                &certificate,
                "PEM inputs may have been switched",
            ),
            (
                "no key",
                &certificate,
                "",
                "failed to find any PEM data in key input",
            ),
            (
                "two certificates",
                &certificate,
                &certificate,
                "found a certificate rather than a key",
            ),
            (
                "broken",
                &certificate,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "failed to parse private key",
            ),
        ] {
            let told = fault(certificate.as_bytes(), key.as_bytes()).unwrap_or_default();
            assert_eq!(told.is_empty(), want.is_empty(), "{name}: {told}");
            assert!(told.contains(want), "{name}: {told}");
        }
    }
}
