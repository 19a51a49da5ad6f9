"use strict";
// File names and other texts are inserted as text only (textContent, alt, title), never as HTML.

const MAX_REQUESTS = 4; // in progress at the same time
const MAX_PREVIEWS = 2; // images that the browser decodes at the same time
const PREVIEW_WIDTH = 240; // pixels
const MAX_PREVIEW_BYTES = 40e6; // larger files get no preview: the browser would decode them at full size
const MAX_TRIES = 40; // per request, while the server is busy
const MAX_FILES = 90; // per entry

const byId = (id) => document.getElementById(id);
const page = {
  about: null,
  items: [],
  waiting: [],
  previews: [],
  sending: 0,
  previewing: 0,
  pauseUntil: 0,
  filter: null, // the only grade to show; "" for items without a prediction
};

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Escape invisible characters and those that change the writing direction, as `classify predict` does.
function printable(text) {
  return text.replace(/[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g, (character) => {
    const code = character.charCodeAt(0);
    const short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
    return short || (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`);
  });
}

function percent(p) {
  if (p > 0 && p < 0.005) return "< 1 %";
  if (p < 1 && p > 0.995) return "> 99 %";
  return `${Math.round(100 * p)} %`;
}

function megabytes(n) {
  return `${(n / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
}

function classNumber(name) {
  return Math.max(page.about.classes.indexOf(name), 0) % 8;
}

// Dropped, chosen and pasted files ---------------------------------------------------------------------

function isIgnored(name) {
  return name.startsWith(".") || name === "Thumbs.db" || name === "desktop.ini";
}

async function readFolder(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // Chromium returns at most 100 entries per call
    const more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!more.length) return found;
    found.push(...more);
  }
}

async function filesOf(entry, path) {
  const found = [];
  let children;
  try {
    if (entry.isFile) return [{ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path }];
    children = await readFolder(entry);
  } catch (error) { // no permission, or deleted meanwhile: the other files go on
    return [{ file: null, path }];
  }
  children.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const child of children) {
    if (!isIgnored(child.name)) found.push(...(await filesOf(child, `${path}/${child.name}`)));
  }
  return found;
}

async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const files = [...transfer.files];
  if (!entries.some(Boolean)) return files.map((file) => ({ file, path: file.name }));
  const found = [];
  for (const entry of entries.filter(Boolean)) found.push(...(await filesOf(entry, entry.name)));
  return found;
}

function chosenFiles(input) {
  const found = [...input.files]
    .filter((file) => !isIgnored(file.name))
    .map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  input.value = "";
  return found.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}

function entryOf(path) { // the first folder inside the dropped one, or the dropped one itself
  const parts = path.split("/");
  return parts.length > 2 ? parts.slice(0, 2).join("/") : parts.length === 2 ? parts[0] : null;
}

function add(files) {
  const byEntry = byId("entries").checked;
  const entries = new Map();
  for (const file of files) {
    const entry = byEntry ? entryOf(file.path) : null;
    if (entry === null) newItem({ name: file.path, entry: null, files: [file] });
    else if (entries.has(entry)) entries.get(entry).push(file);
    else {
      entries.set(entry, [file]);
      newItem({ name: entry, entry, files: entries.get(entry) });
    }
  }
  if (!files.length) return;
  document.body.classList.add("busy");
  byId("results").hidden = false;
  for (const item of page.items.filter((candidate) => !candidate.card)) {
    createCard(item);
    enqueue(item);
  }
  refresh();
  sendNext();
}

function newItem({ name, entry, files }) {
  page.items.push({ path: name, name: printable(name), entry, files, state: "waiting", row: null, problem: "", tries: 0, card: null });
}

// Sending ----------------------------------------------------------------------------------------------

function enqueue(item) {
  const { limits } = page.about;
  const unreadable = item.files.find((one) => one.file === null);
  if (unreadable) {
    finish(item, `the browser cannot read ${item.files.length > 1 ? printable(unreadable.path) : "it"}`);
    return;
  }
  const n_bytes = item.files.reduce((sum, one) => sum + one.file.size, 0);
  const large = item.files.find((one) => one.file.size > limits.max_upload);
  item.state = "waiting";
  item.problem = "";
  if (large && item.files.length === 1) {
    finish(item, `too large: ${megabytes(large.file.size)}, the limit is ${megabytes(limits.max_upload)}`);
  } else if (large) {
    finish(item, `${printable(large.path)} is too large: ${megabytes(large.file.size)}, the limit is ${megabytes(limits.max_upload)}`);
  } else if (item.files.length > MAX_FILES || n_bytes > 0.98 * limits.max_request) {
    finish(item, `entry too large: ${item.files.length} files with ${megabytes(n_bytes)}, the limits are ` +
      `${MAX_FILES} files and ${megabytes(limits.max_request)}`);
  } else {
    page.waiting.push(item);
    drawState(item);
  }
}

function sendNext() {
  const pause = page.pauseUntil - Date.now();
  if (pause > 0) {
    setTimeout(sendNext, pause);
    return;
  }
  while (page.sending < MAX_REQUESTS && page.waiting.length) {
    const item = page.waiting.shift();
    page.sending += 1;
    send(item).finally(() => {
      page.sending -= 1;
      refresh();
      sendNext();
    });
  }
}

async function send(item) {
  item.state = "sending";
  drawState(item);
  const form = new FormData();
  if (item.entry !== null) form.append("entry", item.entry);
  for (const { file, path } of item.files) form.append("image", file, path);
  let response, body;
  try {
    response = await fetch("grade?rows", { method: "POST", body: form });
    body = await response.json();
  } catch (error) {
    finish(item, "the server does not answer, or the file can no longer be read. Is the server still running?", { canRetry: true });
    return;
  }
  if (!page.items.includes(item)) return; // removed by "Clear"
  if ((response.status === 429 || response.status === 503) && item.tries < MAX_TRIES) {
    const seconds = Number(response.headers.get("Retry-After")) || 2;
    item.tries += 1;
    page.pauseUntil = Math.max(page.pauseUntil, Date.now() + 1000 * Math.min(seconds, 60));
    item.state = "waiting";
    page.waiting.unshift(item);
    drawState(item);
  } else if (!response.ok) {
    item.row = body.grades ? body.grades[0] : null;
    finish(item, body.error || `the server answered ${response.status}`, { canRetry: response.status >= 429 });
  } else {
    item.row = body[0];
    finish(item, item.row.problem);
  }
}

function finish(item, problem, { canRetry = false } = {}) {
  item.state = item.row && item.row.grade ? "done" : "failed";
  item.problem = problem || "";
  item.canRetry = canRetry;
  drawState(item);
}

// Cards ------------------------------------------------------------------------------------------------

function createCard(item) {
  item.preview = make("div", { className: "preview" }, make("span", { className: "blank", textContent: "no preview" }));
  if (item.files.length > 1) {
    item.preview.append(make("span", { className: "count", textContent: `${item.files.length} images` }));
  }
  item.result = make("div", { className: "result" });
  item.card = make("li", { className: "card" }, item.preview, item.result);
  byId("cards").append(item.card);
  const first = item.files[0].file;
  if (first && first.type.startsWith("image/") && first.size < MAX_PREVIEW_BYTES) {
    page.previews.push(item);
    drawNextPreviews();
  }
}

function drawNextPreviews() {
  while (page.previewing < MAX_PREVIEWS && page.previews.length) {
    const item = page.previews.shift();
    page.previewing += 1;
    drawPreview(item).catch(() => {}).finally(() => {
      page.previewing -= 1;
      drawNextPreviews();
    });
  }
}

async function drawPreview(item) { // a small copy: many full-size images would fill the memory
  if (!page.items.includes(item)) return;
  const bitmap = await createImageBitmap(item.files[0].file, { resizeWidth: PREVIEW_WIDTH, resizeQuality: "medium" });
  const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.setAttribute("aria-hidden", "true");
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  item.preview.querySelector(".blank").replaceWith(canvas);
}

function drawState(item) {
  if (!item.card) return;
  const name = make("h3", { className: "name", textContent: item.name, title: item.name });
  const { row } = item;
  item.result.replaceChildren(name);
  while (item.card.children.length > 2) item.card.lastChild.remove();
  if (item.state === "waiting") item.result.append(make("p", { className: "waiting", textContent: "waiting" }));
  else if (item.state === "sending") item.result.append(make("p", { className: "waiting", textContent: "predicting …" }));
  else if (item.state === "failed") {
    item.result.append(make("p", { className: "problem" }, make("b", { textContent: "No prediction" }), item.problem));
  } else {
    item.result.append(
      make("p", { className: "grade", textContent: row.grade }),
      make("p", { className: "certainty", textContent: certainty(row) }),
    );
    if (item.problem) item.result.append(make("p", { className: "problem", textContent: `Some images could not be read: ${item.problem}` }));
    item.card.append(bars(row));
    if (row.nearest && row.nearest.length) item.card.append(similarImages(row));
  }
}

function certainty(row) {
  const [[best, p], [second, q]] = Object.entries(row.probabilities).sort((a, b) => b[1] - a[1]);
  if (p >= 0.9) return `Certain, ${percent(p)}`;
  if (p >= 0.7) return `Fairly certain, ${percent(p)}`;
  if (p - q < 0.15) return `Uncertain: ${best} or ${second}`;
  return `Uncertain, ${percent(p)}`;
}

function bars(row) {
  const list = make("ul", { className: "rows", role: "list", "aria-label": "Probability of each grade" });
  for (const name of page.about.classes) {
    const p = row.probabilities[name];
    const fill = make("span", { className: "fill" });
    fill.style.width = `${100 * p}%`;
    list.append(make("li", { className: `row c${classNumber(name)}${name === row.grade ? " top-one" : ""}` },
      make("span", { className: "what", textContent: name }),
      make("span", { className: "track", "aria-hidden": "true" }, fill),
      make("span", { className: "percent", textContent: percent(p) })));
  }
  return list;
}

function similarImages(row) {
  const list = make("ol", { role: "list" });
  for (const example of row.nearest) {
    const image = make("img", { src: example.picture, alt: example.name, title: example.name, loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.remove());
    list.append(make("li", { className: `c${classNumber(example.grade)}` },
      make("span", { className: "thumb" }, image),
      make("span", { className: "label", textContent: example.grade }),
      make("span", { className: "similarity", textContent: example.similarity.toFixed(2) })));
  }
  const title = "Most similar training images, and their grades";
  return make("section", { className: "near", "aria-label": title }, make("h4", { textContent: title }), list);
}

// Summary ----------------------------------------------------------------------------------------------

let statusTime = 0; // time of the last update: screen readers read each one aloud, so at most one per second
let statusTimer = 0;

function refresh() {
  const done = page.items.filter((item) => item.state === "done");
  const failed = page.items.filter((item) => item.state === "failed");
  const n_finished = done.length + failed.length, n_all = page.items.length;
  const complete = n_finished === n_all;
  byId("progress").max = Math.max(n_all, 1);
  byId("progress").value = n_finished;
  byId("progress").classList.toggle("done", complete);
  byId("csv").disabled = !n_finished;
  byId("again").hidden = !failed.some((item) => item.canRetry);
  const counts = page.about.classes.map((name) => [name, done.filter((item) => item.row.grade === name).length]);
  clearTimeout(statusTimer);
  const showStatus = () => {
    statusTime = Date.now();
    byId("status").textContent = complete ? summary(done, failed, counts) : `${n_finished} of ${n_all} done …`;
  };
  if (complete || Date.now() - statusTime > 1000) showStatus();
  else statusTimer = setTimeout(showStatus, 1000);
  drawChips(counts, failed.length, n_all);
  arrangeCards();
}

function summary(done, failed, counts) {
  const perGrade = counts.filter(([, n]) => n).map(([name, n]) => `${n} ${name}`).join(", ");
  const predicted = `${done.length} predicted${perGrade ? `: ${perGrade}` : ""}.`;
  return failed.length ? `${predicted} ${failed.length} without a prediction.` : predicted;
}

function drawChips(counts, n_failed, n_all) {
  const chips = [["all", null, n_all, "all"], ...counts.map(([name, n]) => [name, name, n, `c${classNumber(name)}`])];
  if (n_failed) chips.push(["no prediction", "", n_failed, "none"]);
  else if (page.filter === "") page.filter = null;
  const container = byId("chips");
  while (container.children.length > chips.length) container.lastChild.remove();
  chips.forEach(([label, filter, n, mark], k) => {
    const chip = container.children[k] || container.appendChild(make("button", { type: "button" }, make("span"), make("b")));
    chip.className = `chip ${mark}`;
    chip.children[0].textContent = label;
    chip.children[1].textContent = n;
    chip.setAttribute("aria-pressed", String(page.filter === filter));
    chip.onclick = () => {
      page.filter = page.filter === filter ? null : filter;
      refresh();
    };
  });
}

function arrangeCards() {
  const order = byId("order").value;
  const items = [...page.items];
  const confidence = (item) => (item.state === "done" ? item.row.confidence : 2);
  if (order === "unsure") items.sort((a, b) => confidence(a) - confidence(b));
  if (order === "grade") {
    const rank = (item) => (item.state === "done" ? page.about.classes.indexOf(item.row.grade) : 99);
    items.sort((a, b) => rank(a) - rank(b) || confidence(b) - confidence(a));
  }
  const cards = byId("cards");
  items.forEach((item, k) => {
    if (cards.children[k] !== item.card) cards.insertBefore(item.card, cards.children[k] || null);
    const grade = item.state === "done" ? item.row.grade : item.state === "failed" ? "" : undefined;
    item.card.hidden = page.filter !== null && page.filter !== grade;
  });
}

// CSV, with the columns of `classify predict --out` ------------------------------------------------------

function cell(text) { // the same rules as `safe_cell` of `featurize.base.text`
  const start = text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Zs}]/gu, "").normalize("NFKC");
  const isFormula = /^[=+\-@]/.test(start); // a spreadsheet would evaluate it
  const safe = `${isFormula ? "'" : ""}${printable(text)}`;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const { classes } = page.about;
  const lines = [["path", "entry", "n_images", "grade", "confidence", ...classes.map((name) => `p_${name}`), "problem"]];
  for (const item of page.items) {
    if (item.state !== "done" && item.state !== "failed") continue;
    const row = item.row || {};
    lines.push([
      item.files.length > 1 ? "" : item.files[0].path,
      item.path,
      String(row.n_images ?? 0),
      row.grade ?? "",
      row.grade ? row.confidence.toFixed(6) : "",
      ...classes.map((name) => (row.grade ? row.probabilities[name].toFixed(6) : "")),
      item.problem,
    ]);
  }
  return `\ufeff${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`;
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
  make("a", { href: url, download: "grades.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function clear() {
  page.items = [];
  page.waiting = [];
  page.previews = [];
  page.filter = null;
  byId("cards").replaceChildren();
  byId("results").hidden = true;
  document.body.classList.remove("busy");
  byId("choose-files").focus();
}

// Start ------------------------------------------------------------------------------------------------

function listen() {
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => add(chosenFiles(byId(input))));
  }
  let depth = 0;
  const over = (on) => {
    byId("drop").classList.toggle("over", on);
    byId("veil").classList.toggle("over", on);
  };
  const carries = (event) => [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (carries(event)) over(++depth > 0);
  });
  document.addEventListener("dragleave", (event) => {
    if (carries(event)) over(--depth > 0);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", async (event) => {
    event.preventDefault(); // otherwise the browser would open the file instead of the page
    depth = 0;
    over(false);
    add(await droppedFiles(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) add(files.map((file) => ({ file, path: file.name || "pasted image" })));
  });
  byId("order").addEventListener("change", arrangeCards);
  byId("csv").addEventListener("click", download);
  byId("clear").addEventListener("click", clear);
  byId("again").addEventListener("click", () => {
    for (const item of page.items.filter((one) => one.state === "failed" && one.canRetry)) enqueue(item);
    refresh();
    sendNext();
  });
}

async function start() {
  try {
    page.about = await (await fetch("about")).json();
  } catch (error) {
    byId("drop-title").textContent = "The server does not answer. Is it still running? Then load this page again.";
    return;
  }
  listen();
  document.documentElement.dataset.ready = "yes";
}

start();
