/* Fills the charts and galleries from the page's JSON data. Names from outside are inserted as text, never as
   markup. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const PAGE = window.matchMedia("(max-width: 40rem)").matches ? 8 : 24; // cards per page
  const BARS = 6; // maximum number of classes in a card
  const ALL = "";
  const state = { head: data.recommended, class: ALL, split: ALL, show: "wrong", matrix: null };
  const shown = { mistakes: PAGE, doubtful: PAGE };

  // ---- helpers

  function element(name, properties = {}, ...children) {
    const node = document.createElement(name);
    Object.assign(node, properties);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  const percent = (fraction) => `${Math.round(100 * fraction)} %`;
  const plural = (n, noun) => `${n} ${n === 1 ? noun : noun === "entry" ? "entries" : `${noun}s`}`;
  const threeDigits = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
  const colour = (label) => data.colours[label % data.colours.length];

  function rows(columns) {
    const names = Object.keys(columns);
    return columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  }

  function option(select, value, text) {
    select.append(element("option", { value: String(value), textContent: text }));
  }

  // ---- charts

  const tip = $("tip");
  function showTip(event, children) {
    tip.replaceChildren(...children);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
    const above = event.clientY + 14 + box.height > window.innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, above ? event.clientY - box.height - 14 : event.clientY + 14)}px`;
  }
  function tooltip(fill) {
    return (handler, event, item, value) => {
      if (value === null || value === undefined || value === "") tip.hidden = true;
      else showTip(event, fill(value));
    };
  }
  const asTable = tooltip((value) => {
    const body = element("tbody");
    for (const [name, text] of Object.entries(value)) {
      body.append(element("tr", {}, element("td", { textContent: name }), element("td", { textContent: String(text) })));
    }
    return [element("table", {}, body)];
  });

  const views = {};
  async function draw(name, spec, columns, handler = asTable) {
    const container = $(`chart-${name}`);
    const figure = container.closest(".panel");
    const hasData = columns !== undefined && columns !== null;
    container.hidden = !hasData;
    if (figure) {
      const absent = figure.querySelector(".absent");
      absent.hidden = hasData;
      figure.hidden = !hasData && !absent.textContent; // no chart and no text for its absence
    }
    tip.hidden = true;
    if (views[name]) views[name].finalize();
    delete views[name];
    container.replaceChildren();
    if (!hasData) return;
    const legendColumns = Math.max(1, Math.floor((container.clientWidth - 50) / 125));
    const config = { ...spec.config, legend: { ...spec.config.legend, columns: legendColumns } };
    const complete = { ...spec, config, data: { name: "rows", values: Array.isArray(columns) ? columns : rows(columns) } };
    views[name] = await vegaEmbed(container, complete, { actions: false, renderer: "svg", tooltip: handler });
  }

  // ---- leaderboard

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = element("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => {
          const cell = row.cells[column];
          return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
        };
        const sign = down ? -1 : 1;
        const sorted = [...table.tBodies[0].rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1; // cells without a number come last
          return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
        });
        table.tBodies[0].append(...sorted);
      });
    });
  }

  // ---- verdicts

  function drawVerdicts() {
    if (!data.verdicts) return;
    const members = data.heads.filter((head) => state.matrix === ALL || head.space === state.matrix);
    const rank = new Map(members.map((head, index) => [head.id, index]));
    const name = (head) => (state.matrix === ALL ? head.name : head.head);
    const cells = members.map((head) => ({
      row: name(head), column: name(head), rank: rank.get(head.id), column_rank: rank.get(head.id), sign: "", words: "same",
    }));
    for (const verdict of data.verdicts) {
      if (!rank.has(verdict.a) || !rank.has(verdict.b)) continue;
      for (const [a, b, sign] of [[verdict.a, verdict.b, 1], [verdict.b, verdict.a, -1]]) {
        const better = verdict.better ? sign : 0; // 1: better, -1: worse, 0: no detectable difference
        const ends = verdict.low === null ? [null, null] : sign > 0 ? [verdict.low, verdict.high] : [-verdict.high, -verdict.low];
        cells.push({
          row: name(data.heads[a]), column: name(data.heads[b]), rank: rank.get(a), column_rank: rank.get(b),
          sign: better > 0 ? "▲" : better < 0 ? "▼" : "·",
          words: better > 0 ? "better" : better < 0 ? "worse" : "no detectable difference",
          difference: sign * verdict.difference, low: ends[0], high: ends[1], p_holm: verdict.p_holm,
        });
      }
    }
    const columns = members.length;
    const step = columns > 14 ? 22 : 34;
    return draw("verdicts", { ...data.charts.verdicts, width: { step }, autosize: { type: "pad", contains: "padding" } }, cells);
  }

  // ---- head

  function drawHead() {
    const head = data.heads[state.head];
    $("head-name").textContent = head.name;
    $("head-facts").textContent = head.facts;
    const ofSelectedClass = (columns) => {
      if (!columns || state.class === ALL || !("class" in columns)) return columns;
      const selected = rows(columns).filter((row) => row.class === data.classes[state.class]);
      return selected.length ? selected : columns;
    };
    for (const name of data.panels) {
      const columns = head.panels[name.startsWith("training_") ? "training" : name];
      draw(name, data.charts[name], ofSelectedClass(columns));
    }
    const table = $("class-table");
    const names = ["precision", "recall", "f1"];
    table.tHead.replaceChildren(element("tr", {}, ...["class", ...names, data.units].map((text, i) =>
      element("th", { scope: "col", textContent: text, className: i ? "number" : "" }))));
    table.tBodies[0].replaceChildren(...head.per_class.map((row) => element("tr", {},
      element("th", { scope: "row", textContent: row.name }),
      ...names.map((name) => {
        const ends = row.intervals[name];
        const cell = element("td", { className: "number", textContent: threeDigits(row[name]) });
        if (ends) cell.append(" ", element("span", { className: "interval", textContent: `[${ends[0].toFixed(2)}, ${ends[1].toFixed(2)}]` }));
        return cell;
      }),
      element("td", { className: "number", textContent: String(row.support) }))));
  }

  // ---- pictures

  function picture(image, width) {
    const uri = data.pictures[data.images.picture[image]];
    const path = data.images.path[image];
    if (!uri) return element("span", { className: "absent", textContent: "no picture" });
    const img = element("img", { src: uri, alt: "", title: path });
    if (width) img.width = width;
    return img;
  }

  function prediction(entry) { // the selected head's prediction of a tested entry
    const p = data.tested.p[state.head];
    const n = data.classes.length;
    const probabilities = p.slice(entry * n, (entry + 1) * n).map((value) => value / 10000);
    let predicted = 0;
    probabilities.forEach((value, label) => { if (value > probabilities[predicted]) predicted = label; });
    return { probabilities, predicted, true: data.tested.y[entry] };
  }

  // ---- map

  function drawMap() {
    const head = data.heads[state.head];
    const map = data.maps[head.space];
    $("map-absent").hidden = Boolean(map);
    $("map-absent").textContent = data.why_no_map;
    $("map-method").textContent = map ? `${map.method} Features of ${head.space}.` : "";
    if (!map) return draw("map", null, null);
    const predictions = new Map(); // tested image → prediction
    data.tested.images.forEach((images, entry) => {
      const found = prediction(entry);
      images.forEach((image) => predictions.set(image, found));
    });
    const marks = [];
    map.image.forEach((image, i) => {
      const y = data.images.y[image];
      const split = data.images.split[image];
      if (state.class !== ALL && y !== Number(state.class)) return;
      if (state.split !== ALL && split !== state.split) return;
      const found = predictions.get(image);
      const kind = !found ? "training image" : found.predicted === found.true ? "tested, correct" : "tested, wrong";
      marks.push({ x: map.x[i], y: map.y[i], class: data.classes[y], split, state: kind, row: image });
    });
    return draw("map", data.charts.map, marks, tooltip((value) => {
      const image = Number(value);
      const found = predictions.get(image);
      const grade = data.classes[data.images.y[image]];
      const lines = [`${grade} (${data.images.split[image]})`];
      if (found) lines.push(`predicted ${data.classes[found.predicted]} (${percent(found.probabilities[found.predicted])})`);
      return [picture(image, 160), ...lines.map((line) => element("div", { textContent: line })),
        element("div", { className: "path", textContent: data.images.path[image] })];
    }));
  }

  // ---- galleries

  function bars(probabilities, trueLabel) { // with many classes: the most probable ones and the true one
    const box = element("div", { className: "bars" });
    const ranked = probabilities.map((_, label) => label).sort((a, b) => probabilities[b] - probabilities[a]);
    const visible = new Set(probabilities.length > BARS ? [...ranked.slice(0, BARS - 1), trueLabel] : ranked);
    probabilities.forEach((value, label) => {
      if (!visible.has(label)) return;
      const fill = element("i");
      fill.style.width = `${100 * value}%`;
      fill.style.background = colour(label);
      const name = element("span", { className: "name", textContent: data.classes[label], title: data.classes[label] });
      if (label === trueLabel) name.style.fontWeight = 650;
      box.append(name, element("span", { className: "bar" }, fill), element("span", { className: "value", textContent: percent(value) }));
    });
    return box;
  }

  function nearest(pairs) {
    if (!pairs || !pairs.length) return [];
    const list = element("ul", { className: "near" });
    for (let i = 0; i < pairs.length; i += 2) {
      const label = data.images.y[pairs[i]];
      const frame = element("span", { className: "frame" }, picture(pairs[i]));
      frame.style.borderBottomColor = colour(label);
      list.append(element("li", { title: data.images.path[pairs[i]] }, frame,
        element("span", { className: "grade", textContent: data.classes[label] }),
        element("span", { textContent: pairs[i + 1].toFixed(2) })));
    }
    return [element("p", { className: "why", textContent: "Most similar training images (cosine similarity):" }), list];
  }

  function card(images, title, path, extra, near) {
    const frame = element("div", { className: images.length > 1 ? "pictures several" : "pictures" }, ...images.slice(0, 6).map((image) => picture(image)));
    return element("li", { className: "card" },
      element("div", { className: "main" }, frame, element("div", {}, title, ...extra)),
      element("p", { className: "path", textContent: path }),
      ...near);
  }

  function showGallery(name, items, makeCard) {
    const list = $(`${name}-gallery`);
    list.replaceChildren(...items.slice(0, shown[name]).map(makeCard));
    const button = $(`${name}-more`);
    button.hidden = items.length <= shown[name];
    button.textContent = `Show more (${items.length - shown[name]} left)`;
  }

  function drawMistakes() {
    const head = data.heads[state.head];
    const found = [];
    data.tested.y.forEach((y, entry) => {
      if (state.class !== ALL && y !== Number(state.class)) return;
      if (state.split !== ALL && data.tested.split[entry] !== state.split) return;
      const one = { entry, ...prediction(entry) };
      one.off = one.predicted === y ? 0 : data.ordered ? Math.abs(one.predicted - y) : 1;
      one.confidence = one.probabilities[one.predicted];
      if (state.show === "wrong" && !one.off) return;
      if (state.show === "unsure" && one.off) return;
      found.push(one);
    });
    if (state.show === "unsure") found.sort((a, b) => a.confidence - b.confidence || a.entry - b.entry);
    else {
      const margin = (one) => one.confidence - one.probabilities[one.true];
      found.sort((a, b) => b.off - a.off || margin(b) - margin(a) || a.entry - b.entry);
    }
    const ofClass = state.class === ALL ? "" : ` of class ${data.classes[state.class]}`;
    const result = { wrong: "predicted wrongly", unsure: "predicted correctly", all: "tested" }[state.show];
    const sample = data.n_tested > data.tested.y.length ? `, in a random sample of ${data.tested.y.length} of ${data.n_tested}` : "";
    const untested = state.split !== ALL && !data.tested.split.includes(state.split);
    $("mistakes-count").textContent = untested
      ? `Images of the ${state.split} split were not tested, because the heads were fitted on them. See the doubtful grades below.`
      : `${head.name}: ${plural(found.length, data.unit)}${ofClass} ${result}${sample}.`;
    showGallery("mistakes", found, (one) => {
      const title = element("h3");
      title.append("predicted ", element("strong", { textContent: data.classes[one.predicted] }));
      if (one.off) title.append(", true grade ", element("strong", { textContent: data.classes[one.true] }));
      if (one.off > 1) title.append(` (off by ${one.off})`);
      const near = (data.nearest[head.space] || [])[one.entry];
      return card(data.tested.images[one.entry], title, data.tested.entry[one.entry], [bars(one.probabilities, one.true)], nearest(near));
    });
  }

  function drawDoubtful() {
    const found = data.doubtful.filter((one) => (state.class === ALL || one.grade === data.classes[state.class])
      && (state.split === ALL || one.split === state.split));
    $("doubtful-count").textContent = data.doubtful.length ? `${plural(found.length, data.unit)} listed, the most doubtful first.` : data.none_doubtful;
    showGallery("doubtful", found, (one) => {
      const title = element("h3");
      title.append("graded ", element("strong", { textContent: one.grade }));
      return card(one.images, title, one.entry, [element("p", { className: "why", textContent: one.reason })], nearest(one.near));
    });
  }

  // ---- filters

  function writeHash() {
    const parts = new URLSearchParams();
    if (state.head !== data.recommended) parts.set("head", state.head);
    if (state.class !== ALL) parts.set("class", state.class);
    if (state.split !== ALL) parts.set("split", state.split);
    const hash = parts.toString();
    try { history.replaceState(null, "", hash ? `#?${hash}` : location.pathname); } catch { /* some viewers forbid it */ }
  }

  function readHash() {
    if (!location.hash.startsWith("#?")) return;
    const parts = new URLSearchParams(location.hash.slice(2));
    const head = Number(parts.get("head"));
    if (parts.has("head") && data.heads[head]) state.head = head;
    const label = parts.get("class");
    if (label !== null && data.classes[Number(label)] !== undefined) state.class = label;
    if (data.splits.includes(parts.get("split"))) state.split = parts.get("split");
  }

  function redraw({ head = true } = {}) {
    shown.mistakes = shown.doubtful = PAGE;
    if (head) drawHead();
    drawMap();
    drawMistakes();
    drawDoubtful();
    writeHash();
  }

  function selectHead(head) {
    state.head = head;
    $("filter-head").value = String(head);
    redraw();
  }

  function setUpFilters() {
    const heads = $("filter-head");
    const stores = [...new Set(data.heads.map((head) => head.group))];
    for (const store of stores) {
      const group = stores.length > 1 ? element("optgroup", { label: store }) : heads;
      for (const head of data.heads.filter((one) => one.group === store)) {
        option(group, head.id, head.id === data.recommended ? `${head.head} (recommended)` : head.head);
      }
      if (group !== heads) heads.append(group);
    }
    heads.value = String(state.head);
    heads.addEventListener("change", () => selectHead(Number(heads.value)));
    for (const [name, items] of [["class", data.classes.map((text, label) => [label, text])], ["split", data.splits.map((text) => [text, text])]]) {
      const select = $(`filter-${name}`);
      option(select, ALL, "all");
      items.forEach(([value, text]) => option(select, value, text));
      select.value = state[name];
      select.addEventListener("change", () => { state[name] = select.value; redraw({ head: name === "class" }); });
    }
    const show = $("filter-show");
    show.addEventListener("change", () => { state.show = show.value; shown.mistakes = PAGE; drawMistakes(); });
    $("mistakes-more").addEventListener("click", () => { shown.mistakes += PAGE; drawMistakes(); });
    $("doubtful-more").addEventListener("click", () => { shown.doubtful += PAGE; drawDoubtful(); });
    document.querySelectorAll(".pick").forEach((button) => button.addEventListener("click", () => {
      selectHead(Number(button.dataset.head));
      $("head").scrollIntoView();
      heads.focus({ preventScroll: true });
    }));
    const matrix = $("matrix-store");
    if (!matrix) return;
    const spaces = [...new Set(data.heads.map((head) => head.space))];
    spaces.forEach((space) => option(matrix, space, space));
    if (spaces.length > 1) option(matrix, ALL, "all");
    else matrix.closest(".controls").hidden = true;
    state.matrix = data.heads[data.recommended].space;
    matrix.value = state.matrix;
    matrix.addEventListener("change", () => { state.matrix = matrix.value; drawVerdicts(); });
  }

  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  document.querySelectorAll("table.sortable").forEach(sortable);
  draw("leaderboard", data.charts.leaderboard, data.leaderboard);
  if (data.heads.length) {
    readHash();
    setUpFilters();
    drawVerdicts();
    redraw();
  }
})();
