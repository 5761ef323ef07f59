#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shop_common::serve::run("products", |config| {
        shop_products::app(config).map_err(|e| e.to_string())
    })
}
