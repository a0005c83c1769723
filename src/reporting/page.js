"use strict";
for (const box of document.querySelectorAll(".command")) {
  const button = box.querySelector("button");
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", () => navigator.clipboard.writeText(box.querySelector("code").textContent).then(
    () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); },
    () => { button.hidden = true; }));
}
for (const card of document.querySelectorAll(".card"))
  card.addEventListener("click", event => {
    const box = card.getBoundingClientRect(), image = card.firstElementChild, before = image.getBoundingClientRect();
    const across = (event.clientX - before.left) / before.width, down = (event.clientY - before.top) / before.height;
    card.classList.toggle("near");
    const after = image.getBoundingClientRect();
    card.scrollLeft = across * after.width - (event.clientX - box.left);
    card.scrollTop = down * after.height - (event.clientY - box.top);
  });
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
});
addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
