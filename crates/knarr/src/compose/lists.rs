//! What there is: `ps`, `images`, `volumes`, `ls`, `port`, `top`.

use super::show;
use super::{
    Asked,
    containers::{Container, State, containers},
};
use crate::{connect, error::Error, paths::Paths};
use clap::Args;
use k8s_openapi::{
    api::core::v1::{Namespace, PersistentVolumeClaim, Service},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Verbs that take services only.
#[derive(Args)]
pub struct ServicesArguments {
    pub services: Vec<String>,
}

#[derive(Args)]
pub struct PsArguments {
    services: Vec<String>,
    /// Those that have ended, too
    #[arg(short, long)]
    all: bool,
    /// Only their ids
    #[arg(short, long)]
    quiet: bool,
    /// Only the services' names
    #[arg(long = "services")]
    only_services: bool,
    /// Only those in this state: created, running, restarting, exited; may be repeated
    #[arg(long, value_name = "STATE")]
    status: Vec<String>,
    /// The same as status=STATE
    #[arg(long, value_name = "status=STATE")]
    filter: Vec<String>,
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
    /// Taken for the fingers' sake
    #[arg(long, hide = true)]
    no_trunc: bool,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    orphans: Option<String>,
}

impl State {
    pub fn word(&self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Exited(_) => "exited",
        }
    }
}

/// `Up 5 minutes (healthy)`, in Docker's words.
fn status(c: &Container) -> String {
    let ago = |t: Option<Timestamp>| {
        t.map(|t| show::duration(Timestamp::now().duration_since(t).as_secs().max(0) as u64))
    };
    let since = ago(c.since()).unwrap_or_default();
    match (&c.state, c.health()) {
        (State::Created, _) => "Created".into(),
        (State::Running, "") => format!("Up {since}"),
        (State::Running, "starting") => format!("Up {since} (health: starting)"),
        (State::Running, health) => format!("Up {since} ({health})"),
        (State::Paused, _) => format!("Up {since} (Paused)"),
        (State::Restarting, _) => "Restarting".into(),
        (State::Exited(code), _) => format!("Exited ({code}) {since} ago"),
    }
}

/// Of a project's Services: where ports of the host lead to.
struct Published {
    service: Service,
}

impl Published {
    async fn all(client: &kube::Client, namespace: &str) -> Result<Vec<Published>, Error> {
        let api: Api<Service> = Api::namespaced(client.clone(), namespace);
        let all = api.list(&ListParams::default()).await?.items;
        let kind = |s: &Service| s.spec.as_ref().and_then(|s| s.type_.clone());
        let published = all
            .into_iter()
            .filter(|s| matches!(kind(s).as_deref(), Some("LoadBalancer" | "NodePort")));
        Ok(published.map(|service| Published { service }).collect())
    }

    /// (address, host port, container port, protocol) for a Pod.
    fn ports(&self, c: &Container) -> Vec<(String, i32, i32, String)> {
        let Some(spec) = &self.service.spec else {
            return vec![];
        };
        let selector = spec.selector.clone().unwrap_or_default();
        let labels = c.pod.labels();
        if selector.is_empty() || !selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
            return vec![];
        }
        let address = self.service.annotations().get("knarr.dev/host-ip");
        let address = address.cloned().unwrap_or("0.0.0.0".into());
        let any = spec.type_.as_deref() == Some("NodePort");
        let ports = spec.ports.iter().flatten().filter_map(|p| {
            let target = match &p.target_port {
                Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(n)) => *n,
                _ => p.port,
            };
            let host = if any { p.node_port? } else { p.port };
            let protocol = p.protocol.clone().unwrap_or("TCP".into()).to_lowercase();
            Some((address.clone(), host, target, protocol))
        });
        ports.collect()
    }
}

pub async fn ps(asked: &Asked<'_>, a: PsArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let mut states: BTreeSet<String> = a.status.iter().cloned().collect();
    for filter in &a.filter {
        match filter.split_once('=') {
            Some(("status", state)) => drop(states.insert(state.into())),
            Some(("source", _)) => {}
            _ => {
                return Err(Error::Input(format!(
                    "unknown filter {filter}: say status=STATE"
                )));
            }
        }
    }
    let mut all = containers(&target, &a.services).await?;
    let held = super::held::held();
    for c in all.iter_mut().filter(|c| c.is_running()) {
        if held.contains(&c.id()) {
            c.state = State::Paused;
        }
    }
    all.retain(|c| match states.is_empty() {
        true => a.all || !matches!(c.state, State::Exited(_) | State::Created),
        false => states.contains(c.state.word()),
    });
    if a.only_services {
        let services: BTreeSet<&str> = all.iter().map(|c| c.service.as_str()).collect();
        services.into_iter().for_each(|s| println!("{s}"));
        return Ok(0);
    }
    if a.quiet {
        all.iter().for_each(|c| println!("{}", c.id()));
        return Ok(0);
    }
    let published = Published::all(&target.client, &target.namespace).await?;
    // one that can't be read tells nothing of commands
    let store = knarr_image::ImageStore::open(&asked.paths.images()).ok();
    let mut rows = Vec::new();
    for c in &all {
        let ports: Vec<_> = published.iter().flat_map(|p| p.ports(c)).collect();
        let shown: Vec<String> = ports
            .iter()
            .map(|(ip, host, own, protocol)| format!("{ip}:{host}->{own}/{protocol}"))
            .collect();
        let image = store.as_ref().and_then(|s| s.resolve(&c.image()).ok()?);
        let command = c.command(image.as_ref().map(|i| &i.config)).join(" ");
        if a.format == "json" {
            let publishers: Vec<Value> = ports
                .iter()
                .map(|(ip, host, own, protocol)| json!({ "URL": ip, "TargetPort": own, "PublishedPort": host, "Protocol": protocol }))
                .collect();
            let exit = match c.state {
                State::Exited(code) => code,
                _ => 0,
            };
            let created = c.created().map(|t| t.as_second());
            println!(
                "{}",
                json!({ "ID": c.id(), "Name": c.pod_name(), "Image": c.image_name(), "Command": command, "Project": target.namespace,
                    "Service": c.service, "State": c.state.word(), "Status": status(c), "Health": c.health(), "ExitCode": exit,
                    "Created": created, "Publishers": publishers })
            );
            continue;
        }
        let created = c.created().map_or(0, |t| {
            Timestamp::now().duration_since(t).as_secs().max(0) as u64
        });
        rows.push(vec![
            c.pod_name(),
            c.image_name(),
            match command.is_empty() {
                true => "-".into(),
                false => format!("\"{}\"", short(&command, 20)),
            },
            c.service.clone(),
            format!("{} ago", show::duration(created)),
            status(c),
            shown.join(", "),
        ]);
    }
    if a.format == "table" {
        table(
            &[
                "NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS",
            ],
            &rows,
        );
    }
    Ok(0)
}

fn short(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_string(),
    }
}

/// Columns as wide as what is in them.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |i: usize| {
        let cells = rows
            .iter()
            .filter_map(|r| r.get(i))
            .map(|c| c.chars().count());
        cells.chain([head[i].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}"));
        println!("{}", padded.collect::<Vec<_>>().join("   ").trim_end());
    };
    line(head.to_vec());
    rows.iter()
        .for_each(|r| line(r.iter().map(String::as_str).collect()));
}

#[derive(Args)]
pub struct PortArguments {
    /// The container's number
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    index: usize,
    /// tcp or udp
    #[arg(long, default_value = "tcp", value_parser = ["tcp", "udp"])]
    protocol: String,
    service: String,
    private_port: u16,
}

pub async fn port(asked: &Asked<'_>, a: PortArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let all = containers(&target, std::slice::from_ref(&a.service)).await?;
    let found = all.iter().find(|c| a.index == 0 || c.index == a.index);
    let c =
        found.ok_or_else(|| Error::Failed(format!("service \"{}\" is not running", a.service)))?;
    let published = Published::all(&target.client, &target.namespace).await?;
    let ports = published.iter().flat_map(|p| p.ports(c));
    let mut wanted =
        ports.filter(|(_, _, own, p)| *own == i32::from(a.private_port) && *p == a.protocol);
    let (ip, host, ..) = wanted.next().ok_or_else(|| {
        Error::Failed(format!(
            "no port {}/{} for container {}",
            a.private_port,
            a.protocol,
            c.pod_name()
        ))
    })?;
    println!("{ip}:{host}");
    Ok(0)
}

/// The processes of each container: what the machine's `ps` would say of them.
pub async fn top(asked: &Asked<'_>, a: ServicesArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let all = containers(&target, &a.services).await?;
    let mut by_pod: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        for c in &all {
            let uid = c.pod.uid().unwrap_or_default();
            if !uid.is_empty() && groups.contains(&uid) && groups.contains(&c.id()) {
                by_pod.entry(c.id()).or_default().push(pid);
            }
        }
    }
    for c in all.iter().filter(|c| c.is_running()) {
        println!("{}", c.pod_name());
        let rows: Vec<Vec<String>> = by_pod
            .get(&c.id())
            .into_iter()
            .flatten()
            .filter_map(|pid| show::process(*pid))
            .collect();
        table(
            &["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
            &rows,
        );
        println!();
    }
    Ok(0)
}

#[derive(Args)]
pub struct ImagesArguments {
    services: Vec<String>,
    /// Only their ids
    #[arg(short, long)]
    quiet: bool,
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

pub async fn images(asked: &Asked<'_>, a: ImagesArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let all = containers(&target, &a.services).await?;
    let store = knarr_image::ImageStore::open(&asked.paths.images())?;
    let (mut rows, mut objects, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    for c in &all {
        let status = c.status();
        let id = status.map(|s| s.image_id.clone()).unwrap_or_default();
        let id = id
            .rsplit_once("sha256:")
            .map_or(String::new(), |(_, hex)| hex.to_string());
        let name = match c.image() {
            // By its digest, what was built here: its name is the file's.
            pinned if pinned.contains('@') => target
                .project
                .as_ref()
                .and_then(|p| p.services.get(&c.service))
                .map_or(pinned, |s| s.image.clone()),
            name => name,
        };
        let (repository, tag) = match name.rsplit_once(':').filter(|(_, t)| !t.contains('/')) {
            Some((r, t)) => (r.to_string(), t.to_string()),
            None => (name.clone(), "latest".into()),
        };
        let size = store.resolve(&name)?.map(|i| i.size_bytes);
        ids.insert(id.clone());
        let short: String = id.chars().take(12).collect();
        objects.push(json!({ "ID": id, "ContainerName": c.pod_name(), "Repository": repository, "Tag": tag, "Size": size }));
        let size = size.map_or("-".into(), |bytes| knarr_docker::human_size(bytes, 3));
        rows.push(vec![c.pod_name(), repository, tag, short, size]);
    }
    match (a.quiet, a.format.as_str()) {
        (true, _) => ids.iter().for_each(|i| println!("{i}")),
        (_, "json") => println!("{}", json!(objects)),
        _ => table(
            &["CONTAINER", "REPOSITORY", "TAG", "IMAGE ID", "SIZE"],
            &rows,
        ),
    }
    Ok(0)
}

#[derive(Args)]
pub struct VolumesArguments {
    services: Vec<String>,
    /// Only their names
    #[arg(short, long)]
    quiet: bool,
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

pub async fn volumes(asked: &Asked<'_>, a: VolumesArguments) -> Result<u8, Error> {
    let target = asked.target().await?;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(target.client.clone(), &target.namespace);
    let used: Option<BTreeSet<String>> = match a.services.is_empty() {
        true => None,
        false => {
            let all = containers(&target, &a.services).await?;
            let volumes = all
                .iter()
                .flat_map(|c| c.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()));
            let claims = volumes.filter_map(|v| v.persistent_volume_claim.as_ref());
            Some(claims.map(|c| c.claim_name.clone()).collect())
        }
    };
    let names = api.list_metadata(&ListParams::default()).await?.items;
    let names = names.iter().map(ResourceExt::name_any);
    let names = names.filter(|n| used.as_ref().is_none_or(|u| u.contains(n)));
    if a.quiet {
        names.for_each(|n| println!("{n}"));
        return Ok(0);
    }
    if a.format == "json" {
        names.for_each(|n| {
            println!(
                "{}",
                json!({ "Driver": "local", "Name": n, "Scope": "local" })
            )
        });
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = names.map(|n| vec!["local".into(), n]).collect();
    table(&["DRIVER", "VOLUME NAME"], &rows);
    Ok(0)
}

#[derive(Args)]
pub struct LsArguments {
    /// Those that are stopped, too
    #[arg(short, long)]
    all: bool,
    /// Only their names
    #[arg(short, long)]
    quiet: bool,
    /// Only those whose name has this: name=TEXT
    #[arg(long, value_name = "name=TEXT")]
    filter: Vec<String>,
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

pub async fn ls(paths: &Paths, a: LsArguments) -> Result<u8, Error> {
    let client = connect::connect(paths).await?;
    let mine = ListParams::default().labels("app.kubernetes.io/managed-by=knarr");
    let namespaces = Api::<Namespace>::all(client.clone())
        .list(&mine)
        .await?
        .items;
    let wanted = |name: &str| {
        let mut parts = a.filter.iter().filter_map(|f| f.strip_prefix("name="));
        a.filter.is_empty() || parts.any(|p| name.contains(p))
    };
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for namespace in namespaces.iter().filter(|n| wanted(&n.name_any())) {
        let target = super::Target {
            client: client.clone(),
            namespace: namespace.name_any(),
            project: None,
        };
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for c in containers(&target, &[]).await? {
            *states.entry(c.state.word()).or_default() += 1;
        }
        if !a.all && !states.contains_key("running") && !states.contains_key("restarting") {
            continue;
        }
        let status: Vec<String> = states.iter().map(|(s, n)| format!("{s}({n})")).collect();
        let files = namespace.annotations().get(knarr_compose::FROM_FILES);
        let files = files.cloned().unwrap_or_default();
        objects.push(
            json!({ "Name": target.namespace, "Status": status.join(", "), "ConfigFiles": files }),
        );
        rows.push(vec![target.namespace, status.join(", "), files]);
    }
    match (a.quiet, a.format.as_str()) {
        (true, _) => rows.iter().for_each(|r| println!("{}", r[0])),
        (_, "json") => println!("{}", json!(objects)),
        _ => table(&["NAME", "STATUS", "CONFIG FILES"], &rows),
    }
    Ok(0)
}
