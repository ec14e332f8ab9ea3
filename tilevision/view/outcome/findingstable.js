// A table of all detections that draws only the rows in sight.
//
// Names come from models, so they are untrusted: textContent only.

const ROW = 24; // px
const MORE = 8; // rows drawn above and below those in sight
const COLUMNS = [["#", null], ["Class", 0], ["Score", 1], ["Area", 2]];

function element(tag, className, parent, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

// Three digits, zeros at the end included, so that a column can be read down.
function number(value) {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value < 0.001 ? String(Number(value.toPrecision(3))) : value.toPrecision(3);
}

class Table {
  constructor(model, el) {
    this.model = model;
    this.rows = new Float32Array();
    this.names = this.colours = [];
    this.order = new Uint32Array();
    this.column = null;
    this.down = false;
    this.had = -1;
    this.root = element("div", "tilevision-findings", el);
    this.words = element("p", "tilevision-empty", this.root);
    this.head = element("div", "tilevision-findings-row tilevision-findings-head", this.root);
    this.heads = COLUMNS.map(([words, column]) => {
      const button = element("button", "tilevision-sort", this.head, words);
      button.type = "button";
      button.addEventListener("click", () => this.sort(column));
      return button;
    });
    this.scroll = element("div", "tilevision-findings-scroll", this.root);
    this.scroll.tabIndex = 0;
    this.scroll.setAttribute("role", "listbox");
    this.scroll.setAttribute("aria-label", "Detections");
    this.inner = element("div", "tilevision-findings-inner", this.scroll);
    this.scroll.addEventListener("scroll", () => this.draw(), { passive: true });
    this.scroll.addEventListener("keydown", (event) => this.step(event));
    this.seen = new IntersectionObserver(() => this.ask());
    this.seen.observe(this.root);
  }

  // Rows are asked for when the table is in sight and has not those that there are.
  ask() {
    if (!this.root.offsetParent || this.asked === this.model.get("version")) return;
    this.asked = this.model.get("version");
    this.model.send({ ask: true });
  }

  receive(told, buffers) {
    if (told.names === undefined) return;
    const bytes = buffers[0];
    this.rows = bytes?.byteLength ? new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)) : new Float32Array();
    Object.assign(this, { names: told.names, colours: told.colours, had: told.version });
    this.heads[3].textContent = told.unit ? `Area, ${told.unit}` : "Area";
    this.arrange();
    this.follow();
  }

  get length() {
    return this.rows.length / 3;
  }

  sort(column) {
    this.down = this.column === column ? !this.down : column === 1 || column === 2;
    this.column = column;
    this.tell();
    this.arrange();
    this.scroll.scrollTop = 0;
  }

  // The kernel steps from object to object in the same order.
  tell() {
    this.model.send({ sort: [this.column, this.down] });
  }

  arrange() {
    const { rows, column, down } = this;
    this.order = Uint32Array.from({ length: this.length }, (_, i) => i);
    if (column !== null) {
      const sign = down ? -1 : 1;
      const rank = this.names.map((_, i) => i);
      [...rank].sort((a, b) => this.names[a].localeCompare(this.names[b])).forEach((label, i) => (rank[label] = i));
      // What has no score comes last either way.
      const key = Float64Array.from({ length: this.length }, (_, i) => {
        const value = column === 0 ? rank[rows[3 * i]] : rows[3 * i + column];
        return Number.isNaN(value) ? Infinity : sign * value;
      });
      this.order.sort((a, b) => (key[a] < key[b] ? -1 : key[a] > key[b] ? 1 : a - b));
    } else if (down) this.order.reverse();
    this.inner.style.height = `${this.length * ROW}px`;
    this.words.hidden = this.length > 0;
    this.words.textContent = this.length ? "" : "No detections.";
    this.heads.forEach((button, i) => {
      const mine = COLUMNS[i][1] === column;
      button.setAttribute("aria-sort", mine ? (down ? "descending" : "ascending") : "none");
    });
    this.draw();
  }

  draw() {
    const first = Math.max(Math.floor(this.scroll.scrollTop / ROW) - MORE, 0);
    const last = Math.min(first + Math.ceil(this.scroll.clientHeight / ROW) + 2 * MORE, this.length);
    const selected = this.model.get("selected");
    const lines = [];
    for (let place = first; place < last; place++) lines.push(this.line(place, this.order[place], selected));
    this.inner.replaceChildren(...lines);
  }

  line(place, row, selected) {
    const [label, score, area] = this.rows.subarray(3 * row, 3 * row + 3);
    const line = element("div", "tilevision-findings-row");
    line.style.top = `${place * ROW}px`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", row === selected);
    line.dataset.row = row;
    element("span", "tilevision-number", line, String(row + 1));
    const name = element("span", "tilevision-findings-name", line);
    element("span", "tilevision-dot", name).style.background = this.colours[label];
    element("bdi", "", name, this.names[label]);
    element("span", "tilevision-number", line, Number.isNaN(score) ? "–" : score.toFixed(2));
    element("span", "tilevision-number", line, number(area));
    line.addEventListener("click", () => this.pick(row));
    return line;
  }

  pick(row) {
    this.scroll.focus({ preventScroll: true });
    this.model.send({ pick: row });
  }

  step(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.length) return;
    event.preventDefault();
    const at = this.order.indexOf(this.model.get("selected"));
    const next = Math.min(Math.max(at + steps[event.key], 0), this.length - 1);
    this.model.send({ pick: this.order[next] });
  }

  // Show the selected row, wherever it stands now.
  follow() {
    const place = this.order.indexOf(this.model.get("selected"));
    if (place >= 0) {
      const top = place * ROW;
      const { scrollTop, clientHeight } = this.scroll;
      if (top < scrollTop || top + ROW > scrollTop + clientHeight) this.scroll.scrollTop = top - clientHeight / 2;
    }
    this.draw();
  }
}

function render({ model, el }) {
  const table = new Table(model, el);
  const ask = () => table.ask();
  const follow = () => table.follow();
  const receive = (told, buffers) => table.receive(told, buffers ?? []);
  model.on("change:version", ask);
  model.on("change:selected", follow);
  model.on("msg:custom", receive);
  table.arrange();
  table.tell();
  ask();
  return () => {
    table.seen.disconnect();
    model.off("change:version", ask);
    model.off("change:selected", follow);
    model.off("msg:custom", receive);
  };
}

export default { render };
