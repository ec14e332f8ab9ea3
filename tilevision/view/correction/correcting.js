// Objects that are corrected on the picture: accepted, deleted, re-labelled, reshaped, added.
//
// A part of canvas.js: `picture` is its Picture. Names of classes are untrusted: textContent only.

const GRASP = 9; // px of the page within which a corner is meant
const HAND_STEP = 3; // px between two points of an outline that is drawn
const LEAST_DRAWN = 3; // px
const MOST_CHIPS = 9;
const HAND_COLOUR = "#ffd54f";

class Correcting {
  constructor(picture, root) {
    this.picture = picture;
    this.model = picture.model;
    this.tool = null; // "box" or "outline": what is drawn next
    this.path = null;
    this.parts = null; // of the object while it is reshaped: polygons of rings
    this.corner = null;
    this.bar = document.createElement("div");
    this.bar.className = "tilevision-drawing tilevision-correcting";
    this.bar.setAttribute("role", "toolbar");
    this.bar.setAttribute("aria-label", "Corrections");
    root.append(this.bar);
    this.accepts = this.button("Accept", "The selected object is right; on to the next (a)", () => this.send({ correct: "accept" }));
    this.deletes = this.button("Delete", "The selected object is wrong; on to the next (d)", () => this.send({ correct: "delete" }));
    this.shapes = this.button("Reshape", "Move the corners of the selected object (e)", () => this.reshape());
    this.boxes = this.button("Add box", "Drag a box around an object that is missing (m)", () => this.take("box"));
    this.outlines = this.button("Add outline", "Drag around an object that is missing (o)", () => this.take("outline"));
    this.label = document.createElement("input");
    this.label.className = "tilevision-name";
    this.label.setAttribute("aria-label", "Class");
    this.label.placeholder = "class";
    this.label.title = "Class of what is added, and of the selected object once you change it";
    this.label.addEventListener("change", () => this.name(this.label.value));
    // Names that have no room as buttons are offered while one is typed.
    this.offered = document.createElement("datalist");
    this.offered.id = `tilevision-classes-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    this.label.setAttribute("list", this.offered.id);
    this.bar.append(this.label, this.offered);
    this.chips = document.createElement("span");
    this.chips.className = "tilevision-chips";
    this.undoes = this.button("Undo", "Undo the latest correction (u, Ctrl+Z)", () => this.send({ correct: "undo" }));
    this.redoes = this.button("Redo", "Do it again (r, Ctrl+Shift+Z)", () => this.send({ correct: "redo" }));
    this.next = this.button("Next in doubt", "Go to the next tile, the most uncertain first (t)", () => this.send({ uncertain: true }));
    this.bar.append(this.chips);
    this.words = document.createElement("span");
    this.words.className = "tilevision-hand-words";
    this.words.setAttribute("role", "status");
    root.append(this.words);
    this.heard();
  }

  button(words, tip, act) {
    return toolButton(this.bar, words, tip, () => {
      act();
      this.picture.canvas.focus({ preventScroll: true });
    });
  }

  get state() {
    return this.model.get("correcting");
  }

  send(content) {
    this.model.send(content);
  }

  // The kernel says what is selected, which classes there are, and what was done.
  heard() {
    const { state } = this;
    this.bar.hidden = this.words.hidden = !state.on;
    // While the kernel counts again nothing is selected: the corners stay until it answers.
    if (this.parts && !this.corner && (state.object || !this.awaited)) {
      this.parts = state.object ? structuredClone(state.object.parts) : null;
    }
    this.awaited = this.awaited && !state.object;
    if (document.activeElement !== this.label) this.label.value = state.label ?? "";
    this.words.textContent = state.words ?? "";
    this.words.classList.toggle("tilevision-alarm", !!state.alarm);
    this.offered.replaceChildren(...(state.classes ?? []).map((name) => Object.assign(document.createElement("option"), { value: name })));
    this.chips.replaceChildren(...(state.classes ?? []).slice(0, MOST_CHIPS).map((name, i) => this.chip(name, i)));
    this.fit();
  }

  chip(name, i) {
    const node = document.createElement("button");
    node.type = "button";
    node.className = "tilevision-tool";
    node.title = `Class of the selected object, and of what is added (${i + 1})`;
    node.setAttribute("aria-pressed", name === this.state.label);
    const number = document.createElement("b");
    number.textContent = `${i + 1} `;
    const words = document.createElement("bdi");
    words.textContent = name;
    node.append(number, words);
    node.addEventListener("click", () => {
      this.send({ class: i });
      this.picture.canvas.focus({ preventScroll: true });
    });
    return node;
  }

  fit() {
    const { state } = this;
    for (const node of [this.accepts, this.deletes]) node.disabled = !state.selected;
    this.shapes.disabled = !state.object;
    this.undoes.disabled = !state.undo;
    this.redoes.disabled = !state.redo;
    this.shapes.setAttribute("aria-pressed", !!this.parts);
    this.boxes.setAttribute("aria-pressed", this.tool === "box");
    this.outlines.setAttribute("aria-pressed", this.tool === "outline");
    this.picture.canvas.classList.toggle("tilevision-draws", !!this.tool || !!this.picture.drawing?.tool);
    this.picture.draw();
  }

  name(label) {
    const known = (this.state.classes ?? []).indexOf(label);
    if (known >= 0) this.send({ class: known });
    else if (label.trim()) this.send({ relabel: label.trim() });
  }

  take(tool) {
    this.tool = this.tool === tool ? null : tool;
    this.path = this.parts = null;
    if (this.tool && this.picture.drawing?.tool) this.picture.drawing.take(null);
    this.fit();
  }

  reshape() {
    this.tool = this.path = null;
    this.parts = this.parts || !this.state.object ? null : structuredClone(this.state.object.parts);
    this.fit();
  }

  // Pixels of the image to one of the page.
  get grain() {
    return this.picture.view[2] / (this.picture.canvas.clientWidth || 1);
  }

  at(event) {
    const { view, canvas } = this.picture;
    return [view[0] + (event.offsetX / canvas.clientWidth) * view[2], view[1] + (event.offsetY / canvas.clientHeight) * view[3]];
  }

  // The pointer's own events; true if they were about an object.
  down(event) {
    if (this.bar.hidden || this.picture.drawing?.tool) return false;
    const point = this.at(event);
    if (this.tool) {
      this.path = [point];
      return true;
    }
    this.corner = this.parts && this.cornerAt(point);
    return !!this.corner;
  }

  move(event) {
    const point = this.at(event);
    if (this.corner) {
      const ring = this.parts[this.corner.part][this.corner.ring];
      if (this.state.object?.box) this.stretch(ring, this.corner.index, point);
      else ring[this.corner.index] = point;
      this.picture.draw();
      return true;
    }
    if (!this.path) return false;
    const last = this.path.at(-1);
    if (this.tool === "box") this.path[1] = point;
    else if (Math.hypot(point[0] - last[0], point[1] - last[1]) > HAND_STEP * this.grain) this.path.push(point);
    this.picture.draw();
    return true;
  }

  // Corners of a box come in its order; the neighbours of one that moves stay at right angles.
  stretch(ring, index, [x, y]) {
    const [fx, fy] = ring[(index + 2) % 4];
    ring[index] = [x, y];
    ring[(index + 1) % 4] = index % 2 ? [x, fy] : [fx, y];
    ring[(index + 3) % 4] = index % 2 ? [fx, y] : [x, fy];
  }

  up(event) {
    if (this.corner) {
      this.corner = null;
      this.awaited = true;
      this.send({ reshape: this.told(this.parts, !!this.state.object?.box) });
      return true;
    }
    if (!this.path) return false;
    if (this.tool === "box") this.path[1] = this.at(event);
    const { path, tool } = this;
    this.path = null;
    const xs = path.map(([x]) => x);
    const ys = path.map(([, y]) => y);
    const size = Math.min(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys));
    if (size > LEAST_DRAWN * this.grain && (tool === "box" || path.length > 3)) {
      this.send({ add: this.told([[path]], tool === "box") });
    }
    this.picture.draw();
    return true;
  }

  told(parts, isBox) {
    if (!isBox) return { parts };
    const points = parts.flat(2);
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    return { box: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)] };
  }

  cornerAt([x, y]) {
    let found = null;
    let least = GRASP * this.grain;
    this.parts.forEach((rings, part) => rings.forEach((points, ring) => points.forEach((corner, index) => {
      const away = Math.hypot(corner[0] - x, corner[1] - y);
      if (away < least) [found, least] = [{ part, ring, index }, away];
    })));
    return found;
  }

  // Keys that are about objects; true if it was one.
  key(key) {
    if (this.bar.hidden) return false;
    if (key === "Escape") {
      if (!this.tool && !this.parts) return false;
      this.tool = this.path = this.parts = null;
      this.fit();
      return true;
    }
    if (key === "Enter" && this.parts) {
      this.reshape();
      return true;
    }
    // A region that is selected is meant first.
    if (key === "Delete" && (!this.state.selected || this.picture.drawing?.chosen >= 0)) return false;
    if (/^[1-9]$/.test(key) && Number(key) <= (this.state.classes?.length ?? 0)) {
      this.send({ class: Number(key) - 1 });
      return true;
    }
    const actions = {
      a: () => this.send({ correct: "accept" }),
      d: () => this.send({ correct: "delete" }),
      Delete: () => this.send({ correct: "delete" }),
      e: () => this.reshape(),
      m: () => this.take("box"),
      o: () => this.take("outline"),
      u: () => this.send({ correct: "undo" }),
      r: () => this.send({ correct: "redo" }),
      t: () => this.send({ uncertain: true }),
    };
    if (!Object.hasOwn(actions, key)) return false;
    actions[key]();
    return true;
  }

  // Ctrl+Z and its like, which would undo something of the notebook's; true if it was one.
  command(event) {
    if (this.bar.hidden || !(event.ctrlKey || event.metaKey) || event.altKey) return false;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return false;
    this.send({ correct: key === "y" || event.shiftKey ? "redo" : "undo" });
    return true;
  }

  draw(context, scale) {
    if (this.bar.hidden) return;
    const { view, unit } = this.picture;
    const place = ([x, y]) => [(x - view[0]) * scale, (y - view[1]) * scale];
    if (this.parts) {
      const rings = this.parts.flat();
      this.stroke(context, rings.map((ring) => ring.map(place)), unit, true);
      for (const [x, y] of rings.flat().map(place)) {
        context.fillStyle = "#000000";
        context.fillRect(x - 4.5 * unit, y - 4.5 * unit, 9 * unit, 9 * unit);
        context.fillStyle = HAND_COLOUR;
        context.fillRect(x - 3 * unit, y - 3 * unit, 6 * unit, 6 * unit);
      }
    }
    if (!this.path) return;
    const [[x0, y0], [x1, y1]] = [this.path[0], this.path.at(-1)];
    const points = this.tool === "box" ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : this.path;
    this.stroke(context, [points.map(place)], unit, this.tool === "box");
  }

  stroke(context, rings, unit, closed) {
    context.beginPath();
    for (const ring of rings) {
      ring.forEach((point, i) => context[i ? "lineTo" : "moveTo"](...point));
      if (closed) context.closePath();
    }
    for (const [colour, width] of [["#000000c0", 4], [HAND_COLOUR, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.stroke();
    }
  }
}
