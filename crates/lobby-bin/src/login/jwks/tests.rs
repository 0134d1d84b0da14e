use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, encode};
use lobby_sessions::Authenticator;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    config::{Sources, load},
    login::{
        Verifier,
        test_keys::{RSA_TOKEN, TestKey, ec_key, ed_key, rsa_jwk, set},
    },
};

fn token(key: &TestKey, kid: Option<&str>) -> String {
    let claims = json!({"sub": "42", "scp": ["lobby"], "exp": jsonwebtoken::get_current_timestamp() + 60});
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(key.algorithm) };
    encode(&header, &claims, &key.signer).expect("signed")
}

/// Signed with the secret of [`accepts`].
fn by_secret(kid: Option<&str>) -> String {
    let signer = EncodingKey::from_secret(b"development");
    token(&TestKey { signer, algorithm: Algorithm::HS256, jwk: Value::Null }, kid)
}

async fn accepts(jwks: &Arc<Jwks>, token: &str) -> bool {
    let environment = [("LOBBY_AUTH__SECRET".to_owned(), "development".to_owned())].into();
    let config = load(&Sources { environment, ..Sources::default() }).expect("accepted").config;
    Verifier::new(&config, Some(Arc::clone(jwks))).authenticate(token).await.is_ok()
}

async fn from_file(text: &str) -> anyhow::Result<Arc<Jwks>> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    Jwks::open(file.path().to_str().expect("UTF-8")).await.map(Arc::new)
}

#[tokio::test]
async fn keys_of_a_file_verify_what_they_signed_and_nothing_else() {
    let (ec, ed, other) = (ec_key("ec"), ed_key("ed"), ec_key("ec"));
    let jwks = from_file(&set(&[&ec, &ed])).await.expect("a set");
    assert!(accepts(&jwks, &token(&ec, Some("ec"))).await);
    assert!(accepts(&jwks, &token(&ed, Some("ed"))).await);
    for (what, token) in [
        ("another key of the same name", token(&other, Some("ec"))),
        ("the key of another algorithm", token(&ec, Some("ed"))),
        ("an unknown name", token(&ec, Some("new"))),
        ("a name like a path", token(&ec, Some("../../etc/passwd"))),
        ("no name", token(&ec, None)),
        ("an unknown name, signed with the secret", by_secret(Some("new"))),
    ] {
        assert!(!accepts(&jwks, &token).await, "{what}");
    }
}

#[tokio::test]
async fn a_token_signed_with_rs256_is_verified() {
    let jwks = from_file(&json!({"keys": [rsa_jwk()]}).to_string()).await.expect("a set");
    assert!(accepts(&jwks, RSA_TOKEN).await);
    let (signed, signature) = RSA_TOKEN.rsplit_once('.').expect("three parts");
    let (header, _) = signed.split_once('.').expect("three parts");
    let claims =
        URL_SAFE_NO_PAD.encode(json!({"sub": "43", "scp": ["lobby"], "exp": 4102444800u64}).to_string());
    assert!(!accepts(&jwks, &format!("{header}.{claims}.{signature}")).await);
}

#[tokio::test]
async fn the_public_key_is_no_secret_for_hs256() {
    let ec = ec_key("ec");
    let jwks = from_file(&set(&[&ec])).await.expect("a set");
    let claims = json!({"sub": "42", "scp": ["lobby"], "exp": jsonwebtoken::get_current_timestamp() + 60});
    let x = ec.jwk["x"].as_str().expect("x");
    let header = Header { kid: Some("ec".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged = encode(&header, &claims, &EncodingKey::from_secret(x.as_bytes())).expect("signed");
    assert!(!accepts(&jwks, &forged).await);
}

#[tokio::test]
async fn a_set_without_a_usable_key_is_refused_and_says_so() {
    let symmetric = json!({"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}).to_string();
    let encryption = {
        let mut key = ec_key("ec");
        key.jwk["use"] = json!("enc");
        set(&[&key])
    };
    for text in ["", "[]", "{}", r#"{"keys": []}"#, symmetric.as_str(), encryption.as_str()] {
        let error = from_file(text).await.err().expect(text);
        assert!(format!("{error:#}").contains("key set"), "{error:#}");
    }
}

#[tokio::test]
async fn a_key_that_nobody_understands_does_not_cost_the_others() {
    let ec = ec_key("ec");
    let text = json!({"keys": [{"kty": "future", "kid": "x"}, 7, ec.jwk]}).to_string();
    assert!(accepts(&from_file(&text).await.expect("a set"), &token(&ec, Some("ec"))).await);
}

#[tokio::test]
async fn unknown_names_ask_the_url_once_and_old_keys_outlive_its_failure() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (old, new) = (ec_key("old"), ec_key("new"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    let answers = [set(&[&old]), set(&[&old, &new])];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("asked");
            let mut request = [0; 4096];
            assert!(socket.read(&mut request).await.expect("a request") > 0);
            let answer = &answers[count.fetch_add(1, Relaxed).min(1)];
            let len = answer.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
            socket.write_all((head + answer).as_bytes()).await.expect("answered");
        }
    });
    let jwks = Arc::new(Jwks::open(&url).await.expect("opened"));
    assert!(accepts(&jwks, &token(&old, Some("old"))).await);
    assert!(accepts(&jwks, &token(&new, Some("new"))).await, "rotation is noticed");
    for n in 0..50 {
        assert!(!accepts(&jwks, &token(&new, Some(&format!("random-{n}")))).await);
    }
    assert_eq!(asked.load(Relaxed), 2, "once at the start, once for all unknown names");
    server.abort();
    let _ = server.await;
    assert!(jwks.refresh().await.is_err(), "the URL is down");
    assert!(accepts(&jwks, &token(&old, Some("old"))).await, "keys in hand keep working");
}

/// Takes a real time-out, and waits for its end and not for a time.
#[tokio::test]
async fn a_source_that_never_answers_or_never_ends_is_given_up() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let whole = set(&[&ec_key("ec")]);
    let half = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{whole}", whole.len() + 1);
    let given_up = ["", "HTTP/1.1 200 OK\r\n", &half].map(async |answer| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let opening = tokio::time::timeout(Duration::from_secs(20), Jwks::open(&url));
        let silence = async {
            let (mut socket, _) = listener.accept().await.expect("asked");
            socket.write_all(answer.as_bytes()).await.expect("written");
            // Until the lobby closes.
            let mut request = Vec::new();
            let _ = socket.read_to_end(&mut request).await;
        };
        let (jwks, ()) = tokio::join!(opening, silence);
        let jwks = jwks.expect("given up").expect("a URL that does not answer is asked again");
        assert!(jwks.keys.load().is_empty(), "after {answer:?}");
    });
    futures_util::future::join_all(given_up).await;
}

#[tokio::test]
async fn redirects_without_end_are_not_followed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let jwks = Jwks::open(&url);
    let mut asked = 0;
    let redirecting = async {
        loop {
            let (mut socket, _) = listener.accept().await.expect("asked");
            let mut request = [0; 4096];
            assert!(socket.read(&mut request).await.expect("a request") > 0);
            asked += 1;
            assert!(asked < 50, "it is followed for ever");
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {url}{asked}\r\nContent-Length: 0\r\n");
            socket.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.expect("answered");
        }
    };
    tokio::select! {
        jwks = jwks => assert!(jwks.expect("it is asked again").keys.load().is_empty()),
        () = redirecting => unreachable!("it never ends"),
    }
    assert_eq!(asked, 1 + MAX_REDIRECTS);
}

#[tokio::test]
async fn a_key_set_over_its_limit_is_not_taken_and_the_old_keys_stay() {
    let ec = ec_key("ec");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("UTF-8");
    std::fs::write(path, set(&[&ec])).expect("written");
    let jwks = Arc::new(Jwks::open(path).await.expect("a set"));
    std::fs::write(path, set(&[&ec]) + &" ".repeat(MAX_BYTES)).expect("written");
    assert!(jwks.refresh().await.is_err(), "a file");
    assert!(accepts(&jwks, &token(&ec, Some("ec"))).await);
    // From a URL that names no length: it is read no further.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("asked");
        let mut request = [0; 4096];
        assert!(socket.read(&mut request).await.expect("a request") > 0);
        socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.expect("answered");
        let mut sent = 0;
        while socket.write_all(&[b' '; 4096]).await.is_ok() {
            sent += 4096;
            assert!(sent < 100 * MAX_BYTES, "it is read for ever");
        }
    });
    let client = reqwest::Client::new();
    let error = fetch(&client, &url.parse().expect("a URL")).await.expect_err("too large");
    assert!(error.to_string().contains("larger than"), "{error:#}");
    server.await.expect("it was cut off");
}
