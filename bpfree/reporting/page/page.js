"use strict";
// -- tables: sort by a head, filter by words ---------------------------------------------------
const value = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.v === undefined ? cell.textContent : parseFloat(cell.dataset.v);
};
const order = (a, b) =>
  typeof a === typeof b
    ? typeof a === "number" ? (isNaN(a) - isNaN(b)) || a - b : a.localeCompare(b)
    : typeof a === "number" ? -1 : 1; // what is no number comes last

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [value(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => down && typeof a === typeof b && a === a && b === b ? order(b, a) : order(a, b));
    body.append(...rows.map(([, row]) => row));
  });
}
for (const input of document.querySelectorAll(".filter input")) {
  const rows = [...input.closest("section").querySelectorAll("tbody tr")];
  const texts = rows.map(row => [...row.cells].map(cell => cell.textContent).join(" ").toLowerCase());
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    rows.forEach((row, i) => { row.hidden = !words.every(word => texts[i].includes(word)); });
    const shown = rows.filter(row => !row.hidden).length;
    input.closest(".filter").querySelector("output").textContent = `${shown} of ${rows.length}`;
  });
}

// -- charts: drawn when they come into view, in the colours of the page -------------------------
const root = document.documentElement;
const dark = matchMedia("screen and (prefers-color-scheme: dark)");
const hidden = new Set(), models = [];

const paint = model => {
  const [text, line, grid, ink] = dark.matches
    ? ["#9ba5b1", "#4a525c", "#2a3037", "#f4f4f4"] : ["#5b6470", "#b9c0c8", "#eceef1", "#000000"];
  if (model.major_label_text_color !== undefined) {
    Object.assign(model, {major_label_text_color: text, axis_label_text_color: text, axis_line_color: line, major_tick_line_color: line});
  } else if (model.grid_line_color !== undefined) {
    model.grid_line_color = grid;
  } else if (model.tags?.includes("ink")) {
    for (const part of ["line_color", "fill_color"]) if (model[part]?.value) model[part] = {value: ink};
  }
};
const draw = async figure => {
  const [place, data] = [figure.querySelector(".chart"), figure.querySelector("script")];
  if (!data) return;
  const item = JSON.parse(data.textContent);
  data.remove();
  const views = await Bokeh.embed.embed_item(item, place);
  for (const view of views) for (const model of view.model.document.all_models) {
    models.push(model);
    paint(model);
    if (hidden.has(model.name)) model.visible = false;
  }
};
const figures = [...document.querySelectorAll("figure")];
const watcher = new IntersectionObserver(seen => {
  for (const {isIntersecting, target} of seen) if (isIntersecting) { watcher.unobserve(target); draw(target); }
}, {rootMargin: "800px"});
figures.forEach(figure => watcher.observe(figure));
dark.addEventListener("change", () => models.forEach(paint));
// Paper is white, and figures are not drawn anew in time for it: the style sheet inverts dark ones.
addEventListener("beforeprint", () => { root.dataset.drawn = dark.matches ? "dark" : "light"; });
// Paper takes what is drawn already: the others follow when there is nothing else to do.
const idle = window.requestIdleCallback ?? (task => setTimeout(task, 100));
const drawNext = async () => {
  const next = figures.find(figure => figure.querySelector("script"));
  if (!next) return;
  await draw(next);
  idle(drawNext);
};
idle(drawNext);

for (const button of document.querySelectorAll("[data-curve]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.curve, show = hidden.delete(name);
    if (!show) hidden.add(name);
    for (const model of models) if (model.name === name) model.visible = show;
    for (const other of document.querySelectorAll("[data-curve]"))
      if (other.dataset.curve === name) other.setAttribute("aria-pressed", show);
  });
}
