//! What one delivery costs before anybody is looked up: `cargo bench -p notify-protocol`.

use divan::{Bencher, black_box, counter::BytesCount};
use notify_protocol::{Body, HeaderValue, Limits, Notification, decode};

/// Lengths of bodies in bytes.
const SIZES: [usize; 3] = [200, 2_000, 100_000];
const TO_42: [(&[u8], HeaderValue<'static>); 1] = [(b"user-id", HeaderValue::Int(42))];

fn main() {
    divan::main();
}

/// A JSON object of exactly `len` bytes: a list of small objects, as a game's state is.
fn body(len: usize) -> String {
    const ITEM: &str = r#"{"id":1234,"name":"Player","ready":true,"rating":1512.5},"#;
    let (head, tail) = (r#"{"command":"bench","items":["#, r#"{}],"pad":""}"#);
    let items = (len - head.len() - tail.len()) / ITEM.len();
    let pad = len - head.len() - tail.len() - items * ITEM.len();
    format!("{head}{}{}{}\"}}", ITEM.repeat(items), &tail[..tail.len() - 2], "x".repeat(pad))
}

#[divan::bench(args = SIZES)]
fn decode_unicast(bencher: Bencher<'_, '_>, len: usize) {
    let (body, limits) = (body(len), Limits::default());
    assert_eq!(body.len(), len);
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| decode(black_box(TO_42), black_box(body.as_bytes()), &limits).is_ok());
}

#[divan::bench]
fn decode_broadcast_with_foreign_headers(bencher: Bencher<'_, '_>) {
    let (body, limits) = (body(200), Limits::default());
    let headers: [(&[u8], HeaderValue<'_>); 4] = [
        (b"traceparent", HeaderValue::LongString(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        (b"x-death", HeaderValue::Array),
        (b"content-class", HeaderValue::LongString(b"notice")),
        (b"attempt", HeaderValue::Int(1)),
    ];
    bencher.bench_local(|| decode(black_box(headers), black_box(body.as_bytes()), &limits).is_ok());
}

#[divan::bench]
fn drop_what_is_not_json(bencher: Bencher<'_, '_>) {
    let (body, limits) = ("x".repeat(200), Limits::default());
    bencher.bench_local(|| decode(black_box(TO_42), black_box(body.as_bytes()), &limits).is_err());
}

#[divan::bench(args = SIZES)]
fn append_line(bencher: Bencher<'_, '_>, len: usize) {
    let (body, limits) = (body(len), Limits::default());
    let body = Body::check(body.as_bytes(), &limits).expect("an object");
    let mut line = Vec::with_capacity(len + 1);
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        line.clear();
        black_box(&body).append_line_to(&mut line);
        line.len()
    });
}

#[divan::bench]
fn build_a_notification(bencher: Bencher<'_, '_>) {
    let body = body(200);
    bencher.bench_local(|| Notification::to_user(42).raw_json(black_box(body.clone())).build().is_ok());
}
