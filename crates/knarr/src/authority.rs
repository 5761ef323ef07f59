//! The API's CA, as the controllers that sign certificate requests see it.

use knarr_controllers::{CertificateAuthority, Subject};

pub struct Authority(pub knarr_api::Authority);

impl CertificateAuthority for Authority {
    fn read(&self, request: &[u8]) -> Result<Subject, String> {
        let r = self.0.read(request).map_err(|e| e.to_string())?;
        Ok(Subject {
            common_name: r.common_name,
            organizations: r.organizations,
            dns_names: r.dns_names.len(),
            ip_addresses: r.ip_addresses,
            emails: r.emails,
            uris: r.uris,
        })
    }
    fn sign(
        &self,
        request: &[u8],
        usages: &[String],
        seconds: Option<i64>,
    ) -> Result<String, String> {
        self.0
            .sign(request, usages, seconds)
            .map_err(|e| e.to_string())
    }
    fn end(&self, certificate: &[u8]) -> Option<i64> {
        self.0.end(certificate)
    }
}
