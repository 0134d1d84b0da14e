//! Group P: what publishers send, by mistake or on purpose.

mod bad;
mod huge;
mod model;
mod poison;

use super::row::{Row, Sharing, Takes};
use crate::e2e::vectors;

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "P1-P8",
        done: "the contract's vectors, and every header type",
        required: "as the contract says; never a broadcast by mistake",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 25, long: 25 },
        run: |scene| Box::pin(scene.plays(vectors::vectors(scene))),
    },
    Row {
        id: "P9",
        done: "ten bodies of 100 MiB",
        required: "dropped; peak memory reported; the README says how to lower the broker's `max_message_size`",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(huge::bodies(scene)),
    },
    Row {
        id: "P10",
        done: "a million bad messages (in the short form 50,000)",
        required: "acked; log lines per second capped; consumer speed unaffected",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 30, long: 400 },
        run: |scene| Box::pin(bad::messages(scene)),
    },
    Row {
        id: "P11",
        done: "random envelopes against a model of the contract; in the long form 10⁸",
        required: "no panic, and the decision that the contract has; ≥ 10⁸ cases",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 900 },
        run: |scene| Box::pin(model::compared(scene)),
    },
    Row {
        id: "P12",
        done: "messages that break an AMQP library's parser: timestamps out of range, names that are not UTF-8, tables \
               nested 2,000 deep, and random ones of the kind",
        required: "not redelivered for ever: the consumer gets past them",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 15, long: 120 },
        run: |scene| Box::pin(poison::passed(scene)),
    },
];
