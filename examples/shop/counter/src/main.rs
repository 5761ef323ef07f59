#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shop_common::serve::run("counter", |config| {
        shop_counter::app(config).map_err(|e| e.to_string())
    })
}
