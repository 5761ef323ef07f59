//! The shop's pages, rendered on the server from what the other services say.
//! Without `follow` or `counter` a page is served all the same, just without the button or the count.
#![forbid(unsafe_code)]

mod html;

use axum::{
    Form, Router,
    extract::{FromRequestParts, Path, State},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use html::{escape, layout};
use http::{HeaderMap, Method, StatusCode, request::Parts};
use serde::Deserialize;
use serde_json::json;
use shop_common::{Client, Context, client, config::or, is_id};
use std::time::Duration;

/// Where the other services are.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub auth: String,
    pub products: String,
    pub orders: String,
    pub follow: String,
    pub counter: String,
}

impl Addresses {
    /// `AUTH_URL` and so on; by default each service's name, port 8080.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            auth: or("AUTH_URL", "http://auth:8080"),
            products: or("PRODUCTS_URL", "http://products:8080"),
            orders: or("ORDERS_URL", "http://orders:8080"),
            follow: or("FOLLOW_URL", "http://follow:8080"),
            counter: or("COUNTER_URL", "http://counter:8080"),
        }
    }
}

#[derive(Clone)]
struct Shop {
    at: Addresses,
    /// What a page needs.
    needed: Client,
    /// What a page can do without, and does not wait for long.
    optional: Client,
}

#[derive(Deserialize, Clone)]
struct Product {
    id: String,
    name: String,
    maker: String,
    maker_name: String,
    price_cents: i64,
    text: String,
    hue: i64,
    shape: String,
}
#[derive(Deserialize)]
struct Line {
    product: String,
    quantity: i64,
}
#[derive(Deserialize)]
struct Order {
    key: String,
    total_cents: i64,
    lines: Vec<Line>,
}
#[derive(Deserialize)]
struct Following {
    following: bool,
    followers: i64,
}
#[derive(Deserialize)]
struct Count {
    count: i64,
}
#[derive(Deserialize)]
struct Session {
    user: String,
}
#[derive(Deserialize)]
struct NewSession {
    token: String,
}

/// The router of the pages.
pub fn app(at: Addresses) -> Router {
    let shop = Shop {
        at,
        needed: Client::new(Duration::from_secs(3)),
        optional: Client::new(Duration::from_millis(400)),
    };
    Router::new()
        .route("/", get(home))
        .route("/products/{product}", get(product))
        .route("/makers/{maker}/follow", post(follow))
        .route("/cart", get(cart).post(put_in_cart))
        .route("/orders", get(orders).post(order))
        .route("/sign-in", get(sign_in_page).post(sign_in))
        .route("/sign-up", get(sign_up_page).post(sign_up))
        .route("/sign-out", post(sign_out))
        .fallback(async || problem(StatusCode::NOT_FOUND, "There is nothing here."))
        .with_state(shop)
}

/// The visitor: who it is, if signed in and `auth` answers.
struct Visitor {
    context: Context,
    token: Option<String>,
    user: Option<String>,
}

impl FromRequestParts<Shop> for Visitor {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, Self::Rejection> {
        let context = Context::of(&parts.headers);
        let token = token(&parts.headers);
        let user = match &token {
            None => None,
            Some(token) => {
                let url = format!("{}/sessions/{token}", shop.at.auth);
                let session = shop.needed.get::<Session>(&context, &url).await;
                session.ok().map(|s| s.user)
            }
        };
        Ok(Self {
            context,
            token,
            user,
        })
    }
}

fn token(headers: &HeaderMap) -> Option<String> {
    let all = headers.get("cookie")?.to_str().ok()?;
    all.split(';')
        .find_map(|c| c.trim().strip_prefix("session="))
        .filter(|t| t.len() == 64 && is_id(t))
        .map(Into::into)
}

type Page = Result<Response, Broken>;

/// A service without which the page can't be.
struct Broken(client::Error);

impl From<client::Error> for Broken {
    fn from(error: client::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Broken {
    fn into_response(self) -> Response {
        if self.0.status() == Some(StatusCode::NOT_FOUND) {
            return problem(StatusCode::NOT_FOUND, "There is nothing here.");
        }
        problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "The shop is closed for a moment. Please try again.",
        )
    }
}

fn problem(status: StatusCode, text: &str) -> Response {
    let body = format!(
        "<section class=narrow><h1>Sorry</h1><p>{}</p><p><a href=/>To the shop</a></p></section>",
        escape(text)
    );
    (status, Html(layout("Sorry", None, None, &body))).into_response()
}

fn page(title: &str, visitor: &Visitor, count: Option<i64>, body: &str) -> Response {
    Html(layout(title, visitor.user.as_deref(), count, body)).into_response()
}

fn to(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [("location", path.to_string())]).into_response()
}

impl Shop {
    async fn hit(&self, context: &Context, page: &str) -> Option<i64> {
        let url = format!("{}/hits/{page}", self.at.counter);
        let count = self
            .optional
            .json::<Count>(context, Method::POST, &url, None::<&()>)
            .await;
        count.ok().map(|c| c.count)
    }

    async fn catalogue(&self, context: &Context) -> Result<Vec<Product>, client::Error> {
        self.needed
            .get(context, &format!("{}/products", self.at.products))
            .await
    }
}

async fn home(State(shop): State<Shop>, visitor: Visitor) -> Page {
    let (products, count) = tokio::join!(
        shop.catalogue(&visitor.context),
        shop.hit(&visitor.context, "home")
    );
    let cards: String = products?.iter().map(html::card).collect();
    let body = format!(
        "<section class=hero><h1>Made by hand,<br>one at a time.</h1><p>Clay, wool, wood and wax from five small workshops.</p></section><section class=grid>{cards}</section>"
    );
    Ok(page("A Tu Mano", &visitor, count, &body))
}

async fn product(State(shop): State<Shop>, visitor: Visitor, Path(id): Path<String>) -> Page {
    if !is_id(&id) {
        return Ok(problem(StatusCode::NOT_FOUND, "There is nothing here."));
    }
    let context = &visitor.context;
    let url = format!("{}/products/{id}", shop.at.products);
    let product: Product = shop.needed.get(context, &url).await?;
    let url = format!(
        "{}/users/{}/follow/{}",
        shop.at.follow,
        visitor.user.as_deref().unwrap_or("nobody"),
        product.maker
    );
    let (following, count) = tokio::join!(
        shop.optional.get::<Following>(context, &url),
        shop.hit(context, &product.id)
    );
    let button = following
        .ok()
        .map(|f| html::follow_button(&product, &f))
        .unwrap_or_default();
    Ok(page(
        &product.name,
        &visitor,
        count,
        &html::product(&product, &button),
    ))
}

#[derive(Deserialize)]
struct FollowForm {
    product: String,
    follow: bool,
}

async fn follow(
    State(shop): State<Shop>,
    visitor: Visitor,
    Path(maker): Path<String>,
    Form(form): Form<FollowForm>,
) -> Page {
    let Some(user) = &visitor.user else {
        return Ok(to("/sign-in"));
    };
    if !is_id(&maker) || !is_id(&form.product) {
        return Ok(problem(StatusCode::BAD_REQUEST, "No such maker."));
    }
    let method = if form.follow {
        Method::POST
    } else {
        Method::DELETE
    };
    let url = format!("{}/users/{user}/follow/{maker}", shop.at.follow);
    // If it fails, the page comes back as it was.
    let _ = shop
        .optional
        .call(&visitor.context, method, &url, None::<&()>)
        .await;
    Ok(to(&format!("/products/{}", form.product)))
}

async fn cart(State(shop): State<Shop>, visitor: Visitor) -> Page {
    let Some(user) = &visitor.user else {
        return Ok(to("/sign-in"));
    };
    let url = format!("{}/users/{user}/cart", shop.at.orders);
    let (lines, products) = tokio::join!(
        shop.needed.get::<Vec<Line>>(&visitor.context, &url),
        shop.catalogue(&visitor.context)
    );
    Ok(page(
        "Cart",
        &visitor,
        None,
        &html::cart(&lines?, &products?, &visitor.context.trace),
    ))
}

#[derive(Deserialize)]
struct CartForm {
    product: String,
    quantity: i64,
}

async fn put_in_cart(
    State(shop): State<Shop>,
    visitor: Visitor,
    Form(form): Form<CartForm>,
) -> Page {
    let Some(user) = &visitor.user else {
        return Ok(to("/sign-in"));
    };
    if !is_id(&form.product) || !(0..=99).contains(&form.quantity) {
        return Ok(problem(StatusCode::BAD_REQUEST, "0 to 99 of a product."));
    }
    let url = format!("{}/users/{user}/cart/{}", shop.at.orders, form.product);
    let body = json!({ "quantity": form.quantity });
    shop.needed
        .call(&visitor.context, Method::PUT, &url, Some(&body))
        .await?;
    Ok(to("/cart"))
}

async fn orders(State(shop): State<Shop>, visitor: Visitor) -> Page {
    let Some(user) = &visitor.user else {
        return Ok(to("/sign-in"));
    };
    let url = format!("{}/users/{user}/orders", shop.at.orders);
    let orders: Vec<Order> = shop.needed.get(&visitor.context, &url).await?;
    Ok(page("Orders", &visitor, None, &html::orders(&orders)))
}

#[derive(Deserialize)]
struct OrderForm {
    key: String,
}

async fn order(State(shop): State<Shop>, visitor: Visitor, Form(form): Form<OrderForm>) -> Page {
    let Some(user) = &visitor.user else {
        return Ok(to("/sign-in"));
    };
    if !is_id(&form.key) {
        return Ok(problem(
            StatusCode::BAD_REQUEST,
            "Please order from the cart.",
        ));
    }
    let url = format!("{}/users/{user}/orders/{}", shop.at.orders, form.key);
    match shop
        .needed
        .call(&visitor.context, Method::PUT, &url, None::<&()>)
        .await
    {
        Err(e) if e.status() == Some(StatusCode::CONFLICT) => Ok(to("/cart")),
        done => done.map(|_| to("/orders")).map_err(Broken),
    }
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

async fn sign_in_page(visitor: Visitor) -> Response {
    page("Sign in", &visitor, None, &html::sign("in", ""))
}

async fn sign_up_page(visitor: Visitor) -> Response {
    page("Sign up", &visitor, None, &html::sign("up", ""))
}

async fn sign_in(
    State(shop): State<Shop>,
    visitor: Visitor,
    Form(form): Form<Credentials>,
) -> Page {
    start(
        &shop,
        &visitor,
        "sessions",
        "in",
        "Name or password is wrong.",
        &form,
    )
    .await
}

async fn sign_up(
    State(shop): State<Shop>,
    visitor: Visitor,
    Form(form): Form<Credentials>,
) -> Page {
    let hint = "Use another name (lower-case letters, digits and -) and a password of at least 8 characters.";
    start(&shop, &visitor, "users", "up", hint, &form).await
}

async fn start(
    shop: &Shop,
    visitor: &Visitor,
    path: &str,
    way: &str,
    hint: &str,
    form: &Credentials,
) -> Page {
    let url = format!("{}/{path}", shop.at.auth);
    let body = json!({ "name": form.name, "password": form.password });
    let made = shop
        .needed
        .json::<NewSession>(&visitor.context, Method::POST, &url, Some(&body))
        .await;
    match made {
        Ok(session) => {
            let cookie = format!(
                "session={}; Path=/; HttpOnly; SameSite=Lax; Max-Age=604800",
                session.token
            );
            Ok((
                to("/").status(),
                [("location", "/".to_string()), ("set-cookie", cookie)],
            )
                .into_response())
        }
        Err(e) if e.status().is_some_and(|s| s.is_client_error()) => {
            let mut response = page("Sign in", visitor, None, &html::sign(way, hint));
            *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
            Ok(response)
        }
        Err(e) => Err(Broken(e)),
    }
}

async fn sign_out(State(shop): State<Shop>, visitor: Visitor) -> Page {
    if let Some(token) = &visitor.token {
        let url = format!("{}/sessions/{token}", shop.at.auth);
        shop.needed
            .call(&visitor.context, Method::DELETE, &url, None::<&()>)
            .await?;
    }
    let gone = "session=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0";
    Ok((
        StatusCode::SEE_OTHER,
        [("location", "/"), ("set-cookie", gone)],
    )
        .into_response())
}
