// Draws what the tables say, adds local times, and asks for the page again now and then. Without it all pages work.
"use strict";

const UTC = { timeZone: "UTC" };
const COLOURS = 6;
const charts = new Map();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// ---- local times -------------------------------------------------------------------------------------------------

const isUtc = new Date().getTimezoneOffset() === 0;
const zoneOf = (date) =>
  new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(date).find((part) => part.type === "timeZoneName").value;
const dayOf = (date, zone) => new Intl.DateTimeFormat("en-CA", { dateStyle: "short", ...zone }).format(date);
const clockOf = (date, zone) => new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", hourCycle: "h23", ...zone }).format(date);

function localText(date) {
  const day = dayOf(date, {}) === dayOf(date, UTC) ? "" : `${dayOf(date, {})} `;
  return `${day}${clockOf(date, {})} ${zoneOf(date)}`;
}

function addLocalTimes(root) {
  if (isUtc) return;
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.after(element("span", { className: "local", textContent: localText(new Date(time.dateTime)) }));
  }
}

// ---- charts ------------------------------------------------------------------------------------------------------

function read(figure) {
  const heads = [...figure.querySelectorAll("thead th")].slice(1).map((head) => head.textContent);
  const rows = [...figure.querySelectorAll("tbody tr")];
  const starts = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
  const values = heads.map((_, at) => rows.map((row) => Number(row.querySelectorAll("data")[at].value)));
  const open = rows.findIndex((row) => "open" in row.dataset);
  return { heads, starts, values, openFrom: open < 0 ? null : starts[open], step: starts.length > 1 ? starts[1] - starts[0] : 3600 };
}

// Bars are painted over each other: the sum of all first, the first column last.
function layers(table, kind) {
  if (kind !== "stacked") return table.values;
  const sums = [];
  table.values.forEach((column, at) => sums.push(column.map((value, row) => value + (at ? sums[at - 1][row] : 0))));
  return sums.reverse();
}

function hourText(seconds, step) {
  const date = new Date(seconds * 1000);
  const utc = step >= 86400 ? dayOf(date, UTC) : `${dayOf(date, UTC)} ${clockOf(date, UTC).slice(0, 5)}`;
  return `${utc} UTC${isUtc || step >= 86400 ? "" : ` (${localText(date).replace(/(\d\d:\d\d):\d\d/, "$1")})`}`;
}

function say(figure, table, at) {
  const kind = figure.dataset.chart;
  const parts = [element("b", { textContent: hourText(table.starts[at], table.step) })];
  const format = (value) => value.toLocaleString("en-GB", { maximumFractionDigits: 3 }).replaceAll(",", "\u202f");
  table.heads.forEach((head, column) => {
    const chip = kind === "stacked" || column === 0 ? `chip c${column % COLOURS}` : "chip line";
    parts.push(element("span", {}, element("span", { className: chip }), `${head} `, element("b", { textContent: format(table.values[column][at]) })));
  });
  if (table.openFrom !== null && table.starts[at] >= table.openFrom) parts.push(element("span", { textContent: "so far" }));
  figure.querySelector(".readout").replaceChildren(...parts);
}

function options(figure, table, width) {
  const kind = figure.dataset.chart;
  const bars = uPlot.paths.bars({ size: [0.82, 64], gap: 1 });
  const axis = { stroke: colour("dim"), font: "12px system-ui, sans-serif", grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
  const count = table.heads.length;
  const filled = (at) => ({ fill: colour(`c${at % COLOURS}`), width: 0, paths: bars, points: { show: false } });
  const series = kind === "stacked"
    ? table.heads.map((_, at) => filled(count - 1 - at))
    : [filled(0), { stroke: colour("ghost"), width: 1.5, dash: [5, 4], points: { show: false } }];
  const unit = `${figure.dataset.unit}${/^[a-z]/.test(figure.dataset.unit) ? "s" : ""}`;
  return {
    width,
    height: figure.querySelector(".canvas").clientHeight,
    padding: [8, 20, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: { x: { range: (_, low, high) => [low - table.step / 2, high + table.step / 2] }, y: { range: (_, _low, high) => [0, high > 0 ? high * 1.08 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, values: "{YYYY}-{MM}-{DD} {HH}:{mm}", ...ticks(table.step) },
      { ...axis, size: 58, label: unit, labelSize: 16, labelFont: "12px system-ui, sans-serif", labelGap: 0, values: (_, splits) => splits.map((value) => value.toLocaleString("en-GB").replaceAll(",", "\u202f")) },
    ],
    series: [{}, ...series],
    hooks: {
      drawClear: [(plot) => shade(plot, table)],
      setCursor: [(plot) => { if (plot.cursor.idx != null) say(figure, table, plot.cursor.idx); }],
    },
  };
}

function ticks(step) {
  const pad = (number) => String(number).padStart(2, "0");
  return {
    space: 72,
    incrs: [3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 345600, 604800].filter((every) => every >= step),
    values: (_, splits) => splits.map((seconds, at) => {
      const date = new Date(seconds * 1000);
      const day = `${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
      if (step >= 86400 || (splits.length > 1 && splits[1] - splits[0] >= 86400)) return day;
      const clock = `${pad(date.getUTCHours())}:00`;
      return at === 0 || date.getUTCHours() === 0 ? `${clock}\n${day}` : clock;
    }),
    size: 44,
  };
}

// What may still grow is told by a tint behind it.
function shade(plot, table) {
  if (table.openFrom === null || table.openFrom === table.starts[0]) return;
  const left = plot.valToPos(table.openFrom - table.step / 2, "x", true);
  plot.ctx.save();
  plot.ctx.fillStyle = colour("soft");
  plot.ctx.fillRect(left, plot.bbox.top, plot.bbox.left + plot.bbox.width - left, plot.bbox.height);
  plot.ctx.restore();
}

function draw(figure) {
  const table = read(figure);
  if (!table.starts.length || !table.heads.length || typeof uPlot === "undefined") return;
  figure.classList.add("drawn");
  const place = figure.querySelector(".canvas");
  const plot = new uPlot(options(figure, table, place.clientWidth), [table.starts, ...layers(table, figure.dataset.chart)], place);
  const title = figure.querySelector("figcaption").textContent;
  place.removeAttribute("aria-hidden");
  place.tabIndex = 0;
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `${title}: a chart; arrow keys read it, the table below says the same`);
  place.setAttribute("aria-describedby", `${figure.id}-readout`);
  let at = table.starts.length - 1;
  say(figure, table, at);
  place.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: table.starts.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    at = Math.min(Math.max(moves[event.key], 0), table.starts.length - 1);
    plot.setCursor({ left: plot.valToPos(table.starts[at], "x"), top: 10 });
    say(figure, table, at);
  });
  place.addEventListener("blur", () => plot.setCursor({ left: -10, top: -10 }));
  charts.set(figure, plot);
}

function drawAll() {
  for (const [figure, plot] of charts) {
    if (!figure.isConnected) { plot.destroy(); charts.delete(figure); }
  }
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    if (!charts.has(figure)) draw(figure);
  }
}

function drawAnew() {
  for (const [figure, plot] of [...charts]) { plot.destroy(); charts.delete(figure); draw(figure); }
}

// ---- live refresh ------------------------------------------------------------------------------------------------

const main = document.getElementById("main");
const pause = document.getElementById("pause");
const trouble = document.getElementById("trouble");
const everyMs = Number(main.dataset.refresh || 0) * 1000;
const sources = new Map();
let failures = 0;

const remember = (root) => root.querySelectorAll("[data-live]").forEach((part) => sources.set(part.id, part.innerHTML));

function isInUse(part) {
  const selection = getSelection();
  return part.contains(document.activeElement) && document.activeElement.matches("input, .canvas")
    || (!selection.isCollapsed && part.contains(selection.anchorNode));
}

function replace(part, fresh) {
  if (sources.get(part.id) === fresh.innerHTML || isInUse(part)) return;
  sources.set(part.id, fresh.innerHTML);
  const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
  const scrolled = [...part.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
  const focused = part.contains(document.activeElement) ? [...part.querySelectorAll("a, button, summary, [tabindex]")].indexOf(document.activeElement) : -1;
  part.replaceChildren(...document.importNode(fresh, true).childNodes);
  open.forEach((id) => { const one = document.getElementById(id); if (one) one.open = true; });
  part.querySelectorAll(".scroll").forEach((one, at) => { if (scrolled[at]) [one.scrollLeft, one.scrollTop] = scrolled[at]; });
  addLocalTimes(part);
  if (focused >= 0) part.querySelectorAll("a, button, summary, [tabindex]")[focused]?.focus({ preventScroll: true });
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store", redirect: "manual" });
  if (answer.type === "opaqueredirect" || answer.status === 401) { location.reload(); return; }
  if (!answer.ok) throw new Error(`the console answered ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other) replace(part, other);
  }
  drawAll();
}

async function turn() {
  if (!document.hidden && pause.getAttribute("aria-pressed") !== "true") {
    try {
      await refresh();
      failures = 0;
      trouble.hidden = true;
    } catch (error) {
      failures += 1;
      const since = document.querySelector("#asof time");
      trouble.textContent = `Not updated since ${since ? since.textContent : "it was loaded"}: ${error.message}. Trying again.`;
      trouble.hidden = false;
    }
  }
  setTimeout(turn, everyMs * Math.min(2 ** failures, 12));
}

// ---- begin -------------------------------------------------------------------------------------------------------

remember(document);
addLocalTimes(document);
drawAll();
if (!isUtc) document.getElementById("zone").textContent = `, with local times beside them (${zoneOf(new Date())})`;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAnew);
new ResizeObserver(() => {
  for (const [figure, plot] of charts) {
    const place = figure.querySelector(".canvas");
    if (place.clientWidth && place.clientWidth !== plot.width) plot.setSize({ width: place.clientWidth, height: place.clientHeight });
  }
}).observe(main);
if (everyMs) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Paused" : "Pause";
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && pause.getAttribute("aria-pressed") !== "true") refresh().catch(() => {}); });
  setTimeout(turn, everyMs);
}
