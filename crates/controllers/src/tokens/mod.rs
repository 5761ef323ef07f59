//! What follows from tokens kept in Secrets: bootstrap tokens end when they say so and sign what new members of a cluster look
//! at first; service accounts' tokens that nobody uses are taken out of use.

mod cleaner;
mod legacy;
mod secret;
mod signer;

pub use cleaner::start as cleaner;
pub use legacy::start as legacy;
pub use signer::start as signer;
