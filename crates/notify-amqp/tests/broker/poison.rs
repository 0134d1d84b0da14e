//! Messages that break lapin's parser: each must reach the dispatch, be acked, and let the next one through.

use crate::{
    raw::{entry, sized},
    rig::{Got, Rig, Running},
};

/// Publishes header entries, then a healthy message; returns the delivery of the first.
async fn survives(entries: &[u8]) -> Got {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    rig.raw.publish_headers(&rig.exchange, entries, b"poison");
    rig.raw.publish_plain(&rig.exchange, b"healthy");
    let mut poison = running.next().await;
    assert_eq!(poison.body, b"poison");
    poison.ticket = None;
    assert_eq!(running.next().await.body, b"healthy");
    running.until_stat("both acked", |stats| stats.acked.get() == 2).await;
    let stats = running.handle.stats();
    assert_eq!((stats.connects.get(), stats.redelivered.get(), stats.undecodable_headers.get()), (1, 0, 0));
    running.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
    poison
}

fn nested(letter: u8, levels: usize) -> Vec<u8> {
    let mut content = Vec::new();
    for _ in 0..levels {
        let name: &[u8] = if letter == b'F' { &[0] } else { &[] };
        content = [name, &[letter], &sized(&content)].concat();
    }
    content
}

const USER_42: &[u8] = b"\x07user-idI\0\0\0\x2a";

#[tokio::test]
async fn a_header_name_that_is_not_utf8_leaves_the_other_headers_their_meaning() {
    let got = survives(&[entry(b"tr\xffce", b'S', &sized(b"x")), USER_42.to_vec()].concat()).await;
    assert!(got.headers.contains(&("user-id".into(), "integer 42".into())), "{got:?}");
    assert!(got.headers.iter().any(|(name, _)| name == "tr?ce"), "{got:?}");
}

#[tokio::test]
async fn a_timestamp_of_two_to_the_63_passes() {
    let timestamp = (1_u64 << 63).to_be_bytes();
    let got = survives(&[entry(b"when", b'T', &timestamp), USER_42.to_vec()].concat()).await;
    assert!(got.headers.contains(&("when".into(), format!("timestamp {}", 1_u64 << 63))), "{got:?}");
}

#[tokio::test]
async fn a_timestamp_property_of_two_to_the_64_less_one_passes() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    rig.raw.publish(&rig.exchange, "request.client.notify", 1 << 6, &u64::MAX.to_be_bytes(), b"{}");
    assert_eq!(running.next().await.timestamp, Some(u64::MAX));
    running.until_stat("acked", |stats| stats.acked.get() == 1).await;
    running.handle.stop().await;
}

#[tokio::test]
async fn tables_and_arrays_nested_thousands_deep_pass() {
    for levels in [33, 2_000, 10_000] {
        let got = survives(&[nested(b'F', levels), USER_42.to_vec()].concat()).await;
        assert!(got.headers.contains(&("user-id".into(), "integer 42".into())), "{levels}: {got:?}");
        assert!(got.headers.contains(&(String::new(), "table".into())), "{levels}: {got:?}");
        let array = entry(b"deep", b'A', &sized(&nested(b'A', levels)));
        let got = survives(&[array, USER_42.to_vec()].concat()).await;
        assert!(got.headers.contains(&("deep".into(), "array".into())), "{levels}: {got:?}");
    }
}

#[tokio::test]
async fn properties_that_are_not_utf8_pass() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    let flags = (1 << 15) | (1 << 10) | (1 << 7);
    rig.raw.publish(
        &rig.exchange,
        "request.client.notify",
        flags,
        b"\x02\xff\xfe\x02\xc3\x28\x01\x80",
        b"{}",
    );
    assert_eq!(running.next().await.body, b"{}");
    running.until_stat("acked", |stats| stats.acked.get() == 1).await;
    assert_eq!(running.handle.stats().repaired_headers.get(), 1);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_thousand_poisoned_messages_among_healthy_ones_change_nothing() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    for number in 0..1000_u32 {
        let name = [b"n\xff".as_slice(), &number.to_be_bytes()].concat();
        let entries = [entry(&name, b'V', b""), nested(b'F', 50)].concat();
        rig.raw.publish_headers(&rig.exchange, &entries, (2 * number).to_string().as_bytes());
        rig.raw.publish_plain(&rig.exchange, (2 * number + 1).to_string().as_bytes());
    }
    assert_eq!(running.numbers(2000).await, (0..2000).collect::<Vec<_>>());
    let stats = running.handle.stats();
    assert_eq!((stats.repaired_headers.get(), stats.connects.get()), (1000, 1));
    running.handle.stop().await;
}
