#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shop_common::serve::run("follow", |config| {
        shop_follow::app(config).map_err(|e| e.to_string())
    })
}
