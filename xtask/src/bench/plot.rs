//! Server CPU per delivery as bars on a logarithmic scale, in SVG.

use std::fmt::Write as _;

use super::{peer::Peer, sample::Results, subject::Subject, targets::short};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 70.0;
const BAR: f64 = 15.0;
const GAP: f64 = 16.0;
const TOP: f64 = 64.0;
/// A wide letter of the legend; viewers have different fonts.
const LETTER: f64 = 7.0;

/// Draws every scenario that has a cost per delivery.
pub(super) fn svg(results: &Results) -> String {
    let cost = |scenario: &str, subject| results.spread(scenario, subject, "cpu_us");
    let scenarios = results.scenarios();
    let groups: Vec<_> = scenarios
        .into_iter()
        .map(|scenario| {
            (scenario, Subject::ALL.iter().filter_map(|s| Some((*s, cost(scenario, *s)?))).collect())
        })
        .filter(|(scenario, bars): &(_, Vec<_>)| !bars.is_empty() && *scenario != "slow-readers")
        .collect();
    let all = || groups.iter().flat_map(|(_, bars)| bars.iter().map(|(_, spread)| *spread));
    let least = all().map(|spread| spread.least).fold(f64::INFINITY, f64::min).max(1e-3);
    let most = all().map(|spread| spread.most).fold(least * 10.0, f64::max);
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    let x = |value: f64| LEFT + (value.max(1e-3).log10() - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let height = TOP + groups.iter().map(|(_, bars)| bars.len() as f64 * BAR + GAP).sum::<f64>() + 30.0;

    let mut out = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{text}");
    };
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">"
    ));
    put(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"));
    put(format_args!(
        "<text x=\"10\" y=\"22\" font-size=\"15\">Server CPU per delivery, µs (median; the line spans all runs)</text>"
    ));
    let mut legend = 10.0;
    let shown = |subject: &Subject| groups.iter().any(|(_, bars)| bars.iter().any(|(s, _)| s == subject));
    for subject in Subject::ALL.into_iter().filter(shown) {
        put(format_args!(
            "<rect x=\"{legend}\" y=\"34\" width=\"11\" height=\"11\" fill=\"{}\"/>",
            colour(subject)
        ));
        put(format_args!("<text x=\"{}\" y=\"44\">{}</text>", legend + 16.0, subject.name()));
        legend += 28.0 + LETTER * subject.name().len() as f64;
    }
    let mut power = low;
    while power <= high {
        let at = x(10f64.powf(power));
        put(format_args!(
            "<path d=\"M{at:.1} {TOP}V{:.0}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.0}\" \
             text-anchor=\"middle\" fill=\"#666\">{}</text>",
            height - 28.0,
            height - 12.0,
            10f64.powf(power)
        ));
        power += 1.0;
    }
    let mut y = TOP + GAP / 2.0;
    for (scenario, bars) in &groups {
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        put(format_args!(
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{scenario}</text>",
            LEFT - 10.0
        ));
        for (subject, spread) in bars {
            let (end, centre) = (x(spread.median), y + BAR / 2.0);
            put(format_args!(
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>",
                y + 1.0,
                end - LEFT,
                BAR - 2.0,
                colour(*subject)
            ));
            put(format_args!(
                "<path d=\"M{:.1} {centre:.1}H{:.1}\" stroke=\"#222\"/>",
                x(spread.least),
                x(spread.most)
            ));
            let label = x(spread.most) + 5.0;
            put(format_args!(
                "<text x=\"{label:.1}\" y=\"{:.1}\">{}</text>",
                centre + 4.0,
                short(spread.median)
            ));
            y += BAR;
        }
        y += GAP;
    }
    put(format_args!("</svg>"));
    out
}

fn colour(subject: Subject) -> &'static str {
    match subject {
        Subject::FloorWrite => "#b0b7c0",
        Subject::FloorWritev => "#7b8794",
        Subject::FloorUring => "#4a5560",
        Subject::LobbyTcp => "#1f77b4",
        Subject::LobbyWebSocket => "#e07b39",
        Subject::Peer(Peer::Nats) => "#5b9a68",
        Subject::Peer(Peer::Mosquitto) => "#9467bd",
        Subject::Library => "#8c564b",
    }
}
