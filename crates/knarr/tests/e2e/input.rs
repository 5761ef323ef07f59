//! Bad input and a bad machine: one clear message that names the place and the fix, and nothing changes.

use std::net::TcpListener;

use crate::crew::{Crew, KNARR, crew, eventually, shell, text};

/// What the API holds, but for what changes by itself: each namespace gets the CA soon after it is made.
fn contents(crew: &Crew) -> String {
    let all = crew.kube("get ns,deploy,sts,svc,cm,pvc,secret -A -o name");
    let lines = all.lines().filter(|l| *l != "configmap/kube-root-ca.crt");
    lines.collect::<Vec<_>>().join("\n")
}

fn check(crew: &Crew, name: &str, arguments: &[&str], code: i32, expected: &[&str]) {
    let before = contents(crew);
    let output = crew.knarr(arguments);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{name}: {said}");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in expected {
        assert!(complaint.contains(part), "{name}: lacks {part:?} in {said}");
    }
    let complaints = complaint.lines().filter(|l| l.starts_with("knarr: "));
    assert_eq!(complaints.count(), 1, "{name}: one message: {said}");
    assert!(!said.contains("panicked"), "{name}: {said}");
    assert_eq!(before, contents(crew), "{name}: something changed");
}

#[test]
fn files_with_mistakes() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        let compose = |name: &str, services: &str| {
            let text = format!("name: bad\nservices:\n{services}");
            crew.file(&format!("{name}/compose.yaml"), &text);
            name.to_string()
        };
        let cases = [
            (
                compose("unknown", "  web:\n    image: busybox:1\n    imagee: x\n"),
                2,
                vec!["compose.yaml", "5", "imagee"],
            ),
            (
                compose(
                    "cycle",
                    "  a: {image: \"busybox:1\", depends_on: [b]}\n  b: {image: \"busybox:1\", depends_on: [a]}\n",
                ),
                2,
                vec!["a", "b", "dependency cycle"],
            ),
            (
                compose("context", "  a:\n    build: ./missing\n"),
                2,
                vec!["missing"],
            ),
            (
                compose(
                    "type",
                    "  a:\n    image: busybox:1\n    deploy: {replicas: many}\n",
                ),
                2,
                vec!["replicas"],
            ),
            (
                compose(
                    "port",
                    "  a:\n    image: busybox:1\n    ports: [\"99999:80\"]\n",
                ),
                2,
                vec!["99999"],
            ),
            (compose("yaml", "  a: [\n"), 2, vec!["compose.yaml"]),
            (
                compose(
                    "volume",
                    "  a:\n    image: busybox:1\n    volumes: [\"nowhere:/d\"]\n",
                ),
                2,
                vec!["nowhere"],
            ),
        ];
        let cases = cases.into_iter().chain([(
            compose("image", "  a:\n    image: nobody/has:1\n"),
            2,
            vec!["nobody/has:1", "knarr image load"],
        )]);
        for (name, code, expected) in &cases.collect::<Vec<_>>() {
            check(crew, name, &["up", name], *code, expected);
        }
        crew.file(
            "k8s/a.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: many}\n",
        );
        check(
            crew,
            "manifest with a wrong type",
            &["up", "k8s"],
            2,
            &["a.yaml", "replicas"],
        );
        // What comes before the mistake is not applied, either.
        crew.file(
            "k8s3/all.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: made}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: sound, namespace: made}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: made}\nspec: {ports: [{port: 80, targetPortt: 80}]}\n",
        );
        check(
            crew,
            "a typo in the third document",
            &["up", "k8s3"],
            2,
            &["all.yaml, document 3", "targetPortt"],
        );
        crew.file(
            "k8s2/a.yaml",
            "apiVersion: example.org/v1\nkind: Sloop\nmetadata: {name: a}\n",
        );
        check(
            crew,
            "a kind that isn't there",
            &["up", "k8s2"],
            2,
            &["Sloop"],
        );
        crew.file("empty/readme.txt", "nothing");
        check(
            crew,
            "an empty folder",
            &["up", "empty"],
            2,
            &["compose.yaml"],
        );
        check(crew, "no folder", &["up", "nowhere"], 2, &["nowhere"]);
        check(
            crew,
            "no such service",
            &["scale", "-p", "none", "web=2"],
            2,
            &["none"],
        );
    });
}

const PUBLISHED: &str = "name: app
services:
  web:
    image: busybox:1
    command: [sh, -c, 'echo hello > /index.html; exec httpd -f -p 80 -h /']
    stop_grace_period: 1s
    ports: [\"8000:80\"]
";

#[test]
fn ports_in_use() {
    crew(|crew| {
        let taken = TcpListener::bind("127.0.0.1:6443").unwrap();
        crew.file("app/compose.yaml", PUBLISHED);
        let output = crew.knarr(&["up", "app"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("6443") && said.contains("--api"), "{said}");
        assert!(!crew.data.exists(), "nothing was made");
        drop(taken);

        crew.busybox();
        let taken = TcpListener::bind("0.0.0.0:8000").unwrap();
        let output = crew.knarr(&["up", "app"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("web: port 8000") && said.contains("stop that program"),
            "{said}"
        );
        assert!(
            !crew.data.join("store").exists(),
            "the platform was not started for it"
        );
        crew.serve();
        let expected = ["web: port 8000 can't be published", "stop that program"];
        check(crew, "a published port", &["up", "app"], 2, &expected);
        drop(taken);
        crew.ok(&["up", "app"]);

        // Taken while the platform was away: told by `status` and by `up`, and healed when it is free again.
        crew.kill();
        // a process that it was just starting has it for a moment longer
        let taken = eventually("the port is free", || {
            TcpListener::bind("0.0.0.0:8000").map_err(|e| e.to_string())
        });
        crew.serve();
        eventually("status tells", || {
            let said = crew.ok(&["status"]);
            match said.contains("0.0.0.0:8000 can't be opened") {
                true => Ok(()),
                false => Err(said),
            }
        });
        let expected = [
            "web",
            "0.0.0.0:8000 can't be opened",
            "publish another port",
        ];
        check(crew, "taken meanwhile", &["up", "app"], 1, &expected);
        drop(taken);
        crew.ok(&["up", "app"]);
        assert_eq!(crew.http("http://127.0.0.1:8000/").unwrap(), "hello\n");
    });
}

/// Makes the kernel look as if it had no netfilter netlink family: `socket(AF_NETLINK, …, NETLINK_NETFILTER)` fails as
/// it does without `CONFIG_NETFILTER_NETLINK`.
fn hide_nftables() -> std::io::Result<()> {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let load = |offset| libc::sock_filter {
        code: (BPF_LD | BPF_W | BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    };
    // `skip` steps ahead when it is something else
    let equals = |k, skip| libc::sock_filter {
        code: (BPF_JMP | BPF_JEQ | BPF_K) as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let answer = |k| libc::sock_filter {
        code: (BPF_RET | BPF_K) as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // struct seccomp_data: nr at 0, the arguments from 16 on, eight bytes each
    let filter = [
        load(0),
        equals(libc::SYS_socket as u32, 5),
        load(16),
        equals(libc::AF_NETLINK as u32, 3),
        load(32),
        equals(libc::NETLINK_NETFILTER as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: both calls change only this process's own permissions; `program` and `filter` live until they return.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    match done {
        true => Ok(()),
        false => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn without_nftables() {
    use std::os::unix::process::CommandExt;
    crew(|crew| {
        crew.file("app/compose.yaml", PUBLISHED);
        for (arguments, code) in [(["up", "app"], 3), (["doctor", "-ojson"], 1)] {
            let mut command = crew.command(&arguments);
            // SAFETY: between fork and exec only two system calls are made, nothing is allocated.
            let output = unsafe { command.pre_exec(hide_nftables) }.output().unwrap();
            let said = text(&output);
            assert_eq!(output.status.code(), Some(code), "{said}");
            for part in ["nf_tables", "modprobe nf_tables"] {
                assert!(said.contains(part), "{said}");
            }
        }
        assert!(!crew.data.exists(), "nothing was made");
    });
}

#[test]
fn without_root() {
    crew(|crew| {
        crew.file(
            "app/compose.yaml",
            "name: app\nservices:\n  web: {image: \"busybox:1\"}\n",
        );
        shell(&format!("chmod -R a+rX {}", crew.dir().display()));
        // A copy, as the build's folder may be closed to others.
        let program = crew.dir().join("knarr");
        shell(&format!("cp {KNARR} {}", program.display()));
        let data = crew.dir().join("nobody");
        let roots = crew.dir().join("roots");
        std::fs::create_dir(&roots).unwrap();
        shell(&format!("chmod 700 {}", roots.display()));
        let app = crew.dir().join("app");
        for (data, arguments, code) in [
            (&data, vec!["up", app.to_str().unwrap()], 3),
            // before an image is looked for
            (&data, vec!["run", "nobody/has:1"], 125),
            (&data, vec!["container", "create", "nobody/has:1"], 3),
            // what can't be read is not taken for nothing
            (&roots, vec!["ps"], 3),
            (&roots, vec!["container", "ls"], 3),
            (&roots, vec!["volume", "ls"], 3),
            (&roots, vec!["image", "ls"], 3),
            (&roots, vec!["status"], 3),
        ] {
            let output = std::process::Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(&program)
                .args(["--data-dir", data.to_str().unwrap()])
                .args(&arguments)
                .output()
                .unwrap();
            let said = text(&output);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
            let asks = said.contains("root") && said.contains("run it with sudo");
            assert!(asks, "{arguments:?}: {said}");
        }
        assert!(!data.exists());
    });
}

/// What is wrong is told before anything is started.
#[test]
fn arguments_that_can_not_be() {
    crew(|crew| {
        crew.file("kept", "mine");
        let check = |arguments: &[&str], code: i32, expected: &str| {
            let output = crew.knarr(arguments);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
            assert!(said.contains(expected), "{arguments:?}: {said}");
        };
        check(
            &["build", "missing"],
            1, // as with Docker
            "unable to prepare context: path \"missing\" not found",
        );
        check(
            &["serve", "--kubelet-config", "missing"],
            2,
            "--kubelet-config missing: No such file",
        );
        check(
            &[
                "serve",
                "--audit-log-path=-",
                "--audit-policy-file",
                "missing",
            ],
            2,
            "--audit-policy-file missing: No such file",
        );
        // a file of somebody's is not taken for a socket that was left behind
        let kept = crew.dir().join("kept");
        check(
            &["serve", "--docker-socket", kept.to_str().unwrap()],
            3,
            "a file is there: choose another place",
        );
        assert_eq!(std::fs::read(kept).unwrap(), b"mine");
    });
}

#[test]
fn a_full_disk() {
    crew(|crew| {
        std::fs::create_dir_all(&crew.data).unwrap();
        let data = crew.data.display();
        shell(&format!("mount -t tmpfs -o size=100m tmpfs {data}"));
        let fill = || {
            shell(&format!(
                "dd if=/dev/zero of={data}/filler bs=64k 2>/dev/null; true"
            ))
        };
        crew.busybox();
        crew.file("app/compose.yaml", PUBLISHED);
        fill();
        let output = crew.knarr(&["up", "app"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(
            said.contains("is full") && said.contains("free some space"),
            "{said}"
        );
        std::fs::remove_file(crew.data.join("filler")).unwrap();

        crew.serve();
        crew.file("big", &"x".repeat(900_000));
        fill();
        // Until what the store has set aside is used up.
        let mut written = Vec::new();
        let said = loop {
            let name = format!("big{}", written.len());
            let output = crew.kubectl(&["create", "configmap", &name, "--from-file=big"]);
            if !output.status.success() {
                break text(&output);
            }
            written.push(name);
            assert!(written.len() < 200, "it is full, and takes writes");
        };
        assert!(
            said.contains("no space left") && said.contains("free some space"),
            "{said}"
        );
        let there = contents(crew);
        for name in written {
            let line = format!("configmap/{name}");
            assert!(there.lines().any(|l| l == line), "{name} is lost: {there}");
        }
        check(
            crew,
            "an app on a full disk",
            &["up", "app"],
            3,
            &["is full", "free some space"],
        );
        std::fs::remove_file(crew.data.join("filler")).unwrap();
        eventually("writes go on when there is room again", || {
            let output = crew.kubectl(&["create", "configmap", "small", "--from-literal=a=b"]);
            match output.status.success() {
                true => Ok(()),
                false => Err(text(&output)),
            }
        });
    });
}
