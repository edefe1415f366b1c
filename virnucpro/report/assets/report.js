// The report: reads the packed columns at the end of the page and draws from them. Text goes into the page as text
// (textContent), never as HTML: ids and notes are whatever stands in the user's files.
"use strict";

const COLORS = { virus: "#d55e00", mixed: "#e69f00", other: "#0072b2", not_scored: "#9aa3ab" };
const [VIRUS, MIXED, OTHER, NOT_SCORED] = [0, 1, 2, 3];
const NO_SCORE = 0xffff;
const NO_FRAME = 7;
const SCORES = 1000; // thousandths that scores are counted by
const ROW = 28; // pixels of a row of the table; as in the style
const BINS = 50; // bars of the histogram
const PARTS = 20; // sequences that are viral in part, before "show all"

const byId = (id) => document.getElementById(id);
const integer = (n) => n.toLocaleString("en-US");
const count = (n, noun) => `${integer(n)} ${noun}${n === 1 ? "" : "s"}`;
const plain = (verdict) => verdict.replace("_", " ");

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function bases(n) {
  if (n >= 1e6) return `${(n / 1e6).toFixed(2)} Mb`;
  return n >= 1e4 ? `${(n / 1e3).toFixed(1)} kb` : `${integer(n)} bp`;
}

// ---------------------------------------------------------------- Data

async function unpack() {
  const text = atob(byId("data").textContent.trim());
  const packed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const size = new DataView(buffer).getUint32(0, true);
  const data = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const kinds = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
  let place = 4 + size;
  for (const [name, [kind, length]] of Object.entries(data.columns)) {
    const width = kinds[kind].BYTES_PER_ELEMENT;
    data[name] = new kinds[kind](together(new Uint8Array(buffer, place, width * length), width));
    place += width * length;
  }
  data.firstWindow = offsets(data.tracks);
  data.firstRegion = offsets(data.regions);
  return data;
}

// Numbers whose lowest bytes come first, then the next ones, and so on.
function together(planes, width) {
  const found = new Uint8Array(planes.length);
  const length = planes.length / width;
  for (let k = 0; k < planes.length; k++) found[(k % length) * width + Math.floor(k / length)] = planes[k];
  return found.buffer;
}

function offsets(counts) {
  const found = new Uint32Array(counts.length + 1);
  counts.forEach((n, i) => (found[i + 1] = found[i] + n));
  return found;
}

function windowsOf(data, i) {
  const found = [];
  let start = 0;
  for (let j = data.firstWindow[i]; j < data.firstWindow[i + 1]; j++) {
    start += data.step[j];
    const value = data.value[j];
    const scored = value !== NO_SCORE;
    const frames = data.frames ? data.frames[j] : NO_FRAME << 6;
    found.push({
      start, end: start + data.size[j], score: scored ? (value >> 1) / SCORES : null, viral: scored && (value & 1) === 1,
      frames: data.frameNames.filter((_, k) => (frames >> k) & 1), best: data.frameNames[frames >> 6],
    });
  }
  return found;
}

function regionsOf(data, i) {
  const found = [];
  for (let j = data.firstRegion[i]; j < data.firstRegion[i + 1]; j++) {
    found.push({
      start: data.start[j], end: data.end[j], score: data.region_score[j],
      scored: data.region_scored[j], viral: data.region_viral[j],
    });
  }
  return found;
}

// ---------------------------------------------------------------- Figures

const AXIS = { stroke: "#5f6b76", font: "12px system-ui, sans-serif", grid: { stroke: "#eef0f1", width: 1 }, ticks: { show: false } };

// A figure with axes, in which `draw` paints; x and y: { range, splits, values, label }.
function figure(target, height, x, y, draw, more = {}) {
  const made = new uPlot({
    width: target.clientWidth, height, padding: [10, 30, 0, 0],
    legend: { show: false },
    cursor: { points: { show: false }, y: false, x: Boolean(more.zoom), drag: { x: Boolean(more.zoom), y: false } },
    scales: { x: { time: false, range: more.zoom ? (_, low, high) => [low, high] : x.range }, y: { range: y.range } },
    axes: [
      { ...AXIS, size: 30, label: x.label, labelSize: 20, labelFont: AXIS.font, splits: x.splits, values: x.values, space: 70 },
      { ...AXIS, size: y.size ?? 46, label: y.label, labelSize: 18, labelFont: AXIS.font, splits: y.splits, values: y.values },
    ],
    series: [{}, { paths: () => null, points: { show: false } }],
    hooks: { draw: [draw], ...more.hooks },
  }, [x.range, [y.range[0], y.range[1]]], target);
  new ResizeObserver(() => target.clientWidth && made.setSize({ width: target.clientWidth, height })).observe(target);
  return made;
}

const pixel = (u, x, y) => [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];

function withinPlot(u, paint) {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left, top, width, height);
  u.ctx.clip();
  paint(u.ctx);
  u.ctx.restore();
}

function dashed(u, from, ...rest) {
  u.ctx.strokeStyle = "#1d2730";
  u.ctx.lineWidth = devicePixelRatio;
  u.ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
  u.ctx.beginPath();
  u.ctx.moveTo(...from);
  for (const to of rest) u.ctx.lineTo(...to);
  u.ctx.stroke();
}

// ---------------------------------------------------------------- What to trust

function trust(data, select) {
  const ofVerdict = (v, k) => data.scores[v * (SCORES + 1) + k];
  const slider = byId("threshold");
  const { byLength } = data.thresholds;
  const single = byLength.length === 1 ? byLength[0][1] : null;
  const middle = byLength[byLength.length >> 1][1] * SCORES;
  let threshold = null; // as in the run, where it may depend on the length

  const bars = Array.from({ length: BINS }, () => [0, 0, 0]);
  for (let k = 0; k <= SCORES; k++) {
    const bar = bars[Math.min(BINS - 1, Math.floor((k * BINS) / SCORES))];
    for (const verdict of [VIRUS, MIXED, OTHER]) bar[verdict] += ofVerdict(verdict, k);
  }
  const height = (n) => Math.log10(1 + n);
  const most = Math.max(1, ...bars.map((bar) => bar[0] + bar[1] + bar[2]));
  const ticks = (most < 30 ? [0, 1, 2, 5, 10, 20] : [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7]).filter((n) => n <= most);

  function drawBars(u) {
    withinPlot(u, (ctx) => {
      bars.forEach((bar, k) => {
        const whole = bar[VIRUS] + bar[OTHER];
        const viral = threshold === null ? bar[VIRUS] : (k + 0.5) / BINS >= threshold ? whole : 0;
        drawBar(u, k, 0, whole - viral, COLORS.other);
        drawBar(u, k, whole - viral, whole, COLORS.virus);
        drawBar(u, k, whole, whole + bar[MIXED], COLORS.mixed);
      });
      const line = threshold ?? single;
      if (line !== null) dashed(u, pixel(u, line, 0), pixel(u, line, height(most) * 2));
    });
  }

  function drawBar(u, k, from, to, color) {
    if (to === from) return;
    const [left, top] = pixel(u, k / BINS, height(to));
    const [right, bottom] = pixel(u, (k + 1) / BINS, height(from));
    u.ctx.fillStyle = color;
    u.ctx.fillRect(left + 1, top, right - left - 2, bottom - top);
  }

  const score = { range: [0, 1], splits: () => [0, 0.2, 0.4, 0.6, 0.8, 1] };
  const histogram = figure(byId("histogram"), 240, { ...score, label: "score" }, {
    range: [0, height(most) * 1.06 + 0.02], label: "sequences, log scale",
    splits: () => ticks.map(height), values: () => ticks.map((n) => (n >= 1e4 ? `${n / 1e3}k` : integer(n))),
  }, drawBars);
  const moveLine = scatterPlot(data, score, () => threshold, select);

  function falseCalls(t) {
    const { share } = data.discovery;
    let sum = 0;
    for (let k = Math.ceil(t * SCORES); k <= SCORES; k++) {
      const p = Math.min(1 - 1e-6, (k + 0.5) / (SCORES + 1));
      const odds = ((p / (1 - p)) * share) / (1 - share);
      sum += (ofVerdict(VIRUS, k) + ofVerdict(OTHER, k)) / (1 + odds);
    }
    return sum;
  }

  function words() {
    if (threshold === null) {
      const known = data.discovery ? `, of which ${data.discovery.expected_false.toFixed(1)} are expected to be false` : "";
      return [`As in the run: ${count(data.verdicts[VIRUS], "sequence")} called virus${known}.`];
    }
    let called = 0;
    for (let k = Math.ceil(threshold * SCORES); k <= SCORES; k++) called += ofVerdict(VIRUS, k) + ofVerdict(OTHER, k);
    const change = called - data.verdicts[VIRUS];
    const known = data.discovery ? `, of which about ${falseCalls(threshold).toFixed(1)} are expected to be false` : "";
    const signed = change ? ` (${change > 0 ? "+" : "−"}${integer(Math.abs(change))})` : "";
    return [
      `At ${threshold.toFixed(3)}: ${count(called, "sequence")} would be called virus${signed}${known}. To apply it to the files, run the same command again with `,
      element("code", { textContent: `--min-score ${threshold.toFixed(3)} --report` }), ", which takes seconds.",
    ];
  }

  function show() {
    byId("at").textContent = threshold !== null ? threshold.toFixed(3) : single === null ? "by length" : String(single);
    byId("counts").replaceChildren(...words());
    histogram.redraw();
    moveLine();
  }

  slider.addEventListener("input", () => { threshold = slider.valueAsNumber / SCORES; show(); });
  byId("as-run").addEventListener("click", () => { threshold = null; slider.value = middle; show(); });
  slider.value = middle;
  show();
}

function scatterPlot(data, score, threshold, select) {
  const scored = [...data.verdict.keys()].filter((i) => data.verdict[i] !== NOT_SCORED).sort((a, b) => data.verdict[b] - data.verdict[a]);
  const cells = [];
  data.density?.forEach((n, k) => n && cells.push([Math.floor(k / 50), k % 50, n]));
  const lengths = [...scored.map((i) => data.length[i]), ...cells.map(([octave]) => 2 ** (octave / 4))];
  const shortest = lengths.reduce((a, b) => Math.min(a, b), 1000);
  const longest = lengths.reduce((a, b) => Math.max(a, b), 1000);
  const x = Float32Array.from(data.length, (n) => Math.log10(Math.max(1, n)));
  const ticks = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
  const lengthOf = (n) => (n < 1e3 ? `${n} bp` : n < 1e6 ? `${n / 1e3} kb` : `${n / 1e6} Mb`);
  const dot = scored.length > 5000 ? 2 : scored.length > 500 ? 3.5 : 7;

  function draw(u) {
    withinPlot(u, (ctx) => {
      const most = cells.reduce((a, cell) => Math.max(a, cell[2]), 1);
      ctx.fillStyle = COLORS.other;
      for (const [octave, k, n] of cells) {
        const [left, top] = pixel(u, Math.log10(2) * octave / 4, (k + 1) / 50);
        const [right, bottom] = pixel(u, Math.log10(2) * (octave + 1) / 4, k / 50);
        ctx.globalAlpha = 0.08 + 0.62 * (Math.log(1 + n) / Math.log(1 + most));
        ctx.fillRect(left, top, right - left, bottom - top);
      }
      ctx.globalAlpha = dot === 2 ? 0.5 : 0.75;
      const size = dot * devicePixelRatio;
      for (const i of scored) {
        const [left, top] = pixel(u, x[i], data.score[i]);
        ctx.fillStyle = COLORS[data.verdictNames[data.verdict[i]]];
        if (dot > 3) { ctx.beginPath(); ctx.arc(left, top, size / 2, 0, 7); ctx.fill(); }
        else ctx.fillRect(left - size / 2, top - size / 2, size, size);
      }
      ctx.globalAlpha = 1;
      const { byLength } = data.thresholds;
      const corners = byLength.map(([n, t]) => pixel(u, Math.log10(n), t));
      dashed(u, [u.bbox.left, corners[0][1]], ...corners, [u.bbox.left + u.bbox.width, corners.at(-1)[1]]);
    });
    mark(u);
  }

  // The line of the slider is no part of the drawing: to draw 100,000 points again would make it slow.
  const line = element("div", { className: "line" });
  const mark = (u) => {
    line.hidden = threshold() === null;
    line.style.top = `${u.valToPos(threshold() ?? 0, "y")}px`;
  };

  const low = Math.log10(Math.max(1, shortest)) - 0.1;
  const made = figure(byId("scatter"), 240, {
    range: [low, Math.log10(longest) + 0.1], label: "length",
    splits: (_, axis, min, max) => ticks.map(Math.log10).filter((n) => min <= n && n <= max),
    values: (_, splits) => splits.map((n) => lengthOf(Math.round(10 ** n))),
  }, { ...score, range: [-0.03, 1.03], label: "score" }, draw);

  made.over.append(line);
  made.over.addEventListener("click", (event) => {
    const box = made.over.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let [nearest, least] = [null, 12 ** 2];
    for (const i of scored) {
      const far = (made.valToPos(x[i], "x") - left) ** 2 + (made.valToPos(data.score[i], "y") - top) ** 2;
      if (far <= least) [nearest, least] = [i, far];
    }
    if (nearest !== null) select(nearest);
  });
  return () => mark(made);
}

// ---------------------------------------------------------------- The table

function table(data, show) {
  const share = (n) => (Number.isNaN(n) ? "" : n < 0.001 ? "< 0.1%" : `${(100 * n).toFixed(1)}%`);
  const columns = [
    { name: "#", number: true, of: data.number, text: (i) => integer(data.number[i]) },
    { name: "id", of: data.ids, text: (i) => data.ids[i] },
    { name: "length", number: true, of: data.length, text: (i) => integer(data.length[i]) },
    { name: "verdict", of: data.verdict, text: (i) => verdictOf(i) },
    { name: "score", number: true, of: data.score, text: (i) => (Number.isNaN(data.score[i]) ? "" : data.score[i].toFixed(3)) },
    { name: "false pos.", number: true, of: data.rate, text: (i) => share(data.rate[i]),
      title: "Share of non-viral sequences of this length that reach the threshold" },
    { name: "viral windows", number: true, of: data.viral, text: (i) => `${integer(data.viral[i])} of ${integer(data.scored[i])}` },
    { name: "regions, best", number: true, of: data.regions, text: (i) => (data.regions[i] ? `${integer(data.regions[i])}, ${bestRegion(i)}` : ""),
      title: "Viral regions, and the highest of their scores" },
    { name: "note", of: data.note, text: (i) => data.notes[data.note[i]] },
  ];
  const bestRegion = (i) => regionsOf(data, i).reduce((most, r) => Math.max(most, r.score), 0).toFixed(3);
  const verdictOf = (i) => {
    const name = data.verdictNames[data.verdict[i]];
    return [element("span", { className: `dot ${name}` }), plain(name)];
  };
  const names = data.ids.map((id) => id.toLowerCase());
  const notes = data.notes.map((note) => note.toLowerCase());
  const wanted = new Set([VIRUS, MIXED, OTHER, NOT_SCORED]);
  const best = [...data.verdict.keys()].sort((a, b) => data.verdict[a] - data.verdict[b] || data.score[b] - data.score[a] || a - b);
  const [rows, visible] = [byId("rows"), byId("visible")];
  let [matching, selected, sorted, direction] = [best, null, null, 1];

  function match() {
    const find = byId("find").value.toLowerCase();
    const shortest = byId("shortest").valueAsNumber || 0;
    const lowest = byId("lowest").valueAsNumber || 0;
    matching = (sorted ? inOrder() : best).filter((i) => wanted.has(data.verdict[i]) && data.length[i] >= shortest
      && (lowest === 0 || data.score[i] >= lowest) && (names[i].includes(find) || notes[data.note[i]].includes(find)));
    byId("matches").textContent = matching.length === data.ids.length
      ? count(matching.length, "sequence") : `${integer(matching.length)} of ${count(data.ids.length, "sequence")}`;
    byId("spacer").style.height = `${matching.length * ROW}px`;
    rows.style.height = `${ROW * Math.min(13, Math.max(3, data.ids.length))}px`;
    rows.scrollTop = 0;
    render();
  }

  function inOrder() {
    const last = (value) => value === "" || Number.isNaN(value);
    const values = sorted.of === data.note ? Array.from(data.note, (n) => data.notes[n]) : sorted.of;
    return [...best].sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (last(x) || last(y)) return last(x) - last(y) || a - b;
      return x < y ? -direction : x > y ? direction : a - b;
    });
  }

  function render() {
    const first = Math.max(0, Math.floor(rows.scrollTop / ROW) - 4);
    const shown = matching.slice(first, first + Math.ceil(rows.clientHeight / ROW) + 8);
    visible.style.transform = `translateY(${first * ROW}px)`;
    visible.replaceChildren(...shown.map(rowOf));
  }

  function rowOf(i) {
    const row = element("div", { className: "row", onclick: () => select(i) });
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", i === selected);
    for (const column of columns) {
      const cell = element("span", { className: column.number ? "number" : "" });
      cell.append(...[column.text(i)].flat());
      if (column.name === "id" || column.name === "note") cell.title = column.text(i);
      row.append(cell);
    }
    return row;
  }

  function select(i, scroll = false) {
    selected = i;
    const place = matching.indexOf(i);
    if (place >= 0) {
      const above = place * ROW < rows.scrollTop;
      if (above || (place + 1) * ROW > rows.scrollTop + rows.clientHeight) rows.scrollTop = Math.max(0, place * ROW - (above ? 0 : rows.clientHeight - ROW));
    }
    render();
    show(i);
    if (scroll) byId("sequence").scrollIntoView({ block: "nearest" });
  }

  function sortBy(column) {
    if (sorted === column) direction = -direction;
    else [sorted, direction] = [column, column.number && column.name !== "#" ? -1 : 1];
    for (const button of byId("columns").children) button.removeAttribute("aria-sort");
    byId("columns").children[columns.indexOf(column)].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    match();
  }

  byId("columns").append(...columns.map((column) => element("button", {
    type: "button", className: column.number ? "number" : "", textContent: column.name, title: column.title ?? "", onclick: () => sortBy(column),
  })));
  byId("chips").append(...data.verdictNames.map((name, verdict) => {
    const chip = element("button", { type: "button" }, element("span", { className: `dot ${name}` }), plain(name));
    chip.setAttribute("aria-pressed", true);
    chip.addEventListener("click", () => {
      if (!wanted.delete(verdict)) wanted.add(verdict);
      chip.setAttribute("aria-pressed", wanted.has(verdict));
      match();
    });
    return chip;
  }));
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["find", "shortest", "lowest"]) byId(id).addEventListener("input", match);
  rows.addEventListener("scroll", render);
  rows.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = matching[matching.indexOf(selected) + step];
    if (step === undefined) return;
    event.preventDefault();
    if (next !== undefined) select(next);
  });
  byId("copy-ids").addEventListener("click", (event) => copy(matching.map((i) => data.ids[i]).join("\n"), event.target));
  byId("save-csv").addEventListener("click", () => save(`${data.prefix}.selection.csv`, csv(data, matching), "text/csv"));
  match();
  return { select, first: best[0] };
}

function csv(data, selection) {
  const six = (value) => (Number.isNaN(value) ? "" : value.toFixed(6));
  // A spreadsheet would compute a cell that begins like a formula: an apostrophe keeps it text.
  const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const head = ["number", "sequence_id", "length", "verdict", "score", "threshold", "false_positive_rate", "windows",
    "windows_scored", "windows_viral", "regions", "input", "record", "note"];
  const lines = selection.map((i) => [
    data.number[i], data.ids[i], data.length[i], data.verdictNames[data.verdict[i]], six(data.score[i]), six(data.threshold[i]),
    six(data.rate[i]), data.windows[i], data.scored[i], data.viral[i], data.regions[i], data.inputs[data.input[i]], data.record[i],
    data.notes[data.note[i]],
  ]);
  return [head, ...lines].map((line) => line.map(cell).join(",") + "\r\n").join("");
}

// ---------------------------------------------------------------- One sequence

// What is drawn of a sequence, in bases and scores: { from, to, low, high } is filled, { from, to, y } is a thick line.
function marks(data, windows, regions) {
  const lane = (name) => -0.18 - 0.075 * data.frameNames.indexOf(name);
  const found = regions.map((r) => ({ from: r.start, to: r.end, low: 0, high: 1, color: COLORS.mixed, alpha: 0.18 }));
  for (const w of windows) {
    const color = w.viral ? COLORS.virus : w.score === null ? COLORS.not_scored : COLORS.other;
    found.push({ from: w.start, to: w.end, y: w.score ?? -0.06, color, alpha: 1 });
    for (const name of w.frames) found.push({ from: w.start, to: w.end, y: lane(name), color: name === w.best ? color : "#c3cad0", alpha: 1 });
  }
  return found;
}

function yAxis(data) {
  const lanes = data.frames ? data.frameNames.map((_, k) => -0.18 - 0.075 * k) : [];
  const names = new Map([[0, "0"], [0.5, "0.5"], [1, "1"], ...lanes.map((y, k) => [y, data.frameNames[k]])]);
  return { range: [lanes.length ? -0.62 : -0.12, 1.05], splits: () => [...names.keys()], values: () => [...names.values()], label: "window score" };
}

function sequenceView(data) {
  const target = byId("track");
  const y = yAxis(data);
  let [current, plot, windows, regions] = [null, null, [], []];

  function draw(u) {
    withinPlot(u, (ctx) => {
      const thick = 3 * devicePixelRatio;
      for (const mark of marks(data, windows, regions)) {
        if (mark.to < u.scales.x.min || mark.from > u.scales.x.max) continue;
        const [left, top] = pixel(u, mark.from, mark.high ?? mark.y);
        const [right, bottom] = pixel(u, mark.to, mark.low ?? mark.y);
        ctx.fillStyle = mark.color;
        ctx.globalAlpha = mark.alpha;
        if (mark.y === undefined) ctx.fillRect(left, top, Math.max(right - left, thick), bottom - top);
        else ctx.fillRect(left, top - thick / 2, Math.max(right - left - 1, thick / 2), thick);
      }
      ctx.globalAlpha = 1;
      const [, line] = pixel(u, 0, data.thresholds.window);
      dashed(u, [u.bbox.left, line], [u.bbox.left + u.bbox.width, line]);
    });
  }

  function tell(u) {
    const at = u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : -1;
    const k = windows.findIndex((w) => w.start <= at && at < w.end);
    byId("under").textContent = k < 0 ? hint() : describe(windows[k], k);
  }

  const hint = () => (windows.length ? "Drag over a part to zoom in; a double click shows the whole sequence. The dashed line is the threshold of windows." : "");

  function describe(w, k) {
    const score = w.score === null ? "no score" : `score ${w.score.toFixed(3)}, ${w.viral ? "viral" : "not viral"}`;
    const frames = w.frames.length ? ` · open frames ${w.frames.join(" ")}${w.best ? `, best ${w.best}` : ""}` : "";
    return `window ${k + 1}, bases ${integer(w.start + 1)} to ${integer(w.end)}: ${score}${frames}`;
  }

  function facts(i) {
    const score = Number.isNaN(data.score[i]) ? "no score" : `score ${data.score[i].toFixed(3)} (threshold ${data.threshold[i].toFixed(3)})`;
    return [
      plain(data.verdictNames[data.verdict[i]]), bases(data.length[i]), score,
      `${integer(data.viral[i])} of ${count(data.scored[i], "scored window")} viral`, count(data.regions[i], "viral region"),
      `record ${integer(data.record[i])} of ${data.inputs[data.input[i]]}`,
    ].join(" · ");
  }

  function show(i) {
    [current, windows, regions] = [i, windowsOf(data, i), regionsOf(data, i)];
    byId("name").textContent = data.ids[i];
    byId("about").textContent = facts(i);
    byId("note").textContent = data.notes[data.note[i]];
    byId("note").hidden = data.note[i] === 0;
    plot?.destroy();
    plot = null;
    const drawn = windows.length > 0;
    target.hidden = byId("zoom-out").hidden = byId("save-svg").hidden = !drawn;
    byId("under").textContent = drawn ? hint() : data.windows[i] ? "Its windows are left out of this page; they are in the table of windows." : "It has no windows.";
    const values = (_, ticks) => ticks.map((n) => integer(n));
    if (drawn) {
      plot = figure(target, data.frames ? 330 : 250, { range: [0, data.length[i]], label: "base", values }, y, draw, { zoom: true, hooks: { setCursor: [tell] } });
    }
    byId("regions").replaceChildren(...regions.map((r) => element("button", {
      type: "button", onclick: () => zoom(r.start, r.end), title: "Zoom to this region",
      textContent: `${integer(r.start + 1)}–${integer(r.end)} · ${bases(r.end - r.start)} · score ${r.score.toFixed(3)} · ${integer(r.viral)} of ${count(r.scored, "window")} viral`,
    })));
  }

  function zoom(start, end) {
    const edge = (end - start) * 0.1;
    plot?.setScale("x", { min: Math.max(0, start - edge), max: Math.min(data.length[current], end + edge) });
  }

  byId("zoom-out").addEventListener("click", () => zoom(0, data.length[current]));
  byId("save-svg").addEventListener("click", () => {
    const { min, max } = plot.scales.x;
    const drawing = svg(data, data.ids[current], facts(current), marks(data, windows, regions), [min, max], y);
    const name = data.ids[current].replace(/[^A-Za-z0-9.-]+/g, "_").slice(0, 60);
    save(`${data.number[current]}_${name}.svg`, new XMLSerializer().serializeToString(drawing), "image/svg+xml");
  });
  return show;
}

// The same as a drawing of lines and text, for a paper.
function svg(data, name, about, drawn, [low, high], y) {
  const [width, height, left, right, top, bottom] = [960, data.frames ? 400 : 310, 60, 20, 60, 50];
  const x = (base) => left + ((base - low) / (high - low)) * (width - left - right);
  const at = (score) => top + ((y.range[1] - score) / (y.range[1] - y.range[0])) * (height - top - bottom);
  const make = (tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "\ufffd"); // what XML cannot hold
    return made;
  };
  const round = (n) => Math.round(n * 100) / 100;
  const root = make("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height, "font-family": "Helvetica, Arial, sans-serif", "font-size": 12 });
  root.append(make("text", { x: left, y: 24, "font-size": 15, "font-weight": "bold" }, name), make("text", { x: left, y: 44, fill: "#5f6b76" }, about));
  for (const mark of drawn) {
    const [from, to] = [Math.max(low, mark.from), Math.min(high, mark.to)];
    if (to <= from) continue;
    const [high_, low_] = mark.y === undefined ? [at(mark.high), at(mark.low)] : [at(mark.y) - 1.5, at(mark.y) + 1.5];
    root.append(make("rect", { x: round(x(from)), y: round(high_), width: round(Math.max(1, x(to) - x(from))), height: round(low_ - high_), fill: mark.color, "fill-opacity": mark.alpha }));
  }
  const line = (x1, y1, x2, y2, more = {}) => root.append(make("line", { x1: round(x1), y1: round(y1), x2: round(x2), y2: round(y2), stroke: "#1d2730", ...more }));
  line(left, at(data.thresholds.window), width - right, at(data.thresholds.window), { "stroke-dasharray": "5 4" });
  line(left, height - bottom, width - right, height - bottom);
  line(left, top, left, height - bottom);
  y.splits().forEach((value, k) => root.append(make("text", { x: left - 8, y: round(at(value) + 4), "text-anchor": "end" }, y.values()[k])));
  for (const base of nice(low, high)) {
    line(x(base), height - bottom, x(base), height - bottom + 5);
    root.append(make("text", { x: round(x(base)), y: height - bottom + 20, "text-anchor": "middle" }, integer(base)));
  }
  root.append(make("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, "base"));
  root.append(make("text", { transform: `translate(16 ${round(at(0.5))}) rotate(-90)`, "text-anchor": "middle" }, y.label));
  return root;
}

// Round numbers between two, eight or so.
function nice(low, high) {
  const rough = (high - low) / 8;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((n) => n * power >= rough) * power);
  const found = [];
  for (let n = Math.ceil(low / step) * step; n <= high; n += step) found.push(n);
  return found;
}

// ---------------------------------------------------------------- Sequences that are viral in part

function parts(data, select) {
  const target = byId("bars");
  if (!target) return;
  const viralBases = (i) => regionsOf(data, i).reduce((sum, r) => sum + r.end - r.start, 0);
  const mixed = [...data.verdict.keys()].filter((i) => data.verdict[i] === MIXED);
  const found = mixed.map((i) => [i, viralBases(i)]).sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  const longest = mixed.reduce((most, i) => Math.max(most, data.length[i]), 1);
  const percent = (n) => `${(100 * n) / longest}%`;

  function line([i, viral]) {
    const scale = element("div", { className: "scale" }, placed("i", 0, data.length[i], ""));
    for (const r of regionsOf(data, i)) {
      scale.append(placed("b", r.start, r.end, `${integer(r.start + 1)} to ${integer(r.end)}, score ${r.score.toFixed(3)}`));
    }
    const name = element("button", { type: "button", textContent: data.ids[i], title: data.ids[i], onclick: () => select(i) });
    const words = `${bases(viral)} of ${bases(data.length[i])} in ${count(data.regions[i], "region")}`;
    return element("div", { className: "part" }, name, scale, element("span", { className: "quiet", textContent: words }));
  }

  function placed(tag, start, end, title) {
    const made = element(tag, { title });
    made.style.left = percent(start);
    made.style.width = percent(end - start);
    return made;
  }

  const more = byId("more-bars");
  target.append(...found.slice(0, PARTS).map(line));
  more.hidden = found.length <= PARTS;
  more.textContent = `Show all ${integer(found.length)}`;
  more.addEventListener("click", () => { target.append(...found.slice(PARTS).map(line)); more.hidden = true; });
}

// ---------------------------------------------------------------- Copying and saving

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission: the old way
    const field = element("textarea", { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.dataset.label ??= button.textContent; // a second click may come before it is back
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = button.dataset.label; }, 1200);
}

function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// ---------------------------------------------------------------- All of it

async function start() {
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.addEventListener("click", () => copy(byId(button.dataset.copies).textContent, button));
  }
  const data = await unpack();
  const list = table(data, sequenceView(data));
  const go = (i) => list.select(i, true);
  trust(data, go);
  parts(data, go);
  if (list.first === undefined) byId("sequence").hidden = true;
  else list.select(list.first);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  const trouble = byId("trouble");
  trouble.hidden = false;
  trouble.textContent = typeof DecompressionStream === "undefined"
    ? "This browser is too old for the figures and the table below; any of 2023 or later shows them."
    : `The figures and the table cannot be shown: ${error.message}`;
  throw error;
});
