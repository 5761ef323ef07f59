//! What `docker run`'s options come to: told by a process inside.

use crate::{
    crew::{Crew, crew},
    docker::{ask, frames, raw, remove, run, serve, shell, wait},
};
use serde_json::{Value, json};

/// What it wrote to its output.
fn told(crew: &Crew, name: &str) -> String {
    let path = format!("/containers/{name}/logs?stdout=1&stderr=1");
    let (_, bytes) = raw(crew, "GET", &path, None);
    frames(&bytes).into_iter().map(|(_, text)| text).collect()
}

fn v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where a limit is read, by cgroup version.
fn file(v1: &str, v2_file: &str) -> String {
    match v2() {
        true => format!("cat /sys/fs/cgroup/{v2_file}"),
        false => format!("cat /sys/fs/cgroup/{v1}"),
    }
}

fn pick<'a>(v1: &'a str, v2_text: &'a str) -> &'a str {
    if v2() { v2_text } else { v1 }
}

#[test]
fn docker_options_are_seen_inside() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        let mb = |n: i64| n << 20;
        let cases: Vec<(&str, Value, String, &str)> = vec![
            (
                "cpus",
                json!({"CpusetCpus": "0"}),
                file("cpuset/cpuset.cpus", "cpuset.cpus"),
                "0",
            ),
            (
                "quota",
                json!({"CpuQuota": 20000, "CpuPeriod": 50000}),
                file("cpu/cpu.cfs_quota_us", "cpu.max"),
                pick("20000", "20000 50000"),
            ),
            (
                "shares",
                json!({"CpuShares": 2048}),
                file("cpu/cpu.shares", "cpu.weight"),
                pick("2048", "174"),
            ),
            (
                "memory",
                json!({"Memory": mb(64)}),
                file("memory/memory.limit_in_bytes", "memory.max"),
                "67108864",
            ),
            (
                "soft-memory",
                json!({"MemoryReservation": mb(32)}),
                file("memory/memory.soft_limit_in_bytes", "memory.low"),
                "33554432",
            ),
            (
                "pids",
                json!({"PidsLimit": 21}),
                file("pids/pids.max", "pids.max"),
                "21",
            ),
            (
                "oom",
                json!({"OomScoreAdj": 300}),
                "cat /proc/self/oom_score_adj".into(),
                "300",
            ),
            (
                "tmpfs",
                json!({"Tmpfs": {"/t": "size=1m,mode=0700,uid=5,exec"}}),
                "stat -c '%a %u' /t; grep -c noexec.*size=1024k /proc/mounts".into(),
                "700 5\n0",
            ),
            (
                "tmpfs-mount",
                json!({"Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": mb(2), "Mode": 0o750}}]}),
                "stat -c %a /t; grep -c 'noexec.*size=2048k' /proc/mounts".into(),
                "750\n1",
            ),
            (
                "device",
                json!({"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing"}]}),
                "stat -c '%F %t:%T' /dev/nothing".into(),
                "character special file 1:3",
            ),
            (
                "hosts",
                json!({"ExtraHosts": ["my_host:1.2.3.4"]}),
                "grep my_host /etc/hosts".into(),
                "1.2.3.4\tmy_host",
            ),
            (
                "seccomp",
                json!({"SecurityOpt": [r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#]}),
                "mkdir /x 2>/dev/null || echo refused".into(),
                "refused",
            ),
            (
                "unmasked",
                json!({"CapAdd": ["SYS_ADMIN"], "MaskedPaths": [], "ReadonlyPaths": []}),
                "grep -c '/proc/sys ' /proc/mounts".into(),
                "0",
            ),
            (
                "masked",
                json!({"MaskedPaths": ["/proc/version"], "ReadonlyPaths": []}),
                "cat /proc/version | wc -c; grep -c '/proc/sys ' /proc/mounts".into(),
                "0\n0",
            ),
            (
                "no-shm",
                json!({"IpcMode": "none"}),
                "grep -c /dev/shm /proc/mounts".into(),
                "0",
            ),
            (
                "ulimit",
                json!({"Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}]}),
                "ulimit -n".into(),
                "100",
            ),
            (
                "shm",
                json!({"ShmSize": mb(3)}),
                "df -k /dev/shm | tail -1 | awk '{print $2}'".into(),
                "3072",
            ),
        ];
        let mut typed = shell("stty size");
        typed["Tty"] = json!(true);
        typed["HostConfig"] = json!({"ConsoleSize": [30, 90]});
        run(crew, "typed", &typed);
        wait(crew, "typed");
        let (_, bytes) = raw(crew, "GET", "/containers/typed/logs?stdout=1", None);
        assert_eq!(String::from_utf8_lossy(&bytes).trim_end(), "30 90");
        remove(crew, "typed");
        let quota = |us: i64, period: i64| json!({"CpuQuota": us, "CpuPeriod": period});
        let show = file(
            "cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us",
            "cpu.max",
        );
        let mut body = shell(&format!(
            "until [ \"$({show} | tr '\\n' ' ')\" = '60000 70000 ' ]; do sleep 0.1; done; echo updated"
        ));
        body["HostConfig"] = quota(20_000, 50_000);
        run(crew, "limited", &body);
        for (us, period) in [(90_000, 100_000), (10_000, 50_000), (60_000, 70_000)] {
            let path = "/containers/limited/update";
            ask(crew, "POST", path, Some(&quota(us, period)), 200);
        }
        wait(crew, "limited");
        assert_eq!(told(crew, "limited"), "updated\n");
        remove(crew, "limited");
        for (name, host, script, wanted) in cases {
            let mut body = shell(&script);
            body["HostConfig"] = host;
            run(crew, name, &body);
            wait(crew, name);
            assert_eq!(told(crew, name).trim_end(), wanted, "{name}");
            remove(crew, name);
        }
    });
}

#[test]
fn docker_containers_share_namespaces() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        let mut body = shell("echo here > /dev/shm/word; exec sleep 1357");
        body["HostConfig"] = json!({"IpcMode": "shareable"});
        body["Hostname"] = json!("called-so");
        body["Healthcheck"] =
            json!({"Test": ["CMD-SHELL", "echo well; exit 3"], "Interval": 100_000_000});
        run(crew, "base", &body);
        let mut body = shell(
            "cat /dev/shm/word; hostname; cat /proc/1/cmdline | tr '\\0' ' '; { readlink /proc/self/ns/net; readlink /proc/1/ns/net; } | uniq | wc -l; grep -q called-so /etc/hosts && echo known",
        );
        body["HostConfig"] = json!({
            "NetworkMode": "container:base", "IpcMode": "container:base", "PidMode": "container:base",
            "CapAdd": ["SYS_PTRACE"],
        });
        run(crew, "joined", &body);
        wait(crew, "joined");
        assert_eq!(
            told(crew, "joined"),
            "here\ncalled-so\nsleep 1357 1\nknown\n"
        );
        remove(crew, "joined");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let log = loop {
            let shown = ask(crew, "GET", "/containers/base/json", None, 200);
            let health = shown["State"]["Health"].clone();
            match health["Log"][1].is_object() {
                true => break health,
                false => assert!(std::time::Instant::now() < deadline, "{health}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        assert_eq!(
            (&log["Log"][0]["ExitCode"], &log["Log"][0]["Output"]),
            (&json!(3), &json!("well\n"))
        );
        body["HostConfig"] = json!({"NetworkMode": "container:base", "IpcMode": "container:base"});
        let kill = "/containers/base/kill";
        ask(crew, "POST", kill, None, 204);
        wait(crew, "base");
        let made = ask(
            crew,
            "POST",
            "/containers/create?name=late",
            Some(&body),
            201,
        );
        let line = format!("/containers/{}/start", made["Id"].as_str().unwrap());
        let told = ask(crew, "POST", &line, None, 409);
        assert_eq!(
            told["message"],
            "cannot join network namespace of a non running container: container base is exited"
        );
        for name in ["late", "base"] {
            remove(crew, name);
        }
    });
}

#[test]
fn docker_links_and_odd_names_lead_to_containers() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        let mut body = shell("sleep 1000");
        body["Env"] = json!(["PASS=x"]);
        body["ExposedPorts"] = json!({"5432/tcp": {}});
        run(crew, "db", &body);
        let mut body =
            shell("ping -c1 -W5 my_db >/dev/null && echo $MY_DB_ENV_PASS ${MY_DB_PORT%%:*}");
        body["HostConfig"] = json!({"Links": ["db:my_db"]});
        run(crew, "linked", &body);
        wait(crew, "linked");
        assert_eq!(told(crew, "linked").trim_end(), "x tcp");
        remove(crew, "linked");
        let network = json!({"Name": "mine"});
        ask(crew, "POST", "/networks/create", Some(&network), 201);
        let mut body = shell("sleep 1000");
        body["HostConfig"] = json!({"NetworkMode": "mine"});
        run(crew, "odd_name", &body);
        let mut body = shell("ping -c1 -W5 odd_name >/dev/null && echo found");
        body["HostConfig"] = json!({"NetworkMode": "mine"});
        run(crew, "asks", &body);
        wait(crew, "asks");
        assert_eq!(told(crew, "asks").trim_end(), "found");
        // limits of one that runs
        let limits = json!({"Memory": 128 << 20, "MemorySwap": 256 << 20, "PidsLimit": 44});
        ask(crew, "POST", "/containers/db/update", Some(&limits), 200);
        let asked = json!({"Cmd": ["sh", "-c", file("pids/pids.max", "pids.max")]});
        let (output, _) = crate::docker::exec(crew, "db", asked);
        assert_eq!(output, [(1, "44\n".into())]);
        for name in ["db", "odd_name", "asks"] {
            remove(crew, name);
        }
    });
}
