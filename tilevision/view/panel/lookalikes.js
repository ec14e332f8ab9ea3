// What looks like the open tile: thumbnails, labels by hand, a probe, and colours of the tiles.
//
// Names of classes are the user's own words: textContent only.

const PARTS = ["tile", "near", "pictures", "labels", "own", "modes", "mode", "words"];

function element(tag, className, parent, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

class View {
  constructor(model, el) {
    this.model = model;
    this.urls = [];
    this.root = element("section", "tilevision-alike", el);
    this.root.setAttribute("aria-label", "Tiles like this one");
    const row = element("div", "tilevision-alike-row", this.root);
    this.button("More like this", "Show the 20 tiles that look most like this one", row, () => this.ask("similar"));
    const colour = element("label", "", row, "Colour tiles by ");
    this.modes = element("select", "tilevision-alike-modes", colour);
    this.modes.addEventListener("change", () => this.ask("colour", this.modes.value));
    const form = element("form", "tilevision-alike-row", this.root);
    const label = element("label", "", form, "Label ");
    this.name = element("input", "tilevision-alike-name", label);
    this.name.placeholder = "class, as tumour";
    this.name.maxLength = 60;
    this.names = element("datalist", "", form);
    this.names.id = `tilevision-classes-${Math.random().toString(36).slice(2)}`;
    this.name.setAttribute("list", this.names.id);
    const put = this.button("Label this tile", "Put this tile into that class", form, () => {});
    put.type = "submit";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.name.value.trim()) this.ask("label", this.name.value.trim());
    });
    this.none = this.button("Remove label", "Put this tile into no class", form, () => this.ask("unlabel"));
    this.probe = this.button("Probe", "Tell all tiles apart by the labelled ones", form, () => this.ask("probe"));
    this.classes = element("ul", "tilevision-alike-classes", this.root);
    this.words = element("p", "tilevision-alike-words", this.root);
    this.words.setAttribute("role", "status");
    this.found = element("ol", "tilevision-alike-found", this.root);
  }

  button(words, title, parent, act) {
    const node = element("button", "tilevision-button", parent, words);
    node.type = "button";
    node.title = title;
    node.addEventListener("click", act);
    return node;
  }

  ask(what, argument = "") {
    const requests = (this.model.get("asked")[2] ?? 0) + 1;
    this.model.set("asked", [what, argument, requests]);
    this.model.save_changes();
  }

  go(number) {
    this.root.closest(".tilevision-panel")?.querySelector(".tilevision-picture")?.scrollIntoView({ block: "nearest" });
    this.ask("go", number);
  }

  redraw() {
    this.root.hidden = !this.model.get("tile");
    this.root.dataset.tile = this.model.get("tile");
    this.modes.replaceChildren(
      ...this.model.get("modes").map(([value, words]) => {
        const option = element("option", "", null, words);
        option.value = value;
        return option;
      }),
    );
    this.modes.value = this.model.get("mode");
    this.root.dataset.mode = this.model.get("mode");
    const labels = this.model.get("labels");
    const own = this.model.get("own");
    this.none.hidden = !own;
    this.probe.disabled = labels.length < 2;
    this.names.replaceChildren(
      ...labels.map(([name]) => {
        const option = element("option", "", null);
        option.value = name;
        return option;
      }),
    );
    this.classes.replaceChildren(
      ...labels.map(([name, count, colour]) => {
        const item = element("li", name === own ? "tilevision-own" : "", null);
        element("span", "tilevision-dot", item).style.background = colour;
        element("bdi", "", item, name);
        element("span", "", item, ` ${count}`);
        return item;
      }),
    );
    this.words.textContent = this.model.get("words");
    this.drawFound();
  }

  drawFound() {
    const near = this.model.get("near");
    const pictures = this.model.get("pictures");
    if (near === this.drawn) return;
    this.drawn = near;
    this.release();
    this.found.replaceChildren(
      ...near.map(([number, id, similarity], i) => {
        const item = element("li", "", null);
        const go = this.button("", `Go to tile ${id}`, item, () => this.go(number));
        go.classList.add("tilevision-alike-tile");
        const image = element("img", "", go);
        image.alt = "";
        const url = URL.createObjectURL(new Blob([pictures[i]], { type: "image/jpeg" }));
        this.urls.push(url);
        image.src = url;
        element("span", "", go, `${id} · ${similarity.toFixed(2)}`);
        return item;
      }),
    );
  }

  release() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    this.urls = [];
  }
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
  for (const name of PARTS) model.on(`change:${name}`, changed);
  view.redraw();
  return () => {
    for (const name of PARTS) model.off(`change:${name}`, changed);
    view.release();
  };
}

export default { render };
