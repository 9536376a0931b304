// The page's behaviour: gather what is given, ask POST /predict, and say the answer in words.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("form");
const percent = (p) => `${(100 * p).toFixed(0)}%`;
const NAMES = { text: "words", audio: "voice", visual: "face" };
const REASONS = {
  not_provided: "not given", silent: "silent", too_short: "too short", no_speech: "no speech found",
  no_face: "no face found", low_confidence: "not recognised in the voice", other_language: "not English",
  not_transcribed: "not transcribed",
};
let recorder = null;
let recording = null;

function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function showVotes(answer) {
  const classes = answer.model.classes;
  const head = element("tr", "");
  head.append(element("th", "Head"), ...classes.map((name) => element("th", name)));
  for (const cell of head.children) cell.scope = "col";
  byId("votes-head").replaceChildren(head);
  const rows = Object.entries({ ...answer.votes, answer: answer.probabilities }).map(([name, vote]) => {
    const row = element("tr", "");
    const label = element("th", name);
    label.scope = "row";
    const best = Math.max(...Object.values(vote));
    row.append(label, ...classes.map((c) => element("td", percent(vote[c]), vote[c] === best ? "winner" : "")));
    return row;
  });
  byId("votes-body").replaceChildren(...rows);
}

function describe(name, use) {
  if (use.status === "missing") return `${NAMES[name]}: missing (${REASONS[use.reason] ?? use.reason})`;
  const parts = [
    use.source === "transcribed" && `transcribed (${percent(use.transcript.confidence)}): “${use.transcript.text}”`,
    use.tokens != null && `${use.tokens} tokens`,
    use.seconds != null && `${use.seconds.toFixed(1)} s`,
    use.frames != null && `${use.frames} frames`,
    use.truncated && "shortened",
    use.familiarity != null && `familiarity ${percent(use.familiarity)}`,
  ];
  return `${NAMES[name]}: ${parts.filter(Boolean).join(", ")}`;
}

function showAnswer(answer) {
  byId("answer-heading").textContent = `${answer.polarity} (${percent(answer.confidence)})`;
  byId("summary").textContent = answer.summary;
  showVotes(answer);
  byId("used").replaceChildren(
    ...Object.entries(answer.modalities).map(([name, use]) => element("li", describe(name, use))),
  );
  byId("warnings").replaceChildren(...answer.warnings.map((w) => element("li", w.detail)));
  byId("raw").textContent = JSON.stringify(answer, null, 2);
  byId("answer").hidden = false;
  byId("answer").focus();
}

function showProblem(problem) {
  byId("problem-detail").textContent = `${problem.title}: ${problem.detail}`;
  const faults = (problem.errors ?? []).map((f) => [f.part, f.place, f.detail].filter(Boolean).join(": "));
  byId("problem-faults").replaceChildren(...faults.map((fault) => element("li", fault)));
  byId("problem").hidden = false;
  if (problem.status === 401) byId("key-row").hidden = false;
}

function gather() {
  const data = new FormData();
  const text = byId("text").value;
  if (text.trim()) data.append("text", text);
  const audio = recording ?? byId("audio").files[0];
  if (audio) data.append("audio", audio, "audio");
  const openface = byId("openface").files[0];
  if (openface) data.append("openface", openface, "openface.csv");
  return data;
}

async function ask(event) {
  event.preventDefault();
  byId("answer").hidden = true;
  byId("problem").hidden = true;
  const data = gather();
  if ([...data.keys()].length === 0) {
    showProblem({ title: "Nothing to ask about", detail: "give words, a voice or a face" });
    return;
  }
  byId("send").disabled = true;
  byId("status").textContent = "Asking…";
  try {
    const key = byId("key").value;
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch("/predict?explain=true&transcribe=auto", { method: "POST", body: data, headers });
    const body = await response.json();
    if (response.ok) showAnswer(body);
    else showProblem(body);
  } catch {
    showProblem({ title: "No answer", detail: "the service could not be reached" });
  } finally {
    byId("send").disabled = false;
    byId("status").textContent = "";
  }
}

function keep(blob) {
  recording = blob;
  const playback = byId("playback");
  if (playback.src) URL.revokeObjectURL(playback.src);
  if (blob) playback.src = URL.createObjectURL(blob);
  else playback.removeAttribute("src");
  playback.hidden = !blob;
  byId("discard").hidden = !blob;
  byId("audio").disabled = Boolean(blob);
}

async function toggleRecording() {
  const button = byId("record");
  if (recorder) {
    recorder.stop();
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    byId("status").textContent = "The microphone cannot be used here.";
    return;
  }
  const chunks = [];
  recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => chunks.push(event.data));
  recorder.addEventListener("stop", () => {
    for (const track of stream.getTracks()) track.stop();
    keep(new Blob(chunks, { type: recorder.mimeType }));
    recorder = null;
    button.textContent = "Record";
    button.setAttribute("aria-pressed", "false");
    byId("status").textContent = "Recorded.";
  });
  recorder.start();
  button.textContent = "Stop";
  button.setAttribute("aria-pressed", "true");
  byId("status").textContent = "Recording…";
}

form.addEventListener("submit", ask);
byId("record").addEventListener("click", toggleRecording);
byId("discard").addEventListener("click", () => keep(null));
if (!window.MediaRecorder || !navigator.mediaDevices) byId("record").hidden = true;
