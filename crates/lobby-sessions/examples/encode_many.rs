//! Encodes one message many times: what `cargo xtask bench --instructions` counts the instructions of.
//!
//! `encode_many small|large TIMES`

use std::{hint::black_box, sync::Arc, time::Instant};

use lobby_sessions::{Frame, FrameKind};
use notify_protocol::{Body, Limits};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (which, times) = (arguments.next(), arguments.next().and_then(|times| times.parse::<u64>().ok()));
    let len = match which.as_deref() {
        Some("small") => 189,
        Some("large") => 9_989,
        _ => panic!("which message: small or large"),
    };
    let json = format!(r#"{{"text":"{}"}}"#, "x".repeat(len));
    let limits = Limits::default();
    let body = Body::check(json.as_bytes(), &limits).expect("an object");
    let (meter, at) = (Arc::default(), Instant::now());
    for _ in 0..times.expect("how many times") {
        drop(black_box(Frame::notification(black_box(&body), FrameKind::Text, at, &meter, None)));
    }
}
