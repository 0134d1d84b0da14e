//! Login by JWT (`CLIENT_PROTOCOL`, Login).

mod claims;
mod desk;
mod jwks;
mod token;
mod verifier;

pub use desk::LoginDesk;
pub use jwks::Jwks;
pub use token::mint;
pub use verifier::Verifier;
