//! How long a request may take, as the API server's `WithRequestDeadline` (k8s.io/apiserver/pkg/endpoints/filters) has it:
//! what `?timeout=` says, a minute at most. Requests that last as long as their client likes have no such end.

use std::time::Duration;

use crate::{query::Query, status::Failure};

/// Upstream's `--request-timeout`.
const MAX: Duration = Duration::from_secs(60);

/// From `?timeout=` of the raw query; 400 where that is no duration of Go's.
pub fn of(query: Option<&str>) -> Result<Duration, Failure> {
    // nearly no request has either
    let Some(query) = query.filter(|q| q.contains("timeout=") || q.contains("watch=")) else {
        return Ok(MAX);
    };
    let query = Query::parse(Some(query));
    if matches!(query.get("watch"), Some("true" | "1")) {
        return Ok(Duration::MAX); // of an aggregated server, which nothing is known of here
    }
    let Some(text) = query.get("timeout") else {
        return Ok(MAX);
    };
    let invalid = || {
        let why = go_error(text);
        Failure::bad_request(format!(
            "invalid timeout specified in the request URL - time: {why}"
        ))
    };
    let nanos = knarr_schema::duration(text).ok_or_else(invalid)?;
    Ok(match u64::try_from(nanos) {
        Ok(nanos @ 1..) => Duration::from_nanos(nanos).min(MAX),
        _ => MAX, // none or less is no wish
    })
}

/// What Go's `time.ParseDuration` says of a text that it doesn't take.
fn go_error(text: &str) -> String {
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    while rest.starts_with(number) {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let fraction = digits.strip_prefix('.').unwrap_or(digits);
        let after = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() - after.len() == 1 && rest.starts_with('.') {
            break; // a point alone is no number
        }
        let unit = after.find(number).map_or(after, |end| &after[..end]);
        match unit {
            "" => return format!("missing unit in duration {text:?}"),
            "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h" => rest = &after[unit.len()..],
            _ => return format!("unknown unit {unit:?} in duration {text:?}"),
        }
    }
    format!("invalid duration {text:?}")
}

/// Too late.
pub fn passed() -> Failure {
    Failure::new(
        504,
        "Timeout",
        "Timeout: request did not complete within the allotted timeout",
    )
    .with_details()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_takes_longer_than_its_client_says_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let api = crate::ApiServer::for_tests(dir.path());
        api.inner.ready().await.unwrap();
        // a body that never comes
        type Piece = Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>;
        let body = http_body_util::StreamBody::new(futures::stream::pending::<Piece>());
        let request =
            http::Request::post("/api/v1/namespaces/default/configmaps?timeout=10ms").body(body);
        let mut request = request.unwrap();
        let who = crate::identity::Identity::new("admin", &["system:masters"]);
        request.extensions_mut().insert(who);
        let response = api.inner.handle(request).await;
        assert_eq!(response.status(), 504);
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body: serde_json::Value =
            serde_json::from_slice(&body.await.unwrap().to_bytes()).unwrap();
        assert_eq!(
            (&body["reason"], &body["message"]),
            (&"Timeout".into(), &passed().message().into())
        );
    }

    #[test]
    fn a_request_ends_when_its_client_says_within_a_minute() {
        let invalid = |why: &str| {
            Err(format!(
                "invalid timeout specified in the request URL - time: {why}"
            ))
        };
        for (query, want) in [
            (None, Ok(60_000)),
            (Some(""), Ok(60_000)),
            (Some("timeout="), Ok(60_000)),
            (Some("timeoutSeconds=5"), Ok(60_000)),
            (Some("a=b&timeout=1.5s"), Ok(1_500)),
            (Some("timeout=1m30s"), Ok(60_000)),
            (Some("timeout=0s"), Ok(60_000)),
            (Some("timeout=5s&watch=true"), Ok(Duration::MAX.as_millis())),
            (Some("timeout=-5s"), Ok(60_000)),
            (
                Some("timeout=invalid"),
                invalid("invalid duration \"invalid\""),
            ),
            (
                Some("timeout=32"),
                invalid("missing unit in duration \"32\""),
            ),
            (
                Some("timeout=5days"),
                invalid("unknown unit \"days\" in duration \"5days\""),
            ),
            (
                Some("timeout=.5"),
                invalid("missing unit in duration \".5\""),
            ),
            (
                Some("timeout=1h2"),
                invalid("missing unit in duration \"1h2\""),
            ),
            (
                Some("timeout=1..5s"),
                invalid("missing unit in duration \"1..5s\""),
            ),
            (Some("timeout=.s"), invalid("invalid duration \".s\"")),
            (Some("timeout=s"), invalid("invalid duration \"s\"")),
            (
                Some("timeout=99999999999h"),
                invalid("invalid duration \"99999999999h\""),
            ),
        ] {
            let got = of(query).map(|d| d.as_millis());
            assert_eq!(got.map_err(|f| f.message().to_owned()), want, "{query:?}");
        }
    }
}
