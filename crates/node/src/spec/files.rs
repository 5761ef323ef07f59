//! The files every Pod gets: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
//!
//! Source: kubernetes `pkg/kubelet/kubelet_pods.go` (hosts), `pkg/kubelet/network/dns/dns.go` (resolv.conf).

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use ring::digest::{SHA256, digest};

use crate::{
    context::Context,
    spec::{extras, joins, kept::LAYER},
    volumes,
};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;
const HOSTNAME_CHARS_MAX: usize = 63;
/// A name that Linux takes and Kubernetes does not (`my_db`), in place of `hostname`.
const HOSTNAME: &str = "knarr.dev/hostname";
/// `HOST_NAME_MAX` of Linux.
const KERNEL_HOSTNAME_BYTES_MAX: usize = 64;

/// The Pod's host name and its cluster domain (`sub.ns.svc.cluster.local`), which is empty without a subdomain.
pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    let annotations = pod.metadata.annotations.as_ref();
    let own = annotations.and_then(|a| a.get(HOSTNAME)).filter(|name| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !name.is_empty() && name.len() <= KERNEL_HOSTNAME_BYTES_MAX && name.bytes().all(plain)
    });
    let given = own
        .map(String::as_str)
        .or(spec.and_then(|s| s.hostname_override.as_deref()));
    if let Some(name) = given {
        return (name.to_owned(), String::new());
    }
    let wanted = spec
        .and_then(|s| s.hostname.as_deref())
        .filter(|h| !h.is_empty())
        .or(pod.metadata.name.as_deref())
        .unwrap_or("localhost");
    let cut: String = wanted.chars().take(HOSTNAME_CHARS_MAX).collect();
    let name = cut.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = spec
        .and_then(|s| s.subdomain.as_deref())
        .filter(|s| !s.is_empty())
        .map(|s| format!("{s}.{namespace}.svc.{cluster_domain}"))
        .unwrap_or_default();
    (name, domain)
}

/// What `hostname` says inside, if the kernel takes a name that long.
pub(crate) fn fitting_hostname(
    pod: &Pod,
    cluster_domain: &str,
    node_name: &str,
) -> Result<String, String> {
    let name = kernel_hostname(pod, cluster_domain, node_name);
    if name.len() <= KERNEL_HOSTNAME_BYTES_MAX {
        return Ok(name);
    }
    Err(format!(
        "Failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({KERNEL_HOSTNAME_BYTES_MAX} characters is the max, {} characters requested)",
        name.len()
    ))
}

/// What `hostname` says inside: the short name, or the full one with `setHostnameAsFQDN`.
pub(crate) fn kernel_hostname(pod: &Pod, cluster_domain: &str, node_name: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.and_then(|s| s.host_network).unwrap_or(false)
        && spec.is_some_and(|s| s.hostname_override.is_none())
    {
        return node_name.to_owned();
    }
    let (name, domain) = hostname(pod, cluster_domain);
    let full = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    if full && !domain.is_empty() {
        format!("{name}.{domain}")
    } else {
        name
    }
}

/// `host_file` is the node's own `/etc/hosts`, used with hostNetwork.
pub(crate) fn hosts(
    pod: &Pod,
    pod_ips: &[IpAddr],
    cluster_domain: &str,
    host_file: &str,
) -> String {
    let spec = pod.spec.as_ref();
    let first = spec.and_then(|s| s.containers.first());
    // one that can't be read is told when the container is made
    let extras = first
        .and_then(|c| extras::of(pod, c).ok())
        .unwrap_or_default();
    // `hostname -i` is one address in Docker's networks, and scripts count on that.
    let only_v4 = extras.no_services && pod_ips.iter().any(IpAddr::is_ipv4);
    let mut out;
    if spec.and_then(|s| s.host_network).unwrap_or(false) {
        out = format!("# Kubernetes-managed hosts file (host network).\n{host_file}");
    } else {
        out = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (name, domain) = hostname(pod, cluster_domain);
        for ip in pod_ips.iter().filter(|ip| !only_v4 || ip.is_ipv4()) {
            let whole = match domain.is_empty() {
                true => String::new(),
                false => format!("{name}.{domain}\t"),
            };
            let own = extras.own_names.iter().filter(|n| **n != name);
            let own: String = own.map(|n| format!("\t{n}")).collect();
            out.push_str(&format!("{ip}\t{whole}{name}{own}\n"));
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_ref());
    if let Some(aliases) = aliases.filter(|a| !a.is_empty()) {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.clone().unwrap_or_default().join("\t");
            out.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    for line in extras.hosts.iter().filter(|l| !l.contains('\n')) {
        out.push_str(&format!("{line}\n"));
    }
    out
}

/// The folder of the files that all containers of a Pod share, in the Pod's.
pub(crate) const ETC: &str = ".etc";

#[derive(Default, Clone)]
struct Resolv {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolv {
    let mut out = Resolv::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                out.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect();
                out.searches.retain(|s| !s.is_empty());
            }
            Some("options") => out.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    out
}

/// `host_file` is the node's own `/etc/resolv.conf`.
pub(crate) fn resolv(pod: &Pod, dns_ip: IpAddr, cluster_domain: &str, host_file: &str) -> String {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let host_network = spec.and_then(|s| s.host_network).unwrap_or(false);
    let host = parse(host_file);
    let cluster = || {
        let mut searches = vec![
            format!("{namespace}.svc.{cluster_domain}"),
            format!("svc.{cluster_domain}"),
            cluster_domain.to_owned(),
        ];
        searches.extend(host.searches.iter().cloned());
        Resolv {
            servers: vec![dns_ip.to_string()],
            searches,
            options: vec!["ndots:5".into()],
        }
    };
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let mut resolv = match policy {
        "None" => Resolv::default(),
        "ClusterFirstWithHostNet" => cluster(),
        "ClusterFirst" if !host_network => cluster(),
        _ => host.clone(),
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        resolv
            .servers
            .extend(config.nameservers.iter().flatten().cloned());
        resolv
            .searches
            .extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let text = match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            };
            resolv.options.retain(|o| o.split(':').next() != Some(name));
            resolv.options.push(text);
        }
    }
    dedup(&mut resolv.servers);
    dedup(&mut resolv.searches);
    resolv.servers.truncate(NAMESERVERS_MAX);
    resolv.searches.truncate(SEARCHES_MAX);
    while resolv.searches.join(" ").len() > SEARCH_CHARS_MAX {
        resolv.searches.pop();
    }
    let mut out = String::new();
    if !resolv.searches.is_empty() {
        out.push_str(&format!("search {}\n", resolv.searches.join(" ")));
    }
    for server in &resolv.servers {
        out.push_str(&format!("nameserver {server}\n"));
    }
    if !resolv.options.is_empty() {
        out.push_str(&format!("options {}\n", resolv.options.join(" ")));
    }
    out
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Writes the files that all containers of the Pod share. Blocking; keeps what is right already.
pub(crate) fn write_shared_files(
    context: &Context,
    pod: &Pod,
    pod_ip: Option<IpAddr>,
) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let joins = joins::of(pod);
    if !joins.network.is_empty() {
        return joins.share_files(context, uid);
    }
    let dir = volumes::pod_dir(&context.data_dir, uid).join(ETC);
    let domain = &context.cluster_domain;
    let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let dns = IpAddr::V4(context.dns_ip);
    let pod_ips = pod_ip.map_or_else(Vec::new, |ip| context.network.addresses(ip));
    let wanted = [
        ("hosts", hosts(pod, &pod_ips, domain, &host("/etc/hosts"))),
        (
            "hostname",
            format!("{}\n", kernel_hostname(pod, domain, &context.name)),
        ),
        (
            "resolv.conf",
            resolv(pod, dns, domain, &host("/etc/resolv.conf")),
        ),
    ];
    let failed = |e: std::io::Error| format!("cannot write the pod's files: {e}");
    std::fs::create_dir_all(&dir).map_err(failed)?;
    for (name, text) in wanted {
        let path = dir.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            continue;
        }
        // In place: the file itself is bind-mounted into containers.
        std::fs::write(&path, text).map_err(failed)?;
    }
    Ok(())
}

/// The ID that a container shows in all its runs: that of the layer which is kept for it, as Docker's containers have one.
fn shown_id(pod: &Pod, container: &str) -> String {
    let is_id = |id: &&String| id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let annotations = pod.metadata.annotations.as_ref();
    let kept = annotations.and_then(|a| a.get(LAYER)).filter(is_id);
    kept.cloned().unwrap_or_else(|| {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        hex::encode(digest(&SHA256, format!("{uid}/{container}").as_bytes()))
    })
}

/// Where a container's `/etc/hostname` is bound from: the file that the Pod's containers share, by a name below
/// `containers/ID`. Programs learn their own ID from that path (docker-gen, say), and find themselves by it at Docker's
/// socket, which gives the same. Blocking.
pub(crate) fn hostname_file(etc: &Path, pod: &Pod, container: &str) -> PathBuf {
    let shared = etc.join("hostname");
    let own = etc.join("containers").join(shown_id(pod, container));
    let linked = std::fs::create_dir_all(&own)
        .and_then(|()| std::fs::hard_link(&shared, own.join("hostname")));
    match linked {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => shared,
        _ => own.join("hostname"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_shows_the_id_that_dockers_socket_gives() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hostname"), "box\n").unwrap();
        let mut pod = pod(json!({}));
        pod.metadata.uid = Some("u1".into());
        // As `knarr-docker` has it.
        let id = "5b6fdc847cacc72d2dfa943c07f9998f0acfa115e7b99c3e8a19b498cf259b4b";
        for _ in 0..2 {
            let file = hostname_file(dir.path(), &pod, "web");
            assert!(file.ends_with(format!("containers/{id}/hostname")));
            std::fs::write(dir.path().join("hostname"), "other\n").unwrap();
            assert_eq!(std::fs::read_to_string(file).unwrap(), "other\n");
        }
        let kept = "ab".repeat(32);
        for (layer, shown) in [(kept.as_str(), kept.as_str()), ("../b", id)] {
            pod.metadata.annotations = Some([(LAYER.into(), layer.into())].into());
            let file = hostname_file(dir.path(), &pod, "web");
            assert!(file.ends_with(format!("containers/{shown}/hostname")));
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(
            json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn resolv_conf_by_policy() {
        let host = "search corp.example\nnameserver 9.9.9.9\noptions edns0\n";
        let check = |spec: serde_json::Value, want: &str| {
            let dns = "10.96.0.10".parse().unwrap();
            assert_eq!(
                resolv(&pod(spec.clone()), dns, "cluster.local", host),
                want,
                "{spec}"
            );
        };
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        check(json!({}), cluster);
        check(json!({"dnsPolicy": "ClusterFirst"}), cluster);
        check(
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}),
            host,
        );
        check(
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            cluster,
        );
        check(json!({"dnsPolicy": "Default"}), host);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}}),
            "search a.b\nnameserver 1.1.1.1\noptions ndots:2 rotate\n",
        );
        check(
            json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:1\n",
        );
    }

    #[test]
    fn hosts_and_names() {
        let plain = pod(json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let ip = ["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let text = hosts(&plain, &ip, "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(
            text.contains("\n10.1.0.7\tweb-0\nfd00::7\tweb-0\n"),
            "{text}"
        );
        assert!(
            text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"),
            "{text}"
        );
        let mut dockers = pod(json!({}));
        dockers.spec.as_mut().unwrap().containers =
            serde_json::from_value(json!([{"name": "c"}])).unwrap();
        let own = [(
            "knarr.dev/container.c".into(),
            r#"{"noServices":true,"ownNames":["db","web-0"]}"#.into(),
        )];
        dockers.metadata.annotations = Some(own.into());
        let text = hosts(&dockers, &ip, "cluster.local", "");
        assert!(text.ends_with("\n10.1.0.7\tweb-0\tdb\n"), "{text}");
        let text = hosts(&dockers, &ip[1..], "cluster.local", "");
        assert!(text.ends_with("\nfd00::7\tweb-0\tdb\n"), "{text}");
        let sub = pod(json!({"hostname": "h", "subdomain": "db", "setHostnameAsFQDN": true}));
        let text = hosts(&sub, &ip, "cluster.local", "");
        let fits = fitting_hostname(&sub, "cluster.local", "n");
        assert_eq!(fits.as_deref(), Ok("h.db.shop.svc.cluster.local"));
        let domain = "a-cluster-domain-that-is-rather-long.example.com.net";
        let refused = fitting_hostname(&sub, domain, "n").unwrap_err();
        assert_eq!(
            refused,
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN h.db.shop.svc.a-cluster-domain-that-is-rather-long.example.com.net is too long (64 characters is the max, 66 characters requested)"
        );
        assert!(
            text.contains("10.1.0.7\th.db.shop.svc.cluster.local\th\n"),
            "{text}"
        );
        assert_eq!(
            kernel_hostname(&sub, "cluster.local", "n"),
            "h.db.shop.svc.cluster.local"
        );
        assert_eq!(
            kernel_hostname(&pod(json!({"hostNetwork": true})), "c", "n"),
            "n"
        );
        let long = format!("{}-x", "a".repeat(62));
        assert_eq!(
            hostname(&pod(json!({"hostname": long})), "c").0,
            "a".repeat(62)
        );
    }
}
