//! Keys that tests sign with.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

/// A private key and its public half as a JWK.
pub(super) struct TestKey {
    pub(super) signer: EncodingKey,
    pub(super) algorithm: Algorithm,
    pub(super) jwk: Value,
}

pub(super) fn ec_key(kid: &str) -> TestKey {
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
    // An uncompressed point: 4, then x, then y.
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    TestKey {
        signer: EncodingKey::from_ec_der(pkcs8.as_ref()),
        algorithm: Algorithm::ES256,
        jwk: json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": encode(x), "y": encode(y)}),
    }
}

pub(super) fn ed_key(kid: &str) -> TestKey {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("a key");
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    TestKey {
        signer: EncodingKey::from_ed_der(pkcs8.as_ref()),
        algorithm: Algorithm::EdDSA,
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}),
    }
}

pub(super) fn set(keys: &[&TestKey]) -> String {
    json!({"keys": keys.iter().map(|k| &k.jwk).collect::<Vec<_>>()}).to_string()
}

/// Signed once with a key that was thrown away; expires in 2100.
pub(super) const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJzdWIiOiAiNDIiLCAic2NwIjogWyJsb2JieSJdLCAiZXhwIjogNDEwMjQ0NDgwMH0.dxlbGdrUVwMv8vyv80LZoDzqKE1hfNj2dgvPp_gtjPhtOVK51sV93S7zHgPrSx0j3YZ8JvBiRBcFYEYd1CMPxK4AFdLXRYa2F9kLlxXedDNl6d-9rfFNpA0SqU1NeT3i1r_kWv0CYqpmuc_ZhBQL93E4k5uF2o-jnTltnawcb10YmMvU7-fTHxBkQdUK83QourIjjiGKUgrooDM3ql2qvnsfY4HRKPvBxiYjZkh_S7rKwKo7qwJuXANM-ajEs65XEs1cSfU_c2yIIAOE-jnLZDAR_UWKB8ew5Ebp0LTApVUSyVXUvXSd0eBVwCnvnGw1PbWpSaVXBas1yqGm9_1Y7w";
pub(super) const RSA_MODULUS: &str = "kp_RercLNPt0CSIqgcLChd2bivG2780I7JuGoiIcQM6yM0S76Fs-hTqFMeJTNM8k5i6lPv0QSqfkiu6E4QQi06gMjGvkndjZP-ZS5-ab1ayUhFyFXln386VmQGHvuS78CbvOB0zZP8oTsfsQT8DPiViBf3sy-GaWpfIv2GaEFfNEFreJUjSDUX9F-TYV6xtSLaTj0aDNo6XV-73tCAC7xAWavFFmsVPYp9rOTFfSydIvPgb2lOD6Qj0Qpn8SuQ2_xKQmz81kEMmCN1d25vNy9Kw77Z4uCmtL_uBJL1AckUgjMXnGILWU3eTpInK8jWjgLhwoHlRM1_o-rBmt3JdDAw";

pub(super) fn rsa_jwk() -> Value {
    json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "rsa", "e": "AQAB", "n": RSA_MODULUS})
}
