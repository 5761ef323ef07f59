//! What goes wrong in one place stays there: see `docs/faults.md` for what is promised.

use std::time::Duration;

use serde_json::{Value, json};

use crate::crew::{Crew, KNARR, crew, eventually, shell, text};

/// Processes and threads of one Pod here: enough for any of them, and no burden on the machine.
const PIDS_MAX: u32 = 64;

/// A Pod with one container, `change`d.
fn pod(name: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "image": "busybox:1", "command": ["sh", "-c", script] }],
        },
    });
    change(&mut pod["spec"]);
    pod.to_string()
}

fn apply(crew: &Crew, manifest: &str) {
    let file = crew.file("pod.json", manifest);
    crew.kube(&format!("apply -f {file}"));
}

/// `status.containerStatuses[0]` of a Pod.
pub fn container(crew: &Crew, name: &str) -> Value {
    let pod: Value = serde_json::from_str(&crew.kube(&format!("get pod {name} -o json"))).unwrap();
    pod["status"]["containerStatuses"][0].clone()
}

/// Waits until the container's status is as `wanted`.
fn until(crew: &Crew, what: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let status = container(crew, name);
        match wanted(&status) {
            true => Ok(status),
            false => Err(status.to_string()),
        }
    })
}

/// Has been started again, and runs.
fn restarted(status: &Value) -> bool {
    status["restartCount"].as_i64() > Some(0) && status["state"]["running"].is_object()
}

/// The process of the container's shim.
pub fn shim(crew: &Crew, id: &str) -> u64 {
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    let file = crew.data.join(format!("runtime/containers/{id}/shim.json"));
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let shim: Value = serde_json::from_slice(&text).unwrap();
    shim["pid"].as_u64().unwrap()
}

/// The container's first process, as the machine numbers it.
pub fn init(crew: &Crew, id: &str) -> String {
    let shim = shim(crew, id);
    eventually("the container's process", || {
        let children = format!("/proc/{shim}/task/{shim}/children");
        let text = std::fs::read_to_string(&children).map_err(|e| e.to_string())?;
        let first = text.split_whitespace().next().map(String::from);
        first.ok_or_else(|| format!("{children} is empty"))
    })
}

fn id(status: &Value) -> String {
    status["containerID"].as_str().unwrap().to_string()
}

/// A platform whose Pods may have [`PIDS_MAX`] processes, and a Pod that nothing may touch.
fn with_keeper(crew: &Crew) -> Value {
    crew.busybox();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "podPidsLimit": PIDS_MAX,
    });
    let file = crew.file("kubelet.json", &config.to_string());
    crew.serve_with(&["--kubelet-config", &file]);
    apply(crew, &pod("keeper", "exec sleep 100000", |_| {}));
    until(crew, "the keeper runs", "keeper", |s| {
        s["state"]["running"].is_object()
    })
}

/// It is the same container, and a new Pod starts beside it.
fn undisturbed(crew: &Crew, keeper: &Value, round: &str) {
    let now = container(crew, "keeper");
    assert_eq!(now["containerID"], keeper["containerID"], "{round}");
    assert_eq!(now["restartCount"], 0, "{round}");
    let name = format!("after-{round}");
    apply(crew, &pod(&name, "exec sleep 100000", |_| {}));
    until(crew, "a new Pod starts", &name, |s| s["ready"] == true);
    crew.kube(&format!("delete pod {name} --now"));
}

#[test]
fn what_a_container_does_is_its_own_affair() {
    crew(|crew| {
        let keeper = with_keeper(crew);

        let bomb = "b() { b | b & }; b; sleep 2; while :; do echo; done >/dev/null";
        let limited = |spec: &mut Value| {
            spec["containers"][0]["resources"] =
                json!({"limits": {"cpu": "300m", "memory": "64Mi"}});
        };
        apply(crew, &pod("bomb", bomb, limited));
        until(crew, "the bomb runs", "bomb", |s| {
            s["state"]["running"].is_object() || s["lastState"]["terminated"].is_object()
        });
        undisturbed(crew, &keeper, "bomb");
        let most = shell("ps -e -o comm= | grep -c '^sh$' || true");
        assert!(
            most.parse::<u32>().unwrap() < 8 * PIDS_MAX,
            "{most} shells: the bomb isn't held"
        );
        crew.kube("delete pod bomb --now");

        let eater = "a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done";
        let small = |spec: &mut Value| {
            spec["containers"][0]["resources"] = json!({"limits": {"memory": "16Mi"}});
        };
        apply(crew, &pod("eater", eater, small));
        let ended = until(crew, "the eater is told", "eater", |s| {
            s["lastState"]["terminated"].is_object()
        });
        let last = &ended["lastState"]["terminated"];
        assert_eq!(
            (&last["reason"], &last["exitCode"]),
            (&json!("OOMKilled"), &json!(137))
        );
        undisturbed(crew, &keeper, "eater");
        crew.kube("delete pod eater --now");

        let filler =
            "l=0123456789abcdef; l=$l$l$l$l; l=$l$l$l$l; l=$l$l$l$l; while :; do echo $l; done";
        apply(crew, &pod("filler", filler, |_| {}));
        let dir = crew.data.join("node/pods");
        eventually("the log is turned over", || {
            let files = shell(&format!("find {} -name '*.log.*' | wc -l", dir.display()));
            match files.parse() {
                Ok(4..) => Ok(()),
                Ok(n @ 0..4) => Err(format!("{n} old files")),
                other => Err(format!("{other:?}")),
            }
        });
        undisturbed(crew, &keeper, "filler");
        let kib: u64 = shell(&format!("du -sk {} | cut -f1", dir.display()))
            .parse()
            .unwrap();
        assert!(kib < 80 << 10, "{kib} KiB of logs");
        // for a moment the newest file is empty
        eventually("its last line", || {
            match crew.kube("logs filler --tail=1") {
                line if line.starts_with("0123") => Ok(()),
                other => Err(other),
            }
        });
        crew.kube("delete pod filler --now");
    });
}

#[test]
fn a_probe_that_never_returns_ends_and_counts_as_failed() {
    crew(|crew| {
        let keeper = with_keeper(crew);
        let hangs = json!({"exec": {"command": ["sleep", "100000"]}, "periodSeconds": 1,
            "timeoutSeconds": 1, "failureThreshold": 2});
        apply(
            crew,
            &pod("deaf", "exec sleep 100000", |spec| {
                spec["containers"][0]["readinessProbe"] = hangs.clone();
            }),
        );
        apply(
            crew,
            &pod("dead", "exec sleep 100000", |spec| {
                spec["containers"][0]["livenessProbe"] = hangs.clone();
            }),
        );
        // takes connections and never says a word
        let silent = json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1,
            "timeoutSeconds": 1, "failureThreshold": 2});
        apply(
            crew,
            &pod(
                "mute",
                "while :; do sleep 100000 | nc -l -p 8080; done",
                |spec| {
                    spec["containers"][0]["livenessProbe"] = silent;
                },
            ),
        );
        for name in ["dead", "mute"] {
            until(crew, "it is started again", name, |s| {
                s["restartCount"].as_i64() > Some(0)
            });
        }
        eventually("the failure is told", || {
            let events =
                crew.kube("get events --field-selector involvedObject.name=deaf,reason=Unhealthy");
            match events.contains("Readiness probe") {
                true => Ok(()),
                false => Err(events),
            }
        });
        let deaf = container(crew, "deaf");
        assert_eq!(
            (&deaf["ready"], &deaf["restartCount"]),
            (&json!(false), &json!(0))
        );
        eventually("ended probes leave nothing behind", || {
            let left = crew.kube("exec deaf -- ps");
            // its own, and the probe of the moment
            match left.lines().filter(|l| l.contains("sleep 100000")).count() {
                0..=2 => Ok(()),
                _ => Err(left),
            }
        });
        undisturbed(crew, &keeper, "probes");
    });
}

#[test]
fn a_hanging_pull_is_its_own_pods_affair() {
    crew(|crew| {
        let keeper = with_keeper(crew);
        // connections come to be, and nobody ever answers
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let from = |port: u16| {
            move |spec: &mut Value| {
                spec["containers"][0]["image"] = json!(format!("127.0.0.1:{port}/app:1"));
            }
        };
        apply(crew, &pod("hangs", "exec sleep 100000", from(port)));
        let events = |name: &str, wanted: &str| {
            eventually(&format!("{name}: {wanted}"), || {
                let all = crew.kube(&format!(
                    "get events --field-selector involvedObject.name={name}"
                ));
                match all.contains(wanted) {
                    true => Ok(()),
                    false => Err(all),
                }
            });
        };
        events("hangs", "Pulling image");
        // images come one after the other, but this one has its turn before the other is given up
        apply(crew, &pod("refused", "exec sleep 100000", from(1)));
        let waits = |status: &Value| status["state"]["waiting"]["reason"].clone();
        until(crew, "another pull has its turn", "refused", |s| {
            let reason = waits(s);
            reason == "ErrImagePull" || reason == "ImagePullBackOff"
        });
        assert_eq!(waits(&container(crew, "hangs")), "ContainerCreating");
        undisturbed(crew, &keeper, "pull");
        // what goes doesn't wait for it
        crew.kube("delete pod hangs refused --timeout=120s");
        drop(silent);
        undisturbed(crew, &keeper, "deleted");
    });
}

#[test]
fn a_killed_process_or_shim_is_one_restart() {
    crew(|crew| {
        let keeper = with_keeper(crew);
        apply(crew, &pod("victim", "exec sleep 100000", |_| {}));
        let status = until(crew, "it runs", "victim", |s| s["ready"] == true);
        shell(&format!("kill -9 {}", init(crew, &id(&status))));
        let status = until(crew, "it runs again", "victim", restarted);
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 137);
        assert_eq!(status["restartCount"], 1);

        apply(crew, &pod("orphan", "exec sleep 100000", |_| {}));
        let status = until(crew, "it runs", "orphan", |s| s["ready"] == true);
        let process = init(crew, &id(&status));
        shell(&format!("kill -9 {}", shim(crew, &id(&status))));
        let again = until(crew, "it runs again", "orphan", restarted);
        assert_ne!(again["containerID"], status["containerID"]);
        let left = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        assert!(
            left.is_empty() || left.contains(") Z "),
            "two of it run: {left}"
        );
        undisturbed(crew, &keeper, "kills");
    });
}

#[test]
fn the_clock_may_jump() {
    crew(|crew| {
        let library = crew.dir().join("clock.so");
        let source = crew.file("clock.c", include_str!("clock.c"));
        shell(&format!(
            "cc -shared -fPIC -O1 -o {} {source} -ldl",
            library.display()
        ));
        let offset = crew.file("offset", "0\n");
        crew.busybox();
        crew.serve_env(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("TEST_CLOCK_OFFSET", &offset),
        ]);
        apply(
            crew,
            &pod("keeper", "exec sleep 100000", |spec| {
                spec["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 60});
            }),
        );
        let keeper = until(crew, "the keeper runs", "keeper", |s| s["ready"] == true);
        const DAY: i64 = 24 * 3600;
        for (round, seconds) in [("ahead", DAY), ("back", -DAY), ("home", 0)] {
            crew.file("offset", &format!("{seconds}\n"));
            // longer than a node that is silent stays Ready
            std::thread::sleep(Duration::from_secs(12));
            eventually("the node is Ready", || {
                let node = crew.kube(
                    "get nodes -o jsonpath={.items[0].status.conditions[?(@.type==\"Ready\")].status}",
                );
                match node == "True" {
                    true => Ok(()),
                    false => Err(format!("{round}: {node}")),
                }
            });
            undisturbed(crew, &keeper, round);
        }
    });
}

#[test]
fn after_a_reboot_all_pods_are_there_again() {
    crew(|crew| {
        // mounts are the machine's memory of a boot: each gets its own, and an id that says so
        let boot = |number: u32| {
            let id = format!("0000000{number}-0000-4000-8000-000000000000\n");
            let file = crew.file(&format!("boot-{number}"), &id);
            let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && exec \"$2\" serve";
            let mut command = crew.in_crew("unshare");
            command.args(["--mount", "sh", "-c", script, "sh", &file, KNARR]);
            crew.serve_as(command);
        };
        crew.busybox();
        boot(1);
        let script = "echo one more >> /d/starts; exec sleep 100000";
        apply(
            crew,
            &pod("keeper", script, |spec| {
                spec["volumes"] = json!([{"name": "d", "emptyDir": {}}]);
                spec["containers"][0]["volumeMounts"] = json!([{"name": "d", "mountPath": "/d"}]);
            }),
        );
        let before = until(crew, "the keeper runs", "keeper", |s| s["ready"] == true);
        let uid = crew.kube("get pod keeper -o jsonpath={.metadata.uid}");
        // it runs before its script has written
        let starts = |wanted: usize| {
            eventually("its volume is kept", || {
                let starts = crew.kubectl(&["exec", "keeper", "--", "cat", "/d/starts"]);
                let count = String::from_utf8_lossy(&starts.stdout).lines().count();
                match count == wanted && crew.processes("sleep").len() == 1 {
                    true => Ok(()),
                    false => Err(text(&starts)),
                }
            });
        };
        starts(1);
        // the power goes
        let (shim, process) = (shim(crew, &id(&before)), init(crew, &id(&before)));
        crew.kill();
        // the one may have gone with the other
        shell(&format!("kill -9 {shim}; kill -9 {process} || true"));
        boot(2);
        let after = until(crew, "the keeper runs again", "keeper", |s| {
            s["ready"] == true && s["containerID"] != before["containerID"]
        });
        assert_eq!(after["restartCount"], 1);
        assert_eq!(crew.kube("get pod keeper -o jsonpath={.metadata.uid}"), uid);
        starts(2);
    });
}
