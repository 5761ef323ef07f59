//! Pods of busybox, seen from outside and from inside.

use std::{fs, os::unix::fs::symlink};

use knarr_runtime::ExecSpec;
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::{Test, world::World};

pub const ALL: &[(&str, Test)] = &[
    ("a_pod_and_all_its_parts", || {
        Box::pin(a_pod_and_all_its_parts())
    }),
    ("confinement", || Box::pin(confinement())),
    ("too_much_memory", || Box::pin(too_much_memory())),
    ("volumes_from_inside", || Box::pin(volumes_from_inside())),
    ("a_graceful_end", || Box::pin(a_graceful_end())),
    ("unwell_and_restarted", || Box::pin(unwell_and_restarted())),
    ("what_is_not_there", || Box::pin(what_is_not_there())),
    ("sidecars_and_shared_pids", || {
        Box::pin(sidecars_and_shared_pids())
    }),
    ("how_fast", || Box::pin(how_fast())),
];

fn shell(name: &str, script: &str) -> serde_json::Value {
    json!({"name": name, "image": "busybox:1", "command": ["sh", "-c", script]})
}

async fn exec(world: &World, pod: &str, args: &[&str]) -> (i32, String) {
    let spec = ExecSpec {
        args: args.iter().map(|a| a.to_string()).collect(),
        ..ExecSpec::default()
    };
    let mut process = world.node().exec("default", pod, None, spec).await.unwrap();
    let mut text = String::new();
    process
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    (process.wait().await, text)
}

async fn a_pod_and_all_its_parts() {
    let world = World::new().await;
    world
        .post(
            "configmaps",
            json!({"metadata": {"name": "m"}, "data": {"greeting": "hello"}}),
        )
        .await;
    let mut main = shell(
        "main",
        "cat /work/from-init; echo $GREETING $FROM_IMAGE $(hostname); echo done > /dev/termination-log; touch /work/ready; exec sleep 1000",
    );
    main["env"] = json!([{"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "greeting"}}}]);
    main["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/work/ready"]}, "periodSeconds": 1});
    main["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
    let mut init = shell("init", "echo made by init > /work/from-init");
    init["volumeMounts"] = main["volumeMounts"].clone();
    let spec = json!({
        "hostname": "box", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "work", "emptyDir": {}}],
        "initContainers": [init], "containers": [main],
    });
    world.create("p", spec).await;
    let pod = world.until_ready("p").await;
    let ip = pod["status"]["podIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.99."), "{ip}");
    assert!(
        pod["status"]["containerStatuses"][0]["imageID"]
            .as_str()
            .unwrap()
            .starts_with("docker.io/library/busybox@sha256:")
    );
    assert_eq!(
        world.logs_with("p", "main", "hello").await,
        "made by init\nhello yes box\n"
    );
    let (code, text) = exec(
        &world,
        "p",
        &[
            "sh",
            "-c",
            "cat /etc/hostname; grep nameserver /etc/resolv.conf; exit 5",
        ],
    )
    .await;
    assert_eq!((code, text.as_str()), (5, "box\nnameserver 10.43.0.10\n"));
    let (_, hosts) = exec(&world, "p", &["cat", "/etc/hosts"]).await;
    assert!(hosts.contains(&format!("{ip}\tbox\n")), "{hosts}");
    world.delete("p").await;
}

async fn confinement() {
    let world = World::new().await;
    let script = "id; grep -E 'NoNewPrivs|CapEff|CapBnd|Seccomp:' /proc/self/status; touch /x || echo read-only; ls -ln / | grep data; touch /data/mine && ls -ln /data";
    let mut strict = shell("c", script);
    strict["securityContext"] = json!({"runAsUser": 1000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    strict["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let spec = json!({
        "restartPolicy": "Never", "securityContext": {"fsGroup": 4711, "supplementalGroups": [77]},
        "volumes": [{"name": "data", "emptyDir": {}}], "containers": [strict],
    });
    world.create("strict", spec).await;
    world.until_phase("strict", "Succeeded").await;
    let log = world.logs("strict", "c", false).await;
    assert!(
        log.starts_with("uid=1000(web) gid=1000(web) groups=50(staff),77,1000(web),4711\n")
            || log.starts_with("uid=1000(web) gid=1000(web) groups="),
        "{log}"
    );
    for want in [
        "77",
        "4711",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "read-only",
        "mine",
    ] {
        assert!(log.contains(want), "{want} in {log}");
    }
    world.create("plain", json!({"restartPolicy": "Never", "containers": [shell("c", "id -u; grep -E 'NoNewPrivs|CapEff|Seccomp:' /proc/self/status; touch /x && echo writable")]})).await;
    world.until_phase("plain", "Succeeded").await;
    let log = world.logs("plain", "c", false).await;
    for want in [
        "0\n",
        "CapEff:\t00000000a80425fb",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "writable",
    ] {
        assert!(log.contains(want), "{want} in {log}");
    }
    for name in ["strict", "plain"] {
        world.delete(name).await;
    }
}

async fn too_much_memory() {
    let world = World::new().await;
    let mut hungry = shell("c", "x=$(tail /dev/zero)");
    hungry["resources"] = json!({"limits": {"memory": "16Mi", "cpu": "500m"}});
    world
        .create(
            "p",
            json!({"restartPolicy": "Never", "containers": [hungry]}),
        )
        .await;
    let pod = world.until_phase("p", "Failed").await;
    let status = &pod["status"];
    assert_eq!(status["qosClass"], "Guaranteed");
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["reason"], "OOMKilled", "{ended}");
    world.delete("p").await;
}

async fn volumes_from_inside() {
    let world = World::new().await;
    world
        .post(
            "configmaps",
            json!({"metadata": {"name": "m"}, "data": {"key": "one"}}),
        )
        .await;
    world
        .post(
            "secrets",
            json!({"metadata": {"name": "s"}, "data": {"token": "aGlkZGVu"}}),
        )
        .await;
    let host = world.dir.path().join("host");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("sub/file"), "inside\n").unwrap();
    symlink("/etc", host.join("escape")).unwrap();
    let mut main = shell(
        "c",
        "cat /map/key; echo; cat /secret/token; echo; cat /sub/file; ls /escape; (echo x > /map/key) 2> /dev/null || echo map is read-only; while ! grep -q two /map/key; do sleep 0.05; done; echo saw two; exec sleep 1000",
    );
    main["volumeMounts"] = json!([
        {"name": "map", "mountPath": "/map", "readOnly": true},
        {"name": "secret", "mountPath": "/secret"},
        {"name": "host", "mountPath": "/sub", "subPath": "sub"},
        {"name": "host", "mountPath": "/escape", "subPath": "escape/knarr"},
    ]);
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "volumes": [
            {"name": "map", "configMap": {"name": "m"}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
        ],
        "containers": [main],
    });
    fs::create_dir_all(host.join("etc/knarr")).unwrap();
    world.create("p", spec).await;
    let log = world.logs_with("p", "c", "map is read-only").await;
    assert_eq!(log, "one\nhidden\ninside\nmap is read-only\n");
    world
        .patch("configmaps/m", json!({"data": {"key": "two"}}))
        .await;
    world.logs_with("p", "c", "saw two").await;
    world.delete("p").await;
    assert_eq!(
        fs::read_to_string(host.join("sub/file")).unwrap(),
        "inside\n",
        "the host's files are not ours to remove"
    );
}

async fn a_graceful_end() {
    let world = World::new().await;
    let host = world.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    let mut main = shell(
        "c",
        "trap 'echo term >> /host/told; exit 0' TERM; touch /host/up; while true; do sleep 0.05; done",
    );
    main["volumeMounts"] = json!([{"name": "host", "mountPath": "/host"}]);
    main["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "echo started >> /host/told"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >> /host/told"]}},
    });
    main["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/host/up"]}, "periodSeconds": 1});
    let spec =
        json!({"volumes": [{"name": "host", "hostPath": {"path": host}}], "containers": [main]});
    world.create("p", spec).await;
    world.until_ready("p").await;
    world.delete("p").await;
    assert_eq!(
        fs::read_to_string(host.join("told")).unwrap(),
        "started\nstopping\nterm\n"
    );
}

async fn unwell_and_restarted() {
    let world = World::new().await;
    let mut main = shell(
        "c",
        "echo attempt; echo why I ended > /dev/termination-log; touch /said; exec sleep 1000",
    );
    // only an answer counts, however long it takes: it is not to be killed before it has said all
    main["livenessProbe"] = json!({"exec": {"command": ["sh", "-c", "! test -e /said"]}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60});
    world
        .create(
            "p",
            json!({"terminationGracePeriodSeconds": 1, "containers": [main]}),
        )
        .await;
    let pod = world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(
        last["exitCode"], 137,
        "sleep as PID 1 ignores SIGTERM, so it's killed: {last}"
    );
    assert_eq!(last["message"], "why I ended\n");
    assert_eq!(world.logs("p", "c", true).await, "attempt\n");
    world.delete("p").await;
}

async fn what_is_not_there() {
    let world = World::new().await;
    world.create("p", json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox:1", "command": ["no-such-thing"]}]})).await;
    let pod = world.until_phase("p", "Failed").await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (ended["reason"].as_str(), ended["exitCode"].as_i64()),
        (Some("StartError"), Some(128))
    );
    assert_eq!(
        ended["message"],
        "exec: \"no-such-thing\": executable file not found in $PATH"
    );
    world
        .create(
            "q",
            json!({"containers": [{"name": "c", "image": "absent:9"}]}),
        )
        .await;
    world
        .until("q", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    for name in ["p", "q"] {
        world.delete(name).await;
    }
}

async fn sidecars_and_shared_pids() {
    let world = World::new().await;
    let mut side = shell(
        "side",
        "trap 'exit 0' TERM; while true; do sleep 0.05; done",
    );
    side["restartPolicy"] = json!("Always");
    let main = shell(
        "main",
        "ls /proc | grep -cE '^[0-9]+$' > /dev/null; for p in /proc/[0-9]*; do cat $p/cmdline | head -c 60; echo; done; exit 0",
    );
    world.create("p", json!({"restartPolicy": "Never", "shareProcessNamespace": true, "initContainers": [side], "containers": [main]})).await;
    world.until_phase("p", "Succeeded").await;
    let log = world.logs("p", "main", false).await;
    assert!(
        log.contains("trap"),
        "the sidecar's processes can be seen: {log}"
    );
    world.delete("p").await;
}

/// Not a check but a figure: from create to ready, one at a time.
async fn how_fast() {
    let world = World::new().await;
    let mut times = vec![];
    for n in 0..50 {
        let name = format!("p{n}");
        let start = std::time::Instant::now();
        world
            .create(&name, json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox:1", "command": ["sleep", "1000"]}]}))
            .await;
        world.until_ready(&name).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "create to ready: p50 {:.1?}, p90 {:.1?}, worst {:.1?}",
        times[25], times[45], times[49]
    );
}
