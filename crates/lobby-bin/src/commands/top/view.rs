//! What `lobby top` shows. Pure: events in, text out; colours only where the terminal has them.

use std::{collections::VecDeque, time::Duration};

use console::style;
use serde_json::{Value, json};

use crate::admin::Sample;

/// Seconds that the small plots show at most.
const PLOTTED: usize = 120;
/// Where the figures begin.
const MARGIN: usize = 15;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What a lobby has told so far.
#[derive(Debug, Default)]
pub struct Seen {
    hello: Value,
    state: Value,
    samples: VecDeque<Sample>,
}

impl Seen {
    /// Takes an event; true for the first of a connection, which says who speaks.
    pub fn take(&mut self, mut event: Value) -> bool {
        let is_hello = event.get("history").is_some();
        if is_hello {
            let history = serde_json::from_value::<Vec<Sample>>(event["history"].take());
            self.samples = history.unwrap_or_default().into();
            self.state = event["state"].take();
            self.hello = event;
        } else if let Ok(sample) = serde_json::from_value(event["sample"].take()) {
            self.samples.push_back(sample);
            self.state = event["state"].take();
        }
        while self.samples.len() > PLOTTED + 1 {
            self.samples.pop_front();
        }
        is_hello
    }

    fn now(&self) -> Sample {
        self.samples.back().copied().unwrap_or_default()
    }

    /// What a figure grew by, a second, at each sample but the first.
    fn rates(&self, figure: impl Fn(&Sample) -> u64) -> Vec<f64> {
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let rate = |(before, after): (&Sample, &Sample)| {
            let millis = after.at_ms.saturating_sub(before.at_ms).max(1);
            figure(after).saturating_sub(figure(before)) as f64 * 1000.0 / millis as f64
        };
        pairs.map(rate).collect()
    }

    fn rate(&self, figure: impl Fn(&Sample) -> u64) -> f64 {
        self.rates(figure).last().copied().unwrap_or_default()
    }

    fn word(&self) -> &'static str {
        match (self.state["draining"].as_bool(), self.state["ready"].as_bool()) {
            (Some(true), _) => "draining",
            (_, Some(true)) => "ready",
            _ => "not ready",
        }
    }
}

fn messages(sample: &Sample) -> u64 {
    sample.unicast + sample.broadcast + sample.not_connected + sample.channel_reserved + sample.dropped
}

fn sessions(sample: &Sample) -> u64 {
    sample.sessions_tcp + sample.sessions_websocket
}

/// One object with the figures, what they grew by in a second, and the state in words.
pub fn object(seen: &Seen) -> Value {
    json!({
        "instance": seen.hello["instance"],
        "sample": seen.now(),
        "per_second": {
            "messages": seen.rate(messages),
            "unicast": seen.rate(|s| s.unicast),
            "broadcast": seen.rate(|s| s.broadcast),
            "not_connected": seen.rate(|s| s.not_connected),
            "dropped": seen.rate(|s| s.dropped),
            "written": seen.rate(|s| s.written),
            "written_bytes": seen.rate(|s| s.written_bytes),
        },
        "state": seen.state,
    })
}

/// The heads of [`columns`].
pub fn head() -> String {
    format!(
        "{:9} {:>8} {:>10} {:>10} {:>9} {:>9} {:>10} {:>7} {:>10}\n",
        "state", "sessions", "messages/s", "written/s", "p50", "p99", "waiting", "unacked", "reconnects"
    )
}

/// The figures on one line.
pub fn columns(seen: &Seen) -> String {
    let now = seen.now();
    format!(
        "{:9} {:>8} {:>10} {:>10} {:>9} {:>9} {:>10} {:>7} {:>10}",
        seen.word(),
        sessions(&now),
        short(seen.rate(messages)),
        short(seen.rate(|s| s.written)),
        time(now.p50_us),
        time(now.p99_us),
        bytes(now.outbox_bytes),
        now.unacked,
        now.reconnects
    )
}

/// A page of lines for a terminal of this width.
pub fn screen(seen: &Seen, width: usize) -> Vec<String> {
    let now = seen.now();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let word = match seen.word() {
        "ready" => style("ready").green(),
        "draining" => style("draining").yellow(),
        other => style(other).red(),
    };
    let label = |name: &str| style(format!("{name:MARGIN$}")).bold().to_string();
    let plot = |values: &[f64]| {
        let bars = bars(values, width.saturating_sub(MARGIN + 1));
        format!("{:MARGIN$}{}", "", style(bars).cyan())
    };
    let gauge = |figure: fn(&Sample) -> u64| -> Vec<f64> {
        seen.samples.iter().map(|sample| figure(sample) as f64).collect()
    };
    let canary = now.canary_ms.map(|ms| format!("{:.1?} ago", Duration::from_millis(ms)));
    vec![
        format!("lobby {}  {word}  {}", text(&seen.hello["instance"]), text(&seen.state["why"]["reason"])),
        String::new(),
        format!(
            "{}{}  TCP {}  WebSocket {}  connections {} of {}  logging in {}",
            label("sessions"),
            sessions(&now),
            now.sessions_tcp,
            now.sessions_websocket,
            now.connections,
            seen.state["max_connections"],
            now.handshakes
        ),
        plot(&gauge(sessions)),
        format!(
            "{}{}  unicast {}  broadcast {}  not connected {}  dropped {}",
            label("messages/s"),
            short(seen.rate(messages)),
            short(seen.rate(|s| s.unicast)),
            short(seen.rate(|s| s.broadcast)),
            short(seen.rate(|s| s.not_connected)),
            short(seen.rate(|s| s.dropped))
        ),
        plot(&seen.rates(messages)),
        format!(
            "{}{}  {}/s",
            label("written/s"),
            short(seen.rate(|s| s.written)),
            bytes(seen.rate(|s| s.written_bytes) as u64)
        ),
        plot(&seen.rates(|s| s.written)),
        format!("{}p50 {}  p99 {}", label("broker→socket"), time(now.p50_us), time(now.p99_us)),
        plot(&gauge(|sample| sample.p99_us.unwrap_or_default())),
        format!(
            "{}{} in outboxes  {} of notifications  slow clients closed {}",
            label("waiting"),
            bytes(now.outbox_bytes),
            bytes(now.notification_bytes),
            now.slow_closed
        ),
        format!(
            "{}unacked {} of {}  reconnects {}  canary {}",
            label("broker"),
            now.unacked,
            seen.hello["prefetch"],
            now.reconnects,
            canary.as_deref().unwrap_or("-")
        ),
        format!("{}{}", label("dropped"), named(&seen.state["dropped"])),
        format!("{}{}", label("closes"), named(&seen.state["closes"])),
        format!("{}{}", label("refused"), named(&seen.state["refused"])),
    ]
}

/// Counts with their names.
fn named(counts: &Value) -> String {
    let counts = counts.as_object().into_iter().flatten();
    let counts: Vec<_> = counts.map(|(name, count)| format!("{name} {count}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join("  ") }
}

/// The latest values, each as high as its share of the highest.
fn bars(values: &[f64], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width.min(PLOTTED))..];
    let highest = shown.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let share = if highest > 0.0 { value / highest } else { 0.0 };
        BARS[((share * 8.0).ceil() as usize).saturating_sub(1).min(7)]
    };
    shown.iter().map(bar).collect()
}

fn short(number: f64) -> String {
    if number >= 100.0 || number == 0.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

fn time(micros: Option<u64>) -> String {
    micros.map_or_else(|| "-".to_owned(), |micros| format!("{:.1?}", Duration::from_micros(micros)))
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize::b(count).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let mut seen = Seen::default();
        let sample = |at_ms, unicast, written| Sample { at_ms, unicast, written, ..Sample::default() };
        let history = [sample(1000, 5, 10), sample(2000, 15, 40)];
        let hello = json!({"instance": "eu-1", "prefetch": 200, "history": history,
            "state": {"ready": true, "draining": false, "why": {"ready": true}}});
        assert!(seen.take(hello));
        let last = Sample { sessions_tcp: 3, p99_us: Some(1500), outbox_bytes: 2048, ..sample(4000, 75, 41) };
        assert!(
            !seen.take(
                json!({"sample": last, "state": {"ready": false, "draining": true, "max_connections": 9,
            "why": {"reason": "the lobby is draining"}, "closes": {"1012": 7}}})
            )
        );
        seen
    }

    #[test]
    fn rates_are_what_the_figures_grew_by_in_the_time_between() {
        let object = object(&seen());
        assert_eq!(object["per_second"]["messages"], json!(30.0));
        assert_eq!(object["per_second"]["written"], json!(0.5));
        assert_eq!(object["instance"], json!("eu-1"));
        assert_eq!(object["sample"]["unicast"], json!(75));
        assert_eq!(object["state"]["draining"], json!(true));
    }

    #[test]
    fn a_page_and_a_line_tell_the_same_without_colours_where_there_is_no_terminal() {
        console::set_colors_enabled(false);
        let seen = seen();
        let page = screen(&seen, 80).join("\n");
        for part in [
            "lobby eu-1  draining  the lobby is draining",
            "sessions       3",
            "p99 1.5ms",
            "2.0 KiB",
            "1012 7",
        ] {
            assert!(page.contains(part), "{part}:\n{page}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
        let line = columns(&seen);
        assert!(line.starts_with("draining         3       30.0"), "{line}");
        assert_eq!(head().trim_end().chars().count(), line.chars().count());
    }

    #[test]
    fn bars_are_as_high_as_their_share_of_the_highest() {
        assert_eq!(bars(&[0.0, 1.0, 4.0, 8.0], 10), "▁▁▄█");
        assert_eq!(bars(&[0.0, 1.0, 4.0, 8.0], 2), "▄█");
        assert_eq!((bars(&[], 9), bars(&[0.0], 9)), (String::new(), "▁".to_owned()));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut seen = Seen::default();
        for at_ms in 0..1000 {
            seen.take(json!({"sample": Sample { at_ms, ..Sample::default() }, "state": {}}));
        }
        assert_eq!(seen.samples.len(), PLOTTED + 1);
        assert_eq!(seen.now().at_ms, 999);
    }
}
