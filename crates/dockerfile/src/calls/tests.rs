use super::*;
use crate::Build;
use std::collections::BTreeMap;

const FILE: &str = "ARG inherited=box\nARG unused=abc\n# sfx is a suffix\nARG sfx=\"usy${inherited}\"\n\
    FROM b${sfx} AS first\n# nobody's\nARG FOO=123\n# BAR is a number\nARG BAR=456\nRUN --mount=type=secret,id=key,required true\n\
    FROM scratch AS third\nARG ABC=a\n# target defines build target\nFROM third AS target\nCOPY --from=first /a /\n\
    RUN --mount=type=ssh \\\n  true\nFROM first\n";

fn text(answer: Result<Answer>) -> String {
    answer.map_or_else(|e| format!("error: {}", e.said()), |answer| answer.text)
}

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_str(&answer.json).unwrap()
}

#[test]
fn what_a_dockerfile_offers() {
    assert_eq!(
        text(targets(FILE)),
        "TARGET    DESCRIPTION\nfirst     \nthird     \ntarget    defines build target\n(default) \n"
    );
    let build = Build {
        args: BTreeMap::from([("BAR".into(), "678".into())]),
        stage: Some("target".into()),
        ..Build::default()
    };
    assert_eq!(
        text(outline(FILE, &build)),
        "TARGET:      target\nDESCRIPTION: defines build target\n\n\
         BUILD ARG   VALUE    DESCRIPTION\ninherited   box      \nsfx         usybox   is a suffix\nFOO         123      \n\
         BAR         678      is a number\nABC         a        \n\nSECRET   REQUIRED\nkey      true\n\nSSH       REQUIRED\ndefault   \n\n"
    );
}

#[test]
fn programs_get_each_line_of_an_instruction() {
    let build = Build {
        stage: Some("target".into()),
        ..Build::default()
    };
    let answer = outline(FILE, &build).unwrap();
    assert_eq!(
        json(&answer)["ssh"][0]["location"]["ranges"],
        serde_json::json!([{"start": {"line": 16}, "end": {"line": 16}}, {"start": {"line": 17}, "end": {"line": 17}}])
    );
    assert!(
        targets("FROM a<b\n")
            .unwrap()
            .json
            .contains(r#""base": "a\u003cb""#)
    );
}

/// Global arguments count where they are declared again, or a `FROM` is made of them; a name that several stages declare is
/// told once, as the target has it.
#[test]
fn arguments_are_those_that_count() {
    for (name, file, stage, want) in [
        ("unused", "ARG A=1\nFROM x\n", None, ""),
        ("declared again", "ARG A=1\nFROM x\nARG A\n", None, "A=1@1"),
        ("of its own", "ARG A=1\nFROM x\nARG A=2\n", None, "A=2@3"),
        (
            "two stages",
            "FROM x AS a\nARG V=1\nFROM x\nARG V=2\nCOPY --from=a / /\n",
            None,
            "V=2@4",
        ),
        (
            "the stage below",
            "FROM x AS a\nARG V=1\nENV E=$V.0\nFROM a\nARG W=$E\n",
            None,
            "V=1@2 W=1.0@5",
        ),
        (
            "not needed",
            "FROM x AS a\nARG V=1\nFROM x AS b\nARG W\n",
            Some("b"),
            "W=@4",
        ),
        (
            "a platform",
            "ARG P=linux/amd64\nFROM --platform=$P x\nARG TARGETOS\n",
            None,
            "P=linux/amd64@1",
        ),
    ] {
        let build = Build {
            stage: stage.map(str::to_owned),
            ..Build::default()
        };
        let answer = json(&outline(file, &build).unwrap());
        let args = answer["args"].as_array().cloned().unwrap_or_default();
        let args = args.iter().map(|arg| {
            let value = arg["value"].as_str().unwrap_or_default();
            let line = &arg["location"]["ranges"][0]["start"]["line"];
            format!("{}={value}@{line}", arg["name"].as_str().unwrap())
        });
        assert_eq!(args.collect::<Vec<_>>().join(" "), want, "{name}");
    }
}

#[test]
fn what_is_found_is_told_with_what_is_wrong() {
    for (name, file, stage, rules, error) in [
        ("nothing", "FROM a\n", None, "", None),
        ("one", "FROM a AS B\n", None, "StageNameCasing", None),
        (
            "no base",
            "ARG A\nFROM $A as b\n",
            None,
            "FromAsCasing InvalidDefaultArgInFrom",
            Some("base name ($A) should not be blank"),
        ),
        (
            "no reference",
            "FROM a:\nMAINTAINER x\n",
            None,
            "MaintainerDeprecated InvalidDefaultArgInFrom",
            Some("failed to parse stage name \"a:\": invalid reference format"),
        ),
        (
            "no such target",
            "FROM a\n",
            Some("b"),
            "",
            Some("target stage \"b\" could not be found"),
        ),
        (
            "an instruction",
            "FROM a\nRUN \\\n\n  b\nRUM c\n",
            None,
            "NoEmptyContinuation",
            Some("dockerfile parse error on line 5: unknown instruction: RUM (did you mean RUN?)"),
        ),
        (
            "a variable",
            "FROM a\nCOPY --from=$B / /\n",
            None,
            "",
            Some(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            ),
        ),
        (
            "one is passed over",
            "FROM a\n# check=skip=JSONArgsRecommended because\nCMD b\nENTRYPOINT c\n",
            None,
            "JSONArgsRecommended",
            None,
        ),
        (
            "empty",
            "",
            None,
            "",
            Some("the Dockerfile cannot be empty"),
        ),
    ] {
        let build = Build {
            stage: stage.map(str::to_owned),
            ..Build::default()
        };
        let answer = lint("Dockerfile", file, &build, None, &|_| None);
        let told = json(&answer);
        let found = told["warnings"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = found
            .iter()
            .map(|w| w["ruleName"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(found.join(" "), rules, "{name}");
        assert_eq!(told["buildError"]["message"].as_str(), error, "{name}");
        assert_eq!(
            answer.status,
            u8::from(!rules.is_empty() || error.is_some()),
            "{name}"
        );
    }
}

#[test]
fn rules_have_pages() {
    for (rule, page) in [
        ("JSONArgsRecommended", "json-args-recommended"),
        ("FromAsCasing", "from-as-casing"),
        ("UndefinedVar", "undefined-var"),
    ] {
        assert_eq!(
            rule_page(rule),
            format!("https://docs.docker.com/go/dockerfile/rule/{page}/")
        );
    }
}
