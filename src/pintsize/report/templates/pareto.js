"use strict";
// A point of a plot shows its run and recipe while it is pointed at or has the focus; Escape hides it.
for (const plot of document.querySelectorAll(".plot")) {
  const tip = plot.querySelector(".tip");
  const hide = () => { tip.hidden = true; };
  const show = point => {
    const run = document.getElementById("run-" + point.dataset.run);
    const name = document.createElement("strong"), recipe = document.createElement("pre");
    name.textContent = point.getAttribute("aria-label");
    recipe.textContent = run.dataset.brief;
    tip.replaceChildren(name, recipe);
    tip.hidden = false;
    const frame = plot.getBoundingClientRect(), dot = point.getBoundingClientRect();
    const left = dot.left - frame.left + dot.width / 2 - tip.offsetWidth / 2;
    tip.style.left = Math.max(0, Math.min(left, frame.width - tip.offsetWidth)) + "px";
    tip.style.top = dot.bottom - frame.top + 8 + "px";
  };
  for (const point of plot.querySelectorAll("a[data-run]")) {
    point.addEventListener("mouseenter", () => show(point));
    point.addEventListener("mouseleave", hide);
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", hide);
  }
  plot.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
}
