//! Files to stages.

use knarr_dockerfile::{Base, Command, CommandLine, Dockerfile, Mount, MountKind, Network};

fn read(text: &str) -> Dockerfile {
    Dockerfile::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn first(line: &str) -> Command {
    let file = read(&format!("FROM x\n{line}\n"));
    file.stages[0].instructions[0].command.clone()
}

#[test]
fn stages_know_each_other() {
    let file =
        read("ARG V=1\nFROM a:$V AS Build\nRUN x\nFROM --platform=$TARGETPLATFORM b\nFROM build\n");
    assert_eq!(file.global[0].1.key, "V");
    let names: Vec<&str> = file.stages.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["build", "", ""]);
    assert_eq!(file.base("build", 2), Base::Stage(0));
    assert_eq!(file.base("build", 0), Base::Other("build".into()));
    assert_eq!(file.base("scratch", 2), Base::Scratch);
    assert_eq!(file.from("1", 2), Ok(Base::Stage(1)));
    assert!(
        file.from("2", 2)
            .unwrap_err()
            .contains("invalid stage index 2")
    );
    assert_eq!(file.target(None), Ok(2));
    assert_eq!(file.target(Some("BUILD")), Ok(0));
    assert_eq!(file.target(Some("1")), Ok(1));
    let said = file.target(Some("biuld")).unwrap_err();
    assert!(
        said.contains("\"biuld\" could not be found (did you mean build?)"),
        "{said}"
    );
}

#[test]
fn lines_go_on() {
    let cases = [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a \\\n# a remark\n  b \\ \n\n c", "a   b  c"),
        ("run a\\\\\n", "a\\\\"),
        ("RUN a \\\r\n b\r\n", "a  b"),
        ("RUN a \\", "a"),
    ];
    for (input, want) in cases {
        let Command::Run(run) = first(input) else {
            panic!("{input}");
        };
        assert_eq!(run.line, CommandLine::Shell(want.into()), "{input}");
    }
}

#[test]
fn directives_come_first() {
    let file =
        read("# syntax=docker/dockerfile:1\n# escape=`\n\n# check=skip=all\nFROM x\nRUN a `\nb\n");
    assert_eq!(file.source.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(file.source.check, None, "an empty line ends them");
    assert_eq!(file.stages[0].instructions[0].original, "RUN a b");
    let said = |text| Dockerfile::parse(text).unwrap_err().to_string();
    assert!(said("# escape=x\nFROM x").contains("invalid escape token 'x'"));
    assert!(said("# escape=`\n# escape=`\nFROM x").contains("only one escape parser directive"));
}

#[test]
fn here_documents() {
    let Command::Run(run) = first("RUN <<A cat && <<-'B' cat\none\n$x\nA\n\ttwo\n\tB") else {
        panic!()
    };
    let told: Vec<_> = run
        .heredocs
        .iter()
        .map(|h| (h.name.as_str(), h.expand, h.text()))
        .collect();
    assert_eq!(
        told,
        [
            ("A", true, "one\n$x\n".into()),
            ("B", false, "two\n".into())
        ]
    );
    let Command::Copy(copy) = first("COPY <<a.txt <<\"b.txt\" x /to/\nA\na.txt\nB\nb.txt\n") else {
        panic!()
    };
    assert_eq!(copy.sources.paths, ["x"]);
    assert_eq!(copy.sources.destination, "/to/");
    let names: Vec<&str> = copy
        .sources
        .inline
        .iter()
        .map(|h| h.name.as_str())
        .collect();
    assert_eq!(names, ["a.txt", "b.txt"]);
    let Command::Run(run) = first("RUN [\"a\", \"<<b\"]\n") else {
        panic!()
    };
    assert!(run.heredocs.is_empty());
}

#[test]
fn arguments() {
    let Command::Copy(copy) = first(
        "COPY --from=0 --chown=a:b --chmod=755 --link --parents --exclude=*.o --exclude=x [\"a b\", \"c\"]",
    ) else {
        panic!()
    };
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref()),
        (Some("0"), Some("a:b"))
    );
    assert_eq!(
        (copy.link, copy.parents, copy.exclude.len()),
        (true, true, 2)
    );
    assert_eq!(copy.sources.paths, ["a b"]);
    let Command::Env(env) = first("ENV a=1 b='2 3' c=\"4\\\"\"") else {
        panic!()
    };
    let told: Vec<_> = env
        .iter()
        .map(|p| (p.key.as_str(), p.value.as_str()))
        .collect();
    assert_eq!(told, [("a", "1"), ("b", "'2 3'"), ("c", "\"4\\\"\"")]);
    let Command::Env(env) = first("ENV a one two") else {
        panic!()
    };
    assert_eq!((env[0].value.as_str(), env[0].legacy), ("one two", true));
    let Command::Health(health) = first("HEALTHCHECK --interval=1m30s --retries=2 CMD curl x")
    else {
        panic!()
    };
    assert_eq!((health.interval_ms, health.retries), (90_000, 2));
    assert_eq!(health.test, ["CMD-SHELL", "curl x"]);
    let Command::Run(run) = first("RUN --network=none --mount=type=cache,target=/c,id=$x make")
    else {
        panic!()
    };
    assert_eq!(run.network, Network::None);
    let mounts = run.mounts(&mut |v| Ok(v.replace("$x", "y"))).unwrap();
    assert_eq!(
        (mounts[0].kind, mounts[0].id.as_str(), mounts[0].read_only),
        (MountKind::Cache, "y", false)
    );
    assert_eq!(first("ONBUILD RUN a b"), Command::Onbuild("RUN a b".into()));
    assert_eq!(first("CMD []"), Command::Cmd(CommandLine::Exec(vec![])));
    assert_eq!(
        first("VOLUME /a /b"),
        Command::Volume(vec!["/a".into(), "/b".into()])
    );
}

#[test]
fn mounts() {
    let parse = |text: &str| Mount::parse(text, &mut |v| Ok(v.to_owned()));
    let tmpfs = parse("type=tmpfs,target=/t,size=1.5m").unwrap();
    assert_eq!(tmpfs.size, 1536 * 1024);
    let secret = parse("type=secret,id=a,required,mode=0400,uid=5,env").unwrap_err();
    assert!(secret.contains("invalid field 'env'"), "{secret}");
    assert!(parse("type=bind,\"source=a,b\",dst=/x").unwrap().source == "a,b");
    let cases = [
        (
            "type=chache,target=/x",
            "unsupported mount type \"chache\" (did you mean cache?)",
        ),
        (
            "type=bind,tarket=/x",
            "unexpected key 'tarket' in 'tarket=/x' (did you mean target?)",
        ),
        (
            "type=bind,target=/x,mode=7",
            "mode not allowed for \"bind\" type mounts",
        ),
        (
            "type=bind,target=/x,size=7",
            "unexpected key 'size' for mount type 'bind'",
        ),
        ("type=secret", "one of source, target required"),
        (
            "type=tmpfs,target=/x,sharing=locked",
            "invalid cache sharing set",
        ),
        (
            "type=bind,from=$x,target=/x",
            "'from' doesn't support variable expansion",
        ),
        ("\"type=bind", "a quote is not closed"),
    ];
    for (text, want) in cases {
        let said = parse(text).unwrap_err();
        assert!(said.contains(want), "{text}: {said}");
    }
}

#[test]
fn mistakes_name_their_line() {
    let cases = [
        ("", 1, "file with no instructions"),
        ("# only\n", 1, "file with no instructions"),
        ("ARG a\n", 1, "no stages to build"),
        ("RUN a\n", 1, "no build stage in current context"),
        (
            "FROM a\n\nRUM b\n",
            3,
            "unknown instruction: RUM (did you mean RUN?)",
        ),
        (
            "FROM a b\n",
            1,
            "FROM requires either one or three arguments",
        ),
        ("FROM a AS 1b\n", 1, "invalid name for build stage: \"1b\""),
        (
            "FROM a\nCOPY x\n",
            2,
            "COPY requires at least two arguments",
        ),
        (
            "FROM a\nCOPY --form=b x y\n",
            2,
            "unknown flag: --form (did you mean from?)",
        ),
        (
            "FROM a\nCOPY --chown x y\n",
            2,
            "missing a value on flag: --chown",
        ),
        (
            "FROM a\nCOPY --link=2 x y\n",
            2,
            "expecting boolean value for flag --link",
        ),
        (
            "FROM a\nCOPY --chown=a --chown=b x y\n",
            2,
            "duplicate flag specified: --chown",
        ),
        (
            "FROM a\nCOPY x <<y\ny\n",
            2,
            "COPY cannot accept a heredoc as a destination",
        ),
        ("FROM a\nRUN <<y\nz\n", 2, "unterminated heredoc"),
        (
            "FROM a\nRUN --device=vendor.com/class=one b\n",
            2,
            "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
        ),
        ("FROM a\nENV x\n", 2, "ENV must have two arguments"),
        ("FROM a\nENV x=1 y\n", 2, "can't find = in \"y\""),
        ("FROM a\nENV =1\n", 2, "ENV names can not be blank"),
        (
            "FROM a\nCMD [1]\n",
            2,
            "arrays must be comprised of strings only",
        ),
        (
            "FROM a\nSHELL sh\n",
            2,
            "SHELL requires the arguments to be in JSON form",
        ),
        (
            "FROM a\nHEALTHCHECK CURL\n",
            2,
            "Unknown type \"CURL\" in HEALTHCHECK (try CMD)",
        ),
        (
            "FROM a\nHEALTHCHECK CMD\n",
            2,
            "Missing command after HEALTHCHECK CMD",
        ),
        (
            "FROM a\nHEALTHCHECK --retries=-1 CMD a\n",
            2,
            "--retries cannot be negative",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=5 CMD a\n",
            2,
            "missing unit in duration \"5\"",
        ),
        ("FROM a\nONBUILD ONBUILD RUN a\n", 2, "Chaining ONBUILD"),
        (
            "FROM a\nONBUILD FROM a\n",
            2,
            "FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM a\nRUN --network=hots a\n",
            2,
            "invalid network mode \"hots\"",
        ),
        (
            "FROM a\nWORKDIR\n",
            2,
            "WORKDIR requires exactly one argument",
        ),
    ];
    for (text, line, want) in cases {
        let e = Dockerfile::parse(text).unwrap_err();
        assert_eq!(e.line, line, "{text}: {e}");
        assert!(e.why.contains(want), "{text}: {e}");
    }
}
