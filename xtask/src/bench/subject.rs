//! What is measured: a floor, the lobby over one transport, a peer, the AMQP library alone.

use super::peer::Peer;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    FloorWrite,
    FloorWritev,
    FloorUring,
    LobbyTcp,
    LobbyWebSocket,
    Peer(Peer),
    /// `notify-amqp` without sessions.
    Library,
}

impl Subject {
    /// In the order of the report.
    pub(super) const ALL: [Self; 8] = [
        Self::FloorWrite,
        Self::FloorWritev,
        Self::FloorUring,
        Self::LobbyTcp,
        Self::LobbyWebSocket,
        Self::Peer(Peer::Nats),
        Self::Peer(Peer::Mosquitto),
        Self::Library,
    ];
    pub(super) const FLOORS: [Self; 3] = [Self::FloorWrite, Self::FloorWritev, Self::FloorUring];
    pub(super) const LOBBIES: [Self; 2] = [Self::LobbyTcp, Self::LobbyWebSocket];

    /// Whether it would have results in `scenario` if it could be measured.
    pub(super) fn takes_part(self, scenario: &str) -> bool {
        match scenario.split('-').next() {
            Some("idle") => !Self::FLOORS.contains(&self) && self != Self::Library,
            Some("slow") => Self::LOBBIES.contains(&self),
            Some("amqp") => self == Self::Library,
            _ => self != Self::Library,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FloorWrite => "floor write",
            Self::FloorWritev => "floor writev",
            Self::FloorUring => "floor io_uring",
            Self::LobbyTcp => "lobby TCP",
            Self::LobbyWebSocket => "lobby WebSocket",
            Self::Peer(peer) => peer.package(),
            Self::Library => "notify-amqp",
        }
    }
}
