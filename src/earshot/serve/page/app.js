// The page: a button or a file in, words, end-points, intent and latency out.

import { drawLattice, fromBase64, parseLattice } from "/page/lattice.js";
import { Stream } from "/page/stream.js";
import { Timeline } from "/page/timeline.js";

const $ = (id) => document.getElementById(id);
const FLOOR_DB = -60;
const FILE_BLOCK_S = 0.1;
const FILE_SPEED = 4; // times real time, so that one can watch
const SAID_SHOWN = 50;

const timeline = new Timeline($("timeline"));
const figures = { words: [], final: [], won: [], made: 0, gone: 0 };
const page = {
  stream: null,
  stop: null, // stops the source of sound
  nodes: [],
  isLive: false, // in real time, so that latencies mean something
  spec: null,
  token: new URLSearchParams(location.search).get("token") || sessionStorage.getItem("token") || "",
  levelAt: 0,
};

// A token in the address ends up in histories and screenshots.
if (new URLSearchParams(location.search).has("token")) {
  sessionStorage.setItem("token", page.token);
  history.replaceState(null, "", location.pathname);
}

function setState(text, isOn = false) {
  $("state").textContent = text;
  $("state").toggleAttribute("data-on", isOn);
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

function showFigures() {
  const ms = (values) => (values.length ? `${Math.round(median(values))} ms` : "–");
  $("figure-words").textContent = ms(figures.words);
  $("figure-final").textContent = ms(figures.final);
  $("figure-won").textContent = ms(figures.won);
  $("figure-gone").textContent = figures.made ? `${figures.gone} of ${figures.made}` : "–";
}

function showLevel(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  const db = Math.max(FLOOR_DB, 10 * Math.log10(sum / (samples.length || 1) + 1e-12));
  const level = 1 - db / FLOOR_DB;
  $("meter-fill").style.clipPath = `inset(0 ${100 * (1 - level)}% 0 0)`;
  const now = performance.now();
  if (now - page.levelAt > 500) { // readers of the meter need no more
    page.levelAt = now;
    $("meter").setAttribute("aria-valuenow", Math.round(db));
    $("meter").setAttribute("aria-valuetext", db <= FLOOR_DB + 5 ? "silent" : `${Math.round(db)} decibels`);
  }
  return level;
}

function showIntent(event, state) {
  const card = document.querySelector(".intent");
  card.dataset.state = state;
  $("intent-name").textContent = event.intent ?? "No command";
  $("intent-state").textContent = { early: "speculative: work may start", sure: "final" }[state] ?? "";
  $("slots").replaceChildren(...Object.entries(event.slots ?? {}).flatMap(([name, slot]) => {
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = typeof slot.value === "string" ? slot.value : JSON.stringify(slot.value);
    if (slot.spoken && slot.spoken !== slot.value) {
      const spoken = document.createElement("span");
      spoken.className = "spoken";
      spoken.textContent = ` “${slot.spoken}”`;
      value.append(spoken);
    }
    return [term, value];
  }));
  $("confidence").hidden = false;
  $("confidence-meter").value = event.confidence;
  $("confidence-text").textContent = `${Math.round(100 * event.confidence)} %`;
}

function addSaid(event) {
  const item = document.createElement("li");
  const text = document.createElement("span");
  const when = document.createElement("span");
  text.textContent = event.text || "nothing after all";
  if (!event.text) text.className = "nothing";
  when.className = "when";
  when.textContent = `${event.start_s.toFixed(1)}–${event.end_s.toFixed(1)} s`;
  item.append(text, when);
  $("said").prepend(item);
  while ($("said").children.length > SAID_SHOWN) $("said").lastChild.remove();
}

function onEvent(stream, event) {
  switch (event.type) {
    case "ready":
      $("model").textContent = event.model;
      break;
    case "speech_started":
      timeline.mark("start", event.start_s);
      $("empty").hidden = true;
      setState("hearing speech", true);
      break;
    case "partial": {
      $("stable").textContent = event.text.slice(0, event.stable_chars);
      $("unstable").textContent = event.text.slice(event.stable_chars);
      const sent = stream.wallTime(event.t_s);
      if (page.isLive && sent !== null) figures.words.push(performance.now() - sent);
      break;
    }
    case "speculative_endpoint":
      figures.made += 1;
      page.spec = event;
      timeline.mark("spec", event.t_s, event.spec_id);
      showIntent(event, "early");
      break;
    case "speculation_cancelled":
      figures.gone += 1;
      page.spec = null;
      timeline.withdraw(event.spec_id);
      document.querySelector(".intent").dataset.state = "";
      $("intent-state").textContent = "withdrawn: there is more";
      break;
    case "final": {
      timeline.mark("final", event.t_s);
      if (page.spec && event.spec_id === page.spec.spec_id && event.matched) {
        timeline.win(page.spec.t_s, event.t_s);
        figures.won.push(1000 * (event.t_s - page.spec.t_s));
      }
      const sent = stream.wallTime(event.end_s);
      if (page.isLive && sent !== null && event.reason === "endpoint") {
        figures.final.push(performance.now() - sent);
      }
      page.spec = null;
      $("stable").textContent = "";
      $("unstable").textContent = "";
      addSaid(event);
      showIntent(event, "sure");
      if (event.lattice) showLattice(event.lattice);
      setState(page.stop ? "listening" : "finishing", true);
      break;
    }
    case "error":
      // Lattices are asked for and not needed.
      if (event.fatal || !/^lattice\b/.test(event.message)) complain(event.message);
      break;
  }
  showFigures();
}

async function showLattice(text) {
  try {
    drawLattice($("lattice"), await parseLattice(fromBase64(text)));
    $("lattice-card").hidden = false;
  } catch (error) {
    complain(String(error.message ?? error));
  }
}

function begin(rateHz, isLive) {
  complain("");
  timeline.clear();
  page.isLive = isLive;
  page.spec = null;
  const stream = new Stream({
    rateHz,
    token: page.token,
    onEvent: (event) => onEvent(stream, event),
    onClose: async (reason) => {
      if (page.stream !== stream) return;
      page.stream = null;
      stopSource();
      setTalking(false);
      setState("ready");
      if (reason) complain(await explained(reason));
    },
  });
  page.stream = stream;
  return stream;
}

/** Browsers do not tell a page why a WebSocket was refused: ask over HTTP. */
async function explained(reason) {
  if (!/^the connection was closed \(1006\)/.test(reason)) return reason;
  try {
    const headers = page.token ? { authorization: `Bearer ${page.token}` } : {};
    const answer = await fetch("/v1/models", { headers });
    if (answer.status === 401) {
      $("token-form").hidden = false;
      $("token").focus();
      return page.token ? "This token is not known to the server." : "This server wants a token.";
    }
  } catch {
    return "The server cannot be reached.";
  }
  return reason;
}

function setTalking(isOn) {
  $("talk").setAttribute("aria-pressed", String(isOn));
  $("talk-label").textContent = isOn ? "Stop" : "Press and speak";
  $("talk").disabled = false;
}

function stopSource() {
  const stop = page.stop;
  page.stop = null;
  if (stop) stop();
  showLevel(new Float32Array(1));
}

async function startMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) {
    complain("Browsers give a microphone to pages of https and of localhost only: start the server "
      + "with --tls-cert and --tls-key, or drop a recording.");
    return;
  }
  $("talk").disabled = true;
  setState("opening the microphone");
  let media;
  let context;
  try {
    media = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true },
    });
    context = new AudioContext();
    await context.audioWorklet.addModule("/page/capture.js");
    await context.resume();
  } catch (error) {
    media?.getTracks().forEach((track) => track.stop());
    context?.close();
    setTalking(false);
    setState("ready");
    complain(error.name === "NotAllowedError"
      ? "The browser may not use the microphone: allow it in the address bar."
      : `The microphone cannot be opened: ${error.message || error.name}.`);
    return;
  }
  const stream = begin(context.sampleRate, true);
  const source = new MediaStreamAudioSourceNode(context, { mediaStream: media });
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  const early = []; // what is said before the connection is open is not lost
  capture.port.onmessage = ({ data }) => {
    if (data === null) {
      context.close();
      media.getTracks().forEach((track) => track.stop());
      stream.end();
      return;
    }
    timeline.push(showLevel(data), data.length / context.sampleRate);
    if (stream.socket.readyState === WebSocket.CONNECTING) early.push(data);
    else {
      while (early.length) stream.send(early.shift());
      stream.send(data);
    }
  };
  source.connect(capture);
  page.nodes = [source, capture]; // nobody else holds them, and what is collected falls silent
  page.stop = () => capture.port.postMessage("stop");
  setTalking(true);
  setState("listening", true);
}

async function playFile(file) {
  if (page.stream) return;
  $("talk").disabled = true;
  setState(`reading ${file.name}`);
  let sound;
  const context = new OfflineAudioContext(1, 1, 16000);
  try {
    sound = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    setTalking(false);
    setState("ready");
    complain(`${file.name}: the browser cannot read it as sound.`);
    return;
  }
  const mono = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c += 1) {
    const channel = sound.getChannelData(c);
    for (let i = 0; i < mono.length; i += 1) mono[i] += channel[i] / sound.numberOfChannels;
  }
  const stream = begin(sound.sampleRate, false);
  let isStopped = false;
  page.stop = () => { isStopped = true; };
  setTalking(true);
  setState(`hearing ${file.name}`, true);
  try {
    await stream.opened;
  } catch {
    return;
  }
  const size = Math.round(FILE_BLOCK_S * sound.sampleRate);
  const begun = performance.now();
  for (let at = 0; at < mono.length && !isStopped && !stream.isOver; at += size) {
    const block = mono.subarray(at, at + size);
    timeline.push(showLevel(block), block.length / sound.sampleRate);
    stream.send(block);
    const due = begun + (1000 * at) / sound.sampleRate / FILE_SPEED;
    do {
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    } while (stream.isBehind && !stream.isOver);
  }
  if (page.stop) stopSource();
  stream.end();
}

function stop() {
  $("talk").disabled = true;
  setState("finishing", true);
  stopSource();
}

function toggle() {
  if ($("talk").disabled) return;
  if (page.stream) stop();
  else startMicrophone();
}

$("talk").addEventListener("click", toggle);
document.addEventListener("keydown", (event) => {
  const isElsewhere = event.target.closest?.("input, button, a, textarea, [tabindex]");
  if (event.code === "Space" && !event.repeat && !isElsewhere) {
    event.preventDefault();
    toggle();
  }
});
$("file").addEventListener("change", () => {
  if ($("file").files.length) playFile($("file").files[0]);
  $("file").value = "";
});
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  page.token = $("token").value.trim();
  sessionStorage.setItem("token", page.token);
  $("token-form").hidden = true;
  complain("");
  $("talk").focus();
});

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("dropping").hidden = false;
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("dropping").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("dropping").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) playFile(file);
});

function animate() {
  if (page.stream) timeline.draw();
  requestAnimationFrame(animate);
}
animate();
showFigures();
fetch("/healthz").then((answer) => answer.json()).then(({ model }) => {
  $("model").textContent = model;
}).catch(() => setState("the server cannot be reached"));
