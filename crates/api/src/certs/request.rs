//! A PKCS#10 request, with the messages of upstream's `certificates.ParseCSR` and Go's `crypto/x509`.

use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry, pem,
    prelude::FromDer,
};

/// What a request asks for. Its signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Subject's first common name; empty without one.
    pub common_name: String,
    /// Subject's organizations, in order.
    pub organizations: Vec<String>,
    /// DNS names asked for.
    pub dns_names: Vec<String>,
    /// Number of IP addresses asked for.
    pub ip_addresses: usize,
    /// Number of mail addresses asked for.
    pub emails: usize,
    /// Number of URIs asked for.
    pub uris: usize,
    /// Subject, DER.
    pub(super) subject: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    pub(super) public_key: Vec<u8>,
    /// subjectAltName's value, DER.
    pub(super) alternative_names: Option<Vec<u8>>,
}

impl Request {
    /// Reads the first PEM block and checks the signature.
    pub fn from_pem(text: &[u8]) -> Result<Request, String> {
        let block = pem::Pem::iter_from_buffer(text)
            .next()
            .and_then(Result::ok)
            .filter(|p| p.label == "CERTIFICATE REQUEST")
            .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        let (rest, csr) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|e| format!("x509: malformed certificate request: {e}"))?;
        if !rest.is_empty() {
            return Err("asn1: syntax error: trailing data".into());
        }
        csr.verify_signature().map_err(|_| mismatch(&csr))?;
        let info = &csr.certification_request_info;
        let text = |v: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            v.as_str().map(String::from).unwrap_or_default()
        };
        let mut request = Request {
            common_name: info
                .subject
                .iter_common_name()
                .next()
                .map(text)
                .unwrap_or_default(),
            organizations: info.subject.iter_organization().map(text).collect(),
            dns_names: vec![],
            ip_addresses: 0,
            emails: 0,
            uris: 0,
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            alternative_names: None,
        };
        let extensions = info
            .iter_attributes()
            .find_map(|a| match a.parsed_attribute() {
                ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
                _ => None,
            });
        for e in extensions.into_iter().flatten() {
            if e.oid != oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME {
                continue;
            }
            let ParsedExtension::SubjectAlternativeName(names) = e.parsed_extension() else {
                return Err("x509: invalid subject alternative names".into());
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(n) => request.dns_names.push(n.to_string()),
                    GeneralName::IPAddress(_) => request.ip_addresses += 1,
                    GeneralName::RFC822Name(_) => request.emails += 1,
                    GeneralName::URI(_) => request.uris += 1,
                    _ => {}
                }
            }
            request.alternative_names = Some(e.value.to_vec());
        }
        Ok(request)
    }
}

/// Go's words for a signature that isn't the key's.
fn mismatch(csr: &X509CertificationRequest<'_>) -> String {
    use x509_parser::public_key::PublicKey;
    match csr.certification_request_info.subject_pki.parsed() {
        Ok(PublicKey::RSA(_)) => "crypto/rsa: verification error",
        Ok(PublicKey::EC(_)) => "x509: ECDSA verification failure",
        _ => "x509: Ed25519 verification failure",
    }
    .into()
}

/// Times a PEM text's certificates end at, in seconds since 1970; or what is wrong with the text, as
/// `status.certificate` must be.
pub fn certificates(text: &[u8]) -> Result<Vec<i64>, String> {
    let mut ends = Vec::new();
    for block in pem::Pem::iter_from_buffer(text) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!(
                "only CERTIFICATE PEM blocks are allowed, found {:?}",
                block.label
            ));
        }
        let cert = block
            .parse_x509()
            .map_err(|e| format!("x509: malformed certificate: {e}"))?;
        ends.push(cert.validity().not_after.timestamp());
    }
    if ends.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".into());
    }
    Ok(ends)
}
