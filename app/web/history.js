// The answers of this tab, without content, and the comparison of two of them.

import { bars, byId, element, LABELS, percent } from "/web/dom.js";

const STORE = "emmr-answers";
const KEPT = 20;

let entries = load();
let selected = [];

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  } catch {
    return [];
  }
}

function store() {
  try {
    sessionStorage.setItem(STORE, JSON.stringify(entries));
  } catch {
    // Storage is full or forbidden: the list is kept in memory alone.
  }
}

export function remember(answer, { parts, title }) {
  const { polarity, confidence, probabilities, key_missing: key } = answer;
  entries = [{ id: answer.request_id, title, parts, polarity, confidence, probabilities, score: key.score }, ...entries].slice(0, KEPT);
  selected = selected.filter((id) => entries.some((entry) => entry.id === id));
  store();
  showHistory();
}

function compare() {
  const [b, a] = selected.map((id) => entries.find((entry) => entry.id === id)).filter(Boolean);
  if (!a || !b) return [];
  const moved = Object.keys(a.probabilities).map((name) => {
    const points = 100 * ((b.probabilities[name] ?? 0) - a.probabilities[name]);
    return `${name} ${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(0)}`;
  });
  const side = (entry) => element("div", [element("h3", nameOf(entry)), bars(entry)]);
  const same = a.polarity === b.polarity ? `Both answers are ${a.polarity}.` : `The answer changes from ${a.polarity} to ${b.polarity}.`;
  return [element("div", [side(a), side(b)], { class: "pair" }), element("p", `${same} In percentage points: ${moved.join(", ")}.`)];
}

const nameOf = (entry) => `${entry.title}: ${entry.parts.map((part) => LABELS[part]).join(" + ")}`;

export function showHistory() {
  byId("history").hidden = !entries.length;
  const rows = entries.map((entry) => {
    const box = element("input", "", { type: "checkbox" });
    box.checked = selected.includes(entry.id);
    box.addEventListener("change", () => {
      selected = selected.filter((id) => id !== entry.id);
      if (box.checked) selected = [entry.id, ...selected].slice(0, 2);
      for (const other of byId("history-list").querySelectorAll("input")) {
        other.checked = selected.includes(other.dataset.entry);
      }
      byId("history-compare").replaceChildren(...compare());
    });
    box.dataset.entry = entry.id;
    return element("li", [element("label", [box, element("span", nameOf(entry)),
      element("strong", `${entry.polarity}, ${percent(entry.confidence)}`)])]);
  });
  byId("history-list").replaceChildren(element("ul", rows));
  byId("history-compare").replaceChildren(...compare());
}

byId("clear-history").addEventListener("click", () => {
  entries = [];
  selected = [];
  store();
  showHistory();
});
