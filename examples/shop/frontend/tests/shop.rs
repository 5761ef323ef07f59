//! The services in one process, on loopback and ephemeral ports.

use axum::Router;
use http::{Method, Request, StatusCode, header::HeaderMap};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use shop_common::{Config, Context, client::DEADLINE};
use shop_frontend::Addresses;
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// An address where nothing listens.
const DOWN: &str = "http://127.0.0.1:1";

fn config(dir: &Path, redis: Option<String>) -> Config {
    Config {
        port: 0,
        data_dir: dir.into(),
        redis,
    }
}

async fn start(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(shop_common::serve::serve(
        listener,
        router,
        std::future::pending(),
    ));
    format!("http://{address}")
}

async fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(url);
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client
        .request(request.body(Full::from(body.to_string())).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status,
        parts.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

/// Steps in order: method, path, JSON body, status, what the answer holds.
async fn check(base: &str, steps: &[(&str, &str, &str, u16, &str)]) {
    for (method, path, body, status, holds) in steps {
        let json = [("content-type", "application/json")];
        let got = send(method, &format!("{base}{path}"), &json, body).await;
        assert_eq!(got.0.as_u16(), *status, "{method} {path}: {}", got.2);
        assert!(
            got.2.contains(holds),
            "{method} {path}: {} lacks {holds}",
            got.2
        );
    }
}

const FOLLOW: &[(&str, &str, &str, u16, &str)] = &[
    (
        "GET",
        "/users/ana/follow/ines",
        "",
        200,
        r#"{"followers":0,"following":false}"#,
    ),
    ("POST", "/users/ana/follow/ines", "", 204, ""),
    ("POST", "/users/ana/follow/ines", "", 204, ""),
    (
        "GET",
        "/users/ana/follow/ines",
        "",
        200,
        r#"{"followers":1,"following":true}"#,
    ),
    (
        "GET",
        "/users/bea/follow/ines",
        "",
        200,
        r#"{"followers":1,"following":false}"#,
    ),
    ("DELETE", "/users/ana/follow/ines", "", 204, ""),
    (
        "GET",
        "/users/ana/follow/ines",
        "",
        200,
        r#"{"followers":0,"following":false}"#,
    ),
    ("POST", "/users/A%20B/follow/ines", "", 400, "lower-case"),
];
const COUNTER: &[(&str, &str, &str, u16, &str)] = &[
    ("GET", "/hits/home", "", 200, r#"{"count":0}"#),
    ("POST", "/hits/home", "", 200, r#"{"count":1}"#),
    ("POST", "/hits/home", "", 200, r#"{"count":2}"#),
    ("GET", "/hits/home", "", 200, r#"{"count":2}"#),
    ("GET", "/hits/other", "", 200, r#"{"count":0}"#),
    ("GET", "/healthz", "", 200, "ok"),
];

#[tokio::test]
async fn apis() {
    let dir = TempDir::new().unwrap();
    let c = config(dir.path(), None);
    check(&start(shop_follow::app(&c).unwrap()).await, FOLLOW).await;
    check(&start(shop_counter::app(&c).unwrap()).await, COUNTER).await;
    let products = start(shop_products::app(&c).unwrap()).await;
    check(
        &products,
        &[
            ("GET", "/products", "", 200, "Beeswax candle"),
            ("GET", "/products/bud-vase", "", 200, "\"price_cents\":1900"),
            ("GET", "/products/none", "", 404, "no such product"),
        ],
    )
    .await;
    check(
        &start(shop_auth::app(&c).unwrap()).await,
        &[
            (
                "POST",
                "/users",
                r#"{"name":"ana","password":"short"}"#,
                400,
                "8 to 256",
            ),
            (
                "POST",
                "/users",
                r#"{"name":"ana","password":"long enough"}"#,
                201,
                "token",
            ),
            (
                "POST",
                "/users",
                r#"{"name":"ana","password":"long enough"}"#,
                409,
                "taken",
            ),
            (
                "POST",
                "/sessions",
                r#"{"name":"ana","password":"wrong one"}"#,
                401,
                "wrong",
            ),
            (
                "POST",
                "/sessions",
                r#"{"name":"bea","password":"long enough"}"#,
                401,
                "wrong",
            ),
            (
                "POST",
                "/sessions",
                r#"{"name":"ana","password":"long enough"}"#,
                201,
                "token",
            ),
            ("GET", "/sessions/00", "", 404, "no such session"),
        ],
    )
    .await;
    // Two replicas on one database.
    let one = start(shop_orders::app_with(&c, &products).unwrap()).await;
    let two = start(shop_orders::app_with(&c, &products).unwrap()).await;
    check(
        &one,
        &[
            ("PUT", "/users/ana/orders/k1", "", 409, "empty"),
            (
                "PUT",
                "/users/ana/cart/bud-vase",
                r#"{"quantity":2}"#,
                204,
                "",
            ),
            (
                "PUT",
                "/users/ana/cart/bud-vase",
                r#"{"quantity":100}"#,
                400,
                "0 to 99",
            ),
        ],
    )
    .await;
    check(
        &two,
        &[
            (
                "GET",
                "/users/ana/cart",
                "",
                200,
                r#"[{"product":"bud-vase","quantity":2}]"#,
            ),
            ("PUT", "/users/ana/orders/k1", "", 204, ""),
            ("GET", "/users/ana/cart", "", 200, "[]"),
        ],
    )
    .await;
    check(
        &one,
        &[
            ("PUT", "/users/ana/orders/k1", "", 204, ""),
            ("GET", "/users/ana/orders", "", 200, "\"total_cents\":3800"),
            ("GET", "/users/bea/orders", "", 200, "[]"),
        ],
    )
    .await;
}

#[tokio::test]
async fn pages() {
    let dir = TempDir::new().unwrap();
    let c = config(dir.path(), None);
    let products = start(shop_products::app(&c).unwrap()).await;
    let whole = Addresses {
        auth: start(shop_auth::app(&c).unwrap()).await,
        orders: start(shop_orders::app_with(&c, &products).unwrap()).await,
        follow: start(shop_follow::app(&c).unwrap()).await,
        counter: start(shop_counter::app(&c).unwrap()).await,
        products,
    };
    // (what is down, path, status, follow button, count)
    let (mut lame, mut closed) = (whole.clone(), whole.clone());
    lame.follow = DOWN.into();
    lame.counter = DOWN.into();
    closed.products = DOWN.into();
    let whole = start(shop_frontend::app(whole)).await;
    let lame = start(shop_frontend::app(lame)).await;
    let closed = start(shop_frontend::app(closed)).await;
    for (name, base, path, status, button, count) in [
        ("whole", &whole, "/", 200, false, true),
        ("whole", &whole, "/products/bud-vase", 200, true, true),
        ("whole", &whole, "/products/none", 404, false, false),
        ("whole", &whole, "/nothing", 404, false, false),
        ("follow and counter down", &lame, "/", 200, false, false),
        (
            "follow and counter down",
            &lame,
            "/products/bud-vase",
            200,
            false,
            false,
        ),
        ("products down", &closed, "/", 503, false, false),
    ] {
        let got = send("GET", &format!("{base}{path}"), &[], "").await;
        assert_eq!(got.0.as_u16(), status, "{name} {path}");
        assert_eq!(got.2.contains("id=follow"), button, "{name} {path}: button");
        assert_eq!(got.2.contains("id=views"), count, "{name} {path}: count");
    }
    let form = ("content-type", "application/x-www-form-urlencoded");
    let got = send(
        "POST",
        &format!("{whole}/sign-up"),
        &[form],
        "name=ana&password=long+enough",
    )
    .await;
    assert_eq!(got.0, StatusCode::SEE_OTHER, "{}", got.2);
    let cookie = got.1["set-cookie"]
        .to_str()
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_string();
    // In order: path, form (none: GET), status, what the page holds.
    for (path, body, status, holds) in [
        (
            "/makers/ines/follow",
            "product=bud-vase&follow=true",
            303,
            "",
        ),
        ("/products/bud-vase", "", 200, "Following · 1"),
        ("/cart", "product=bud-vase&quantity=1", 303, ""),
        ("/cart", "", 200, "€ 19.00"),
        ("/orders", "key=k1", 303, ""),
        ("/orders", "", 200, "1 × bud-vase"),
        ("/cart", "", 200, "empty"),
    ] {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let got = send(
            method,
            &format!("{whole}{path}"),
            &[form, ("cookie", &cookie)],
            body,
        )
        .await;
        assert_eq!(got.0.as_u16(), status, "{method} {path}: {}", got.2);
        assert!(
            got.2.contains(holds),
            "{method} {path} lacks {holds}: {}",
            got.2
        );
    }
    let got = send(
        "POST",
        &format!("{whole}/sign-out"),
        &[("cookie", &cookie)],
        "",
    )
    .await;
    assert_eq!(got.0, StatusCode::SEE_OTHER);
    let got = send("GET", &format!("{whole}/cart"), &[("cookie", &cookie)], "").await;
    assert_eq!(got.1["location"], "/sign-in", "the session is over");
}

#[test]
fn context_is_taken_over() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    for (name, deadline, parent, most, same) in [
        ("both", "700", parent.as_str(), 700, true),
        ("too long", "999999999", parent.as_str(), 30_000, true),
        ("none", "", "", 5_000, false),
        ("broken", "x", "00-xyz-1-01", 5_000, false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(DEADLINE, deadline.parse().unwrap());
        headers.insert("traceparent", parent.parse().unwrap());
        let context = Context::of(&headers);
        assert!(context.left() <= Duration::from_millis(most), "{name}");
        assert_eq!(context.trace == trace, same, "{name}");
        assert_eq!(context.trace.len(), 32, "{name}");
    }
}

struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn redis(port: u16, dir: &Path) -> Redis {
    let child = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--dir",
        ])
        .arg(dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("Debian's redis-server must be installed");
    let guard = Redis(child);
    for _ in 0..600 {
        let answer = shop_common::Redis::new(&format!("127.0.0.1:{port}"))
            .repeatable(&["PING"])
            .await;
        if answer.is_ok() {
            return guard;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("redis-server does not answer");
}

#[tokio::test]
async fn redis_store() {
    let dir = TempDir::new().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = redis(port, dir.path()).await;
    let c = config(dir.path(), Some(format!("127.0.0.1:{port}")));
    let follow = start(shop_follow::app(&c).unwrap()).await;
    let counter = start(shop_counter::app(&c).unwrap()).await;
    check(&follow, FOLLOW).await;
    check(&counter, COUNTER).await;
    check(&follow, &[("POST", "/users/ana/follow/ines", "", 204, "")]).await;
    drop(server);
    check(
        &follow,
        &[("GET", "/users/ana/follow/ines", "", 503, "Redis")],
    )
    .await;
    let _server = redis(port, dir.path()).await;
    check(
        &follow,
        &[(
            "GET",
            "/users/ana/follow/ines",
            "",
            200,
            "\"following\":true",
        )],
    )
    .await;
}
