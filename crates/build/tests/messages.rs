//! What is wrong is told in BuildKit's words and at its line: each was seen from BuildKit v0.26 for the same file.

mod common;

use common::World;
use std::os::unix::fs::MetadataExt;

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_as_buildkit_tells_them() {
    let world = World::new();
    let cases: &[(&str, &str, &str)] = &[
        (
            "RUNN x",
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
            "RUNN x",
        ),
        (
            "COPY --foo=1 a /b",
            "dockerfile parse error on line 2: unknown flag: --foo (did you mean from?)",
            "COPY --foo=1 a /b",
        ),
        (
            "COPY --chown a /b",
            "dockerfile parse error on line 2: missing a value on flag: --chown",
            "COPY --chown a /b",
        ),
        (
            "RUN --network=foo true",
            "dockerfile parse error on line 2: invalid network mode \"foo\"",
            "RUN --network=foo true",
        ),
        (
            "HEALTHCHECK --interval=1 CMD x",
            "dockerfile parse error on line 2: time: missing unit in duration \"1\"",
            "HEALTHCHECK --interval=1 CMD x",
        ),
        (
            "SHELL foo bar",
            "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
            "SHELL foo bar",
        ),
        ("ENV A", "ENV must have two arguments", "ENV A"),
        (
            "RUN --mount=type=foo,target=/x true",
            "unsupported mount type \"foo\"",
            "RUN --mount=type=foo,target=/x true",
        ),
        (
            "RUN --mount=from=$S,target=/x true",
            "dockerfile parse error on line 2: 'from' doesn't support variable expansion, define alias stage instead",
            "RUN --mount=from=$S,target=/x true",
        ),
        (
            "USER nope\nRUN id",
            "process \"/bin/sh -c id\" did not complete successfully: unable to find user nope: no matching entries in passwd file",
            "RUN id",
        ),
        (
            "RUN exit 3",
            "process \"/bin/sh -c exit 3\" did not complete successfully: exit code: 3",
            "RUN exit 3",
        ),
        (
            "FROM busybox:1 AS me\nCOPY --from=me /a /b",
            "circular dependency detected on stage: me",
            "COPY --from=me /a /b",
        ),
        (
            "FROM Base:UP:x",
            "failed to parse stage name \"Base:UP:x\": invalid reference format: repository name (library/Base) must be lowercase",
            "FROM Base:UP:x",
        ),
        (
            "FROM --platform=a/b/c/d busybox:1",
            "failed to parse platform a/b/c/d: \"a/b/c/d\": cannot parse platform specifier: invalid argument",
            "FROM --platform=a/b/c/d busybox:1",
        ),
        (
            "RUN --network=host true",
            "entitlement network.host is not allowed",
            "RUN --network=host true",
        ),
        (
            "ARG S=me\nCOPY --from=$S /a /b",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            "COPY --from=$S /a /b",
        ),
        (
            "RUN --mount=type=cache true",
            "invalid mount target \"/\"",
            "RUN --mount=type=cache true",
        ),
        (
            "CMD [\"a\", 1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
            "CMD [\"a\", 1]",
        ),
        ("EXPOSE 9-8", "invalid containerPort: 9-8", "EXPOSE 9-8"),
        (
            "RUN echo > /x\nWORKDIR /x",
            "mkdir /x: not a directory",
            "WORKDIR /x",
        ),
        (
            "ADD --checksum=md5:aa http://127.0.0.1:1/f /x",
            "unsupported digest algorithm",
            "ADD --checksum=md5:aa http://127.0.0.1:1/f /x",
        ),
        (
            "RUN echo > /x\nCOPY d /x/",
            "mkdir /x: not a directory",
            "COPY d /x/",
        ),
    ];
    for (lines, why, line) in cases {
        let request = world.request(&format!("FROM busybox:1\n{lines}\n"), &[("d/a", "1")]);
        let (failed, _) = world.build(request).await;
        let report = failed.unwrap_err().report();
        let last = report.lines().last().unwrap_or_default();
        let last = last.trim_start_matches("ERROR: ");
        let last = last.trim_start_matches("failed to build: ");
        assert!(last.starts_with(why), "{lines}: {report}");
        assert!(report.contains(&format!(">>> {line}")), "{lines}: {report}");
    }
    // a file without a character
    let (failed, _) = world.build(world.request("", &[])).await;
    assert_eq!(
        failed.unwrap_err().to_string(),
        "the Dockerfile cannot be empty"
    );
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_last_line_is_told_before_the_first_command_runs() {
    let world = World::new();
    for (mistake, why) in [
        ("ENV A=${B?gone}", "B: gone"),
        ("COPY a ${B:?where}/x", "B: where"),
        ("WORKDIR \"x", "unexpected end of statement"),
        (
            "RUN --security=insecure true",
            "entitlement security.insecure",
        ),
        ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
        ("EXPOSE x", "invalid containerPort: x"),
        (
            "FROM one AS two\nVOLUME \"\"",
            "VOLUME specified can not be an empty string",
        ),
    ] {
        let text = format!("FROM busybox:1 AS one\nRUN echo ran\n{mistake}\n");
        let (failed, heard) = world.build(world.request(&text, &[("a", "1")])).await;
        let failed = failed.unwrap_err().to_string();
        assert!(failed.contains(why), "{mistake}: {failed}");
        assert_eq!(heard.output(), "", "{mistake}");
    }
    // what a stage gets from the one below it is known
    let text = "FROM busybox:1 AS one\nENV B=/b\nONBUILD ENV C=${B:?}/c\nFROM one\nWORKDIR /w/\nCOPY a ${C:?}/\n";
    let (built, _) = world.good(world.request(text, &[("a", "1")])).await;
    assert_eq!(world.file(&built, "b/c/a").as_deref(), Some("1"));
    assert_eq!(world.config(&built)["config"]["WorkingDir"], "/w/");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_copied() {
    let world = World::new();
    for (text, why) in [
        // in a stage that nobody needs, too
        (
            "FROM scratch AS a\nCOPY --from=$x a /\nFROM scratch\nCOPY a /\n",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        (
            "FROM scratch AS a\nCOPY --from=5 a /\nFROM scratch\nCOPY a /\n",
            "invalid stage index 5",
        ),
        (
            "FROM scratch\nCOPY a[ /\n",
            "invalid includepatterns: [a[]: syntax error in pattern",
        ),
        (
            "FROM scratch\nCOPY --chown=app a /\n",
            "invalid user index: -1",
        ),
        (
            "FROM scratch\nCOPY --link --chown=:app a /\n",
            "invalid user index: -1",
        ),
    ] {
        let (failed, _) = world.build(world.request(text, &[("a", "1")])).await;
        let report = failed.expect_err(text).report();
        let last = report.lines().last().unwrap().trim_start_matches("ERROR: ");
        let last = last.trim_start_matches("failed to build: ");
        assert_eq!(last, why, "{text}");
    }
    // what is left out is not expanded
    let text = "FROM scratch\nARG e=a\nCOPY --exclude=$e . /\n";
    let (built, _) = world.good(world.request(text, &[("a", "1")])).await;
    assert_eq!(world.file(&built, "a").as_deref(), Some("1"));
    // a name is looked up in the image, with --link, too
    let text = "FROM scratch\nCOPY passwd /etc/\nCOPY --link --chown=app a /\n";
    let files = [("a", "1"), ("passwd", "app:x:7:8::/:\n")];
    let (built, _) = world.good(world.request(text, &files)).await;
    let layers = &built.image.as_ref().unwrap().layers;
    let made = layers.iter().find_map(|l| l.join("a").metadata().ok());
    let made = made.unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 8));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_tells_what_else_is_amiss() {
    let world = World::new();
    for text in [
        "FROM busybox:1\nCMD x\nRUN exit 1\n",
        "FROM busybox:1\nCMD x\nUSER $none\nCOPY nothing /\n",
        "# check=error=true\nFROM busybox:1\nCMD x\n",
        "FROM nowhere:1\nCMD x\n",
        "FROM busybox:1\nCMD x\nFROM busybox:1 AS two\nCOPY --from=$x a /\nCMD x\n",
    ] {
        let (failed, heard) = world.build(world.request(text, &[])).await;
        failed.expect_err(text);
        let told = heard.0.lock().unwrap();
        let mut found = told.iter().filter_map(|event| match event {
            knarr_build::Event::Found { checks } => Some(checks),
            _ => None,
        });
        let checks = found.next().unwrap_or_else(|| panic!("{text}: {told:?}"));
        assert_eq!(checks[0].rule, "JSONArgsRecommended", "{text}");
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_know_the_variables_of_a_named_base() {
    let world = World::new();
    let text = "FROM other\nENV A=$FROM_BASE B=$NOWHERE\nWORKDIR $A\n";
    let mut request = world.request(text, &[]);
    let base = knarr_build::NamedContext::Image("busybox:1".into());
    request.contexts.insert("other".into(), base);
    let (built, _) = world.good(request).await;
    let told: Vec<&str> = built.checks.iter().map(|c| c.message.as_str()).collect();
    assert_eq!(
        told,
        [
            "Usage of undefined variable '$NOWHERE'",
            "Relative workdir \"yes\" can have unexpected results if the base image changes",
        ]
    );
    world.close().await;
}
