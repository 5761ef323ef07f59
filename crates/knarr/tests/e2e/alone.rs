//! `knarr run`: containers without a platform.

use crate::crew::{Crew, crew, eventually, shell, text};
use std::{
    io::Write,
    process::{Output, Stdio},
};

/// Runs one to its end.
fn run(crew: &Crew, arguments: &[&str]) -> Output {
    crew.knarr(&[&["run", "--rm"], arguments].concat())
}

fn nothing_is_left(crew: &Crew) {
    eventually("all containers are gone, and their folders", || {
        let listed = crew.ok(&["ps", "-aq"]);
        let folders = std::fs::read_dir(crew.data.join("run/containers"))
            .unwrap()
            .count();
        match listed.trim().is_empty() && folders == 0 {
            true => Ok(()),
            false => Err(format!("{folders} folders; {listed}")),
        }
    });
}

#[test]
fn exit_codes_and_streams_are_the_containers() {
    crew(|crew| {
        crew.busybox();
        for (name, arguments, code, out) in [
            ("output", vec!["busybox:1", "echo", "hi"], 0, "hi\n"),
            ("its code", vec!["busybox:1", "sh", "-c", "exit 7"], 7, ""),
            (
                "a signal",
                vec!["--init", "busybox:1", "sh", "-c", "kill -9 $$"],
                137,
                "",
            ),
            ("no command", vec!["busybox:1", "nope"], 127, ""),
            ("a folder", vec!["busybox:1", "/bin"], 126, ""),
            ("no image", vec!["--pull", "never", "none:1"], 125, ""),
            ("bad flags", vec!["-p", "x", "busybox:1", "true"], 125, ""),
            (
                "flags of the command",
                vec!["busybox:1", "echo", "-e", "a", "--rm"],
                0,
                "a --rm\n",
            ),
            (
                "an entrypoint",
                vec!["--entrypoint", "echo", "busybox:1", "a"],
                0,
                "a\n",
            ),
            (
                "variables",
                vec!["-e", "A=b", "busybox:1", "sh", "-c", "echo $A $HOME"],
                0,
                "b /root\n",
            ),
            (
                "a name",
                vec!["-h", "me", "busybox:1", "hostname"],
                0,
                "me\n",
            ),
            (
                "a folder to be in",
                vec!["-w", "/bin", "busybox:1", "sh", "-c", "pwd"],
                0,
                "/bin\n",
            ),
            (
                "a user",
                vec!["-u", "12:34", "busybox:1", "sh", "-c", "id -u; id -g"],
                0,
                "12\n34\n",
            ),
            (
                "limits",
                vec![
                    "--ulimit",
                    "nofile=77:88",
                    "busybox:1",
                    "sh",
                    "-c",
                    "ulimit -n",
                ],
                0,
                "77\n",
            ),
            (
                "no network",
                vec![
                    "--network",
                    "none",
                    "busybox:1",
                    "sh",
                    "-c",
                    "ls /sys/class/net",
                ],
                0,
                "lo\n",
            ),
            (
                "memory",
                vec![
                    "--tmpfs",
                    "/t",
                    "--read-only",
                    "busybox:1",
                    "sh",
                    "-c",
                    "echo a > /t/a && cat /t/a",
                ],
                0,
                "a\n",
            ),
        ] {
            let got = run(crew, &arguments);
            assert_eq!(got.status.code(), Some(code), "{name}: {}", text(&got));
            assert_eq!(
                String::from_utf8_lossy(&got.stdout),
                out,
                "{name}: {}",
                text(&got)
            );
        }
        let both = run(crew, &["busybox:1", "sh", "-c", "echo out; echo err >&2"]);
        assert_eq!(
            (both.stdout, both.stderr),
            (b"out\n".to_vec(), b"err\n".to_vec())
        );

        let long = "seq 1 20000";
        let got = run(crew, &["busybox:1", "sh", "-c", long]);
        assert_eq!(
            String::from_utf8_lossy(&got.stdout),
            shell(long) + "\n",
            "all of it comes"
        );

        let mut child = crew
            .command(&["run", "--rm", "-i", "busybox:1", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
        let got = child.wait_with_output().unwrap();
        assert_eq!(got.stdout, b"typed\n");
        nothing_is_left(crew);
    });
}

#[test]
fn the_callers_umask_is_not_the_containers() {
    crew(|crew| {
        crew.busybox();
        let plain = crew.command(&["run", "--rm", "-u", "12:34", "busybox:1", "id", "-u"]);
        let mut strict = std::process::Command::new("sh");
        strict.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        strict.arg(plain.get_program()).args(plain.get_args());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => strict.env(name, value),
                None => strict.env_remove(name),
            };
        }
        let output = strict.output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "12\n",
            "{}",
            text(&output)
        );
    });
}

#[test]
fn containers_in_the_background() {
    crew(|crew| {
        crew.busybox();
        let page = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w";
        let at = "127.0.0.1:18099:80";
        let start = [
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            at,
            "busybox:1",
            "sh",
            "-c",
            page,
        ];
        let id = crew.ok(&start).trim().to_string();
        let served = || crew.http("http://127.0.0.1:18099/");
        eventually("it serves", served);
        assert!(crew.ok(&["ps"]).contains("127.0.0.1:18099->80/tcp"));

        let again = crew.knarr(&["run", "-d", "--name", "web", "busybox:1", "true"]);
        assert_eq!(again.status.code(), Some(125), "{}", text(&again));
        assert!(text(&again).contains("is already in use by container"));
        let taken = run(crew, &["-p", at, "busybox:1", "true"]);
        assert!(
            text(&taken).contains("port is already allocated"),
            "{}",
            text(&taken)
        );

        let inside = crew.knarr(&["exec", "web", "sh", "-c", "hostname; exit 3"]);
        assert_eq!(inside.status.code(), Some(3));
        assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), &id[..12]);

        crew.ok(&["container", "stop", "-t", "0", "web"]);
        assert!(served().is_err(), "its port is closed");
        assert!(crew.ok(&["ps", "-a"]).contains("Exited (137)"));
        crew.ok(&["container", "start", "web"]);
        eventually("it serves again", served);
        let inspected: serde_json::Value =
            serde_json::from_str(&crew.ok(&["container", "inspect", "web"])).unwrap();
        assert_eq!(inspected[0]["State"]["Running"], true);

        let rm = crew.knarr(&["container", "rm", "web"]);
        assert!(text(&rm).contains("container is running"), "{}", text(&rm));
        crew.ok(&["container", "rm", "-f", &id[..8]]);
        nothing_is_left(crew);
    });
}

#[test]
fn what_is_exported_becomes_an_image_again() {
    crew(|crew| {
        crew.busybox();
        let script = "mkdir /new; echo made > /new/f; ln /new/f /new/g; rm /bin/true";
        crew.ok(&["run", "--name", "one", "busybox:1", "sh", "-c", script]);
        let tar = crew.dir().join("one.tar").display().to_string();
        crew.ok(&["container", "export", "-o", &tar, "one"]);
        let again = crew.knarr(&["container", "export", "one"]);
        assert!(again.stdout == std::fs::read(&tar).unwrap());
        crew.ok(&["container", "rm", "-f", "one"]);
        crew.ok(&["image", "import", &tar, "back:1"]);
        let out = run(
            crew,
            &[
                "back:1",
                "sh",
                "-c",
                "cat /new/g; stat -c %i /new/f /new/g | sort -u | wc -l; test ! -e /bin/true; echo $?",
            ],
        );
        assert_eq!(text(&out), "made\n1\n0\n");
        nothing_is_left(crew);
    });
}

#[test]
fn ends_are_seen_to_without_anybody() {
    crew(|crew| {
        crew.busybox();
        // both run until they are told, so that they are seen together however slow the machine
        let volume = format!("{}:/told", crew.dir().display());
        let until_told = "while [ ! -e /told/go ]; do sleep 0.1; done";
        let in_volume = ["--rm", "-v", &volume];
        let waits = ["busybox:1", "sh", "-c", until_told];
        let published = ["run", "-d", "-p", "18098:80"];
        crew.ok(&[&published[..], &in_volume, &waits].concat());
        // the client is killed: the shim's last act removes the container
        let mut client = crew
            .command(&[&["run"][..], &in_volume, &waits].concat())
            .spawn()
            .unwrap();
        eventually("both run", || {
            match crew.ok(&["ps", "-q"]).lines().count() {
                2 => Ok(()),
                n => Err(n.to_string()),
            }
        });
        client.kill().unwrap();
        client.wait().unwrap();
        crew.file("go", "");
        nothing_is_left(crew);

        let policy = ["run", "-d", "--name", "again", "--restart", "on-failure:2"];
        crew.ok(&[&policy[..], &["busybox:1", "sh", "-c", "echo try; exit 4"]].concat());
        eventually("it has been tried three times", || {
            let lines = crew.ok(&["logs", "again"]);
            let ended = crew.ok(&["ps", "-a"]).contains("Exited (4)");
            match lines.matches("try").count() {
                3 if ended => Ok(()),
                _ => Err(lines),
            }
        });
        assert_eq!(crew.ok(&["container", "wait", "again"]).trim(), "4");
        crew.ok(&["container", "rm", "again"]);

        // a signal to the client is the container's
        let script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
        let mut client = crew
            .command(&["run", "--name", "told", "busybox:1", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("it is ready", || match crew.knarr(&["logs", "told"]) {
            got if text(&got).contains("ready") => Ok(()),
            got => Err(text(&got)),
        });
        shell(&format!("kill -TERM {}", client.id()));
        assert_eq!(client.wait().unwrap().code(), Some(9));
        crew.ok(&["container", "prune"]);

        crew.ok(&[
            "run",
            "-d",
            "--name",
            "lines",
            "busybox:1",
            "sh",
            "-c",
            "for i in 1 2 3; do echo $i; sleep 0.3; done",
        ]);
        assert_eq!(crew.ok(&["container", "logs", "-f", "lines"]), "1\n2\n3\n");
        assert_eq!(crew.ok(&["container", "logs", "-n", "1", "lines"]), "3\n");
    });
}

#[test]
fn what_a_docker_users_fingers_know() {
    crew(|crew| {
        crew.busybox();
        let shell = |script: &str| {
            crew.ok(&["container", "exec", "web", "sh", "-c", script])
                .trim_end()
                .to_string()
        };
        let script = "echo one >> /kept; trap 'exit 5' TERM; while :; do sleep 0.1; done";
        let more = ["--pids-limit", "20", "--device", "/dev/null:/dev/nothing:r"];
        let run = ["run", "-d", "--name", "web", "-v", "vol:/bin"];
        let image = [
            "--tmpfs",
            "/t:size=1m,mode=0700",
            "busybox:1",
            "sh",
            "-c",
            script,
        ];
        crew.ok(&[&run[..], &more, &image].concat());
        // a fresh volume has what the image has at its place
        assert_eq!(shell("ls /bin/busybox"), "/bin/busybox");
        assert_eq!(
            shell("stat -c '%F' /dev/nothing; stat -c %a /t"),
            "character special file\n700"
        );
        crew.ok(&[
            "container",
            "exec",
            "-d",
            "-e",
            "A=b",
            "-w",
            "/tmp",
            "web",
            "sh",
            "-c",
            "pwd > /said; echo $A >> /said",
        ]);
        eventually("a command in the background has run", || {
            match shell("cat /said 2>/dev/null || true").as_str() {
                "/tmp\nb" => Ok(()),
                other => Err(other.to_string()),
            }
        });
        assert_eq!(
            crew.ok(&["container", "exec", "-u", "7:8", "web", "id", "-u"])
                .trim(),
            "7"
        );
        // files in, also of one that has stopped, and out
        let file = crew.dir().join("file");
        std::fs::write(&file, "in").unwrap();
        let file = file.to_str().unwrap();
        crew.ok(&["container", "cp", file, "web:/tmp/x"]);
        assert_eq!(shell("cat /tmp/x"), "in");
        crew.ok(&["container", "pause", "web"]);
        assert!(crew.ok(&["ps"]).contains("(Paused)"));
        crew.ok(&["container", "unpause", "web"]);
        // between two of them it has none for a moment
        eventually("its processes are shown", || {
            match crew.ok(&["container", "top", "web"]) {
                shown if shown.contains("sleep 0.1") => Ok(()),
                shown => Err(shown),
            }
        });
        assert!(
            crew.ok(&["container", "stats", "--no-stream"])
                .contains("web")
        );
        crew.ok(&["container", "update", "--pids-limit", "33", "web"]);
        crew.ok(&["container", "rename", "web", "site"]);
        crew.ok(&["container", "stop", "site"]);
        let changes = crew.ok(&["container", "diff", "site"]);
        assert!(changes.contains("A /kept\n"), "{changes}");
        let out = crew.dir().join("out");
        let out = out.to_str().unwrap();
        crew.ok(&["container", "cp", "site:/kept", out]);
        assert_eq!(std::fs::read_to_string(out).unwrap(), "one\n");
        crew.ok(&["container", "cp", file, "site:/while-stopped"]);
        // what it wrote is there in its next run
        crew.ok(&["container", "start", "site"]);
        eventually("the second run has written, too", || {
            let kept = crew.ok(&[
                "container",
                "exec",
                "site",
                "cat",
                "/kept",
                "/while-stopped",
            ]);
            match kept.as_str() {
                "one\none\nin" => Ok(()),
                other => Err(other.to_string()),
            }
        });
        crew.ok(&["container", "commit", "-c", "ENV X=y", "site", "mine:1"]);
        let said = run_mine(crew);
        assert_eq!(said, "one\none\ny\n");
        let shown = crew.ok(&[
            "container",
            "inspect",
            "-f",
            "{{.State.Status}} {{json .Config.Labels}}",
            "site",
        ]);
        assert_eq!(shown, "running {}\n");
        assert_eq!(crew.ok(&["ps", "--format", "{{.Names}}"]), "site\n");
        let refused = crew.knarr(&["volume", "rm", "vol"]);
        assert!(
            text(&refused).contains("volume is in use"),
            "{}",
            text(&refused)
        );
        crew.ok(&["container", "rm", "-f", "site"]);
        crew.ok(&["volume", "rm", "vol"]);
        assert_eq!(crew.ok(&["volume", "ls", "-q"]), "");
        let refused = crew.knarr(&["run", "--gpus", "all", "busybox:1", "true"]);
        assert_eq!(refused.status.code(), Some(125));
        assert!(
            text(&refused).contains("could not select device driver"),
            "{}",
            text(&refused)
        );
        nothing_is_left(crew);
    });
}

fn run_mine(crew: &Crew) -> String {
    let output = run(crew, &["mine:1", "sh", "-c", "cat /kept; echo $X"]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
