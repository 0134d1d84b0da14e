//! Any body against a model of JSON: forwarded byte for byte as one line, or dropped for the right reason.

use notify_protocol::{Body, DropReason, Limits};

use crate::json;

/// Checks `data` as a body and, if it passes, what clients get of it.
pub fn run(data: &[u8]) {
    let limits = Limits { max_body_bytes: 4096 };
    let checked = Body::check(data, &limits);
    let stripped = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    match (&checked, json::kind(stripped)) {
        (Err(DropReason::TooLarge { .. }), _) => assert!(data.len() > limits.max_body_bytes),
        (Ok(_), Some(json::Kind::Object))
        | (Err(DropReason::NotObject { .. }), Some(json::Kind::Other))
        | (Err(DropReason::NonJson { .. }), None) => assert!(data.len() <= limits.max_body_bytes),
        (got, model) => panic!("{got:?}, but the model says {model:?}"),
    }
    let Ok(body) = checked else { return };
    let mut line = Vec::new();
    body.append_line_to(&mut line);
    assert!(line.starts_with(b"{") && line.ends_with(b"}"));
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "more than one line");
    // The publisher's own bytes: only white space around the object may go, only line ends may change.
    let begin = stripped.iter().position(|byte| *byte == b'{').unwrap_or_default();
    let own = &stripped[begin..begin + line.len()];
    assert!(stripped[begin + line.len()..].iter().all(u8::is_ascii_whitespace));
    assert!(
        own.iter().zip(&line).all(|(was, is)| was == is || (*is == b' ' && matches!(was, b'\n' | b'\r')))
    );
    assert_eq!(json::kind(&line), Some(json::Kind::Object));
}
