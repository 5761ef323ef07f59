//! HTML; whatever comes from a service is escaped here.

use crate::{Following, Line, Order, Product};

const STYLE: &str = "*{box-sizing:border-box}body{margin:0;font:17px/1.6 Georgia,serif;background:#faf7f2;color:#2b2622}a{color:inherit}header,main,footer{max-width:1080px;margin:auto;padding:20px 24px}header{display:flex;gap:22px;align-items:center;font-family:system-ui,sans-serif;font-size:15px}header a{text-decoration:none}.brand{font:italic 25px Georgia,serif;margin-right:auto}h1{font-weight:400;line-height:1.15;font-size:40px;margin:.4em 0}.hero{padding:34px 0 44px}.hero h1{font-size:58px}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:28px}.card{text-decoration:none;display:block}.card svg,.big svg{width:100%;display:block;border-radius:14px}.card b{display:block;font-weight:400;font-size:19px;margin-top:10px}.soft{color:#83776b;font-size:15px}.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:48px;align-items:center}.narrow{max-width:480px;margin:auto}.price{font-size:24px}form{margin:0}button,input{font:16px system-ui,sans-serif;padding:11px 20px;border-radius:999px;border:1px solid #cfc4b6;background:#fff;color:inherit}button{cursor:pointer}button.main{background:#2b2622;color:#fff;border-color:#2b2622}header button{padding:0;border:0;background:none;font-size:15px}input{width:100%;margin:4px 0 16px}.row{display:flex;gap:14px;align-items:center;flex-wrap:wrap}td{padding:12px 0;border-bottom:1px solid #e6ded3}table{width:100%;border-collapse:collapse}.num{text-align:right}footer{color:#83776b;font:14px system-ui,sans-serif;padding:48px 24px}";

pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn money(cents: i64) -> String {
    format!("€ {}.{:02}", cents / 100, cents % 100)
}

pub(crate) fn layout(title: &str, user: Option<&str>, views: Option<i64>, body: &str) -> String {
    let who = match user {
        Some(user) => format!(
            "<a href=/cart>Cart</a><a href=/orders>Orders</a><span class=soft>{}</span><form method=post action=/sign-out><button>Sign out</button></form>",
            escape(user)
        ),
        None => "<a href=/sign-in>Sign in</a><a href=/sign-up>Sign up</a>".into(),
    };
    let views = views
        .map(|n| format!("<span id=views>Seen {n} times</span> · "))
        .unwrap_or_default();
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{}</title><style>{STYLE}</style><header><a class=brand href=/>A Tu Mano</a>{who}</header><main>{body}</main><footer>{views}A shop that knarr runs</footer></html>",
        escape(title)
    )
}

fn picture(p: &Product) -> String {
    let h = p.hue;
    let (dark, light) = (format!("hsl({h} 38% 42%)"), format!("hsl({h} 42% 66%)"));
    let shape = match p.shape.as_str() {
        "bowl" => format!(
            "<path d='M60 150h180c0 62-40 92-90 92s-90-30-90-92z' fill='{dark}'/><ellipse cx=150 cy=150 rx=90 ry=22 fill='{light}'/>"
        ),
        "vase" => format!(
            "<path d='M128 70h44c-4 44 40 62 40 114 0 40-26 60-62 60s-62-20-62-60c0-52 44-70 40-114z' fill='{dark}'/><ellipse cx=150 cy=70 rx=22 ry=6 fill='{light}'/>"
        ),
        "cloth" => format!(
            "<path d='M70 80h160v160H70z' fill='{light}'/><path d='M70 100h160M70 120h160M70 200h160M70 220h160' stroke='{dark}' stroke-width=9 /><path d='M150 80v160' stroke='#fff' stroke-width=3 opacity='.5'/>"
        ),
        "board" => format!(
            "<rect x=70 y=110 width=160 height=120 rx=22 fill='{light}'/><path d='M84 146h132M84 172h132M84 198h132' stroke='{dark}' stroke-width=3 opacity='.5'/><rect x=136 y=62 width=28 height=60 rx=12 fill='{light}'/>"
        ),
        _ => format!(
            "<rect x=118 y=112 width=64 height=132 rx=8 fill='{light}'/><path d='M150 112V96' stroke='{dark}' stroke-width=4 /><path d='M150 54c18 24 14 42 0 42s-18-18 0-42z' fill='#f2b544'/>"
        ),
    };
    format!(
        "<svg viewBox='0 0 300 300' role=img aria-label=\"{}\"><rect width=300 height=300 fill='hsl({h} 32% 90%)'/><ellipse cx=150 cy=246 rx=100 ry=12 fill='hsl({h} 20% 76%)'/>{shape}</svg>",
        escape(&p.name)
    )
}

pub(crate) fn card(p: &Product) -> String {
    format!(
        "<a class=card href=\"/products/{}\">{}<b>{}</b><span class=soft>{} · {}</span></a>",
        escape(&p.id),
        picture(p),
        escape(&p.name),
        escape(&p.maker_name),
        money(p.price_cents)
    )
}

pub(crate) fn follow_button(p: &Product, f: &Following) -> String {
    format!(
        "<form method=post action=\"/makers/{}/follow\"><input type=hidden name=product value=\"{}\"><input type=hidden name=follow value={}><button id=follow>{} · {}</button></form>",
        escape(&p.maker),
        escape(&p.id),
        !f.following,
        if f.following { "Following" } else { "Follow" },
        f.followers
    )
}

pub(crate) fn product(p: &Product, button: &str) -> String {
    format!(
        "<section class=two><div class=big>{}</div><div><h1>{}</h1><p class=price>{}</p><p>{}</p><div class=row><form method=post action=/cart><input type=hidden name=product value=\"{}\"><input type=hidden name=quantity value=1><button class=main>Put in cart</button></form></div><p class=row><span>Made by {}</span></p>{button}</div></section>",
        picture(p),
        escape(&p.name),
        money(p.price_cents),
        escape(&p.text),
        escape(&p.id),
        escape(&p.maker_name)
    )
}

pub(crate) fn cart(lines: &[Line], products: &[Product], key: &str) -> String {
    if lines.is_empty() {
        return "<section class=narrow><h1>Your cart is empty</h1><p><a href=/>To the shop</a></p></section>".into();
    }
    let mut total = 0;
    let mut rows = String::new();
    for line in lines {
        let Some(p) = products.iter().find(|p| p.id == line.product) else {
            continue;
        };
        let sum = p.price_cents * line.quantity;
        total += sum;
        rows += &format!(
            "<tr><td>{}<td>{} ×<td class=num>{}<td class=num><form method=post action=/cart><input type=hidden name=product value=\"{}\"><input type=hidden name=quantity value=0><button>Remove</button></form>",
            escape(&p.name),
            line.quantity,
            money(sum),
            escape(&p.id)
        );
    }
    format!(
        "<h1>Your cart</h1><table>{rows}</table><p class=\"price num\">{}</p><form class=num method=post action=/orders><input type=hidden name=key value=\"{}\"><button class=main>Order</button></form>",
        money(total),
        escape(key)
    )
}

pub(crate) fn orders(orders: &[Order]) -> String {
    let rows: String = orders
        .iter()
        .map(|o| {
            let what: Vec<String> = o
                .lines
                .iter()
                .map(|l| format!("{} × {}", l.quantity, escape(&l.product)))
                .collect();
            format!(
                "<tr><td class=soft>{}<td>{}<td class=num>{}",
                escape(o.key.get(..8).unwrap_or(&o.key)),
                what.join(", "),
                money(o.total_cents)
            )
        })
        .collect();
    let none = if orders.is_empty() {
        "<p>None yet.</p>"
    } else {
        ""
    };
    format!("<h1>Your orders</h1>{none}<table>{rows}</table>")
}

pub(crate) fn sign(way: &str, hint: &str) -> String {
    format!(
        "<section class=narrow><h1>Sign {way}</h1><p class=soft>{}</p><form method=post action=/sign-{way}><label>Name<input name=name required maxlength=64 pattern=\"[a-z0-9-]+\"></label><label>Password<input name=password type=password required minlength=8></label><button class=main>Sign {way}</button></form></section>",
        escape(hint)
    )
}
