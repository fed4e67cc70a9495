"use strict";
(() => {
  const tip = document.getElementById("tip");
  const root = document.documentElement;

  document.getElementById("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const shown = root.dataset.theme || (dark ? "dark" : "light");
    root.dataset.theme = shown === "dark" ? "light" : "dark";
  });

  const say = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const right = event.clientX + 14 + width < innerWidth;
    tip.style.left = `${Math.max(4, right ? event.clientX + 14 : event.clientX - width - 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY - height - 8, innerHeight - height - 4))}px`;
  };

  const onMove = (plot, show, hide) => {
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", () => { tip.hidden = true; hide(); });
  };

  for (const plot of document.querySelectorAll("[data-hover]")) {
    const points = JSON.parse(plot.dataset.hover);
    const view = plot.querySelector("svg").viewBox.baseVal;
    const cross = document.createElement("i");
    cross.className = "cross";
    cross.hidden = true;
    plot.append(cross);
    onMove(plot, (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * view.width;
      const y = ((event.clientY - box.top) / box.height) * view.height;
      let best = null, least = Infinity;
      for (const point of points) {
        const away = (point[0] - x) ** 2 + (point[1] === null ? 0 : (point[1] - y) ** 2);
        if (away < least) [best, least] = [point, away];
      }
      cross.hidden = false;
      cross.style.left = `${(100 * best[0]) / view.width}%`;
      say(best[2], event);
    }, () => { cross.hidden = true; });
  }

  for (const plot of document.querySelectorAll("[data-grid]")) {
    const grid = JSON.parse(plot.dataset.grid);
    onMove(plot, (event) => {
      const box = plot.getBoundingClientRect();
      const place = (at, start, length, count) =>
        Math.min(count - 1, Math.max(0, Math.floor(((at - start) / length) * count)));
      const row = place(event.clientY, box.top, box.height, grid.rows.length);
      const column = place(event.clientX, box.left, box.width, grid.columns.length);
      say(`${grid.rows[row]}, ${grid.columns[column]}\nimages: ${grid.counts[row][column]}`, event);
    }, () => {});
  }

  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("main > details")) folded.open = true;
  });
})();
