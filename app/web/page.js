// The page's behaviour: examples, asking, permalinks, tabs, dialogs, and what is dropped or pasted.

import { copy, setStale, showAnswer } from "/web/answer.js";
import { filled, given, labelsOf, openCards, setPart, setSwitch, showUse, switchedOff, takeFiles, used } from "/web/cards.js";
import { byId, element, LABELS, listed, PARTS, predict, Refused, request } from "/web/dom.js";
import { remember, showHistory } from "/web/history.js";
import { openRecording, takeRecordingFiles } from "/web/recording.js";
import { showSubsets } from "/web/subsets.js";

const TABS = ["utterance", "recording"];
let examples = [];
let example = null; // the one on the cards, unless edited
let withSubsets = false; // whether the subsets are shown for what is on the cards
let controller = null;

const status = (text) => { byId("status").textContent = text; };

// Settings alone: the name of an example, what is switched off, and which views are open. Never content.
function hash() {
  const settings = new URLSearchParams();
  if (!byId("panel-recording").hidden) settings.set("tab", "recording");
  if (example) settings.set("example", example.name);
  const off = switchedOff().map((part) => LABELS[part].toLowerCase());
  if (off.length) settings.set("without", off.join(","));
  if (example && withSubsets) settings.set("view", "subsets");
  return settings.size ? `#${settings.toString().replaceAll("%2C", ",")}` : "";
}

const writeHash = () => window.history.replaceState(null, "", location.pathname + hash());

function markExample() {
  for (const made of byId("examples").children) made.setAttribute("aria-pressed", String(made.value === example?.name));
}

function onChange({ content = true } = {}) {
  if (content) {
    example = null;
    markExample();
  }
  controller?.abort();
  setStale(true);
  writeHash();
}

function showProblem(error) {
  byId("problem-detail").textContent = error.message;
  byId("problem-faults").replaceChildren(...(error.faults ?? []).map((fault) => element("li", fault)));
  byId("problem").hidden = false;
}

// Runs `work(signal)`, which a later call or the button Cancel ends.
async function run(message, work) {
  controller?.abort();
  const own = new AbortController();
  controller = own;
  byId("problem").hidden = true;
  byId("cancel").hidden = false;
  document.body.setAttribute("aria-busy", "true");
  status(message);
  try {
    await work(own.signal);
    if (controller === own) status("");
  } catch (error) {
    if (controller !== own) return;
    status(own.signal.aborted ? "Cancelled." : "");
    if (!own.signal.aborted) showProblem(error instanceof Refused ? error : new Refused({ title: "Fault of the page", detail: "reload it" }));
  } finally {
    if (controller === own) {
      controller = null;
      byId("cancel").hidden = true;
      document.body.removeAttribute("aria-busy");
    }
  }
}

function files(parts) {
  const named = parts.filter((part) => part !== "text");
  return Object.fromEntries(named.map((part) => [part, given[part].name]));
}

async function ask(signal) {
  const parts = used();
  if (!parts.length) {
    const off = filled().length > 0;
    throw new Refused(off ? { title: "Everything is switched off", detail: "switch on a card" }
      : { title: "Nothing given", detail: "give text, a voice or a face" });
  }
  const answer = await predict(given, parts, { transcribe: "auto", signal });
  const title = example?.title ?? "Own input";
  showAnswer(answer, { text: parts.includes("text") ? given.text : null, files: files(parts), title: `${title}: ${labelsOf(parts)}` });
  showUse(answer);
  remember(answer, { parts, title });
}

async function askSubsets(signal) {
  const parts = filled();
  if (parts.length < 2) throw new Refused({ title: "Only one modality", detail: "subsets need at least two of text, voice and face" });
  withSubsets = true;
  writeHash();
  await showSubsets(given, parts, signal, (subset) => {
    for (const part of PARTS) setSwitch(part, subset.includes(part));
    withSubsets = true;
    writeHash();
    run("Asking…", ask).then(focusAnswer);
  });
}

function focusAnswer() {
  if (byId("answer").hidden || !byId("problem").hidden) return;
  byId("answer").focus({ preventScroll: true });
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  byId("answer").scrollIntoView({ block: "nearest", behavior });
}

async function loadExample(chosen, { without = [], subsets = true } = {}) {
  await run(`Loading “${chosen.title}”…`, async (signal) => {
    const fetched = async (name) => new File([await (await request(`/web/examples/${name}`, { signal })).blob()], name);
    const [audio, openface] = await Promise.all(["audio", "openface"].map((part) => (chosen[part] ? fetched(chosen[part]) : null)));
    signal.throwIfAborted();
    setPart("text", chosen.text ?? "");
    setPart("audio", audio);
    setPart("openface", openface);
    for (const part of PARTS) setSwitch(part, !without.includes(part));
    example = chosen;
    withSubsets = false;
    byId("subsets").hidden = true;
    markExample();
    writeHash();
    status("Asking…");
    await ask(signal);
    if (subsets && filled().length > 1) await askSubsets(signal);
  });
}

async function openExamples() {
  examples = await (await request("/web/examples/examples.json")).json();
  byId("examples").replaceChildren(...examples.map((one) => {
    const made = element("button", [element("strong", one.title), element("span", one.note)], {
      type: "button", class: "example", value: one.name, "aria-pressed": "false" });
    made.addEventListener("click", () => loadExample(one).then(focusAnswer));
    return made;
  }));
}

function openTab(name) {
  for (const other of TABS) {
    const chosen = other === name;
    byId(`tab-${other}`).setAttribute("aria-selected", String(chosen));
    byId(`tab-${other}`).tabIndex = chosen ? 0 : -1;
    byId(`panel-${other}`).hidden = !chosen;
  }
  writeHash();
}

function openTabs() {
  TABS.forEach((name, at) => {
    byId(`tab-${name}`).addEventListener("click", () => openTab(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = TABS[(at + 1) % TABS.length];
      openTab(other);
      byId(`tab-${other}`).focus();
    });
  });
}

// The model card is Markdown: headings, paragraphs, lists and tables become elements, the rest stays as text.
function cardElements(markdown) {
  return markdown.split(/\n{2,}/).map((block) => {
    const heading = /^(#+) (.*)$/.exec(block);
    const plain = (text) => text.replaceAll(/\*\*?|`/g, "");
    if (heading) return element(heading[1].length === 1 ? "h3" : "h4", plain(heading[2]));
    const lines = block.split("\n");
    if (block.startsWith("- ")) return element("ul", block.split(/\n?^- /m).filter(Boolean).map((line) => element("li", plain(line))));
    if (!block.startsWith("|")) return element("p", plain(block));
    const rows = lines.filter((line) => !/^[|\s:-]+$/.test(line)).map((line) => line.split("|").slice(1, -1).map((c) => plain(c.trim())));
    return element("table", [element("tbody", rows.map((row, at) => element("tr", row.map((c) => element(at ? "td" : "th", c)))))]);
  });
}

async function showCard() {
  const content = byId("card-text-content");
  byId("card-dialog").showModal();
  try {
    const model = await (await request("/model")).json();
    content.replaceChildren(element("p", `Weights ${model.name}, version ${model.version}`, { class: "hint" }), ...cardElements(model.card));
  } catch (error) {
    content.replaceChildren(element("p", error.message));
  }
}

async function take(found) {
  if (!byId("panel-recording").hidden) {
    takeRecordingFiles(found);
    return;
  }
  const refused = await takeFiles(found);
  status(refused.length ? `Not taken: ${listed(refused)}. A file ends in .txt, .csv, or a sound format.` : "Taken from the files.");
}

function openDrops() {
  const over = (on) => document.body.classList.toggle("over", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    const text = event.dataTransfer.getData("text/plain");
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
    else if (text) {
      setPart("text", text);
      onChange();
    }
  });
  document.addEventListener("paste", (event) => {
    const found = [...event.clipboardData.files];
    const text = event.clipboardData.getData("text/plain");
    if (found.length) take(found);
    else if (text && !event.target.closest?.("textarea, input")) {
      setPart("text", text);
      onChange();
    } else return;
    event.preventDefault();
  });
}

async function openLink() {
  const settings = new URLSearchParams(location.hash.slice(1));
  const off = (settings.get("without") ?? "").split(",");
  const without = PARTS.filter((part) => off.includes(LABELS[part].toLowerCase()));
  for (const part of without) setSwitch(part, false);
  if (settings.get("tab") === "recording") openTab("recording");
  const chosen = examples.find((one) => one.name === settings.get("example"));
  if (chosen) await loadExample(chosen, { without, subsets: settings.get("view") === "subsets" });
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!example) byId("subsets").hidden = true;
  run("Asking…", ask).then(focusAnswer);
});
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});
byId("compare-subsets").addEventListener("click", () => run("Asking for every subset…", askSubsets));
byId("cancel").addEventListener("click", () => controller?.abort());
byId("copy-link").addEventListener("click", () => copy(location.href, byId("status")));
byId("show-use").addEventListener("click", () => byId("use-dialog").showModal());
byId("show-card").addEventListener("click", showCard);
openCards(onChange);
openTabs();
openDrops();
openRecording();
showHistory();
try {
  await openExamples();
  await openLink();
} catch (error) {
  showProblem(error);
}
