//! The build checks, the ignore file, the scopes of variables.

use knarr_dockerfile::{Build, Checks, Dockerfile, Ignore, Platform, Scope};

type Image<'a> = &'a dyn Fn(&str) -> Option<Vec<String>>;

/// Of a build that needs all stages.
fn check(
    file: &Dockerfile,
    build: &Build,
    ignore: Option<&Ignore>,
    image: Image<'_>,
) -> Result<Checks, knarr_dockerfile::Error> {
    let all = (0..file.stages.len()).collect();
    knarr_dockerfile::check(file, build, &all, ignore, image)
}

/// Lines and rules of what is found.
fn found(text: &str, ignore: Option<&str>) -> Vec<String> {
    let file = Dockerfile::parse(text).unwrap();
    let ignore = ignore.map(|i| Ignore::parse(i).unwrap());
    let image = |name: &str| (name == "known").then(|| vec!["GOPATH=/go".to_owned()]);
    check(&file, &Build::default(), ignore.as_ref(), &image)
        .unwrap()
        .found
        .into_iter()
        .map(|c| format!("{} {}", c.line, c.rule))
        .collect()
}

#[test]
fn rules() {
    let cases: [(&str, &[&str]); 29] = [
        ("FROM a\nRUN b\n", &[]),
        ("FROM a as b\n", &["1 FromAsCasing"]),
        ("FROM a AS B\n", &["1 StageNameCasing"]),
        ("FROM a\nRUN \\\n\n b\n", &["4 NoEmptyContinuation"]),
        ("FROM a\nrun b\nRUN c\n", &["2 ConsistentInstructionCasing"]),
        ("FROM a AS b\nFROM a AS b\n", &["2 DuplicateStageName"]),
        ("FROM a AS scratch\n", &["1 ReservedStageName"]),
        ("FROM a\nCMD b\n", &["2 JSONArgsRecommended"]),
        ("FROM a\nSHELL [\"x\"]\nCMD b\n", &[]),
        ("FROM a\nMAINTAINER b\n", &["2 MaintainerDeprecated"]),
        (
            "FROM a:$V\n",
            &["1 InvalidDefaultArgInFrom", "1 UndefinedArgInFrom"],
        ),
        ("ARG V\nFROM a:$V\n", &["2 InvalidDefaultArgInFrom"]),
        ("ARG V=1\nFROM a:$V\n", &[]),
        ("FROM a\nWORKDIR b\nWORKDIR c\n", &["2 WorkdirRelativePath"]),
        ("FROM known\nENV A=/a\nWORKDIR $A/b\nWORKDIR c\n", &[]),
        (
            "FROM known\nWORKDIR $NOPE\n",
            &["2 UndefinedVar", "2 WorkdirRelativePath"],
        ),
        ("FROM known\nARG A=1 B=2 C=\"$A-$B\"\nENV D=$C\n", &[]),
        (
            "FROM known AS a\nONBUILD ARG A=1\nONBUILD ENV B=$A\nFROM a\nENV C=$A$B\n",
            &[],
        ),
        (
            "FROM known\nCOPY <<E <<'F' /\n$NOPE\nE\n$NOPE\nF\n",
            &["2 UndefinedVar"],
        ),
        ("FROM a AS x\nWORKDIR /b\nFROM x\nWORKDIR c\n", &[]),
        (
            "FROM scratch\nARG dir=1\nWORKDIR /$dri\nCOPY $nothing /\n",
            &["3 UndefinedVar", "4 UndefinedVar"],
        ),
        // what an image that is not at hand sets is not known, what one that is sets is
        ("FROM a\nWORKDIR /$GOPATH\n", &[]),
        (
            "FROM known\nWORKDIR /$GOPATH/$GOROOT\n",
            &["2 UndefinedVar"],
        ),
        (
            "FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n",
            &["2 MultipleInstructionsDisallowed"],
        ),
        ("FROM a\nENV b c\n", &["2 LegacyKeyValueFormat"]),
        (
            "FROM --platform=$TARGETPLATFORM a\nFROM --platform=linux/arm64 a\n",
            &[
                "1 RedundantTargetPlatform",
                "2 FromPlatformFlagConstDisallowed",
            ],
        ),
        (
            "FROM a\nARG DB_PASSWORD\nENV KEY_FILE=x TOKEN=y\n",
            &["2 SecretsUsedInArgOrEnv", "3 SecretsUsedInArgOrEnv"],
        ),
        (
            "FROM a\nEXPOSE 80/TCP 127.0.0.1:80:80\n",
            &["2 ExposeInvalidFormat", "2 ExposeProtoCasing"],
        ),
        (
            "# check=experimental=all\n# a remark\n# nothing\nFROM a AS b\n",
            &["4 InvalidDefinitionDescription"],
        ),
    ];
    for (text, want) in cases {
        assert_eq!(found(text, None), want, "{text}");
    }
    assert_eq!(
        found("FROM a\nCOPY ./x/y /\nADD z /\n", Some("x\n")),
        ["2 CopyIgnoredFile"]
    );
    assert!(found("FROM a\nCOPY x/y /\n", Some("x\n!x/y\n")).is_empty());
}

#[test]
fn a_file_says_what_it_wants() {
    let of = |directive: &str| {
        let text = format!("# check={directive}\nFROM a as b\nCMD x\n");
        check(
            &Dockerfile::parse(&text).unwrap(),
            &Build::default(),
            None,
            &|_| None,
        )
    };
    assert_eq!(of("skip=all").unwrap().found.len(), 0);
    assert_eq!(of("skip=FromAsCasing").unwrap().found.len(), 1);
    assert!(of("error=true").unwrap().stop);
    assert!(!of("skip=all;error=true").unwrap().stop);
    assert!(
        of("skip")
            .unwrap_err()
            .to_string()
            .contains("invalid check option")
    );
}

/// Of a stage that nobody needs only how it is written is told, and what can't be expanded in it is no failure.
#[test]
fn stages_that_are_not_needed() {
    let text = "FROM a AS One\nCMD x\nCMD y\nENV A b\nENV B=${none:?x}\nFROM a\nCMD z\n";
    let file = Dockerfile::parse(text).unwrap();
    let needed = [1].into();
    let checks = knarr_dockerfile::check(&file, &Build::default(), &needed, None, &|_| None);
    let found = checks.unwrap().found.into_iter();
    let found: Vec<String> = found.map(|c| format!("{} {}", c.line, c.rule)).collect();
    assert_eq!(found, ["1 StageNameCasing", "7 JSONArgsRecommended"]);
}

#[test]
fn messages_say_what_was_meant() {
    let file = Dockerfile::parse("FROM scratch\nARG name=1\nUSER $nmae\n").unwrap();
    let checks = check(&file, &Build::default(), None, &|_| None).unwrap();
    assert_eq!(
        checks.found[0].message,
        "Usage of undefined variable '$nmae' (did you mean $name?)"
    );
}

#[test]
fn ignore_files() {
    let cases = [
        ("a", "a", true),
        ("a", "a/b/c", true),
        ("a", "b/a", false),
        ("/a/", "a", true),
        ("*.o", "x.o", true),
        ("*.o", "d/x.o", false),
        ("**/*.o", "x.o", true),
        ("**/*.o", "d/e/x.o", true),
        ("a/**", "a/b/c", true),
        ("a/**", "a", false),
        ("a/**/z", "a/z", true),
        ("a/**/z", "a/b/c/z", true),
        ("a?c", "abc", true),
        ("a?c", "a/c", false),
        ("[a-c]x", "bx", true),
        ("[^a-c]x", "bx", false),
        (r"a\*", "a*", true),
        (r"a\*", "ab", false),
        ("*\n!keep", "keep", false),
        ("*\n!keep", "keep/x", false),
        ("*\n!keep\nkeep/x", "keep/x", true),
        ("!a\na", "a", true),
        ("# a\n\n  b  \n", "b", true),
        ("# a", "# a", false),
        ("./a/../b", "b", true),
    ];
    for (text, path, want) in cases {
        assert_eq!(
            Ignore::parse(text).unwrap().leaves_out(path),
            want,
            "{text:?} {path}"
        );
    }
    let ignore = Ignore::parse("node_modules\n!node_modules/keep/x\n").unwrap();
    assert!(ignore.may_keep_below("node_modules") && ignore.may_keep_below("node_modules/keep"));
    assert!(!ignore.may_keep_below("node_modules/other"));
    for (text, line) in [("!", 1), ("a\n[b", 2), ("a\\", 1)] {
        assert_eq!(Ignore::parse(text).unwrap_err().line, line, "{text:?}");
    }
}

#[test]
fn patterns_take_no_longer_than_they_are() {
    let pattern = "*a".repeat(2000);
    let path = "a".repeat(4000);
    assert!(Ignore::parse(&pattern).unwrap().leaves_out(&path));
}

#[test]
fn scopes() {
    let file = Dockerfile::parse(
        "ARG A=1\nARG B=$A-2\nARG C\nFROM x\nARG A\nARG B=own\nARG D=$B\nENV E=$D E2=$E\n",
    )
    .unwrap();
    let mut build = Build::default();
    build.args.insert("C".into(), "said".into());
    let global = Scope::global(&file, &build).unwrap();
    assert_eq!(
        global.expand("$A $B $C", file.escape).unwrap().text,
        "1 1-2 said"
    );
    let mut scope = Scope::of_image(&["PATH=/bin".into(), "E=old".into()]);
    for i in &file.stages[0].instructions {
        match &i.command {
            knarr_dockerfile::Command::Arg(all) => {
                for arg in all {
                    scope.arg(arg, &global, &build, file.escape).unwrap();
                }
            }
            knarr_dockerfile::Command::Env(pairs) => {
                scope.env(pairs, file.escape).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(scope.image_env(), ["PATH=/bin", "E=own", "E2=old"]);
    assert_eq!(scope.expand("$A $C", file.escape).unwrap().text, "1 ");
}

#[test]
fn platforms() {
    let cases = [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"),
        ("Linux/AMD64/v3", "linux/amd64/v3"),
    ];
    for (text, want) in cases {
        assert_eq!(Platform::parse(text).unwrap().to_string(), want, "{text}");
    }
    for text in ["", "/", "linux/", "a/b/c/d", "nothing", "linux/a b"] {
        assert!(Platform::parse(text).is_err(), "{text}");
    }
}
