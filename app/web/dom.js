// What all modules of the page share: names of the modalities, elements, and requests.

export const PARTS = ["text", "audio", "openface"];
export const MODALITY_OF = { text: "text", audio: "audio", openface: "visual" };
export const LABELS = { text: "Text", audio: "Voice", openface: "Face", visual: "Face" };
export const SYMBOLS = { negative: "−", neutral: "○", positive: "+" };
const REASONS = {
  not_provided: "not given", silent: "silent", too_short: "too short", no_speech: "no speech found",
  no_face: "no face found", no_tokens: "no words found", low_confidence: "not recognised in the voice",
  other_language: "not English", not_transcribed: "not transcribed",
};
const OTHER_COLORS = ["--class-0", "--class-1", "--class-2", "--class-3", "--class-4", "--class-5", "--class-6"];

export const byId = (id) => document.getElementById(id);
export const percent = (p) => `${(100 * p).toFixed(0)} %`;
export const reasonOf = (use) => REASONS[use.reason] ?? String(use.reason ?? "missing").replaceAll("_", " ");
export const listed = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;

export function element(tag, content = "", attributes = {}) {
  const made = document.createElement(tag);
  if (typeof content === "string") made.textContent = content;
  else made.append(...content.filter(Boolean));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export function button(label, action, attributes = {}) {
  const made = element("button", label, { type: "button", ...attributes });
  made.addEventListener("click", action);
  return made;
}

export function colorOf(classes, name) {
  return name in SYMBOLS ? `var(--${name})` : `var(${OTHER_COLORS[Math.max(0, classes.indexOf(name)) % 7]})`;
}

// Horizontal bars of the class probabilities, and of the doubt: the probability that the answer is wrong.
export function bars(answer, { doubt = true } = {}) {
  const classes = Object.keys(answer.probabilities);
  const row = (name, share, color) => {
    const fill = element("span", "", { class: color ? "" : "doubt" });
    fill.style.width = `${100 * share}%`;
    if (color) fill.style.background = color;
    return element("div", [
      element("span", name), element("div", [fill], { class: "bar", "aria-hidden": "true" }),
      element("span", percent(share), { class: "number" }),
    ], { class: name === answer.polarity ? "share best" : "share" });
  };
  const rows = classes.map((name) => row(name, answer.probabilities[name], colorOf(classes, name)));
  if (doubt) rows.push(row("doubt", 1 - answer.confidence, null));
  return element("div", rows, { class: "bars" });
}

export function headers() {
  const key = byId("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// An error whose message is a sentence for the person who reads the page.
export class Refused extends Error {
  constructor(problem) {
    super([problem.title, problem.detail].filter(Boolean).join(": "));
    this.faults = (problem.errors ?? []).map((f) => [LABELS[f.part] ?? f.part, f.place, f.detail].filter(Boolean).join(": "));
    this.status = problem.status;
  }
}

export async function refusalOf(response) {
  if (response.status === 401) byId("key-row").hidden = false;
  try {
    return new Refused(await response.json());
  } catch {
    return new Refused({ title: `Status ${response.status}`, detail: "the answer cannot be read", status: response.status });
  }
}

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ title: "Not reachable", detail: "the service does not answer; try again when it runs" });
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

export function formOf(given, parts) {
  const data = new FormData();
  const names = { audio: "audio", openface: "openface.csv" };
  for (const part of parts) {
    if (part === "text") data.append("text", given.text);
    else data.append(part, given[part], names[part]);
  }
  return data;
}

export async function predict(given, parts, { transcribe, signal }) {
  const query = transcribe ? `explain=true&transcribe=${transcribe}` : "explain=true";
  return (await request(`/predict?${query}`, { method: "POST", body: formOf(given, parts), signal })).json();
}
