// The console: reads the lobby's events, draws them, and asks for the rest when a view is opened. No library, no other host.

import { $, ask, bytes, count, element, hasToken, keepToken, micros, rate, span } from "./common.js";
import { listDecisions } from "./missed.js";

const KEPT = 900; // seconds, as many as the lobby keeps
const samples = [];
let hello = {};
let latest = null; // what the lobby last said of itself

// Events

// A page that the browser keeps for its Back button would hold one of the six connections that it has to a host.
let watching = new AbortController();
addEventListener("pagehide", () => watching.abort());

async function* events(path) {
  watching = new AbortController();
  const reader = (await ask(path, undefined, watching.signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name) => lines.filter((l) => l.startsWith(`${name}:`)).map((l) => l.slice(name.length + 1).trimStart()).join("\n");
      if (field("data")) yield { name: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

async function follow() {
  for (;;) {
    try {
      for await (const { name, data } of events("api/events")) {
        if (name === "hello") begin(data);
        else { keep(data.sample); draw(data.state); }
      }
    } catch (error) {
      if (error.status === 401) return lock(hasToken() ? "This is not the token." : "");
      say(error.status ? error.message : "no answer from the lobby");
    }
    status("bad", "not connected");
    await new Promise((done) => setTimeout(done, 2000));
  }
}

function lock(why) {
  $("unlock").hidden = false;
  document.querySelector("main").hidden = true;
  $("unlock-error").textContent = why;
  status("", "locked");
  $("token").focus();
}

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken($("token").value);
  $("unlock").hidden = true;
  follow();
});

// Overview

function begin(data) {
  hello = data;
  samples.length = 0;
  data.history.forEach(keep);
  document.querySelector("main").hidden = false;
  $("unlock").hidden = true;
  $("instance").textContent = `${hello.instance} · ${hello.version}`;
  document.title = `lobby ${hello.instance}`;
  $("publish-tab").hidden = !hello.acts;
  if (hello.websocket && !$("client-url").value) {
    $("client-url").value = `${hello.websocket.tls ? "wss" : "ws"}://${location.hostname}:${hello.websocket.port}/`;
  }
  draw(data.state);
}

function keep(sample) {
  const before = samples.at(-1);
  const seconds = before ? (sample.at_ms - before.at_ms) / 1000 : 0;
  const per = (name) => (seconds > 0 ? Math.max(0, sample[name] - before[name]) / seconds : null);
  for (const name of ["unicast", "broadcast", "not_connected", "dropped", "channel_reserved", "written", "written_bytes"]) sample[`${name}_s`] = per(name);
  samples.push(sample);
  if (samples.length > KEPT) samples.shift();
}

function status(kind, text) {
  $("status").className = `pill ${kind}`;
  $("status").textContent = text;
}

function say(text) {
  $("reason").hidden = !text;
  $("reason").textContent = text;
}

const PLOTS = [
  { title: "Sessions", show: count, lines: [["TCP", "blue", "sessions_tcp"], ["WebSocket", "violet", "sessions_websocket"]] },
  { title: "Messages a second, by outcome", show: rate, lines: [["to a user", "blue", "unicast_s"], ["to everyone", "green", "broadcast_s"], ["not connected", "amber", "not_connected_s"], ["dropped", "red", "dropped_s"]] },
  { title: "From broker to socket", show: micros, lines: [["p50", "blue", "p50_us"], ["p99", "amber", "p99_us"]] },
  { title: "Written to sockets, messages a second", show: rate, lines: [["written", "green", "written_s"]] },
  { title: "Waiting in outboxes", show: bytes, lines: [["bytes", "amber", "outbox_bytes"], ["each message once", "blue", "notification_bytes"]] },
  { title: "Canary: since one came through", show: (ms) => micros(ms * 1000), lines: [["age", "violet", "canary_ms"]] },
];

const CODES = {
  1000: "bye", 1007: "not UTF-8", 1008: "too many commands", 1009: "too big", 1012: "restart", 1013: "try later", 4000: "too slow", 4001: "no pong", 4002: "expired",
  4004: "slow login", 4500: "login failed", 4501: "replaced", 4502: "kicked", 4503: "protocol",
};

function draw(state) {
  latest = state;
  const now = samples.at(-1);
  status(state.ready ? "good" : "bad", state.ready ? "ready" : "not ready");
  say(state.ready ? "" : [state.why.reason, state.why.hint].filter(Boolean).join(": "));
  if (now) {
    const tile = (name, value, note = "", bad = false, wide = false) =>
      element("div", { class: `tile${bad ? " bad" : ""}${wide ? " wide" : ""}` }, element("small", {}, name), element("b", {}, value), element("small", {}, note));
    $("tiles").replaceChildren(
      tile("Sessions", count(now.sessions_tcp + now.sessions_websocket), `${count(now.connections)} of ${count(state.max_connections)} connections`),
      tile("Messages in", `${rate((now.unicast_s ?? 0) + (now.broadcast_s ?? 0) + (now.not_connected_s ?? 0) + (now.dropped_s ?? 0))}/s`, `${count(now.unacked)} not acked, at most ${count(hello.prefetch)}`),
      tile("Written", `${rate(now.written_s ?? 0)}/s`, `${bytes(now.written_bytes_s ?? 0)}/s`),
      tile("Broker to socket, p99", now.p99_us == null ? "–" : micros(now.p99_us), now.p50_us == null ? "no message this second" : `p50 ${micros(now.p50_us)}`),
      tile("Waiting", bytes(now.outbox_bytes), `${count(now.slow_closed)} closed as too slow`, now.outbox_bytes > hello.outbox_total_bytes / 2),
      tile("Broker", state.why.host ?? (now.consuming ? "consuming" : "not consuming"), state.why.queue ?? "", !now.consuming, true),
      tile("Canary", now.canary_ms == null ? "–" : micros(now.canary_ms * 1000), `self-check ${state.why.self_check ?? "–"}`),
      tile("Reconnects", count(now.reconnects), "since the start"),
    );
  }
  for (const id of ["dropped", "closes", "refused"]) {
    const named = (name) => (id === "closes" ? `${name === "0" ? "no code: left" : name}${CODES[name] ? ` ${CODES[name]}` : ""}` : name);
    const pairs = Object.entries(state[id]).flatMap(([name, n]) => [element("dt", {}, named(name)), element("dd", {}, count(n))]);
    $(id).replaceChildren(...(pairs.length ? pairs : [element("dt", {}, "none"), element("dd", {}, "")]));
  }
  if (!$("overview").hidden) $("plots").replaceChildren(...PLOTS.map(plot));
}

function plot({ title, show, lines }) {
  const [width, height, left] = [320, 150, 58];
  const values = lines.map(([, , key]) => samples.map((s) => s[key]));
  const most = Math.max(...values.flat().filter((v) => v != null), 0);
  // Half of it is marked too: of things that are counted it should be whole.
  const top = Math.max(nice(most), show === count || show === bytes ? 2 : 0);
  const [from, to] = [samples[0]?.at_ms ?? 0, samples.at(-1)?.at_ms ?? 1];
  const x = (at) => left + ((at - from) / Math.max(to - from, 60000)) * (width - left - 4);
  const y = (value) => height - 18 - (value / top) * (height - 30);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${lines.map(([name], i) => `${name} ${show(values[i].at(-1) ?? 0)}`).join(", ")}` });
  for (const part of [0, 0.5, 1]) {
    const at = y(top * part);
    svg.append(element("line", { class: "axis", x1: left, x2: width, y1: at, y2: at }));
    svg.append(element("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, show(top * part)));
  }
  svg.append(element("text", { x: left, y: height - 3 }, `${span(Math.max(to - from, 60000) / 1000)} ago`), element("text", { x: width, y: height - 3, "text-anchor": "end" }, "now"));
  const shift = width - 4 - x(to);
  lines.forEach(([, colour], i) => {
    let path = "";
    let pen = false;
    values[i].forEach((value, at) => {
      if (value == null) { pen = false; return; }
      path += `${pen ? "L" : "M"}${(x(samples[at].at_ms) + shift).toFixed(1)} ${y(value).toFixed(1)}`;
      // A lone point shows as a dot.
      if (!pen && values[i][at + 1] == null) path += "h1.5";
      pen = true;
    });
    svg.append(element("path", { class: colour, d: path || "M0 0" }));
  });
  const legend = element("ul", {}, ...lines.map(([name, colour], i) => element("li", { class: colour }, `${name} ${values[i].at(-1) == null ? "–" : show(values[i].at(-1))}`)));
  return element("div", { class: "plot" }, element("h2", {}, title), svg, legend);
}

function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// Sessions

let searched = 0;
async function listSessions() {
  const turn = ++searched;
  try {
    const { matching, sessions } = await (await ask(`api/sessions?text=${encodeURIComponent($("search-text").value)}`)).json();
    if (turn !== searched) return;
    $("matching").textContent = sessions.length < matching ? `${count(sessions.length)} of ${count(matching)}` : `${count(matching)} sessions`;
    $("session-rows").replaceChildren(...sessions.map(sessionRow));
  } catch (error) {
    $("matching").textContent = error.message;
  }
}

function sessionRow(session) {
  const cells = [session.user, session.login, session.peer, session.transport + (session.tls ? ", TLS" : ""), span(session.age_s), bytes(session.queued_bytes)];
  const row = element("tr", session.behind_ms == null ? {} : { class: "slow" }, ...cells.map((cell) => element("td", {}, String(cell))));
  const last = element("td");
  if (hello.acts) {
    const button = element("button", { class: "danger" }, "Kick");
    button.addEventListener("click", () => kick(session));
    last.append(button);
  }
  row.append(last);
  return row;
}

function confirm(text, yes, then) {
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  $("confirm").returnValue = "";
  $("confirm").showModal();
  $("confirm").onclose = () => { if ($("confirm").returnValue === "yes") then(); };
}

function kick(session) {
  confirm(`Disconnect ${session.login} (user ${session.user})? The client is told not to come back by itself.`, "Kick", async () => {
    try {
      const { kicked } = await (await ask("api/sessions/kick", { user: session.user, serial: session.serial })).json();
      await listSessions();
      $("matching").textContent += kicked ? ` · user ${session.user} kicked` : ` · user ${session.user} had left already`;
    } catch (error) {
      $("matching").textContent = error.message;
    }
  });
}

$("search").addEventListener("submit", (event) => event.preventDefault());
$("search-text").addEventListener("input", listSessions);

// Publish

function outcome(receipt) {
  const { instance, outcome, reason, sessions_matched: matched, sessions_written: written, micros: us } = receipt;
  const words = { written: `written to ${written} of ${matched} sessions after ${micros(us)}`, not_connected: "nobody it is for is connected",
    dropped: `dropped: ${reason}`, overflowed: "too slow a reader, whose session was closed", disconnected: "the session ended meanwhile" };
  return [outcome === "written" ? "green" : "amber", instance, words[outcome] ?? outcome];
}

async function publish(to) {
  const say = (...lines) => $("publish-result").replaceChildren(...lines);
  const line = (colour, text) => element("li", { class: colour }, text);
  say(line("", "…"));
  try {
    const answer = await (await ask("api/publish", { to, body: $("publish-body").value })).json();
    const receipts = answer.receipts.map(outcome).map(([colour, instance, words]) => line(colour, `${instance}: ${words}`));
    if (!receipts.length) receipts.push(line("amber", `No lobby sent a receipt within ${answer.waited_ms} ms.`));
    say(line("green", `The broker has it: ${answer.message_id}`), ...receipts);
  } catch (error) {
    say(line("red", error.message));
  }
}

$("publish-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (new FormData(event.target).get("to") === "user") return publish({ user: $("publish-user").value });
  confirm(`Send this to every player who is logged in, on every lobby?`, "Publish", () => publish({ everyone: "confirmed" }));
});

// Client

let socket = null;
function log(colour, text) {
  const line = element("li", colour ? { class: colour } : {}, `${new Date().toISOString().slice(11, 23)}  ${text}`);
  $("client-log").prepend(line);
  while ($("client-log").childElementCount > 200) $("client-log").lastChild.remove();
}

$("client-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket) { socket.close(1000); return; }
  try {
    socket = new WebSocket($("client-url").value, "lobby.v1.json");
  } catch (error) {
    log("red", error.message);
    return;
  }
  $("client-connect").textContent = "Disconnect";
  socket.onopen = () => {
    log("", "connected");
    socket.send(JSON.stringify({ command: "auth", token: $("client-token").value.trim() }));
  };
  socket.onmessage = ({ data }) => {
    let message = {};
    try { message = JSON.parse(data); } catch { /* shown as it is */ }
    if (message.command === "ping") socket.send('{"command":"pong"}');
    const own = ["welcome", "ping", "pong", "closing", "authentication_failed", "invalid"].includes(message.command);
    log(own ? "violet" : "green", data.trimEnd());
  };
  socket.onclose = ({ code, reason }) => {
    log("red", `closed with ${code}${reason ? `: ${reason}` : ""}`);
    socket = null;
    $("client-connect").textContent = "Connect";
  };
});

// Views

const missed = () => listDecisions(hello, latest);
$("trace").addEventListener("submit", (event) => { event.preventDefault(); missed(); });

const opened = { sessions: listSessions, missed };
let refreshing = null;
function open(view) {
  for (const tab of document.querySelectorAll("[role=tab]")) tab.setAttribute("aria-selected", String(tab.dataset.view === view));
  for (const panel of document.querySelectorAll("[role=tabpanel]")) panel.hidden = panel.id !== view;
  clearInterval(refreshing);
  opened[view]?.();
  if (view === "sessions") refreshing = setInterval(() => document.hidden || $("confirm").open || listSessions(), 3000);
}
for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => open(tab.dataset.view));

follow();
