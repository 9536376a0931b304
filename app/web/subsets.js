// Every subset of what was given, answered side by side as a lattice: an edge is drawn strong where the answer changes.

import { bars, button, byId, colorOf, element, LABELS, listed, MODALITY_OF, PARTS, percent, predict, SYMBOLS } from "/web/dom.js";

const ROWS = [[["text", "audio", "openface"]], [["text", "audio"], ["text", "openface"], ["audio", "openface"]],
  [["text"], ["audio"], ["openface"]]];
const COLUMNS = [100 / 6, 50, 500 / 6]; // centres, in percent
const CONCURRENT = 2;
const SVG = "http://www.w3.org/2000/svg";

const keyOf = (parts) => parts.join("+");
const titleOf = (parts) => (parts.length === 3 ? "All three" : parts.map((part) => LABELS[part]).join(" + "));

// Asks for each subset of `parts`, at most two at a time; `onAnswer(key, answer or error)` as they come.
async function answerSubsets(given, parts, signal, onAnswer) {
  const waiting = ROWS.flat().filter((subset) => subset.every((part) => parts.includes(part)));
  const worker = async () => {
    for (let subset = waiting.shift(); subset; subset = waiting.shift()) {
      try {
        onAnswer(keyOf(subset), await predict(given, subset, { transcribe: "never", signal }));
      } catch (error) {
        if (error.name === "AbortError") throw error;
        onAnswer(keyOf(subset), error);
      }
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, worker));
}

function distance(a, b) {
  return Object.keys(a).reduce((sum, name) => sum + Math.abs(a[name] - b[name]), 0) / 2;
}

// What taking each part away does to the answer with all of them, in one or two sentences.
export function verdictOf(answers, parts) {
  const full = answers.get(keyOf(parts));
  if (!full?.polarity) return "The answer with everything is missing, so the subsets cannot be compared.";
  const without = parts
    .map((part) => ({ part, answer: answers.get(keyOf(parts.filter((other) => other !== part))) }))
    .filter(({ answer }) => answer?.polarity)
    .map(({ part, answer }) => ({ part, answer, moved: distance(full.probabilities, answer.probabilities) }))
    .sort((a, b) => b.moved - a.moved);
  if (!without.length) return "";
  const changing = without.filter(({ answer }) => answer.polarity !== full.polarity);
  const name = (part) => LABELS[part].toLowerCase();
  if (changing.length) {
    const effects = changing.map(({ part, answer }) => `without ${name(part)} the answer is ${answer.polarity}`);
    return `Key: ${listed(changing.map(({ part }) => LABELS[part]))}. With everything the answer is ${full.polarity}; ${listed(effects)}.`;
  }
  const { part, moved } = without[0];
  return `No single modality changes the answer, ${full.polarity}. ${LABELS[part]} moves the probabilities most, by ${percent(moved)}.`;
}

function edges(answers, above, below) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 100 10");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  above.forEach((upper, i) => below.forEach((lower, j) => {
    if (!lower.every((part) => upper.includes(part))) return;
    const line = document.createElementNS(SVG, "line");
    const x = above.length === 1 ? 50 : COLUMNS[i];
    for (const [name, value] of Object.entries({ x1: x, y1: 0, x2: COLUMNS[j], y2: 10 })) line.setAttribute(name, value);
    const [a, b] = [answers.get(keyOf(upper)), answers.get(keyOf(lower))];
    if (!(a?.polarity && b?.polarity)) line.setAttribute("class", "unknown");
    else if (a.polarity !== b.polarity) line.setAttribute("class", "changes");
    drawing.append(line);
  }));
  return drawing;
}

function cell(subset, answers, parts, choose) {
  const title = element("span", titleOf(subset), { class: "name" });
  if (!subset.every((part) => parts.includes(part))) {
    return element("div", [title, element("span", "not given", { class: "hint" })], { class: "cell ghost" });
  }
  const answer = answers.get(keyOf(subset));
  if (!answer) return element("div", [title, element("span", "waiting", { class: "hint" })], { class: "cell ghost" });
  if (!answer.polarity) {
    return element("div", [title, element("span", answer.message, { class: "hint" })], { class: "cell ghost" });
  }
  const full = answers.get(keyOf(parts));
  const agrees = full?.polarity === answer.polarity;
  const guess = 1 / answer.model.classes.length;
  const certainty = Math.max(0, (answer.confidence - guess) / (1 - guess));
  const missing = answer.key_missing.detected ? answer.key_missing.modalities.map((m) => LABELS[m]) : [];
  const used = subset.filter((part) => answer.modalities[MODALITY_OF[part]].status === "present");
  const empty = subset.filter((part) => !used.includes(part)).map((part) => LABELS[part]);
  const made = button("", () => choose(subset), { class: `cell ${agrees ? "agrees" : "differs"}` });
  made.style.setProperty("--color", colorOf(answer.model.classes, answer.polarity));
  made.style.setProperty("--certainty", `${(8 + 34 * certainty).toFixed(0)}%`);
  made.append(
    title,
    element("span", [element("b", SYMBOLS[answer.polarity] ?? "", { "aria-hidden": "true" }),
      element("strong", answer.polarity), element("span", percent(answer.confidence))], { class: "verdict" }),
    bars(answer, { doubt: false }),
    element("span", agrees ? "agrees" : "differs", { class: "mark" }),
  );
  if (missing.length) made.append(element("span", `◆ needs ${listed(missing)}`, { class: "mark key-note" }));
  if (empty.length) made.append(element("span", `${listed(empty)} empty`, { class: "mark" }));
  return made;
}

function draw(answers, parts, choose) {
  const nodes = [];
  ROWS.forEach((row, at) => {
    if (at) nodes.push(edges(answers, ROWS[at - 1], row));
    nodes.push(element("div", row.map((subset) => cell(subset, answers, parts, choose)), { class: `level level-${row.length}` }));
  });
  byId("lattice").replaceChildren(...nodes);
}

function drawLegend(classes) {
  const entries = classes.map((name) => {
    const swatch = element("span", SYMBOLS[name] ?? "", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = colorOf(classes, name);
    return element("li", [swatch, element("span", name)]);
  });
  byId("lattice-legend").replaceChildren(
    ...entries,
    element("li", "the paler, the more doubt"),
    element("li", "strong line: taking this modality away changes the answer"),
    element("li", "◆ the verdict: a key modality is missing"),
  );
}

// Fills the section; `choose(parts)` is called with the parts of a cell that was pressed.
export async function showSubsets(given, parts, signal, choose) {
  const answers = new Map();
  byId("subsets").hidden = false;
  byId("subsets-verdict").textContent = "Asking for every subset…";
  draw(answers, parts, choose);
  await answerSubsets({ ...given }, parts, signal, (key, answer) => {
    answers.set(key, answer);
    if (answer.model) drawLegend(answer.model.classes);
    draw(answers, parts, choose);
  });
  byId("subsets-verdict").textContent = verdictOf(answers, PARTS.filter((part) => parts.includes(part)));
}
