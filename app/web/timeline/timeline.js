// The timeline of a recording: three lanes on a canvas, the selected utterance in detail, and the same as a table.
// `showTimeline(root, lines, audio)`: lines are the objects of a recording's NDJSON, audio is a Blob or null. Returns
// `{ update(lines) }`, which shows the lines again once there are more.
"use strict";

const MODALITIES = ["text", "audio", "visual"];
const LANES = { text: "Text", audio: "Voice", visual: "Face" };
const NOUNS = { text: "text", audio: "voice", visual: "face" };
const REASONS = {
  not_provided: "not given", silent: "silent", too_short: "too short", no_speech: "no speech found",
  no_face: "no face found", no_tokens: "no words found", no_words: "no words in this time",
  face_lost: "face lost", past_end: "after the end of the sound",
};
const HEADS = {
  "text+audio": "text + voice", "text+visual": "text + face", "audio+visual": "voice + face", all: "all three",
};
const SYMBOLS = { negative: "−", neutral: "○", positive: "+" };
const LEVELS = { negative: 1, neutral: 0.5, positive: 0 };
const MIN_SPAN = 1; // seconds across the whole width
const MARGIN = 54; // pixels of the lane names
const BAR = 14; // pixels
const BANDS = { ruler: [0, 20], score: [24, 64], key: [70, 86], text: [92, 150], audio: [156, 196], visual: [202, 242] };
const HEIGHT = 248;
const OVERVIEW_HEIGHT = 36;

const percent = (p) => `${(100 * p).toFixed(0)} %`;

function element(tag, content = "", attributes = {}) {
  const made = document.createElement(tag);
  if (typeof content === "string") made.textContent = content;
  else made.append(...content.filter(Boolean));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function clock(seconds, digits = 1) {
  const total = Number(seconds.toFixed(digits));
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor(total / 60) % 60;
  const rest = (total % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function reasonOf(use) {
  return REASONS[use.reason] ?? String(use.reason ?? "missing").replaceAll("_", " ");
}

function useInWords(name, use) {
  if (use.status === "missing") return `${NOUNS[name]}: missing (${reasonOf(use)})`;
  const parts = [
    use.source && String(use.source),
    use.transcript && `confidence ${percent(use.transcript.confidence)}`,
    use.tokens != null && `${use.tokens} tokens`,
    use.seconds != null && `${use.seconds.toFixed(1)} s`,
    use.frames != null && `${use.frames} frames`,
    use.coverage != null && `${percent(use.coverage)} of the time`,
    use.truncated && "shortened",
    use.speaker_normalized && "relative to the speaker",
    use.familiarity != null && `familiarity ${percent(use.familiarity)}`,
  ];
  return `${NOUNS[name]}: ${parts.filter(Boolean).join(", ")}`;
}

// What the lines hold, with the utterances and gaps in the order of their times.
function readLines(lines) {
  const recording = lines.find((line) => line.type === "recording") ?? {};
  const summary = lines.find((line) => line.type === "summary") ?? {};
  const problem = lines.find((line) => line.type === "problem");
  const items = lines.filter((line) => line.type === "utterance" || line.type === "gap");
  items.sort((a, b) => a.start - b.start || a.end - b.end);
  const last = items.reduce((end, item) => Math.max(end, item.end), 0);
  const duration = Math.max(recording.duration ?? 0, last, MIN_SPAN);
  const classes = recording.model?.classes ?? Object.keys(items.find((item) => item.probabilities)?.probabilities ?? {});
  const speakers = [...new Set(items.map((item) => item.speaker).filter((speaker) => speaker != null))];
  return { recording, summary, problem, items, duration, classes, speakers };
}

// The modality's use in an item; gaps have nothing but reasons.
function useOf(item, modality) {
  return item.modalities?.[modality] ?? { status: "missing", reason: item.reasons?.[modality] ?? "not_provided" };
}

// The words that were given, else those of the voice.
function wordsOf(item) {
  return item.text ?? item.modalities?.text?.transcript?.text ?? "";
}

function classStyle(classes, name) {
  const index = Math.max(0, classes.indexOf(name));
  return {
    color: name in LEVELS ? `--${name}` : `--class-${index % 7}`,
    level: LEVELS[name] ?? index / Math.max(1, classes.length - 1),
    symbol: SYMBOLS[name] ?? name.slice(0, 2),
  };
}

// Opacity of an answer: from the confidence of a guess to certainty.
function opacity(item, classes) {
  const guess = 1 / Math.max(2, classes.length);
  return 0.2 + 0.8 * Math.min(1, Math.max(0, ((item.confidence ?? guess) - guess) / (1 - guess)));
}

function itemInWords(item, position, count) {
  const when = `${clock(item.start)} to ${clock(item.end)}`;
  const who = item.speaker == null ? "" : `, ${item.speaker}`;
  const missing = MODALITIES.map((m) => [m, useOf(item, m)]).filter(([, use]) => use.status === "missing");
  const absent = missing.map(([m, use]) => `${LANES[m]} missing: ${reasonOf(use)}.`).join(" ");
  const place = `${position + 1} of ${count}, ${when}${who}`;
  if (item.type === "gap") return `Gap, ${place}: nothing to classify. ${absent}`;
  const key = item.key_missing?.detected ? ` Key missing: ${item.key_missing.modalities.map((m) => NOUNS[m]).join(", ")}.` : "";
  return `Utterance ${place}: ${item.polarity}, ${percent(item.confidence)}.${absent && ` ${absent}`}${key}`;
}

function shareBars(shares, classes) {
  return classes.map((name) => {
    const fill = element("span");
    fill.style.width = percent(shares[name] ?? 0).replace(" ", "");
    fill.style.background = `var(${classStyle(classes, name).color})`;
    return element("div", [
      element("span", name),
      element("div", [fill], { class: "bar", "aria-hidden": "true" }),
      element("span", percent(shares[name] ?? 0), { class: "number" }),
    ], { class: "share" });
  });
}

function votesTable(item, classes) {
  const rows = Object.entries({ ...(item.votes ?? {}), answer: item.probabilities }).map(([name, vote]) => {
    const best = Math.max(...Object.values(vote));
    const cells = classes.map((c) => element("td", percent(vote[c] ?? 0), vote[c] === best ? { class: "winner" } : {}));
    return element("tr", [element("th", HEADS[name] ?? name, { scope: "row", class: "start" }), ...cells]);
  });
  const columns = [element("th", "Modalities", { scope: "col", class: "start" })];
  columns.push(...classes.map((name) => element("th", name, { scope: "col" })));
  return element("div", [element("table", [
    element("caption", "Votes of each head"),
    element("thead", [element("tr", columns)]), element("tbody", rows),
  ])], { class: "scroll", tabindex: "0", role: "region", "aria-label": "Votes" });
}

function describeItem(item, position, count, classes) {
  const heading = `${item.type === "gap" ? "Gap" : "Utterance"} ${position + 1} of ${count}`;
  const parts = [
    element("h2", heading),
    element("p", `${clock(item.start)} – ${clock(item.end)}${item.speaker == null ? "" : ` · ${item.speaker}`}`),
    wordsOf(item) && element("blockquote", wordsOf(item)),
  ];
  if (item.type === "utterance") {
    parts.push(element("p", item.summary ?? `${item.polarity} (${percent(item.confidence)})`));
    parts.push(element("h3", "Probabilities"), ...shareBars(item.probabilities, classes));
  } else {
    parts.push(element("p", "Nothing in this time can be classified."));
  }
  const key = item.key_missing;
  if (key?.detected) {
    const full = key.polarity_full === key.polarity_available ? "" :
      ` With it recovered the answer is ${key.polarity_full}, without it ${key.polarity_available}.`;
    parts.push(element("h3", "Key missing"), element("p",
      `${key.modalities.map((m) => NOUNS[m]).join(", ")}: would change the answer with ${percent(key.score)}.${full}`));
  }
  parts.push(element("h3", "Modalities"));
  parts.push(element("ul", MODALITIES.map((m) => element("li", useInWords(m, useOf(item, m))))));
  if (item.votes) parts.push(votesTable(item, classes));
  if (item.warnings?.length) {
    parts.push(element("h3", "Warnings"), element("ul", item.warnings.map((w) => element("li", w.detail))));
  }
  return parts;
}

function itemTable(items, classes, select) {
  const names = ["#", "Start", "End", "Speaker", "Text", "Polarity", "Confidence", "Missing", "Key missing"];
  const left = new Set(["Speaker", "Text", "Polarity", "Missing", "Key missing"]);
  const rows = items.map((item, position) => {
    const missing = MODALITIES.map((m) => [m, useOf(item, m)]).filter(([, use]) => use.status === "missing");
    const choose = element("button", String(position + 1), { type: "button", "aria-label": `Select ${position + 1}` });
    choose.addEventListener("click", () => select(item));
    const texts = [
      clock(item.start), clock(item.end), item.speaker ?? "", wordsOf(item), item.polarity ?? "gap",
      item.confidence == null ? "" : percent(item.confidence),
      missing.map(([m, use]) => `${NOUNS[m]} (${reasonOf(use)})`).join(", "),
      item.key_missing?.detected ? item.key_missing.modalities.map((m) => NOUNS[m]).join(", ") : "",
    ];
    const cells = texts.map((text, at) => element("td", text, left.has(names[at + 1]) ? { class: "start" } : {}));
    return element("tr", [element("th", [choose], { scope: "row", class: "start" }), ...cells]);
  });
  const head = names.map((name) => element("th", name, { scope: "col", class: left.has(name) || name === "#" ? "start" : "" }));
  const table = element("table", [
    element("caption", "Utterances and gaps"), element("thead", [element("tr", head)]), element("tbody", rows),
  ]);
  return { table, rows };
}

// One palette for both canvases, read from the style sheet; hatching is a pattern of the same colour.
function readColors(root, classes) {
  const style = getComputedStyle(root);
  const value = (name) => style.getPropertyValue(name).trim();
  const colors = Object.fromEntries(["text", "page", "line", "grid", "accent", "key"].map((n) => [n, value(`--${n}`)]));
  colors.classes = Object.fromEntries(classes.map((name) => [name, value(classStyle(classes, name).color)]));
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.strokeStyle = colors.line;
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  colors.hatch = pen.createPattern(tile, "repeat");
  return colors;
}

function prepareCanvas(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width };
}

// `first` is the leftmost visible position; the sign of a bar that begins before it stands there.
function drawBar(pen, colors, classes, item, x, y, width, height, first) {
  const { level, symbol } = classStyle(classes, item.polarity);
  const top = y + level * (height - BAR);
  pen.fillStyle = colors.classes[item.polarity] ?? colors.text;
  pen.globalAlpha = opacity(item, classes);
  pen.fillRect(x, top, width, BAR);
  pen.globalAlpha = 1;
  if (width >= 4) {
    pen.strokeStyle = pen.fillStyle;
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, top + 0.5, width - 1, BAR - 1);
  }
  const left = Math.max(x, first);
  if (x + width - left >= 22) {
    pen.fillStyle = colors.page;
    pen.fillRect(left + 2, top + 2, pen.measureText(symbol).width + 4, BAR - 4);
    pen.fillStyle = colors.text;
    pen.fillText(symbol, left + 4, top + BAR / 2);
  }
}

function drawHatch(pen, colors, x, y, width, height, key) {
  pen.fillStyle = colors.hatch;
  pen.fillRect(x, y, width, height);
  pen.strokeStyle = key ? colors.key : colors.line;
  pen.lineWidth = key ? 2 : 1;
  if (width >= 3) pen.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
}

function fitted(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  let kept = Math.floor((text.length * width) / pen.measureText(text).width);
  while (kept > 0 && pen.measureText(`${text.slice(0, kept)}…`).width > width) kept -= 1;
  return kept > 1 ? `${text.slice(0, kept)}…` : "";
}

function gridStep(span, width) {
  const wanted = (span / Math.max(1, width)) * 80;
  return [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800].find((s) => s >= wanted) ?? 3600;
}

function drawLegend(canvas, colors, classes, kind) {
  const { pen, width } = prepareCanvas(canvas, 20);
  pen.textBaseline = "middle";
  if (kind === "missing") drawHatch(pen, colors, 0, 0, width, 20, false);
  else if (kind === "key") drawDiamond(pen, colors, width / 2, 10);
  else if (kind === "average") {
    pen.strokeStyle = colors.text;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(0, 16);
    pen.lineTo(width, 4);
    pen.stroke();
  } else drawBar(pen, colors, classes, { polarity: kind, confidence: 1 }, 0, 0, width, 20, 0);
}

function drawDiamond(pen, colors, x, y) {
  pen.fillStyle = colors.key;
  pen.beginPath();
  pen.moveTo(x, y - 7);
  pen.lineTo(x + 6, y);
  pen.lineTo(x, y + 7);
  pen.lineTo(x - 6, y);
  pen.fill();
}

// Draws the items between two times; all positions are CSS pixels.
function drawLanes(canvas, data, colors, view) {
  const { pen, width } = prepareCanvas(canvas, HEIGHT);
  const { classes, summary } = data;
  const scale = (width - MARGIN) / (view.to - view.from);
  const at = (seconds) => MARGIN + (seconds - view.from) * scale;
  pen.textBaseline = "middle";
  const step = gridStep(view.to - view.from, width - MARGIN);
  for (let n = Math.ceil(view.from / step); n * step <= view.to; n += 1) {
    const x = Math.round(at(n * step)) + 0.5;
    pen.strokeStyle = colors.grid;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, BANDS.ruler[1]);
    pen.lineTo(x, HEIGHT);
    pen.stroke();
    pen.fillStyle = colors.text;
    pen.fillText(clock(n * step, step < 1 ? 1 : 0), x + 3, 11);
  }
  pen.save();
  pen.beginPath();
  pen.rect(MARGIN, 0, width - MARGIN, HEIGHT);
  pen.clip();
  drawAverage(pen, colors, summary.moving_average ?? [], at, width);
  for (const item of view.shown) {
    if (item.end < view.from || item.start > view.to) continue;
    const x = at(item.start);
    const wide = Math.max(1, at(item.end) - x - 1);
    const keys = item.key_missing?.detected ? item.key_missing.modalities : [];
    const middle = (Math.max(x, MARGIN) + Math.min(x + wide, width)) / 2; // of what is visible
    if (keys.length) drawDiamond(pen, colors, middle, (BANDS.key[0] + BANDS.key[1]) / 2);
    for (const modality of MODALITIES) {
      const [top, bottom] = BANDS[modality];
      const height = modality === "text" ? 38 : bottom - top;
      if (useOf(item, modality).status === "missing") {
        drawHatch(pen, colors, x, top, wide, bottom - top, keys.includes(modality));
      } else drawBar(pen, colors, classes, item, x, top, wide, height, MARGIN);
    }
    if (wordsOf(item) && wide > 40) {
      const left = Math.max(x, MARGIN);
      pen.fillStyle = colors.text;
      pen.fillText(fitted(pen, wordsOf(item), x + wide - left - 4), left + 2, BANDS.text[1] - 9);
    }
  }
  if (view.selected) {
    const x = at(view.selected.start);
    pen.strokeStyle = colors.accent;
    pen.lineWidth = 3;
    pen.strokeRect(x - 1, BANDS.key[0], Math.max(4, at(view.selected.end) - x + 1), HEIGHT - BANDS.key[0] - 3);
  }
  if (view.playhead != null) {
    pen.fillStyle = colors.accent;
    pen.fillRect(at(view.playhead) - 1, BANDS.ruler[1], 2, HEIGHT);
  }
  pen.restore();
  pen.fillStyle = colors.text;
  pen.fillText("score", 4, (BANDS.score[0] + BANDS.score[1]) / 2);
  pen.fillText("+1", MARGIN - 16, BANDS.score[0] + 3);
  pen.fillText("−1", MARGIN - 16, BANDS.score[1] - 3);
  pen.fillText("key", 4, (BANDS.key[0] + BANDS.key[1]) / 2);
  for (const modality of MODALITIES) pen.fillText(LANES[modality], 4, (BANDS[modality][0] + BANDS[modality][1]) / 2);
}

function drawAverage(pen, colors, points, at, width) {
  const [top, bottom] = BANDS.score;
  const y = (score) => (top + bottom) / 2 - (score * (bottom - top)) / 2;
  pen.strokeStyle = colors.line;
  pen.lineWidth = 1;
  pen.setLineDash([2, 4]);
  pen.beginPath();
  pen.moveTo(MARGIN, y(0));
  pen.lineTo(width, y(0));
  pen.stroke();
  pen.setLineDash([]);
  pen.strokeStyle = colors.text;
  pen.lineWidth = 2;
  pen.beginPath();
  for (const { time, score } of points) pen.lineTo(at(time), y(score));
  pen.stroke();
}

// The whole recording: shares of the classes over time, and a frame around what the lanes show.
function drawOverview(canvas, data, colors, view) {
  const { pen, width } = prepareCanvas(canvas, OVERVIEW_HEIGHT);
  const at = (seconds) => MARGIN + (seconds / data.duration) * (width - MARGIN);
  const base = OVERVIEW_HEIGHT - 4;
  for (const bin of data.summary.over_time ?? []) {
    let y = base;
    for (const name of data.classes) {
      const height = (bin.shares?.[name] ?? 0) * (base - 4);
      pen.fillStyle = colors.classes[name];
      pen.globalAlpha = 0.75;
      pen.fillRect(at(bin.start), y - height, Math.max(1, at(bin.end) - at(bin.start) - 1), height);
      y -= height;
    }
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = colors.accent;
  pen.lineWidth = 3;
  pen.strokeRect(at(view.from) + 1, 2, Math.max(6, at(view.to) - at(view.from)) - 2, OVERVIEW_HEIGHT - 4);
  pen.fillStyle = colors.text;
  pen.textBaseline = "middle";
  pen.fillText("whole", 4, OVERVIEW_HEIGHT / 2);
}

function legend(data) {
  const entries = data.classes.map((name) => [name, name]);
  entries.push(["missing", "missing"], ["key", "key modality missing"], ["average", "moving average"]);
  const made = entries.map(([kind, label]) => {
    const canvas = element("canvas", "", { "aria-hidden": "true" });
    return { kind, canvas, line: element("li", [canvas, element("span", label)]) };
  });
  return { entries: made, list: element("ul", made.map((entry) => entry.line), { class: "legend", "aria-label": "Legend" }) };
}

function speakerTable(data) {
  const entries = Object.entries(data.summary.by_speaker ?? {});
  if (!entries.length) return null;
  const title = data.speakers.length ? "Share of the time, by speaker" : "Share of the time";
  const head = ["Speaker", "Time", ...data.classes].map((name, at) =>
    element("th", name, { scope: "col", class: at ? "" : "start" }));
  const rows = entries.map(([speaker, entry]) => element("tr", [
    element("th", speaker, { scope: "row", class: "start" }), element("td", clock(entry.seconds, 0)),
    ...data.classes.map((name) => element("td", percent(entry.shares?.[name] ?? 0))),
  ]));
  return element("div", [element("table", [
    element("caption", title), element("thead", [element("tr", head)]), element("tbody", rows),
  ])], { class: "scroll panel", tabindex: "0", role: "region", "aria-label": title });
}

function recordingLine(data, audio) {
  const { recording, items } = data;
  const gaps = items.filter((item) => item.type === "gap").length;
  const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
  const parts = [`${clock(data.duration, 0)} long`, counted(items.length - gaps, "utterance")];
  if (gaps) parts.push(counted(gaps, "gap"));
  if (audio) parts.push(`sound of ${Math.ceil(audio.size / 2 ** 10)} KiB`);
  if (recording.model?.name) parts.push(`weights ${recording.model.name} ${String(recording.model.version).slice(0, 12)}`);
  return parts.join(" · ");
}

function allWarnings(data) {
  const seen = new Map();
  for (const warning of [...(data.recording.warnings ?? []), ...(data.summary.warnings ?? [])]) {
    seen.set(`${warning.code} ${warning.detail}`, warning.detail);
  }
  if (data.problem) seen.set("problem", `The timeline ends early. ${data.problem.title}: ${data.problem.detail}`);
  return [...seen.values()];
}

function showTimeline(root, lines, audio) {
  let data = readLines(lines);
  const view = { from: 0, to: data.duration, selected: null, playhead: null, shown: data.items };
  let colors = null;
  let frame = 0;
  let player = null;
  let table = null;

  const button = (label, action) => {
    const made = element("button", label, { type: "button" });
    made.addEventListener("click", action);
    return made;
  };
  const previous = button("Previous", () => step(-1));
  const next = button("Next", () => step(1));
  const play = button("Play", togglePlay);
  const zoomIn = button("Zoom in", () => zoom(0.5));
  const zoomOut = button("Zoom out", () => zoom(2));
  const fit = button("Whole", () => setView(0, data.duration));
  const asTable = button("Table", toggleTable);
  asTable.setAttribute("aria-pressed", "false");
  const filter = element("select", "", { "aria-label": "Speaker" });
  filter.addEventListener("change", filterSpeaker);
  const canvas = element("canvas", "", { class: "lanes", role: "application", tabindex: "0",
    "aria-label": "Lanes of text, voice and face", "aria-describedby": "timeline-keys" });
  const overview = element("canvas", "", { class: "overview", "aria-hidden": "true" });
  const status = element("p", "", { role: "status", "aria-live": "polite" });
  const details = element("section", "", { class: "panel", "aria-label": "Selected utterance" });
  const tablePanel = element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" });
  tablePanel.hidden = true;
  const about = element("p");
  const warnings = element("ul", "", { "aria-label": "Warnings" });
  const shares = element("div");
  const marks = legend(data);

  play.hidden = !audio;
  root.replaceChildren(
    element(root.tagName === "MAIN" ? "h1" : "h2", "Timeline of a recording"),
    about,
    warnings,
    element("div", [previous, next, play, zoomIn, zoomOut, fit, filter, asTable], {
      class: "toolbar", role: "group", "aria-label": "Controls" }),
    element("div", [canvas, overview], { class: "stage" }),
    marks.list,
    element("p", "The fainter a bar, the less certain its answer. Keys: arrows select, Home and End go to the first and the " +
      `last${audio ? ", Enter or space plays" : ""}, + and − zoom, 0 shows the whole. Drag to move; hold Ctrl and scroll, ` +
      "or pinch, to zoom.", { class: "hint", id: "timeline-keys" }),
    status,
    element("div", [details, shares], { class: "columns" }),
    tablePanel,
  );

  function redraw() {
    if (frame) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      colors ??= readColors(root, data.classes);
      drawLanes(canvas, data, colors, view);
      drawOverview(overview, data, colors, view);
    });
  }

  function recolor() {
    colors = readColors(root, data.classes);
    for (const { canvas: mark, kind } of marks.entries) drawLegend(mark, colors, data.classes, kind);
    redraw();
  }

  // What depends on all the lines; the selection stays.
  function showLines() {
    about.textContent = recordingLine(data, audio);
    const found = allWarnings(data);
    warnings.hidden = !found.length;
    warnings.replaceChildren(...found.map((warning) => element("li", warning)));
    shares.replaceChildren(...[speakerTable(data)].filter(Boolean));
    const chosen = filter.value;
    filter.replaceChildren(
      element("option", "All speakers", { value: "" }),
      ...data.speakers.map((speaker, at) => element("option", speaker, { value: String(at + 1) })),
    );
    filter.value = chosen;
    filter.hidden = data.speakers.length < 2;
    if (!data.items.length) details.replaceChildren(element("p", "The recording holds nothing to show."));
  }

  function update(more) {
    data = readLines(more);
    showLines();
    view.shown = shownItems();
    showTable();
    if (!view.selected) showFirst();
    else {
      describeSelected();
      if (data.summary.type) status.textContent = itemInWords(view.selected, view.shown.indexOf(view.selected), view.shown.length);
    }
    redraw();
  }

  function showFirst() {
    view.shown = data.items;
    setView(0, data.duration);
    if (data.items.length) select(data.items[0]);
  }

  function setView(from, to) {
    const span = Math.min(data.duration, Math.max(MIN_SPAN, to - from));
    view.from = Math.min(Math.max(0, from), data.duration - span);
    view.to = view.from + span;
    zoomIn.disabled = span <= MIN_SPAN;
    zoomOut.disabled = fit.disabled = span >= data.duration;
    redraw();
  }

  function zoom(factor, around) {
    const chosen = view.selected && (view.selected.start + view.selected.end) / 2;
    const inside = chosen != null && chosen >= view.from && chosen <= view.to;
    const centre = around ?? (inside ? chosen : (view.from + view.to) / 2);
    setView(centre - (centre - view.from) * factor, centre + (view.to - centre) * factor);
  }

  function select(item) {
    stop();
    view.selected = item;
    if (item.start < view.from || item.end > view.to) {
      const half = (view.to - view.from) / 2;
      const centre = item.end - item.start > 2 * half ? item.start + half : (item.start + item.end) / 2;
      setView(centre - half, centre + half);
    }
    status.textContent = itemInWords(item, view.shown.indexOf(item), view.shown.length);
    describeSelected();
    redraw();
  }

  function describeSelected() {
    const position = view.shown.indexOf(view.selected);
    details.replaceChildren(...describeItem(view.selected, position, view.shown.length, data.classes).filter(Boolean));
    previous.disabled = position <= 0;
    next.disabled = position >= view.shown.length - 1;
    markRow();
  }

  function markRow() {
    const position = view.shown.indexOf(view.selected);
    table?.rows.forEach((row, at) => row.setAttribute("aria-current", String(at === position)));
  }

  function step(by) {
    const position = view.selected ? view.shown.indexOf(view.selected) + by : by > 0 ? 0 : view.shown.length - 1;
    if (view.shown[position]) select(view.shown[position]);
  }

  function shownItems() {
    const speaker = filter.value ? data.speakers[Number(filter.value) - 1] : null;
    return speaker == null ? data.items : data.items.filter((item) => item.speaker === speaker);
  }

  function showTable() {
    table = null;
    if (!tablePanel.hidden) fillTable();
  }

  function filterSpeaker() {
    view.shown = shownItems();
    showTable();
    if (view.shown.length) select(view.shown.includes(view.selected) ? view.selected : view.shown[0]);
  }

  function fillTable() {
    table = itemTable(view.shown, data.classes, select);
    tablePanel.replaceChildren(table.table);
    markRow();
  }

  function toggleTable() {
    tablePanel.hidden = !tablePanel.hidden;
    asTable.setAttribute("aria-pressed", String(!tablePanel.hidden));
    if (!tablePanel.hidden && !table) fillTable();
  }

  function stop() {
    player?.pause();
    view.playhead = null;
    play.textContent = "Play";
    redraw();
  }

  // Plays the selected span; `currentTime` is compared at each frame because `timeupdate` comes four times a second.
  function follow() {
    const { selected } = view;
    if (!player || player.paused) return stop();
    if (player.currentTime >= selected.end || player.ended) return stop();
    view.playhead = player.currentTime;
    redraw();
    requestAnimationFrame(follow);
  }

  async function togglePlay() {
    if (!audio || !view.selected) return;
    if (player && !player.paused) return stop();
    player ??= new Audio(URL.createObjectURL(audio));
    player.currentTime = view.selected.start;
    play.textContent = "Stop";
    try {
      await player.play();
    } catch {
      stop();
      status.textContent = "The sound cannot be played here.";
      return;
    }
    requestAnimationFrame(follow);
  }

  const KEYS = {
    ArrowLeft: () => step(-1), ArrowRight: () => step(1), ArrowUp: () => step(-1), ArrowDown: () => step(1),
    Home: () => view.shown.length && select(view.shown[0]), End: () => view.shown.length && select(view.shown.at(-1)),
    Enter: togglePlay, " ": togglePlay, "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
    0: () => setView(0, data.duration), Escape: stop,
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  const timeAt = (x) => view.from + ((x - MARGIN) / (canvas.clientWidth - MARGIN)) * (view.to - view.from);
  const slack = () => (4 / (canvas.clientWidth - MARGIN)) * (view.to - view.from);
  function itemAt(x) {
    const time = timeAt(x);
    const distance = (item) => Math.max(item.start - time, time - item.end, 0);
    const near = view.shown.filter((item) => distance(item) <= slack());
    return near.sort((a, b) => distance(a) - distance(b) || b.start - a.start)[0];
  }
  function title(x, y) {
    const item = x < MARGIN ? null : itemAt(x);
    if (!item) return "";
    const modality = MODALITIES.find((m) => y >= BANDS[m][0] && y < BANDS[m][1]);
    const what = item.type === "gap" ? "gap" : `${item.polarity}, ${percent(item.confidence)}`;
    return modality ? `${what}\n${useInWords(modality, useOf(item, modality))}` : what;
  }

  // Drags move the view, two pointers zoom it, and a press without movement selects.
  const pointers = new Map();
  let moved = false;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event.offsetX);
    moved = pointers.size > 1;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) {
      canvas.title = title(event.offsetX, event.offsetY);
      return;
    }
    const before = [...pointers.values()];
    if (pointers.size === 1 && !moved && Math.abs(event.offsetX - before[0]) < 5) return;
    moved = true;
    pointers.set(event.pointerId, event.offsetX);
    const after = [...pointers.values()];
    if (after.length === 1) {
      const by = timeAt(before[0]) - timeAt(after[0]);
      setView(view.from + by, view.to + by);
    } else {
      const apart = (pair) => Math.max(10, Math.abs(pair[0] - pair[1]));
      zoom(apart(before) / apart(after), timeAt((after[0] + after[1]) / 2));
    }
  });
  const release = (event) => {
    if (pointers.delete(event.pointerId) && event.type === "pointerup" && !moved) {
      const item = itemAt(event.offsetX);
      if (item) select(item);
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", (event) => zoom(0.5, timeAt(event.offsetX)));
  canvas.addEventListener("wheel", (event) => {
    const across = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY / 300), timeAt(event.offsetX));
    else if (Math.abs(across) > Math.abs(event.deltaY) || event.shiftKey) {
      const by = (across / (canvas.clientWidth - MARGIN)) * (view.to - view.from);
      setView(view.from + by, view.to + by);
    } else return;
    event.preventDefault();
  }, { passive: false });
  const centreOn = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const centre = ((event.offsetX - MARGIN) / (overview.clientWidth - MARGIN)) * data.duration;
    setView(centre - (view.to - view.from) / 2, centre + (view.to - view.from) / 2);
  };
  overview.addEventListener("pointerdown", centreOn);
  overview.addEventListener("pointermove", centreOn);

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  new ResizeObserver(redraw).observe(canvas);
  recolor();
  showLines();
  showFirst();
  return { update };
}

// A file that holds its own lines and sound.
function openEmbedded() {
  const lines = document.getElementById("timeline-lines");
  if (!lines) return;
  const sound = document.getElementById("timeline-audio");
  const encoded = sound.textContent.trim();
  const decoded = atob(encoded);
  const bytes = new Uint8Array(decoded.length);
  for (let at = 0; at < decoded.length; at += 1) bytes[at] = decoded.charCodeAt(at);
  const audio = encoded ? new Blob([bytes], { type: sound.dataset.mediaType }) : null;
  showTimeline(document.getElementById("timeline"), JSON.parse(lines.textContent), audio);
}

openEmbedded();
