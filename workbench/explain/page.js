"use strict";

const root = document.documentElement;
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// Light and dark: what the system says, until the button is pressed.
const theme = document.getElementById("theme");
const dark = () =>
  (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) ===
  "dark";
const nameTheme = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();

// One rung at a time.
const tabs = all('[role="tab"]');
const show = (tab) => {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
};
const follow = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const section = target && target.closest("section");
  const tab = section && tabs.find((t) => t.getAttribute("aria-controls") === section.id);
  if (tab) show(tab);
  if (target) target.scrollIntoView({ block: "center" });
};
if (tabs.length > 0) {
  tabs[0].parentElement.hidden = false;
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      show(next);
      next.focus();
    });
  });
  show(tabs[0]);
}
addEventListener("hashchange", follow);
follow();

// Sorting: lines in their own order, or those that executed by a column's figures.
const figure = (row, column) => {
  const value = row.cells[column].dataset.value;
  return value === undefined ? -Infinity : Number(value);
};
const sort = (table, head, descending) => {
  const column = head.cellIndex;
  const byLine = column === 0 && !descending;
  for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = all(".line", table);
  const sorted = table.tBodies[table.tBodies.length - 1];
  for (const file of all(".file", table)) file.hidden = !byLine;
  if (byLine) {
    rows.sort((a, b) => a.dataset.order - b.dataset.order);
  } else {
    const sign = descending ? -1 : 1;
    rows.sort((a, b) => sign * (figure(a, column) - figure(b, column)) ||
      a.dataset.order - b.dataset.order);
  }
  for (const row of rows) {
    row.hidden = !byLine && column !== 0 && row.cells[column].dataset.value === undefined;
    (byLine ? table.tBodies[row.dataset.body] : sorted).append(row);
  }
};
for (const table of all(".box table")) {
  for (const button of all("thead button", table)) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const now = head.getAttribute("aria-sort");
      sort(table, head, now ? now === "ascending" : head.cellIndex !== 0);
    });
  }
}

// Heat: the share of a line in the largest figure of the chosen column.
for (const select of all("select[data-table]")) {
  const table = document.getElementById(select.dataset.table);
  select.closest(".tools").hidden = false;
  select.addEventListener("change", () => {
    const column = Number(select.value);
    const rows = all(".line", table);
    const most = Math.max(0, ...rows.map((row) => figure(row, column)));
    for (const row of rows) {
      const value = Math.max(0, figure(row, column));
      row.style.setProperty("--h", most > 0 ? (value / most).toFixed(3) : 0);
      row.classList.toggle("hottest", most > 0 && value > 0.5 * most);
    }
  });
}
