//! Private keys, the tokens that they sign, and their public halves in every spelling.

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::token;

/// One key.
#[derive(Debug)]
pub(super) struct Signer {
    kid: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    /// A new key for ES256.
    pub(super) fn es256(kid: &str) -> anyhow::Result<Self> {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| anyhow!("make a key"))?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random)
            .map_err(|error| anyhow!("read a key: {error}"))?;
        Ok(Self { kid: kid.to_owned(), pair: Pair::Es256(pair) })
    }

    /// A new key for EdDSA.
    pub(super) fn ed_dsa(kid: &str) -> anyhow::Result<Self> {
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow!("make a key"))?;
        let pair =
            Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|error| anyhow!("read a key: {error}"))?;
        Ok(Self { kid: kid.to_owned(), pair: Pair::EdDsa(pair) })
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) fn alg(&self) -> &'static str {
        match self.pair {
            Pair::Es256(_) => "ES256",
            Pair::EdDsa(_) => "EdDSA",
        }
    }

    /// The public half, as it stands in a key set.
    pub(super) fn jwk(&self) -> Value {
        let bytes = self.public();
        match self.pair {
            // An uncompressed point: 4, then x, then y.
            Pair::Es256(_) => json!({
                "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
                "x": BASE64URL.encode(&bytes[1..33]), "y": BASE64URL.encode(&bytes[33..]),
            }),
            Pair::EdDsa(_) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": BASE64URL.encode(bytes) })
            }
        }
    }

    fn public(&self) -> &[u8] {
        match &self.pair {
            Pair::Es256(pair) => pair.public_key().as_ref(),
            Pair::EdDsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// What a forger might take for a shared secret.
    pub(super) fn public_spellings(&self) -> Vec<(&'static str, Vec<u8>)> {
        /// SubjectPublicKeyInfo of a key on P-256 and of one on Ed25519, up to the key itself (RFC 5480, RFC 8410).
        const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
        const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
        let jwk = self.jwk();
        let head = if matches!(self.pair, Pair::Es256(_)) { P256 } else { ED25519 };
        let der = [head, self.public()].concat();
        let text = base64::engine::general_purpose::STANDARD.encode(&der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
        vec![
            ("the public key", self.public().to_vec()),
            ("its x in base64url", jwk["x"].as_str().unwrap_or_default().as_bytes().to_vec()),
            ("its JWK", jwk.to_string().into_bytes()),
            ("its DER", der),
            ("its PEM", pem.clone().into_bytes()),
            ("its PEM with a newline", format!("{pem}\n").into_bytes()),
        ]
    }

    /// A token that logs in as `user` for an hour.
    pub(super) fn token(&self, user: i64) -> anyhow::Result<String> {
        self.signed(&json!({ "alg": self.alg(), "kid": self.kid }), &token::claims(user)?)
    }

    /// Any header and claims with this key's signature.
    pub(super) fn signed(&self, header: &Value, claims: &Value) -> anyhow::Result<String> {
        let content =
            format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
        Ok(format!("{content}.{}", BASE64URL.encode(self.signature(content.as_bytes())?)))
    }

    fn signature(&self, content: &[u8]) -> anyhow::Result<Vec<u8>> {
        match &self.pair {
            Pair::Es256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), content).map_err(|_| anyhow!("sign"))?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::EdDsa(pair) => Ok(pair.sign(content).as_ref().to_vec()),
        }
    }
}

/// A key set's text.
pub(super) fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// `token` with each bit of its signature flipped in turn.
pub(super) fn with_flipped_bits(token: &str) -> anyhow::Result<Vec<String>> {
    let (content, signature) = token.rsplit_once('.').context("a token has dots")?;
    let signature = BASE64URL.decode(signature).context("a signature in base64url")?;
    let flipped = (0..signature.len() * 8).map(|bit| {
        let mut other = signature.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        format!("{content}.{}", BASE64URL.encode(other))
    });
    Ok(flipped.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_signature_of_64_bytes_and_512_bits_to_flip() {
        for signer in [Signer::es256("a").unwrap(), Signer::ed_dsa("b").unwrap()] {
            let token = signer.token(42).unwrap();
            let flipped = with_flipped_bits(&token).unwrap();
            assert_eq!(flipped.len(), 512);
            assert!(flipped.iter().all(|other| *other != token && other.len() == token.len()));
        }
    }
}
