"use strict";
(() => {
  const { palette, charts } = JSON.parse(document.getElementById("drawn").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const coarse = matchMedia("(pointer: coarse)");
  let printing = false;

  // Colours are written for a light page; on a dark one each gives way to its counterpart.
  const themed = (figure) =>
    JSON.parse(JSON.stringify(figure), (key, value) =>
      dark.matches && !printing && key.toLowerCase().endsWith("color") ? recoloured(value) : value);
  const recoloured = (value) =>
    Array.isArray(value) ? value.map(recoloured) : Object.hasOwn(palette, value) ? palette[value] : value;

  const draw = (name) => {
    const place = document.getElementById(`chart-${name}`);
    const { data, layout } = themed(charts[name]);
    if (narrow.matches) {
      layout.font.size = 11;
      for (const axis of ["xaxis", "yaxis"]) layout[axis].nticks = 5;
    }
    // A finger that moves over a chart scrolls the page.
    if (coarse.matches) layout.dragmode = false;
    const hover = dark.matches && !printing ? "#2c333c" : "#ffffff";
    layout.hoverlabel = { bgcolor: hover, font: { color: layout.font.color }, align: "left" };
    const config = { responsive: true, displaylogo: false, displayModeBar: false, showTips: false };
    return Plotly.react(place, data, layout, config).then(() => { place.dataset.drawn = "yes"; });
  };
  const drawAll = () => Object.keys(charts).map(draw);

  drawAll();
  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          const [i, j] = [Number(x), Number(y)];
          const by = Number.isNaN(i) || Number.isNaN(j) ? x.localeCompare(y) : i - j;
          return up ? by : -by;
        };
        table.tBodies[0].append(...rows.sort(order));
      });
    });
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("pre");
      getSelection().selectAllChildren(text);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected";
      }
    });
  }
})();
