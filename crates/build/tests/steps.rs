//! What instructions do, seen in the image that comes out and in what commands see.

mod common;

use common::{BASE, World};
use knarr_build::Outcome;
use serde_json::json;

/// (name, Dockerfile, context, (file of the image, its text)…)
type Case<'a> = (
    &'a str,
    String,
    &'a [(&'a str, &'a str)],
    &'a [(&'a str, &'a str)],
);

#[tokio::test(flavor = "multi_thread")]
async fn files_are_as_the_steps_make_them() {
    let world = World::new();
    let cases: Vec<Case> = vec![
        (
            "run in shell form",
            format!("FROM {BASE}\nRUN echo $FROM_BASE > /a"),
            &[],
            &[("/a", "yes\n")],
        ),
        (
            "run in exec form",
            format!("FROM {BASE}\nRUN [\"/bin/sh\", \"-c\", \"echo $0 > /a\", \"x\"]"),
            &[],
            &[("/a", "x\n")],
        ),
        (
            "shell",
            format!("FROM {BASE}\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $- > /a"),
            &[],
            &[("/a", "ce\n")],
        ),
        (
            "copy",
            format!("FROM {BASE}\nCOPY a /x/\nRUN cat /x/a > /b"),
            &[("a", "1\n")],
            &[("/x/a", "1\n"), ("/b", "1\n")],
        ),
        (
            "copy from a stage",
            format!("FROM {BASE} AS one\nRUN echo 1 > /a\nFROM scratch\nCOPY --from=one /a /b"),
            &[],
            &[("/b", "1\n")],
        ),
        (
            "copy from an image",
            format!("FROM scratch\nCOPY --from={BASE} /etc/group /g"),
            &[],
            &[("/g", "root:x:0:root\nweb:x:34:\nlog:x:4:web\n")],
        ),
        (
            "copy --link",
            format!("FROM {BASE}\nCOPY --link a /x/a\nRUN cat /x/a /etc/passwd > /b"),
            &[("a", "1\n")],
            &[("/x/a", "1\n")],
        ),
        (
            "workdir and env",
            format!("FROM {BASE}\nENV D=sub\nWORKDIR /x/$D\nWORKDIR y\nRUN pwd > a"),
            &[],
            &[("/x/sub/y/a", "/x/sub/y\n")],
        ),
        (
            "args",
            format!("ARG G=g\nFROM {BASE}\nARG A=1\nARG G\nRUN echo $A $G $B> /a"),
            &[],
            &[("/a", "1 g\n")],
        ),
        (
            "user",
            format!(
                "FROM {BASE}\nRUN chmod 777 /tmp\nUSER web\nRUN id -u > /tmp/a; id -g >> /tmp/a; id -G >> /tmp/a; echo $HOME >> /tmp/a"
            ),
            &[],
            &[("/tmp/a", "33\n34\n34 4\n/var/www\n")],
        ),
        (
            "a folder of the user's",
            format!("FROM {BASE}\nUSER web\nWORKDIR /w\nRUN stat -c %u:%g:%a /w > /w/a"),
            &[],
            &[("/w/a", "33:34:755\n")],
        ),
        (
            "heredocs",
            format!(
                "FROM {BASE}\nRUN <<E\necho 1 > /a\necho 2 >> /a\nE\nCOPY <<F /f\n$FROM_BASE\nF\nRUN <<S\n#!/bin/sh\necho $0 > /s\nS\nRUN cat <<X > /x\nhere\nX"
            ),
            &[],
            &[
                ("/a", "1\n2\n"),
                ("/f", "yes\n"),
                ("/s", "/dev/pipes/S\n"),
                ("/x", "here\n"),
            ],
        ),
        (
            "whiteouts",
            format!(
                "FROM {BASE}\nRUN mkdir /d; echo 1 > /d/a; echo 2 > /d/b\nRUN rm /d/a\nRUN ls /d > /l"
            ),
            &[],
            &[("/l", "b\n")],
        ),
        (
            "a stage on a stage",
            format!(
                "FROM {BASE} AS one\nARG A=1\nENV B=2\nWORKDIR /w\nFROM one\nRUN echo $A $B > a"
            ),
            &[],
            &[("/w/a", "1 2\n")],
        ),
        (
            "onbuild of a stage",
            format!("FROM {BASE} AS one\nONBUILD RUN echo 1 > /a\nFROM one\nRUN cat /a > /b"),
            &[],
            &[("/b", "1\n")],
        ),
        (
            "hosts and resolv.conf are not the image's",
            format!(
                "FROM {BASE}\nRUN grep -c localhost /etc/hosts > /a; test ! -e /etc/resolv.conf || echo resolv >> /a\nRUN ls /etc > /l"
            ),
            &[],
            &[
                ("/a", "2\nresolv\n"),
                ("/etc/hosts", "-"),
                ("/etc/resolv.conf", "-"),
            ],
        ),
        (
            "bind from the context",
            format!("FROM {BASE}\nRUN --mount=target=/c cat /c/d/a > /a; ls /c >> /a"),
            &[("d/a", "1\n"), ("no", ""), (".dockerignore", "no\n")],
            &[("/a", "1\nd\n")],
        ),
        (
            "bind of one file",
            format!("FROM {BASE}\nRUN --mount=source=d/a,target=/c cat /c > /a"),
            &[("d/a", "1\n")],
            &[("/a", "1\n")],
        ),
        (
            "bind from a stage, written to in vain",
            format!(
                "FROM {BASE} AS one\nRUN mkdir /d; echo 1 > /d/a\nFROM {BASE}\nRUN --mount=from=one,source=/d,target=/c,rw echo 2 > /c/a; cat /c/a > /a\nRUN --mount=from=one,source=/d,target=/c cat /c/a >> /a"
            ),
            &[],
            &[("/a", "2\n1\n")],
        ),
        (
            "cache",
            format!(
                "FROM {BASE}\nRUN --mount=type=cache,target=/c echo 1 >> /c/a\nRUN --mount=type=cache,target=/c echo 2 >> /c/a; cat /c/a > /a"
            ),
            &[],
            &[("/a", "1\n2\n")],
        ),
        (
            "cache with an owner",
            format!(
                "FROM {BASE}\nRUN --mount=type=cache,target=/cc,uid=33,gid=34,mode=0700 stat -c %u:%g:%a /cc > /a"
            ),
            &[],
            &[("/a", "33:34:700\n")],
        ),
        (
            "tmpfs",
            format!(
                "FROM {BASE}\nRUN --mount=type=tmpfs,target=/t,size=1m grep -c ' /t tmpfs' /proc/mounts > /a; echo > /t/x\nRUN ls -A /t >> /a 2>&1 || true"
            ),
            &[],
            &[("/a", "1\nls: /t: No such file or directory\n")],
        ),
        (
            "no network",
            format!("FROM {BASE}\nRUN --network=none ls /sys/class/net > /a"),
            &[],
            &[("/a", "lo\n")],
        ),
        (
            "variables of the platform",
            format!("FROM --platform=$BUILDPLATFORM {BASE}\nARG TARGETOS\nRUN echo $TARGETOS > /a"),
            &[],
            &[("/a", "linux\n")],
        ),
    ];
    for (name, dockerfile, files, wanted) in cases {
        let (built, heard) = world.build(world.request(&dockerfile, files)).await;
        let built = built.unwrap_or_else(|e| panic!("{name}: {}\n{}", e.report(), heard.output()));
        for (path, text) in wanted {
            let text = (*text != "-").then_some(*text);
            assert_eq!(world.file(&built, path).as_deref(), text, "{name}: {path}");
        }
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_is_buildkit_s() {
    let world = World::new();
    let dockerfile = format!(
        "FROM {BASE}\nMAINTAINER me\nARG A=1\nENV X=1 Y=\"a b\"\nLABEL l=1\nEXPOSE 80 53/udp\nVOLUME /v /w\nUSER web\nWORKDIR /x\nSHELL [\"/bin/sh\", \"-ec\"]\nCMD echo hi\nENTRYPOINT [\"/bin/sh\"]\nHEALTHCHECK --interval=30s --retries=3 CMD true\nSTOPSIGNAL SIGINT\nONBUILD RUN x\nRUN true\nCOPY --chown=33:34 a /a"
    );
    let (built, _) = world.good(world.request(&dockerfile, &[("a", "1")])).await;
    let config = world.config(&built);
    let wanted = json!({
        "User": "web", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Env": ["PATH=/bin", "FROM_BASE=yes", "X=1", "Y=a b"],
        "Entrypoint": ["/bin/sh"], "Cmd": ["/bin/sh", "-ec", "echo hi"], "Volumes": {"/v": {}, "/w": {}}, "WorkingDir": "/x",
        "Labels": {"l": "1"}, "StopSignal": "SIGINT", "ArgsEscaped": true,
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 30_000_000_000_u64, "Retries": 3},
        "OnBuild": ["RUN x"], "Shell": ["/bin/sh", "-ec"],
    });
    assert_eq!(config["config"], wanted);
    assert_eq!(config["author"], "me");
    let history: Vec<(String, bool)> = config["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|h| h["comment"] == "buildkit.dockerfile.v0")
        .map(|h| {
            (
                h["created_by"].as_str().unwrap().to_owned(),
                h["empty_layer"] == true,
            )
        })
        .collect();
    let wanted = [
        ("MAINTAINER me", true),
        ("ARG A=1", true),
        ("ENV X=1 Y=a b", true),
        ("LABEL l=1", true),
        ("EXPOSE [53/udp 80/tcp]", true),
        ("VOLUME [/v /w]", true),
        ("USER web", true),
        ("WORKDIR /x", false),
        ("SHELL [/bin/sh -ec]", true),
        ("CMD [\"/bin/sh\" \"-ec\" \"echo hi\"]", true),
        ("ENTRYPOINT [\"/bin/sh\"]", true),
        (
            "HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"30s\" \"0s\" \"0s\" \"0s\" '\\x03'}",
            true,
        ),
        ("STOPSIGNAL SIGINT", true),
        ("RUN |1 A=1 /bin/sh -ec true # buildkit", false),
        ("COPY --chown=33:34 a /a # buildkit", false),
    ];
    let wanted: Vec<(String, bool)> = wanted.iter().map(|(t, e)| ((*t).to_owned(), *e)).collect();
    assert_eq!(history, wanted);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_runs_again_only_when_something_has_changed() {
    let world = World::new();
    let dockerfile = format!(
        "FROM {BASE} AS one\nARG A=1\nCOPY a /a\nRUN echo $A > /b\nFROM {BASE}\nCOPY --from=one /b /b\nRUN cat /b"
    );
    let files = [("a", "1"), ("b", "1")];
    let ran = |heard: &common::Heard| {
        let all = heard.ended(&Outcome::Done);
        let steps = all
            .iter()
            .filter(|n| n.starts_with('[') && !n.starts_with("[internal"));
        steps
            .map(|n| n.split("] ").nth(1).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let request = world.request(&dockerfile, &files);
    let (first, heard) = world.good(request.clone()).await;
    assert_eq!(
        ran(&heard),
        [
            "COPY a /a",
            "RUN echo 1 > /b",
            "COPY --from=one /b /b",
            "RUN cat /b"
        ]
    );
    let (again, heard) = world.good(request.clone()).await;
    assert_eq!(ran(&heard), Vec::<String>::new());
    assert_eq!(
        first.image.unwrap().digest,
        again.image.as_ref().unwrap().digest
    );
    // a file that nothing copies
    let knarr_build::Context::Folder(folder) = request.context.clone() else {
        unreachable!()
    };
    common::write(&folder, &[("b", "2")]);
    let (_, heard) = world.good(request.clone()).await;
    assert_eq!(ran(&heard), Vec::<String>::new());
    // one that is copied: what depends on its content runs, what gets the same from it doesn't
    common::write(&folder, &[("a", "2")]);
    let (_, heard) = world.good(request.clone()).await;
    assert_eq!(ran(&heard), ["COPY a /a", "RUN echo 1 > /b"]);
    let mut other = request.clone();
    other.args.insert("A".into(), "2".into());
    let (_, heard) = world.good(other).await;
    assert_eq!(
        ran(&heard),
        ["RUN echo 2 > /b", "COPY --from=one /b /b", "RUN cat /b"]
    );
    let mut anew = request.clone();
    anew.no_cache = knarr_build::NoCache::Stages(vec!["one".into()]);
    let (_, heard) = world.good(anew).await;
    assert_eq!(ran(&heard), ["COPY a /a", "RUN echo 1 > /b"]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_there_twice_counts_once() {
    let world = World::new();
    let files = [("a", "1\n")];
    let twice = format!(
        "FROM {BASE}\nCOPY --link a /x/a\nRUN echo 2 > /x/a\nCOPY --link a /x/a\nRUN cp /x/a /b"
    );
    let mut request = world.request(&twice, &files);
    request.tags = vec!["twice:1".into()];
    let (built, _) = world.good(request).await;
    let config = world.config(&built);
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert!(
        (1..layers.len()).any(|i| layers[..i].contains(&layers[i])),
        "the case shows nothing: {layers:?}"
    );
    assert_eq!(world.file(&built, "/b").unwrap(), "1\n");
    // on top of it, and on its steps, which are links to layers by now
    let on_top = "FROM twice:1\nRUN cat /x/a /b > /c";
    let (built, _) = world.good(world.request(on_top, &[])).await;
    assert_eq!(world.file(&built, "/c").unwrap(), "1\n1\n");
    let more = format!("{twice}\nRUN cat /x/a /b > /c");
    let (built, _) = world.good(world.request(&more, &files)).await;
    assert_eq!(world.file(&built, "/c").unwrap(), "1\n1\n");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_part_of_a_stage_counts_by_its_content() {
    let world = World::new();
    let dockerfile = |other: &str| {
        format!(
            "FROM {BASE} AS a\nRUN mkdir /d; echo 1 > /d/f; echo {other} > /other\nFROM {BASE}\nRUN --mount=type=bind,from=a,source=/d,target=/m cat /m/f > /b"
        )
    };
    world.good(world.request(&dockerfile("x"), &[])).await;
    let (built, _) = world.good(world.request(&dockerfile("y"), &[])).await;
    assert_eq!((built.steps_run, built.steps_cached), (1, 1));
    let missing = dockerfile("x").replace("source=/d", "source=/none");
    let (failed, _) = world.build(world.request(&missing, &[])).await;
    let report = failed.unwrap_err().report();
    assert!(
        report.contains(">>> RUN --mount") && report.contains("/none"),
        "{report}"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_names_of_run() {
    let world = World::new();
    let mut request = world.request(
        &format!("FROM {BASE}\nRUN ulimit -n > /n; cat /etc/hosts >> /n"),
        &[],
    );
    request.ulimits = vec![knarr_runtime::Rlimit {
        name: "nofile".into(),
        soft: Some(77),
        hard: Some(88),
    }];
    request.add_hosts = vec![("me".into(), "host-gateway".into())];
    let named = "BUILDKIT_SANDBOX_HOSTNAME";
    request.args.insert(named.into(), "box".into());
    let (built, _) = world.good(request).await;
    assert_eq!(
        world.file(&built, "n").as_deref(),
        Some(
            "77\n127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tme\n"
        )
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_without_an_end_is_cut_and_the_last_lines_are_told() {
    let world = World::new();
    let long = "x".repeat(1000);
    for (output, all_is_seen) in [
        // more than the log holds: who reads it may be too slow for some of the middle
        ("seq 2000000".to_owned(), false),
        (format!("for i in $(seq 3000); do echo {long}; done"), true),
    ] {
        let dockerfile = format!("FROM {BASE}\nRUN {output}; echo the end; exit 3");
        let (failed, heard) = world.build(world.request(&dockerfile, &[])).await;
        let report = failed.unwrap_err().report();
        assert!(
            report.contains("the end\n") && report.contains("exit code: 3"),
            "{report}"
        );
        let shown = heard.output();
        assert!(shown.len() < 3 << 20, "{}", shown.len());
        let clipped = shown.contains("[output clipped, log limit 2MiB reached]");
        assert!(clipped || !all_is_seen, "{} bytes", shown.len());
    }
    world.close().await;
}
