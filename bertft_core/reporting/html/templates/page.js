"use strict";
// A table is sorted by the column whose name is pressed, a long table or list is filtered by what is typed; without
// this script both are as they stand. Neither of XML's two signs, less-than and ampersand, may be written here.
const text = (cell) => {
  const parts = Array.from(cell.childNodes).filter((part) => part.nodeName !== "SMALL"); // an interval below a value
  return parts.map((part) => part.textContent).join("").trim();
};
const number = (said) => Number.parseFloat(said.replace(/[,\s]/g, "").replace("−", "-"));
const by = (column, turn) => (one, other) => {
  const [a, b] = [one, other].map((row) => text(row.cells[column]));
  const [x, y] = [a, b].map(number);
  if (Number.isNaN(x) || Number.isNaN(y)) {
    return Number.isNaN(x) - Number.isNaN(y) || turn * a.localeCompare(b);
  }
  return turn * (x - y);
};

function sortable(table) {
  const body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells), asWritten = Array.from(body.rows);
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = {ascending: "descending", descending: ""}[head.getAttribute("aria-sort")] ?? "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      body.append(...(next ? Array.from(asWritten).sort(by(column, next === "ascending" ? 1 : -1)) : asWritten));
    });
  });
}

function filtered(before, entries, what) {
  const [label, field, said] = ["label", "input", "output"].map((name) => document.createElement(name));
  field.type = "search";
  label.append(`Filter ${what} `, field, " ", said);
  label.className = "filter";
  before.before(label);
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    entries.forEach((entry) => { entry.hidden = !entry.textContent.toLowerCase().includes(wanted); });
    said.textContent = wanted ? `${entries.filter((entry) => !entry.hidden).length} of ${entries.length}` : "";
  });
}

for (const table of document.querySelectorAll(".scroll table:not(.matrix)")) {
  if (table.tBodies[0].rows.length > 2) sortable(table);
  if (table.tBodies[0].rows.length > 12) filtered(table.parentElement, Array.from(table.tBodies[0].rows), "rows");
}
for (const list of document.querySelectorAll("ul.rows")) {
  if (list.children.length > 7) filtered(list, Array.from(list.children), "texts");
}
