// The tile inspector: a tile's pixels, its detections, and what is known about it.
//
// Labels, notes and errors come from models, so they are untrusted: textContent only.

const SVG = "http://www.w3.org/2000/svg";
const LISTED = 200;
const ROOM = 0.008; // of a tile's side, around what is marked

function element(tag, className, parent, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

function button(words, title, parent, act) {
  const node = element("button", "tilevision-button", parent, words);
  node.type = "button";
  node.title = title;
  node.addEventListener("click", act);
  return node;
}

function shape(tag, attributes, parent) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.append(node);
  return node;
}

// One rectangle or outline per detection, over a picture whose sides are 1 by 1.
function draw(svg, rows, dashed, onpoint) {
  (rows.boxes ?? []).forEach(([x0, y0, x1, y1], i) => {
    const rings = rows.outlines?.[i] ?? [];
    const d = rings.length
      ? rings.map((ring) => `M${ring.map((point) => point.join(" ")).join("L")}Z`).join("")
      : `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
    for (const edge of [true, false]) {
      const node = shape("path", { d, "vector-effect": "non-scaling-stroke", class: edge ? "tilevision-halo" : "tilevision-box" }, svg);
      if (dashed) node.classList.add("tilevision-dashed");
      if (!edge) {
        node.style.stroke = rows.colours[i];
        node.dataset.row = i;
        node.addEventListener("pointerenter", () => onpoint(i));
        node.addEventListener("pointerleave", () => onpoint(null));
      }
    }
  });
}

function score(value) {
  return value == null ? "–" : value.toFixed(2);
}

class View {
  constructor(model, el) {
    this.model = model;
    this.root = element("section", "tilevision-inspector", el);
    this.root.setAttribute("aria-label", "Tile inspector");
    this.url = null;
  }

  ask(what, which = -1) {
    const requests = (this.model.get("asked")[2] ?? 0) + 1;
    this.model.set("asked", [what, which, requests]);
    this.model.save_changes();
  }

  redraw() {
    const facts = this.model.get("facts");
    this.root.hidden = !facts.id;
    this.marks = null;
    if (!facts.id) return this.root.replaceChildren();
    const chosen = this.menu?.value;
    const focused = this.root.contains(document.activeElement) ? document.activeElement.title : null;
    this.root.replaceChildren();
    this.root.dataset.tile = facts.id;
    this.root.dataset.status = facts.status;
    this.drawHead(facts);
    const body = element("div", "tilevision-inspected", this.root);
    this.drawPicture(element("div", "tilevision-tile", body));
    const side = element("div", "tilevision-facts", body);
    this.drawFacts(side, facts);
    this.drawActions(side, facts, chosen);
    this.drawList(side);
    if (focused) [...this.root.querySelectorAll("button")].find((node) => node.title === focused)?.focus();
  }

  drawHead(facts) {
    const head = element("div", "tilevision-tile-head", this.root);
    const mark = element("span", "tilevision-swatch", head, facts.glyph);
    mark.style.borderColor = mark.style.background = facts.colour;
    mark.setAttribute("aria-hidden", "true");
    element("h3", "", head, `Tile ${facts.id}`);
    element("span", "tilevision-tile-status", head, facts.status);
    button("Close", "Close the inspector", head, () => this.ask("close"));
  }

  drawPicture(parent) {
    if (this.url) URL.revokeObjectURL(this.url);
    const bytes = this.model.get("picture");
    this.url = bytes?.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" })) : null;
    if (!this.url) return element("p", "tilevision-empty", parent, "The pixels of this tile could not be read.");
    const image = element("img", "tilevision-pixels", parent);
    const rows = this.model.get("rows");
    image.alt = `The tile with ${rows.total ?? 0} detections`;
    image.addEventListener("load", () => {
      const { naturalWidth: width, naturalHeight: height } = image;
      const shrink = Math.min(1, 640 / width, 640 / height);
      parent.style.flexBasis = `${Math.max(width * shrink, 240)}px`;
    });
    image.src = this.url;
    const svg = shape("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", class: "tilevision-marks", "aria-hidden": "true" }, parent);
    const tip = element("div", "tilevision-tip", parent);
    tip.hidden = true;
    const point = (source) => (i) => {
      tip.hidden = i === null;
      if (i !== null) tip.textContent = `${source.labels[i]} · ${score(source.scores[i])}`;
    };
    draw(svg, rows, false, point(rows));
    const other = this.model.get("other");
    if (other.boxes) draw(svg, other, true, point(other));
    this.marks = svg;
    this.mark();
    parent.onpointermove = (event) => {
      const frame = parent.getBoundingClientRect();
      tip.style.left = `${Math.min(event.clientX - frame.left + 12, frame.width - 90)}px`;
      tip.style.top = `${event.clientY - frame.top + 12}px`;
    };
  }

  // A frame around the object that is selected in the picture.
  mark() {
    const { marks } = this;
    marks?.querySelectorAll(".tilevision-marked").forEach((node) => node.remove());
    const chosen = this.model.get("chosen");
    if (!marks || chosen.length !== 4) return;
    const [x0, y0, x1, y1] = chosen.map((share, i) => share + (i < 2 ? -ROOM : ROOM));
    const d = `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
    for (const edge of ["tilevision-marked tilevision-marked-halo", "tilevision-marked"]) {
      shape("path", { d, "vector-effect": "non-scaling-stroke", class: edge }, marks);
    }
  }

  drawFacts(parent, facts) {
    if (facts.error) element("p", "tilevision-alarm", parent, facts.error);
    const list = element("dl", "", parent);
    for (const [what, value] of facts.lines) {
      element("dt", "", list, what);
      element("bdi", "", element("dd", "", list), value);
    }
    for (const [name, value] of facts.scores) {
      element("bdi", "", element("dt", "", list), name);
      element("dd", "", list, score(value));
    }
    if (facts.note) element("blockquote", "", parent, facts.note);
  }

  drawActions(parent, facts, chosen) {
    const row = element("div", "tilevision-actions", parent);
    const retry = button("Retry this tile", "Try this tile again", row, () => this.ask("retry"));
    retry.disabled = !facts.can_retry;
    const models = this.model.get("models");
    if (facts.can_run && models.length) {
      const label = element("label", "", row, "Model ");
      this.menu = element("select", "tilevision-select", label);
      models.forEach((name, i) => {
        const option = element("option", "", this.menu, name);
        option.value = i;
      });
      if (chosen !== undefined) this.menu.value = chosen;
      button("Run with this model", "Run only this tile with that model", row, () => this.ask("run", Number(this.menu.value)));
    }
    const other = this.model.get("other");
    if (other.words) {
      const words = element("p", "tilevision-other", parent, other.words);
      words.setAttribute("role", "status");
    }
  }

  drawList(parent) {
    const rows = this.model.get("rows");
    if (!rows.total) return;
    const details = element("details", "tilevision-detections", parent);
    details.open = rows.total <= 12;
    element("summary", "", details, `${rows.total.toLocaleString("en")} detections, highest score first`);
    const table = element("table", "tilevision-table", element("div", "tilevision-scroll", details));
    const body = element("tbody", "", table);
    rows.labels.slice(0, LISTED).forEach((label, i) => {
      const line = element("tr", "", body);
      const name = element("td", "", line);
      element("span", "tilevision-dot", name).style.background = rows.colours[i];
      element("bdi", "", name, label);
      element("td", "tilevision-number", line, score(rows.scores[i]));
    });
  }

  close() {
    if (this.url) URL.revokeObjectURL(this.url);
  }
}

function render({ model, el }) {
  const view = new View(model, el);
  const redraw = () => view.redraw();
  let waiting = false;
  const changed = () => {
    if (waiting) return; // several things change with one message
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      redraw();
    });
  };
  for (const name of ["facts", "picture", "rows", "other", "models"]) model.on(`change:${name}`, changed);
  const mark = () => view.mark();
  model.on("change:chosen", mark);
  redraw();
  return () => {
    model.off("change:chosen", mark);
    for (const name of ["facts", "picture", "rows", "other", "models"]) model.off(`change:${name}`, changed);
    view.close();
  };
}

export default { render };
