use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::types::{AMQPValue, ShortString};
use proptest::prelude::*;

use super::*;

const FRAME_MAX: u32 = 131_072;

fn filter() -> FrameFilter {
    FrameFilter::new(FRAME_MAX, "marker")
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, 1][..], &size, payload, &[FRAME_END]].concat()
}

fn content_header(entries: &[u8]) -> Vec<u8> {
    let len = (entries.len() as u32).to_be_bytes();
    frame(2, &[&b"\0\x3c\0\0\0\0\0\0\0\0\0\x02\x20\0"[..], &len, entries].concat())
}

/// Everything that comes out when the input comes in pieces of these sizes, the last one repeated.
fn run(filter: &mut FrameFilter, input: &[u8], pieces: &[usize]) -> Result<Vec<u8>, FrameTooLarge> {
    let (mut rest, mut out, mut turn) = (input, Vec::new(), 0);
    while !rest.is_empty() {
        let piece = pieces[turn.min(pieces.len() - 1)].max(1);
        turn += 1;
        let space = filter.space();
        let n = piece.min(rest.len()).min(space.len());
        space[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        filter.written(n)?;
        // A reader that takes at most 1,000 bytes at a time.
        let taken = filter.ready().len().min(1000);
        out.extend_from_slice(&filter.ready()[..taken]);
        filter.consume(taken);
    }
    out.extend_from_slice(filter.ready());
    Ok(out)
}

fn parsed(bytes: &[u8]) -> Vec<AMQPFrame> {
    let (mut rest, mut frames) = (bytes, Vec::new());
    while !rest.is_empty() {
        let (after, frame) = parse_frame(rest).expect("lapin's parser takes it");
        frames.push(frame);
        rest = after;
    }
    frames
}

fn headers_of(frame: &AMQPFrame) -> Vec<(String, AMQPValue)> {
    let AMQPFrame::Header(_, header) = frame else { panic!("{frame:?}") };
    let table = header.properties.headers().as_ref().unwrap();
    table.inner().iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
}

/// One message with a name that is not UTF-8, one that cannot be walked, one that is well.
fn three_messages() -> Vec<u8> {
    [
        frame(1, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x01\0\x01e\x01k"),
        content_header(b"\x03a\xffbV\x07user-idI\0\0\0\x2a"),
        frame(3, b"{}"),
        frame(8, b""),
        frame(1, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x02\0\x01e\x01k"),
        content_header(b"\x01az"),
        frame(3, b"\xce\xce"),
        frame(1, b"\0\x3c\0\x3c\x01c\0\0\0\0\0\0\0\x03\0\x01e\x01k"),
        content_header(b"\x04nameS\0\0\0\x01v"),
        frame(3, b"[]"),
    ]
    .concat()
}

#[test]
fn lapins_parser_takes_what_comes_out() {
    let mut filter = filter();
    let frames = parsed(&run(&mut filter, &three_messages(), &[usize::MAX]).unwrap());
    assert_eq!(frames.len(), 10);
    let first = headers_of(&frames[1]);
    assert_eq!(first[1], ("user-id".into(), AMQPValue::LongInt(42)), "other headers keep their meaning");
    assert_eq!(first[0].0, "a?b");
    assert_eq!(headers_of(&frames[5]), [("marker".into(), AMQPValue::Boolean(true))]);
    assert_eq!(headers_of(&frames[8])[0].0, "name");
    assert_eq!(filter.counts(), FilterCounts { repaired: 1, undecodable: 1 });
}

#[test]
fn every_split_gives_what_the_whole_gives() {
    let input = three_messages();
    let whole = run(&mut filter(), &input, &[usize::MAX]).unwrap();
    for at in 1..input.len() {
        assert_eq!(run(&mut filter(), &input, &[at, usize::MAX]).unwrap(), whole, "split at {at}");
    }
    assert_eq!(run(&mut filter(), &input, &[1]).unwrap(), whole, "byte by byte");
}

#[test]
fn bodies_pass_before_they_are_complete() {
    let mut filter = filter();
    let input = frame(3, &[7; 100_000]);
    filter.space()[..50].copy_from_slice(&input[..50]);
    filter.written(50).unwrap();
    assert_eq!(filter.ready(), &input[..50]);
}

#[test]
fn a_frame_above_the_limit_ends_the_stream() {
    let mut filter = FrameFilter::new(4096, "marker");
    assert!(run(&mut filter, &frame(2, &[0; 4096]), &[100]).is_ok());
    let refused = run(&mut filter, &frame(2, &[0; 4097]), &[100]);
    assert_eq!(refused, Err(FrameTooLarge { size: 4097, max: 4096 }));
}

#[test]
fn memory_stays_bounded_while_megabytes_pass() {
    let mut filter = FrameFilter::new(4096, "marker");
    let bound = 2 * (4096 + READ_SIZE);
    let input = [three_messages(), frame(3, &[1; 4096]), content_header(b"\x01az")].concat().repeat(200);
    run(&mut filter, &input, &[700]).unwrap();
    assert!(filter.buffer.len() < bound, "{} bytes", filter.buffer.len());
}

#[test]
fn a_protocol_header_passes() {
    let input = b"AMQP\0\0\x09\x01";
    assert_eq!(run(&mut filter(), input, &[1]).unwrap(), input);
}

/// Header tables of every type, nested, with names of any bytes.
fn entries() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(any::<u8>(), 0..6);
    let leaf = prop_oneof![
        any::<bool>().prop_map(|b| vec![b't', b.into()]),
        any::<[u8; 4]>().prop_map(|b| [&b"I"[..], &b].concat()),
        any::<[u8; 8]>().prop_map(|b| [&b"T"[..], &b].concat()),
        Just(b"V".to_vec()),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|b| [
            &b"S"[..],
            &(b.len() as u32).to_be_bytes(),
            &b
        ]
        .concat()),
    ];
    let table = |entries: Vec<(Vec<u8>, Vec<u8>)>| -> Vec<u8> {
        entries
            .into_iter()
            .flat_map(|(name, value)| [&[name.len() as u8][..], &name, &value].concat())
            .collect()
    };
    let value = leaf.prop_recursive(6, 32, 4, move |inner| {
        let name = prop::collection::vec(any::<u8>(), 0..6);
        prop_oneof![
            prop::collection::vec((name, inner.clone()), 0..4).prop_map(move |entries| {
                let body = table(entries);
                [&b"F"[..], &(body.len() as u32).to_be_bytes(), &body].concat()
            }),
            prop::collection::vec(inner, 0..4).prop_map(|values| {
                let body = values.concat();
                [&b"A"[..], &(body.len() as u32).to_be_bytes(), &body].concat()
            }),
        ]
    });
    prop::collection::vec((name, value), 0..6).prop_map(table)
}

proptest! {
    #[test]
    fn any_table_with_any_names_is_readable_and_splits_change_nothing(
        entries in entries(), pieces in prop::collection::vec(1..40_usize, 1..6)
    ) {
        let input = [content_header(&entries), frame(3, b"{}")].concat();
        let mut whole = filter();
        let out = run(&mut whole, &input, &[usize::MAX]).unwrap();
        prop_assert_eq!(out.len(), input.len(), "well-formed tables keep their length");
        prop_assert_eq!(whole.counts().undecodable, 0);
        parsed(&out);
        prop_assert_eq!(run(&mut filter(), &input, &pieces).unwrap(), out);
    }

    /// The filter is at least as strict as lapin's parser: whatever a header frame holds, the parser
    /// takes what comes out.
    #[test]
    fn mutated_headers_are_readable_or_marked(
        entries in entries(), flags in any::<u16>(), tail in prop::collection::vec(any::<u8>(), 0..30),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)
    ) {
        let mut payload = content_header(&entries);
        payload.truncate(payload.len() - 1);
        let mut payload = payload.split_off(FRAME_HEADER);
        payload.extend(tail);
        payload[12..14].copy_from_slice(&flags.to_be_bytes());
        for (index, byte) in flips {
            let at = 12 + index.index(payload.len() - 12);
            payload[at] = byte;
        }
        let out = run(&mut filter(), &frame(2, &payload), &[usize::MAX]).unwrap();
        prop_assert_eq!(parsed(&out).len(), 1);
    }

    #[test]
    fn garbage_never_panics_and_splits_change_nothing(
        input in prop::collection::vec(prop_oneof![any::<u8>(), 0..9_u8, Just(0xce)], 0..300),
        pieces in prop::collection::vec(1..50_usize, 1..6)
    ) {
        let whole = run(&mut filter(), &input, &[usize::MAX]);
        prop_assert_eq!(run(&mut filter(), &input, &pieces), whole);
    }
}

#[test]
fn short_strings_longer_than_a_name_can_be_stay_possible() {
    let name = [b'n'; 255];
    let input = content_header(&[&[255][..], &name, b"V"].concat());
    let frames = parsed(&run(&mut filter(), &input, &[9]).unwrap());
    assert_eq!(headers_of(&frames[0])[0].0.len(), 255);
    assert!(ShortString::try_new("n".repeat(255)).is_ok());
}
