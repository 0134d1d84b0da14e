//! What the builder lets through, and what it names as wrong.

use std::collections::BTreeMap;

use super::*;
use crate::{Address, HeaderValue, decode};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn ok() -> NotificationBuilder<HasBody> {
    Notification::to_user(42).raw_json("{}")
}

fn headers(message: &Message) -> Vec<(&str, OutHeader)> {
    message.headers().collect()
}

#[test]
fn k14_each_constructor_writes_its_own_header() {
    let user = Notification::to_user(42).raw_json("{}").build().unwrap();
    assert_eq!(headers(&user), [("user-id", OutHeader::LongLong(42))]);
    let channel = Notification::to_channel("news").raw_json("{}").build().unwrap();
    assert_eq!(headers(&channel), [("channel", OutHeader::LongString("news".to_owned()))]);
    let everyone = Notification::broadcast().raw_json("{}").build().unwrap();
    assert_eq!(headers(&everyone), []);
    for message in [user, channel, everyone] {
        assert_eq!(message.routing_key(), "request.client.notify");
    }
}

#[test]
fn m16_lobby_reads_back_the_address_and_the_body() {
    for (builder, address) in [
        (Notification::to_user(UserId::new(i64::MIN)), Address::User(UserId::new(i64::MIN))),
        (Notification::to_user(0_u32), Address::User(UserId::new(0))),
        (Notification::to_channel(""), Address::Channel(HeaderValue::LongString(b""))),
        (Notification::broadcast(), Address::Everyone),
    ] {
        let message = builder.json(&BTreeMap::from([("text", "é\n")])).header("x-a", 1).build().unwrap();
        let sent: Vec<_> = message.headers().collect();
        let received = sent.iter().map(|(name, value)| (name.as_bytes(), HeaderValue::from(value)));
        let decoded = decode(received, message.body(), &Limits::default()).unwrap();
        assert_eq!((decoded.address, message.address()), (address, address));
        assert_eq!(decoded.body.json(), "{\"text\":\"é\\n\"}".as_bytes());
    }
}

#[test]
fn n22_f24_f26_k13_properties_say_persistent_json_and_what_was_set() {
    let message = Notification::broadcast()
        .expires_in(Duration::from_millis(1500))
        .priority(9)
        .message_id("m-1")
        .raw_json("{}")
        .correlation_id("c-1")
        .reply_to("answers")
        .timestamp(1_700_000_000)
        .app_id("api")
        .build()
        .unwrap();
    let expected = Properties {
        content_type: "application/json",
        content_encoding: "utf-8",
        delivery_mode: 2,
        priority: Some(9),
        correlation_id: Some("c-1".to_owned()),
        reply_to: Some("answers".to_owned()),
        message_id: Some("m-1".to_owned()),
        expiration: Some("1500".to_owned()),
        timestamp: Some(1_700_000_000),
        app_id: Some("api".to_owned()),
    };
    assert_eq!(message.properties(), &expected);
    assert_eq!(ok().build().unwrap().properties(), &Properties::default());
}

#[test]
fn n22_extra_headers_follow_the_address_in_order() {
    let message = ok().header("x-b", "text").traceparent(TRACEPARENT).header("x-a", 7).build().unwrap();
    let expected: [(&str, OutHeader); 4] = [
        ("user-id", 42.into()),
        ("traceparent", TRACEPARENT.into()),
        ("x-b", "text".into()),
        ("x-a", OutHeader::LongLong(7)),
    ];
    assert_eq!(headers(&message), expected);
}

#[test]
fn body_is_sent_verbatim_but_for_its_surroundings() {
    let body = |raw: &str| Notification::broadcast().raw_json(raw).build().unwrap().body().to_vec();
    assert_eq!(body("{\"n\": 1.10,\n\"n\":1e400}"), b"{\"n\": 1.10,\n\"n\":1e400}");
    assert_eq!(body("\u{feff} {}\n"), b"{}");
}

#[test]
fn f25_body_that_lobbies_would_drop_is_refused() {
    let raw = |bytes: &[u8]| Notification::broadcast().raw_json(bytes).build().unwrap_err();
    assert_eq!(raw(b"[1]"), BuildError::BodyNotObject { found: "array" });
    assert!(matches!(raw(b""), BuildError::BodyNotJson { .. }));
    assert!(matches!(raw(b"{\"a\":NaN}"), BuildError::BodyNotJson { .. }));
    assert!(matches!(raw(b"\xff"), BuildError::BodyNotJson { .. }));
    let (len, max) = (4_259_841, 4_259_840);
    assert_eq!(raw(&vec![b' '; len]), BuildError::BodyTooLarge { len, max });

    let json = Notification::broadcast().json("text").build().unwrap_err();
    assert_eq!(json, BuildError::BodyNotObject { found: "string" });
    let keys = Notification::broadcast().json(&BTreeMap::from([(vec![1], 1)])).build().unwrap_err();
    assert!(matches!(keys, BuildError::BodyNotSerializable { .. }), "{keys}");
}

#[test]
fn n04_n22_expiry_is_rounded_up_and_bounded() {
    let expiration = |expiry| ok().expires_in(expiry).build().map(|message| message.properties.expiration);
    for (expiry, ms) in [
        (Duration::from_nanos(1), "1"),
        (Duration::from_micros(1001), "2"),
        (Duration::from_secs(30), "30000"),
        (Duration::from_millis(4_294_967_295), "4294967295"),
    ] {
        assert_eq!(expiration(expiry), Ok(Some(ms.to_owned())), "{expiry:?}");
    }
    assert_eq!(expiration(Duration::ZERO), Err(BuildError::ZeroExpiry));
    let (given_ms, max_ms) = (4_294_967_296, 4_294_967_295);
    assert_eq!(
        expiration(Duration::from_millis(4_294_967_296)),
        Err(BuildError::ExpiryTooLong { given_ms, max_ms })
    );
    assert!(expiration(Duration::MAX).is_err());
}

#[test]
fn short_strings_end_at_255_bytes() {
    type Set = fn(NotificationBuilder<HasBody>, String) -> NotificationBuilder<HasBody>;
    let setters: [(&str, Set); 4] = [
        ("message-id", |builder, text| builder.message_id(text)),
        ("correlation-id", |builder, text| builder.correlation_id(text)),
        ("reply-to", |builder, text| builder.reply_to(text)),
        ("app-id", |builder, text| builder.app_id(text)),
    ];
    for (property, set) in setters {
        assert!(set(ok(), "x".repeat(255)).build().is_ok(), "{property}");
        let error = set(ok(), "é".repeat(128)).build().unwrap_err();
        assert_eq!(error, BuildError::PropertyTooLong { property, len: 256, max: 255 });
    }
    let error = ok().reply_to("").build().unwrap_err();
    assert_eq!(error, BuildError::PropertyEmpty { property: "reply-to" });
    assert!(ok().header("x".repeat(255), 1).build().is_ok());
    for name in [String::new(), "x".repeat(256)] {
        let error = ok().header(name, 1).build().unwrap_err();
        assert!(matches!(error, BuildError::InvalidHeaderName { .. }), "{error}");
    }
}

#[test]
fn a_uuid_of_version_7_holds_the_time_and_the_random_bits() {
    let id = |ms, random| ok().message_id_v7(ms, random).build().unwrap().properties.message_id.unwrap();
    // RFC 9562, A.6.
    let random = [0x0c, 0xc3, 0x18, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f];
    assert_eq!(id(0x017f_22e2_79b0, random), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    assert_eq!(id(0, [0; 10]), "00000000-0000-7000-8000-000000000000");
    assert_eq!(id(u64::MAX, [0xff; 10]), "ffffffff-ffff-7fff-bfff-ffffffffffff");
    assert!(id(1, [0xff; 10]) < id(2, [0; 10]), "ids sort by time");
}

#[test]
fn timestamp_in_milliseconds_is_refused() {
    assert!(ok().timestamp(253_402_300_799).build().is_ok());
    for given in [253_402_300_800, 1_700_000_000_000, u64::MAX] {
        let expected = BuildError::TimestampTooLarge { given, max: 253_402_300_799 };
        assert_eq!(ok().timestamp(given).build(), Err(expected));
    }
}

#[test]
fn k14_reserved_headers_are_refused_in_any_spelling() {
    for name in [
        "user-id",
        "User-Id",
        "user_id",
        "userId",
        " user-id ",
        "channel",
        "Channel",
        "traceparent",
        "CC",
        "BCC",
        "x-lobby-undecodable-headers",
    ] {
        for builder in [ok(), Notification::broadcast().raw_json("{}")] {
            let error = builder.header(name, 42).build().unwrap_err();
            assert!(matches!(error, BuildError::ReservedHeader { .. }), "{name:?}: {error}");
        }
    }
    assert!(ok().header("x-user-id", 42).header("channels", 42).build().is_ok());
}

#[test]
fn header_stands_once_and_all_fit_a_frame() {
    let twice = ok().header("x-a", 1).header("x-a", 2).build();
    assert_eq!(twice, Err(BuildError::DuplicateHeader { name: "\"x-a\"".to_owned() }));
    // On the wire: `user-id` 17 bytes, `x-a` 9 bytes and its text.
    assert!(ok().header("x-a", "x".repeat(65_536 - 26)).build().is_ok());
    let error = ok().header("x-a", "x".repeat(65_536 - 25)).build().unwrap_err();
    assert_eq!(error, BuildError::HeadersTooLarge { len: 65_537, max: 65_536 });
    assert!(Notification::to_channel("x".repeat(70_000)).raw_json("{}").build().is_err());
}

#[test]
fn k15_traceparent_has_the_w3c_form() {
    for text in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
    ] {
        let error = ok().traceparent(text).build().unwrap_err();
        assert!(matches!(error, BuildError::InvalidTraceparent { .. }), "{text:?}: {error}");
    }
}

#[test]
fn texts_of_hostile_values_are_short() {
    let long = "\n".repeat(1 << 20);
    for error in [
        ok().header(long.as_str(), 1).build().unwrap_err(),
        ok().traceparent(long.as_str()).build().unwrap_err(),
        ok().message_id(long.as_str()).build().unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.len() < 512 && !text.contains('\n'), "{text}");
    }
}
