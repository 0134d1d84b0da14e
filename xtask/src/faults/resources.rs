//! Group X: a machine that gives less than the lobby asks for.

mod clock;
mod descriptors;
mod log;
mod memory;

use super::row::{Row, Sharing, Takes};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "X1",
        done: "256 file descriptors and then 64, 1,000 connections",
        required: "accept backs off, no spinning; broker connection kept",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 25, long: 60 },
        run: |scene| Box::pin(descriptors::too_few(scene)),
    },
    Row {
        id: "X3",
        done: "256 MiB of memory for data (RLIMIT_DATA), 100 clients that never read, and a GiB for them",
        required: "sheds clients before the kernel kills it",
        sharing: Sharing::Alone,
        takes: Takes { short: 30, long: 60 },
        run: |scene| Box::pin(memory::too_little(scene)),
    },
    Row {
        id: "X4",
        done: "the log's disk is full; standard error is closed; nobody reads it any more (SIGPIPE)",
        required: "keeps serving",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(log::nowhere(scene)),
    },
    Row {
        id: "X5",
        done: "the clock jumps a day ahead, and two back (faketime)",
        required: "keeps serving",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(clock::jumps(scene)),
    },
];
