//! Mosquitto: MQTT 3.1.1 with quality of service 0.
//!
//! Pure. Of the protocol only what a subscriber and a publisher need.

use anyhow::{bail, ensure};

use crate::bench::body::{BODY_LEN, To};

pub(super) const PACKAGE: &str = "mosquitto";

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
/// The answers to both, as they look when nothing was refused.
const CONNACK: &[u8] = &[0x20, 2, 0, 0];
const SUBACK: &[u8] = &[0x90, 4, 0, 1, 0, 0];

pub(super) fn configuration(port: u16) -> String {
    // Without delayed writes, like all others here.
    format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n\
         max_connections -1\nlog_dest none\n"
    )
}

pub(super) fn subscribe(user: u32) -> Vec<u8> {
    let mut filters = vec![0, 1];
    for to in [To::Everyone, To::User(user)] {
        filters.extend(text(&topic(to)));
        filters.push(0);
    }
    [connect(&format!("bench-{user}")), packet(SUBSCRIBE, &[&filters])].concat()
}

pub(super) fn subscribed(answer: &[u8]) -> anyhow::Result<bool> {
    let wanted = [CONNACK, SUBACK].concat();
    ensure!(wanted.starts_with(answer), "refused: {answer:02x?}");
    Ok(answer == wanted)
}

pub(super) fn introduction() -> Vec<u8> {
    connect("bench-publisher")
}

pub(super) fn publish(to: To, body: &[u8; BODY_LEN]) -> Vec<u8> {
    packet(PUBLISH, &[&text(&topic(to)), body])
}

pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    ensure!(kind == PUBLISH, "a packet of the kind {kind:#04x}");
    let Some((len, header)) = remaining_length(&bytes[1..])? else { return Ok(None) };
    let Some(packet) = bytes.get(1 + header..1 + header + len) else { return Ok(None) };
    let &[high, low, ref after @ ..] = packet else { bail!("a message without a topic") };
    let topic = usize::from(u16::from_be_bytes([high, low]));
    let Some(payload) = after.get(topic..) else { bail!("a topic longer than its packet") };
    *bytes = &bytes[1 + header + len..];
    Ok(Some(payload))
}

fn connect(name: &str) -> Vec<u8> {
    // Protocol level 4; a clean session; no keep-alive.
    packet(CONNECT, &[&text("MQTT"), &[4, 2, 0, 0], &text(name)])
}

fn packet(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![kind];
    let mut len = content.len();
    loop {
        let digit = (len % 128) as u8;
        len /= 128;
        out.push(if len > 0 { digit | 0x80 } else { digit });
        if len == 0 {
            break;
        }
    }
    out.extend(content);
    out
}

/// The length of what follows, and how many bytes it takes itself; `None` while it is not whole.
fn remaining_length(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let mut len = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((len, index + 1)));
        }
    }
    ensure!(bytes.len() < 4, "a length of more than four bytes");
    Ok(None)
}

fn text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), text.as_bytes()].concat()
}

fn topic(to: To) -> String {
    match to {
        To::Everyone => "bench/all".to_owned(),
        To::User(user) => format!("bench/user/{user}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::body::Stamp;

    #[test]
    fn a_published_message_comes_out_whole_and_only_whole() {
        let body = Stamp { to: To::User(18_000), seq: 1, at: 2 }.encode();
        let stream = [publish(To::User(18_000), &body), publish(To::Everyone, &body)].concat();
        let mut rest = &stream[..];
        assert_eq!(take(&mut rest).unwrap(), Some(&body[..]));
        let second = rest;
        for cut in 0..second.len() {
            let mut part = &second[..cut];
            assert_eq!(take(&mut part).unwrap(), None, "{cut} bytes");
            assert_eq!(part.len(), cut);
        }
        assert_eq!(take(&mut rest).unwrap(), Some(&body[..]));
        assert!(rest.is_empty());
    }

    #[test]
    fn lengths_are_written_and_read_as_mqtt_wants_them() {
        for (len, header) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3)] {
            let packet = packet(PUBLISH, &[&vec![0; len]]);
            assert_eq!(packet.len(), 1 + header + len);
            assert_eq!(remaining_length(&packet[1..]).unwrap(), Some((len, header)));
        }
        assert!(remaining_length(&[0xFF; 5]).is_err());
    }

    #[test]
    fn a_login_is_what_the_standard_says() {
        let wanted =
            b"\x10\x13\0\x04MQTT\x04\x02\0\0\0\x07bench-7\x82\x1d\0\x01\0\x09bench/all\0\0\x0cbench/user/7\0";
        assert_eq!(subscribe(7), wanted);
        assert!(!subscribed(CONNACK).unwrap() && subscribed(&[CONNACK, SUBACK].concat()).unwrap());
        assert!(subscribed(&[0x20, 2, 0, 5]).is_err(), "not authorised");
        assert!(
            subscribed(&[CONNACK, &[0x90, 4, 0, 1, 0, 0x80]].concat()).is_err(),
            "a refused subscription"
        );
    }

    #[test]
    fn other_packets_and_broken_topics_are_errors() {
        for wrong in [b"\x40\x02\0\x01".as_slice(), b"\x30\x03\0\x09a", b"\x30\x01\0"] {
            let mut wrong = wrong;
            assert!(take(&mut wrong).is_err());
        }
    }
}
