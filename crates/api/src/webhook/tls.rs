//! Whether a webhook's certificate is good.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A TLS connection to `name`, whose certificate leads to one of `bundle` (PEM), or to the system's when it is empty.
pub async fn connect(
    bundle: &[u8],
    name: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let config = config(bundle)?;
    let name = ServerName::try_from(name.to_string()).map_err(|e| format!("{name:?}: {e}"))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|e| told(&e))
}

/// The failure in the words of Go's client, where it has a word for it.
pub fn told(e: &std::io::Error) -> String {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(e)) => match e {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "x509: certificate signed by unknown authority".to_string()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "x509: certificate has expired or is not yet valid".to_string()
            }
            other => format!("x509: {other}"),
        },
        _ => return e.to_string(),
    };
    format!("tls: failed to verify certificate: {why}")
}

fn config(bundle: &[u8]) -> Result<ClientConfig, String> {
    Ok(verifying(bundle)?.with_no_client_auth())
}

/// TLS to servers whose certificate leads to one of `bundle` (PEM), or to the system's when it is empty.
pub fn verifying(bundle: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    if bundle.is_empty() {
        use rustls_platform_verifier::BuilderVerifierExt;
        let builder = builder
            .with_platform_verifier()
            .map_err(|e| e.to_string())?;
        return Ok(builder);
    }
    let mut roots = RootCertStore::empty();
    let mut known = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        let certificate =
            certificate.map_err(|e| format!("unable to load root certificates: {e}"))?;
        known.push(certificate.clone().into_owned());
        let _ = roots.add(certificate);
    }
    if known.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| e.to_string())?;
    let verifier = Verifier { inner, known };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// As rustls verifies, but a server may also show a certificate of the bundle itself, though it calls itself an authority:
/// what `openssl req -x509` makes, and Go's client accepts.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    known: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Other(_) | CertificateError::UnknownIssuer,
            )) if self.known.iter().any(|k| k == end_entity) => {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, server_name)?;
                let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
                let (_, x509) =
                    x509_parser::parse_x509_certificate(end_entity).map_err(|_| bad())?;
                let at = i64::try_from(now.as_secs()).map_err(|_| bad())?;
                let validity = x509.validity();
                if at < validity.not_before.timestamp() || at > validity.not_after.timestamp() {
                    return Err(CertificateError::Expired.into());
                }
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
