// Shows the frames of a run and lets the user zoom and pan.
//
// A frame is stretched immediately to the region that the user wants; the sharp frame follows
// when the kernel has drawn it, which may be after a running cell has ended. Text from the
// kernel holds untrusted labels: it only ever becomes textContent.

const SEND_EVERY = 120; // ms between two requests while the user moves
const MOST_ZOOM = 1 / 4000;
const PATIENCE = 3000; // ms after which the user is told why the picture is not sharp yet
const CLICK = 4; // px that a pointer may move between press and release
const REST = 350; // ms between two turns of the wheel that are two gestures
const DOUBLE = 250; // ms within which a second click makes a double-click of the first

function element(tag, className, parent) {
  const node = document.createElement(tag);
  node.className = className;
  parent?.append(node);
  return node;
}

// The region [x, y, width, height] nearest to `view` that lies within `whole`.
function settled(view, whole) {
  const width = Math.min(Math.max(view[2], whole[2] * MOST_ZOOM, 8), whole[2]);
  const height = (width * whole[3]) / whole[2];
  const x = view[0] + (view[2] - width) / 2;
  const y = view[1] + (view[3] - height) / 2;
  return [
    Math.min(Math.max(x, whole[0]), whole[0] + whole[2] - width),
    Math.min(Math.max(y, whole[1]), whole[1] + whole[3] - height),
    width,
    height,
  ];
}

function same(a, b) {
  return a.every((value, i) => Math.abs(value - b[i]) <= 1e-3 * Math.max(a[2], b[2]));
}

const UNITS = [[1e9, "km"], [1e6, "m"], [1e4, "cm"], [1e3, "mm"], [1, "µm"]];

// A length of 1, 2 or 5 times a power of ten, at most `most` µm, and its words.
function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((digit) => digit * power).find((value) => value <= most * 1.0001);
  const [size, unit] = UNITS.find(([value]) => length >= value) ?? [1e-3, "nm"];
  return [length, `${Number((length / size).toPrecision(3))} ${unit}`];
}

// The smallest box under a point; `rows` as hits() in boxes.py packs them.
function boxAt(rows, x, y) {
  let found = null;
  let least = Infinity;
  for (let i = 0; i + 5 < rows.length; i += 6) {
    if (x < rows[i] || y < rows[i + 1] || x > rows[i + 2] || y > rows[i + 3]) continue;
    const area = (rows[i + 2] - rows[i]) * (rows[i + 3] - rows[i + 1]);
    if (area < least) {
      least = area;
      found = rows.subarray(i, i + 6);
    }
  }
  return found;
}

function floats(bytes) {
  // A view of the message's buffer may start anywhere; floats may not.
  return bytes?.byteLength ? new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)) : new Float32Array();
}

class Picture {
  constructor(model, root) {
    this.model = model;
    this.view = [];
    this.bitmap = null;
    this.order = this.latest = 0;
    this.timer = null;
    this.rows = new Float32Array();
    this.names = [];
    this.frame = element("div", "tilevision-frame", root);
    this.canvas = element("canvas", "tilevision-picture", this.frame);
    this.canvas.setAttribute("role", "img");
    this.canvas.tabIndex = 0;
    this.tip = element("div", "tilevision-tip", this.frame);
    this.tip.setAttribute("role", "tooltip");
    this.tip.hidden = true;
    this.listen();
  }

  // A newer frame: decode it, and follow the kernel's view unless the user asked for another.
  async receive() {
    const bytes = this.model.get("frame");
    const shown = this.model.get("shown");
    if (!bytes?.byteLength || shown.length !== 4) return;
    const order = ++this.order;
    const subject = this.model.get("subject"); // of this picture: another may come while it is decoded
    const decoded = (jpeg) => (jpeg?.byteLength ? createImageBitmap(new Blob([jpeg], { type: "image/jpeg" })) : null);
    const [bitmap, beside] = await Promise.all([decoded(bytes), decoded(this.model.get("beside"))]);
    if (order < this.latest) {
      beside?.close();
      return bitmap.close();
    }
    this.latest = order;
    // The last picture of the whole image stays underneath where no sharper one has come yet.
    if (this.bitmap !== this.overview) this.bitmap?.close();
    const whole = same(shown, this.model.get("whole"));
    this.compare?.take(beside, whole);
    // Of the run before, the overview says something else than the picture.
    this.dated = !whole && (this.dated || this.subject !== subject);
    this.subject = subject;
    if (whole) {
      this.overview?.close();
      this.overview = bitmap;
    }
    this.bitmap = bitmap;
    this.shown = shown;
    this.rows = floats(this.model.get("hits"));
    this.names = this.model.get("names");
    this.heard = this.model.get("caption").latest;
    if (!this.asked || same(this.asked, shown)) {
      this.asked = null;
      this.view = shown;
      clearTimeout(this.patience);
      this.onwait?.(false);
    }
    this.draw();
  }

  draw() {
    if (!this.bitmap) return;
    const { canvas, bitmap, shown, view } = this;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    const context = canvas.getContext("2d");
    const scale = canvas.width / view[2];
    context.fillStyle = "#2b2f36";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const place = (picture, region) =>
      context.drawImage(
        picture,
        (region[0] - view[0]) * scale,
        (region[1] - view[1]) * scale,
        region[2] * scale,
        region[3] * scale,
      );
    if (this.overview && this.overview !== bitmap) place(this.overview, this.model.get("whole"));
    place(bitmap, shown);
    this.compare?.draw(context, place);
    this.drawOutline(context, scale);
    this.drawing?.draw(context, scale);
    this.correcting?.draw(context, scale);
    this.drawChosen(context, scale);
    this.drawScaleBar(context, scale);
    this.aids?.draw(context);
    // What is sharp by now, and how far the run is told, for those who look from outside.
    canvas.dataset.shown = shown.join(" ");
    canvas.dataset.heard = this.heard ?? "";
    canvas.dataset.chosen = this.model.get("chosen").join(" ");
    this.onview?.(!same(view, this.model.get("whole")));
  }

  // Pixels of the picture to one of the page, for what must not shrink with it.
  get unit() {
    return this.canvas.width / (this.canvas.clientWidth || this.canvas.width);
  }

  drawOutline(context, scale) {
    const outline = this.model.get("outline");
    if (outline.length !== 4) return;
    const [x, y] = [(outline[0] - this.view[0]) * scale, (outline[1] - this.view[1]) * scale];
    for (const [colour, width] of [["#000000b0", 5], ["#ffffff", 2.2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * this.unit;
      context.strokeRect(x, y, outline[2] * scale, outline[3] * scale);
    }
  }

  // The selected object: corners around it, so that its own outline stays to be seen.
  drawChosen(context, scale) {
    const chosen = this.model.get("chosen");
    if (chosen.length !== 4) return;
    const { unit } = this;
    const room = 4 * unit;
    const x0 = (chosen[0] - this.view[0]) * scale - room;
    const y0 = (chosen[1] - this.view[1]) * scale - room;
    const [x1, y1] = [x0 + chosen[2] * scale + 2 * room, y0 + chosen[3] * scale + 2 * room];
    const arm = Math.max(Math.min(x1 - x0, y1 - y0) / 3, 5 * unit);
    for (const [colour, width] of [["#000000", 5], ["#ffffff", 2.4]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.beginPath();
      for (const [x, dx] of [[x0, arm], [x1, -arm]]) {
        for (const [y, dy] of [[y0, arm], [y1, -arm]]) {
          context.moveTo(x + dx, y);
          context.lineTo(x, y);
          context.lineTo(x, y + dy);
        }
      }
      context.stroke();
    }
  }

  drawScaleBar(context, scale) {
    const mpp = this.model.get("mpp");
    if (!(mpp > 0)) return;
    const { canvas, unit } = this;
    const [length, words] = roundLength((0.22 * canvas.width * mpp) / scale);
    const width = (length / mpp) * scale;
    const [x, y] = [canvas.width - width - 18 * unit, canvas.height - 20 * unit];
    context.fillStyle = "#000000a0";
    context.fillRect(x - 9 * unit, y - 21 * unit, width + 18 * unit, 33 * unit);
    context.fillStyle = "#ffffff";
    context.fillRect(x, y, width, 4 * unit);
    context.font = `600 ${13 * unit}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.fillText(words, x + width / 2, y - 6 * unit, width + 16 * unit);
    canvas.dataset.scale = words;
  }

  // Say what the box under the pointer is, or nothing.
  point(event) {
    const fx = event.offsetX / this.canvas.clientWidth;
    const fy = event.offsetY / this.canvas.clientHeight;
    const x = this.view[0] + fx * this.view[2] - (this.shown?.[0] ?? 0);
    const y = this.view[1] + fy * this.view[3] - (this.shown?.[1] ?? 0);
    const box = this.grip ? null : boxAt(this.rows, x, y);
    this.tip.hidden = !box;
    if (!box) return;
    const score = Number.isNaN(box[5]) ? "" : ` · ${box[5].toFixed(2)}`;
    this.tip.textContent = `${this.names[box[4]] ?? ""}${score}`;
    const right = fx > 0.6;
    this.tip.style.left = right ? "" : `${event.offsetX + 14}px`;
    this.tip.style.right = right ? `${this.frame.clientWidth - event.offsetX + 10}px` : "";
    this.tip.style.top = `${event.offsetY + 14}px`;
  }

  pick(event) {
    const [x, y, width, height] = this.view;
    const clicks = (this.model.get("picked")[2] ?? 0) + 1;
    const fx = event.offsetX / this.canvas.clientWidth;
    const fy = event.offsetY / this.canvas.clientHeight;
    this.model.set("picked", [x + fx * width, y + fy * height, clicks]);
    this.model.save_changes();
  }

  look(view) {
    if (!this.bitmap) return;
    this.view = this.asked = settled(view, this.model.get("whole"));
    this.draw();
    this.timer ??= setTimeout(() => this.request(), SEND_EVERY);
  }

  // Ask the kernel for what is looked at now.
  request() {
    this.timer = null;
    const before = this.model.get("viewport");
    clearTimeout(this.patience);
    // At the image's edge, or back where one was before the kernel heard: no frame will come.
    if (same(before.length === 4 ? before : this.model.get("whole"), this.view) && same(this.view, this.shown)) {
      this.asked = null;
      this.onwait?.(false);
      return;
    }
    this.model.set("viewport", this.view);
    this.model.save_changes();
    this.patience = setTimeout(() => this.onwait?.(this.asked), PATIENCE);
  }

  // Zoom by `factor` about the point (fx, fy), in fractions of the picture.
  zoom(factor, fx = 0.5, fy = 0.5) {
    const [x, y, width, height] = this.view;
    this.look([
      x + width * fx * (1 - factor),
      y + height * fy * (1 - factor),
      width * factor,
      height * factor,
    ]);
  }

  move(fx, fy) {
    const [x, y, width, height] = this.view;
    this.look([x + width * fx, y + height * fy, width, height]);
  }

  whole() {
    this.look(this.model.get("whole"));
  }

  listen() {
    const { canvas } = this;
    const fraction = (event) => [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight];
    canvas.addEventListener("wheel", (event) => {
      if (!this.wheels(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 120) * 0.002), ...fraction(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      const taken = [this.aids, this.compare, this.correcting, this.drawing].some((part) => part?.down(event));
      if (this.view.length && taken) return;
      this.grip = fraction(event);
      this.pressed = [event.clientX, event.clientY];
    });
    canvas.addEventListener("pointermove", (event) => {
      this.mean(event);
      if (this.compare?.move(event) || this.correcting?.move(event) || this.drawing?.move(event)) return;
      const still = this.pressed && Math.hypot(event.clientX - this.pressed[0], event.clientY - this.pressed[1]) < CLICK;
      if (!this.grip || still) return this.point(event);
      this.pressed = null;
      const at = fraction(event);
      this.move(this.grip[0] - at[0], this.grip[1] - at[1]);
      this.grip = at;
    });
    canvas.addEventListener("pointerup", (event) => {
      if (this.compare?.up() || this.correcting?.up(event) || this.drawing?.up(event)) return;
      if (this.grip && this.pressed && this.view.length && !this.drawing?.click(event)) {
        // A double-click zooms, so a click waits to see that it is not the first half of one.
        const { offsetX, offsetY } = event;
        clearTimeout(this.click);
        this.click = setTimeout(() => this.pick({ offsetX, offsetY }), DOUBLE);
      }
      this.grip = this.pressed = null;
    });
    canvas.addEventListener("pointercancel", () => (this.grip = this.pressed = null));
    canvas.addEventListener("pointerenter", (event) => (this.entered = [event.screenX, event.screenY]));
    canvas.addEventListener("pointerleave", () => {
      this.tip.hidden = true;
      this.meant = false;
    });
    canvas.addEventListener("dblclick", (event) => {
      clearTimeout(this.click);
      if (this.drawing?.tool) return this.drawing.tool === "polygon" && this.drawing.close();
      this.zoom(0.5, ...fraction(event));
    });
    // The notebook takes its shortcuts at the document, on their way down: come before it.
    this.press = (event) => this.steer(event);
    canvas.addEventListener("focus", () => window.addEventListener("keydown", this.press, true));
    canvas.addEventListener("blur", () => window.removeEventListener("keydown", this.press, true));
  }

  // A pointer that moves over the picture means it. One that comes to lie on it while the
  // notebook is scrolled under it does not: nobody moved it.
  mean(event) {
    const [x, y] = this.entered ?? [event.screenX, event.screenY];
    const moved = Math.hypot(event.screenX - x, event.screenY - y) > CLICK;
    if (moved && performance.now() - (this.scrolled ?? -Infinity) > REST) this.meant = true;
  }

  // Whether the wheel zooms here. Else it scrolls the notebook: past a picture that nobody
  // pointed at, and on from the whole image, unless the picture has the focus.
  wheels(event) {
    const now = performance.now();
    const since = now - (this.wheeled ?? -Infinity);
    const focused = document.activeElement === this.canvas || event.ctrlKey || event.metaKey;
    const through = event.deltaY > 0 && this.view.length && same(this.view, this.model.get("whole")) && since > REST;
    if (focused || (this.meant && !through)) {
      this.wheeled = now;
      return true;
    }
    this.scrolled = now;
    this.entered = [event.screenX, event.screenY];
    this.meant = false;
    return false;
  }

  // Keys on the picture are the picture's: a plain letter would insert or delete a cell. What
  // is pressed with Ctrl, Alt or Meta, Shift+Enter, Escape and Tab stay the notebook's.
  steer(event) {
    if (this.correcting?.command(event)) {
      event.stopImmediatePropagation();
      return event.preventDefault();
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if ([this.correcting, this.drawing, this.compare, this.aids].some((part) => part?.key(event.key))) {
      event.stopImmediatePropagation();
      return event.preventDefault();
    }
    if (event.key === "Escape" || event.key === "Tab" || (event.key === "Enter" && event.shiftKey)) return;
    event.stopImmediatePropagation();
    const actions = {
      "+": () => this.zoom(0.7),
      "=": () => this.zoom(0.7),
      "-": () => this.zoom(1 / 0.7),
      0: () => this.whole(),
      ArrowLeft: () => this.move(-0.1, 0),
      ArrowRight: () => this.move(0.1, 0),
      ArrowUp: () => this.move(0, -0.1),
      ArrowDown: () => this.move(0, 0.1),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.patience);
    clearTimeout(this.click);
    window.removeEventListener("keydown", this.press, true);
    this.latest = Infinity;
    this.bitmap?.close();
    this.overview?.close();
    this.bitmap = this.overview = null;
    this.compare?.close();
  }
}

function render({ model, el }) {
  const root = element("div", "tilevision-canvas", el);
  const head = element("div", "tilevision-head", root);
  const headline = element("div", "tilevision-headline", head);
  const beneath = element("div", "tilevision-detail", root);
  const detail = element("span", "", beneath);
  const link = element("a", "tilevision-link", beneath);
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.textContent = "Dask dashboard ↗";
  const bar = element("div", "tilevision-bar", root);
  bar.setAttribute("role", "progressbar");
  const done = element("div", "tilevision-done", bar);
  const failed = element("div", "tilevision-failed", bar);
  const tools = element("div", "tilevision-tools", root);
  const picture = new Picture(model, root);
  picture.compare = new Compare(picture, tools);
  picture.drawing = new Drawing(picture, tools);
  picture.correcting = new Correcting(picture, tools);
  picture.aids = new Aids(picture, root);
  head.append(picture.aids.bar);
  // What is drawn over the picture has the size of the page's pixels.
  const resized = new ResizeObserver(() => picture.draw());
  resized.observe(picture.canvas);
  const maps = new MapBar(model, root);
  const legend = element("ul", "tilevision-legend", root);
  const hint = element("div", "tilevision-hint", root);
  const waiting = element("div", "tilevision-waiting");
  waiting.setAttribute("role", "status");
  waiting.textContent = "The kernel is busy. The sharp picture follows when it answers.";
  waiting.hidden = true;
  picture.frame.append(waiting);
  picture.onwait = (yes) => (waiting.hidden = !yes);
  const counting = element("div", "tilevision-waiting", picture.frame);
  counting.setAttribute("role", "status");
  const work = () => {
    counting.hidden = !model.get("busy") && !model.get("doing");
    counting.textContent = model.get("doing") || "Counting…";
  };
  work();
  picture.onview = (zoomed) => (picture.aids.reset.disabled = !zoomed);

  const describe = () => {
    const caption = model.get("caption");
    headline.textContent = caption.headline ?? "Starting…";
    detail.textContent = caption.detail ?? "";
    picture.canvas.setAttribute("aria-label", caption.alt ?? "");
    const [doneShare, failedShare] = caption.shares ?? [0, 0];
    done.style.width = `${100 * doneShare}%`;
    failed.style.width = `${100 * failedShare}%`;
    bar.setAttribute("aria-valuenow", Math.floor(100 * doneShare));
    root.dataset.status = caption.status ?? "starting";
    link.hidden = !model.get("link");
    link.href = model.get("link") || "#";
    const opens = root.closest(".tilevision-panel") ? "Click to open a tile, scroll" : "Scroll";
    hint.textContent = `${opens} or + − to zoom, drag or arrows to move, 0 for all, ? for all keys`;
    // A chooser that is open would close if its entry were made again.
    if (legend.querySelector("[data-open]")) return;
    legend.replaceChildren(...(caption.legend ?? []).map((entry, i, all) => toggled(legendEntry(entry), entry, i, all)));
  };
  // A class in the legend is a button: pressed, its boxes are not drawn. It still counts.
  const toggled = (item, entry, _, all) => {
    if (entry.key === undefined) return item;
    const off = Boolean(entry.off);
    item.classList.add("tilevision-toggle");
    item.classList.toggle("tilevision-off", off);
    item.tabIndex = 0;
    item.setAttribute("role", "switch");
    item.setAttribute("aria-checked", !off);
    item.title = off ? "Draw this class" : "Draw this class no more; it still counts";
    // The kernel says what is hidden, so that it stays so when the page is loaded again.
    const toggle = () => {
      entry.off = !off;
      model.send({ hide: all.filter((one) => one.off).map((one) => one.key) });
      describe();
    };
    if (entry.own) editable(item, entry, model);
    item.addEventListener("click", toggle);
    item.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
    return item;
  };
  // Two parts of a flat image have the same bytes, as two runs may: then only place or run is news.
  let arriving = false;
  const receive = () => {
    if (arriving) return; // several things change with one message
    arriving = true;
    queueMicrotask(() => {
      arriving = false;
      picture.receive();
    });
  };
  const redraw = () => picture.draw();
  const drawn = () => picture.drawing.heard();
  const corrected = () => picture.correcting.heard();
  const compared = () => picture.compare.heard();
  // The kernel looks elsewhere: at an object, say. What the user asked for before is over.
  const led = () => {
    const wanted = model.get("viewport");
    if (picture.asked && wanted.length === 4 && !same(wanted, picture.asked)) picture.asked = null;
  };
  model.on("change:caption", describe);
  model.on("change:link", describe);
  model.on("change:frame", receive);
  model.on("change:shown", receive);
  model.on("change:subject", receive);
  model.on("change:outline", redraw);
  model.on("change:chosen", redraw);
  model.on("change:regions", drawn);
  model.on("change:correcting", corrected);
  model.on("change:tools", drawn);
  model.on("change:viewport", led);
  model.on("change:sides", compared);
  model.on("change:busy", work);
  model.on("change:doing", work);
  // The notebook takes Enter, Space and letters as commands, at the document, on their way
  // down: those go to the panel's controls. What is pressed with Ctrl, Shift+Enter
  // and Escape stay the notebook's.
  const guard = (event) => {
    const panel = event.target.closest?.(".tilevision-panel");
    if (!panel?.contains(root)) return;
    const runs = event.shiftKey && event.key === "Enter";
    const command = event.ctrlKey || event.metaKey || event.key === "Escape" || runs;
    panel.toggleAttribute("data-lm-suppress-shortcuts", !command);
  };
  window.addEventListener("keydown", guard, true);
  describe();
  receive();
  model.send({ opened: true });
  return () => {
    resized.disconnect();
    window.removeEventListener("keydown", guard, true);
    model.off("change:caption", describe);
    model.off("change:link", describe);
    model.off("change:frame", receive);
    model.off("change:shown", receive);
    model.off("change:subject", receive);
    model.off("change:outline", redraw);
    model.off("change:chosen", redraw);
    model.off("change:regions", drawn);
    model.off("change:correcting", corrected);
    model.off("change:tools", drawn);
    model.off("change:viewport", led);
    model.off("change:sides", compared);
    maps.close();
    model.off("change:busy", work);
    model.off("change:doing", work);
    picture.close();
  };
}

export default { render };
