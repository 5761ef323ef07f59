//! What may be asked of a container's log.
//!
//! Source: kubernetes `pkg/apis/core/validation/validation.go` (ValidatePodLogOptions), KEP-3288 for `stream`.

use crate::{query::Query, registry::FieldError, status::Failure};

const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];

/// 422 with all that is wrong; 400 for what is no number.
pub fn check(pod: &str, query: &Query) -> Result<(), Failure> {
    let invalid = |field: &str, value: i64, detail: &str| FieldError::Invalid {
        field: field.into(),
        value: value.into(),
        detail: detail.into(),
    };
    let forbidden = |detail: &str| FieldError::Forbidden {
        // Go's path without a name
        field: "[]".into(),
        detail: detail.into(),
    };
    let mut errors = Vec::new();
    let tail = query.number("tailLines")?;
    if let Some(n) = tail.filter(|n| *n < 0) {
        errors.push(invalid(
            "tailLines",
            n,
            "must be greater than or equal to 0",
        ));
    }
    if let Some(n) = query.number("limitBytes")?.filter(|n| *n < 1) {
        errors.push(invalid("limitBytes", n, "must be greater than 0"));
    }
    let given = |key: &str| query.get(key).filter(|v| !v.is_empty());
    match (query.number("sinceSeconds")?, given("sinceTime")) {
        (Some(_), Some(_)) => errors.push(forbidden(
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )),
        (Some(n), None) if n < 1 => {
            errors.push(invalid("sinceSeconds", n, "must be greater than 0"));
        }
        _ => {}
    }
    let stream = given("stream").unwrap_or("All");
    if !STREAMS.contains(&stream) {
        errors.push(FieldError::NotSupported {
            field: "stream".into(),
            value: stream.into(),
            supported: STREAMS.map(String::from).into(),
        });
    }
    if stream != "All" && tail.is_some() {
        errors.push(forbidden(
            "`tailLines` and specific `stream` are mutually exclusive for now",
        ));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::invalid("", "PodLogOptions", pod, &errors)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_options_are_refused_as_upstream_does() {
        for (query, wanted) in [
            ("follow=true&tailLines=0&stream=All", None),
            ("stream=Stderr&sinceSeconds=5", None),
            ("sinceTime=2026-01-01T00:00:00Z", None),
            (
                "tailLines=-1",
                Some("tailLines: Invalid value: -1: must be greater than or equal to 0"),
            ),
            (
                "limitBytes=0",
                Some("limitBytes: Invalid value: 0: must be greater than 0"),
            ),
            (
                "sinceSeconds=0",
                Some("sinceSeconds: Invalid value: 0: must be greater than 0"),
            ),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                Some(
                    "[]: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
                ),
            ),
            (
                "stream=stdout",
                Some(
                    "stream: Unsupported value: \"stdout\": supported values: \"All\", \"Stderr\", \"Stdout\"",
                ),
            ),
            (
                "stream=Stdout&tailLines=3",
                Some(
                    "[]: Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
                ),
            ),
        ] {
            let got = check("web", &Query::parse(Some(query))).err();
            let got = got.map(|f| (f.code(), f.message().to_owned()));
            let wanted = wanted.map(|w| (422, format!("PodLogOptions \"web\" is invalid: {w}")));
            assert_eq!(got, wanted, "{query}");
        }
    }
}
