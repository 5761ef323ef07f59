//! What there is: repositories, tags, referrers, in pages.

use crate::*;

#[test]
fn what_there_is_is_listed() {
    let tags = |list: &[&str]| format!(r#"{{"name":"a","tags":{}}}"#, serde_json::json!(list));
    let mut steps = Vec::new();
    for tag in ["b", "a", "C", "1"] {
        steps.extend(pushed_image("a", tag, b"layer"));
    }
    steps.extend(pushed_image("x/y", "1", b"layer"));
    let list = |query: &str| get(format!("/v2/a/tags/list{query}"));
    for (name, step) in [
        (
            "all",
            list("")
                .status(200)
                .says(&tags(&["1", "C", "a", "b"]))
                .hasnt("link"),
        ),
        (
            "some",
            list("?n=2")
                .status(200)
                .says(&tags(&["1", "C"]))
                .has("link", "</v2/a/tags/list?n=2&last=C>; rel=\"next\""),
        ),
        (
            "the next",
            list("?n=2&last=C")
                .status(200)
                .says(&tags(&["a", "b"]))
                .hasnt("link"),
        ),
        ("after one", list("?last=a").status(200).says(&tags(&["b"]))),
        (
            "none",
            list("?n=0").status(200).says(&tags(&[])).hasnt("link"),
        ),
        ("no number", list("?n=x").status(400)),
        (
            "of what is not there",
            get("/v2/z/tags/list").status(404).code("NAME_UNKNOWN"),
        ),
        (
            "repositories",
            get("/v2/_catalog")
                .status(200)
                .says(r#"{"repositories":["a","x/y"]}"#),
        ),
        (
            "some repositories",
            get("/v2/_catalog?n=1")
                .status(200)
                .says(r#"{"repositories":["a"]}"#)
                .has("link", "</v2/_catalog?n=1&last=a>; rel=\"next\""),
        ),
        (
            "base",
            get("/v2/")
                .status(200)
                .has("docker-distribution-api-version", "registry/2.0"),
        ),
        ("no path", get("/v1/").status(404)),
    ] {
        let world = World::new();
        world.run(name, steps.iter().cloned().chain([step]).collect());
    }
}

#[test]
fn referrers_are_listed() {
    let (_, manifest) = image(b"layer");
    let subject = digest(&manifest);
    let sbom = referrer(&manifest, Some("text/sbom"), "one");
    let own = referrer(&manifest, None, "two");
    let pushed = |body: &[u8]| {
        put(format!("/v2/a/manifests/{}", digest(body)))
            .header("content-type", OCI)
            .body(body)
            .status(201)
            .has("oci-subject", &subject)
    };
    let start = || {
        let mut steps = vec![self::pushed("a", b"{}")];
        // Referrers may come before what they refer to.
        steps.extend([pushed(&sbom), pushed(&own)]);
        steps.extend(pushed_image("a", "1", b"layer"));
        steps
    };
    let at = format!("/v2/a/referrers/{subject}");
    let (first, second) = (digest(&sbom), digest(&own));
    for (name, steps) in [
        (
            "all",
            vec![
                get(&at)
                    .status(200)
                    .has("content-type", INDEX)
                    .contains(&first)
                    .contains(&second)
                    .contains("\"annotations\":{\"n\":\"one\"}")
                    .hasnt("oci-filters-applied"),
            ],
        ),
        (
            "of a type",
            vec![
                get(format!("{at}?artifactType=text/sbom"))
                    .status(200)
                    .contains(&first)
                    .lacks(&second)
                    .has("oci-filters-applied", "artifactType"),
            ],
        ),
        (
            "of the config's type",
            vec![
                get(format!(
                    "{at}?artifactType=application/vnd.oci.empty.v1%2Bjson"
                ))
                .status(200)
                .contains(&second)
                .lacks(&first),
            ],
        ),
        (
            "of nothing",
            vec![
                get(format!("/v2/a/referrers/{}", digest(b"x")))
                    .status(200)
                    .contains("\"manifests\":[]"),
            ],
        ),
        (
            "where nothing is",
            vec![
                get(at.replace("/a/", "/z/"))
                    .status(200)
                    .contains("\"manifests\":[]"),
            ],
        ),
        (
            "no digest",
            vec![get("/v2/a/referrers/x").status(400).code("DIGEST_INVALID")],
        ),
        (
            "deleted",
            vec![
                delete(format!("/v2/a/manifests/{first}")).status(202),
                get(&at).status(200).lacks(&first).contains(&second),
            ],
        ),
        (
            "whose subject was deleted",
            vec![
                delete(format!("/v2/a/manifests/{subject}")).status(202),
                get(&at).status(200).contains(&first),
            ],
        ),
    ] {
        let steps = start().into_iter().chain(steps).collect();
        check(name, steps);
    }
}

#[test]
fn many_referrers_come_in_pages() {
    let (_, manifest) = image(b"layer");
    let long = "x".repeat(1 << 20);
    let world = World::new();
    world.run("start", vec![pushed("a", b"{}")]);
    for n in 0..5 {
        let body = referrer(&manifest, Some("t"), &format!("{n}{long}"));
        world.run(
            "push",
            vec![
                put(format!("/v2/a/manifests/{}", digest(&body)))
                    .header("content-type", OCI)
                    .body(&body)
                    .status(201),
            ],
        );
    }
    let (mut path, mut seen) = (
        format!("/v2/a/referrers/{}?artifactType=t", digest(&manifest)),
        0,
    );
    for _ in 0..10 {
        let answer = world.ask(&get(&path).status(200));
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(answer.body.len() < 4 << 20);
        seen += body["manifests"].as_array().unwrap().len();
        let Some(link) = answer.headers.get("link") else {
            break;
        };
        let link = link.to_str().unwrap();
        path = link
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap()
            .to_string();
    }
    assert_eq!(seen, 5);
}
