//! `lobby top`, where nobody looks at it on a terminal.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::stage::Stage;
use crate::PATIENCE;
use crate::client::Transport;
use crate::late::Late;

/// One look as JSON and as a page without colours; a lobby that is not there is named.
pub(super) async fn top_command(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let client = stage.client(&lobby, Transport::WebSocket, 7).await?;
    let admin = lobby.admin_address()?.to_string();
    let top = |arguments: &[&str]| {
        stage.bare_setup().arguments(["top", "--once"]).arguments(arguments.iter().copied())
    };
    let start = Instant::now();
    loop {
        let looked = top(&["--json", "--admin", &admin]).run_to_exit().await?;
        ensure!(looked.status.success(), "lobby top: {} {}", looked.status, looked.stderr);
        let object: Value = serde_json::from_str(&looked.stdout).context("lobby top --once --json")?;
        ensure!(object["instance"] == json!(stage.instance()), "another lobby: {object}");
        // Samples are taken once a second.
        if object["sample"]["sessions_websocket"] == json!(1) {
            ensure!(object["state"]["ready"] == json!(true), "not ready: {object}");
            ensure!(object["per_second"]["messages"].is_number(), "no rate: {object}");
            break;
        }
        ensure!(start.elapsed() < PATIENCE, Late(format!("never showed the session: {object}")));
    }
    let page = top(&["--admin", &admin]).run_to_exit().await?;
    ensure!(page.status.success() && page.stdout.contains("WebSocket 1"), "lobby top: {}", page.stdout);
    ensure!(!page.stdout.contains('\u{1b}'), "colours without a terminal: {:?}", page.stdout);
    let nobody = top(&["--admin", "127.0.0.1:1"]).run_to_exit().await?;
    ensure!(nobody.status.code() == Some(69), "nobody there: {} {}", nobody.status, nobody.stderr);
    ensure!(nobody.stderr.contains("127.0.0.1:1"), "the address is not named: {}", nobody.stderr);
    drop(client);
    stage.leaves_nothing(lobby).await
}
