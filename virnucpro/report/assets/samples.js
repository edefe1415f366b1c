"use strict";
// A click on a column's name sorts by it: numbers from the highest on, names from A on; a second click turns it round.
const table = document.getElementById("table");
const body = table.tBodies[0];
for (const button of table.tHead.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const numbers = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : !numbers;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const compare = numbers ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
    body.append(...[...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
  });
}
