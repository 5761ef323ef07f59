//! Kills at random: the platform, shims, first processes, also several at once. After each of them nothing is lost, doubled
//! or leaked. `KNARR_KILLS` changes how many kills there are, `KNARR_SEED` which.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    crew::{Crew, crew, eventually, shell},
    faults,
};

/// Few enough for every run of the tests; a thousand by hand.
const KILLS: usize = 15;
const PODS: usize = 6;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 6
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      volumes: [{name: d, emptyDir: {medium: Memory}}]
      containers:
      - name: c
        image: busybox:1
        command: [sleep, "100000"]
        volumeMounts: [{name: d, mountPath: /d}]
"#;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

/// xorshift64*: a test must be able to happen again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        mixed as usize % n
    }
}

/// Pod name → id of its container, when all are there and Ready.
fn all_ready(crew: &Crew) -> Result<BTreeMap<String, String>, String> {
    let output = crew.kubectl(&["get", "pods", "-l", "app=many", "-o", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    let mut found = BTreeMap::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let status = &pod["status"]["containerStatuses"][0];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if status["ready"] != true || !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(format!("{name}: {status}"));
        }
        let id = status["containerID"].as_str().unwrap_or_default();
        found.insert(name.to_string(), id.to_string());
    }
    match found.len() {
        PODS => Ok(found),
        n => Err(format!("{n} Pods")),
    }
}

/// What the machine holds for the Pods, by kind. As many Pods, as much of it.
fn held(crew: &Crew) -> BTreeMap<&'static str, usize> {
    let data = crew.data.display();
    let group = crew.cgroup().unwrap();
    let count = |line: String| shell(&line).parse().unwrap();
    let files = |dir: &str| count(format!("find {data}/{dir} -mindepth 1 -maxdepth 1 | wc -l"));
    BTreeMap::from([
        ("containers", files("runtime/containers")),
        ("sandboxes", files("runtime/sandboxes")),
        ("folders of Pods", files("node/pods")),
        ("leases", files("network/pods")),
        (
            "mounts",
            count(format!("grep -c ' {data}' /proc/self/mountinfo || true")),
        ),
        ("links", count("ip -o link | wc -l".into())),
        (
            "control groups",
            count(format!(
                "find /sys/fs/cgroup -path '*/{group}/*' -type d | wc -l"
            )),
        ),
        ("processes", crew.processes("sleep").len()),
    ])
}

/// Waits until it holds as much as before.
fn nothing_leaks(crew: &Crew, at_rest: &BTreeMap<&'static str, usize>, round: &str) {
    eventually(&format!("{round}: nothing lost, doubled or leaked"), || {
        let now = held(crew);
        match now == *at_rest {
            true => Ok(()),
            false => Err(format!("{now:?} instead of {at_rest:?}")),
        }
    });
}

#[test]
fn random_kills_lose_double_and_leak_nothing() {
    let kills = number("KNARR_KILLS").map_or(KILLS, |n| n as usize);
    let seed = number("KNARR_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64)
    });
    println!("KNARR_KILLS={kills} KNARR_SEED={seed}");
    let mut dice = Dice(seed | 1);
    crew(|crew| {
        crew.busybox();
        crew.serve();
        let file = crew.file("many.yaml", DEPLOYMENT);
        crew.kube(&format!("apply -f {file}"));
        eventually("all are Ready", || all_ready(crew));
        // what was needed only to start them may still be there
        let mut last = held(crew);
        let at_rest = eventually("nothing comes or goes any more", || {
            std::thread::sleep(Duration::from_secs(1));
            let before = std::mem::replace(&mut last, held(crew));
            match before == last {
                true => Ok(before),
                false => Err(format!("{before:?}, then {last:?}")),
            }
        });
        assert_eq!(at_rest["processes"], PODS, "{at_rest:?}");
        let (mut done, mut round) = (0, 0);
        while done < kills {
            round += 1;
            let before = eventually("all are Ready", || all_ready(crew));
            crew.kube(&format!("create configmap w{round}"));
            let mut victims = BTreeMap::new();
            let mut platform = false;
            let mut said = Vec::new();
            for _ in 0..=dice.below(3) {
                let (name, id) = before.iter().nth(dice.below(PODS)).unwrap();
                match dice.below(3) {
                    0 if !platform => {
                        crew.kill();
                        platform = true;
                        said.push("platform".to_string());
                    }
                    // one kill each: the second would find nothing
                    _ if victims.contains_key(name) => continue,
                    1 => {
                        shell(&format!("kill -9 {}", faults::shim(crew, id)));
                        victims.insert(name.clone(), id.clone());
                        said.push(format!("shim of {name}"));
                    }
                    _ => {
                        shell(&format!("kill -9 {}", faults::init(crew, id)));
                        victims.insert(name.clone(), id.clone());
                        said.push(format!("process of {name}"));
                    }
                }
                done += 1;
            }
            let said = format!("round {round}, killed {}", said.join(", "));
            if platform {
                crew.serve();
            }
            let after = eventually(&said, || {
                let now = all_ready(crew)?;
                match victims.iter().find(|(name, id)| now.get(*name) == Some(id)) {
                    Some((name, _)) => Err(format!("{name} has not been started again")),
                    None => Ok(now),
                }
            });
            for (name, id) in &before {
                if !victims.contains_key(name) {
                    assert_eq!(after.get(name), Some(id), "{said}: {name} was not touched");
                }
            }
            nothing_leaks(crew, &at_rest, &said);
            // what has crashed would wait longer the next time: new ones don't
            for name in victims.keys() {
                crew.kube(&format!("delete pod {name} --wait=false"));
            }
        }
        eventually("all are Ready", || all_ready(crew));
        nothing_leaks(crew, &at_rest, "at the end");
        let there = crew.kube("get configmaps -o name");
        for n in 1..=round {
            let line = format!("configmap/w{n}");
            assert!(there.lines().any(|l| l == line), "{line} was acknowledged");
        }
        println!("{done} kills in {round} rounds");
    });
}
