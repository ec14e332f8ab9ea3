// The Tiles tab: a chart of speed over time, and the tiles that need a look.
//
// Errors and ids come from models and files, so they are untrusted: textContent only.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 64;

function element(tag, className, parent, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

function shape(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

function seconds(value) {
  if (value == null) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 100 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`;
}

function rate(value) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)}`;
}

// A line through the values that there are; gaps stay gaps.
function path(values, top) {
  const step = WIDTH / Math.max(values.length - 1, 1);
  let pen = "M";
  const parts = [];
  values.forEach((value, i) => {
    if (value == null) {
      pen = "M";
      return;
    }
    const y = HEIGHT - 2 - ((HEIGHT - 6) * value) / top;
    parts.push(`${pen}${(i * step).toFixed(1)} ${y.toFixed(1)}`);
    if (pen === "M") parts.push(`h0.01`); // a lone point shows as a dot
    pen = "L";
  });
  return parts.join(" ");
}

function chart(parent, title, lines, words) {
  const figure = element("figure", "tilevision-chart", parent);
  const caption = element("figcaption", "", figure);
  element("span", "tilevision-chart-title", caption, title);
  for (const line of lines) {
    const key = element("span", `tilevision-key tilevision-${line.name}`, caption);
    key.textContent = line.words;
  }
  const top = Math.max(...lines.flatMap((line) => line.values.filter((v) => v != null)), 1e-9);
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words }, figure);
  for (const share of [0.5, 1]) {
    const y = HEIGHT - 2 - (HEIGHT - 6) * share;
    shape("line", { x1: 0, x2: WIDTH, y1: y, y2: y, class: "tilevision-grid-line" }, svg);
  }
  for (const line of lines) {
    if (line.area) {
      const step = WIDTH / Math.max(line.values.length - 1, 1);
      const points = line.values.map((v, i) => `${(i * step).toFixed(1)} ${(HEIGHT - 2 - ((HEIGHT - 6) * v) / top).toFixed(1)}`);
      shape("path", { d: `M0 ${HEIGHT} L${points.join(" L")} L${WIDTH} ${HEIGHT} Z`, class: `tilevision-area tilevision-${line.name}` }, svg);
    }
    shape("path", { d: path(line.values, top), class: `tilevision-line tilevision-${line.name}` }, svg);
  }
  return figure;
}

function drawThroughput(parent, speed) {
  parent.replaceChildren();
  if (!speed.rate) {
    element("p", "tilevision-empty", parent, "The speed is shown once tiles have been analysed.");
    return;
  }
  const [median, p95] = speed.overall ?? [null, null];
  const most = Math.max(...speed.rate);
  const span = speed.width * speed.rate.length;
  chart(parent, "Tiles per second", [{ name: "rate", values: speed.rate, area: true, words: `up to ${rate(most)}` }],
    `Throughput over ${seconds(span)}, up to ${rate(most)} tiles per second`);
  chart(parent, "Seconds per tile", [
    { name: "p95", values: speed.p95, words: `p95 ${seconds(p95)}` },
    { name: "median", values: speed.median, words: `median ${seconds(median)}` },
  ], `Latency: median ${seconds(median)}, 95th percentile ${seconds(p95)}`);
  const axis = element("div", "tilevision-axis", parent);
  element("span", "", axis, "start");
  element("span", "", axis, seconds(span));
}

const COLUMNS = [
  ["Tile", 1], ["Why", 2], ["Time", 3], ["Attempts", 4], ["Found", 5],
];

class List {
  constructor(model, root) {
    this.model = model;
    this.column = null;
    this.down = false;
    this.words = element("p", "tilevision-empty", root);
    this.scroll = element("div", "tilevision-scroll", root);
    this.table = element("table", "tilevision-table", this.scroll);
    const head = element("tr", "", element("thead", "", this.table));
    this.heads = COLUMNS.map(([words, index]) => {
      const cell = element("th", "", head);
      cell.scope = "col";
      const button = element("button", "tilevision-sort", cell, words);
      button.type = "button";
      button.addEventListener("click", () => this.sort(index));
      return cell;
    });
    this.body = element("tbody", "", this.table);
  }

  sort(index) {
    this.down = this.column === index ? !this.down : index >= 3;
    this.column = index;
    this.draw();
  }

  draw() {
    const { rows = [], counts = {} } = this.model.get("notable");
    const total = Object.values(counts).reduce((sum, n) => sum + n, 0);
    const kinds = Object.entries(counts).map(([kind, n]) => `${n.toLocaleString("en")} ${kind}`);
    this.words.textContent = total ? kinds.join(", ") : "No tile failed, was throttled, is saturated or was slow.";
    if (total > rows.length && rows.length >= 300) this.words.textContent += ` (the first ${rows.length} are listed)`;
    this.scroll.hidden = !rows.length;
    this.heads.forEach((cell, i) => {
      const mine = COLUMNS[i][1] === this.column;
      cell.setAttribute("aria-sort", mine ? (this.down ? "descending" : "ascending") : "none");
    });
    const sorted = [...rows];
    if (this.column !== null) {
      const key = (row) => row[this.column] ?? -1;
      sorted.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (this.down ? -1 : 1));
    }
    this.body.replaceChildren(...sorted.flatMap((row) => this.row(row)));
  }

  row([number, id, kind, time, tries, found, error]) {
    const line = document.createElement("tr");
    line.className = `tilevision-row tilevision-is-${kind}`;
    const open = element("button", "tilevision-open", element("td", "", line), id);
    open.type = "button";
    open.title = "Open this tile";
    open.addEventListener("click", (event) => {
      event.stopPropagation();
      this.pick(number);
    });
    line.addEventListener("click", () => this.pick(number));
    element("td", "", line, kind);
    for (const words of [seconds(time), tries || "–", (found ?? "–").toLocaleString("en")]) element("td", "tilevision-number", line, String(words));
    if (!error) return [line];
    const reason = document.createElement("tr");
    reason.className = "tilevision-row tilevision-reason";
    const cell = element("td", "", reason);
    cell.colSpan = COLUMNS.length;
    cell.title = error;
    element("bdi", "", cell, error);
    reason.addEventListener("click", () => this.pick(number));
    return [line, reason];
  }

  pick(number) {
    this.model.set("picked", [number, (this.model.get("picked")[1] ?? 0) + 1]);
    this.model.save_changes();
  }
}

function render({ model, el }) {
  const root = element("div", "tilevision-tilelist", el);
  const speed = element("div", "", root);
  const list = new List(model, root);
  const drawSpeed = () => drawThroughput(speed, model.get("throughput"));
  const drawList = () => list.draw();
  model.on("change:throughput", drawSpeed);
  model.on("change:notable", drawList);
  drawSpeed();
  drawList();
  return () => {
    model.off("change:throughput", drawSpeed);
    model.off("change:notable", drawList);
  };
}

export default { render };
