//! Certificates by server name, from `kubernetes.io/tls` Secrets; one of our own where none fits.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("tls.crt: {0}; put a PEM certificate chain there")]
    Certificate(rustls_pki_types::pem::Error),
    #[error("tls.key: {0}; put a PEM private key there")]
    Key(rustls_pki_types::pem::Error),
    #[error("{0}; is the key that of the certificate?")]
    Pair(#[from] rustls::Error),
    #[error("making a certificate: {0}")]
    Own(#[from] rcgen::Error),
}

pub(crate) type Names = HashMap<String, Arc<CertifiedKey>>;

/// Chain and key from PEM.
pub(crate) fn pair(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, Error> {
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(Error::Key)?;
    let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
    Ok(pair)
}

#[derive(Debug)]
struct Resolver {
    names: Arc<ArcSwap<Names>>,
    own: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let names = self.names.load();
        let found = hello.server_name().and_then(|name| {
            let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
            names.get(name).or_else(|| names.get(&wildcard()?))
        });
        Some(found.unwrap_or(&self.own).clone())
    }
}

pub(crate) struct Certificates {
    names: Arc<ArcSwap<Names>>,
    config: Arc<ServerConfig>,
}

impl Certificates {
    pub(crate) fn new() -> Result<Certificates, Error> {
        let own = rcgen::generate_simple_self_signed(["knarr.invalid".to_string()])?;
        let own = pair(
            own.cert.pem().as_bytes(),
            own.signing_key.serialize_pem().as_bytes(),
        )?;
        let names = Arc::new(ArcSwap::from_pointee(Names::new()));
        let resolver = Resolver {
            names: names.clone(),
            own: Arc::new(own),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Certificates {
            names,
            config: Arc::new(config),
        })
    }

    pub(crate) fn set(&self, names: Names) {
        self.names.store(Arc::new(names));
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }
}
