//! Certificates made from requests, as upstream's signing controllers make them
//! (kubernetes `pkg/controller/certificates/authority`): the request's subject, key and alternative names, the usages
//! asked for, never a CA.
//!
//! The certificate is put together here and not by rcgen, whose names hold one organization at most: a user's groups
//! are organizations.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, SigningKey};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::extensions::ParsedExtension;

use super::{
    der,
    request::{Request, certificates},
};

/// Life of a certificate whose request names none (upstream's `--cluster-signing-duration`), in seconds.
const LIFE_SECONDS: i64 = 365 * 86_400;
const LIFE_SECONDS_MIN: i64 = 600;
/// Clocks may differ by this much.
const BACKDATE_SECONDS: i64 = 300;
/// Certificates that live less long than this keep the time the backdating takes.
const SHORT_SECONDS: i64 = 8 * 3600;

/// Why a certificate can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not one.
    #[error("{0}")]
    Request(String),
    /// A usage nobody knows.
    #[error("unrecognized usage values: [{0}]")]
    Usage(String),
    /// The CA's files.
    #[error(
        "{path}: {why}; restore the certificate authority's files, or remove both to have new ones made at the next start"
    )]
    Files {
        /// which
        path: PathBuf,
        /// why
        why: String,
    },
    /// The CA is past its life.
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    /// The key can't sign.
    #[error("signing: {0}")]
    Sign(String),
}

/// The cluster's CA as a signer. The key is read when it is needed, not kept.
#[derive(Debug, Clone)]
pub struct Authority {
    cert: PathBuf,
    key: PathBuf,
}

const KEY_USAGES: [(&str, u32); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
const PKIX: [u64; 8] = [1, 3, 6, 1, 5, 5, 7, 3];
const EXTENDED_USAGES: [(&str, u64); 9] = [
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("ipsec end system", 5),
    ("ipsec tunnel", 6),
    ("ipsec user", 7),
    ("timestamping", 8),
];

/// Object identifier of an extended key usage (`ocsp signing` and the two gated-crypto ones among them).
fn extended_usage(name: &str) -> Option<Vec<u64>> {
    let last = EXTENDED_USAGES
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, last)| *last);
    match (name, last) {
        (_, Some(last)) => Some([&PKIX[..], &[last]].concat()),
        ("ocsp signing", _) => Some([&PKIX[..], &[9]].concat()),
        ("any", _) => Some(vec![2, 5, 29, 37, 0]),
        ("microsoft sgc", _) => Some(vec![1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        ("netscape sgc", _) => Some(vec![2, 16, 840, 1, 113_730, 4, 1]),
        _ => None,
    }
}

/// The two usage extensions' values; None where nothing is asked for.
fn usages(names: &[String]) -> Result<(u16, Vec<Vec<u64>>), Error> {
    let (mut mask, mut extended, mut unknown) = (0u16, Vec::new(), Vec::new());
    for name in names {
        if let Some((_, bit)) = KEY_USAGES.iter().find(|(n, _)| n == name) {
            mask |= 1 << bit;
        } else if let Some(id) = extended_usage(name) {
            if !extended.contains(&id) {
                extended.push(id);
            }
        } else {
            unknown.push(name.as_str());
        }
    }
    match unknown.is_empty() {
        true => Ok((mask, extended)),
        false => Err(Error::Usage(unknown.join(" "))),
    }
}

/// First and last second of a certificate asked to live `wanted` seconds, by a CA that lives until `ca_end`.
fn validity(
    wanted: Option<i64>,
    now: Timestamp,
    ca_end: Timestamp,
) -> Result<(Timestamp, Timestamp), Error> {
    let life = wanted.map_or(LIFE_SECONDS, |s| s.clamp(LIFE_SECONDS_MIN, LIFE_SECONDS));
    let from = now - SignedDuration::from_secs(BACKDATE_SECONDS);
    let kept = if life < SHORT_SECONDS {
        life
    } else {
        life - BACKDATE_SECONDS
    };
    let to = (now + SignedDuration::from_secs(kept)).min(ca_end);
    if now >= ca_end {
        return Err(Error::Expired(ca_end));
    }
    Ok((from, to))
}

/// AlgorithmIdentifier of a key's signatures.
fn algorithm(key: &KeyPair) -> Vec<u8> {
    let known = key.algorithm();
    if *known == rcgen::PKCS_ECDSA_P384_SHA384 {
        der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 3])])
    } else if *known == rcgen::PKCS_ED25519 {
        der::sequence(&[&der::oid(&[1, 3, 101, 112])])
    } else if *known == rcgen::PKCS_RSA_SHA256 {
        der::sequence(&[&der::oid(&[1, 2, 840, 113_549, 1, 1, 11]), &[5, 0]])
    } else {
        // what knarr makes
        der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 2])])
    }
}

impl Authority {
    /// The CA whose files are in this folder.
    pub fn new(dir: &Path) -> Authority {
        Authority {
            cert: dir.join("ca.crt"),
            key: dir.join("ca.key"),
        }
    }

    /// Reads a request and checks its signature.
    pub fn read(&self, request: &[u8]) -> Result<Request, Error> {
        Request::from_pem(request).map_err(Error::Request)
    }

    /// When the first certificate in a PEM text ends, in seconds since 1970.
    pub fn end(&self, certificate: &[u8]) -> Option<i64> {
        certificates(certificate).ok()?.first().copied()
    }

    /// A certificate for the request, PEM: with these usages (names as in `spec.usages`), living `seconds` or a year.
    /// Blocking: reads two small files.
    pub fn sign(
        &self,
        request: &[u8],
        usage_names: &[String],
        seconds: Option<i64>,
    ) -> Result<String, Error> {
        let request = self.read(request)?;
        let files = |path: &Path, why: String| Error::Files {
            path: path.to_path_buf(),
            why,
        };
        let ca = fs::read(&self.cert).map_err(|e| files(&self.cert, e.to_string()))?;
        let ca =
            CertificateDer::from_pem_slice(&ca).map_err(|e| files(&self.cert, format!("{e:?}")))?;
        let (_, ca) = x509_parser::parse_x509_certificate(&ca)
            .map_err(|e| files(&self.cert, e.to_string()))?;
        let key = fs::read_to_string(&self.key).map_err(|e| files(&self.key, e.to_string()))?;
        let key = KeyPair::from_pem(&key).map_err(|e| files(&self.key, e.to_string()))?;
        let ca_end = Timestamp::from_second(ca.validity().not_after.timestamp())
            .map_err(|e| files(&self.cert, e.to_string()))?;
        let (from, to) = validity(seconds, Timestamp::now(), ca_end)?;
        let body = body(
            &request,
            usages(usage_names)?,
            &ca,
            &algorithm(&key),
            from,
            to,
        );
        let signature = key.sign(&body).map_err(|e| Error::Sign(e.to_string()))?;
        let cert = der::sequence(&[&body, &algorithm(&key), &der::bits(&signature)]);
        Ok(pem("CERTIFICATE", &cert))
    }
}

/// The part of a certificate that is signed (RFC 5280, TBSCertificate).
fn body(
    request: &Request,
    (key_usage, extended): (u16, Vec<Vec<u64>>),
    ca: &x509_parser::certificate::X509Certificate<'_>,
    algorithm: &[u8],
    from: Timestamp,
    to: Timestamp,
) -> Vec<u8> {
    let mut serial: [u8; 16] = rand::random();
    // a positive number without leading zeros
    serial[0] = (serial[0] & 0x7f) | 0x01;
    let mut extensions = Vec::new();
    if key_usage != 0 {
        extensions.extend(der::extension(
            &[2, 5, 29, 15],
            true,
            &der::named_bits(key_usage),
        ));
    }
    if !extended.is_empty() {
        let ids: Vec<u8> = extended.iter().flat_map(|id| der::oid(id)).collect();
        extensions.extend(der::extension(
            &[2, 5, 29, 37],
            false,
            &der::tlv(der::SEQUENCE, &ids),
        ));
    }
    // cA FALSE is the default, which DER leaves out
    extensions.extend(der::extension(&[2, 5, 29, 19], true, &der::sequence(&[])));
    let id = ca
        .iter_extensions()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
    if let Some(id) = id {
        let id = der::sequence(&[&der::tlv(0x80, id)]);
        extensions.extend(der::extension(&[2, 5, 29, 35], false, &id));
    }
    if let Some(names) = &request.alternative_names {
        // critical when there is no subject (RFC 5280, 4.2.1.6)
        let empty = request.subject == der::sequence(&[]);
        extensions.extend(der::extension(&[2, 5, 29, 17], empty, names));
    }
    der::sequence(&[
        &der::tlv(0xa0, &der::tlv(der::INTEGER, &[2])),
        &der::tlv(der::INTEGER, &serial),
        algorithm,
        ca.tbs_certificate.subject.as_raw(),
        &der::sequence(&[&der::time(from), &der::time(to)]),
        &request.subject,
        &request.public_key,
        &der::tlv(0xa3, &der::tlv(der::SEQUENCE, &extensions)),
    ])
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|b| *b as char));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::{extensions::GeneralName, pem};

    /// A CA in a folder, as the server makes it.
    fn authority(dir: &Path) -> Authority {
        crate::pki::Pki::open(dir, [10, 43, 0, 1].into(), "cluster.local", &[]).unwrap();
        Authority::new(dir)
    }
    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn a_certificate_has_what_its_request_and_usages_say() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let jane = include_bytes!("../../tests/data/jane.csr");
        let wanted = names(&[
            "digital signature",
            "key encipherment",
            "client auth",
            "any",
        ]);
        let text = authority.sign(jane, &wanted, Some(3600)).unwrap();
        let (_, block) = pem::parse_x509_pem(text.as_bytes()).unwrap();
        let cert = block.parse_x509().unwrap();
        let (_, ca) = pem::parse_x509_pem(&fs::read(&authority.cert).unwrap()).unwrap();
        let ca = ca.parse_x509().unwrap();
        cert.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(cert.issuer().as_raw(), ca.subject().as_raw());
        assert_eq!(cert.subject().to_string(), "O=devs, O=ops, CN=jane");
        let usage = cert.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(usage.value.flags, 0b101);
        let extended = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.any && !extended.server_auth);
        assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);
        let alternatives = cert.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            alternatives.value.general_names,
            [
                GeneralName::DNSName("a.example.com"),
                GeneralName::IPAddress(&[10, 0, 0, 1])
            ]
        );
        let life = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
        assert_eq!(life, 3600 + BACKDATE_SECONDS);
        let end = authority.end(text.as_bytes());
        assert_eq!(end, Some(cert.validity().not_after.timestamp()));
        // rustls' own verifier takes it for a client's
        let der = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let who = crate::pki::identity_of(&der).unwrap();
        assert_eq!(who.user(), "jane");
        assert_eq!(who.groups()[..2], names(&["devs", "ops"]));
    }

    #[test]
    fn rsa_keys_get_certificates_too() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let node = include_bytes!("../../tests/data/node-rsa.csr");
        let read = authority.read(node).unwrap();
        assert_eq!(read.common_name, "system:node:n1");
        let text = authority
            .sign(node, &names(&["client auth"]), None)
            .unwrap();
        let (_, block) = pem::parse_x509_pem(text.as_bytes()).unwrap();
        let cert = block.parse_x509().unwrap();
        assert!(cert.key_usage().unwrap().is_none());
        assert_eq!(cert.public_key().raw, read.public_key);
    }

    #[test]
    fn lives_are_bounded() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let far: Timestamp = "2036-01-01T00:00:00Z".parse().unwrap();
        for (name, wanted, end, want) in [
            ("as asked", Some(7200), far, 7200),
            ("long", Some(86_400), far, 86_400 - BACKDATE_SECONDS),
            ("too short", Some(1), far, LIFE_SECONDS_MIN),
            (
                "too long",
                Some(i64::MAX),
                far,
                LIFE_SECONDS - BACKDATE_SECONDS,
            ),
            ("nothing asked", None, far, LIFE_SECONDS - BACKDATE_SECONDS),
            (
                "past the CA",
                None,
                now + SignedDuration::from_secs(900),
                900,
            ),
        ] {
            let (from, to) = validity(wanted, now, end).unwrap();
            assert_eq!(to.as_second() - now.as_second(), want, "{name}");
            assert_eq!(
                now.as_second() - from.as_second(),
                BACKDATE_SECONDS,
                "{name}"
            );
        }
        assert!(matches!(validity(None, far, now), Err(Error::Expired(_))));
    }

    #[test]
    fn what_cannot_be_signed_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let jane = include_str!("../../tests/data/jane.csr");
        // another key's signature: the last byte of the base64 differs
        let forged = jane.replace("+8=", "+4=");
        for (name, request, usage, want) in [
            (
                "nothing",
                "",
                "client auth",
                "PEM block type must be CERTIFICATE REQUEST",
            ),
            (
                "forged",
                forged.as_str(),
                "client auth",
                "x509: ECDSA verification failure",
            ),
            (
                "a usage",
                jane,
                "world domination",
                "unrecognized usage values: [world domination]",
            ),
        ] {
            let got = authority.sign(request.as_bytes(), &names(&[usage]), None);
            assert_eq!(got.unwrap_err().to_string(), want, "{name}");
        }
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let got = authority.sign(jane.as_bytes(), &names(&["client auth"]), None);
        assert!(got.unwrap_err().to_string().contains("ca.key"));
    }
}
