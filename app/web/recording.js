// The tab Recording: streams POST /recordings and draws the utterances as they come.

import { byId, headers, refusalOf, Refused, request } from "/web/dom.js";

const FIELDS = ["audio", "transcript", "openface"];
let controller = null;
let script = null;

// The timeline's script is loaded when it is first needed; it defines `showTimeline`.
function loadScript() {
  script ??= new Promise((resolve, reject) => {
    const made = document.createElement("script");
    made.src = "/web/timeline.js";
    made.addEventListener("load", resolve);
    made.addEventListener("error", () => reject(new Refused({ title: "Not loaded", detail: "reload the page" })));
    document.head.append(made);
  });
  return script;
}

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
  if (rest) yield JSON.parse(rest);
}

async function send(files) {
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  const data = new FormData();
  for (const [name, file] of Object.entries(files)) data.append(name, file, file.name ?? name);
  byId("recording-problem").hidden = true;
  byId("timeline").replaceChildren();
  byId("recording-cancel").hidden = false;
  byId("recording-status").textContent = "Sending the recording…";
  try {
    if (!Object.keys(files).length) throw new Refused({ title: "Nothing given", detail: "choose a voice, a text with times, or a face" });
    await loadScript();
    const response = await fetch("/recordings?explain=true", { method: "POST", body: data, headers: headers(), signal });
    if (!response.ok) throw await refusalOf(response);
    const lines = [];
    let view = null;
    let utterances = 0;
    for await (const line of linesOf(response)) {
      lines.push(line);
      if (line.type === "utterance") utterances += 1;
      byId("recording-status").textContent = `${utterances} utterances answered…`;
      if (view) view.update(lines);
      else view = window.showTimeline(byId("timeline"), lines, files.audio ?? null);
    }
    byId("recording-status").textContent = `${utterances} utterances answered.`;
  } catch (error) {
    if (signal.aborted) byId("recording-status").textContent = "Cancelled.";
    else {
      byId("recording-status").textContent = "";
      byId("recording-problem").textContent =
        error instanceof Refused ? [error.message, ...error.faults].join(". ") : "The connection ended; send it again.";
      byId("recording-problem").hidden = false;
    }
  } finally {
    if (controller?.signal === signal) byId("recording-cancel").hidden = true;
  }
}

async function sendExample() {
  const fetched = async (name) => new File([await (await request(`/web/examples/${name}`)).blob()], name);
  try {
    takeRecordingFiles(await Promise.all(["recording.ogg", "recording.vtt", "recording.csv"].map(fetched)));
  } catch (error) {
    byId("recording-problem").textContent = error.message;
    byId("recording-problem").hidden = false;
    return;
  }
  byId("recording-form").requestSubmit();
}

// Files dropped or pasted while this tab is open.
export function takeRecordingFiles(files) {
  for (const file of files) {
    const field = /\.(srt|vtt|json)$/i.test(file.name) ? "transcript" : /\.csv$/i.test(file.name) ? "openface" : "audio";
    const transfer = new DataTransfer();
    transfer.items.add(file);
    byId(`recording-${field}`).files = transfer.files;
  }
}

export function openRecording() {
  byId("recording-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send(Object.fromEntries(FIELDS.flatMap((name) => {
      const file = byId(`recording-${name}`).files[0];
      return file ? [[name, file]] : [];
    })));
  });
  byId("recording-cancel").addEventListener("click", () => controller?.abort());
  byId("recording-example").addEventListener("click", sendExample);
}
