//! Tokens that somebody made to be let in with (rows A1 to A6 of the threat model): each is refused, and no address that
//! stands in a token is ever asked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign, get_current_timestamp};
use lobby_sessions::Authenticator;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{
    Jwks, Verifier,
    test_keys::{RSA_MODULUS, RSA_TOKEN, TestKey, ec_key, ed_key, rsa_jwk},
};
use crate::config::{Sources, load};

/// A key set behind an address that counts who asks, and a lobby that verifies with it.
struct Door {
    verifier: Verifier,
    address: String,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
    ec: TestKey,
    ed: TestKey,
}

impl Door {
    async fn open() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (ec, ed) = (ec_key("ec"), ed_key("ed"));
        let set = json!({"keys": [ec.jwk, ed.jwk, rsa_jwk()]}).to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}/jwks", listener.local_addr().expect("an address"));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("asked");
                count.fetch_add(1, Relaxed);
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", set.len());
                // Who asks may be gone.
                let _ = socket.write_all((head + &set).as_bytes()).await;
            }
        });
        let jwks = Arc::new(Jwks::open(&address).await.expect("the key set"));
        let config = load(&Sources::default()).expect("the defaults").config;
        Self { verifier: Verifier::new(&config, Some(jwks)), address, asked, serving, ec, ed }
    }

    async fn lets_in(&self, token: &str) -> bool {
        self.verifier.authenticate(token).await.is_ok()
    }

    /// How often the set was asked for since the start, where once is allowed: for the first unknown `kid`.
    fn asked_again(&self) -> usize {
        self.asked.load(Relaxed) - 1
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn claims() -> Value {
    json!({"sub": "42", "scp": ["lobby"], "exp": get_current_timestamp() + 60})
}

fn content(header: &Value, claims: &Value) -> String {
    [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
}

/// Signed as `key` signs, whatever the header says.
fn signed(key: &TestKey, header: &Value, claims: &Value) -> String {
    let content = content(header, claims);
    let signature = sign(content.as_bytes(), &key.signer, key.algorithm).expect("signed");
    format!("{content}.{signature}")
}

#[tokio::test]
async fn a1_only_the_algorithm_of_the_key_is_accepted_whatever_the_token_names() {
    let door = Door::open().await;
    let names = [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256",
        "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA", "Ed25519", "es256", "dir", "A128KW",
    ];
    let odd = [json!(null), json!(7), json!(["ES256"]), json!({"alg": "ES256"})];
    let algorithms: Vec<Value> = names.iter().map(|name| json!(name)).chain(odd).collect();
    for (key, kid, own) in [(&door.ec, "ec", "ES256"), (&door.ed, "ed", "EdDSA")] {
        for algorithm in &algorithms {
            let header = json!({"alg": algorithm, "kid": kid});
            let unsigned = format!("{}.", content(&header, &claims()));
            assert!(!door.lets_in(&unsigned).await, "{header} without a signature");
            let accepted = door.lets_in(&signed(key, &header, &claims())).await;
            assert_eq!(accepted, *algorithm == own, "{header}");
        }
        assert!(!door.lets_in(&signed(key, &json!({"kid": kid}), &claims())).await, "no algorithm");
    }
    // The key of one algorithm under the name of another's.
    for (key, kid) in [(&door.ec, "ed"), (&door.ed, "ec"), (&door.ec, "rsa"), (&door.ed, "rsa")] {
        for algorithm in ["ES256", "EdDSA", "RS256"] {
            let header = json!({"alg": algorithm, "kid": kid});
            assert!(!door.lets_in(&signed(key, &header, &claims())).await, "{header}");
        }
    }
}

#[tokio::test]
async fn a2_a_public_key_is_no_secret_for_hmac() {
    let door = Door::open().await;
    let text = |key: &TestKey, part: &str| key.jwk[part].as_str().unwrap_or_default().to_owned();
    let secrets = [
        text(&door.ec, "x").into_bytes(),
        URL_SAFE_NO_PAD.decode(text(&door.ec, "x")).expect("base64"),
        door.ec.jwk.to_string().into_bytes(),
        URL_SAFE_NO_PAD.decode(text(&door.ed, "x")).expect("base64"),
        RSA_MODULUS.as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(RSA_MODULUS).expect("base64"),
        Vec::new(),
    ];
    for secret in &secrets {
        for (name, algorithm) in
            [("HS256", Algorithm::HS256), ("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)]
        {
            for kid in ["ec", "ed", "rsa"] {
                let key = TestKey { signer: EncodingKey::from_secret(secret), algorithm, jwk: Value::Null };
                let header = json!({"alg": name, "kid": kid});
                assert!(!door.lets_in(&signed(&key, &header, &claims())).await, "{header}");
            }
        }
    }
}

#[tokio::test]
async fn a3_keys_and_addresses_inside_a_token_are_neither_used_nor_asked() {
    let door = Door::open().await;
    let (own, trap) = (ec_key("own"), Door::open().await);
    let before = trap.asked.load(Relaxed);
    for kid in ["ec", "own"] {
        for extra in [
            json!({"jwk": own.jwk}),
            json!({"jku": trap.address}),
            json!({"x5u": trap.address}),
            json!({"x5c": ["MIIB"], "x5t": "AAAA"}),
            json!({"jwk": own.jwk, "jku": trap.address, "x5u": trap.address}),
            json!({"crit": ["exp"], "exp": 1}),
            json!({"crit": ["b64"], "b64": false}),
        ] {
            let mut header = json!({"alg": "ES256", "kid": kid});
            header.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            assert!(!door.lets_in(&signed(&own, &header, &claims())).await, "{header}");
            let critical = header.get("crit").is_some();
            let genuine = door.lets_in(&signed(&door.ec, &header, &claims())).await;
            assert!(!(critical && genuine), "an extension that nobody understands: {header}");
            assert!(!genuine || kid == "ec", "{header}");
        }
    }
    assert_eq!(trap.asked.load(Relaxed), before, "an address of a token was asked");
    assert!(door.asked_again() <= 1);
}

#[tokio::test]
async fn a4_a_kid_names_a_key_of_the_set_or_nothing() {
    let door = Door::open().await;
    let long = "k".repeat(1 << 20);
    for kid in [
        "",
        " ",
        "EC",
        "ec ",
        "ec\0",
        "../ec",
        "../../etc/passwd",
        "/dev/stdin",
        "file:///etc/passwd",
        "ec' OR '1'='1",
        "${jndi:ldap://a}",
        "http://169.254.169.254/",
        &long,
    ] {
        let header = json!({"alg": "ES256", "kid": kid});
        assert!(!door.lets_in(&signed(&door.ec, &header, &claims())).await, "{kid:.40}");
    }
    for kid in [json!(null), json!(0), json!(["ec"]), json!({"ec": 1}), json!(true)] {
        let header = json!({"alg": "ES256", "kid": kid});
        assert!(!door.lets_in(&signed(&door.ec, &header, &claims())).await, "{header}");
    }
    assert!(!door.lets_in(&signed(&door.ec, &json!({"alg": "ES256"}), &claims())).await, "no kid");
    assert!(door.asked_again() <= 1, "asked {} times", door.asked_again());
}

#[tokio::test]
async fn a5_claims_of_a_wrong_type_or_value_are_refused() {
    let door = Door::open().await;
    let now = get_current_timestamp();
    let header = json!({"alg": "EdDSA", "kid": "ed"});
    assert!(door.lets_in(&signed(&door.ed, &header, &claims())).await);
    let odd = [
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!("soon"),
        json!([now + 60]),
        json!({"at": now + 60}),
    ];
    let table: [(&str, Vec<Value>); 5] = [
        ("exp", [&odd[..], &[json!(now - 31), json!(0), json!(-1), json!(-1e300)]].concat()),
        ("nbf", [&odd[1..], &[json!(now + 31 + 20), json!(1e300), json!(u64::MAX)]].concat()),
        ("scp", [&odd[..], &[json!("lobbyist"), json!(["Lobby"]), json!([["lobby"]]), json!(7)]].concat()),
        (
            "sub",
            [&odd[..], &[json!(4.2), json!("4.2"), json!(""), json!(" 42"), json!(u64::MAX), json!("0x2a")]]
                .concat(),
        ),
        ("exp", vec![json!(format!("{}", now + 60))]),
    ];
    for (claim, values) in table {
        for value in values {
            let mut wrong = claims();
            wrong[claim] = value;
            assert!(!door.lets_in(&signed(&door.ed, &header, &wrong)).await, "{wrong}");
        }
    }
    for claim in ["exp", "scp", "sub"] {
        let mut without = claims();
        without.as_object_mut().expect("an object").remove(claim);
        assert!(!door.lets_in(&signed(&door.ed, &header, &without)).await, "{without}");
    }
    for claims in [json!([]), json!("42"), json!(null), json!(42)] {
        assert!(!door.lets_in(&signed(&door.ed, &header, &claims)).await, "{claims}");
    }
}

#[tokio::test]
async fn a6_every_flipped_bit_of_a_signature_and_every_change_of_what_is_signed_is_noticed() {
    let door = Door::open().await;
    let by_key = |key, kid, algorithm| signed(key, &json!({"alg": algorithm, "kid": kid}), &claims());
    // An RSA verification of a debug build takes some milliseconds: one bit of each byte.
    for (token, stride) in [
        (by_key(&door.ec, "ec", "ES256"), 1),
        (by_key(&door.ed, "ed", "EdDSA"), 1),
        (RSA_TOKEN.to_owned(), 9),
    ] {
        assert!(door.lets_in(&token).await);
        let (content, signature) = token.rsplit_once('.').expect("three parts");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        let with = |signature: &[u8]| format!("{content}.{}", URL_SAFE_NO_PAD.encode(signature));
        for bit in (0..signature.len() * 8).step_by(stride) {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!door.lets_in(&with(&flipped)).await, "bit {bit} of {token:.40}");
        }
        let longer = [&signature[..], &[0]].concat();
        for other in
            [&signature[1..], &signature[..signature.len() - 1], &longer, &[], &vec![0; signature.len()]]
        {
            assert!(!door.lets_in(&with(other)).await, "{} bytes", other.len());
        }
        for at in (0..content.len()).step_by(31) {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(!door.lets_in(&changed).await, "letter {at}");
        }
        for spelling in [
            format!("{token}="),
            format!("{token} "),
            format!(" {token}"),
            format!("{token}.x"),
            token.replace('.', ".."),
        ] {
            assert!(!door.lets_in(&spelling).await, "{spelling:.40}");
        }
    }
}
