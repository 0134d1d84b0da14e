//! What the lobby says last on a connection that it closes, logged in or not.

use crate::{
    CloseReason, Frame, FrameKind, Transport,
    reply::{self, NoticeStyle},
    websocket,
};

/// The frames with which a connection ends: a notice for the player where there is one, the `closing` line, and
/// on WebSocket a close frame with the same code and reason.
///
/// `retry_after_ms` comes from [`CloseReason::retry_after_ms`].
pub fn farewell(
    transport: Transport,
    kind: FrameKind,
    reason: CloseReason,
    retry_after_ms: Option<u64>,
) -> Vec<Frame> {
    let mut frames = Vec::new();
    let notice = match reason {
        CloseReason::Replaced => {
            Some((NoticeStyle::Kick, "You have been signed out because you signed in elsewhere."))
        }
        CloseReason::AlreadyLoggedIn => {
            Some((NoticeStyle::Error, "You are signed in already. Sign out there first."))
        }
        CloseReason::Kicked => Some((NoticeStyle::Kick, "You have been disconnected by an operator.")),
        _ => None,
    };
    if let Some((style, text)) = notice {
        frames.push(Frame::control(&reply::notice(style, text), kind));
    }
    if reason != CloseReason::Bye {
        frames.push(Frame::control(&reply::closing(reason, retry_after_ms), kind));
    }
    if transport == Transport::WebSocket {
        frames.push(Frame::websocket_only(websocket::close_frame(reason.code(), reason.text())));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(transport: Transport, reason: CloseReason) -> String {
        let frames = farewell(transport, FrameKind::Text, reason, Some(5));
        frames.iter().map(|f| String::from_utf8_lossy(transport.bytes(f)).into_owned()).collect()
    }

    #[test]
    fn a_replaced_player_reads_fafs_notice_before_the_closing_line() {
        let text = said(Transport::Tcp, CloseReason::Replaced);
        let (notice, closing) = text.split_once('\n').expect("two lines");
        assert!(notice.contains("You have been signed out because you signed in elsewhere."), "{notice}");
        assert!(closing.contains("4501"), "{closing}");
    }

    #[test]
    fn websocket_ends_with_a_close_frame_of_the_same_code() {
        let frames = farewell(Transport::WebSocket, FrameKind::Text, CloseReason::TooSlow, Some(5));
        let last = Transport::WebSocket.bytes(frames.last().expect("a close frame")).to_vec();
        assert_eq!((last[0], &last[2..4]), (0x88, &4000u16.to_be_bytes()[..]));
        assert!(!said(Transport::Tcp, CloseReason::TooSlow).contains('\u{fffd}'));
    }

    #[test]
    fn a_client_that_says_goodbye_gets_no_closing_line() {
        assert_eq!(said(Transport::Tcp, CloseReason::Bye), "");
    }
}
