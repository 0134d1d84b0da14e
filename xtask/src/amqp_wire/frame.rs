//! AMQP 0-9-1 frames: bytes to write, and what is read from them.
//!
//! Only the methods this client uses have a meaning here; any other is an error of the caller.

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;
const END: u8 = 0xCE;
/// Class `basic`, whose content this client sends and reads.
pub(super) const BASIC: u16 = 60;

/// Arguments of a method, or the inside of a table, as they are written.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn method(class: u16, method: u16) -> Self {
        let mut out = Self::default();
        out.0.put_u16(class);
        out.0.put_u16(method);
        out
    }

    /// One octet of length, then the bytes.
    pub(super) fn short_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let len =
            u8::try_from(bytes.len()).with_context(|| format!("a short string of {} bytes", bytes.len()))?;
        self.0.push(len);
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn short_string(&mut self, text: &str) -> anyhow::Result<()> {
        self.short_bytes(text.as_bytes())
    }

    /// Four octets of length, then the bytes: a long string, and any container.
    pub(super) fn long_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.put_u32(u32::try_from(bytes.len()).context("a long string over 4 GiB")?);
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends one frame to `out`.
pub(super) fn push_frame(out: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) -> anyhow::Result<()> {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(u32::try_from(payload.len()).context("a frame over 4 GiB")?);
    out.put_slice(payload);
    out.put_u8(END);
    Ok(())
}

/// Method, content header and body frames of one message, none larger than `frame_max`.
pub(super) fn content(
    channel: u16,
    method: &[u8],
    properties: &[u8],
    body: &[u8],
    frame_max: usize,
) -> anyhow::Result<Bytes> {
    let mut out = BytesMut::with_capacity(method.len() + properties.len() + body.len() + 64);
    push_frame(&mut out, METHOD, channel, method)?;
    let mut header = Encoder::default();
    header.0.put_u16(BASIC);
    header.0.put_u16(0);
    header.0.put_u64(u64::try_from(body.len())?);
    header.0.extend_from_slice(properties);
    push_frame(&mut out, HEADER, channel, &header.0)?;
    for part in body.chunks(frame_max.saturating_sub(8).max(1)) {
        push_frame(&mut out, BODY, channel, part)?;
    }
    Ok(out.freeze())
}

/// One frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: Vec<u8>,
}

/// Reads one whole frame; the end of the stream is an error.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Frame> {
    let mut head = [0u8; 7];
    from.read_exact(&mut head).await.context("the broker's stream ended")?;
    if &head[..4] == b"AMQP" {
        bail!("the broker refused the protocol version");
    }
    let [kind, c1, c0, s3, s2, s1, s0] = head;
    let size = u32::from_be_bytes([s3, s2, s1, s0]);
    ensure!(size <= 256 * 1024 * 1024, "a frame of {size} bytes");
    let mut payload = vec![0u8; usize::try_from(size)? + 1];
    from.read_exact(&mut payload).await.context("the broker's stream ended inside a frame")?;
    ensure!(payload.pop() == Some(END), "a frame without its end octet");
    Ok(Frame { kind, channel: u16::from_be_bytes([c1, c0]), payload })
}

/// Reads a method's arguments in order.
#[derive(Debug)]
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn take(&mut self, len: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).context("a method's arguments end too early")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> anyhow::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> anyhow::Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    pub(super) fn u32(&mut self) -> anyhow::Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into()?))
    }

    pub(super) fn u64(&mut self) -> anyhow::Result<u64> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into()?))
    }

    pub(super) fn short_string(&mut self) -> anyhow::Result<String> {
        let len = usize::from(self.u8()?);
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_were_pushed() {
        let mut bytes = BytesMut::new();
        push_frame(&mut bytes, METHOD, 1, b"abc").unwrap();
        push_frame(&mut bytes, HEARTBEAT, 0, b"").unwrap();
        let mut stream = &bytes[..];
        let first = read_frame(&mut stream).await.unwrap();
        assert_eq!((first.kind, first.channel, first.payload.as_slice()), (METHOD, 1, b"abc".as_slice()));
        assert_eq!(read_frame(&mut stream).await.unwrap().kind, HEARTBEAT);
        assert!(read_frame(&mut stream).await.is_err());
    }

    #[tokio::test]
    async fn a_body_is_cut_at_the_frame_limit_and_an_empty_one_has_no_frame() {
        let bytes = content(1, b"m", b"\0\0", &[7; 20], 16).unwrap();
        let mut stream = &bytes[..];
        let mut sizes = Vec::new();
        while !stream.is_empty() {
            let frame = read_frame(&mut stream).await.unwrap();
            sizes.push((frame.kind, frame.payload.len()));
        }
        assert_eq!(sizes, [(METHOD, 1), (HEADER, 14), (BODY, 8), (BODY, 8), (BODY, 4)]);
        let empty = content(1, b"m", b"\0\0", b"", 16).unwrap();
        assert_eq!(empty.len(), (7 + 1 + 1) + (7 + 14 + 1));
    }
}
