// A click on a heading sorts its table by that column; summaries stay at the end.
document.querySelectorAll("table").forEach(table => table.querySelectorAll("th").forEach((head, column) => {
  const button = head.querySelector("button");
  if (!button) return;
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => {
      const cell = row.cells[column], value = cell.dataset.key;
      return value === undefined ? cell.textContent.trim() : Number(value);
    };
    const order = (a, b) => typeof a !== typeof b ? (typeof a === "number" ? -1 : 1)
      : typeof a === "number" ? a - b : a.localeCompare(b);
    const rows = [...table.tBodies[0].rows].filter(row => !row.classList.contains("total"));
    rows.sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)));
    table.tBodies[0].prepend(...rows);
  });
}));
