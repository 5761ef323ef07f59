#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shop_common::serve::run("auth", |config| {
        shop_auth::app(config).map_err(|e| e.to_string())
    })
}
