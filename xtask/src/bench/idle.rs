//! What a connection that says nothing costs in memory.

use std::{collections::BTreeMap, time::Duration};

use super::{
    process::Usage,
    running::{Running, Workshop},
    subject::Subject,
};

/// After the last login: what the logins used is given back by then.
const CALM: Duration = Duration::from_secs(2);
/// Clients that come and go first, so that what the first ever client costs is not counted.
const WARM_UP: u32 = 100;

/// Connects clients up to each of `sizes`, and reports the resident memory that each takes; one result a size.
pub(super) async fn measure(
    subject: Subject,
    workshop: &Workshop,
    sizes: &[u32],
) -> anyhow::Result<Vec<(u32, BTreeMap<&'static str, f64>)>> {
    let mut running = Running::start(subject, workshop, 0).await?;
    drop(running.strangers(1..WARM_UP + 1).await?);
    tokio::time::sleep(CALM).await;
    let empty = Usage::of(running.pid())?.resident_bytes;
    let mut results = Vec::new();
    let mut connected = 0;
    for &size in sizes {
        running.connect(connected + 1..size + 1).await?;
        connected = size;
        tokio::time::sleep(CALM).await;
        running.driver.check()?;
        let resident = Usage::of(running.pid())?.resident_bytes;
        let grown = resident.saturating_sub(empty) as f64;
        results.push((
            size,
            BTreeMap::from([
                ("bytes_per_connection", grown / f64::from(size)),
                ("resident_mib", resident as f64 / f64::from(1 << 20)),
                ("resident_empty_mib", empty as f64 / f64::from(1 << 20)),
            ]),
        ));
    }
    Ok(results)
}
