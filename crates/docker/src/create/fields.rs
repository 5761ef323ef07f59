//! Every field of a create request that Docker's API has is either honoured or refused by name: none is silently accepted.
//!
//! The names are those of moby's `api/swagger.yaml` (1.24 to 1.56): ContainerConfig, HostConfig, Resources.

use super::wanted::{REFUSED, Wanted};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const CONFIG: &str = "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels StopSignal StopTimeout Shell";
const HOST_CONFIG: &str = "CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems Devices DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap MemorySwappiness NanoCpus OomKillDisable Init PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom Mounts ConsoleSize Annotations CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup Links OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime Isolation MaskedPaths ReadonlyPaths";

/// What says nothing to who makes the container: it's the client's own, another system's, or what is so anyway.
const TOLD_ONLY: [(&str, &str); 12] = [
    ("AttachStdin", "true"),
    ("AttachStdout", "true"),
    ("AttachStderr", "true"),
    ("ArgsEscaped", "true"),
    ("OnBuild", r#"["RUN true"]"#),
    ("Shell", r#"["sh"]"#),
    ("Image", r#""x""#),
    ("ContainerIDFile", r#""/x""#),
    ("Annotations", r#"{"a": "b"}"#),
    ("UsernsMode", r#""host""#),
    ("VolumeDriver", r#""local""#),
    ("Isolation", r#""default""#),
];

/// What is honoured, with a value that says something.
fn honoured() -> Vec<(&'static str, Value)> {
    let rate = json!([{ "Path": "/dev/sda", "Rate": 5 }]);
    vec![
        ("Hostname", json!("h")),
        ("Domainname", json!("d")),
        ("User", json!("u")),
        ("MacAddress", json!("02:42:ac:11:00:02")),
        ("ExposedPorts", json!({"80/tcp": {}})),
        ("Tty", json!(true)),
        ("OpenStdin", json!(true)),
        ("StdinOnce", json!(true)),
        ("Env", json!(["A=b"])),
        ("Cmd", json!(["c"])),
        ("Healthcheck", json!({"Test": ["CMD", "x"]})),
        ("Volumes", json!({"/v": {}})),
        ("WorkingDir", json!("/w")),
        ("Entrypoint", json!(["e"])),
        ("NetworkDisabled", json!(true)),
        ("Labels", json!({"l": "1"})),
        ("StopSignal", json!("SIGINT")),
        ("StopTimeout", json!(3)),
        ("CpuShares", json!(5)),
        ("Memory", json!(64 << 20)),
        ("BlkioWeight", json!(300)),
        (
            "BlkioWeightDevice",
            json!([{ "Path": "/dev/sda", "Weight": 50 }]),
        ),
        ("BlkioDeviceReadBps", rate.clone()),
        ("BlkioDeviceWriteBps", rate.clone()),
        ("BlkioDeviceReadIOps", rate.clone()),
        ("BlkioDeviceWriteIOps", rate),
        ("CpuPeriod", json!(50_000)),
        ("CpuQuota", json!(50_000)),
        ("CpusetCpus", json!("0")),
        ("CpusetMems", json!("0")),
        ("Devices", json!([{"PathOnHost": "/dev/null"}])),
        ("MemoryReservation", json!(32 << 20)),
        ("MemorySwap", json!(-1)),
        ("MemorySwappiness", json!(0)),
        ("NanoCpus", json!(500_000_000)),
        ("OomKillDisable", json!(true)),
        ("Init", json!(true)),
        ("PidsLimit", json!(5)),
        ("Ulimits", json!([{"Name": "nofile", "Soft": 5, "Hard": 6}])),
        ("Binds", json!(["/a:/b"])),
        (
            "LogConfig",
            json!({"Type": "json-file", "Config": {"max-size": "1m"}}),
        ),
        ("NetworkMode", json!("host")),
        ("PortBindings", json!({"80/tcp": [{"HostPort": "8080"}]})),
        ("RestartPolicy", json!({"Name": "always"})),
        ("AutoRemove", json!(true)),
        ("VolumesFrom", json!(["c"])),
        ("Mounts", json!([{"Type": "volume", "Target": "/m"}])),
        ("ConsoleSize", json!([24, 80])),
        ("CapAdd", json!(["NET_ADMIN"])),
        ("CapDrop", json!(["ALL"])),
        ("CgroupnsMode", json!("host")),
        ("Dns", json!(["1.1.1.1"])),
        ("DnsOptions", json!(["ndots:1"])),
        ("DnsSearch", json!(["a.b"])),
        ("ExtraHosts", json!(["a:1.2.3.4"])),
        ("GroupAdd", json!(["g"])),
        ("IpcMode", json!("container:c")),
        ("Links", json!(["a:b"])),
        ("OomScoreAdj", json!(5)),
        ("PidMode", json!("container:c")),
        ("Privileged", json!(true)),
        ("PublishAllPorts", json!(true)),
        ("ReadonlyRootfs", json!(true)),
        ("SecurityOpt", json!(["no-new-privileges"])),
        ("Tmpfs", json!({"/t": ""})),
        ("UTSMode", json!("host")),
        ("ShmSize", json!(1 << 20)),
        ("Sysctls", json!({"net.ipv4.ip_forward": "1"})),
        ("Runtime", json!("runsc")),
        ("MaskedPaths", json!(["/proc/x"])),
        ("ReadonlyPaths", json!([])),
    ]
}

/// Fields that count together with others only.
fn besides(key: &str) -> Map<String, Value> {
    let more = match key {
        "MemorySwap" => json!({"Memory": 64 << 20}),
        _ => json!({}),
    };
    more.as_object().cloned().unwrap_or_default()
}

fn body(key: &str, value: Option<Value>) -> Map<String, Value> {
    let mut host = besides(key);
    let mut config = Map::from_iter([("Image".to_string(), json!("x"))]);
    if let Some(value) = value {
        match CONFIG.split(' ').any(|k| k == key) {
            true => config.insert(key.into(), value),
            false => host.insert(key.into(), value),
        };
    }
    config.insert("HostConfig".into(), Value::Object(host));
    config
}

fn read(body: &Map<String, Value>) -> Result<Wanted, String> {
    let mut wanted = Wanted::read(body).map_err(|f| f.message)?;
    wanted.read_bindings(body).map_err(|f| f.message)?;
    Ok(wanted)
}

#[test]
fn no_field_is_silently_accepted() {
    let known: BTreeSet<&str> = CONFIG.split(' ').chain(HOST_CONFIG.split(' ')).collect();
    let mut sorted = BTreeSet::new();
    let names = (honoured().into_iter().map(|(k, _)| k))
        .chain(REFUSED.iter().map(|(k, _)| *k))
        .chain(TOLD_ONLY.iter().map(|(k, _)| *k));
    for name in names {
        assert!(sorted.insert(name), "{name} is in two lists");
    }
    assert_eq!(sorted, known);
    for (key, value) in honoured() {
        let plain = format!("{:?}", read(&body(key, None)));
        let changed = read(&body(key, Some(value.clone())));
        // what is always one way is refused when it's asked for in another
        let refused = ["Runtime", "UTSMode"].contains(&key);
        assert_eq!(changed.is_err(), refused, "{key}: {changed:?}");
        assert_ne!(
            format!("{changed:?}"),
            plain,
            "{key}={value} changes nothing"
        );
    }
    for (key, value) in TOLD_ONLY {
        let value = serde_json::from_str(value).unwrap();
        assert!(read(&body(key, Some(value))).is_ok(), "{key}");
    }
    for (key, flag) in REFUSED {
        for value in [json!(5), json!("x"), json!(["x"]), json!({"x": "y"})] {
            let told = read(&body(key, Some(value))).unwrap_err();
            assert!(told.contains(flag) && told.contains(key), "{key}: {told}");
        }
    }
    // what no version knows is not read by dockerd, either; dockerode sends the query's name in the body, too
    for body in [
        body("Novelty", Some(json!(1))),
        Map::from_iter([("name".into(), json!("x"))]),
    ] {
        assert!(read(&body).is_ok(), "{body:?}");
    }
}
