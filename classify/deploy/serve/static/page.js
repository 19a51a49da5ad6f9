"use strict";
// Names and texts reach the page as text only (textContent, alt, title): a file may be called anything.

const AT_ONCE = 4; // requests under way
const PREVIEWS = 2; // pictures that the browser decodes at once
const PREVIEW_WIDTH = 240;
const PREVIEW_BYTES = 40e6; // larger files get no preview: the browser would decode them whole
const TRIES = 40; // of a request that the server has no place for
const MOST_FILES = 90; // of one entry

const byId = (id) => document.getElementById(id);
const page = {
  about: null,
  items: [],
  waiting: [],
  previews: [],
  sending: 0,
  previewing: 0,
  pauseUntil: 0,
  only: null, // grade shown alone; "" for what could not be graded
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

// As the server and `classify predict` show names: what cannot be seen, or reorders what is read, as escapes.
function shown(text) {
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

// What was dropped, chosen or pasted -------------------------------------------------------------------

function ignored(name) {
  return name.startsWith(".") || name === "Thumbs.db" || name === "desktop.ini";
}

async function readFolder(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // a browser hands out a hundred at a time
    const more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!more.length) return found;
    found.push(...more);
  }
}

async function filesOf(entry, path) {
  const found = [];
  let inside;
  try {
    if (entry.isFile) return [{ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path }];
    inside = await readFolder(entry);
  } catch (error) { // no right to read it, or it has just gone: the others are graded all the same
    return [{ file: null, path }];
  }
  inside.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const one of inside) {
    if (!ignored(one.name)) found.push(...(await filesOf(one, `${path}/${one.name}`)));
  }
  return found;
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const files = [...transfer.files];
  if (!entries.some(Boolean)) return files.map((file) => ({ file, path: file.name }));
  const found = [];
  for (const entry of entries.filter(Boolean)) found.push(...(await filesOf(entry, entry.name)));
  return found;
}

function chosen(input) {
  const found = [...input.files]
    .filter((file) => !ignored(file.name))
    .map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  input.value = "";
  return found.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}

function entryOf(path) { // the first folder within the one that was given, or that one itself
  const parts = path.split("/");
  return parts.length > 2 ? parts.slice(0, 2).join("/") : parts.length === 2 ? parts[0] : null;
}

function add(found) {
  const together = byId("entries").checked;
  const entries = new Map();
  for (const one of found) {
    const entry = together ? entryOf(one.path) : null;
    if (entry === null) newItem({ name: one.path, entry: null, sent: [one] });
    else if (entries.has(entry)) entries.get(entry).push(one);
    else {
      entries.set(entry, [one]);
      newItem({ name: entry, entry, sent: entries.get(entry) });
    }
  }
  if (!found.length) return;
  document.body.classList.add("busy");
  byId("results").hidden = false;
  for (const item of page.items.filter((one) => !one.card)) {
    showCard(item);
    wait(item);
  }
  changed();
  work();
}

function newItem({ name, entry, sent }) {
  page.items.push({ name: shown(name), entry, sent, state: "waiting", row: null, problem: "", tries: 0, card: null });
}

// Sending ----------------------------------------------------------------------------------------------

function wait(item) {
  const { limits } = page.about;
  const lost = item.sent.find((one) => one.file === null);
  if (lost) {
    finish(item, `the browser cannot read ${item.sent.length > 1 ? shown(lost.path) : "it"}`);
    return;
  }
  const n_bytes = item.sent.reduce((sum, one) => sum + one.file.size, 0);
  const large = item.sent.find((one) => one.file.size > limits.max_upload);
  item.state = "waiting";
  item.problem = "";
  if (large && item.sent.length === 1) {
    finish(item, `too large: ${megabytes(large.file.size)}, the limit is ${megabytes(limits.max_upload)}`);
  } else if (large) {
    finish(item, `${shown(large.path)} is too large: ${megabytes(large.file.size)}, the limit is ${megabytes(limits.max_upload)}`);
  } else if (item.sent.length > MOST_FILES || n_bytes > 0.98 * limits.max_request) {
    finish(item, `too much for one entry: ${item.sent.length} files of ${megabytes(n_bytes)} in all, the limits are ` +
      `${MOST_FILES} files and ${megabytes(limits.max_request)}`);
  } else {
    page.waiting.push(item);
    drawState(item);
  }
}

function work() {
  const pause = page.pauseUntil - Date.now();
  if (pause > 0) {
    setTimeout(work, pause);
    return;
  }
  while (page.sending < AT_ONCE && page.waiting.length) {
    const item = page.waiting.shift();
    page.sending += 1;
    send(item).finally(() => {
      page.sending -= 1;
      changed();
      work();
    });
  }
}

async function send(item) {
  item.state = "sending";
  drawState(item);
  const form = new FormData();
  if (item.entry !== null) form.append("entry", item.entry);
  for (const one of item.sent) form.append("image", one.file, one.path);
  let response, said;
  try {
    response = await fetch("grade?rows", { method: "POST", body: form });
    said = await response.json();
  } catch (error) {
    finish(item, "the server does not answer, or the file can no longer be read. Is the server still running?", { again: true });
    return;
  }
  if (!page.items.includes(item)) return; // cleared meanwhile
  if ((response.status === 429 || response.status === 503) && item.tries < TRIES) {
    const seconds = Number(response.headers.get("Retry-After")) || 2;
    item.tries += 1;
    page.pauseUntil = Math.max(page.pauseUntil, Date.now() + 1000 * Math.min(seconds, 60));
    item.state = "waiting";
    page.waiting.unshift(item);
    drawState(item);
  } else if (!response.ok) {
    item.row = said.grades ? said.grades[0] : null;
    finish(item, said.error || `the server answered ${response.status}`, { again: response.status >= 429 });
  } else {
    item.row = said[0];
    finish(item, item.row.problem);
  }
}

function finish(item, problem, { again = false } = {}) {
  item.state = item.row && item.row.grade ? "graded" : "failed";
  item.problem = problem || "";
  item.again = again;
  drawState(item);
}

// Cards ------------------------------------------------------------------------------------------------

function showCard(item) {
  item.shown = make("div", { className: "shown" }, make("span", { className: "blank", textContent: "no preview" }));
  if (item.sent.length > 1) {
    item.shown.append(make("span", { className: "count", textContent: `${item.sent.length} images` }));
  }
  item.said = make("div", { className: "said" });
  item.more = make("div", { className: "rows" });
  item.card = make("li", { className: "card" }, item.shown, item.said);
  byId("cards").append(item.card);
  const first = item.sent[0].file;
  if (first && first.type.startsWith("image/") && first.size < PREVIEW_BYTES) {
    page.previews.push(item);
    preview();
  }
}

function preview() {
  while (page.previewing < PREVIEWS && page.previews.length) {
    const item = page.previews.shift();
    page.previewing += 1;
    drawPreview(item).catch(() => {}).finally(() => {
      page.previewing -= 1;
      preview();
    });
  }
}

async function drawPreview(item) { // a small copy: a page of large pictures would fill the memory
  if (!page.items.includes(item)) return;
  const bitmap = await createImageBitmap(item.sent[0].file, { resizeWidth: PREVIEW_WIDTH, resizeQuality: "medium" });
  const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.setAttribute("aria-hidden", "true");
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  item.shown.querySelector(".blank").replaceWith(canvas);
}

function drawState(item) {
  if (!item.card) return;
  const name = make("h3", { className: "name", textContent: item.name, title: item.name });
  const { row } = item;
  item.said.replaceChildren(name);
  while (item.card.children.length > 2) item.card.lastChild.remove();
  if (item.state === "waiting") item.said.append(make("p", { className: "waiting", textContent: "waiting" }));
  else if (item.state === "sending") item.said.append(make("p", { className: "waiting", textContent: "grading …" }));
  else if (item.state === "failed") {
    item.said.append(make("p", { className: "problem" }, make("b", { textContent: "Not graded" }), item.problem));
  } else {
    item.said.append(
      make("p", { className: "grade", textContent: row.grade }),
      make("p", { className: "sure", textContent: sureness(row) }),
    );
    if (item.problem) item.said.append(make("p", { className: "problem", textContent: `Not all could be read: ${item.problem}` }));
    item.card.append(bars(row));
    if (row.nearest && row.nearest.length) item.card.append(nearest(row));
  }
}

function sureness(row) {
  const [[best, p], [second, q]] = Object.entries(row.probabilities).sort((a, b) => b[1] - a[1]);
  if (p >= 0.9) return `Sure, ${percent(p)}`;
  if (p >= 0.7) return `Fairly sure, ${percent(p)}`;
  if (p - q < 0.15) return `Not sure: ${best} or ${second}`;
  return `Not sure, ${percent(p)}`;
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

function nearest(row) {
  const list = make("ol", { role: "list" });
  for (const near of row.nearest) {
    const image = make("img", { src: near.picture, alt: near.name, title: near.name, loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.remove());
    list.append(make("li", { className: `c${classNumber(near.grade)}` },
      make("span", { className: "thumb" }, image),
      make("span", { className: "its", textContent: near.grade }),
      make("span", { className: "like", textContent: near.similarity.toFixed(2) })));
  }
  const title = "Most similar training images, and their grades";
  return make("section", { className: "near", "aria-label": title }, make("h4", { textContent: title }), list);
}

// Summary ----------------------------------------------------------------------------------------------

let told = 0; // when the status was last written: screen readers read each change aloud
let telling = 0;

function changed() {
  const graded = page.items.filter((item) => item.state === "graded");
  const failed = page.items.filter((item) => item.state === "failed");
  const n_done = graded.length + failed.length, n_all = page.items.length;
  const done = n_done === n_all;
  byId("progress").max = Math.max(n_all, 1);
  byId("progress").value = n_done;
  byId("progress").classList.toggle("done", done);
  byId("csv").disabled = !n_done;
  byId("again").hidden = !failed.some((item) => item.again);
  const counts = page.about.classes.map((name) => [name, graded.filter((item) => item.row.grade === name).length]);
  clearTimeout(telling);
  const tell = () => {
    told = Date.now();
    byId("status").textContent = done ? finished(graded, failed, counts) : `${n_done} of ${n_all} done …`;
  };
  if (done || Date.now() - told > 1000) tell();
  else telling = setTimeout(tell, 1000);
  chips(counts, failed.length, n_all);
  arrange();
}

function finished(graded, failed, counts) {
  const each = counts.filter(([, n]) => n).map(([name, n]) => `${n} ${name}`).join(", ");
  const bad = failed.length ? `${failed.length} could not be graded.` : "";
  return [`${graded.length} graded${each ? `: ${each}` : ""}.`, bad].join(" ").trim();
}

function chips(counts, n_failed, n_all) {
  const wanted = [["all", null, n_all, "all"], ...counts.map(([name, n]) => [name, name, n, `c${classNumber(name)}`])];
  if (n_failed) wanted.push(["not graded", "", n_failed, "none"]);
  else if (page.only === "") page.only = null;
  const place = byId("chips");
  while (place.children.length > wanted.length) place.lastChild.remove();
  wanted.forEach(([label, only, n, mark], k) => {
    const chip = place.children[k] || place.appendChild(make("button", { type: "button" }, make("span"), make("b")));
    chip.className = `chip ${mark}`;
    chip.children[0].textContent = label;
    chip.children[1].textContent = n;
    chip.setAttribute("aria-pressed", String(page.only === only));
    chip.onclick = () => {
      page.only = page.only === only ? null : only;
      changed();
    };
  });
}

function arrange() {
  const order = byId("order").value;
  const items = [...page.items];
  const sure = (item) => (item.state === "graded" ? item.row.confidence : 2);
  if (order === "unsure") items.sort((a, b) => sure(a) - sure(b));
  if (order === "grade") {
    const place = (item) => (item.state === "graded" ? page.about.classes.indexOf(item.row.grade) : 99);
    items.sort((a, b) => place(a) - place(b) || sure(b) - sure(a));
  }
  const cards = byId("cards");
  items.forEach((item, k) => {
    if (cards.children[k] !== item.card) cards.insertBefore(item.card, cards.children[k] || null);
    const grade = item.state === "graded" ? item.row.grade : item.state === "failed" ? "" : undefined;
    item.card.hidden = page.only !== null && page.only !== grade;
  });
}

// CSV, with the columns of `classify predict --out` ------------------------------------------------------

function cell(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // a spreadsheet would run it
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const { classes } = page.about;
  const lines = [["path", "entry", "n_images", "grade", "confidence", ...classes.map((name) => `p_${name}`), "problem"]];
  for (const item of page.items) {
    if (item.state !== "graded" && item.state !== "failed") continue;
    const row = item.row || {};
    lines.push([
      item.sent.length > 1 ? "" : shown(item.sent[0].path),
      item.name,
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
  page.only = null;
  byId("cards").replaceChildren();
  byId("results").hidden = true;
  document.body.classList.remove("busy");
  byId("choose-files").focus();
}

// Start ------------------------------------------------------------------------------------------------

function listen() {
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => add(chosen(byId(input))));
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
    event.preventDefault(); // else the browser would leave the page for the picture
    depth = 0;
    over(false);
    add(await dropped(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) add(files.map((file) => ({ file, path: file.name || "pasted image" })));
  });
  byId("order").addEventListener("change", arrange);
  byId("csv").addEventListener("click", download);
  byId("clear").addEventListener("click", clear);
  byId("again").addEventListener("click", () => {
    for (const item of page.items.filter((one) => one.state === "failed" && one.again)) wait(item);
    changed();
    work();
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
