//! Headless Chromium, driven over its DevTools protocol: pages are opened, clicked, read and photographed.
//!
//! A few commands of the protocol over a WebSocket; libraries for it bring thousands of generated types with them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::PATIENCE;
use crate::late::Late;

/// Names under which systems know it.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const POLL: Duration = Duration::from_millis(50);

/// The program, where it is installed.
pub(crate) fn program() -> Option<&'static str> {
    let path = std::env::var_os("PATH")?;
    PROGRAMS.into_iter().find(|name| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}

/// One page of a browser of its own. Dropping it ends the browser.
pub(crate) struct Page {
    _browser: Child,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<TcpStream>,
    session: String,
    next: u64,
    /// What the page complained about.
    complaints: Vec<String>,
}

impl Page {
    /// Starts a browser and shows an empty page.
    pub(crate) async fn start(program: &str) -> anyhow::Result<Self> {
        let profile = tempfile::Builder::new().prefix("lobby-browser-").tempdir()?;
        let mut browser = Command::new(program)
            .args(["--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu"])
            // As root, and in containers, its sandbox does not start; only our own page is shown.
            .args([
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let mut lines = BufReader::new(browser.stderr.take().context("the browser's output")?).lines();
        let address = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return Ok(address.to_owned());
                }
            }
            Err(anyhow!("{program} ended without an address"))
        });
        let address = address.await.context("the browser did not come up in time")??;
        // It must not wait for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let config =
            WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20));
        let host = address.strip_prefix("ws://").and_then(|rest| rest.split('/').next());
        let stream = TcpStream::connect(host.context("an address with a host")?).await?;
        let (socket, _) = client_async_with_config(&address, stream, Some(config)).await?;
        let mut page = Self {
            _browser: browser,
            _profile: profile,
            socket,
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.call("Target.attachToTarget", attach).await?;
        page.session = attached["sessionId"].as_str().context("a session")?.to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({})).await?;
        }
        Ok(page)
    }

    /// What a window of this width shows, in a dark or a light scheme.
    pub(crate) async fn look(&mut self, width: u32, dark: bool) -> anyhow::Result<()> {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    pub(crate) async fn open(&mut self, url: &str) -> anyhow::Result<()> {
        let answer = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(answer.get("errorText").is_none(), "{url}: {}", answer["errorText"]);
        self.until("the page", "document.readyState === 'complete'").await
    }

    /// The value of an expression.
    pub(crate) async fn value(&mut self, expression: &str) -> anyhow::Result<Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked).await?;
        if let Some(details) = answer.get("exceptionDetails") {
            bail!("{expression}: {details}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// The text that an element shows.
    pub(crate) async fn text(&mut self, selector: &str) -> anyhow::Result<String> {
        let text = self.value(&format!("document.querySelector({})?.innerText", json!(selector))).await?;
        text.as_str().map(str::to_owned).with_context(|| format!("there is no {selector}"))
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, what: &str, expression: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.value(expression).await? != json!(true) {
            if begin.elapsed() > PATIENCE {
                let shown = self.value("document.body?.innerText").await?;
                let shown = shown.as_str().unwrap_or_default();
                bail!(Late(format!("the page never had {what}; it shows:\n{shown}")));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until an element shows `text`.
    pub(crate) async fn shows(&mut self, selector: &str, text: &str) -> anyhow::Result<()> {
        let found = format!(
            "[...document.querySelectorAll({})].some((e) => e.checkVisibility() && e.innerText.includes({}))",
            json!(selector),
            json!(text)
        );
        self.until(&format!("{text:?} in {selector}"), &found).await
    }

    /// Clicks the middle of an element with the mouse, as a person does.
    pub(crate) async fn click(&mut self, selector: &str) -> anyhow::Result<()> {
        let visible = format!("!!document.querySelector({})?.checkVisibility()", json!(selector));
        self.until(&format!("a visible {selector}"), &visible).await?;
        let place = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let place = self.value(&place).await?;
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// Types into an element, in place of what it holds.
    pub(crate) async fn fill(&mut self, selector: &str, text: &str) -> anyhow::Result<()> {
        self.click(selector).await?;
        self.value(&format!("document.querySelector({}).select()", json!(selector))).await?;
        self.call("Input.insertText", json!({"text": text})).await.map(drop)
    }

    /// Saves what the page shows, from its top to its end, as PNG.
    pub(crate) async fn photograph(&mut self, path: &Path) -> anyhow::Result<()> {
        let asked = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", asked).await?;
        let png = STANDARD.decode(answer["data"].as_str().context("a picture")?)?;
        std::fs::write(path, png).with_context(|| format!("write {}", path.display()))
    }

    /// Errors that the page reported since the last call.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.next += 1;
        let id = self.next;
        let mut request = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(request.to_string())).await?;
        let answer = timeout(PATIENCE, async {
            loop {
                let message = self.socket.next().await.context("the browser has gone")??;
                let Ok(text) = message.to_text() else { continue };
                let Ok(mut value) = serde_json::from_str::<Value>(text) else { continue };
                if value["id"] == json!(id) {
                    return match value.get("error") {
                        Some(error) => Err(anyhow!("{method}: {error}")),
                        None => Ok(value["result"].take()),
                    };
                }
                self.note(&value);
            }
        });
        answer.await.with_context(|| format!("{method} took longer than {PATIENCE:?}"))?
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                self.complaints.push(format!("{} {}", params["entry"]["text"], params["entry"]["url"]));
            }
            _ => {}
        }
    }
}
