//! Messages for every session of a shard: written at once where nothing waits, queued where something does.

use slab::Slab;

use super::{Desk, Shard};
#[cfg(feature = "io-uring")]
use crate::Transport;
use crate::{
    Frame,
    run::{Runs, Sent},
    seat::Seat,
};

/// Writes to all seats where nothing waits.
#[derive(Default)]
pub(super) struct Broadcaster {
    #[cfg(feature = "io-uring")]
    ring: Option<crate::ring::Ring>,
}

impl Broadcaster {
    /// With a ring, if this build has the feature and the kernel allows one; the ring is the calling thread's.
    #[cfg(feature = "io-uring")]
    pub(super) fn new() -> Self {
        let ring = crate::ring::Ring::new();
        match &ring {
            Ok(_) => tracing::info!("broadcasts are written through io_uring"),
            Err(error) => {
                tracing::info!(%error, "the kernel refuses io_uring; broadcasts are written one by one");
            }
        }
        Self { ring: ring.ok() }
    }

    #[cfg(not(feature = "io-uring"))]
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Writes `runs` to every seat that is direct, and tells `sent` what each socket took.
    fn write(&mut self, seats: &mut Slab<Seat>, runs: &Runs<'_>, mut sent: impl FnMut(&mut Seat, Sent)) {
        if self.write_at_once(seats, runs, &mut sent) {
            return;
        }
        for (_, seat) in seats {
            if seat.is_direct() {
                let of_seat = seat.write_run(runs.of(seat.transport()));
                sent(seat, of_seat);
            }
        }
    }

    /// Writes to the seats that get the same bytes with one system call; false if nothing was written.
    #[cfg(feature = "io-uring")]
    fn write_at_once(
        &mut self,
        seats: &mut Slab<Seat>,
        runs: &Runs<'_>,
        sent: &mut impl FnMut(&mut Seat, Sent),
    ) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        let parts = (runs.of(Transport::Tcp).single_part(), runs.of(Transport::WebSocket).single_part());
        let (Some(line), Some(websocket)) = parts else { return false };
        let part_of = |seat: &Seat| match seat.transport() {
            Transport::Tcp => line,
            Transport::WebSocket => websocket,
        };
        let direct = seats
            .iter_mut()
            .filter_map(|(key, seat)| seat.is_direct().then(|| seat.job(key, part_of(seat).0)));
        let jobs: Vec<_> = direct.collect();
        ring.write(&jobs, |key, taken| {
            let seat = &mut seats[key];
            let (part, offered) = part_of(seat);
            let of_seat = seat.took(part, offered, taken);
            sent(seat, of_seat);
        });
        true
    }

    #[cfg(not(feature = "io-uring"))]
    fn write_at_once(
        &mut self,
        _: &mut Slab<Seat>,
        _: &Runs<'_>,
        _: &mut impl FnMut(&mut Seat, Sent),
    ) -> bool {
        false
    }
}

impl Shard {
    /// Writes a batch's broadcasts to each session in one go. A frame is queued only for a session that has others
    /// waiting, or whose socket does not take all.
    pub(super) fn deliver_to_everyone(&mut self, broadcasts: &[&Frame]) {
        let Self { seats, desk, broadcaster, .. } = self;
        // These first: something waits for them afterwards too, so they are not written to below.
        for (_, seat) in seats.iter_mut() {
            if !seat.is_direct() {
                let ahead = std::mem::take(&mut seat.session_mut().ahead);
                broadcasts[ahead..].iter().for_each(|frame| desk.offer(seat, frame));
            }
        }
        let mut total = Sent::default();
        let mut took_all = 0;
        broadcaster.write(seats, &Runs::new(broadcasts), |seat, sent| {
            total += sent;
            if sent.whole == broadcasts.len() {
                took_all += 1;
            } else {
                desk.queue_unsent(seat, broadcasts, sent);
            }
        });
        broadcasts.iter().for_each(|frame| frame.is_for(took_all));
        desk.stats.wrote(total.writes, total.whole, total.bytes);
    }
}

impl Desk {
    /// Queues what a socket did not take of `broadcasts`.
    fn queue_unsent(&mut self, seat: &mut Seat, broadcasts: &[&Frame], sent: Sent) {
        broadcasts[..sent.whole].iter().for_each(|frame| frame.is_for(1));
        let unsent = match &broadcasts[sent.whole..] {
            [next, after @ ..] if sent.of_next > 0 => {
                next.is_for(1);
                let session = seat.session_mut();
                session.queue_rest(next, sent.of_next, &self.stats);
                self.mark_dirty(session);
                after
            }
            unsent => unsent,
        };
        unsent.iter().for_each(|frame| self.offer(seat, frame));
    }
}
