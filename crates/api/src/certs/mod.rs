//! Certificate signing requests (PKCS#10): reading them, and signing them with the cluster's CA.

mod der;
mod issue;
mod request;

pub use issue::{Authority, Error};
pub use request::{Request, certificates};
