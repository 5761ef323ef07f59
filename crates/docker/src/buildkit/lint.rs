//! `docker build --check` and the like: questions about a Dockerfile, answered without building.
//!
//! SOURCE: moby/buildkit `frontend/dockerfile/builder/subrequests.go`

use knarr_dockerfile::{
    Build, Ignore,
    calls::{self, Answer, VERSION},
};
use knarr_grpc::{Status, code};
use std::collections::BTreeMap;

/// The answer as clients take it: metadata of a result.
pub type Answers = BTreeMap<String, Vec<u8>>;

/// What is asked about.
pub struct About<'a> {
    pub name: &'a str,
    pub text: &'a str,
    pub ignore: Option<Ignore>,
    pub build: Build,
}

/// `images` gives the environment of an image that is at hand.
///
/// # Errors
/// For questions that we have no answer to, and a Dockerfile that can't be read.
pub fn answer(
    question: &str,
    about: &About<'_>,
    images: &dyn Fn(&str) -> Option<Vec<String>>,
) -> Result<Answers, Status> {
    let About {
        name,
        text,
        ignore,
        build,
    } = about;
    let wrong = |e: knarr_dockerfile::Error| Status::unknown(e.said());
    let answer = match question {
        "frontend.subrequests.describe" => calls::describe(),
        "frontend.lint" => calls::lint(name, text, build, ignore.as_ref(), images),
        "frontend.targets" => calls::targets(text).map_err(wrong)?,
        "frontend.outline" => calls::outline(text, build).map_err(wrong)?,
        other => {
            return Err(Status::new(
                code::UNIMPLEMENTED,
                format!("unsupported request {other}"),
            ));
        }
    };
    Ok(answers(question, answer))
}

fn answers(question: &str, answer: Answer) -> Answers {
    let mut all = Answers::from([
        ("result.json".to_owned(), answer.json.into_bytes()),
        ("result.txt".to_owned(), answer.text.into_bytes()),
        ("version".to_owned(), VERSION.into()),
    ]);
    if question == "frontend.lint" {
        let status = answer.status.to_string().into_bytes();
        all.insert("result.statuscode".to_owned(), status);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn questions_are_answered() {
        let ask = |question: &str, text: &str| {
            let about = About {
                name: "Dockerfile",
                text,
                ignore: Ignore::parse("secret\n").ok(),
                build: Build::default(),
            };
            answer(question, &about, &|_| None)
        };
        let json = |answers: &Answers| -> Value {
            serde_json::from_slice(&answers["result.json"]).unwrap()
        };
        let found = ask("frontend.lint", "from x AS a\ncopy secret /\n").unwrap();
        let rules: Vec<String> = (json(&found)["warnings"].as_array().unwrap().iter())
            .map(|w| w["ruleName"].as_str().unwrap().to_string())
            .collect();
        assert_eq!(rules, ["FromAsCasing", "CopyIgnoredFile"]);
        assert_eq!(found["result.statuscode"], b"1");
        let found = ask("frontend.targets", "FROM x AS a\nFROM a AS b\n").unwrap();
        assert_eq!(json(&found)["targets"][1]["name"], "b");
        assert_eq!(found.get("result.statuscode"), None);
        let found = ask("frontend.outline", "FROM x\nARG A=1\n").unwrap();
        assert_eq!(json(&found)["args"][0]["value"], "1");
        let broken = ask("frontend.lint", "NONSENSE").unwrap();
        assert!(json(&broken)["buildError"]["message"].is_string());
        assert!(ask("frontend.targets", "NONSENSE").is_err());
        assert!(ask("frontend.other", "FROM x").is_err());
    }
}
