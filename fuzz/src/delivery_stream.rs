//! The broker's bytes: whatever a publisher put into a message, the deliveries behind it arrive, the AMQP library's
//! parser is never given what it cannot read, and nothing private becomes a broadcast.

use std::{collections::VecDeque, time::Instant};

use amq_protocol::frame::parse_frame;
use notify_protocol::{Limits, UNDECODABLE_HEADERS_MARKER, decode};

use crate::{
    delivery::Delivery,
    delivery_tap::DeliveryTap,
    frame_filter::FrameFilter,
    headers::{Expected, address, outcome},
    split, wire_table,
};

/// The largest frame in bytes: small, so that the filter of each input takes little memory, and its limit is met.
const FRAME_MAX: u32 = 8192;
const FRAME_END: u8 = 0xce;

/// The first byte says what the rest is: the whole stream as it comes from the socket; or, with the low bit set, the
/// properties and headers of one message (two bytes of length, flags and properties, then the body).
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((mode, message)) if mode & 1 == 1 => one_message(message),
        Some((_, stream)) => any_stream(stream),
        None => {}
    }
}

/// A hostile message, and one for user 7 behind it.
fn one_message(message: &[u8]) {
    let Some((length, rest)) = message.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (properties, body) = rest.split_at(length);
    let to_seven = b"\x20\x00\0\0\0\x0d\x07user-idI\0\0\0\x07";
    let stream = [delivery(1, properties, body), delivery(2, to_seven, b"{}")].concat();
    let heard = hear(&stream).expect("the stream goes on");
    assert_eq!(heard.len(), 2);
    let (first, second) = (&heard[0], &heard[1]);
    assert_eq!(address_of(second), Expected::User(7), "the message behind");
    assert_eq!(first.body(), body);
    // In the wire's own words, before anything was repaired.
    let got = address_of(first);
    match model(properties) {
        Some(expected) => assert_eq!(got, expected),
        // It adds up on the outside and not inside of a container, or not at all.
        None => assert_eq!(got, Expected::Dropped("undecodable_headers")),
    }
}

/// What the headers say, read by the model; `None` where they cannot be read.
fn model(properties: &[u8]) -> Option<Expected> {
    let (flags, mut rest) = properties.split_first_chunk::<2>()?;
    let flags = u16::from_be_bytes(*flags);
    let mut headers = Vec::new();
    for bit in (0..16).rev().filter(|bit| flags & (1 << bit) != 0) {
        rest = match bit {
            13 => {
                let (table, rest) = wire_table::long_string(rest)?;
                wire_table::adds_up(table, true, crate::repair::MAX_DEPTH - 1).then_some(())?;
                headers = wire_table::entries(table)?;
                rest
            }
            12 | 11 => rest.get(1..)?,
            6 => rest.get(8..)?,
            0 | 1 => return None,
            _ => wire_table::short_string(rest)?.1,
        };
    }
    rest.is_empty().then(|| address(&headers))
}

fn address_of(delivery: &Delivery) -> Expected {
    match decode(delivery.headers(), b"{}", &Limits::default()) {
        Ok(decoded) => outcome(decoded.address),
        Err(reason) => Expected::Dropped(reason.as_str()),
    }
}

/// Any bytes: they end the connection or not, but the same way however they are split.
fn any_stream(stream: &[u8]) {
    let whole = hear_in_pieces(&[stream]);
    for pieces in [split::at_random(stream, split::seed_of(stream), 6), stream.chunks(1).collect()] {
        let heard = hear_in_pieces(&pieces);
        assert_eq!(heard.is_ok(), whole.is_ok());
        if let (Ok(heard), Ok(whole)) = (heard, &whole) {
            assert_eq!(heard.passed, whole.passed);
            assert_eq!(heard.deliveries.len(), whole.deliveries.len());
            for (a, b) in heard.deliveries.iter().zip(&whole.deliveries) {
                assert_eq!((a.body(), a.routing_key()), (b.body(), b.routing_key()));
                assert_eq!(address_of(a), address_of(b));
            }
        }
    }
}

/// What came out: for the dispatch, and for the AMQP library.
struct Heard {
    deliveries: VecDeque<Delivery>,
    passed: Vec<u8>,
}

/// The deliveries of a stream of which the AMQP library's own parser must take every frame.
fn hear(stream: &[u8]) -> Result<VecDeque<Delivery>, String> {
    let mut filter = FrameFilter::new(FRAME_MAX, UNDECODABLE_HEADERS_MARKER);
    let mut filtered = Vec::new();
    for piece in stream.chunks(1 << 14) {
        filter.space()[..piece.len()].copy_from_slice(piece);
        filter.written(piece.len()).map_err(|error| error.to_string())?;
        filtered.extend_from_slice(filter.ready());
        filter.consume(filter.ready().len());
    }
    let mut rest = &filtered[..];
    while !rest.is_empty() {
        rest = parse_frame(rest).map_err(|error| format!("the library's parser: {error:?}"))?.0;
    }
    Ok(hear_in_pieces(&split::at_random(stream, split::seed_of(stream), 4))?.deliveries)
}

fn hear_in_pieces(pieces: &[&[u8]]) -> Result<Heard, String> {
    let now = Instant::now();
    let mut filter = FrameFilter::new(FRAME_MAX, UNDECODABLE_HEADERS_MARKER);
    let mut tap = DeliveryTap::new(now);
    let mut passed = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let space = filter.space();
            let n = rest.len().min(space.len());
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            filter.written(n).map_err(|error| error.to_string())?;
            let taken = tap.feed(filter.ready(), now).map_err(|error| error.to_string())?;
            filter.consume(taken);
            passed.extend_from_slice(tap.passed());
            tap.consume(tap.passed().len());
        }
    }
    let mut deliveries = VecDeque::new();
    tap.take_deliveries(&mut deliveries);
    Ok(Heard { deliveries, passed })
}

/// `basic.deliver`, content header and body as RabbitMQ writes them on channel 1.
fn delivery(tag: u8, properties: &[u8], body: &[u8]) -> Vec<u8> {
    let method = [b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0", &[tag][..], b"\0\x01e\x01k"].concat();
    let header = [b"\0\x3c\0\0", &(body.len() as u64).to_be_bytes()[..], properties].concat();
    let mut stream = [frame(1, &method), frame(2, &header)].concat();
    if !body.is_empty() {
        stream.extend(frame(3, body));
    }
    stream
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &(payload.len() as u32).to_be_bytes(), payload, &[FRAME_END]].concat()
}
