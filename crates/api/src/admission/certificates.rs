//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction (kubernetes `plugin/pkg/admission/certificates`):
//! who may approve and sign for which signer, and what nobody may ask for.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_access::{Attributes as Asked, user::MASTERS};
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{access, certs, server::Inner, status::Failure};

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Judges writes of CertificateSigningRequests.
pub fn validate(inner: &Inner, a: &Attributes<'_>) -> Result<(), Failure> {
    let r = a.resource;
    if (r.group, r.plural) != ("certificates.k8s.io", "certificatesigningrequests") {
        return Ok(());
    }
    let text = |o: &Value, p: &str| {
        o.pointer(p)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_string()
    };
    match (a.operation, a.subresource, a.old, &a.object) {
        (Operation::Create, "", _, Some(o)) if text(o, "/spec/signerName") == CLIENT_SIGNER => {
            let request = STANDARD
                .decode(text(o, "/spec/request"))
                .unwrap_or_default();
            let read = certs::Request::from_pem(&request)
                .map_err(|e| a.forbidden(&format!("failed to parse CSR: {e}")))?;
            match read.organizations.iter().any(|o| o == MASTERS) {
                true => Err(a.forbidden(&format!(
                    "use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
                ))),
                false => Ok(()),
            }
        }
        (Operation::Update, "approval", Some(old), _) => {
            may(inner, a, "approve", &text(old, "/spec/signerName"))
        }
        (Operation::Update, "status", Some(old), Some(new)) => {
            let same = |p: &str| {
                let value = |o: &Value| {
                    o.pointer(p)
                        .filter(|v| **v != Value::Array(vec![]))
                        .cloned()
                };
                value(old) == value(new)
            };
            match same("/status/certificate") && same("/status/conditions") {
                true => Ok(()),
                false => may(inner, a, "sign", &text(old, "/spec/signerName")),
            }
        }
        _ => Ok(()),
    }
}

/// 403 unless the requester may do this for the signer, or for all signers of its domain.
fn may(inner: &Inner, a: &Attributes<'_>, verb: &str, signer: &str) -> Result<(), Failure> {
    let domain = signer.split('/').next().unwrap_or_default();
    let allowed = [signer.to_string(), format!("{domain}/*")]
        .into_iter()
        .any(|name| {
            let asked = Asked {
                verb: verb.into(),
                resource_request: true,
                group: "certificates.k8s.io".into(),
                version: "*".into(),
                resource: "signers".into(),
                name,
                ..Asked::default()
            };
            access::decide(inner, a.who.info(), &asked).allowed()
        });
    match allowed {
        true => Ok(()),
        false => Err(a.forbidden(&format!(
            "user not permitted to {verb} requests with signerName {signer:?}"
        ))),
    }
}
