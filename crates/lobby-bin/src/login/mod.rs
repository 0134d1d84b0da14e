//! Login by JWT (`CLIENT_PROTOCOL`, Login).

mod claims;
mod desk;
#[cfg(test)]
mod hostile_tokens;
mod jwks;
#[cfg(test)]
mod test_keys;
mod token;
mod verifier;

pub use desk::LoginDesk;
pub use jwks::Jwks;
pub use token::mint;
pub use verifier::Verifier;
