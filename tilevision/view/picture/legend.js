// Entries of the legend, and the chooser of a class's colour.
//
// A part of canvas.js. Words hold untrusted labels: textContent only.

const HATCHES = {
  "/": (c) => `repeating-linear-gradient(135deg, ${c} 0 1.5px, transparent 1.5px 5px)`,
  "\\": (c) => `repeating-linear-gradient(45deg, ${c} 0 1.5px, transparent 1.5px 5px)`,
  x: (c) => `${HATCHES["/"](c)}, ${HATCHES["\\"](c)}`,
  "-": (c) => `repeating-linear-gradient(0deg, ${c} 0 1.5px, transparent 1.5px 5px)`,
  "|": (c) => `repeating-linear-gradient(90deg, ${c} 0 1.5px, transparent 1.5px 5px)`,
  ".": (c) => `radial-gradient(${c} 1.2px, transparent 1.6px) 0 0 / 6px 6px`,
};

function translucent(colour, opacity) {
  return colour + Math.round(opacity * 255).toString(16).padStart(2, "0");
}

function legendEntry(entry) {
  const item = element("li", "tilevision-entry");
  const swatch = element("span", "tilevision-swatch", item);
  swatch.setAttribute("aria-hidden", "true");
  if (entry.glyph) {
    const fill = translucent(entry.colour, entry.fill);
    const hatch = HATCHES[entry.hatch]?.(translucent(entry.colour, 0.8));
    swatch.style.background = [hatch, `linear-gradient(${fill}, ${fill})`].filter(Boolean).join(", ");
    swatch.style.borderColor = entry.colour;
    swatch.textContent = entry.glyph;
    swatch.classList.toggle("tilevision-framed", Boolean(entry.framed));
  } else {
    if (entry.dashed) swatch.classList.add("tilevision-outline");
    else if (entry.ramp) swatch.classList.add("tilevision-ramp");
    else if (!entry.wide) swatch.classList.add("tilevision-class");
    const ramp = entry.ramp && `linear-gradient(90deg, ${entry.ramp.join(", ")})`;
    swatch.style.background = entry.dashed ? "" : ramp ?? entry.colour;
  }
  const words = element("bdi", "", item);
  words.textContent = entry.words;
  return item;
}

// The swatch of a class is the browser's own chooser of colours; a click on it hides nothing.
function editable(item, entry, model) {
  const swatch = item.querySelector(".tilevision-swatch");
  const input = element("input", "tilevision-colour", swatch);
  swatch.removeAttribute("aria-hidden");
  input.type = "color";
  input.value = entry.colour.toLowerCase();
  input.title = "Change the colour of this class";
  input.setAttribute("aria-label", `Colour of ${entry.words}`);
  input.addEventListener("click", () => (input.dataset.open = ""));
  input.addEventListener("blur", () => delete input.dataset.open);
  input.addEventListener("change", () => {
    delete input.dataset.open;
    model.send({ colour: entry.key, value: input.value });
  });
  const keep = (event) => event.stopPropagation();
  for (const kind of ["click", "keydown"]) input.addEventListener(kind, keep);
  if (!entry.chosen) return;
  const reset = element("button", "tilevision-uncolour", item);
  reset.type = "button";
  reset.textContent = "↺";
  reset.title = "Its usual colour again";
  reset.setAttribute("aria-label", `Usual colour of ${entry.words}`);
  reset.addEventListener("keydown", keep);
  reset.addEventListener("click", (event) => {
    keep(event);
    model.send({ colour: entry.key, value: null });
  });
}
