// *Missed*: why somebody got nothing, in words, and the decisions that say so.

import { $, ask, bytes, count, element, span } from "./common.js";

const LIMIT = 1000; // decisions in one answer, at most
const SHOWN = 100;
// Of more the lobby tells the newest.
const among = (decisions) => (decisions.length < LIMIT ? "" : `, among the last ${count(LIMIT)}`);

function why({ outcome, reason, detail, sessions, user, age_ms }) {
  const n = sessions ?? {};
  const some = (count) => (count === 1 ? "1 session" : `${count} sessions`);
  switch (outcome) {
    case "written": return `the kernel took it for ${some(n.written)}`;
    case "unfinished": return `not yet taken by every session, after ${span(age_ms / 1000)}`;
    case "overflowed": return `no room in the outbox of ${some(n.overflowed)}: the client did not read; written to ${n.written} of ${n.addressed}`;
    case "cut_off": return `${some(n.cut_off)} ended first; written to ${n.written} of ${n.addressed}`;
    case "not_connected": return `user ${user} had no session on this lobby`;
    case "nobody_there": return "nobody was logged in on this lobby";
    case "channel_reserved": return "channels are reserved: sent to nobody";
    default: return [reason, detail].filter(Boolean).join(": ");
  }
}

// Why somebody got nothing, in the order in which it can go wrong: the lobby, the broker and the publisher, the contract, the player.
function answer(user, { own, all, dropped }, sessions, hello, latest) {
  const line = (colour, text) => element("li", { class: colour }, text);
  const lines = [];
  if (latest && !latest.ready) lines.push(line("red", `This lobby is not ready: ${[latest.why.reason, latest.why.hint].filter(Boolean).join(": ") || "it has not said why"}. Until it is, messages wait for it at the broker, if its queue is there.`));
  const place = `this lobby, which consumes ${latest?.why.queue ?? "its queue"} at exchange ${hello.exchange}`;
  if (own.entries) lines.push(...messages(user, own, all.decisions, dropped.decisions, place, line));
  else lines.push(line("amber", "Whether a message came to this lobby it does not know: it remembers nothing, as trace.decisions is 0."));
  lines.push(sessions.length ? line("green", `User ${user} is logged in here now: ${sessions.map((s) => `${s.transport} from ${s.peer} since ${span(s.age_s)}${s.queued_bytes ? `, ${bytes(s.queued_bytes)} waiting` : ""}`).join("; ")}.`)
    : line("amber", `User ${user} is not logged in here now.`));
  return lines;
}

function messages(user, page, all, dropped, place, line) {
  const ago = ({ age_ms }) => `${span(age_ms / 1000)} ago`;
  const lines = [];
  const own = page.decisions;
  const everyone = all.filter((decision) => decision.user == null);
  const last = own.at(-1);
  if (!last) {
    const from = page.since ? "in what it remembers" : "since it started";
    lines.push(line("amber", `No message for user ${user} came to ${place}, ${from}. Nobody published one, or to another broker, exchange or routing key (then the broker returns it to a publisher that asks for that), or it is among the dropped.`));
  } else {
    const missed = last.outcome !== "written";
    const advice = { not_connected: "He may be on another lobby: ask there too.", overflowed: "A slow client is closed with code 4000; his line or his client is slow.", cut_off: "His connection was lost meanwhile.",
      written: "Look at the client." }[last.outcome] ?? "";
    lines.push(line(missed ? "amber" : "green", `${own.length === 1 ? `1 message for user ${user},` : own.length < LIMIT ? `${count(own.length)} messages for user ${user}, the last` : `More than ${count(LIMIT - 1)} messages for user ${user}, the last`} ${ago(last)}: ${why(last)}. ${advice}`));
  }
  const closed = own.filter(({ outcome }) => outcome === "overflowed");
  if (closed.length) {
    lines.push(line("amber", `${closed.length === 1 ? "1 message was" : `${count(closed.length)} messages were`} lost with a session that was too slow and closed with code 4000${among(own)}, the last ${ago(closed.at(-1))}.`));
  }
  if (everyone.length) {
    const broadcast = everyone.at(-1);
    lines.push(line(broadcast.outcome === "written" ? "" : "amber", `${count(everyone.length)} to everyone${among(all)}, the last ${ago(broadcast)}: ${why(broadcast)}.`));
  }
  if (dropped.length) {
    const one = dropped.at(-1);
    lines.push(line("red", `${count(dropped.length)} dropped${among(dropped)}, for whomever they were meant, the last ${ago(one)}: ${why(one)}. If one was for user ${user}, its publisher has to mend it.`));
  }
  return lines;
}

// As the lobby writes it: 042 is user 42.
const id = (text) => (/^-?[0-9]+$/.test(text) ? BigInt(text).toString() : text);

let asked = 0;
// `hello` and `latest`: what the lobby said of itself, first and last.
export async function listDecisions(hello, latest) {
  const user = id($("trace-user").value.trim());
  const turn = ++asked;
  try {
    const get = async (path) => (await ask(path)).json();
    const to = `user=${encodeURIComponent(user)}`;
    const [page, own, dropped, found] = await Promise.all(user
      ? [`trace?${to}&limit=${LIMIT}`, `trace?${to}&own=true&limit=${LIMIT}`, `trace?outcome=dropped&limit=${LIMIT}`, `api/sessions?${to}`].map(get)
      : [get("trace")]);
    if (turn !== asked) return;
    // Those for the user first, so that broadcasts leave them their places; of all the newest.
    const decisions = [own, dropped, page].flatMap((answer) => answer?.decisions.toReversed() ?? []);
    const chosen = [...new Map(decisions.map((decision) => [decision.serial, decision])).values()].slice(0, SHOWN).sort((a, b) => b.serial - a.serial);
    const rows = chosen.map((decision) => {
      const cell = (text, wrap) => element("td", wrap ? { class: "wrap" } : {}, text ?? "");
      const whom = decision.user != null ? `user ${decision.user}` : decision.outcome === "dropped" || decision.outcome === "channel_reserved" ? "nobody" : "everyone";
      return element("tr", {}, cell(decision.at.replace("T", " ").replace("Z", "")), cell(whom), cell(decision.outcome.replaceAll("_", " ")),
        cell(why(decision), true), cell(decision.headers, true), cell(decision.message_id));
    });
    $("trace-answer").replaceChildren(...(user ? answer(user, { own, all: page, dropped }, found.sessions, hello, latest) : []));
    $("trace-rows").replaceChildren(...rows);
    const since = page.since ? `since ${page.since.replace("T", " ").replace("Z", " UTC")}` : "since the start";
    $("trace-note").textContent = !page.entries ? "Nothing is remembered here: trace.decisions is 0."
      : rows.length ? `${count(rows.length)} of the last ${count(Math.min(page.recorded, page.entries))} decisions, ${since}; the newest first`
      : user ? `Nothing ${since}.` : `Every message ${since} was written to every session it was for.`;
  } catch (error) {
    $("trace-answer").replaceChildren();
    $("trace-note").textContent = error.message;
  }
}
