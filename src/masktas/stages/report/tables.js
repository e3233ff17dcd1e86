"use strict";
// Makes tables sortable by their column names: rising, falling, then the original order.
// Cells without a number or text stay at the end in both directions.
const collator = new Intl.Collator(undefined, { numeric: true });

function compare(a, b, falling) {
  const empty = (cell) => ["", "–", "-"].includes(cell.textContent.trim());
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  const number = (cell) => ("value" in cell.dataset ? Number(cell.dataset.value) : null);
  const [x, y] = [number(a), number(b)];
  if ((x === null) !== (y === null)) return x === null ? 1 : -1;
  const order = x === null ? collator.compare(a.textContent, b.textContent) : x - y;
  return falling ? -order : order;
}

function sortable(table) {
  const [body] = table.tBodies;
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null };
      const order = head.hasAttribute("aria-sort")
        ? next[head.getAttribute("aria-sort")] : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) head.setAttribute("aria-sort", order);
      const rows = [...original];
      if (order) {
        rows.sort((a, b) => compare(a.cells[column], b.cells[column], order === "descending"));
      }
      body.append(...rows);
    });
  });
}

function sortTables(root) {
  root.querySelectorAll("table.sortable").forEach(sortable);
}

sortTables(document);
