//! What a request asks for beside the Dockerfile, and what is told when it can't be.

mod common;

use common::{BASE, World};
use knarr_build::{Entitlement, NamedContext, Output, OutputKind, Secret};
use knarr_dockerfile::Network;
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_with_their_place() {
    let world = World::new();
    let cases = [
        (
            "a command",
            format!("FROM {BASE}\nENV A=1\nRUN echo said; exit 3\nCMD x"),
            "------\n > [2/2] RUN echo said; exit 3:\nsaid\n------\nDockerfile:3\n--------------------\n   1 |     FROM busybox:1\n   2 |     ENV A=1\n   3 | >>> RUN echo said; exit 3\n   4 |     CMD x\n--------------------\nERROR: failed to build: process \"/bin/sh -c echo said; exit 3\" did not complete successfully: exit code: 3",
        ),
        (
            "a missing file",
            format!("FROM {BASE}\nCOPY no /"),
            "\"/no\": not found",
        ),
        (
            "a missing image",
            "FROM nowhere:1".into(),
            "docker.io/library/nowhere:1 is not on this machine",
        ),
        (
            "a missing program",
            format!("FROM {BASE}\nRUN [\"/no\"]"),
            "process \"/no\" did not complete successfully: exec: \"/no\"",
        ),
        (
            "an unknown user",
            format!("FROM {BASE}\nUSER no\nRUN true"),
            "unable to find user no: no matching entries in passwd file",
        ),
        (
            "a mistake",
            format!("FROM {BASE}\nRUM x"),
            "unknown instruction: RUM",
        ),
        (
            "an unknown target",
            format!("FROM {BASE} AS one\nCOPY --from=9 a /"),
            "invalid stage index 9",
        ),
        (
            "a secret",
            format!("FROM {BASE}\nRUN --mount=type=secret,id=s,required true"),
            "secret s: not found",
        ),
        (
            "an entitlement",
            format!("FROM {BASE}\nRUN --security=insecure true"),
            "security.insecure is not allowed",
        ),
        (
            "a network",
            format!("FROM {BASE}\nRUN --network=host true"),
            "network.host is not allowed",
        ),
        (
            "a signal",
            format!("FROM {BASE}\nSTOPSIGNAL SIGNONE"),
            "invalid signal: SIGNONE",
        ),
        (
            "a check that stops",
            format!("# check=error=true\nFROM {BASE}\nCMD x"),
            "lint violation found for rules: JSONArgsRecommended",
        ),
        (
            "a source of a mount",
            format!("FROM {BASE}\nRUN --mount=source=no,target=/x true"),
            "\"/no\": not found",
        ),
    ];
    for (name, dockerfile, wanted) in cases {
        let (built, _) = world.build(world.request(&dockerfile, &[])).await;
        let report = built.expect_err(name).report();
        assert!(report.contains(wanted), "{name}: {report}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_agents_are_lent_and_never_kept() {
    let world = World::new();
    let dockerfile = format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E --mount=type=secret,id=f,target=/x/f,uid=33,mode=0440 \\\n cat /run/secrets/s > /a; echo $E >> /a; stat -c %u:%g:%a /x/f >> /a; grep -c '/run/secrets/s tmpfs' /proc/mounts >> /a\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK; stat -c %u:%g:%a $SSH_AUTH_SOCK > /b; echo $SSH_AUTH_SOCK >> /b\nRUN ls -A /run /x > /c 2>&1 || true"
    );
    let socket = world.dir.path().join("agent");
    let _agent = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut request = world.request(&dockerfile, &[]);
    request
        .secrets
        .insert("s".into(), Secret::Bytes(b"one\n".to_vec()));
    request
        .secrets
        .insert("e".into(), Secret::Bytes(b"two".to_vec()));
    request
        .secrets
        .insert("f".into(), Secret::Bytes(b"three".to_vec()));
    request.ssh.insert("default".into(), socket);
    let (built, _) = world.good(request).await;
    assert_eq!(
        world.file(&built, "a").as_deref(),
        Some("one\ntwo\n33:0:440\n1\n")
    );
    assert_eq!(
        world.file(&built, "b").as_deref(),
        Some("0:0:600\n/run/buildkit/ssh_agent.0\n")
    );
    let left = world.file(&built, "c").unwrap();
    assert!(
        !left.contains("secrets") && left.contains("/x: No such file"),
        "{left}"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_done() {
    let world = World::new();
    let dockerfile = format!(
        "FROM {BASE}\nRUN --security=insecure grep CapEff /proc/self/status > /a\nRUN grep CapEff /proc/self/status > /b"
    );
    let mut request = world.request(&dockerfile, &[]);
    request.allow.insert(Entitlement::SecurityInsecure);
    let (built, _) = world.good(request).await;
    let caps = |path: &str| {
        let text = world.file(&built, path).unwrap();
        u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap()
    };
    // SOURCE: what Docker's default comes to
    assert_eq!(caps("b"), 0xa804_25fb);
    assert_eq!(caps("a") & (1 << 21), 1 << 21, "CAP_SYS_ADMIN");
    let mut request = world.request(
        &format!("FROM {BASE}\nRUN ls /sys/class/net > /a; grep one /etc/hosts > /b"),
        &[],
    );
    request.network = Network::None;
    request.add_hosts.push(("one".into(), "10.0.0.1".into()));
    request.shm_size = 1 << 20;
    let (built, _) = world.good(request).await;
    assert_eq!(world.file(&built, "a").as_deref(), Some("lo\n"));
    assert_eq!(world.file(&built, "b").as_deref(), Some("10.0.0.1\tone\n"));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_contexts_take_the_place_of_what_they_name() {
    let world = World::new();
    let folder = world.context(&[
        ("f", "from the folder\n"),
        ("no", ""),
        (".dockerignore", "no\n"),
    ]);
    let cases = [
        (
            "a folder",
            format!("FROM {BASE}\nCOPY --from=one / /x/\nRUN cat /x/f > /a; ls /x >> /a"),
            "one",
            NamedContext::Folder(folder.clone()),
            "from the folder\nf\n",
        ),
        (
            "an image",
            "FROM alpine\nRUN cat /etc/group > /a".to_owned(),
            "alpine",
            NamedContext::Image(BASE.into()),
            "root:x:0:root\nweb:x:34:\nlog:x:4:web\n",
        ),
        (
            "a stage",
            format!("FROM scratch AS one\nCOPY no /\nFROM {BASE}\nCOPY --from=one /f /a"),
            "one",
            NamedContext::Folder(folder.clone()),
            "from the folder\n",
        ),
        (
            "a folder as the base",
            "FROM one\nCOPY --from=one f /a".to_owned(),
            "one",
            NamedContext::Folder(folder.clone()),
            "from the folder\n",
        ),
        (
            "another stage",
            format!("FROM {BASE} AS one\nRUN echo 1 > /x\nFROM {BASE}\nCOPY --from=two /x /a"),
            "two",
            NamedContext::Stage("one".into()),
            "1\n",
        ),
    ];
    for (name, dockerfile, context, named, wanted) in cases {
        let mut request = world.request(&dockerfile, &[]);
        request.contexts.insert(context.into(), named);
        let (built, heard) = world.build(request).await;
        let built = built.unwrap_or_else(|e| panic!("{name}: {}\n{}", e.report(), heard.output()));
        assert_eq!(world.file(&built, "a").as_deref(), Some(wanted), "{name}");
        // each layer has its entry
        let config = world.config(&built);
        let history = config["history"].as_array().unwrap().iter();
        let layers = history.filter(|entry| entry["empty_layer"] != true).count();
        let ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(layers, ids.len(), "{name}: {config}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs() {
    let world = World::new();
    let dockerfile = "FROM scratch\nCOPY b /d/b\nCOPY --chown=33:34 --chmod=640 a /d/a";
    let out = world.context(&[]);
    let null = rustix::fs::makedev(1, 3);
    let (kind, mode) = (
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
    );
    rustix::fs::mknodat(rustix::fs::CWD, out.join("device"), kind, mode, null).unwrap();
    for (kind, name) in [
        (OutputKind::Local, "local"),
        (OutputKind::Tar, "x.tar"),
        (OutputKind::Oci, "oci.tar"),
        (OutputKind::Docker, "docker.tar"),
        (OutputKind::Tar, "device"),
        (OutputKind::Docker, "device"),
    ] {
        let mut request = world.request(dockerfile, &[("a", "1"), ("b", "2")]);
        request.not_stored = true;
        request.outputs.push(Output {
            kind,
            destination: out.join(name),
            ..Output::default()
        });
        world.good(request).await;
    }
    // what is no file is written into, and stays
    let device = fs::metadata(out.join("device")).unwrap();
    assert!(device.file_type().is_char_device());
    let file = fs::metadata(out.join("local/d/a")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid()),
        (0o640, 33, 34)
    );
    let mut archive = tar::Archive::new(fs::File::open(out.join("x.tar")).unwrap());
    let entry = |e: tar::Entry<'_, fs::File>| {
        let owner = (
            e.header().uid().unwrap(),
            e.header().mode().unwrap() & 0o7777,
        );
        (e.path().unwrap().display().to_string(), owner)
    };
    let mut names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|e| entry(e.unwrap()))
        .collect();
    names.sort();
    let wanted = [("d", (0, 0o755)), ("d/a", (33, 0o640)), ("d/b", (0, 0o644))];
    let wanted = wanted.map(|(path, of)| (path.to_owned(), of));
    let names: Vec<_> = names
        .into_iter()
        .map(|(p, of)| (p.trim_end_matches('/').to_owned(), of))
        .collect();
    assert_eq!(names, wanted);
    for archive in ["oci.tar", "docker.tar"] {
        let loaded = world
            .images
            .load(&out.join(archive), Some("loaded:1"))
            .unwrap();
        let layers = loaded[0].layers.iter();
        let texts: Vec<String> = layers
            .filter_map(|l| fs::read_to_string(l.join("d/b")).ok())
            .collect();
        assert_eq!(texts, ["2"], "{archive}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_makes_the_same_image_twice() {
    let dockerfile = format!("FROM {BASE}\nCOPY a /a\nWORKDIR /w\nRUN echo 1 > /b; mkdir /d");
    let mut digests = vec![];
    for _ in 0..2 {
        let world = World::new();
        let mut request = world.request(&dockerfile, &[("a", "1")]);
        request.source_date_epoch = Some(1_000_000_000);
        let (built, _) = world.good(request).await;
        assert_eq!(world.config(&built)["created"], "2001-09-09T01:46:40Z");
        digests.push(built.image.unwrap().digest);
        world.close().await;
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_platforms() {
    let world = World::new();
    let mut request = world.request(
        "FROM scratch\nARG TARGETPLATFORM\nLABEL p=$TARGETPLATFORM q=1",
        &[],
    );
    request.platforms = vec![knarr_dockerfile::Platform::parse("linux/arm64").unwrap()];
    request.labels.insert("q".into(), "2".into());
    request.tags = vec!["one:1".into(), "two:2".into()];
    let (built, _) = world.good(request).await;
    let config = world.config(&built);
    assert_eq!(config["architecture"], "arm64");
    assert_eq!(
        config["config"]["Labels"],
        serde_json::json!({"p": "linux/arm64", "q": "2"})
    );
    let ids: Vec<String> = ["one:1", "two:2"]
        .iter()
        .map(|name| world.images.resolve(name).unwrap().unwrap().id)
        .collect();
    assert_eq!(ids[0], ids[1]);
    world.close().await;
}
