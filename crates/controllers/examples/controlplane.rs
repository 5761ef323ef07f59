//! The API server and the controllers without a node: what clients that need no Pod to run are tried out with, such as
//! upstream's `test/cmd`.
//!
//! `cargo run -p knarr-controllers --example controlplane -- DIR [ADDRESS:PORT]` keeps everything below DIR, writes
//! `DIR/kubeconfig` and says on stdout where it listens, until it is ended.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use knarr_controllers::{CertificateAuthority, Subject};

struct Ca(knarr_api::Authority);

impl CertificateAuthority for Ca {
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
    fn sign(&self, request: &[u8], usages: &[String], end: Option<i64>) -> Result<String, String> {
        self.0.sign(request, usages, end).map_err(|e| e.to_string())
    }
    fn end(&self, certificate: &[u8]) -> Option<i64> {
        self.0.end(certificate)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir: PathBuf = arguments
        .next()
        .ok_or("the first argument is the data folder")?
        .into();
    let address: SocketAddr = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:0".into())
        .parse()?;
    std::fs::create_dir_all(&dir)?;
    let api = knarr_api::ApiServer::new(knarr_api::Config::for_tests(&dir))?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let kubeconfig = dir.join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig(address, "knarr")?)?;
    println!("https://{address} {}", kubeconfig.display());
    let running = knarr_controllers::Running::default();
    let asked = running.clone();
    api.set_components(Arc::new(move |component| asked.check(component)));
    let clients = api.clone();
    tokio::spawn(knarr_controllers::run(knarr_controllers::Config {
        client: Arc::new(move |name| {
            let who = knarr_controllers::identity(name);
            clients.client(&who.user, who.groups, name)
        }),
        authority: Some(Arc::new(Ca(api.authority()))),
        running,
        node_grace: knarr_controllers::NODE_GRACE,
        volumes_dir: dir.join("volumes"),
        only: None,
    }));
    api.serve(listener).await?;
    Ok(())
}
