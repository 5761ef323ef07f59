//! What containers are made of: images, environment, volumes.

use std::fs;

use serde_json::json;

use super::fake::World;

fn waiting(pod: &serde_json::Value) -> &serde_json::Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
}

#[tokio::test]
async fn a_missing_image_is_told_in_its_sources_words_and_starts_when_it_comes() {
    let world = World::new().await;
    world
        .create(
            "p",
            json!({"containers": [{"name": "c", "image": "missing:1", "command": ["run"]}]}),
        )
        .await;
    let pod = world.until("p", |p| waiting(p) == "ErrImagePull").await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("missing:1 is nowhere"), "{message}");
    assert_eq!(pod["status"]["phase"], "Pending");
    let pod = world.until("p", |p| waiting(p) == "ImagePullBackOff").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    world.images.added.lock().push("missing:1".into());
    fs::write(world.images.dir.as_ref().unwrap().join("new"), "").unwrap();
    let pod = world.until_ready("p").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    world.create("never", json!({"containers": [{"name": "c", "image": "missing:2", "imagePullPolicy": "Never"}]})).await;
    world
        .until("never", |p| waiting(p) == "ErrImageNeverPull")
        .await;
}

#[tokio::test]
async fn environment_and_command_come_together() {
    let world = World::new().await;
    {
        let mut config = world.images.config.lock();
        config.entrypoint = vec!["entry".into()];
        config.cmd = vec!["cmd".into()];
        config.env = vec!["PATH=/image".into(), "KEEP=1".into(), "OVER=image".into()];
        config.working_dir = "/srv".into();
    }
    world
        .put(
            "configmaps",
            json!({"metadata": {"name": "m"}, "data": {"a": "from-map", "b": "B"}}),
        )
        .await;
    world
        .put(
            "secrets",
            json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}),
        )
        .await;
    world.put("services", json!({"metadata": {"name": "db"}, "spec": {"clusterIP": "10.43.0.5", "ports": [{"port": 5432, "protocol": "TCP"}]}})).await;
    let container = json!({
        "name": "c", "image": "app:1", "args": ["$(GREETING)", "$$(X)", "$(NOPE)"],
        "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "M_"}, {"configMapRef": {"name": "none", "optional": true}}],
        "env": [
            {"name": "NAME", "value": "you"},
            {"name": "GREETING", "value": "hello $(NAME) $(DB_SERVICE_HOST) $(M_a)"},
            {"name": "OVER", "value": "pod"},
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "z", "optional": true}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ],
        "resources": {"limits": {"memory": "64Mi"}},
    });
    // The Service table is filled by a watch: a Pod made right after the Service may win the race.
    let mut spec = None;
    for n in 0..200 {
        let name = format!("p{n}");
        let pod = json!({"hostname": "box", "containers": [container.clone()]});
        world.create(&name, pod).await;
        world.until_ready(&name).await;
        let made = world.engine.spec_of("c").unwrap();
        if made.env.iter().any(|e| e == "DB_SERVICE_PORT=5432") {
            spec = Some((name, made));
            break;
        }
        world.delete(&name, Some(1)).await;
        world.until_clean().await;
    }
    let (name, spec) = spec.expect("the Service never shows");
    let ip = world.get(&name).await["status"]["podIP"]
        .as_str()
        .unwrap()
        .to_owned();
    let (own_ip, own_label) = (format!("IP={ip}"), format!("APP={name}"));
    assert_eq!(
        spec.args,
        ["entry", "hello you 10.43.0.5 from-map", "$(X)", "$(NOPE)"]
    );
    assert_eq!(spec.cwd.to_str(), Some("/srv"));
    for want in [
        "PATH=/image",
        "KEEP=1",
        "OVER=pod",
        "M_a=from-map",
        "M_b=B",
        "K=secret",
        own_ip.as_str(),
        own_label.as_str(),
        "MEM=64",
        "HOSTNAME=box",
        "DB_SERVICE_PORT=5432",
    ] {
        assert!(
            spec.env.iter().any(|e| e == want),
            "{want} in {:#?}",
            spec.env
        );
    }
    assert!(
        !spec
            .env
            .iter()
            .any(|e| e.starts_with("GONE=") || e == "OVER=image")
    );
    assert_eq!(spec.resources.memory_limit_bytes, Some(64 << 20));
    assert!(!spec.no_new_privileges, "only when it's asked for");
    assert!(
        spec.cgroup.starts_with("kubepods/burstable/pod"),
        "{}",
        spec.cgroup
    );
    assert!(spec.id.len() <= 63);
    let mounted: Vec<_> = spec
        .mounts
        .iter()
        .map(|m| m.destination.to_str().unwrap())
        .collect();
    assert_eq!(
        mounted,
        [
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/dev/termination-log"
        ]
    );
    let hosts = fs::read_to_string(&spec.mounts[0].source).unwrap();
    assert!(hosts.contains(&format!("{ip}\tbox\n")), "{hosts}");
}

#[tokio::test]
async fn a_missing_config_map_is_waited_for() {
    let world = World::new().await;
    let container = json!({"name": "c", "image": "app:1", "command": ["run"],
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "a"}}}]});
    world.create("p", json!({"containers": [container]})).await;
    let pod = world
        .until("p", |p| waiting(p) == "CreateContainerConfigError")
        .await;
    let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "configmap \"late\" not found");
    world
        .put(
            "configmaps",
            json!({"metadata": {"name": "late"}, "data": {"b": "1"}}),
        )
        .await;
    let said = |p: &serde_json::Value| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
            == "couldn't find key a in ConfigMap default/late"
    };
    world.until("p", said).await;
    world
        .patch("configmaps/late", json!({"data": {"a": "1"}}))
        .await;
    world.until_ready("p").await;
}

#[tokio::test]
async fn volumes_show_their_sources_and_follow_them() {
    assert!(
        rustix::process::getuid().is_root(),
        "this test needs root: it mounts tmpfs"
    );
    let world = World::new().await;
    world
        .put(
            "secrets",
            json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}),
        )
        .await;
    let spec = json!({
        "volumes": [
            {"name": "map", "configMap": {"name": "m", "items": [{"key": "a", "path": "dir/a.txt", "mode": 256}]}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "all", "projected": {"sources": [
                {"configMap": {"name": "m"}},
                {"secret": {"name": "s", "items": [{"key": "k", "path": "sec/k"}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"],
            "env": [{"name": "WHO", "value": "me"}],
            "volumeMounts": [
                {"name": "map", "mountPath": "/map", "readOnly": true},
                {"name": "scratch", "mountPath": "/scratch", "subPathExpr": "logs/$(WHO)"},
                {"name": "fast", "mountPath": "/fast"}]}],
    });
    world.create("p", spec).await;
    world
        .until_event("p", |r, m| {
            r == "FailedMount" && m.contains("configmap \"m\" not found")
        })
        .await;
    world
        .put(
            "configmaps",
            json!({"metadata": {"name": "m"}, "data": {"a": "1"}}),
        )
        .await;
    world.until_ready("p").await;
    let dir = world.folder("p").await.join(".volumes");
    let read = |path: &str| fs::read_to_string(dir.join(path)).unwrap_or_default();
    assert_eq!(read("map/dir/a.txt"), "1");
    assert_eq!(read("secret/k"), "secret");
    assert_eq!(read("all/a"), "1");
    assert_eq!(read("all/sec/k"), "secret");
    assert_eq!(read("all/labels"), "app=\"p\"");
    let mounts = crate::volumes::mounts::below(&dir).unwrap();
    let has = |name: &str| mounts.contains(&dir.join(name));
    assert!(
        has("secret") && has("all") && has("fast") && !has("map") && !has("scratch"),
        "{mounts:?}"
    );
    assert!(dir.join("scratch/logs/me").is_dir());
    let spec = world.engine.spec_of("c").unwrap();
    assert!(spec.mounts[0].read_only && !spec.mounts[2].read_only);
    assert!(
        spec.mounts[1].source.ends_with(".subpaths/c/1"),
        "{:?}",
        spec.mounts[1]
    );

    world
        .patch("configmaps/m", json!({"data": {"a": "2", "b": "new"}}))
        .await;
    world
        .until_true("the volume follows", || {
            read("map/dir/a.txt") == "2" && read("all/b") == "new"
        })
        .await;
    world
        .patch("pods/p", json!({"metadata": {"labels": {"app": "q"}}}))
        .await;
    world
        .until_true("labels follow", || read("all/labels") == "app=\"q\"")
        .await;
    world
        .patch("secrets/s", json!({"data": {"k": "bmV3"}}))
        .await;
    world
        .until_true("secrets follow", || {
            read("secret/k") == "new" && read("all/sec/k") == "new"
        })
        .await;

    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    world
        .until_true("nothing is mounted", || {
            crate::volumes::mounts::below(world.dir.path())
                .unwrap()
                .is_empty()
        })
        .await;
}

#[tokio::test]
async fn claims_are_mounted_when_bound() {
    let world = World::new().await;
    let path = world.dir.path().join("pv");
    let spec = json!({
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}],
        "containers": [{"name": "c", "image": "app:1", "command": ["run"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
    });
    world
        .put(
            "persistentvolumeclaims",
            json!({"metadata": {"name": "claim"}, "spec": {"volumeName": "vol", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .await;
    world.create("p", spec).await;
    world
        .until_event("p", |r, m| {
            r == "FailedMount" && m.contains("error processing PVC default/claim: PVC is not bound")
        })
        .await;
    let claim = world
        .read("/api/v1/namespaces/default/persistentvolumeclaims/claim")
        .await;
    let reference =
        json!({"namespace": "default", "name": "claim", "uid": claim["metadata"]["uid"]});
    let volume = json!({"metadata": {"name": "vol"}, "spec": {"hostPath": {"path": path}, "claimRef": reference, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
    let body = serde_json::to_vec(&volume).unwrap();
    let request = http::Request::post("/api/v1/persistentvolumes")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    world
        .client
        .request::<serde_json::Value>(request)
        .await
        .unwrap();
    world
        .patch(
            "persistentvolumeclaims/claim/status",
            json!({"status": {"phase": "Bound"}}),
        )
        .await;
    world.until_ready("p").await;
    assert_eq!(world.engine.spec_of("c").unwrap().mounts[0].source, path);
    fs::write(path.join("kept"), "").unwrap();
    world.delete("p", None).await;
    world.until("p", |p| p.is_null()).await;
    assert!(
        path.join("kept").exists(),
        "a claim's data outlives the pod"
    );
}

#[tokio::test]
async fn root_is_refused_where_it_must_not_be() {
    let world = World::new().await;
    let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c", "image": "app:1", "command": ["run"]}]});
    world.create("p", spec).await;
    let pod = world
        .until("p", |p| waiting(p) == "CreateContainerConfigError")
        .await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        message.starts_with(
            "container has runAsNonRoot and image will run as root (pod: \"p_default("
        ),
        "{message}"
    );
}
