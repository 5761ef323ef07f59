//! A node and Pods without containers: a network namespace each, all gone when the test's threads end.
#![allow(dead_code)]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    serde::de::DeserializeOwned,
};
use knarr_api::ApiServer;
use knarr_network::{Config, Network};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// Far more than anything takes.
pub const DEADLINE: Duration = Duration::from_secs(120);
pub const WEB: u16 = 8080;
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 7, 7);
const POD_CIDR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x2a, 0, 0, 0, 0, 0, 0);
const SERVICE_CIDR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 43, 0, 0, 0, 0, 0, 0);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 43, 0, 0, 0, 0, 0, 7);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

fn own_namespace() {
    // SAFETY: only the calling thread's network namespace changes; no memory or descriptor table is shared anew.
    let done = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    done.expect("these tests need root: they make network namespaces");
}

/// Runs a test in a fresh network namespace; all threads of its runtime are in there.
pub fn node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let run = move || {
            own_namespace();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test());
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

type Work = Box<dyn FnOnce() + Send>;

/// A namespace with a server on TCP and UDP [`WEB`] that answers with the Pod's name and the client's address.
pub struct Pod {
    pub name: String,
    pub ip: Ipv4Addr,
    pub ip6: Option<Ipv6Addr>,
    netns: PathBuf,
    work: mpsc::SyncSender<Work>,
}

/// A thread in a network namespace of its own, and the way in.
fn own_thread() -> (mpsc::SyncSender<Work>, PathBuf) {
    let (work, todo) = mpsc::sync_channel::<Work>(8);
    let (ready, netns) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        own_namespace();
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let path = format!("/proc/{}/task/{tid}/ns/net", std::process::id());
        ready.send(PathBuf::from(path)).unwrap();
        for work in todo {
            work();
        }
    });
    (work, netns.recv().unwrap())
}

impl Pod {
    pub async fn start(network: &Network, name: &str) -> Pod {
        Pod::start_with(network, name, knarr_network::Pod::default()).await
    }

    /// With ports, or more labels.
    pub async fn start_with(network: &Network, name: &str, more: knarr_network::Pod) -> Pod {
        Pod::start_in(network, "default", name, more).await
    }

    pub async fn start_in(
        network: &Network,
        namespace: &str,
        name: &str,
        more: knarr_network::Pod,
    ) -> Pod {
        let (work, netns) = own_thread();
        let pod = knarr_network::Pod {
            uid: name.into(),
            namespace: namespace.into(),
            name: name.into(),
            labels: [("app".to_string(), name.to_string())]
                .into_iter()
                .chain(more.labels)
                .collect(),
            ..more
        };
        let ip = network.attach(&pod, &netns).await.unwrap();
        let ip6 = network.addresses(ip).into_iter().find_map(|ip| match ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        });
        let pod = Pod {
            name: name.into(),
            ip,
            ip6,
            netns,
            work,
        };
        let title = pod.name.clone();
        pod.run(move || serve(&title)).await;
        pod
    }

    /// A machine outside of the cluster, at 192.0.2.2: it knows no way back to Pods.
    pub async fn outside() -> Pod {
        let (work, netns) = own_thread();
        let tid = netns.components().nth(4).unwrap().as_os_str();
        let tid = tid.to_str().unwrap();
        command(&format!(
            "ip link add out0 type veth peer name eth0 netns {tid}"
        ));
        command("ip addr add 192.0.2.1/24 dev out0");
        command("ip link set out0 up");
        let pod = Pod {
            name: "outside".into(),
            ip: Ipv4Addr::new(192, 0, 2, 2),
            ip6: None,
            netns,
            work,
        };
        pod.run(|| {
            command("ip addr add 192.0.2.2/24 dev eth0");
            command("ip link set eth0 up");
            serve("outside");
        })
        .await;
        pod
    }

    /// Runs something inside.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, done) = tokio::sync::oneshot::channel();
        let work = Box::new(move || drop(answer.send(work())));
        self.work.send(work).unwrap();
        done.await.expect("the work inside panicked")
    }

    pub async fn ask(&self, to: SocketAddr) -> std::io::Result<String> {
        self.run(move || ask(to)).await
    }
}

fn serve(name: &str) {
    let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, WEB)).unwrap();
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, WEB)).unwrap();
    let title = name.to_string();
    // These threads end with the test's process.
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let title = title.clone();
            std::thread::spawn(move || answer(stream, &title));
        }
    });
    let title = name.to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(
                format!("{title} {}", from.ip().to_canonical()).as_bytes(),
                from,
            );
        }
    });
}

/// One line in, one line out, until the client ends.
fn answer(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        if stream
            .write_all(format!("{name} {}\n", peer.ip().to_canonical()).as_bytes())
            .is_err()
        {
            return;
        }
    }
}

pub fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

pub fn ask_on(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"?")?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
}

/// `<pod> <the client as the pod sees it>`
pub fn ask(to: SocketAddr) -> std::io::Result<String> {
    ask_on(&mut connect(to)?)
}

pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> Result<(), String>) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while let Err(last) = look().await {
        assert!(
            tokio::time::Instant::now() < end,
            "{what}: not within {DEADLINE:?}; last seen: {last}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The names of the Pods that answer at `to`, in 40 tries; None for a refused connection.
pub fn who(to: SocketAddr) -> Vec<Option<String>> {
    let name = |_| match ask(to) {
        Ok(answer) => Some(answer.split(' ').next().unwrap_or_default().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => None,
        Err(e) => panic!("{to}: {e}"),
    };
    let mut all = (0..40).map(name).collect::<Vec<_>>();
    all.sort();
    all.dedup();
    all
}

pub struct Cluster {
    pub api: ApiServer,
    pub dir: tempfile::TempDir,
}

impl Cluster {
    pub fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        Cluster {
            api: ApiServer::new(knarr_api::Config {
                service_cidr6: Some((SERVICE_CIDR6, 112)),
                ..knarr_api::Config::for_tests(&dir.path().join("api"))
            })
            .unwrap(),
            dir,
        }
    }

    pub fn client(&self) -> kube::Client {
        self.api.client("admin", &["system:masters"], "test")
    }

    pub fn config(&self) -> Config {
        Config {
            instance: "t".into(),
            node: "n1".into(),
            state_dir: self.dir.path().join("network"),
            pod_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
            node_cidr: (Ipv4Addr::new(10, 42, 0, 0), 19),
            place: None,
            service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
            dns_ip: DNS,
            cluster_domain: "cluster.local".into(),
            ipv6: Some(knarr_network::Ipv6 {
                pod_cidr: (POD_CIDR6, 64),
                node_cidr: (POD_CIDR6, 112),
                service_cidr: (SERVICE_CIDR6, 112),
                dns_ip: Ipv6Addr::new(0xfd00, 43, 0, 0, 0, 0, 0, 10),
            }),
        }
    }

    /// Opens the network and lets it follow the API until the guard is dropped.
    pub async fn network(&self) -> (Network, Running) {
        let network = Network::open(self.config()).await.unwrap();
        let (services, dns, client) = (network.clone(), network.clone(), self.client());
        let (policies, other) = (network.clone(), self.client());
        let tasks = vec![
            tokio::spawn(async move { policies.run_policies(other).await }),
            tokio::spawn(async move { services.run_services(client).await }),
            tokio::spawn(async move { dns.run_dns().await.unwrap() }),
        ];
        (network, Running(tasks))
    }

    pub async fn apply<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let name = object["metadata"]["name"].as_str().unwrap().to_string();
        Api::<K>::namespaced(self.client(), "default")
            .patch(
                &name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(object),
            )
            .await
            .unwrap();
    }

    /// A Service `web` with the VIP; `more` is merged into its spec.
    pub async fn service(&self, more: Value) {
        let mut spec = json!({"clusterIP": VIP.to_string(), "ports":[
            {"name":"http","port":80,"targetPort":WEB},
            {"name":"udp","port":80,"targetPort":WEB,"protocol":"UDP"}]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object =
            json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":spec});
        self.apply::<Service>(object).await;
    }

    pub async fn delete_service(&self) {
        let api = Api::<Service>::namespaced(self.client(), "default");
        api.delete("web", &DeleteParams::default()).await.unwrap();
    }

    pub async fn endpoints(&self, pods: &[&Pod]) {
        let placed: Vec<_> = pods.iter().map(|pod| (*pod, None)).collect();
        self.placed_endpoints(&placed).await;
    }

    /// Each with the node it's on.
    pub async fn placed_endpoints(&self, pods: &[(&Pod, Option<&str>)]) {
        let endpoints = pods
            .iter()
            .map(|(pod, node)| json!({"addresses":[pod.ip.to_string()],"conditions":{"ready":true},"nodeName":node}))
            .collect::<Vec<_>>();
        let object = json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
            "metadata":{"name":"web-1","labels":{"kubernetes.io/service-name":"web"}},
            "ports":[{"name":"http","port":WEB,"protocol":"TCP"},{"name":"udp","port":WEB,"protocol":"UDP"}],
            "endpoints":endpoints});
        self.apply::<EndpointSlice>(object).await;
    }
}

/// Ends what follows the API, as a killed platform would.
pub struct Running(pub Vec<tokio::task::JoinHandle<()>>);

impl Running {
    pub async fn stop(mut self) {
        for task in std::mem::take(&mut self.0) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Output of a command in this namespace.
pub fn command(line: &str) -> String {
    let mut words = line.split(' ');
    let output = std::process::Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{line}: {e}; .ci/run installs it"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Asks cluster DNS over UDP, with a message made by hand: one question, the answers' A records.
pub fn resolve(name: &str) -> std::io::Result<Vec<IpAddr>> {
    resolve_at(DNS, name)
}

/// As [`resolve`], of the server at that address.
pub fn resolve_at(server: Ipv4Addr, name: &str) -> std::io::Result<Vec<IpAddr>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect((server, 53))?;
    socket.send(&query)?;
    let mut buffer = [0; 512];
    let n = socket.recv(&mut buffer)?;
    // Each A record ends with its length, 4, and the address.
    let records = buffer[query.len()..n]
        .windows(10)
        .filter(|w| w[..4] == [0, 1, 0, 1] && w[8..] == [0, 4]);
    let at = records.map(|w| w.as_ptr() as usize - buffer.as_ptr() as usize + 10);
    Ok(at
        .map(|at| IpAddr::from([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]]))
        .collect())
}

/// What `who` gives when these answer.
fn names(pods: &[&str]) -> Vec<Option<String>> {
    pods.iter().map(|name| Some(name.to_string())).collect()
}

/// Waits until exactly these Pods answer there: as seen from the node, or from inside a Pod.
pub async fn answers(from: Option<&Pod>, to: SocketAddr, expected: &[&str]) {
    let expected = if expected.is_empty() {
        vec![None]
    } else {
        names(expected)
    };
    eventually(&format!("{to} answers"), async || {
        let got = match from {
            Some(pod) => pod.run(move || who(to)).await,
            None => tokio::task::spawn_blocking(move || who(to)).await.unwrap(),
        };
        if got == expected {
            Ok(())
        } else {
            Err(format!("{got:?}, wanted {expected:?}"))
        }
    })
    .await;
}
