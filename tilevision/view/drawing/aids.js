// What makes the picture one to work in: keys under `?`, opacity, full screen, overview map.
//
// A part of canvas.js: `picture` is its Picture.

const MAP_SHARE = 0.2; // of the picture's width
const KEYS = [
  ["+ −", "zoom in, out; the wheel too"], ["0", "whole image"], ["← → ↑ ↓", "move"],
  ["n, p", "next, previous object", true], ["Space", "pause, resume the run", true], ["f", "full screen"],
  ["[ ]", "boxes and tiles fainter, stronger"], ["a", "accept the selected object", true], ["d", "delete it", true],
  ["e", "reshape it: drag its corners", true], ["1 … 9", "its class, and that of what is added", true], ["m, o", "mark a missing object: box, outline", true],
  ["u, r", "undo, redo a correction; Ctrl+Z, Ctrl+Shift+Z too", true], ["t", "next tile, the most in doubt first", true],
  ["b", "A, B in turn", "compared"], [", .", "move the divider", "compared"], ["Enter", "close a polygon", true], ["Delete", "delete the selected region", true],
  ["Escape", "leave a tool", true], ["?", "these keys"],
];

class Aids {
  constructor(picture, root) {
    this.picture = picture;
    this.model = picture.model;
    this.root = root;
    this.opacity = 1;
    this.bar = document.createElement("div");
    this.bar.className = "tilevision-aids";
    this.slider = document.createElement("input");
    Object.assign(this.slider, { type: "range", min: 0, max: 1, step: 0.05, value: 1, title: "Opacity of boxes and tiles" });
    this.slider.setAttribute("aria-label", "Opacity");
    this.slider.addEventListener("input", () => this.fade(Number(this.slider.value)));
    this.bar.append(this.slider);
    // Always there, so that nothing moves under the pointer with the first turn of the wheel.
    this.reset = toolButton(this.bar, "Whole image", "Whole image (0)", () => picture.whole());
    this.reset.classList.add("tilevision-reset");
    this.reset.disabled = true;
    this.screen = toolButton(this.bar, "Full screen", "Full screen (f)", () => this.full());
    this.screen.hidden = !document.fullscreenEnabled; // Visual Studio Code has none for outputs
    this.asked = toolButton(this.bar, "?", "Keys", () => this.explain());
    this.asked.setAttribute("aria-label", "Keys (?)");
    this.help = document.createElement("div");
    this.help.className = "tilevision-help";
    this.help.hidden = true;
    picture.frame.append(this.help);
  }

  fade(opacity) {
    this.opacity = Math.min(Math.max(Math.round(opacity * 20) / 20, 0), 1);
    this.slider.value = this.opacity;
    this.model.send({ opacity: this.opacity });
  }

  full() {
    if (!document.fullscreenEnabled) return;
    if (document.fullscreenElement) document.exitFullscreen();
    else (this.root.closest(".tilevision-panel") ?? this.root).requestFullscreen();
  }

  explain(yes = this.help.hidden) {
    this.help.hidden = !yes;
    this.asked.setAttribute("aria-expanded", yes);
    if (!yes) return;
    const tools = this.model.get("tools");
    this.help.replaceChildren();
    for (const [key, words, when] of KEYS) {
      if (key === "f" && !document.fullscreenEnabled) continue;
      if (when === "compared" ? !this.picture.compare.way : when && !tools) continue;
      for (const [tag, text] of [["b", key], ["span", words]]) {
        const node = document.createElement(tag);
        node.textContent = text;
        this.help.append(node);
      }
    }
  }

  // Keys of the picture; true if it was one.
  key(key) {
    const actions = {
      "?": () => this.explain(),
      f: () => this.full(),
      "[": () => this.fade(this.opacity - 0.1),
      "]": () => this.fade(this.opacity + 0.1),
    };
    if (this.model.get("tools")) {
      Object.assign(actions, {
        n: () => this.model.send({ step: 1 }),
        p: () => this.model.send({ step: -1 }),
        " ": () => this.model.send({ pause: true }),
      });
    }
    if (key === "Escape" && !this.help.hidden) actions.Escape = () => this.explain(false);
    if (!Object.hasOwn(actions, key)) return false;
    actions[key]();
    return true;
  }

  // Where the overview lies on the page's picture: x, y, width, height; null if all is in sight.
  get map() {
    const { picture } = this;
    const whole = this.model.get("whole");
    if (!picture.overview || same(picture.view, whole)) return null;
    const width = picture.canvas.clientWidth * MAP_SHARE;
    return [8, 8, width, (width * whole[3]) / whole[2]];
  }

  // A press on the overview looks there; true if it was one.
  down(event) {
    const map = this.map;
    if (!map) return false;
    const [fx, fy] = [(event.offsetX - map[0]) / map[2], (event.offsetY - map[1]) / map[3]];
    if (fx < 0 || fy < 0 || fx > 1 || fy > 1) return false;
    const whole = this.model.get("whole");
    const { view } = this.picture;
    this.picture.look([whole[0] + fx * whole[2] - view[2] / 2, whole[1] + fy * whole[3] - view[3] / 2, view[2], view[3]]);
    return true;
  }

  draw(context) {
    const { picture, map } = this;
    picture.canvas.dataset.map = map ? map.map(Math.round).join(" ") : "";
    if (!map) return;
    const { unit, view } = picture;
    const whole = this.model.get("whole");
    const [x, y, width, height] = map.map((value) => value * unit);
    context.fillStyle = "#2b2f36";
    if (picture.dated) context.fillRect(x, y, width, height);
    else context.drawImage(picture.overview, x, y, width, height);
    picture.canvas.dataset.dated = picture.dated;
    context.lineWidth = 2 * unit;
    context.strokeStyle = "#ffffff";
    context.strokeRect(x, y, width, height);
    const scale = width / whole[2];
    const least = 5 * unit;
    const [w, h] = [Math.max(view[2] * scale, least), Math.max(view[3] * scale, least)];
    const [cx, cy] = [(view[0] + view[2] / 2 - whole[0]) * scale, (view[1] + view[3] / 2 - whole[1]) * scale];
    for (const [colour, line] of [["#000000", 4], ["#4fc3f7", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = line * unit;
      context.strokeRect(x + cx - w / 2, y + cy - h / 2, w, h);
    }
  }
}
