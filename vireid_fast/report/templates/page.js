"use strict";
// What a page does beyond being read. Without scripts it still shows everything.
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Storage may be closed to a page that is opened as a file.
  const remembered = () => { try { return localStorage.getItem("vireid-theme"); } catch { return null; } };
  const remember = (value) => { try { localStorage.setItem("vireid-theme", value); } catch { /* not kept */ } };
  const isDark = () => (root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const chosen = remembered();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  function themeButton() {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      remember(root.dataset.theme);
      label();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
  }

  // Tables: a head cell with data-sort="number" or "text" gets a button; data-value beats the text.
  function sortableTable(table) {
    const heads = all("thead th", table);
    const body = table.tBodies[0];
    heads.forEach((head, column) => {
      const kind = head.dataset.sort;
      if (!kind) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = kind === "number" ? "descending" : "ascending";
        const other = first === "descending" ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        sortRows(body, column, kind, order === "ascending" ? 1 : -1);
      });
    });
  }

  function sortRows(body, column, kind, sign) {
    const key = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim();
      return kind === "number" ? parseFloat(text) : text;
    };
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (kind === "text") return sign * x.localeCompare(y, "en", { numeric: true });
      // What is no number stands last in both orders.
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    };
    body.append(...[...body.rows].sort(compare));
  }

  // Lists: a form with data-filters="ID OF THE LIST". Each control has a name, which is a data
  // field of the items: checkboxes keep what is checked, data-only what has the field "yes", a
  // text what contains it, and the control called "order" sorts by "field" or "-field".
  function filteredList(form) {
    const list = document.getElementById(form.dataset.filters);
    const items = [...list.children];
    const output = form.querySelector("output");
    const boxes = all("input[type=checkbox]:not([data-only])", form);
    const fields = [...new Set(boxes.map((box) => box.name))];
    const only = all("input[data-only]", form);
    const texts = all("input[type=text]", form);
    const fits = (item) => fields.every((name) => boxes.some(
      (box) => box.name === name && box.checked && box.value === item.dataset[name]))
      && only.every((box) => !box.checked || item.dataset[box.name] === "yes")
      && texts.every((text) => item.dataset[text.name].toLowerCase().includes(text.value.trim().toLowerCase()));
    function apply() {
      items.forEach((item) => { item.hidden = !fits(item); });
      const shown = items.filter((item) => !item.hidden).length;
      output.value = shown ? `${shown} of ${items.length} shown`
        : "None fits. Check more kinds, or clear the text.";
    }
    function order() {
      const value = form.elements.order.value;
      const field = value.replace("-", "");
      const sign = value.startsWith("-") ? -1 : 1;
      const sorted = field === "" ? items
        : [...items].sort((a, b) => sign * (a.dataset[field] - b.dataset[field]));
      list.append(...sorted);
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { apply(); });
    if (form.elements.order) form.elements.order.addEventListener("change", order);
    apply();
  }

  function featureMap(figure) {
    const points = all("svg.chart .point", figure);
    const svg = figure.querySelector("svg.chart");
    const form = figure.querySelector("form");
    const output = form.querySelector("output");
    const identity = form.elements.identity;
    const modalities = all("input[name=modality]", form);
    function apply() {
      const shown = new Set(modalities.filter((box) => box.checked).map((box) => box.value));
      const wanted = identity.value;
      const counts = {};
      points.forEach((point) => {
        point.toggleAttribute("hidden", !shown.has(point.dataset.modality));
        const is = wanted !== "" && point.dataset.identity === wanted;
        point.classList.toggle("chosen", is);
        if ((is || wanted === "") && shown.has(point.dataset.modality)) {
          counts[point.dataset.modality] = (counts[point.dataset.modality] ?? 0) + 1;
        }
      });
      svg.classList.toggle("highlighting", wanted !== "");
      figure.classList.toggle("by-identity", form.elements.colour.value === "identity");
      // The chosen ones are drawn last, so above the others.
      if (wanted !== "") points.filter((p) => p.classList.contains("chosen")).forEach((p) => p.parentNode.append(p));
      const words = Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", ");
      output.value = `${wanted === "" ? "All identities" : `Identity ${wanted}`}: ${words || "no points"}`;
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    form.querySelector("button[data-clear]").addEventListener("click", () => {
      identity.value = "";
      modalities.forEach((box) => { box.checked = true; });
      apply();
    });
    svg.addEventListener("click", (event) => {
      const point = event.target.closest(".point");
      identity.value = point && point.dataset.identity !== identity.value ? point.dataset.identity : "";
      apply();
    });
    // Links elsewhere on the page that show an identity here.
    all("a[data-identity]").forEach((link) => link.addEventListener("click", () => {
      identity.value = link.dataset.identity;
      apply();
    }));
    apply();
  }

  document.addEventListener("DOMContentLoaded", () => {
    all(".scripted-only").forEach((each) => { each.hidden = false; });
    themeButton();
    all("table[data-sortable]").forEach(sortableTable);
    all("form[data-filters]").forEach(filteredList);
    all("figure[data-map]").forEach(featureMap);
  });
})();
