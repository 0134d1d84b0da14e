//! `lobby record`: what arrives at the exchange, kept byte for byte.

use std::{
    fs::OpenOptions,
    io::{BufWriter, Write},
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::{listen::Listening, progress::progress, run};
use crate::{
    Failure,
    config::{Config, parse_duration},
    print,
    recording::Recorded,
};

/// Where to, and how much.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The file, to which is appended: one JSON object a line.
    #[arg(value_name = "FILE")]
    file: String,
    /// Ends after so many messages.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Ends after this time, as in 60s.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// The summary as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Records until a limit, or until Ctrl-C.
pub fn record(config: &Config, args: &RecordArgs) -> Result<(), Failure> {
    let unwritable = |error: std::io::Error| Failure {
        code: Failure::FILE,
        error: anyhow::Error::new(error).context(format!("write {}", args.file)),
    };
    let file = OpenOptions::new().append(true).create(true).open(&args.file).map_err(unwritable)?;
    let mut file = BufWriter::new(file);
    run(async {
        let mut listening = Listening::start(config, "record", args.duration).await?;
        let bar = progress("messages", args.limit);
        let mut recorded = 0;
        while args.limit.is_none_or(|limit| recorded < limit)
            && let Some(delivery) = listening.next().await
        {
            let line = Recorded {
                at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
                exchange: delivery.exchange().to_owned(),
                redelivered: delivery.redelivered(),
                message: delivery.raw(),
            };
            file.write_all((line.to_line() + "\n").as_bytes()).map_err(unwritable)?;
            if !listening.has_more() {
                file.flush().map_err(unwritable)?;
            }
            recorded += 1;
            bar.inc(1);
        }
        file.flush().map_err(unwritable)?;
        bar.finish_and_clear();
        let gaps = listening.stop().await;
        print(&if args.json {
            format!("{}\n", json!({"file": args.file, "recorded": recorded, "gaps": gaps}))
        } else {
            format!("recorded {recorded} messages to {}\n", args.file)
        })?;
        if gaps == 0 {
            return Ok(());
        }
        let error = anyhow!(
            "the recording has {gaps} gaps: the connection was lost, or messages came faster than the file takes them"
        );
        Err(Failure { code: Failure::GAP, error })
    })
}
