// The three cards: their content, switches, recording, waveform and action units.

import { byId, element, LABELS, MODALITY_OF, PARTS, percent, reasonOf } from "/web/dom.js";

const RATE = 16000; // Hz, of the waveform
const UNITS_SHOWN = 4;
const UNIT_NAMES = {
  AU01: "inner brow raiser", AU02: "outer brow raiser", AU04: "brow lowerer", AU05: "upper lid raiser", AU06: "cheek raiser",
  AU07: "lid tightener", AU09: "nose wrinkler", AU10: "upper lip raiser", AU12: "lip corner puller", AU14: "dimpler",
  AU15: "lip corner depressor", AU17: "chin raiser", AU20: "lip stretcher", AU23: "lip tightener", AU25: "lips part",
  AU26: "jaw drop", AU45: "blink",
};
const SVG = "http://www.w3.org/2000/svg";

export const given = { text: "", audio: null, openface: null };
let changed = () => {};
let recorder = null;

export const filled = () => PARTS.filter((part) => (part === "text" ? given.text.trim() : given[part]));
export const used = () => filled().filter((part) => byId(`use-${part}`).checked);
export const switchedOff = () => PARTS.filter((part) => !byId(`use-${part}`).checked);

export function setSwitch(part, on) {
  byId(`use-${part}`).checked = on;
  byId(`card-${part}`).classList.toggle("off", !on);
}

export function setPart(part, content) {
  given[part] = content;
  byId(`used-${part}`).textContent = "";
  byId(`remove-${part}`).hidden = !content;
  if (part === "text") byId("text").value = content;
  if (part === "audio") showSound(content);
  if (part === "openface") showFace(content);
  if (part !== "text") nameFile(byId(part), content);
}

// Makes the input name a file that was dropped, recorded or loaded, as it does one that was chosen in it.
function nameFile(input, file) {
  if (input.files[0] === file) return;
  const transfer = new DataTransfer();
  if (file) transfer.items.add(file);
  input.files = transfer.files;
}

export function showUse(answer) {
  for (const part of PARTS) {
    const use = answer?.modalities[MODALITY_OF[part]];
    const line = byId(`used-${part}`);
    line.textContent = use ? describe(use) : "";
    line.classList.toggle("low", use?.familiarity != null && use.familiarity < 0.5);
  }
}

function describe(use) {
  if (use.status === "missing") return `Missing: ${reasonOf(use)}`;
  const parts = [
    use.source === "transcribed" && `transcribed (${percent(use.transcript.confidence)}): “${use.transcript.text}”`,
    use.tokens != null && `${use.tokens} tokens`,
    use.seconds != null && `${use.seconds.toFixed(1)} s`,
    use.frames != null && use.seconds == null && `${use.frames} frames`,
    use.truncated && "shortened",
    use.familiarity != null && `familiarity ${percent(use.familiarity)}`,
  ];
  return `Used: ${parts.filter(Boolean).join(", ")}`;
}

function showSound(blob) {
  const player = byId("playback");
  if (player.src) URL.revokeObjectURL(player.src);
  if (blob) player.src = URL.createObjectURL(blob);
  else player.removeAttribute("src");
  byId("audio-content").hidden = !blob;
  if (blob) drawWaveform(blob);
}

async function drawWaveform(blob) {
  const canvas = byId("waveform");
  canvas.width = Math.max(1, canvas.clientWidth * (window.devicePixelRatio || 1));
  const pen = canvas.getContext("2d");
  let samples;
  try {
    const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
    samples = sound.getChannelData(0);
    canvas.setAttribute("aria-label", `Waveform of ${sound.duration.toFixed(1)} seconds`);
  } catch {
    canvas.setAttribute("aria-label", "No waveform: this browser does not decode the file");
    return;
  }
  if (given.audio !== blob) return;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = getComputedStyle(canvas).color;
  const step = samples.length / canvas.width;
  for (let x = 0; x < canvas.width; x += 1) {
    let peak = 0;
    for (let at = Math.floor(x * step); at < (x + 1) * step; at += 1) peak = Math.max(peak, Math.abs(samples[at] ?? 0));
    const height = Math.max(1, peak * canvas.height);
    pen.fillRect(x, (canvas.height - height) / 2, 1, height);
  }
}

async function showFace(blob) {
  const place = byId("units");
  place.replaceChildren();
  if (!blob) return;
  const lines = (await blob.text()).split(/\r?\n/).filter(Boolean);
  if (given.openface !== blob) return;
  const names = lines[0].split(",").map((name) => name.trim());
  const rows = lines.slice(1).map((line) => line.split(","));
  const success = names.indexOf("success");
  const seen = success < 0 ? rows : rows.filter((row) => Number(row[success]) === 1);
  const units = names.flatMap((name, at) => (/^AU\d\d_r$/.test(name) ? [{ unit: name.slice(0, 4), at }] : []));
  const series = units.map(({ unit, at }) => ({ unit, values: seen.map((row) => Number(row[at]) || 0) }));
  for (const one of series) one.mean = one.values.reduce((sum, value) => sum + value, 0) / Math.max(1, one.values.length);
  series.sort((a, b) => b.mean - a.mean);
  const note = `${seen.length} of ${rows.length} rows with a face`;
  place.replaceChildren(
    ...(seen.length ? series.slice(0, UNITS_SHOWN).map(unitRow) : []),
    element("p", seen.length && series.length ? `Strongest action units, 0 to 5; ${note}` : note, { class: "hint" }),
  );
}

function unitRow({ unit, values, mean }) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 100 20");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  const step = Math.max(1, Math.floor(values.length / 200));
  const points = values.filter((_, at) => at % step === 0);
  const x = (at) => (100 * at) / Math.max(1, points.length - 1);
  line.setAttribute("points", points.map((value, at) => `${x(at).toFixed(1)},${(19 - 3.6 * Math.min(5, value)).toFixed(1)}`).join(" "));
  drawing.append(line);
  return element("div", [
    element("span", `${unit} ${UNIT_NAMES[unit] ?? ""}`), drawing, element("span", mean.toFixed(1), { class: "number" }),
  ], { class: "unit" });
}

// The part that a dropped or pasted file is for; null where neither name nor type says it.
export function partOf(file) {
  if (/\.csv$/i.test(file.name) || file.type === "text/csv") return "openface";
  if (file.type.startsWith("audio/") || /\.(wav|flac|ogg|opus|mp3|webm|m4a|mp4)$/i.test(file.name)) return "audio";
  return file.type.startsWith("text/") || /\.txt$/i.test(file.name) ? "text" : null;
}

export async function takeFiles(files) {
  const refused = [];
  for (const file of files) {
    const part = partOf(file);
    if (part === null) refused.push(file.name);
    else setPart(part, part === "text" ? await file.text() : file);
    if (part) setSwitch(part, true);
  }
  changed();
  return refused;
}

export function microphoneProblem(error) {
  if (!window.isSecureContext) return "Recording needs HTTPS or localhost; this page came over plain HTTP.";
  if (!navigator.mediaDevices || !window.MediaRecorder) return "This browser cannot record sound.";
  if (error?.name === "NotAllowedError") return "The microphone was denied. Allow it in the browser's site settings, then try again.";
  if (error?.name === "NotFoundError") return "No microphone was found. Connect one, or choose a file.";
  return error ? "The microphone cannot be used; another program may have it. Choose a file instead." : "";
}

async function toggleRecording() {
  if (recorder) {
    recorder.stop();
    return;
  }
  const control = byId("record");
  const note = byId("record-note");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    note.textContent = microphoneProblem(error);
    return;
  }
  const chunks = [];
  const began = performance.now();
  recorder = new MediaRecorder(stream);
  const clock = setInterval(() => {
    control.textContent = `Stop (${((performance.now() - began) / 1000).toFixed(0)} s)`;
  }, 500);
  recorder.addEventListener("dataavailable", (event) => chunks.push(event.data));
  recorder.addEventListener("stop", () => {
    clearInterval(clock);
    for (const track of stream.getTracks()) track.stop();
    const container = recorder.mimeType.includes("mp4") ? "m4a" : "webm";
    setPart("audio", new File(chunks, `recorded.${container}`, { type: recorder.mimeType }));
    setSwitch("audio", true);
    recorder = null;
    control.textContent = "Record";
    control.setAttribute("aria-pressed", "false");
    note.textContent = "Recorded.";
    changed();
  });
  recorder.start();
  control.textContent = "Stop";
  control.setAttribute("aria-pressed", "true");
  note.textContent = "Recording…";
}

export function openCards(onChange) {
  changed = onChange;
  byId("text").addEventListener("input", () => {
    given.text = byId("text").value;
    byId("used-text").textContent = "";
    byId("remove-text").hidden = !given.text;
    changed();
  });
  for (const part of ["audio", "openface"]) {
    byId(part).addEventListener("change", () => {
      setPart(part, byId(part).files[0] ?? null);
      changed();
    });
  }
  for (const part of PARTS) {
    byId(`use-${part}`).addEventListener("change", (event) => {
      setSwitch(part, event.target.checked);
      changed({ content: false });
    });
    byId(`remove-${part}`).addEventListener("click", () => {
      setPart(part, part === "text" ? "" : null);
      byId(part).focus();
      changed();
    });
  }
  byId("record").addEventListener("click", toggleRecording);
  const problem = microphoneProblem(null);
  byId("record").disabled = Boolean(problem);
  byId("record-note").textContent = problem;
}

export const labelsOf = (parts) => parts.map((part) => LABELS[part]).join(" + ");
