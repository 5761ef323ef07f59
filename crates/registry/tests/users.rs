//! Who gets in: by password, by token, by another's judgement.

mod common;

use base64::Engine;
use common::{Asked, World, digest};
use knarr_registry::{Access, Anonymous, Auth, Options, TokenReview};
use std::{future::Future, pin::Pin, sync::Arc};

struct Judge;

impl TokenReview for Judge {
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Access>> + Send + 'a>> {
        Box::pin(async move {
            match token {
                "reader" => Some(Access::Pull),
                "writer" => Some(Access::Push),
                _ => None,
            }
        })
    }
}

fn world(anonymous: Anonymous, tokens: bool) -> World {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&users, format!("ann:{hash}\n")).unwrap();
    let auth = Auth::open(&users, anonymous, tokens, Some(Arc::new(Judge))).unwrap();
    World::at(
        dir,
        Options {
            auth: Some(Arc::new(auth)),
            ..Options::default()
        },
    )
}

fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(text)
    )
}

const BASIC: &str = "Basic realm=\"knarr\"";

#[test]
fn passwords() {
    let ann = basic("ann", "secret");
    let world = world(Anonymous::Nothing, false);
    for (name, method, path, who, status, challenged) in [
        ("nobody", "GET", "/v2/", None, 401, true),
        ("a user", "GET", "/v2/", Some(ann.clone()), 200, false),
        ("again", "GET", "/v2/", Some(ann.clone()), 200, false),
        (
            "a user pushes",
            "POST",
            "/v2/a/blobs/uploads/",
            Some(ann.clone()),
            202,
            false,
        ),
        (
            "another password",
            "GET",
            "/v2/",
            Some(basic("ann", "Secret")),
            401,
            true,
        ),
        (
            "another user",
            "GET",
            "/v2/",
            Some(basic("bob", "secret")),
            401,
            true,
        ),
        (
            "no encoding",
            "GET",
            "/v2/",
            Some("Basic !".into()),
            401,
            true,
        ),
        (
            "no scheme",
            "GET",
            "/v2/",
            Some("Negotiate x".into()),
            401,
            true,
        ),
        (
            "judged",
            "POST",
            "/v2/a/blobs/uploads/",
            Some("Bearer writer".into()),
            202,
            false,
        ),
        (
            "judged by its password",
            "GET",
            "/v2/",
            Some(basic("sa", "reader")),
            200,
            false,
        ),
        (
            "a reader pushes",
            "POST",
            "/v2/a/blobs/uploads/",
            Some("Bearer reader".into()),
            403,
            false,
        ),
        (
            "judged badly",
            "GET",
            "/v2/",
            Some("Bearer x".into()),
            401,
            true,
        ),
        ("no tokens here", "GET", "/v2/token", Some(ann), 404, false),
    ] {
        let mut asked = Asked::new(method, path).status(status);
        if let Some(who) = who {
            asked = asked.header("authorization", who);
        }
        if challenged {
            asked = asked.has("www-authenticate", BASIC).code("UNAUTHORIZED");
        }
        world.run(name, vec![asked]);
    }
}

#[test]
fn tokens() {
    let world = world(Anonymous::Nothing, true);
    let challenge = |scope: &str| {
        format!("Bearer realm=\"http://localhost:5000/v2/token\",service=\"knarr\"{scope}")
    };
    let push = ",scope=\"repository:a:pull,push\"";
    world.run(
        "challenges",
        vec![
            Asked::new("GET", "/v2/")
                .status(401)
                .has("www-authenticate", &challenge("")),
            Asked::new("POST", "/v2/a/blobs/uploads/")
                .status(401)
                .has("www-authenticate", &challenge(push)),
            Asked::new("GET", "/v2/token?service=knarr")
                .status(401)
                .has("www-authenticate", BASIC),
            Asked::new("GET", "/v2/token")
                .header("authorization", basic("ann", "x"))
                .status(401),
            Asked::new("POST", "/v2/token").status(405),
        ],
    );
    let got = world.ask(
        &Asked::new(
            "GET",
            "/v2/token?service=knarr&scope=repository:a:pull,push&scope=repository:b:pull",
        )
        .header("authorization", basic("ann", "secret")),
    );
    let got: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    let token = format!("Bearer {}", got["token"].as_str().unwrap());
    let with = |method, path: &str| Asked::new(method, path).header("authorization", token.clone());
    let forged = format!("{}x", token);
    let content = b"x";
    let d = digest(content);
    world.run(
        "a token",
        vec![
            with("GET", "/v2/").status(200),
            with("POST", &format!("/v2/a/blobs/uploads/?digest={d}"))
                .body(content)
                .status(201),
            with("GET", &format!("/v2/a/blobs/{d}")).status(200),
            with("GET", &format!("/v2/b/blobs/{d}")).status(404),
            with("POST", &format!("/v2/a/blobs/uploads/?mount={d}&from=b")).status(202),
            with("POST", "/v2/b/blobs/uploads/").status(401),
            with("DELETE", &format!("/v2/a/blobs/{d}")).status(401).has(
                "www-authenticate",
                &challenge(",scope=\"repository:a:delete\""),
            ),
            with("GET", "/v2/_catalog").status(401).has(
                "www-authenticate",
                &challenge(",scope=\"registry:catalog:*\""),
            ),
            Asked::new("GET", "/v2/")
                .header("authorization", forged)
                .status(401),
        ],
    );
}

#[test]
fn anybody_may_pull() {
    let world = world(Anonymous::Pull, false);
    let d = digest(b"x");
    world.run(
        "anybody",
        vec![
            Asked::new("GET", format!("/v2/a/blobs/{d}")).status(404),
            Asked::new("GET", "/v2/_catalog").status(200),
            Asked::new("POST", "/v2/a/blobs/uploads/")
                .status(401)
                .has("www-authenticate", BASIC),
            Asked::new("DELETE", format!("/v2/a/blobs/{d}")).status(401),
        ],
    );
}
