// One answer in detail: the verdict, probabilities with doubt, what is missing, warnings, votes, and copies.

import { bars, button, byId, element, LABELS, listed, percent, SYMBOLS } from "/web/dom.js";

const ADVICE = {
  text_no_tokens: "Write a sentence.", audio_silent: "Check that the microphone is on, and record again.",
  audio_too_short: "Record at least one sentence.", audio_no_speech: "Record a person who talks.",
  visual_no_face: "Check that the camera is on and the face is lit, then run OpenFace again.",
  text_truncated: "Split the text, or use the tab Recording.",
  audio_truncated: "Use the tab Recording for a long sound.",
  visual_truncated: "Use the tab Recording for a long file.", language: "Translate the text to English.",
  low_information: "Write words.", clipped: "Lower the level of the microphone.",
  not_speech: "Record a person who talks.",
  subtitles: "Use the tab Recording for text with times.", several_faces: "Cut the video to one person.",
  frames_skipped: "Check light and pose in the video.", time_backwards: "Give the file of one video.",
  unfamiliar_text: "Read the answer with care: nothing like this text was trained on.",
  unfamiliar_voice: "Read the answer with care: nothing like this voice was trained on.",
  unfamiliar_face: "Read the answer with care: nothing like this face was trained on.",
};
const BRANCHES = { transformer: "Transformer", autoencoder: "Autoencoder", cascade: "Cascade" };
const VOTES = {
  "text+audio": "Text + Voice", "text+visual": "Text + Face", "audio+visual": "Voice + Face", all: "All three",
  answer: "Answer",
};

function table(caption, columns, rows) {
  const head = columns.map((name) => element("th", name, { scope: "col" }));
  const body = rows.map(([name, ...cells]) =>
    element("tr", [element("th", name, { scope: "row" }), ...cells.map((cell) => element("td", cell))]));
  return element("div", [element("table", [
    element("caption", caption), element("thead", [element("tr", head)]), element("tbody", body),
  ])], { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
}

// How likely what is missing would change the answer, with the threshold of the verdict as a mark.
function missing(answer) {
  const key = answer.key_missing;
  const entries = Object.entries(key.by_modality ?? {});
  if (!entries.length) return null;
  const rows = entries.map(([modality, probability]) => {
    const fill = element("span", "", { class: "key" });
    fill.style.width = `${100 * probability}%`;
    const mark = element("i");
    mark.style.left = `${100 * (key.threshold ?? 1)}%`;
    return element("div", [
      element("span", LABELS[modality]), element("div", [fill, mark], { class: "bar", "aria-hidden": "true" }),
      element("span", percent(probability), { class: "number" }),
    ], { class: "share" });
  });
  const verdict = key.detected
    ? `Key modality missing: ${listed(key.modalities.map((m) => LABELS[m]))}.`
    : "Nothing that is missing would likely change the answer.";
  return element("div", [
    element("h3", "If the missing were given"),
    element("p", verdict, { class: key.detected ? "key-note" : "" }),
    element("div", rows, { class: "bars" }),
    element("p", `Probability that the answer would change; the mark is the threshold, ${percent(key.threshold ?? 1)}.`, {
      class: "hint" }),
  ]);
}

function warnings(answer) {
  if (!answer.warnings.length) return null;
  return element("ul", answer.warnings.map((w) => element("li", [
    element("span", w.detail), ADVICE[w.code] && element("strong", ` ${ADVICE[w.code]}`),
  ])), { class: "warnings", "aria-label": "Warnings" });
}

function votes(answer) {
  if (!answer.votes) return null;
  const classes = answer.model.classes;
  const rows = Object.entries({ ...answer.votes, answer: answer.probabilities }).map(([name, vote]) =>
    [VOTES[name] ?? name, ...classes.map((c) => percent(vote[c]))]);
  const weights = answer.ensemble.weights;
  return element("details", [
    element("summary", "Votes and branch weights"),
    table("Votes of the heads", ["Head", ...classes], rows),
    weights && table("Weights of the branches", ["Branch", "Weight"],
      Object.entries(weights).map(([name, weight]) => [BRANCHES[name] ?? name, percent(weight)])),
  ]);
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// The request as a command line and in Python; files are named as they were given.
export function curlOf(text, files) {
  const parts = text == null ? [] : [`--form-string text=${quoted(text)}`];
  for (const [part, name] of Object.entries(files)) parts.push(`-F ${quoted(`${part}=@${name}`)}`);
  return [`curl -s ${quoted(`${location.origin}/predict?explain=true`)}`, ...parts].join(" \\\n  ");
}

export function pythonOf(text, files) {
  const parts = text == null ? [] : [`text=${JSON.stringify(text)}`];
  for (const [part, name] of Object.entries(files)) parts.push(`${part}=${JSON.stringify(name)}`);
  return [
    "import emmr", "", `with emmr.Client("${location.origin}") as service:`,
    `    answer = service.predict(${parts.join(", ")})`, "print(answer.summary)", "",
  ].join("\n");
}

export async function copy(text, status) {
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = "Copied.";
  } catch {
    status.textContent = "The browser does not allow copying here: select the text and copy it.";
  }
}

function copies(answer, text, files) {
  const preview = element("pre", "", { tabindex: "0", role: "region", "aria-label": "Text to copy" });
  preview.hidden = true;
  const status = element("span", "", { role: "status", class: "hint" });
  const choices = {
    curl: () => curlOf(text, files), Python: () => pythonOf(text, files), JSON: () => JSON.stringify(answer, null, 2),
  };
  const row = Object.entries(choices).map(([name, write]) => button(`Copy ${name}`, () => {
    preview.textContent = write();
    preview.hidden = false;
    copy(preview.textContent, status);
  }, { class: "quiet" }));
  return element("div", [element("p", [...row, status], { class: "row" }), preview]);
}

const milliseconds = (answer) => Object.values(answer.timings_ms).reduce((sum, time) => sum + time, 0).toFixed(0);

export function showAnswer(answer, { text, files, title }) {
  const certain = element("span", percent(answer.confidence), { class: "certain" });
  const heading = element("h2", [
    element("span", SYMBOLS[answer.polarity] ?? "", { class: "sign", "aria-hidden": "true" }),
    element("span", answer.polarity), certain,
  ], { id: "answer-heading", class: `polarity ${answer.polarity in SYMBOLS ? answer.polarity : ""}` });
  byId("answer").replaceChildren(
    element("p", "The input has changed since this answer. Get the answer again.", { class: "stale-note" }),
    element("p", title, { class: "eyebrow" }),
    heading,
    element("p", answer.summary, { id: "summary" }),
    bars(answer),
    element("p", `Answered in ${milliseconds(answer)} ms by ${answer.model.name}, version ${answer.model.version}`, { class: "hint" }),
    ...[missing(answer), warnings(answer), votes(answer)].filter(Boolean),
    copies(answer, text, files),
  );
  byId("answer").hidden = false;
  setStale(false);
}

export function setStale(stale) {
  byId("answer").classList.toggle("stale", stale);
  byId("subsets").classList.toggle("stale", stale);
}
