//! What a Docker user's fingers type: short verbs, volumes without names, namespaces of other containers, lists.

use crate::crew::{Crew, crew, text};

/// What a container of its own, removed at its end, says.
fn said(crew: &Crew, arguments: &[&str]) -> String {
    text(&crew.knarr(&[&["run", "--rm"], arguments].concat()))
}

#[test]
fn volumes_without_names_go_with_their_container() {
    crew(|crew| {
        crew.busybox();
        let write = "echo a > /a/f; echo b > /b/f; cat /a/f /b/f";
        let own = [
            "-v",
            "/a",
            "--mount",
            "dst=/b",
            "busybox:1",
            "sh",
            "-c",
            write,
        ];
        assert_eq!(said(crew, &own), "a\nb\n");
        assert_eq!(crew.ok(&["volume", "ls", "-q"]), "");
        crew.ok(&[
            "create",
            "-v",
            "/a",
            "--name",
            "one",
            "busybox:1",
            "sh",
            "-c",
            "echo a > /a/f",
        ]);
        assert_eq!(crew.ok(&["start", "-a", "one"]), "");
        let lent = [
            "--volumes-from",
            "one:ro",
            "busybox:1",
            "sh",
            "-c",
            "cat /a/f; ! touch /a/g",
        ];
        let told = said(crew, &lent);
        assert!(
            told.starts_with("a\n") && told.contains("Read-only"),
            "{told}"
        );
        assert_eq!(crew.ok(&["volume", "ls", "-q"]).lines().count(), 1);
        crew.ok(&["rm", "-v", "one"]);
        assert_eq!(crew.ok(&["volume", "ls", "-q"]), "");

        crew.ok(&["volume", "create", "--label", "a=b", "data"]);
        crew.ok(&["volume", "create", "other"]);
        assert_eq!(crew.ok(&["volume", "ls", "-qf", "label=a=b"]), "data\n");
        let into = [
            "-v",
            "data:/d",
            "busybox:1",
            "sh",
            "-c",
            "mkdir /d/x; echo x > /d/x/f",
        ];
        assert_eq!(said(crew, &into), "");
        let part = "type=volume,src=data,dst=/x,volume-subpath=x";
        assert_eq!(
            said(crew, &["--mount", part, "busybox:1", "cat", "/x/f"]),
            "x\n"
        );
        crew.ok(&["volume", "rm", "data", "other"]);
    });
}

#[test]
fn namespaces_of_another_container() {
    crew(|crew| {
        crew.busybox();
        let page = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w";
        crew.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "-h",
            "its-name",
            "busybox:1",
            "sh",
            "-c",
            page,
        ]);
        let look = "until wget -qO- http://127.0.0.1/; do sleep 0.1; done; hostname; grep -c its-name /etc/hosts";
        let got = crew.knarr(&[
            "run",
            "--rm",
            "--network",
            "container:web",
            "busybox:1",
            "sh",
            "-c",
            look,
        ]);
        assert_eq!(
            String::from_utf8_lossy(&got.stdout),
            "page\nits-name\n1\n",
            "{}",
            text(&got)
        );
        let look = "grep -l httpd /proc/[0-9]*/comm | wc -l; tr '\\0' ' ' < /proc/1/cmdline";
        let told = said(
            crew,
            &["--pid", "container:web", "busybox:1", "sh", "-c", look],
        );
        assert_eq!(told, "1\nhttpd -f -p 80 -h /w ");
        crew.ok(&["restart", "-t", "0", "web"]);
        crew.ok(&["container", "stop", "-t", "0", "web"]);
        for kind in ["--network", "--pid"] {
            let refused = crew.knarr(&["run", "--rm", kind, "container:web", "busybox:1", "true"]);
            assert_eq!(
                refused.status.code(),
                Some(125),
                "{kind}: {}",
                text(&refused)
            );
            assert!(
                text(&refused).contains("is not running"),
                "{kind}: {}",
                text(&refused)
            );
        }
        let both = crew.knarr(&[
            "run",
            "--network",
            "container:web",
            "-p",
            "80",
            "busybox:1",
            "true",
        ]);
        assert!(
            text(&both).contains("conflicting options: port publishing"),
            "{}",
            text(&both)
        );
        crew.ok(&["rm", "web"]);
    });
}

#[test]
fn lists_streams_and_short_verbs() {
    crew(|crew| {
        crew.busybox();
        crew.ok(&["tag", "busybox:1", "local/box:2"]);
        let list = crew.ok(&[
            "images",
            "--format",
            "{{.Repository}}:{{.Tag}}",
            "local/box",
        ]);
        assert_eq!(list, "local/box:2\n");
        assert!(crew.ok(&["images"]).starts_with("REPOSITORY "));
        assert!(crew.ok(&["history", "local/box:2"]).starts_with("IMAGE "));
        assert_eq!(crew.ok(&["rmi", "local/box:2"]), "Untagged: local/box:2\n");

        let words = "echo out; echo err >&2";
        for (streams, wanted) in [
            (&["-a", "stdout"][..], "out\n"),
            (&["-a", "stderr"], "err\n"),
        ] {
            let line = [
                streams,
                &["--sig-proxy=false", "busybox:1", "sh", "-c", words],
            ]
            .concat();
            assert_eq!(said(crew, &line), wanted, "{streams:?}");
        }
        let quiet = [
            "run",
            "--name",
            "quiet",
            "--log-driver",
            "none",
            "busybox:1",
            "echo",
            "hi",
        ];
        assert_eq!(crew.ok(&quiet), "hi\n");
        let logs = crew.knarr(&["logs", "quiet"]);
        assert!(
            text(&logs).contains("does not support reading"),
            "{}",
            text(&logs)
        );
        crew.ok(&["run", "--name", "five", "busybox:1", "echo", "early"]);
        let ended = crew.ok(&[
            "ps",
            "-aq",
            "--no-trunc",
            "-f",
            "status=exited",
            "-f",
            "name=^five$",
        ]);
        assert_eq!(crew.ok(&["inspect", "-f", "{{.Id}}", "five"]), ended);
        assert_eq!(
            crew.ok(&["ps", "-lf", "name=quiet", "--format", "{{.Names}}"]),
            "quiet\n"
        );
        assert_eq!(crew.ok(&["logs", "--until", "2000-01-01", "five"]), "");
        let unknown = crew.knarr(&["exec", "nobody", "true"]);
        assert_eq!(unknown.status.code(), Some(1), "{}", text(&unknown));
        assert!(text(&unknown).contains("No such container: nobody"));
        assert_eq!(crew.ok(&["stop", "-t", "1", "five"]), "five\n");
        let gone = crew.knarr(&["rm", "-f", "five", "quiet", "nobody"]);
        assert_eq!(gone.status.code(), Some(0), "{}", text(&gone));
    });
}
