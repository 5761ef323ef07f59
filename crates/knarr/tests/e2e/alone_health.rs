//! `knarr run`: health checks, without a platform.

use crate::crew::{Crew, crew, eventually, text};

fn told(crew: &Crew, name: &str) -> (String, String) {
    let format = "{{.State.Health.Status}} {{json .State.Health.Log}}";
    let shown = crew.ok(&["container", "inspect", "-f", format, name]);
    let (status, log) = shown.trim().split_once(' ').unwrap();
    (status.into(), log.into())
}

fn becomes(crew: &Crew, name: &str, status: &str, output: &str) {
    eventually(&format!("{name} is {status}"), || match told(crew, name) {
        (now, log) if now == status && log.contains(output) => Ok(()),
        (now, log) => Err(format!("{now}, wanted {status}: {log}")),
    });
}

#[test]
fn containers_are_asked_whether_they_are_well() {
    crew(|crew| {
        crew.busybox();
        let quick = ["--health-interval", "200ms", "--health-retries", "2"];
        let start = |name: &str, check: &str, more: &[&str], script: &str| {
            let head = ["run", "-d", "--name", name, "--health-cmd", check];
            let tail = ["busybox:1", "sh", "-c", script];
            crew.ok(&[&head[..], &quick, more, &tail].concat());
        };
        start("well", "echo fine; test ! -e /ill", &[], "sleep 1000");
        start("ill", "echo broken >&2; false", &[], "sleep 1000");
        start(
            "slow",
            "sleep 100",
            &["--health-timeout", "100ms"],
            "sleep 1000",
        );
        start(
            "later",
            "false",
            &[
                "--health-start-period",
                "1h",
                "--health-start-interval",
                "100ms",
            ],
            "sleep 1000",
        );
        start("ends", "true", &["--rm"], "sleep 1");
        becomes(crew, "well", "healthy", "fine");
        becomes(crew, "ill", "unhealthy", "broken");
        becomes(crew, "slow", "unhealthy", "exceeded timeout (100ms)");
        becomes(crew, "later", "starting", "ExitCode");
        let listed = crew.ok(&["ps", "--format", "{{.Names}} {{.Status}}"]);
        for (name, state) in [
            ("well", "(healthy)"),
            ("ill", "(unhealthy)"),
            ("later", "(health: starting)"),
        ] {
            let line = listed.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.ends_with(state), "{listed}");
        }
        crew.ok(&["container", "exec", "well", "touch", "/ill"]);
        becomes(crew, "well", "unhealthy", "fine");
        crew.ok(&["container", "exec", "well", "rm", "/ill"]);
        becomes(crew, "well", "healthy", "fine");
        // anew with each start
        crew.ok(&["container", "restart", "-t", "0", "ill"]);
        becomes(crew, "ill", "unhealthy", "broken");
        let both = text(&crew.knarr(&[
            "run",
            "--no-healthcheck",
            "--health-cmd",
            "x",
            "busybox:1",
            "true",
        ]));
        assert!(both.contains("--no-healthcheck conflicts"), "{both}");
        crew.ok(&["container", "rm", "-f", "well", "ill", "slow", "later"]);
        // who asks ends with its container
        eventually("nobody asks any more", || {
            let asking = asking(&crew.data.display().to_string());
            match asking.is_empty() {
                true => Ok(()),
                false => Err(format!("{asking:?}")),
            }
        });
    });
}

/// Command lines of the processes that ask containers of this data directory.
fn asking(data: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines
        .filter(|line| line.contains(data) && line.contains(" container health "))
        .collect()
}
