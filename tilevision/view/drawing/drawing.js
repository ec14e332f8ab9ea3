// Regions that are drawn on the picture: rectangle, polygon, lasso; corners that move.
//
// A part of canvas.js: `picture` is its Picture. Names are untrusted: drawn as text only.

const REACH = 8; // px of the page within which a corner or an edge is meant
const MOST_CORNERS = 400;
const LASSO_STEP = 4; // px between two points of a lasso
const TOOLS = [["rectangle", "Rectangle", "Drag from corner to corner"], ["polygon", "Polygon", "Click each corner; Enter or the first corner closes it"], ["lasso", "Lasso", "Drag around it"]];

function ringsOf(region) {
  return region.parts.flat();
}

// The top corner of the largest ring: a name there is beside what it names.
function topOf(region) {
  const extent = (ring) => {
    const sides = [0, 1].map((axis) => ring.map((point) => point[axis]));
    return sides.reduce((area, all) => area * (Math.max(...all) - Math.min(...all)), 1);
  };
  const rings = ringsOf(region);
  const sizes = rings.map(extent);
  const largest = rings[sizes.indexOf(Math.max(...sizes))];
  return largest.reduce((a, b) => (b[1] < a[1] || (b[1] === a[1] && b[0] < a[0]) ? b : a));
}

function toSegment([x, y], [x0, y0], [x1, y1]) {
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  const t = length ? Math.min(Math.max(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0), 1) : 0;
  return Math.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0));
}

class Drawing {
  constructor(picture, root) {
    this.picture = picture;
    this.model = picture.model;
    this.tool = null;
    this.chosen = -1;
    this.path = null;
    this.corner = null;
    this.bar = document.createElement("div");
    this.bar.className = "tilevision-drawing";
    this.bar.setAttribute("role", "toolbar");
    this.bar.setAttribute("aria-label", "Regions");
    root.append(this.bar);
    this.buttons = TOOLS.map(([tool, words, tip]) => this.button(words, tip, () => this.take(this.tool === tool ? null : tool)));
    this.button("Tissue", "Find the tissue, as region='tissue' does", () => this.model.send({ tissue: true }));
    this.name = document.createElement("input");
    this.name.className = "tilevision-name";
    this.name.setAttribute("aria-label", "Name of the region");
    this.name.addEventListener("change", () => this.rename(this.name.value));
    this.bar.append(this.name);
    this.remover = this.button("Delete region", "Delete the selected region", () => this.remove());
    this.fit();
  }

  button(words, tip, act) {
    return toolButton(this.bar, words, tip, act);
  }

  // The regions as the kernel knows them; changed here at once, there when it answers.
  get regions() {
    return this.local ?? this.model.get("regions");
  }

  set(regions) {
    this.local = regions;
    this.model.send({ regions });
    this.fit();
    this.picture.draw();
  }

  // The kernel has other regions: those are right.
  heard() {
    this.local = null;
    if (this.chosen >= this.regions.length) this.chosen = -1;
    this.fit();
    this.picture.draw();
  }

  take(tool) {
    if (tool && this.picture.correcting?.tool) this.picture.correcting.take(null);
    this.tool = tool;
    this.path = null;
    this.fit();
    this.picture.canvas.focus({ preventScroll: true });
    this.picture.draw();
  }

  choose(index) {
    this.chosen = index;
    this.fit();
    this.picture.draw();
  }

  fit() {
    this.bar.hidden = !this.model.get("tools");
    this.buttons.forEach((node, i) => node.setAttribute("aria-pressed", TOOLS[i][0] === this.tool));
    const region = this.regions[this.chosen];
    this.name.hidden = this.remover.hidden = !region;
    if (region && document.activeElement !== this.name) this.name.value = region.name;
    this.picture.canvas.classList.toggle("tilevision-draws", !!this.tool || !!this.picture.correcting?.tool);
  }

  add(points) {
    if (points.length < 3) return;
    let n = this.regions.length + 1;
    while (this.regions.some((region) => region.name === `Region ${n}`)) n++;
    this.chosen = this.regions.length;
    this.tool = null;
    this.set([...this.regions, { name: `Region ${n}`, parts: [[points]] }]);
  }

  rename(name) {
    if (!name.trim() || !this.regions[this.chosen]) return this.fit();
    this.set(this.regions.map((region, i) => (i === this.chosen ? { ...region, name: name.trim() } : region)));
  }

  remove() {
    if (!this.regions[this.chosen]) return;
    const gone = this.chosen;
    this.chosen = -1;
    this.set(this.regions.filter((_, i) => i !== gone));
  }

  // Pixels of the image to one of the page.
  get grain() {
    return this.picture.view[2] / (this.picture.canvas.clientWidth || 1);
  }

  at(event) {
    const { view, canvas } = this.picture;
    return [view[0] + (event.offsetX / canvas.clientWidth) * view[2], view[1] + (event.offsetY / canvas.clientHeight) * view[3]];
  }

  // The pointer's own events; true if they were about regions.
  down(event) {
    if (this.bar.hidden) return false;
    const point = this.at(event);
    if (this.tool === "polygon") {
      const first = this.path?.[0];
      if (this.path?.length > 2 && Math.hypot(point[0] - first[0], point[1] - first[1]) < REACH * this.grain) return this.close();
      const last = this.path?.at(-1);
      const again = last && Math.hypot(point[0] - last[0], point[1] - last[1]) < 2 * this.grain; // a double-click
      if (!again) this.path = [...(this.path ?? []), point];
      this.picture.draw();
      return true;
    }
    if (this.tool) {
      this.path = [point];
      return true;
    }
    this.corner = this.cornerAt(point);
    return this.corner !== null;
  }

  move(event) {
    const point = this.at(event);
    if (this.corner) {
      const { part, ring, index } = this.corner;
      const changed = structuredClone(this.regions);
      const points = changed[this.chosen].parts[part][ring];
      points[index] = point;
      // A ring may be closed by its first point.
      const last = points.length - 1;
      if (this.corner.closed) points[index === 0 ? last : index === last ? 0 : index] = point;
      this.local = changed;
      this.picture.draw();
      return true;
    }
    if (!this.path) return false;
    this.pointer = point;
    if (this.tool === "lasso") {
      const last = this.path[this.path.length - 1];
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) > LASSO_STEP * this.grain) this.path.push(point);
    }
    this.picture.draw();
    return true;
  }

  up(event) {
    if (this.corner) {
      this.corner = null;
      this.set(this.regions);
      return true;
    }
    if (!this.path || this.tool === "polygon") return !!this.path;
    const [[x0, y0]] = this.path;
    const [x1, y1] = this.at(event);
    const path = this.tool === "rectangle" ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : this.path;
    this.path = null;
    const least = REACH * this.grain;
    if (Math.abs(x1 - x0) > least && Math.abs(y1 - y0) > least || (this.tool === "lasso" && path.length > 5)) this.add(path);
    this.picture.draw();
    return true;
  }

  // A click that was no drag: the region whose border or name is there is selected.
  click(event) {
    if (this.bar.hidden) return false;
    const point = this.at(event);
    const index = this.regions.findIndex((region) => ringsOf(region).some((ring) => this.near(point, ring)));
    if (index < 0 && this.chosen < 0) return false;
    this.choose(index);
    return index >= 0;
  }

  near(point, ring) {
    return ring.some((corner, i) => toSegment(point, corner, ring[(i + 1) % ring.length]) < REACH * this.grain);
  }

  close() {
    const path = this.path ?? [];
    this.path = null;
    this.add(path);
    return true;
  }

  // Keys that are about regions; true if it was one.
  key(key) {
    if (key === "Enter" && this.path) return this.close();
    if (key === "Escape" && (this.tool || this.chosen >= 0)) {
      this.chosen = -1;
      this.take(null);
      return true;
    }
    if ((key === "Delete" || key === "Backspace") && this.regions[this.chosen]) {
      this.remove();
      return true;
    }
    return false;
  }

  cornerAt([x, y]) {
    const region = this.regions[this.chosen];
    if (!region) return null;
    for (const [part, rings] of region.parts.entries()) {
      for (const [ring, points] of rings.entries()) {
        const index = points.findIndex((corner) => Math.hypot(corner[0] - x, corner[1] - y) < REACH * this.grain);
        const [first, last] = [points[0], points[points.length - 1]];
        if (index >= 0) return { part, ring, index, closed: first[0] === last[0] && first[1] === last[1] };
      }
    }
    return null;
  }

  draw(context, scale) {
    if (this.bar.hidden) return;
    const { view, unit } = this.picture;
    const place = ([x, y]) => [(x - view[0]) * scale, (y - view[1]) * scale];
    this.regions.forEach((region, i) => this.drawRegion(context, region, i === this.chosen, place, unit));
    if (!this.path) return;
    const [x0, y0] = this.path[0];
    const [x1, y1] = this.pointer ?? this.path[0];
    const points = this.tool === "rectangle" ? [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] : [...this.path, this.pointer ?? this.path[0]];
    this.stroke(context, [points], place, unit, true, this.tool === "rectangle");
  }

  stroke(context, rings, place, unit, chosen, closed) {
    context.beginPath();
    for (const ring of rings) {
      ring.forEach((point, i) => context[i ? "lineTo" : "moveTo"](...place(point)));
      if (closed) context.closePath();
    }
    for (const [colour, width] of [["#000000c0", 4.5], [chosen ? "#4fc3f7" : "#ffffff", 2.2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.stroke();
    }
  }

  drawRegion(context, region, chosen, place, unit) {
    this.stroke(context, ringsOf(region), place, unit, chosen, true);
    const corners = ringsOf(region).flat();
    if (chosen && corners.length <= MOST_CORNERS) {
      for (const corner of corners) {
        const [x, y] = place(corner);
        context.fillStyle = "#000000";
        context.fillRect(x - 5 * unit, y - 5 * unit, 10 * unit, 10 * unit);
        context.fillStyle = "#4fc3f7";
        context.fillRect(x - 3.5 * unit, y - 3.5 * unit, 7 * unit, 7 * unit);
      }
    }
    const [x, y] = place(topOf(region));
    context.font = `600 ${12 * unit}px system-ui, sans-serif`;
    context.textAlign = "left";
    const words = region.name.slice(0, 40);
    const width = context.measureText(words).width;
    const above = Math.max(y - 6 * unit, 14 * unit);
    context.fillStyle = "#000000c0";
    const left = Math.max(Math.min(x, context.canvas.width - width - 10 * unit), 0);
    context.fillRect(left, above - 14 * unit, width + 10 * unit, 19 * unit);
    context.fillStyle = chosen ? "#4fc3f7" : "#ffffff";
    context.fillText(words, left + 5 * unit, above);
  }
}
