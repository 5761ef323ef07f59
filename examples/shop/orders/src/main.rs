#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shop_common::serve::run("orders", |config| {
        shop_orders::app(config).map_err(|e| e.to_string())
    })
}
