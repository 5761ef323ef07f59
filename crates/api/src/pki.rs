//! Keys and certificates: a CA, the serving certificate and the admin's, made at the first start and renewed in time.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use knarr_access::User;
use sha2::{Digest, Sha256};

use crate::{
    access::authenticate::CREDENTIAL,
    identity::{Identity, MASTERS},
};

const DAY_SECONDS: i64 = 86_400;
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// A certificate with less than this left is made anew at start.
const RENEW_DAYS: i64 = 30;
/// Name of this server towards aggregated ones.
pub const FRONT_PROXY: &str = "front-proxy-client";
/// Clocks may differ by this much: certificates made while one was ahead hold when it has been set back.
const SKEW_SECONDS: i64 = 7 * 86_400;

/// What goes wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read or written.
    #[error(
        "{path}: {source}; check that the data directory is writable and on a disk with free space"
    )]
    File {
        /// which
        path: PathBuf,
        /// why
        source: std::io::Error,
    },
    /// A key or certificate doesn't parse.
    #[error("{path} is not a usable key or certificate ({why}); remove it to have a new one made")]
    Unusable {
        /// which
        path: PathBuf,
        /// why
        why: String,
    },
    /// rcgen or rustls refuse.
    #[error("making certificates: {0}")]
    Crypto(String),
}

/// The platform's certificates.
pub struct Pki {
    /// CA certificate, PEM.
    pub ca_pem: String,
    /// CA of the certificate by which aggregated servers know this one, PEM.
    pub front_ca_pem: String,
    /// that certificate, PEM, and its key's file
    front: (String, PathBuf),
    /// Admin's client certificate, PEM.
    pub admin_cert_pem: String,
    admin_key: PathBuf,
    /// TLS with client certificates asked for, not demanded.
    pub tls: Arc<rustls::ServerConfig>,
}

impl Pki {
    /// Reads or makes everything; blocking. The serving certificate is for `addresses`, too.
    pub fn open(
        dir: &Path,
        service_ip: Ipv4Addr,
        domain: &str,
        addresses: &[IpAddr],
    ) -> Result<Pki, Error> {
        private_dir(dir)?;
        let (ca_pem, ca_key, new_ca) = authority(dir, "ca", "knarr-ca")?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(crypto)?;
        let names: Vec<String> = [
            "127.0.0.1",
            "::1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ]
        .into_iter()
        .map(String::from)
        .chain([
            format!("kubernetes.default.svc.{domain}"),
            service_ip.to_string(),
        ])
        .chain(addresses.iter().map(IpAddr::to_string))
        .collect();
        let server = leaf(dir, "apiserver", &issuer, new_ca, Use::Server(names))?;
        let admin = leaf(dir, "admin", &issuer, new_ca, Use::Admin)?;
        let (front_ca_pem, front_key, new_front) =
            authority(dir, "front-proxy-ca", "knarr-front-proxy-ca")?;
        let front = Issuer::from_ca_cert_pem(&front_ca_pem, front_key).map_err(crypto)?;
        let front = leaf(
            dir,
            "front-proxy-client",
            &front,
            new_front,
            Use::FrontProxy,
        )?;
        let tls = server_config(&ca_pem, &server.0, &server.1)?;
        Ok(Pki {
            ca_pem,
            front_ca_pem,
            front,
            admin_cert_pem: admin.0,
            admin_key: admin.1,
            tls: Arc::new(tls),
        })
    }

    /// TLS of a node's agent: a certificate for these names, made when there is none; blocking.
    pub fn for_node(
        &self,
        dir: &Path,
        node: &str,
        names: Vec<String>,
    ) -> Result<rustls::ServerConfig, Error> {
        let (ca_pem, ca_key, new_ca) = authority(dir, "ca", "knarr-ca")?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(crypto)?;
        // names of nodes are DNS names, so that they can't lead out of the folder
        let file = format!("kubelet-{node}");
        let (cert, key) = leaf(dir, &file, &issuer, new_ca, Use::Server(names))?;
        server_config(&ca_pem, &cert, &key)
    }

    /// The certificate and key by which aggregated servers know this one; the key is read when asked, not kept.
    pub fn front_proxy(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
        let (cert, key) = &self.front;
        let cert = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|e| Error::Crypto(format!("{e:?}")))?;
        let text = fs::read(key).map_err(file(key))?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|e| Error::Unusable {
            path: key.clone(),
            why: format!("{e:?}"),
        })?;
        Ok((vec![cert], key))
    }

    /// The admin's key, PEM; read when asked, not kept.
    pub fn admin_key_pem(&self) -> Result<String, Error> {
        fs::read_to_string(&self.admin_key).map_err(file(&self.admin_key))
    }
}

/// An I/O error at this path.
pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { path, source }
}
fn crypto(e: impl std::fmt::Display) -> Error {
    Error::Crypto(e.to_string())
}

/// Makes the folder for its owner alone.
pub(crate) fn private_dir(dir: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file(dir))
}

/// Writes next to the file and renames, so that a crash leaves the old or the new. Mode 0600 for keys.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let mut f = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(file(&temporary))?;
    f.set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| f.write_all(text.as_bytes()))
        .and_then(|()| f.sync_all())
        .map_err(file(&temporary))?;
    fs::rename(&temporary, path).map_err(file(path))
}

/// The certificate's text when it is there and good for some time yet.
fn still_good(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
    let left = cert.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    (left > RENEW_DAYS * DAY_SECONDS).then_some(text)
}

fn params(name: &str, group: Option<&str>, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut dn = DistinguishedName::new();
    if let Some(group) = group {
        dn.push(DnType::OrganizationName, group);
    }
    dn.push(DnType::CommonName, name);
    params.distinguished_name = dn;
    let now = std::time::SystemTime::now();
    let skew = std::time::Duration::from_secs(SKEW_SECONDS as u64);
    let life = std::time::Duration::from_secs((days * DAY_SECONDS) as u64);
    params.not_before = (now - skew).into();
    params.not_after = (now + life).into();
    params
}

/// The CA in `<name>.crt` and `<name>.key`; true when it is new.
fn authority(dir: &Path, name: &str, subject: &str) -> Result<(String, KeyPair, bool), Error> {
    let cert_path = dir.join(format!("{name}.crt"));
    let key_path = dir.join(format!("{name}.key"));
    if let Some(cert) = still_good(&cert_path)
        && key_path.exists()
    {
        let key = fs::read_to_string(&key_path).map_err(file(&key_path))?;
        let key = KeyPair::from_pem(&key).map_err(|e| Error::Unusable {
            path: key_path,
            why: e.to_string(),
        })?;
        return Ok((cert, key, false));
    }
    let key = KeyPair::generate().map_err(crypto)?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut p = params(&format!("{subject}-{}", &id[..8]), None, CA_DAYS);
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let cert = p.self_signed(&key).map_err(crypto)?.pem();
    write(&key_path, &key.serialize_pem(), 0o600)?;
    write(&cert_path, &cert, 0o644)?;
    Ok((cert, key, true))
}

/// The certificate holds for all these names.
fn is_for(cert: &str, names: &[String]) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(der) = CertificateDer::from_pem_slice(cert.as_bytes()) else {
        return false;
    };
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(&der) else {
        return false;
    };
    let Ok(Some(held)) = cert.subject_alternative_name() else {
        return false;
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(n) => Some(n.to_string()),
        GeneralName::IPAddress(b) => match b.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*b).ok()?).to_string()),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(*b).ok()?).to_string()),
        },
        _ => None,
    };
    let held: Vec<String> = held.value.general_names.iter().filter_map(text).collect();
    names.iter().all(|n| held.contains(n))
}

enum Use {
    Server(Vec<String>),
    Admin,
    FrontProxy,
}

fn leaf(
    dir: &Path,
    name: &str,
    issuer: &Issuer<'_, KeyPair>,
    renew: bool,
    purpose: Use,
) -> Result<(String, PathBuf), Error> {
    let cert_path = dir.join(format!("{name}.crt"));
    let key_path = dir.join(format!("{name}.key"));
    if !renew
        && let Some(cert) = still_good(&cert_path)
        && key_path.exists()
        && match &purpose {
            Use::Server(names) => is_for(&cert, names),
            _ => true,
        }
    {
        return Ok((cert, key_path));
    }
    let key = KeyPair::generate().map_err(crypto)?;
    let mut p = match purpose {
        Use::Server(names) => {
            let mut p = params("kube-apiserver", None, LEAF_DAYS);
            p.subject_alt_names = CertificateParams::new(names)
                .map_err(crypto)?
                .subject_alt_names;
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            p
        }
        Use::FrontProxy => {
            let mut p = params(FRONT_PROXY, None, LEAF_DAYS);
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            p
        }
        Use::Admin => {
            let mut p = params("kubernetes-admin", Some(MASTERS), LEAF_DAYS);
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            p
        }
    };
    p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    p.use_authority_key_identifier_extension = true;
    let cert = p.signed_by(&key, issuer).map_err(crypto)?.pem();
    write(&key_path, &key.serialize_pem(), 0o600)?;
    write(&cert_path, &cert, 0o644)?;
    Ok((cert, key_path))
}

fn server_config(ca: &str, cert: &str, key_path: &Path) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca = CertificateDer::from_pem_slice(ca.as_bytes())
        .map_err(|e| Error::Crypto(format!("{e:?}")))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).map_err(crypto)?;
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(crypto)?;
    let key = fs::read(key_path).map_err(file(key_path))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| Error::Unusable {
        path: key_path.to_path_buf(),
        why: format!("{e:?}"),
    })?;
    let cert = CertificateDer::from_pem_slice(cert.as_bytes())
        .map_err(|e| Error::Crypto(format!("{e:?}")))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(crypto)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert, ca], key)
        .map_err(crypto)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Attribute of a subject that carries the user's UID (upstream's `x509.ParsingUserUID`).
const UID: x509_parser::der_parser::Oid<'static> =
    x509_parser::der_parser::oid!(1.3.6.1.4.1.57683.2);

/// The user a verified client certificate names: CN is the user, each O a group.
pub fn identity_of(der: &CertificateDer<'_>) -> Option<Identity> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = cert.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .collect();
    if user.is_empty() {
        return None;
    }
    let mut found = User::new(user, &groups);
    if let Some(uid) = subject
        .iter_by_oid(&UID)
        .next()
        .and_then(|a| a.as_str().ok())
    {
        found.uid = uid.to_string();
    }
    let fingerprint = hex::encode(Sha256::digest(der));
    found.extra.insert(
        CREDENTIAL.to_string(),
        vec![format!("X509SHA256={fingerprint}")],
    );
    Some(Identity::of(found))
}
