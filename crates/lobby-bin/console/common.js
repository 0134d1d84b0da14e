// What all views use: elements, numbers in words, and questions to the lobby.

export const $ = (id) => document.getElementById(id);

const number = new Intl.NumberFormat("en");
export const count = (n) => number.format(Math.round(n));
export const rate = (n) => (n >= 100 ? count(n) : n.toFixed(n >= 10 || n === 0 ? 0 : 1));
export const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`;
};
export const micros = (us) => (us >= 1e6 ? `${(us / 1e6).toFixed(1)} s` : us >= 1000 ? `${(us / 1000).toFixed(1)} ms` : `${Math.round(us)} µs`);
export const span = (s) => (s >= 86400 ? `${Math.floor(s / 86400)} d` : s >= 3600 ? `${Math.floor(s / 3600)} h` : s >= 60 ? `${Math.floor(s / 60)} min` : `${Math.floor(s)} s`);

export function element(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "text", "line"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

let token = sessionStorage.getItem("token") ?? "";
export const hasToken = () => token !== "";
export function keepToken(text) {
  token = text;
  sessionStorage.setItem("token", text);
}

export async function ask(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(error ?? `${path}: ${answer.status}`), { status: answer.status });
  }
  return answer;
}
