//! The two servers as processes, and what the kernel says of them.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::anyhow_free::Result;

/// Time for a server to be ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// One side: its processes, and a kubeconfig for it. They end with it.
pub struct Server {
    pub name: &'static str,
    kubeconfig: std::path::PathBuf,
    processes: Vec<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for p in &mut self.processes {
            let _ = p.kill();
            let _ = p.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn quiet(program: &Path, log: &Path) -> Result<Command> {
    let mut c = Command::new(program);
    let out = std::fs::File::create(log)?;
    c.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    Ok(c)
}

impl Server {
    /// The example `apiserver`.
    pub async fn ours(program: &Path, dir: &Path) -> Result<Server> {
        let child = quiet(program, &dir.join("log"))?
            .arg(dir)
            .arg("127.0.0.1:0")
            .spawn()?;
        let s = Server {
            name: "knarr",
            kubeconfig: dir.join("kubeconfig"),
            processes: vec![child],
        };
        s.wait().await?;
        Ok(s)
    }

    /// kube-apiserver with etcd. Certificates come from `rcgen`, as ours do.
    pub async fn rival(program: &Path, etcd: &Path, dir: &Path) -> Result<Server> {
        let (api, store, peer) = (free_port()?, free_port()?, free_port()?);
        let file = |name: &str| dir.join(name).display().to_string();
        certificates(dir)?;
        let store_url = format!("http://127.0.0.1:{store}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let etcd = quiet(etcd, &dir.join("etcd.log"))?
            .args(["--data-dir", &file("etcd"), "--log-level", "warn"])
            .args([
                "--listen-client-urls",
                &store_url,
                "--advertise-client-urls",
                &store_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .spawn()?;
        let mut s = Server {
            name: "upstream",
            kubeconfig: dir.join("kubeconfig"),
            processes: vec![etcd],
        };
        let flags = [
            ("etcd-servers", store_url),
            ("secure-port", api.to_string()),
            ("bind-address", "127.0.0.1".into()),
            ("advertise-address", "127.0.0.1".into()),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.crt")),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".into(),
            ),
            ("service-account-key-file", file("server.pub")),
            ("service-account-signing-key-file", file("server.key")),
            ("service-cluster-ip-range", "10.43.0.0/16".into()),
            ("authorization-mode", "Node,RBAC".into()),
            // its controllers, which make service accounts, don't run here
            ("disable-admission-plugins", "ServiceAccount".into()),
            ("endpoint-reconciler-type", "none".into()),
        ];
        let flags = flags.iter().map(|(k, v)| format!("--{k}={v}"));
        let child = quiet(program, &dir.join("log"))?.args(flags).spawn()?;
        s.processes.push(child);
        let text = |name: &str| -> Result<String> {
            use base64::{Engine, engine::general_purpose::STANDARD};
            Ok(STANDARD.encode(std::fs::read(dir.join(name))?))
        };
        std::fs::write(
            &s.kubeconfig,
            serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
                "clusters": [{"name": "x", "cluster": {"server": format!("https://127.0.0.1:{api}"), "certificate-authority-data": text("ca.crt")?}}],
                "users": [{"name": "x", "user": {"client-certificate-data": text("admin.crt")?, "client-key-data": text("admin.key")?}}],
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]})
            .to_string(),
        )?;
        s.wait().await?;
        Ok(s)
    }

    /// A client with connections of its own.
    pub async fn client(&self) -> Result<kube::Client> {
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        config.read_timeout = None;
        Ok(kube::Client::try_from(config)?)
    }

    async fn wait(&self) -> Result<()> {
        let ready = async {
            loop {
                if let Ok(client) = self.client().await
                    && client.apiserver_version().await.is_ok()
                    && client
                        .request_text(http::Request::get("/readyz").body(vec![])?)
                        .await
                        .is_ok()
                {
                    return Ok::<(), Box<dyn std::error::Error + Send + Sync>>(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await??;
        Ok(())
    }

    /// Proportional share of memory of all processes, in MB.
    pub fn pss_mb(&self) -> Result<f64> {
        let mut kilobytes = 0.0;
        for p in &self.processes {
            let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", p.id()))?;
            let line = text.lines().find(|l| l.starts_with("Pss:")).unwrap_or("");
            kilobytes += line
                .split_whitespace()
                .nth(1)
                .unwrap_or("0")
                .parse::<f64>()?;
        }
        Ok(kilobytes / 1024.0)
    }

    /// Processor time of all processes so far, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for p in &self.processes {
            let text = std::fs::read_to_string(format!("/proc/{}/stat", p.id()))?;
            let fields: Vec<&str> = text
                .rsplit(')')
                .next()
                .unwrap_or("")
                .split_whitespace()
                .collect();
            for at in [11, 12] {
                ticks += fields.get(at).unwrap_or(&"0").parse::<f64>()?;
            }
        }
        Ok(ticks / 100.0)
    }
}

fn certificates(dir: &Path) -> Result<()> {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "ca");
    let ca_cert = ca.self_signed(&ca_key)?;
    std::fs::write(dir.join("ca.crt"), ca_cert.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    for (name, group) in [("server", "x"), ("admin", "system:masters")] {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.distinguished_name
            .push(DnType::OrganizationName, group);
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        std::fs::write(
            dir.join(format!("{name}.crt")),
            leaf.signed_by(&key, &issuer)?.pem(),
        )?;
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
        std::fs::write(dir.join(format!("{name}.pub")), key.public_key_pem())?;
    }
    Ok(())
}
