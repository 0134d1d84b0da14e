//! NATS server: text lines, and payloads with their length in front.
//!
//! Pure. Of the protocol only what a subscriber and a publisher need.

use anyhow::{Context as _, bail, ensure};

use crate::bench::body::{BODY_LEN, To};

pub(super) const PACKAGE: &str = "nats-server";

/// The longest line of the server: its INFO.
const LONGEST_LINE: usize = 32 << 10;
const CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"0\",\"protocol\":0}\r\n";

pub(super) fn configuration(port: u16) -> String {
    // The ping after the first seconds comes all the same and needs no answer; the next would end the connection.
    format!("host: \"127.0.0.1\"\nport: {port}\nping_interval: \"1h\"\n")
}

/// The ping's answer says that the subscriptions are in force.
pub(super) fn subscribe(user: u32) -> Vec<u8> {
    format!("{CONNECT}SUB {} 1\r\nSUB {} 2\r\nPING\r\n", subject(To::Everyone), subject(To::User(user)))
        .into_bytes()
}

pub(super) fn subscribed(answer: &[u8]) -> anyhow::Result<bool> {
    if let Some(at) = answer.windows(4).position(|part| part == b"-ERR") {
        bail!("refused: {}", String::from_utf8_lossy(&answer[at..]));
    }
    Ok(answer.ends_with(b"PONG\r\n"))
}

pub(super) fn introduction() -> Vec<u8> {
    CONNECT.into()
}

pub(super) fn publish(to: To, body: &[u8; BODY_LEN]) -> Vec<u8> {
    let mut out = format!("PUB {} {BODY_LEN}\r\n", subject(to)).into_bytes();
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
    out
}

pub(super) fn take<'a>(bytes: &mut &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
    loop {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
            ensure!(bytes.len() < LONGEST_LINE, "a line of more than {LONGEST_LINE} bytes");
            return Ok(None);
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
        if let Some(fields) = line.strip_prefix(b"MSG ") {
            let len = fields.rsplit(|byte| *byte == b' ').next().and_then(|len| str::from_utf8(len).ok());
            let len: usize = len.and_then(|len| len.parse().ok()).with_context(|| unexpected(line))?;
            let Some(payload) = rest.get(..len + 2) else { return Ok(None) };
            ensure!(payload.ends_with(b"\r\n"), "a payload that is longer than said");
            *bytes = &rest[len + 2..];
            return Ok(Some(&payload[..len]));
        }
        ensure!(matches!(line, b"PING" | b"PONG" | b"+OK") || line.starts_with(b"INFO "), unexpected(line));
        *bytes = rest;
    }
}

fn unexpected(line: &[u8]) -> String {
    format!("the server said `{}`", String::from_utf8_lossy(line))
}

fn subject(to: To) -> String {
    match to {
        To::Everyone => "bench.all".to_owned(),
        To::User(user) => format!("bench.user.{user}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::body::Stamp;

    #[test]
    fn messages_come_out_whole_and_pings_are_passed_over() {
        let body = Stamp { to: To::User(7), seq: 1, at: 2 }.encode();
        let head = b"PING\r\nMSG bench.user.7 2 200\r\n".as_slice();
        let stream =
            [b"INFO {}\r\n".as_slice(), head, &body, b"\r\n", b"MSG a 1 3\r\na\r\n\r\nMSG a 1 2"].concat();
        let mut rest = &stream[..];
        assert_eq!(take(&mut rest).unwrap(), Some(&body[..]));
        assert_eq!(take(&mut rest).unwrap(), Some(b"a\r\n".as_slice()), "a length goes before a line end");
        assert_eq!(take(&mut rest).unwrap(), None);
        assert_eq!(rest, b"MSG a 1 2");
    }

    #[test]
    fn any_part_of_a_message_waits_for_the_rest() {
        let whole = b"MSG bench.all 1 3\r\nabc\r\n";
        for cut in 0..whole.len() {
            let mut part = &whole[..cut];
            assert_eq!(take(&mut part).unwrap(), None, "{cut} bytes");
            assert_eq!(part.len(), cut);
        }
    }

    #[test]
    fn errors_and_wrong_lengths_are_found() {
        for wrong in [b"-ERR 'Slow Consumer'\r\n".as_slice(), b"MSG a 1 x\r\n", b"MSG a 1 1\r\nabc\r\n"] {
            let mut wrong = wrong;
            assert!(take(&mut wrong).is_err());
        }
        assert!(subscribed(b"INFO {}\r\n-ERR 'Authorization Violation'\r\n").is_err());
        assert!(!subscribed(b"INFO {}\r\n").unwrap() && subscribed(b"INFO {}\r\nPONG\r\n").unwrap());
    }

    #[test]
    fn what_is_published_is_what_the_addressee_subscribed_to() {
        let published = publish(To::User(7), &[b'x'; BODY_LEN]);
        assert!(published.starts_with(b"PUB bench.user.7 200\r\nxxx") && published.ends_with(b"x\r\n"));
        let subscription = String::from_utf8(subscribe(7)).unwrap();
        assert!(subscription.contains("SUB bench.all 1\r\nSUB bench.user.7 2\r\n"), "{subscription}");
    }
}
