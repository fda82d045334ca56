import { call, watch } from "./server.js";
import { draw, position } from "./stage.js";

const $ = (id) => document.getElementById(id);
let state = { objects: [], clicks: [], source: null };
let selected = 1; // the object that a click is for, tracked or new
const claimed = new Set(); // ids that were clicked, even before the program has confirmed them
let fading = 0;
let calls = 0; // in progress

/** Call the program and show its error, if any; returns whether it succeeded. */
async function ask(name, body) {
  calls += 1;
  try {
    await call(name, body);
    return true;
  } catch (error) {
    notice(error.message);
    return false;
  } finally {
    calls -= 1;
  }
}

/** Open a source, which may take a while. */
async function open(what, name, body) {
  notice(`Opening ${what}…`);
  if (!(await ask(name, body))) return;
  $("notice").hidden = true;
  $("source").blur(); // from now on keys control the video
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => ($("notice").hidden = true), 6000);
}

async function show(next, picture) {
  const opened = next.source !== state.source;
  if (next.message && next.message !== state.message) notice(next.message);
  await draw(next, picture, selected);
  state = next;
  if (opened) {
    selected = 1;
    claimed.clear();
    document.title = state.source ? `${state.source} – sam2edge` : "sam2edge";
    if (state.source && document.activeElement !== $("source")) $("source").value = state.source;
  }
  const ready = state.source !== null;
  $("play").classList.toggle("on", state.playing);
  $("play").disabled = $("step").disabled = !ready || (state.ended && !state.playing);
  $("restart").disabled = !ready;
  $("look").hidden = state.words === null;
  if (state.words !== null && document.activeElement !== $("words")) $("words").value = state.words;
  $("restart").hidden = $("progress").hidden = state.live;
  $("progress").value = state.count ? Math.min(1, (state.number + 1) / state.count) : 0;
  const total = state.count ? ` / ${state.count - 1}` : "";
  $("position").textContent = ready ? `frame ${state.number}${state.ended ? ", end" : total}` : "";
  $("rate").textContent = state.playing && state.rate ? `${state.rate.toFixed(0)} fps` : "";
  $("undo").disabled = !state.clicks.length;
  $("save").disabled = !ready;
  $("save").textContent = state.folder ? "Stop saving" : "Save masks";
  $("save").setAttribute("aria-pressed", String(state.folder !== null));
  $("saving").textContent = state.folder
    ? `${state.saved} frames in ${state.folder}`
    : "PNG and COCO RLE, from this frame onwards.";
  list();
}

/** List the objects, and the new one if it is selected. Rows are kept, because one may be being clicked. */
function list() {
  const rows = new Map([...$("objects").children].map((row) => [Number(row.dataset.object), row]));
  const shown = [...state.objects];
  if (!shown.some((object) => object.id === selected)) shown.push({ id: selected, state: "click on it", color: "" });
  const wanted = shown.map((object) => {
    const row = rows.get(object.id) ?? newRow(object.id);
    row.setAttribute("aria-current", String(object.id === selected));
    row.querySelector(".name").textContent = `${object.word || "Object"} ${object.id}`;
    row.querySelector(".chip").style.background = object.color || "var(--line)";
    row.querySelector(".state").textContent =
      object.state === "visible" ? `IoU ${object.iou?.toFixed(2) ?? "unknown"}` : object.state;
    row.querySelector(".drop").hidden = !object.color;
    return row;
  });
  if (wanted.length !== rows.size || wanted.some((row, n) => row !== $("objects").children[n])) {
    $("objects").replaceChildren(...wanted);
  }
}

function newRow(id) {
  const row = document.createElement("li");
  row.dataset.object = id;
  row.innerHTML = `<button type="button" class="pick"><span class="chip"></span><span class="name"></span>
    <span class="state"></span></button><button type="button" class="drop" title="Remove object ${id}">✕</button>`;
  row.querySelector(".pick").onclick = () => select(id);
  row.querySelector(".drop").onclick = () => {
    claimed.delete(id);
    ask("remove", { object: id });
  };
  return row;
}

function select(id) {
  selected = id;
  list();
  draw(state, null, selected);
}

function selectNew() {
  const taken = new Set([...claimed, ...state.objects.map((object) => object.id)]);
  let id = 1;
  while (taken.has(id)) id += 1;
  select(id);
}

const playOrPause = () => ask(state.playing ? "pause" : "play");

$("stage").addEventListener("pointerdown", async (event) => {
  if (event.button !== 0 && event.button !== 2) return;
  document.activeElement.blur(); // from now on keys control the video, not the address
  const label = event.button === 2 || event.shiftKey ? 0 : 1;
  const object = selected;
  claimed.add(object);
  if (!(await ask("click", { object, label, frame: state.serial, ...position(event) }))) claimed.delete(object);
});
$("stage").addEventListener("contextmenu", (event) => event.preventDefault());

$("open").addEventListener("submit", (event) => {
  event.preventDefault();
  open($("source").value, "open", { source: $("source").value });
});
$("look").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await ask("words", { words: $("words").value })) $("words").blur(); // from now on keys control the video
});
$("choose").onclick = () => $("file").click();
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // the same file may be chosen again
  if (file) open(file.name, `upload?name=${encodeURIComponent(file.name)}`, file);
});

$("play").onclick = playOrPause;
$("step").onclick = () => ask("step");
$("restart").onclick = () => ask("restart");
$("new").onclick = selectNew;
$("undo").onclick = () => ask("undo");
$("save").onclick = () => ask("save", { on: state.folder === null });

// After a mouse click on a button, the space bar must control the video, not that button or the address.
document.addEventListener("mousedown", (event) => {
  if (!event.target.closest("button")) return;
  event.preventDefault();
  document.activeElement.blur();
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.matches("button")) return;
  const keys = { " ": playOrPause, ArrowRight: () => ask("step"), z: () => ask("undo"), n: selectNew };
  const action = keys[event.key] ?? (/^[1-9]$/.test(event.key) ? () => select(Number(event.key)) : null);
  if (!action) return;
  event.preventDefault();
  if (!(event.repeat && calls)) action(); // a key that is held down must not get ahead of the program
});

watch(show, (error) => notice(`sam2edge does not respond (${error.message}).`));
