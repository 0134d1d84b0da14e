use proptest::prelude::*;

use super::*;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat()
}

fn deliver(tag: u64) -> Vec<u8> {
    let mut payload = b"\0\x3c\0\x3c\x03tag".to_vec();
    payload.extend(tag.to_be_bytes());
    payload.push(u8::from(tag.is_multiple_of(2)));
    payload.extend(b"\x05faf-x\x03key");
    frame(METHOD, 1, &payload)
}

fn header(body_size: u64) -> Vec<u8> {
    // One property, message_id.
    let payload = [b"\0\x3c\0\0", &body_size.to_be_bytes()[..], &[0, 0x80], b"\x02id"].concat();
    frame(CONTENT_HEADER, 1, &payload)
}

/// A delivery whose body comes in frames of these sizes, filled with the tag.
fn delivery(tag: u64, sizes: &[usize]) -> Vec<u8> {
    let size: usize = sizes.iter().sum();
    let bodies = sizes.iter().flat_map(|size| frame(BODY, 1, &vec![tag as u8; *size]));
    deliver(tag).into_iter().chain(header(size as u64)).chain(bodies).collect()
}

const CHANNEL_CLOSE: &[u8] = b"\x01\0\x01\0\0\0\x0f\0\x14\0\x28\x01\x96\x04late\0\0\0\0\xce";
const ACK: &[u8] = b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x01\0\xce";

struct Bench {
    tap: DeliveryTap,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { tap: DeliveryTap::new(now), now }
    }

    fn feed(&mut self, bytes: &[u8]) {
        assert_eq!(self.tap.feed(bytes, self.now), Ok(bytes.len()));
    }

    fn taken(&mut self) -> Vec<(u64, usize)> {
        let mut deliveries = VecDeque::new();
        self.tap.take_deliveries(&mut deliveries);
        deliveries.iter().map(|delivery| (delivery.tag(), delivery.body().len())).collect()
    }
}

#[test]
fn a_body_that_is_announced_takes_no_memory_before_it_comes() {
    for (announced, reserved) in [(5, 5), (FIRST_CAPACITY, FIRST_CAPACITY), (1 << 40, FIRST_CAPACITY)] {
        let mut bench = Bench::new();
        bench.feed(&deliver(1));
        bench.feed(&header(announced));
        let taking = bench.tap.taking.as_ref().expect("it waits for its body");
        assert_eq!(taking.delivery.body_capacity() as u64, reserved, "{announced} bytes are announced");
    }
}

#[test]
fn a_delivery_is_taken_with_all_that_belongs_to_it() {
    let mut bench = Bench::new();
    bench.feed(&delivery(2, &[3, 2]));
    let mut deliveries = VecDeque::new();
    bench.tap.take_deliveries(&mut deliveries);
    let taken = deliveries.pop_front().unwrap();
    assert_eq!((taken.tag(), taken.redelivered(), taken.received_at()), (2, true, bench.now));
    assert_eq!((taken.exchange(), taken.routing_key()), ("faf-x", "key"));
    assert_eq!((taken.message_id(), taken.body()), (Some("id"), &[2; 5][..]));
    assert!(deliveries.is_empty() && bench.tap.passed().is_empty());
}

#[test]
fn a_delivery_is_complete_with_its_last_byte_or_without_a_body_with_its_header() {
    let mut bench = Bench::new();
    bench.feed(&delivery(1, &[]));
    assert_eq!(bench.taken(), [(1, 0)]);
    bench.feed(&[deliver(2), header(2), frame(BODY, 1, b""), frame(BODY, 1, b"x")].concat());
    assert_eq!(bench.taken(), []);
    bench.feed(&frame(BODY, 1, b"y"));
    assert_eq!(bench.taken(), [(2, 2)]);
}

#[test]
fn all_else_passes_untouched_and_in_order() {
    let heartbeat = HEARTBEAT_FRAME;
    // basic.return on another channel has a content too.
    let other =
        [frame(METHOD, 2, b"\0\x3c\0\x32rest"), frame(2, 2, b"header"), frame(3, 2, b"body")].concat();
    let mut bench = Bench::new();
    let deliveries = delivery(1, &[4]);
    let (method, content) = deliveries.split_at(deliver(1).len());
    bench.feed(&[ACK, method, &heartbeat, content, &other, &delivery(2, &[1])].concat());
    assert_eq!(bench.tap.passed(), [ACK, &heartbeat, &other].concat());
    assert_eq!(bench.taken(), [(1, 4), (2, 1)]);
    bench.tap.consume(5);
    assert_eq!(bench.tap.passed()[..3], ACK[5..8]);
}

#[test]
fn what_is_no_amqp_passes_for_ever() {
    let mut bench = Bench::new();
    bench.feed(b"AMQP\0\0\x09\x01");
    bench.feed(&delivery(1, &[1]));
    assert_eq!(bench.tap.passed(), [b"AMQP\0\0\x09\x01", &delivery(1, &[1])[..]].concat());
}

#[test]
fn the_end_of_the_channel_drops_what_waits_and_what_still_comes() {
    let connection_close = frame(METHOD, 0, b"\0\x0a\0\x32rest");
    for close in [CHANNEL_CLOSE, &connection_close] {
        let mut bench = Bench::new();
        bench.feed(&[&delivery(1, &[1]), close, &delivery(2, &[1])].concat());
        assert_eq!(bench.taken(), []);
        assert_eq!(bench.tap.passed(), close);
    }
}

#[test]
fn the_end_of_another_channel_is_none_of_the_deliveries() {
    let other = [&[1, 0, 2], &CHANNEL_CLOSE[3..]].concat();
    let mut bench = Bench::new();
    let second = delivery(2, &[3]);
    let (method, content) = second.split_at(deliver(2).len());
    bench.feed(&[&delivery(1, &[4])[..], method, &other, content].concat());
    assert_eq!(bench.taken(), [(1, 4), (2, 3)]);
    assert_eq!(bench.tap.passed(), other);
    assert!(!bench.tap.is_closed());
    let connection_close = [&[1, 0, 0, 0, 0, 0, 15, 0, 10, 0, 50], &CHANNEL_CLOSE[11..]].concat();
    bench.feed(&[&connection_close[..], &delivery(3, &[1])].concat());
    assert_eq!(bench.taken(), []);
}

#[test]
fn a_delivery_that_is_not_whole_when_the_channel_ends_is_dropped() {
    let mut bench = Bench::new();
    bench.feed(&[deliver(1), CHANNEL_CLOSE.to_vec()].concat());
    assert_eq!(bench.taken(), []);
    assert_eq!(bench.tap.passed(), CHANNEL_CLOSE);
}

#[test]
fn frames_that_no_delivery_has_are_errors() {
    let broken = [
        [deliver(1), deliver(2)].concat(),
        [deliver(1), ACK.to_vec()].concat(),
        [deliver(1), frame(BODY, 1, b"x")].concat(),
        [deliver(1), header(2), header(2)].concat(),
        [deliver(1), header(2), frame(BODY, 1, b"xyz")].concat(),
        [deliver(1), frame(CONTENT_HEADER, 1, b"\0\x3c\0\0")].concat(),
        [deliver(1), frame(CONTENT_HEADER, 1, b"\0\x3d\0\0\0\0\0\0\0\0\0\x01\0\0")].concat(),
        frame(METHOD, 1, b"\0\x3c\0\x3c\x03tag"),
        [deliver(1), header(1), b"\x03\0\x01\0\0\0\x01xy".to_vec()].concat(),
        deliver(1)[..deliver(1).len() - 1].iter().copied().chain([0]).collect(),
    ];
    for bytes in broken {
        let mut bench = Bench::new();
        assert!(bench.tap.feed(&bytes, bench.now).is_err(), "{bytes:?}");
        assert_eq!(bench.taken(), []);
    }
}

#[test]
fn under_a_flood_lapin_gets_a_sign_of_life_every_second() {
    let mut bench = Bench::new();
    let half = [deliver(1), header(2), b"\x03\0\x01\0\0\0\x02x".to_vec()].concat();
    bench.feed(&half);
    assert_eq!(bench.tap.passed(), b"");
    bench.now += SIGN_OF_LIFE;
    bench.feed(b"x\xce");
    bench.feed(&delivery(2, &[1]));
    assert_eq!(bench.tap.passed(), HEARTBEAT_FRAME, "once a second, in the middle of a delivery too");
    bench.now += SIGN_OF_LIFE / 2;
    bench.feed(ACK);
    bench.now += SIGN_OF_LIFE / 2;
    bench.feed(&delivery(3, &[1]));
    assert_eq!(bench.tap.passed(), [&HEARTBEAT_FRAME, ACK].concat(), "what passes is a sign, too");
}

#[test]
fn a_sign_of_life_never_stands_inside_of_another_frame() {
    let mut bench = Bench::new();
    let body = frame(BODY, 2, b"body");
    bench.feed(&[&delivery(1, &[1])[..], &body[..9]].concat());
    bench.now += SIGN_OF_LIFE;
    bench.feed(&[]);
    bench.feed(&body[9..]);
    assert_eq!(bench.tap.passed(), body);
}

proptest! {
    /// However the bytes are cut, the same deliveries are taken and the same bytes pass. Like the filter, it
    /// offers what was not taken again.
    #[test]
    fn cuts_change_nothing(
        bodies in prop::collection::vec(prop::collection::vec(1..40_usize, 0..3), 1..6),
        cuts in prop::collection::vec(1..60_usize, 1..40),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (tag, sizes) in (1..).zip(&bodies) {
            stream.extend([delivery(tag, sizes), ACK.to_vec()].concat());
            expected.push((tag, sizes.iter().sum::<usize>()));
        }
        let mut bench = Bench::new();
        let (mut offered, mut next, mut cuts) = (Vec::new(), 0, cuts.iter().cycle());
        while next < stream.len() {
            let end = stream.len().min(next + cuts.next().unwrap());
            offered.extend_from_slice(&stream[next..end]);
            next = end;
            let taken = bench.tap.feed(&offered, bench.now).unwrap();
            offered.drain(..taken);
        }
        prop_assert!(offered.is_empty());
        prop_assert_eq!(bench.taken(), expected);
        prop_assert_eq!(bench.tap.passed(), ACK.repeat(bodies.len()));
    }
}
