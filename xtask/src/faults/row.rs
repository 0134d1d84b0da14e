//! A row of the table of faults: what is done to a lobby, what is required of it, and the function that does it.
//!
//! # How a row is written
//! Each group is a file with its `ROWS`; [`super::table`] lists the files. A row is a value and a function:
//!
//! ```text
//! pub(super) const ROWS: &[Row] = &[Row {
//!     id: "B2",                                   // as `--only` names it; `A1-A6` is one row for six
//!     done: "the queue deleted under the consumer",
//!     required: "declared, bound, consumed again in 500 ms; nothing lost",
//!     sharing: Sharing::SideBySide,               // or one of the others
//!     takes: Takes { short: 10, long: 30 },       // usual seconds; the limit is three times that and a minute
//!     run: |scene| Box::pin(queue_deleted(scene)),
//! }];
//!
//! async fn queue_deleted(scene: &Scene) -> anyhow::Result<()> {
//!     let lobby = scene.lobby().await?;           // watched: memory, descriptors, threads
//!     for _ in 0..scene.pick(3, 20) {             // short form, long form
//!         …                                       // everything of `Stage`: clients, notifier, proxied, …
//!         scene.recovered(start.elapsed(), Duration::from_millis(500))?;  // p50/p99, and the limit
//!     }
//!     scene.count(&tally, tally.unmarked(&marks))?; // a `stage::tally::Tally`; an error when something was lost
//!     scene.fact("anything else worth a line");
//!     scene.leaves_nothing(lobby).await           // descriptors as before, queue empty, exit code 0
//! }
//! ```
//!
//! An error fails the row; what was counted until then is shown with it. A panic in a lobby's log fails it too. Wait
//! for events, not for time. A function over 100 lines, or a file over 400, is split by what it does.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::scene::Scene;

/// What a row shares with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// A virtual host of its own on a broker that others use too.
    SideBySide,
    /// The same on a broker of its own with this `advanced.config`.
    OwnBroker(&'static str),
    /// It needs the machine to itself.
    Alone,
    /// It stops, hangs or alarms the broker: one after the other, on a broker that only such rows use.
    StopsBroker,
}

/// Seconds that a row usually takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Takes {
    pub(super) short: u64,
    pub(super) long: u64,
}

/// How much of a row is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For CI: fewer rounds, smaller crowds, shorter waits.
    Short,
    /// As the row says.
    Long,
}

impl Form {
    /// The word in tables and records.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }
}

/// One row.
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) done: &'static str,
    pub(super) required: &'static str,
    pub(super) sharing: Sharing,
    pub(super) takes: Takes,
    pub(super) run: for<'a> fn(&'a Scene) -> BoxFuture<'a, anyhow::Result<()>>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

impl Row {
    /// A row still running after this is a failure.
    pub(super) fn limit(&self, form: Form) -> Duration {
        let usual = match form {
            Form::Short => self.takes.short,
            Form::Long => self.takes.long,
        };
        Duration::from_secs(usual * 3 + 60)
    }

    /// The ids that this row is about: `A1-A3` is about three.
    pub(super) fn ids(&self) -> Vec<String> {
        ids(self.id)
    }
}

/// `B4` is itself, `A1-A3` is `A1`, `A2`, `A3`.
fn ids(text: &str) -> Vec<String> {
    let parts = |id: &str| Some((id.get(..1)?.to_owned(), id.get(1..)?.parse::<u32>().ok()?));
    let range = text.split_once('-').and_then(|(first, last)| Some((parts(first)?, parts(last)?)));
    match range {
        Some(((letter, first), (_, last))) => (first..=last).map(|n| format!("{letter}{n}")).collect(),
        None => vec![text.to_owned()],
    }
}

/// Sorts `B10` behind `B9`, and the groups as the table has them.
pub(super) fn order(id: &str) -> (usize, u32) {
    const GROUPS: &str = "BRCPIALXSG";
    let first = id.split('-').next().unwrap_or(id);
    let group = first.chars().next().and_then(|letter| GROUPS.find(letter)).unwrap_or(GROUPS.len());
    (group, first.get(1..).and_then(|number| number.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_each_of_its_rows() {
        assert_eq!(ids("A7-A9"), ["A7", "A8", "A9"]);
        assert_eq!(ids("B10"), ["B10"]);
    }

    #[test]
    fn rows_stand_in_the_order_of_the_table() {
        let mut rows = ["G1-G3", "B10", "C1", "B2", "R1"];
        rows.sort_by_key(|id| order(id));
        assert_eq!(rows, ["B2", "B10", "R1", "C1", "G1-G3"]);
    }
}
