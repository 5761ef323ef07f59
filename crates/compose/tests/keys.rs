//! Every key of the specification is honoured, as is seen in what is made, or said by name and line. None is dropped in
//! silence.

use knarr_compose::{Options, load, translate};
use std::{collections::BTreeSet, fs, path::Path};

/// What becomes of a key.
enum Becomes {
    /// All of these stand in what is made, and nothing is said.
    Made(&'static [&'static str]),
    /// It's a warning that says this, with the line.
    Said(&'static str),
    /// It's an error that says this, with the line.
    Refused(&'static str),
}
use Becomes::{Made, Refused, Said};

/// (keys below a service, and what else the file needs; what becomes of them)
const SERVICE: &[(&str, &str, Becomes)] = &[
    ("annotations: {a.b/c: d}", "", Made(&["\"a.b/c\":\"d\""])),
    ("attach: false", "", Made(&[])),
    (
        "blkio_config: {weight: 300, device_read_bps: [{path: /dev/null, rate: 1mb}]}",
        "",
        Made(&[
            "\\\"weight\\\":300",
            "\\\"path\\\":\\\"/dev/null\\\",\\\"rate\\\":1048576",
        ]),
    ),
    (
        "blkio_config: {weight: 5}",
        "",
        Refused("blkio_config.weight"),
    ),
    ("build: ctx", "", Made(&["\"image\":\"x\""])),
    (
        "cap_add: [NET_ADMIN]",
        "",
        Made(&["\"add\":[\"NET_ADMIN\"]"]),
    ),
    ("cap_drop: [ALL]", "", Made(&["\"drop\":[\"ALL\"]"])),
    ("cgroup: host", "", Refused("cgroup")),
    (
        "cgroup: host\n    privileged: true",
        "",
        Made(&["hostCgroups\\\":true"]),
    ),
    ("cgroup: private", "", Made(&[])),
    ("cgroup_parent: m", "", Refused("cgroup_parent")),
    ("command: echo a", "", Made(&["\"args\":[\"echo\",\"a\"]"])),
    (
        "configs: [c]",
        "configs: {c: {content: said}}",
        Made(&["\"data\":{\"c\":\"said\"}", "\"mountPath\":\"/c\""]),
    ),
    (
        "configs: [{source: c, target: /t, mode: 0440}]",
        "configs: {c: {content: said}}",
        Made(&["\"mountPath\":\"/t\"", "\"mode\":288"]),
    ),
    (
        "configs: [{source: c, uid: '1'}]",
        "configs: {c: {content: said}}",
        Said("uid"),
    ),
    ("container_name: named", "", Made(&["named"])),
    ("cpu_count: 2", "", Said("cpu_count")),
    ("cpu_percent: 50", "", Said("cpu_percent")),
    (
        "cpu_period: 100000\n    cpu_quota: 50000",
        "",
        Made(&["\"cpu\":\"500m\""]),
    ),
    ("cpu_rt_period: 1000", "", Refused("cpu_rt_period")),
    ("cpu_rt_runtime: 1000", "", Refused("cpu_rt_runtime")),
    ("cpu_shares: 512", "", Made(&["cpuShares\\\":512"])),
    ("cpus: 1.5", "", Made(&["\"cpu\":\"1500m\""])),
    ("cpuset: 0-1", "", Made(&["cpusetCpus\\\":\\\"0-1"])),
    ("cpuset: x", "", Refused("cpuset")),
    (
        "credential_spec: {file: a.json}",
        "",
        Refused("credential_spec"),
    ),
    ("depends_on: [other]", "", Made(&[])),
    (
        "deploy: {endpoint_mode: dnsrr}",
        "",
        Made(&["\"clusterIP\":\"None\""]),
    ),
    ("deploy: {labels: {a: b}}", "", Made(&["\"a\":\"b\""])),
    (
        "deploy: {mode: global}",
        "",
        Made(&["\"kind\":\"DaemonSet\""]),
    ),
    (
        "deploy: {placement: {constraints: [node.labels.disk == ssd]}}",
        "",
        Made(&["\"key\":\"disk\""]),
    ),
    (
        "deploy: {placement: {constraints: [node.role == worker, engine.labels.x == y, nonsense]}}",
        "",
        Said("placement.constraints"),
    ),
    (
        "deploy: {placement: {preferences: [{spread: node.labels.x}]}}",
        "",
        Said("placement.preferences"),
    ),
    (
        "deploy: {placement: {max_replicas_per_node: 1}}",
        "",
        Said("placement.max_replicas_per_node"),
    ),
    ("deploy: {replicas: 3}", "", Made(&["\"replicas\":3"])),
    (
        "deploy: {resources: {limits: {cpus: '2', memory: 8m, pids: 5}, reservations: {memory: 4m}}}",
        "",
        Made(&[
            "\"cpu\":\"2000m\"",
            "\"memory\":\"8388608\"",
            "pidsLimit\\\":5",
            "\"memory\":\"4194304\"",
        ]),
    ),
    (
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
        "",
        Refused("devices"),
    ),
    (
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: a, value: 1}}]}}}",
        "",
        Refused("generic_resources"),
    ),
    (
        "deploy: {restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3}}",
        "",
        Made(&["on-failure:3 delay=5"]),
    ),
    (
        "deploy: {restart_policy: {max_attempts: 2, window: 5s}}",
        "",
        Made(&["\"restart.knarr.dev/web\":\"always:2 window=5\""]),
    ),
    (
        "deploy: {update_config: {order: stop-first, monitor: 7s, parallelism: 2}}",
        "",
        Made(&["\"minReadySeconds\":7", "\"Recreate\""]),
    ),
    (
        "deploy: {rollback_config: {monitor: 7s}}",
        "",
        Said("rollback_config.monitor"),
    ),
    (
        "deploy: {rollback_config: {failure_action: pause}}",
        "",
        Said("rollback_config.failure_action"),
    ),
    (
        "deploy: {update_config: {max_failure_ratio: 0.3}}",
        "",
        Made(&[]),
    ),
    (
        "deploy: {update_config: {max_failure_ratio: 1.3}}",
        "",
        Refused("is no number from 0 to 1"),
    ),
    (
        "deploy: {replicas: 4, update_config: {delay: 30s, parallelism: 2}}",
        "",
        Made(&["\"maxSurge\":2", "\"minReadySeconds\":5,"]),
    ),
    (
        "develop: {watch: [{action: sync, path: ctx, target: /a}]}\n    build: ctx",
        "",
        Made(&[]),
    ),
    (
        "device_cgroup_rules: ['c 1:3 mr']",
        "",
        Made(&[
            "deviceRules\\\":[\\\"c 1:3 mr\\\"]",
            "\"hostPath\":{\"path\":\"/dev\"}",
        ]),
    ),
    (
        "device_cgroup_rules: ['c 1:3 x']",
        "",
        Refused("invalid device cgroup rule format: 'c 1:3 x'"),
    ),
    ("devices: ['/dev/null:/dev/x:r']", "", Made(&["/dev/x"])),
    ("devices: ['vendor.com/class=a']", "", Refused("CDI")),
    (
        "dns: [10.1.1.1]",
        "",
        Made(&["\"nameservers\":[\"10.1.1.1\"]"]),
    ),
    (
        "dns_opt: ['ndots:2']",
        "",
        Made(&["\"name\":\"ndots\",\"value\":\"2\""]),
    ),
    ("dns_search: [a.b]", "", Made(&["\"searches\":[\"a.b\"]"])),
    ("hostname: h\n    domainname: d.e", "", Made(&["h.d.e"])),
    ("domainname: d.e", "", Said("domainname")),
    (
        "entrypoint: [a, b]",
        "",
        Made(&["\"command\":[\"a\",\"b\"]"]),
    ),
    (
        "env_file: given.env",
        "",
        Made(&["\"name\":\"FROM\",\"value\":\"file\""]),
    ),
    (
        "environment: {A: b}",
        "",
        Made(&["\"name\":\"A\",\"value\":\"b\""]),
    ),
    (
        "expose: ['9/udp']",
        "",
        Made(&["\"containerPort\":9,\"protocol\":\"UDP\""]),
    ),
    (
        "extends: {service: other}",
        "",
        Made(&["\"workingDir\":\"/other\""]),
    ),
    // It is found by its own name in the network that it shares.
    ("external_links: [a]", "", Made(&[])),
    (
        "external_links: ['their_db_1:Base']",
        "",
        Made(&[
            "\"knarr.dev/dns-names\":\"base@links.knarr.dev/web\"",
            "\"externalName\":\"their-db-1\"",
            "\"links.knarr.dev/web\":\"true\"",
        ]),
    ),
    ("external_links: ['a b']", "", Refused("external_links")),
    (
        "extra_hosts: ['h:1.2.3.4']",
        "",
        Made(&["\"hostnames\":[\"h\"],\"ip\":\"1.2.3.4\""]),
    ),
    ("gpus: all", "", Refused("gpus")),
    (
        "group_add: ['5', staff]",
        "",
        Made(&["\"supplementalGroups\":[5]", "staff"]),
    ),
    (
        "healthcheck: {test: 'true', interval: 3s, timeout: 2s, retries: 4, start_period: 9s}",
        "",
        Made(&[
            "\"periodSeconds\":3",
            "\"timeoutSeconds\":2",
            "\"failureThreshold\":4",
        ]),
    ),
    ("hostname: h", "", Made(&["\"hostname\":\"h\""])),
    ("image: x", "", Made(&["\"image\":\"x\""])),
    ("init: true", "", Made(&["\"shareProcessNamespace\":true"])),
    ("ipc: host", "", Made(&["\"hostIPC\":true"])),
    ("ipc: 'container:x'", "", Refused("ipc")),
    ("isolation: hyperv", "", Refused("isolation")),
    ("label_file: given.env", "", Made(&["\"FROM\":\"file\""])),
    ("labels: {a: b}", "", Made(&["\"a\":\"b\""])),
    ("links: ['other:o']", "", Made(&["o@links.knarr.dev/web"])),
    ("logging: {driver: syslog}", "", Said("logging.driver")),
    (
        "logging: {options: {max-size: 10m, max-file: '3'}}",
        "",
        Made(&["logMaxBytes\\\":10485760", "logFilesMax\\\":3"]),
    ),
    (
        "mac_address: '02-42-AC-11-00-02'",
        "",
        Made(&["\"knarr.dev/mac-address\":\"02:42:ac:11:00:02\""]),
    ),
    (
        "mac_address: '03:42:ac:11:00:02'",
        "",
        Refused("services.web.mac_address: invalid MAC address"),
    ),
    (
        "mac_address: '02:42:ac:11:00:02'\n    network_mode: host",
        "",
        Refused("conflicting options: mac-address and the network mode"),
    ),
    ("mem_limit: 9m", "", Made(&["\"memory\":\"9437184\""])),
    (
        "mem_limit: 9m\n    mem_reservation: 1m",
        "",
        Made(&["memorySoftBytes\\\":1048576"]),
    ),
    ("mem_swappiness: 5", "", Made(&["memorySwappiness\\\":5"])),
    ("mem_swappiness: 500", "", Refused("mem_swappiness")),
    (
        "memswap_limit: 9m",
        "",
        Made(&["memorySwapBytes\\\":9437184"]),
    ),
    ("memswap_limit: -1", "", Made(&["memorySwapBytes\\\":-1"])),
    ("models: [m]", "models: {m: {model: a}}", Refused("models")),
    ("network_mode: host", "", Made(&["\"hostNetwork\":true"])),
    (
        "network_mode: none",
        "",
        Made(&["\"kind\":\"NetworkPolicy\""]),
    ),
    ("network_mode: 'container:x'", "", Refused("network_mode")),
    (
        "networks: {n: {aliases: [al]}}",
        "networks: {n: }",
        Made(&["al@network.knarr.dev/n"]),
    ),
    (
        "networks: {n: {mac_address: '02:42:ac:11:00:02'}}",
        "networks: {n: }",
        Made(&["\"knarr.dev/mac-address\":\"02:42:ac:11:00:02\""]),
    ),
    (
        "pid: service:other\n    mac_address: '02:42:ac:11:00:02'",
        "",
        Refused("services.web.mac_address"),
    ),
    (
        "networks: {n: {interface_name: wan0}}",
        "networks: {n: }",
        Made(&["\"knarr.dev/interface-name\":\"wan0\""]),
    ),
    (
        "networks: {n: {interface_name: lo}}",
        "networks: {n: }",
        Refused("services.web.networks.n.interface_name"),
    ),
    (
        "networks: {n: {interface_name: wan0}, o: {interface_name: lan0}}",
        "networks: {n: , o: }",
        Refused("services.web.networks.o.interface_name"),
    ),
    (
        "networks: {n: {mac_address: '02:42:ac:11:00:02'}, o: {mac_address: '02:42:ac:11:00:03'}}",
        "networks: {n: , o: }",
        Refused("services.web.networks.o.mac_address"),
    ),
    (
        "networks: {n: {priority: 5}}",
        "networks: {n: }",
        Said("priority"),
    ),
    (
        "networks: {n: {ipv4_address: 172.28.0.5}}",
        "networks: {n: }",
        Made(&["\"externalIPs\":[\"172.28.0.5\"]"]),
    ),
    (
        "networks: {n: {ipv4_address: 127.0.0.5}}",
        "networks: {n: }",
        Refused("ipv4_address"),
    ),
    (
        "networks: [n]",
        "networks: {n: {driver: macvlan}}",
        Refused("networks.n.driver"),
    ),
    (
        "networks: [n]",
        "networks: {n: {internal: true}}",
        Made(&["\"policyTypes\":[\"Egress\"]"]),
    ),
    (
        "networks: [n]",
        "networks: {n: {ipam: {config: [{subnet: 10.9.0.0/16}]}}}",
        Said("ipam"),
    ),
    (
        "networks: [n]",
        "networks: {n: {enable_ipv6: true}}",
        Said("enable_ipv6"),
    ),
    (
        "networks: [n]",
        "networks: {n: {driver_opts: {a: b}}}",
        Said("driver_opts"),
    ),
    (
        "oom_kill_disable: true",
        "",
        Made(&["oomKillDisable\\\":true"]),
    ),
    ("oom_score_adj: 5", "", Made(&["oomScoreAdj\\\":5"])),
    ("oom_score_adj: -5", "", Refused("oom_score_adj")),
    ("pid: host", "", Made(&["\"hostPID\":true"])),
    (
        "pid: 'service:other'",
        "",
        Made(&["\"shareProcessNamespace\":true"]),
    ),
    ("pids_limit: 7", "", Made(&["pidsLimit\\\":7"])),
    ("platform: linux/mips", "", Refused("platform")),
    (
        "ports: ['80:81/udp']",
        "",
        Made(&["\"port\":80,\"protocol\":\"UDP\",\"targetPort\":81"]),
    ),
    (
        "ports: [{target: 5, published: '6', app_protocol: http, host_ip: 127.0.0.1}]",
        "",
        Made(&[
            "\"appProtocol\":\"http\"",
            "\"knarr.dev/host-ip\":\"127.0.0.1\"",
        ]),
    ),
    ("post_start: [{command: a}]", "", Made(&["\"postStart\""])),
    ("pre_stop: [{command: a}]", "", Made(&["\"preStop\""])),
    ("pre_stop: [{command: a, user: root}]", "", Refused("user")),
    (
        "pre_stop: [{command: a, privileged: true}]",
        "",
        Refused("privileged"),
    ),
    (
        "pre_start: [{command: a}]",
        "",
        Made(&["\"initContainers\""]),
    ),
    ("privileged: true", "", Made(&["\"privileged\":true"])),
    ("profiles: [on]", "", Made(&["\"name\":\"web\""])),
    ("provider: {type: p}", "", Refused("provider")),
    (
        "pull_policy: always",
        "",
        Made(&["\"imagePullPolicy\":\"Always\""]),
    ),
    (
        "pull_policy: never",
        "",
        Made(&["\"imagePullPolicy\":\"Never\""]),
    ),
    ("pull_policy: daily", "", Made(&[])),
    ("pull_policy: every_3d", "", Made(&[])),
    ("pull_policy: every_3", "", Refused("pull_policy")),
    (
        "pull_policy: refresh\n    pull_refresh_after: 1d",
        "",
        Made(&[]),
    ),
    (
        "read_only: true",
        "",
        Made(&["\"readOnlyRootFilesystem\":true"]),
    ),
    ("restart: 'no'", "", Made(&["\"kind\":\"Job\""])),
    (
        "restart: always",
        "",
        Made(&["\"restart.knarr.dev/web\":\"always\""]),
    ),
    ("runtime: nvidia", "", Refused("runtime")),
    ("scale: 2", "", Made(&["\"replicas\":2"])),
    (
        "secrets: [s]",
        "secrets: {s: {file: given.env}}",
        Made(&["\"kind\":\"Secret\"", "\"mountPath\":\"/run/secrets/s\""]),
    ),
    (
        "secrets: [s]",
        "secrets: {s: {environment: FROM_ENV}}",
        Made(&["\"s\":\"aGVyZQ==\""]),
    ),
    (
        "secrets: [{source: s, gid: '3'}]",
        "secrets: {s: {file: given.env}}",
        Said("gid"),
    ),
    (
        "secrets: [s]",
        "secrets: {s: {external: true, name: e}}",
        Made(&["\"secretName\":\"e\""]),
    ),
    (
        "security_opt: ['no-new-privileges:true']",
        "",
        Made(&["\"allowPrivilegeEscalation\":false"]),
    ),
    (
        "security_opt: ['seccomp:own.json']",
        "",
        Refused("security_opt"),
    ),
    ("security_opt: ['label:user:x']", "", Said("security_opt")),
    (
        "shm_size: 4m",
        "",
        Made(&[r#"\"options\":[\"mode=1777\",\"size=4194304\"]"#]),
    ),
    ("stdin_open: true", "", Made(&["\"stdin\":true"])),
    (
        "stop_grace_period: 1m5s",
        "",
        Made(&["\"terminationGracePeriodSeconds\":65"]),
    ),
    (
        "stop_signal: SIGUSR1",
        "",
        Made(&[
            "\"stopSignal\":\"SIGUSR1\"",
            r#"\"stopSignal\":\"SIGUSR1\""#,
        ]),
    ),
    ("storage_opt: {size: 1G}", "", Refused("storage_opt")),
    (
        "sysctls: {net.core.somaxconn: 5}",
        "",
        Made(&[
            "\"name\":\"net.core.somaxconn\",\"value\":\"5\"",
            "ownSysctls\\\":true",
        ]),
    ),
    (
        "sysctls: [vm.max_map_count=262144]",
        "",
        Refused("sysctls.vm.max_map_count"),
    ),
    (
        "sysctls: {net.ipv4.ip_forward: 1}\n    network_mode: host",
        "",
        Refused("sysctls.net.ipv4.ip_forward"),
    ),
    (
        "tmpfs: '/t:size=1m,mode=1770,uid=5,ro'",
        "",
        Made(&[
            r#"\"destination\":\"/t\""#,
            r#"\"options\":[\"mode=1770\",\"uid=5\",\"size=1048576\",\"ro\"]"#,
        ]),
    ),
    ("tty: true", "", Made(&["\"tty\":true"])),
    (
        "ulimits: {nofile: {soft: 1, hard: 2}}",
        "",
        Made(&["nofile"]),
    ),
    ("use_api_socket: true", "", Refused("use_api_socket")),
    (
        "user: '5:6'",
        "",
        Made(&["\"runAsUser\":5", "\"runAsGroup\":6"]),
    ),
    ("userns_mode: private", "", Refused("userns_mode")),
    ("uts: host", "", Refused("uts")),
    ("volume_driver: d", "", Refused("volume_driver")),
    (
        "volumes: ['v:/v:ro']",
        "volumes: {v: }",
        Made(&["\"kind\":\"PersistentVolumeClaim\"", "\"readOnly\":true"]),
    ),
    (
        "volumes: [{type: volume, source: v, target: /v, volume: {nocopy: true, subpath: s}}]",
        "volumes: {v: }",
        Made(&["\"subPath\":\"s\""]),
    ),
    (
        "volumes: [{type: bind, source: ctx, target: /v, bind: {propagation: rslave, create_host_path: false}}]",
        "",
        Made(&["\"mountPropagation\":\"HostToContainer\""]),
    ),
    (
        "volumes: [{type: bind, source: ctx, target: /v, bind: {selinux: z}}]",
        "",
        Said("selinux"),
    ),
    (
        "volumes: [{type: tmpfs, target: /v, tmpfs: {size: 1m, mode: 0700}}]",
        "",
        Made(&[r#"\"options\":[\"mode=700\",\"size=1048576\"]"#]),
    ),
    (
        "volumes: [{type: image, source: i, target: /v}]",
        "",
        Made(&["\"reference\":\"i\""]),
    ),
    (
        "volumes: [{type: npipe, source: a, target: /v}]",
        "",
        Refused("npipe"),
    ),
    (
        "volumes: [{type: cluster, source: a, target: /v}]",
        "volumes: {a: }",
        Refused("cluster"),
    ),
    (
        "volumes: ['v:/v']",
        "volumes: {v: {driver: nfs}}",
        Refused("volumes.v.driver"),
    ),
    (
        "volumes: ['v:/v']",
        "volumes: {v: {driver_opts: {type: none, o: bind, device: /tmp}}}",
        Made(&["\"path\":\"/tmp\""]),
    ),
    (
        "volumes: ['v:/v']",
        "volumes: {v: {external: true, name: e}}",
        Made(&["\"claimName\":\"e\""]),
    ),
    (
        "volumes_from: [other]",
        "",
        Made(&["\"mountPath\":\"/others\""]),
    ),
    ("working_dir: /w", "", Made(&["\"workingDir\":\"/w\""])),
    ("x-own: 1", "", Made(&[])),
];

/// The keys of a service in compose-spec.json.
const KEYS: &str = "annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name \
    cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy \
    develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file environment expose extends \
    external_links extra_hosts gpus group_add healthcheck hostname image init ipc isolation label_file labels links logging \
    mac_address mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks oom_kill_disable oom_score_adj \
    pid pids_limit platform ports post_start pre_start pre_stop privileged profiles provider pull_policy pull_refresh_after \
    read_only restart runtime scale secrets security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs \
    tty ulimits use_api_socket user userns_mode uts volumes volumes_from working_dir";

fn outcome(folder: &Path, below: &str, beside: &str) -> Result<(String, Vec<String>), String> {
    let image = if below.contains("image:") {
        ""
    } else {
        "    image: x\n"
    };
    let text = format!(
        "services:\n  web:\n{image}    {below}\n  other: {{image: y, working_dir: /other, volumes: ['./ctx:/others']}}\n{beside}\n"
    );
    fs::write(folder.join("compose.yaml"), text).unwrap();
    let options = Options {
        files: vec![folder.join("compose.yaml")],
        profiles: vec!["on".into()],
        environment: [("FROM_ENV".to_string(), "here".to_string())].into(),
        ..Options::default()
    };
    let mut project = load(&options).map_err(|e| e.to_string())?;
    project.at_home = true;
    let warnings = project.warnings.iter().map(|w| w.to_string()).collect();
    let made = translate(&project, &Default::default());
    let workloads = made.workloads.iter().map(|w| &w.object);
    let all = made.shared.iter().chain(workloads).map(|o| o.to_string());
    Ok((all.collect(), warnings))
}

#[test]
fn no_key_is_dropped_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("ctx")).unwrap();
    fs::write(dir.path().join("ctx/Dockerfile"), "FROM x\n").unwrap();
    fs::write(dir.path().join("given.env"), "FROM=file\n").unwrap();
    let mut wrong = Vec::new();
    for (below, beside, becomes) in SERVICE {
        let has_line = |text: &str| text.contains("compose.yaml:");
        match (outcome(dir.path(), below, beside), becomes) {
            (Ok((made, warnings)), Made(parts)) => {
                let missing: Vec<_> = parts.iter().filter(|p| !made.contains(**p)).collect();
                if !missing.is_empty() || !warnings.is_empty() {
                    wrong.push(format!(
                        "{below}: without {missing:?}, said {warnings:?}, made {made}"
                    ));
                }
            }
            (Ok((_, warnings)), Said(what)) => {
                if !warnings.iter().any(|w| w.contains(what) && has_line(w)) {
                    wrong.push(format!("{below}: {what} is not said: {warnings:?}"));
                }
            }
            (Ok(_), Refused(what)) => wrong.push(format!("{below}: {what} is not refused")),
            (Err(e), Refused(what)) if e.contains(what) && has_line(&e) => {}
            (Err(e), _) => wrong.push(format!("{below}: refused: {e}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} keys:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let shown: BTreeSet<&str> = SERVICE
        .iter()
        .flat_map(|(below, ..)| below.split("\n    "))
        .filter_map(|line| line.split(':').next())
        .collect();
    let missing: Vec<&str> = KEYS
        .split_whitespace()
        .filter(|k| !shown.contains(k))
        .collect();
    assert!(
        missing.is_empty(),
        "keys that no case is about: {missing:?}"
    );
}
