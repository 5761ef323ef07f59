#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shop_common::serve::run("frontend", |_| {
        Ok(shop_frontend::app(shop_frontend::Addresses::from_env()))
    })
}
