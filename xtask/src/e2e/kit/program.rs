//! A running program that publishes what it is told, one expression at a time.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::language::Language;

/// For one answer: the publisher's own limit on a confirm is 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Of standard error in a failure.
const LAST_WORDS: usize = 4000;

#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(super) fn start(
        language: &Language,
        environment: &Path,
        publisher: &str,
        broker: &str,
        exchange: &str,
    ) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
        let mut command = Command::new((language.interpreter)(environment));
        command.args((language.arguments)(environment, root, publisher));
        command.env("AMQP_URL", broker).env("EXCHANGE", exchange);
        command.env("PYTHONPATH", root.join("publishers/python")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start the program")?;
        let input = child.stdin.take().context("the program's input")?;
        let output = BufReader::new(child.stdout.take().context("the program's output")?).lines();
        Ok(Self { child, input, output })
    }

    /// What the program answers to an expression in its language.
    pub(super) async fn publish(&mut self, expression: &str) -> anyhow::Result<String> {
        let line = format!("{}\n", serde_json::Value::from(expression));
        let asking = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.flush().await?;
            self.output.next_line().await
        };
        match timeout(ANSWER_LIMIT, asking).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(ended) => bail!("the program ended ({ended:?}): {}", self.last_words().await),
            Err(_) => bail!("no answer in {ANSWER_LIMIT:?}"),
        }
    }

    /// Ends the program, which must not have complained.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        let last_words = async {
            self.input.shutdown().await?;
            drop(self.input);
            anyhow::Ok(self.child.wait_with_output().await?)
        };
        let output = timeout(ANSWER_LIMIT, last_words).await.context("the program did not end")??;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && stderr.trim().is_empty(),
            "the program: {} {stderr}",
            output.status
        );
        Ok(())
    }

    async fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = timeout(ANSWER_LIMIT, stderr.take(1 << 20).read_to_end(&mut words)).await;
        }
        let start = words.len().saturating_sub(LAST_WORDS);
        String::from_utf8_lossy(&words[start..]).into_owned()
    }
}
