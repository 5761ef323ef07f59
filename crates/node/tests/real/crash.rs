//! The platform is killed while Pods run: nothing of theirs is lost.

use std::{path::Path, process::Child, time::Duration};

use kube::{Client, config::KubeConfigOptions, config::Kubeconfig};
use serde_json::json;

use crate::{
    Test,
    world::{DEADLINE, World},
};

pub const ALL: &[(&str, Test)] = &[
    ("crash::containers_outlive_the_platform", || {
        Box::pin(containers_outlive_the_platform())
    }),
    ("crash::killed_while_pods_are_made", || {
        Box::pin(killed_while_pods_are_made())
    }),
];

/// Killed when dropped; the containers aren't its children.
struct Platform(Child);
impl Platform {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(dir: &Path, cgroup_parent: &str) -> (Platform, Client) {
    let file = dir.join("kubeconfig");
    let _ = std::fs::remove_file(&file);
    let spawn = || {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["platform", dir.to_str().unwrap(), cgroup_parent])
            .spawn()
            .unwrap();
        Platform(child)
    };
    let mut platform = spawn();
    let ready = async {
        while !file.exists() {
            // A child of the killed one, between fork and exec, may hold the store's lock a moment longer.
            if platform.0.try_wait().unwrap().is_some() {
                platform = spawn();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ready)
        .await
        .expect("the platform does not start");
    let config = Kubeconfig::read_from(&file).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .unwrap();
    (platform, Client::try_from(config).unwrap())
}

/// A Pod that had ended leaves the API at once when it's deleted, and the machine a moment later.
async fn no_folders(dir: &Path) {
    let gone = async {
        while std::fs::read_dir(dir.join("node/pods")).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone)
        .await
        .expect("folders of deleted pods stay");
}

async fn containers_outlive_the_platform() {
    let mut platform = None;
    let mut world = World::bare(async |dir, parent| {
        let (started, client) = start(dir, parent).await;
        platform = Some(started);
        client
    })
    .await;
    let mut platform = platform.unwrap();
    let shared = world.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let volume = json!([{"name": "shared", "hostPath": {"path": shared}}]);
    let container = |script: &str| {
        json!([{"name": "c", "image": "busybox:1", "command": ["sh", "-c", script],
            "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}])
    };
    let count = "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.02; done";
    world
        .create(
            "stays",
            json!({"terminationGracePeriodSeconds": 1, "volumes": volume, "containers": container(count)}),
        )
        .await;
    let ends = "while [ ! -e /shared/end ]; do sleep 0.05; done; echo last words; exit 42";
    world
        .create(
            "ends",
            json!({"restartPolicy": "Never", "volumes": volume, "containers": container(ends)}),
        )
        .await;
    let before = world.until_ready("stays").await;
    world.until_ready("ends").await;
    for round in 0..3 {
        platform.kill();
        if round == 1 {
            std::fs::write(shared.join("end"), "").unwrap();
            // It ends while nobody looks.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let (next, client) = start(world.dir.path(), &world.cgroup_parent).await;
        platform = next;
        world.client = client;
        let after = world.until_ready("stays").await;
        let at = |p: &serde_json::Value| p["status"]["containerStatuses"][0].clone();
        assert_eq!(at(&before), at(&after), "round {round}");
        assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
        if round == 1 {
            let pod = world.until_phase("ends", "Failed").await;
            assert_eq!(at(&pod)["state"]["terminated"]["exitCode"], 42);
            assert_eq!(at(&pod)["restartCount"], 0);
        }
    }
    // No line of the log is missing or doubled.
    let uid = before["metadata"]["uid"].as_str().unwrap();
    let log = std::fs::read_to_string(world.dir.path().join("node/pods").join(uid).join("c/0.log"))
        .unwrap();
    let numbers: Vec<u32> = log
        .lines()
        .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(numbers.len() > 20, "{} lines", numbers.len());
    assert!(
        numbers.iter().zip(1..).all(|(n, want)| *n == want),
        "lines are missing"
    );
    for name in ["stays", "ends"] {
        world.delete(name).await;
    }
    no_folders(world.dir.path()).await;
    platform.kill();
}

/// Whatever the moment: every Pod ends up running once, and every deleted one is gone.
async fn killed_while_pods_are_made() {
    let mut platform = None;
    let mut world = World::bare(async |dir, parent| {
        let (started, client) = start(dir, parent).await;
        platform = Some(started);
        client
    })
    .await;
    let mut platform = platform.unwrap();
    let spec = || json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox:1", "command": ["sh", "-c", "trap exit TERM; sleep 1000 & wait"]}]});
    for round in 0..8u64 {
        let names: Vec<String> = (0..3).map(|n| format!("p{round}-{n}")).collect();
        for name in &names {
            world.create(name, spec()).await;
        }
        if round % 2 == 1 {
            world.until_ready(&names[0]).await;
            let params = kube::api::DeleteParams::default();
            world.pods().delete(&names[0], &params).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        platform.kill();
        let (next, client) = start(world.dir.path(), &world.cgroup_parent).await;
        platform = next;
        world.client = client;
        for (n, name) in names.iter().enumerate() {
            if round % 2 == 1 && n == 0 {
                world.until(name, |p| p.is_null()).await;
                continue;
            }
            let pod = world.until_ready(name).await;
            assert!(pod["status"]["containerStatuses"][0]["restartCount"].as_i64() <= Some(1));
        }
        for name in &names {
            if !world.get(name).await.is_null() {
                world.delete(name).await;
            }
        }
    }
    no_folders(world.dir.path()).await;
    platform.kill();
}
