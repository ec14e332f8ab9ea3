// The Results tab: numbers by class and region, distributions whose limits are the filters,
// what is missing, checks, and texts to copy.
//
// Names and texts come from models and files, so they are untrusted: textContent only.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 56;
const SEND_EVERY = 90; // ms between two limits while one is dragged
const PATIENCE = 100; // ms after which there is a sign of work

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

function count(value) {
  return Math.round(value).toLocaleString("en");
}

// Three digits, and whole numbers in full.
function number(value) {
  if (value == null) return "–";
  if (Math.abs(value) >= 100) return count(value);
  return String(Number(value.toPrecision(3)));
}

// In a column, zeros at the end are figures, too.
function figure(value) {
  return value && Math.abs(value) >= 0.001 && Math.abs(value) < 100 ? value.toPrecision(3) : number(value);
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1%";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

// One distribution with two handles; a handle at the end of the axis is no limit.
class Chart {
  constructor(kind, title, parent, send) {
    Object.assign(this, { kind, title, send, limits: [null, null], timer: null });
    this.figure = element("figure", "tilevision-distribution", parent);
    this.figure.dataset.kind = kind;
    const caption = element("figcaption", "", this.figure);
    element("span", "tilevision-chart-title", caption, title);
    this.words = element("span", "tilevision-limit-words", caption);
    this.track = element("div", "tilevision-track", this.figure);
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.track);
    this.handles = [0, 1].map((side) => this.handle(side));
    this.axis = element("div", "tilevision-axis", this.figure);
  }

  handle(side) {
    const node = element("div", "tilevision-limit", this.track);
    node.tabIndex = 0;
    node.setAttribute("role", "slider");
    node.setAttribute("aria-label", `${side ? "Greatest" : "Least"} ${this.title.toLowerCase()}`);
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      node.focus({ preventScroll: true });
      node.setPointerCapture(event.pointerId);
      this.held = side;
    });
    node.addEventListener("pointermove", (event) => {
      if (this.held !== side) return;
      const box = this.track.getBoundingClientRect();
      this.put(side, (event.clientX - box.left) / box.width);
    });
    for (const name of ["pointerup", "pointercancel"]) node.addEventListener(name, () => (this.held = null));
    node.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      this.put(side, this.place(side) + steps[event.key]);
    });
    node.addEventListener("dblclick", () => this.put(side, side));
    return node;
  }

  // Where on the axis, 0 to 1, a value lies; and the value at such a place.
  at(value) {
    const { low, high, log } = this.data;
    if (log) return Math.log(Math.max(value, low) / low) / Math.log(high / low);
    return (value - low) / (high - low);
  }

  value(place) {
    const { low, high, log } = this.data;
    const value = log ? low * (high / low) ** place : low + place * (high - low);
    return this.kind === "score" ? Math.round(value * 100) / 100 : Number(value.toPrecision(3));
  }

  place(side) {
    const limit = this.limits[side];
    return limit == null ? side : Math.min(Math.max(this.at(limit), 0), 1);
  }

  put(side, place) {
    const others = this.place(1 - side);
    const inside = side ? Math.max(Math.min(place, 1), others) : Math.min(Math.max(place, 0), others);
    this.limits = [...this.limits];
    this.limits[side] = (side ? inside >= 1 : inside <= 0) ? null : this.value(inside);
    this.mark();
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.send(this.kind, ...this.limits);
    }, SEND_EVERY);
  }

  draw(data, limits) {
    this.figure.hidden = !data?.counts;
    if (this.figure.hidden) return;
    this.data = data;
    if (this.held == null && this.timer == null) this.limits = limits ?? [null, null];
    const most = Math.max(...data.counts, 1);
    const step = WIDTH / data.counts.length;
    this.svg.replaceChildren();
    this.bars = data.counts.map((n, i) => {
      const height = n ? Math.max((HEIGHT - 2) * Math.sqrt(n / most), 2) : 0;
      const bar = shape("rect", { x: i * step + 0.5, y: HEIGHT - height, width: step - 1, height }, this.svg);
      shape("title", {}, bar).textContent = `${count(n)} objects`;
      return bar;
    });
    this.axis.replaceChildren();
    for (const place of [0, 0.5, 1]) {
      const words = number(place === 0 ? data.low : place === 1 ? data.high : this.value(0.5));
      element("span", "", this.axis, place === 1 && data.unit ? `${words} ${data.unit}` : words);
    }
    this.mark();
  }

  mark() {
    const [low, high] = [this.place(0), this.place(1)];
    this.handles[0].style.left = `${100 * low}%`;
    this.handles[1].style.left = `${100 * high}%`;
    this.handles.forEach((node, side) => {
      node.setAttribute("aria-valuemin", this.data.low);
      node.setAttribute("aria-valuemax", this.data.high);
      node.setAttribute("aria-valuenow", this.limits[side] ?? (side ? this.data.high : this.data.low));
    });
    this.bars.forEach((bar, i) => {
      const middle = (i + 0.5) / this.bars.length;
      bar.classList.toggle("tilevision-out", middle < low || middle > high);
    });
    const [least, most] = this.limits;
    const unit = this.data.unit ? ` ${this.data.unit}` : "";
    const between = least != null && most != null ? `${number(least)} to ${number(most)}${unit}` : null;
    this.words.textContent = between ?? (least != null ? `from ${number(least)}${unit}` : most != null ? `to ${number(most)}${unit}` : "all");
  }
}

class View {
  constructor(model, el) {
    this.model = model;
    this.root = element("section", "tilevision-results", el);
    this.root.setAttribute("aria-label", "Results");
    this.note = element("p", "tilevision-empty", this.root);
    this.body = element("div", "", this.root);
    this.head = element("div", "tilevision-answer", this.body);
    this.total = element("div", "tilevision-total", this.head);
    this.under = element("div", "tilevision-under", this.head);
    this.working = element("span", "tilevision-working", this.head, "counting…");
    this.working.setAttribute("role", "status");
    this.working.hidden = true;
    this.classes = element("div", "", this.body);
    const send = (...limit) => this.limit(...limit);
    this.charts = { score: new Chart("score", "Score", this.body, send), area: new Chart("area", "Area", this.body, send) };
    this.regions = element("div", "", this.body);
    this.missing = element("div", "", this.body);
    this.checks = element("div", "", this.body);
    this.texts = element("div", "", this.body);
  }

  limit(kind, low, high) {
    this.model.send({ limit: [kind, low, high] });
    clearTimeout(this.patience);
    this.patience = setTimeout(() => (this.working.hidden = false), PATIENCE);
  }

  redraw() {
    const report = this.model.get("report");
    const there = report.total !== undefined;
    clearTimeout(this.patience);
    this.working.hidden = true;
    this.note.hidden = there;
    this.note.textContent = this.model.get("note") || "Results are shown here once tiles have been analysed.";
    this.body.hidden = !there;
    if (!there) return;
    const objects = report.total === 1 ? "object" : "objects";
    const found = report.map ? report.map.head : `${count(report.total)} ${objects}`;
    const density = report.map ? "" : `${number(report.density)} per ${report.per} of `;
    this.total.textContent = `${found}${report.going ? " so far" : ""}`;
    this.under.textContent = `${density}${report.area} analysed · `;
    element("span", "tilevision-subject", this.under, report.subject); // an id is not cut in two
    this.drawClasses(report);
    if (report.map) this.drawMap(report.map);
    const limits = this.model.get("limits");
    for (const [kind, chart] of Object.entries(this.charts)) chart.draw(this.model.get("charts")[kind], limits[kind]);
    this.drawRegions(report);
    this.drawMissing(report);
    this.drawChecks(report);
    this.drawTexts(report);
  }

  table(parent, heads, rows) {
    const table = element("table", "tilevision-table", element("div", "tilevision-scroll", parent));
    const head = element("tr", "", element("thead", "", table));
    for (const [i, words] of heads.entries()) {
      element("th", i ? "tilevision-number" : "", head, words).scope = "col";
    }
    const body = element("tbody", "", table);
    for (const [name, colour, ...cells] of rows) {
      const line = element("tr", "", body);
      const first = element("td", "", line);
      if (colour) element("span", "tilevision-dot", first).style.background = colour;
      element("bdi", "", first, name);
      for (const words of cells) element("td", "tilevision-number", line, words);
    }
  }

  drawClasses({ classes, more, per }) {
    this.classes.replaceChildren();
    if (!classes.length) return;
    this.table(this.classes, ["Class", "Count", `per ${per}`, "Share"],
      classes.map(([name, colour, n, density, share]) => [name, colour, count(n), figure(density), percent(share)]));
    if (more) element("p", "tilevision-empty", this.classes, `${count(more)} more classes`);
  }

  drawMap({ heads, rows, more }) {
    if (!rows.length) return;
    const cell = (value, i) => (value == null ? "" : heads[i + 1] === "Share" ? percent(value) : number(value));
    this.table(this.classes, heads, rows.map(([name, colour, ...cells]) => [name, colour, ...cells.map(cell)]));
    if (more) element("p", "tilevision-empty", this.classes, `${count(more)} more`);
  }

  drawRegions({ regions, per, unit, map }) {
    this.regions.replaceChildren();
    if (!regions.length || map) return;
    element("h4", "", this.regions, "Regions");
    this.table(this.regions, ["Region", "Count", unit, `per ${per}`, "Analysed"],
      regions.map(([name, n, area, density, share]) => [name, null, count(n), figure(area), figure(density), percent(share)]));
  }

  drawMissing({ missing }) {
    this.missing.replaceChildren();
    if (!missing.length) return;
    element("h4", "", this.missing, "Not analysed");
    for (const words of missing) element("p", "tilevision-finding", this.missing, words);
  }

  drawChecks({ checks }) {
    this.checks.replaceChildren();
    if (!checks.length) return;
    element("h4", "", this.checks, "Checks");
    for (const [well, title, words, advice] of checks) {
      const line = element("p", `tilevision-finding ${well ? "tilevision-well" : "tilevision-amiss"}`, this.checks);
      element("span", "tilevision-mark", line, well ? "✓" : "!").setAttribute("aria-label", well ? "well" : "look at this");
      element("b", "", line, `${title}: `);
      line.append(words);
      if (advice) element("span", "tilevision-advice", line, ` ${advice}`);
    }
  }

  drawTexts({ summary, methods, code }) {
    this.texts.replaceChildren();
    const texts = [["Summary", summary, true, "p"], ["Methods", methods, false, "p"], ["Python", code?.python, false, "pre"], ["Shell", code?.shell, false, "pre"]];
    for (const [title, words, open, tag] of texts) {
      if (!words) continue;
      const details = element("details", "tilevision-text", this.texts);
      details.open = this.opened?.[title] ?? open;
      details.addEventListener("toggle", () => (this.opened = { ...this.opened, [title]: details.open }));
      element("summary", "", details, title);
      const body = element(tag, "", details, words);
      if (title === "Shell") body.replaceChildren(...wholeWords(words));
      const label = tag === "pre" ? `Copy as ${title}` : `Copy ${title.toLowerCase()}`;
      const copy = element("button", "tilevision-button", details, label);
      copy.type = "button";
      copy.addEventListener("click", () => copied(copy, words));
    }
  }
}

// Options of a command as they are written: a line breaks between them, not after their hyphens.
function wholeWords(command) {
  return command.split(/( )/).map((part) => {
    if (part === " ") return part;
    const word = document.createElement("span");
    word.className = "tilevision-whole";
    word.textContent = part;
    return word;
  });
}

// Put text onto the clipboard, and say so on the button for a moment.
async function copied(button, words) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(words);
    button.textContent = "Copied";
  } catch {
    // A page that is not served securely has no clipboard; a selection can be copied by hand.
    const range = document.createRange();
    range.selectNodeContents(button.previousElementSibling);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl C";
  }
  setTimeout(() => (button.textContent = before), 1500);
}

function render({ model, el }) {
  const view = new View(model, el);
  let waiting = false;
  const changed = () => {
    if (waiting) return; // several things change with one message
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      view.redraw();
    });
  };
  const names = ["report", "charts", "limits", "note"];
  for (const name of names) model.on(`change:${name}`, changed);
  view.redraw();
  return () => {
    for (const name of names) model.off(`change:${name}`, changed);
    clearTimeout(view.patience);
  };
}

export default { render };
