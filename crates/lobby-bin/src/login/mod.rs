//! Login by JWT (`CLIENT_PROTOCOL`, Login).

mod claims;
mod jwks;
mod token;
mod verifier;

pub use jwks::Jwks;
pub use token::mint;
pub use verifier::Verifier;
