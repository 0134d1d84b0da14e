use std::sync::Arc;

use super::*;

fn verdict(reason: &str) -> Verdict<'_> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Verdict { reason, detail: "body is not JSON: expected value at line 1", instance: "pod-7", time }
}

fn delivery(properties: BasicProperties, body: &[u8]) -> Delivery {
    let (exchange, key): (Arc<str>, Arc<str>) = ("faf-lobby".into(), "request.client.notify".into());
    let mut delivery = Delivery::begin(1, exchange, key, false, std::time::Instant::now());
    delivery.set_properties(properties, body.len());
    delivery.extend_body(body);
    delivery
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// One header of each type, containers included.
fn every_type() -> FieldTable {
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::ShortInt(-3));
    let mut table = FieldTable::default();
    for (name, value) in [
        ("bool", AMQPValue::Boolean(true)),
        ("i8", AMQPValue::ShortShortInt(-1)),
        ("u8", AMQPValue::ShortShortUInt(255)),
        ("i16", AMQPValue::ShortInt(-2)),
        ("u16", AMQPValue::ShortUInt(65535)),
        ("i32", AMQPValue::LongInt(-4)),
        ("u32", AMQPValue::LongUInt(u32::MAX)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("f32", AMQPValue::Float(1.5)),
        ("f64", AMQPValue::Double(2.5)),
        ("decimal", AMQPValue::DecimalValue(lapin::types::DecimalValue { scale: 2, value: 4200 })),
        ("text", AMQPValue::LongString(vec![0xff, 0xfe].into())),
        ("bytes", AMQPValue::ByteArray(vec![1, 2, 3].into())),
        ("time", AMQPValue::Timestamp(u64::MAX)),
        ("void", AMQPValue::Void),
        ("list", AMQPValue::FieldArray(vec![AMQPValue::Void, long("x")].into())),
        ("table", AMQPValue::FieldTable(inner)),
    ] {
        table.insert(name.into(), value);
    }
    table
}

fn all_properties() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(every_type())
        .with_delivery_mode(1)
        .with_priority(7)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("60000".into())
        .with_message_id("m".into())
        .with_timestamp(u64::MAX)
        .with_type("t".into())
        .with_user_id("alice".into())
        .with_app_id("a".into())
        .with_cluster_id("z".into())
}

#[test]
fn n06_headers_of_every_type_properties_and_body_are_kept_and_the_verdict_is_added() {
    let letter = DeadLetter::of(delivery(all_properties(), b"\xff not json"), verdict("non_json"), 131_072);
    assert_eq!(letter.body(), b"\xff not json");
    for (name, value) in every_type().inner() {
        assert_eq!(letter.header(name.as_str()), Some(value), "{name}");
    }
    assert_eq!(letter.reason(), Some("non_json"));
    assert_eq!(letter.detail(), Some("body is not JSON: expected value at line 1"));
    assert_eq!((letter.instance(), letter.exchange()), (Some("pod-7"), Some("faf-lobby")));
    assert_eq!(letter.routing_key(), Some("request.client.notify"));
    assert_eq!(letter.time(), SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1_700_000_000)));
    assert_eq!(letter.headers().count(), every_type().inner().len(), "what was added is not the publisher's");
    let shown = letter.properties();
    for (name, value) in
        [("expiration", "60000"), ("user-id", "alice"), ("delivery-mode", "1"), ("type", "t")]
    {
        assert!(shown.contains(&(name, value.to_owned())), "{name}: {shown:?}");
    }
    assert_eq!(shown.len(), 13);
}

#[test]
fn n06_a_dead_letter_neither_expires_nor_claims_to_be_from_another_user_nor_is_lost_with_the_broker() {
    let letter = DeadLetter::of(delivery(all_properties(), b"x"), verdict("non_json"), 131_072);
    let properties = &letter.properties;
    assert_eq!((properties.expiration(), properties.user_id()), (&None, &None));
    assert_eq!(*properties.delivery_mode(), Some(2));
}

#[test]
fn f21_the_original_is_what_was_published_but_for_the_user_who_may_not_be_claimed() {
    let letter = DeadLetter::of(delivery(all_properties(), b"x"), verdict("non_json"), 131_072);
    let original = letter.original().unwrap();
    assert_eq!(
        (original.exchange.as_str(), original.routing_key.as_str()),
        ("faf-lobby", "request.client.notify")
    );
    let mut expected = without_perishable(&all_properties());
    expected = expected.with_headers(every_type()).with_expiration("60000".into()).with_delivery_mode(1);
    assert_eq!(original.properties, expected);

    let bare = DeadLetter::of(delivery(BasicProperties::default(), b"x"), verdict("non_json"), 131_072);
    let persistent = BasicProperties::default().with_delivery_mode(2);
    assert_eq!(bare.original().unwrap().properties, persistent, "no headers, no table");
}

#[test]
fn n13_what_another_program_put_into_the_queue_says_nothing_and_is_not_replayed() {
    let foreign = DeadLetter { properties: all_properties(), body: b"x".to_vec() };
    assert_eq!((foreign.reason(), foreign.time(), foreign.original()), (None, None, None));
    let mut headers = FieldTable::default();
    headers.insert(EXCHANGE.into(), AMQPValue::Void);
    headers.insert(ROUTING_KEY.into(), long(&"k".repeat(256)));
    headers.insert(TIME.into(), AMQPValue::Timestamp(u64::MAX));
    let odd = DeadLetter { properties: BasicProperties::default().with_headers(headers), body: Vec::new() };
    assert_eq!((odd.time(), odd.original()), (None, None));
}

#[test]
fn n13_a_dead_letter_that_comes_back_is_recognised() {
    let letter = DeadLetter::of(delivery(all_properties(), b"x"), verdict("non_json"), 131_072);
    assert!(DeadLetter::is_one(&delivery(letter.properties.clone(), b"x")));
    assert!(!DeadLetter::is_one(&delivery(all_properties(), b"x")));
    let replayed = letter.original().unwrap();
    assert!(!DeadLetter::is_one(&delivery(replayed.properties, b"x")), "a replay may fail once more");
}

#[test]
fn f21_the_publisher_s_own_headers_are_kept_though_they_begin_like_ours() {
    let mut headers = FieldTable::default();
    headers.insert("x-lobby-receipt".into(), long("all"));
    headers.insert("x-lobby-of-my-own".into(), AMQPValue::Void);
    let asking = BasicProperties::default().with_headers(headers.clone()).with_delivery_mode(2);
    let letter = DeadLetter::of(delivery(asking.clone(), b"x"), verdict("non_json"), 131_072);
    let names: Vec<_> = letter.headers().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-lobby-of-my-own", "x-lobby-receipt"]);
    assert_eq!(letter.original().unwrap().properties, asking);

    let mut with_ours = headers.clone();
    with_ours.insert(EXPIRATION.into(), long("1"));
    with_ours.insert(DELIVERY_MODE.into(), AMQPValue::ShortShortUInt(1));
    let confusing = asking.clone().with_headers(with_ours);
    let letter = DeadLetter::of(delivery(confusing, b"x"), verdict("non_json"), 131_072);
    assert_eq!(letter.original().unwrap().properties, asking, "its words under our names are nobody's");
}

#[test]
fn n13_a_publisher_s_own_reason_makes_no_dead_letter() {
    let with = |entries: &[(&str, AMQPValue)]| {
        let mut headers = FieldTable::default();
        for (name, value) in entries {
            headers.insert((*name).into(), value.clone());
        }
        DeadLetter::is_one(&delivery(BasicProperties::default().with_headers(headers), b"x"))
    };
    assert!(!with(&[(REASON, long("mine"))]));
    assert!(!with(&[(REASON, long("mine")), (TIME, long("noon"))]));
    assert!(!with(&[(REASON, AMQPValue::Boolean(true)), (TIME, AMQPValue::Timestamp(1))]));
    assert!(with(&[(REASON, long("non_json")), (TIME, AMQPValue::Timestamp(1))]));
}

#[test]
fn n06_headers_that_fill_a_frame_are_left_out_and_counted_so_that_the_rest_is_kept() {
    let mut headers = FieldTable::default();
    headers.insert("big".into(), AMQPValue::LongString(vec![b'x'; 130_000].into()));
    headers.insert("small".into(), AMQPValue::Void);
    let fat = BasicProperties::default().with_headers(headers).with_message_id("m".into());
    let letter = DeadLetter::of(delivery(fat.clone(), b"x"), verdict("non_json"), 131_072);
    assert_eq!((letter.headers_left_out(), letter.headers().count()), (2, 0));
    assert_eq!((letter.reason(), letter.body()), (Some("non_json"), &b"x"[..]));
    let roomy = DeadLetter::of(delivery(fat, b"x"), verdict("non_json"), 200_000);
    assert_eq!((roomy.headers_left_out(), roomy.headers().count()), (0, 2));
}

#[test]
fn the_length_on_the_wire_is_what_the_library_writes() {
    use amq_protocol::frame::WriteContext;
    let properties = BasicProperties::default().with_headers(every_type());
    let write = lapin::protocol::basic::gen_properties::<Vec<u8>>(&properties);
    let (written, _) = write(WriteContext::from(Vec::new())).unwrap().into_inner();
    assert_eq!(2 + table_len(&every_type()), written.len(), "flags and table");
}

#[test]
fn texts_are_cut_at_a_character() {
    assert_eq!(text("aé", 2), long("a"));
    assert_eq!(text("aé", 3), long("aé"));
    assert_eq!(text("", 3), long(""));
}
