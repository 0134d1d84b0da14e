//! What holds for every input: no panic, the publisher's bytes untouched, one line a message.

use notify_protocol::{
    Address, Body, HeaderValue, Limits, Notification, UNDECODABLE_HEADERS_MARKER, UserId, decode,
};
use proptest::{collection::vec, prelude::*};
use serde_json::Value;

/// JSON's own characters more often than others, so that many inputs come close to JSON.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let tokens = [
        "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\\", "\\u", "d800", "0", "-", "1.5", "1e9", "true",
        "null", " ", "\n", "\r", "\t", "\u{feff}", "é", "\0",
    ];
    let token = prop_oneof![
        9 => proptest::sample::select(tokens.map(|token| token.as_bytes().to_vec()).to_vec()),
        1 => vec(any::<u8>(), 0..3),
    ];
    vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

/// White space between tokens.
fn blank() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

/// A string's text with escapes in several spellings.
fn string() -> impl Strategy<Value = String> {
    r#"([a-z é😀{}\[\]:,/]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,8}"#.prop_map(|text| format!("\"{text}\""))
}

/// Any JSON value, with blanks between its tokens.
fn value() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?";
    let leaf = prop_oneof![number, string(), "true|false|null"];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            (vec((blank(), inner.clone(), blank()), 0..6), blank()).prop_map(|(items, inside)| {
                let items: Vec<_> = items.into_iter().map(|(a, item, b)| a + &item + &b).collect();
                if items.is_empty() { format!("[{inside}]") } else { format!("[{}]", items.join(",")) }
            }),
            object_of(inner),
        ]
    })
}

fn object_of(inner: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (blank(), string(), blank(), blank(), inner, blank());
    (vec(member, 0..6), blank()).prop_map(|(members, inside)| {
        let members: Vec<_> = members
            .into_iter()
            .map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"))
            .collect();
        if members.is_empty() { format!("{{{inside}}}") } else { format!("{{{}}}", members.join(",")) }
    })
}

fn header_value() -> impl Strategy<Value = HeaderValue<'static>> {
    let leaked = || vec(any::<u8>(), 0..12).prop_map(|bytes| &*bytes.leak());
    prop_oneof![
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<i64>().prop_map(HeaderValue::Int),
        any::<f32>().prop_map(HeaderValue::Float),
        any::<f64>().prop_map(HeaderValue::Double),
        any::<(u8, u32)>().prop_map(|(scale, value)| HeaderValue::Decimal { scale, value }),
        leaked().prop_map(HeaderValue::LongString),
        "[+-]?[0-9]{1,20}".prop_map(|text| HeaderValue::LongString(text.into_bytes().leak())),
        leaked().prop_map(HeaderValue::Bytes),
        any::<u64>().prop_map(HeaderValue::Timestamp),
        Just(HeaderValue::Void),
        Just(HeaderValue::Array),
        Just(HeaderValue::Table),
    ]
}

fn header() -> impl Strategy<Value = (&'static [u8], HeaderValue<'static>)> {
    let names: [&[u8]; 7] = [
        b"user-id",
        b"user-id",
        b"channel",
        b"User-Id",
        b"x",
        b"\xff",
        UNDECODABLE_HEADERS_MARKER.as_bytes(),
    ];
    (proptest::sample::select(names.to_vec()), header_value())
}

fn line(body: &Body<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    body.append_line_to(&mut line);
    line
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_bytes_panic_and_what_passes_is_an_object_on_one_line(
        bytes in prop_oneof![vec(any::<u8>(), 0..200), nearly_json()],
    ) {
        let ours = Body::check(&bytes, &Limits::default());
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        // Reading a document is stricter in two points only: surrogates that stand alone and numbers out of range.
        let document = str::from_utf8(text).ok().and_then(|text| serde_json::from_str::<Value>(text).ok());
        match document {
            Some(document) => prop_assert_eq!(ours.is_ok(), document.is_object()),
            None if text.windows(2).any(|pair| pair == b"\\u" || pair == b"1e") => {}
            None => prop_assert!(ours.is_err()),
        }
        if let Ok(body) = ours {
            let line = line(&body);
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
            prop_assert_eq!((line.first(), line.last()), (Some(&b'{'), Some(&b'}')));
        }
    }

    #[test]
    fn every_object_passes_with_its_own_bytes(
        bom in any::<bool>(), before in blank(), object in object_of(value()), after in blank(),
    ) {
        let bytes = format!("{}{before}{object}{after}", if bom { "\u{feff}" } else { "" });
        let body = Body::check(bytes.as_bytes(), &Limits::default()).unwrap();
        prop_assert_eq!(body.json(), object.as_bytes());
        // Strings of this grammar hold no raw line end, so only white space differs.
        prop_assert_eq!(line(&body), object.replace(['\r', '\n'], " ").into_bytes());
    }

    #[test]
    fn address_follows_the_last_user_id_and_never_guesses(headers in vec(header(), 0..6)) {
        let last = |wanted: &[u8]| headers.iter().rev().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let set = |wanted| last(wanted).filter(|value| !matches!(value, HeaderValue::Void));
        let decoded = decode(headers.iter().copied(), b"{}", &Limits::default());
        let expected = if last(UNDECODABLE_HEADERS_MARKER.as_bytes()).is_some() {
            None
        } else {
            match (set(b"user-id"), set(b"channel")) {
                (Some(HeaderValue::Int(id)), _) => Some(Address::User(UserId::new(id))),
                (Some(HeaderValue::LongString(text)), _) => UserId::from_ascii(text).map(Address::User),
                (Some(_), _) => None,
                (None, Some(channel)) => Some(Address::Channel(channel)),
                (None, None) => Some(Address::Everyone),
            }
        };
        // By text: a float that is not a number is not equal to itself.
        prop_assert_eq!(
            decoded.as_ref().map(|decoded| decoded.address.to_string()).ok(),
            expected.map(|address| address.to_string())
        );
        if let Err(reason) = decoded {
            let text = reason.to_string();
            prop_assert!(text.len() < 512 && !text.contains('\n'), "{}", text);
        }
    }

    #[test]
    fn user_id_text_is_the_contracts_grammar(text in prop_oneof![
        "[+-]?[0-9]{1,21}", "[+_ 0-9-]{0,5}", ".{0,5}", "[+-]?922337203685477580[0-9]",
    ]) {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
        let in_grammar = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let expected = in_grammar.then(|| text.parse::<i128>().unwrap()).and_then(|id| i64::try_from(id).ok());
        prop_assert_eq!(UserId::from_ascii(text.as_bytes()).map(UserId::get), expected);
    }

    #[test]
    fn what_is_built_is_read_back(id in any::<i64>(), object in object_of(value())) {
        let message = Notification::to_user(id).raw_json(object.as_str()).build().unwrap();
        let sent: Vec<_> = message.headers().collect();
        let wire = sent.iter().map(|(name, value)| (name.as_bytes(), HeaderValue::from(value)));
        let decoded = decode(wire, message.body(), &Limits::default()).unwrap();
        prop_assert_eq!(decoded.address, Address::User(UserId::new(id)));
        prop_assert_eq!(decoded.body.json(), object.as_bytes());
    }
}
