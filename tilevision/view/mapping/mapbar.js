// Below the picture of a run with a map: which layer of it is shown, how strongly, and what it
// says where the user clicked. Hidden as long as there is no map.
//
// A part of canvas.js.

const MAP_OPACITY = 0.6; // as the kernel has it

class MapBar {
  constructor(model, root) {
    this.model = model;
    this.bar = element("div", "tilevision-mapbar", root);
    const chosen = element("label", "", this.bar);
    chosen.append("Map");
    this.select = element("select", "tilevision-maplayer", chosen);
    this.select.setAttribute("aria-label", "Map");
    const faded = element("label", "", this.bar);
    faded.append("Opacity");
    this.slider = element("input", "tilevision-mapopacity", faded);
    Object.assign(this.slider, { type: "range", min: 0, max: 1, step: 0.05 });
    this.slider.setAttribute("aria-label", "Opacity of the map");
    this.reading = element("span", "tilevision-reading", this.bar);
    this.reading.setAttribute("role", "status");
    this.select.addEventListener("change", () => this.tell());
    this.slider.addEventListener("input", () => this.tell());
    this.changed = () => this.describe();
    for (const name of ["maps", "mapped", "reading"]) model.on(`change:${name}`, this.changed);
    this.describe();
  }

  tell() {
    this.model.set("mapped", { layer: this.select.value, opacity: Number(this.slider.value) });
    this.model.save_changes();
  }

  describe() {
    const layers = this.model.get("maps");
    this.bar.hidden = !layers.length;
    if (!layers.length) return;
    const keys = [...layers.map(([key]) => key), "off"];
    const words = [...layers.map(([, text]) => text), "off"];
    if (keys.join() !== [...this.select.options].map((one) => one.value).join()) {
      this.select.replaceChildren(
        ...keys.map((key, i) => Object.assign(document.createElement("option"), { value: key, textContent: words[i] })),
      );
    }
    const { layer, opacity } = this.model.get("mapped");
    this.select.value = keys.includes(layer) ? layer : keys[0];
    this.slider.value = opacity ?? MAP_OPACITY;
    this.reading.textContent = this.model.get("reading") || "Click reads the map";
  }

  close() {
    for (const name of ["maps", "mapped", "reading"]) this.model.off(`change:${name}`, this.changed);
  }
}
