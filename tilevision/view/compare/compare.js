// Two results in one picture: only their differences, a divider to drag, or blinking.
//
// A part of canvas.js: `picture` is its Picture. The kernel draws the second result as another
// picture of the same region; nothing is asked of it while the divider moves or the sides blink.

const WAYS = [
  ["differences", "Differences", "What both found and what one found alone, by colour"],
  ["swipe", "Swipe", "A left of a divider, B right of it: drag it, or press , and ."],
  ["blink", "Blink", "A and B in turn; press b to turn by hand"],
];
const TURN = 900; // ms that a side is shown
const GRIP = 14; // px around the divider

// As many letters as there is room for; none where there is hardly any.
function fitted(context, words, room) {
  if (context.measureText(words).width <= room) return words;
  let n = words.length - 1;
  while (n > 0 && context.measureText(`${words.slice(0, n)}…`).width > room) n -= 1;
  return n > 1 ? `${words.slice(0, n).trimEnd()}…` : "";
}

class Compare {
  constructor(picture, parent) {
    this.picture = picture;
    this.model = picture.model;
    this.at = 0.5;
    this.front = 0;
    this.bar = element("div", "tilevision-ways", parent);
    this.bar.setAttribute("role", "group");
    this.bar.setAttribute("aria-label", "Compare as");
    this.buttons = WAYS.map(([way, words, tip]) => {
      const button = element("button", "tilevision-tool", this.bar);
      button.type = "button";
      button.textContent = words;
      button.title = tip;
      button.addEventListener("click", () => this.choose(way));
      return button;
    });
    this.words = element("bdi", "tilevision-sides", this.bar);
    this.heard();
  }

  get way() {
    return this.model.get("sides").way ?? "";
  }

  get names() {
    return this.model.get("sides").names ?? [];
  }

  choose(way) {
    this.model.send({ way });
  }

  // Another result, or another way.
  heard() {
    const { way } = this;
    this.bar.hidden = !way;
    this.buttons.forEach((button, i) => button.setAttribute("aria-pressed", WAYS[i][0] === way));
    const [a, b] = this.names;
    this.words.textContent = way ? `A: ${a} · B: ${b}` : "";
    this.bar.dataset.way = way;
    clearInterval(this.timer);
    // Who asked for less motion turns the sides by hand.
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (way === "blink" && !still) this.timer = setInterval(() => this.turn(), TURN);
    this.front = 0;
  }

  turn() {
    if (!this.picture.canvas.isConnected) return;
    this.front = 1 - this.front;
    this.picture.draw();
  }

  // The second picture of a frame that has just been decoded.
  take(bitmap, whole) {
    if (this.bitmap !== this.overview) this.bitmap?.close();
    if (whole || !bitmap) {
      this.overview?.close();
      this.overview = bitmap;
    }
    this.bitmap = bitmap;
  }

  draw(context, place) {
    const { picture, way, bitmap } = this;
    const { canvas, unit } = picture;
    canvas.dataset.side = way === "blink" ? "AB"[this.front] : way;
    canvas.dataset.divider = way === "swipe" ? this.at : "";
    if (!bitmap || (way !== "swipe" && way !== "blink")) return;
    const from = way === "swipe" ? this.at * canvas.width : this.front ? 0 : canvas.width;
    if (from < canvas.width) {
      context.save();
      context.beginPath();
      context.rect(from, 0, canvas.width - from, canvas.height);
      context.clip();
      context.fillStyle = "#2b2f36";
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (this.overview && this.overview !== bitmap) place(this.overview, this.model.get("whole"));
      place(bitmap, picture.shown);
      context.restore();
    }
    const y = canvas.height - 46 * unit; // above the scale bar
    if (way === "blink") return this.chip(context, "AB"[this.front], canvas.width / 2, y, "center");
    context.fillStyle = "#000000";
    context.fillRect(from - 2.5 * unit, 0, 5 * unit, canvas.height);
    context.fillStyle = "#ffffff";
    context.fillRect(from - 1 * unit, 0, 2 * unit, canvas.height);
    context.beginPath();
    context.arc(from, canvas.height / 2, 11 * unit, 0, 2 * Math.PI);
    context.fill();
    context.strokeStyle = "#000000";
    context.lineWidth = 1.5 * unit;
    context.stroke();
    context.fillStyle = "#000000";
    context.font = `700 ${13 * unit}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.fillText("⇔", from, canvas.height / 2 + 4.5 * unit);
    this.chip(context, "A", from - 10 * unit, y, "right");
    this.chip(context, "B", from + 10 * unit, y, "left");
  }

  // Which side this is, in letters: A is left.
  chip(context, side, x, y, align) {
    const { unit } = this.picture;
    context.font = `600 ${13 * unit}px system-ui, sans-serif`;
    const margin = 14 * unit;
    const all = this.picture.canvas.width;
    const room = { right: x, left: all - x, center: all }[align] - margin;
    const words = fitted(context, `${side} ${this.names["AB".indexOf(side)] ?? ""}`, room);
    if (!words) return;
    const width = context.measureText(words).width + margin;
    const left = { right: x - width, left: x, center: x - width / 2 }[align];
    context.fillStyle = "#000000c8";
    context.fillRect(left, y - 15 * unit, width, 21 * unit);
    context.fillStyle = "#ffffff";
    context.textAlign = "left";
    context.fillText(words, left + 7 * unit, y);
  }

  // A press on the divider takes hold of it; true if it was one.
  down(event) {
    if (this.way !== "swipe" || !this.bitmap) return false;
    const { clientWidth } = this.picture.canvas;
    this.held = Math.abs(event.offsetX - this.at * clientWidth) <= GRIP;
    return this.held;
  }

  move(event) {
    const { canvas } = this.picture;
    if (!this.held) {
      const near = this.way === "swipe" && Math.abs(event.offsetX - this.at * canvas.clientWidth) <= GRIP;
      canvas.classList.toggle("tilevision-divides", near);
      return false;
    }
    this.put(event.offsetX / canvas.clientWidth);
    return true;
  }

  up() {
    const held = this.held;
    this.held = false;
    return held;
  }

  put(at) {
    this.at = Math.min(Math.max(at, 0), 1);
    this.picture.draw();
  }

  // Keys of the picture while two results are in it; true if it was one.
  key(key) {
    if (!this.way) return false;
    if (key === "b") {
      clearInterval(this.timer);
      if (this.way === "blink") this.turn();
      else this.choose("blink");
      return true;
    }
    if (this.way !== "swipe" || (key !== "," && key !== ".")) return false;
    this.put(this.at + (key === "." ? 0.05 : -0.05));
    return true;
  }

  close() {
    clearInterval(this.timer);
    this.bitmap?.close();
    this.overview?.close();
    this.bitmap = this.overview = null;
  }
}
