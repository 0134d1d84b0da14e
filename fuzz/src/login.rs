//! The lobby's login, without the file that mints tokens.

included! {
    claims = "../../crates/lobby-bin/src/login/claims.rs",
    jwks = "../../crates/lobby-bin/src/login/jwks.rs",
    verifier = "../../crates/lobby-bin/src/login/verifier.rs",
}

pub(crate) use self::{jwks::Jwks, verifier::Verifier};
