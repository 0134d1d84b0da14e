//! Decodes one delivery many times: what `cargo xtask bench --instructions` counts the instructions of.
//!
//! `decode_many small|large|dropped TIMES`

use std::hint::black_box;

use notify_protocol::{HeaderValue, Limits, decode};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (which, times) = (arguments.next(), arguments.next().and_then(|times| times.parse::<u64>().ok()));
    let body = match which.as_deref() {
        Some("small") => format!(r#"{{"text":"{}"}}"#, "x".repeat(189)),
        Some("large") => format!(r#"{{"items":[{}0]}}"#, r#"{"id":1234,"ready":true},"#.repeat(400)),
        Some("dropped") => r#"{"text":"no end"#.to_owned(),
        _ => panic!("which delivery: small, large or dropped"),
    };
    let headers: [(&[u8], HeaderValue<'_>); 2] =
        [(b"traceparent", HeaderValue::LongString(b"00-0af7-b7ad-01")), (b"user-id", HeaderValue::Int(42))];
    let limits = Limits::default();
    for _ in 0..times.expect("how many times") {
        let decoded = decode(black_box(headers), black_box(body.as_bytes()), &limits);
        assert_eq!(black_box(decoded).is_ok(), which.as_deref() != Some("dropped"));
    }
}
