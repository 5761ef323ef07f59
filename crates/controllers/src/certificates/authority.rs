//! What the controllers ask of whoever keeps the cluster's CA.

/// What a certificate request names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN; empty without one
    pub common_name: String,
    /// O
    pub organizations: Vec<String>,
    /// DNS alternative names
    pub dns_names: usize,
    /// IP alternative names
    pub ip_addresses: usize,
    /// mail alternative names
    pub emails: usize,
    /// URI alternative names
    pub uris: usize,
}

/// Reads requests and signs certificates.
pub trait CertificateAuthority: Send + Sync {
    /// What a PEM request asks for; Err says what is wrong with it.
    fn read(&self, request: &[u8]) -> Result<Subject, String>;
    /// A PEM certificate for a PEM request, with usages named as in `spec.usages`, living `seconds` or the signer's usual time.
    /// May block.
    fn sign(
        &self,
        request: &[u8],
        usages: &[String],
        seconds: Option<i64>,
    ) -> Result<String, String>;
    /// When the first certificate of a PEM text ends, seconds since 1970.
    fn end(&self, certificate: &[u8]) -> Option<i64>;
}
