// Buttons of the bars above the picture: in words where there is room, else as icons.
//
// A part of canvas.js. The style sheet decides which is shown; the name is the words either way.

// Lines in a square of 24.
const ICONS = {
  Rectangle: "M3 5h18v14H3z",
  Polygon: "M12 3l9 7-4 11H7L3 10z",
  Lasso: "M8 15c-3-1-5-3-5-5 0-3 4-6 9-6s9 3 9 6-4 6-9 6c-3 0-4-1-4-1zm0 0c-3 2-1 4 1 5",
  Tissue: "M6 5c4-3 8 1 12 0 4 3 1 7 2 10-2 5-7 3-10 5-5 0-6-4-6-8 1-3 0-5 2-7zM9 10h.5M14 9h.5M12 14h.5",
  "Delete region": "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  Accept: "M4 12l6 6L20 6",
  Delete: "M5 5l14 14M19 5L5 19",
  Reshape: "M8 6h8M8 18h8M6 8v8M18 8v8M4 4h4v4H4zM16 4h4v4h-4zM4 16h4v4H4zM16 16h4v4h-4z",
  "Add box": "M14 6H3v14h16v-9M19 2v7M15.5 5.5h7",
  "Add outline": "M13 6c-6-1-10 3-10 8 0 4 3 6 8 6 6 0 9-3 8-9M19 2v7M15.5 5.5h7",
  Undo: "M8 4L3 9l5 5M3 9h11a5.5 5.5 0 0 1 0 11h-4",
  Redo: "M16 4l5 5-5 5M21 9H10a5.5 5.5 0 0 0 0 11h4",
  "Next in doubt": "M3 8a4 4 0 1 1 5.5 3.700c-1.5.6-1.5 1.800-1.5 3M7 19v.5M13 12h8M18 8l4 4-4 4",
  "Whole image": "M3 4h18v16H3zM7 16l3.500-5 3 4 2-2.500 2.500 3.500",
  "Full screen": "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
};

function toolButton(bar, words, tip, act) {
  const node = document.createElement("button");
  node.type = "button";
  node.className = "tilevision-tool";
  node.title = tip.startsWith(words) ? tip : `${words}: ${tip}`;
  node.setAttribute("aria-label", words);
  const text = document.createElement("span");
  text.textContent = words;
  node.append(text);
  if (ICONS[words]) {
    node.classList.add("tilevision-iconic");
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    icon.setAttribute("viewBox", "0 0 24 24");
    icon.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", ICONS[words]);
    icon.append(path);
    node.append(icon);
  }
  node.addEventListener("click", act);
  bar.append(node);
  return node;
}
