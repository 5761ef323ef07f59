//! `--call=check`: what should be written otherwise. SOURCE: buildkit `frontend/subrequests/lint`

use super::{Answer, Location, base64, go_json};
use crate::{
    checks::{Check, gathered},
    excerpt::shown,
    ignore::Ignore,
    scope::Build,
};
use serde::Serialize;

/// What the rules are about. SOURCE: buildkit `frontend/dockerfile/linter/ruleset.go`
const RULES: [(&str, &str); 22] = [
    ("StageNameCasing", "Stage names should be lowercase"),
    (
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    (
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
    ),
    (
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    ("DuplicateStageName", "Stage names should be unique"),
    (
        "ReservedStageName",
        "Reserved words should not be used as stage names",
    ),
    (
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    (
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    ("UndefinedArgInFrom", "FROM command must use declared ARGs"),
    (
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    (
        "UndefinedVar",
        "Variables should be defined before their use",
    ),
    (
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    (
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    (
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
    ),
    (
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    (
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
    ),
    (
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    (
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ),
    (
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    (
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
];

#[derive(Serialize)]
struct Warning {
    #[serde(rename = "ruleName")]
    rule: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'static str,
    url: String,
    detail: String,
    location: Location,
}

#[derive(Serialize)]
struct Source {
    filename: String,
    data: String,
    language: &'static str,
}

#[derive(Serialize)]
struct BuildError {
    message: String,
    location: Location,
}

#[derive(Serialize)]
struct Results {
    /// Go's nil where there are none.
    warnings: Option<Vec<Warning>>,
    sources: Vec<Source>,
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError>,
}

/// Where a rule is explained: `https://…/json-args-recommended/` of `JSONArgsRecommended`.
pub fn rule_page(rule: &str) -> String {
    let mut page = String::new();
    for (at, c) in rule.char_indices() {
        let after_upper = rule[..at].ends_with(char::is_uppercase);
        let before_lower = rule[at + c.len_utf8()..].starts_with(char::is_lowercase);
        if at > 0 && c.is_uppercase() && (!after_upper || before_lower) {
            page.push('-');
        }
        page.extend(c.to_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{page}/")
}

fn warning(found: &Check) -> Warning {
    let about = RULES.iter().find(|(rule, _)| *rule == found.rule);
    Warning {
        rule: found.rule,
        description: about.map_or("", |(_, about)| about),
        url: rule_page(found.rule),
        detail: found.message.clone(),
        location: Location::of(found.line, found.last),
    }
}

/// The findings of a Dockerfile at the path `name`, also of one that can't be read to its end; `image` as for
/// [`crate::check`]. The text holds the findings alone, `error` why there may be more.
pub fn lint(
    name: &str,
    text: &str,
    build: &Build,
    ignore: Option<&Ignore>,
    image: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Answer {
    let (found, error) = gathered(text, build, ignore, image);
    let mut told = String::new();
    let mut by_line: Vec<&Check> = found.iter().collect();
    by_line.sort_by_key(|one| one.line);
    for one in by_line {
        told += &format!(
            "\nWARNING: {} - {}\n{}\n{}",
            one.rule,
            rule_page(one.rule),
            one.message,
            shown(name, text, one.line, one.last)
        );
    }
    let warnings: Vec<Warning> = found.iter().map(warning).collect();
    let status = u8::from(!warnings.is_empty() || error.is_some());
    let results = Results {
        warnings: Some(warnings).filter(|all| !all.is_empty()),
        sources: vec![Source {
            filename: name.rsplit('/').next().unwrap_or(name).to_owned(),
            data: base64(text),
            language: "Dockerfile",
        }],
        error: error.as_ref().map(|e| BuildError {
            message: e.said(),
            location: Location::of(e.line, e.last),
        }),
    };
    Answer {
        json: go_json(&results),
        text: told,
        warnings: found.len(),
        status,
        error: error.map(|e| format!("{}\n{}", e.said(), shown(name, text, e.line, e.last))),
    }
}
