"""A map of images as one HTML page that opens from disk: hover over a point to see the image and its neighbours."""

import base64
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from common.files import write_text
from explaining.embedding_map import View

SIDES = (96, 64, 48, 32, 24)  # pixels of a thumbnail, the largest whose sum is small enough
MOST_BYTES = 6_000_000        # of all thumbnails
A_SIDE = 16                   # thumbnails in a line and in a column of one JPEG: a header for 256 of them
QUALITY = 72                  # of the JPEGs


@dataclass(frozen=True)
class Points:
    """n images on a map and, for each, its nearest cases, which may stand beside the map.

    places (n, 2) in [0, 1];  names, truths: n texts and then those of cases that are not on the map;  said: n texts,
    what was predicted;  near (n, c): into names, -1 for none;  distances (n, c).
    """

    places: np.ndarray
    names: list[str]
    truths: list[str]
    said: list[str]
    near: np.ndarray
    distances: np.ndarray


def write_page(path: Path, title: str, note: str, points: Points, views: list[View], images: np.ndarray) -> Path:
    """Writes the page; images: uint8 (n, S, S) or (n, S, S, 3). Thumbnails shrink until they have 6 MB together."""
    side, sheets = pack_thumbnails(images)
    data = {
        "places": np.round(points.places, 4).tolist(), "names": points.names, "truths": points.truths,
        "said": points.said, "near": points.near.tolist(),
        "distances": [[None if np.isnan(value) else round(float(value), 4) for value in row]
                      for row in points.distances],
        "views": [{"name": view.name, "texts": view.texts, "colours": view.colours, "values": view.values.tolist()}
                  for view in views],
        "side": side, "aSide": A_SIDE,
        "sheets": ["data:image/jpeg;base64," + base64.b64encode(sheet).decode() for sheet in sheets],
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # an id cannot end the script
    page = PAGE
    for mark, value in (("TITLE", html.escape(title)), ("NOTE", html.escape(note)), ("DATA", text)):
        page = page.replace(f"@@{mark}@@", value)
    return write_text(path, page)


def pack_thumbnails(images: np.ndarray, most_bytes: int = MOST_BYTES) -> tuple[int, list[bytes]]:
    """The side of a thumbnail in pixels, and JPEGs of A_SIDE x A_SIDE of them, line by line."""
    for side in SIDES:
        side = min(side, images.shape[1])
        sheets = [_pack(images[first:first + A_SIDE**2], side) for first in range(0, len(images), A_SIDE**2)]
        if sum(map(len, sheets)) <= most_bytes:
            break
    return side, sheets


def _pack(images: np.ndarray, side: int) -> bytes:
    lines = -(-len(images) // A_SIDE)
    sheet = np.zeros((lines * side, A_SIDE * side, *images.shape[3:]), np.uint8)
    for number, image in enumerate(images):
        top, left = number // A_SIDE * side, number % A_SIDE * side
        sheet[top:top + side, left:left + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>@@TITLE@@</title>
<style>
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --dim: #5f6368; --line: #d5d8dc; }
@media (prefers-color-scheme: dark) { :root { --back: #17191c; --text: #e8eaed; --dim: #9aa0a6; --line: #3c4043; } }
body { margin: 0; padding: 12px 16px; background: var(--back); color: var(--text);
       font: 14px/1.4 system-ui, sans-serif }
h1 { font-size: 18px; margin: 0 }
p { color: var(--dim); margin: 4px 0 10px; max-width: 110ch }
main { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start }
#left { flex: 3 1 340px; min-width: 0 }
#right { flex: 1 1 300px; min-width: 0 }
canvas#map { width: 100%; border: 1px solid var(--line); border-radius: 6px; touch-action: none; cursor: crosshair;
             display: block }
#controls { display: flex; flex-wrap: wrap; gap: 6px 14px; margin-bottom: 8px; align-items: center }
select, button { font: inherit; max-width: 100% }
#legend { display: flex; flex-wrap: wrap; gap: 2px 12px; margin-top: 8px }
#legend span { white-space: nowrap; cursor: pointer }
#legend .off { opacity: .35 }
#legend i { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 5px }
.case { display: flex; gap: 10px; margin: 0 0 10px; overflow-wrap: anywhere }
.case canvas { flex: none; background: #000; border-radius: 3px }
.case div { min-width: 0 }
b { font-weight: 600 }
.dim { color: var(--dim) }
</style>
<h1>@@TITLE@@</h1>
<p>@@NOTE@@</p>
<main>
<div id="left">
<div id="controls">
<label>colour by <select id="view"></select></label>
<label><input type="checkbox" id="pictures"> draw the images</label>
<button id="reset">whole map</button>
<span class="dim">wheel: closer; drag: move; click: hold an image</span>
</div>
<canvas id="map"></canvas>
<div id="legend"></div>
</div>
<div id="right"><p>Hover over a point.</p></div>
</main>
<script id="data" type="application/json">@@DATA@@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent), count = data.places.length;
const canvas = document.getElementById("map"), pen = canvas.getContext("2d"), right = document.getElementById("right");
const select = document.getElementById("view"), legend = document.getElementById("legend");
const pictures = document.getElementById("pictures");
const sheets = data.sheets.map(source => { const image = new Image(); image.onload = draw; image.src = source;
                                           return image; });
let view = data.views[0], hidden = new Set(), zoom = 1, middle = [0.5, 0.5], hovered = -1, held = false, dragged = null;
let waiting = false;

data.views.forEach((each, number) => select.add(new Option(each.name, number)));
select.onchange = () => { view = data.views[select.value]; hidden = new Set(); showLegend(); draw(); };
pictures.onchange = draw;
document.getElementById("reset").onclick = () => { zoom = 1; middle = [0.5, 0.5]; draw(); };

function fit() {
  const wide = canvas.clientWidth, high = Math.max(280, Math.min(wide, window.innerHeight - 190));
  const dots = window.devicePixelRatio || 1;
  canvas.style.height = high + "px";
  canvas.width = Math.round(wide * dots); canvas.height = Math.round(high * dots);
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  draw();
}
function scale() { return zoom * (Math.min(canvas.clientWidth, canvas.clientHeight) - 40); }
function where(row) {
  const size = scale(), place = data.places[row];
  return [(place[0] - middle[0]) * size + canvas.clientWidth / 2,
          (middle[1] - place[1]) * size + canvas.clientHeight / 2];
}
function thumbnail(target, row, left, top, size) {
  const each = data.aSide * data.aSide, sheet = sheets[Math.floor(row / each)], place = row % each;
  if (sheet.complete && sheet.naturalWidth)
    target.drawImage(sheet, place % data.aSide * data.side, Math.floor(place / data.aSide) * data.side,
                     data.side, data.side, left, top, size, size);
}
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
}
function paint() {
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const radius = Math.min(6, (count > 1500 ? 2.2 : 3.5) * Math.sqrt(zoom)), side = Math.min(64, 14 * Math.sqrt(zoom));
  for (let row = 0; row < count; row++) {
    if (hidden.has(view.values[row])) continue;
    const [x, y] = where(row);
    if (x < -40 || y < -40 || x > canvas.clientWidth + 40 || y > canvas.clientHeight + 40) continue;
    pen.fillStyle = view.colours[view.values[row]];
    if (pictures.checked) {
      pen.fillRect(x - side / 2 - 2, y - side / 2 - 2, side + 4, side + 4);
      thumbnail(pen, row, x - side / 2, y - side / 2, side);
    } else {
      pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.fill();
    }
  }
  if (hovered < 0) return;
  const ink = getComputedStyle(document.body).color, [x, y] = where(hovered);
  pen.strokeStyle = ink; pen.lineWidth = 1;
  for (const near of data.near[hovered]) if (near >= 0 && near < count) {
    const [a, b] = where(near);
    pen.globalAlpha = 0.5; pen.beginPath(); pen.moveTo(x, y); pen.lineTo(a, b); pen.stroke(); pen.globalAlpha = 1;
    pen.beginPath(); pen.arc(a, b, radius + 2, 0, 7); pen.stroke();
  }
  pen.lineWidth = 2; pen.beginPath(); pen.arc(x, y, radius + 4, 0, 7); pen.stroke();
}
function showLegend() {
  const counts = view.texts.map(() => 0);
  for (const value of view.values) counts[value]++;
  legend.replaceChildren(...view.texts.flatMap((text, number) => {
    if (!counts[number]) return [];
    const entry = document.createElement("span"), dot = document.createElement("i");
    dot.style.background = view.colours[number];
    entry.append(dot, `${text} (${counts[number].toLocaleString("en")})`);
    entry.title = "show or hide";
    entry.onclick = () => { hidden.has(number) ? hidden.delete(number) : hidden.add(number);
                            entry.classList.toggle("off"); draw(); };
    return [entry];
  }));
}
function showCase(row, size, distance) {
  const box = document.createElement("div"), text = document.createElement("div");
  box.className = "case";
  if (row < count) {
    const small = document.createElement("canvas");
    small.width = small.height = size;
    thumbnail(small.getContext("2d"), row, 0, 0, size);
    box.append(small);
  }
  const add = (kind, words, style) => {
    const line = document.createElement(kind);
    line.textContent = words; line.className = style || "";
    text.append(line, document.createElement("br"));
  };
  add("b", data.names[row]);
  add("span", "label: " + data.truths[row]);
  if (row < count) add("span", data.said[row], distance === undefined ? "" : "dim");
  if (distance !== undefined) add("span", "distance " + distance, "dim");
  box.append(text);
  return box;
}
function show(row) {
  const parts = [showCase(row, 160)], near = data.near[row].filter(each => each >= 0);
  const head = document.createElement("p");
  head.textContent = near.length ? "Its nearest training cases, by the model that did not see it:" : "";
  parts.push(head, ...near.map((each, place) => showCase(each, 72, data.distances[row][place])));
  right.replaceChildren(...parts);
}
function pick(event) {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = pictures.checked ? 600 : 200;
  for (let row = 0; row < count; row++) {
    if (hidden.has(view.values[row])) continue;
    const [a, b] = where(row), far = (a - x) ** 2 + (b - y) ** 2;
    if (far < least) { least = far; best = row; }
  }
  return best;
}
canvas.addEventListener("pointermove", event => {
  if (dragged) {
    const size = scale();
    const across = event.clientX - dragged.x, down = event.clientY - dragged.y;
    middle = [dragged.middle[0] - across / size, dragged.middle[1] + down / size];
    dragged.moved = dragged.moved || Math.hypot(across, down) > 4;
    draw();
  } else if (!held) {
    const row = pick(event);
    if (row >= 0 && row !== hovered) { hovered = row; show(row); draw(); }
  }
});
canvas.addEventListener("pointerdown", event => {
  dragged = { x: event.clientX, y: event.clientY, middle: middle.slice(), moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointerup", event => {
  if (dragged && !dragged.moved) {
    const row = pick(event);
    held = row >= 0 && !(held && row === hovered);
    if (row >= 0) { hovered = row; show(row); }
  }
  dragged = null;
  draw();
});
canvas.addEventListener("pointercancel", () => { dragged = null; });
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left - canvas.clientWidth / 2;
  const y = event.clientY - box.top - canvas.clientHeight / 2, before = scale();
  zoom = Math.min(60, Math.max(0.5, zoom * Math.exp(-event.deltaY / 400)));
  const after = scale();
  middle = [middle[0] + x / before - x / after, middle[1] - y / before + y / after];
  draw();
}, { passive: false });
window.addEventListener("resize", fit);
showLegend();
fit();
</script>
</html>
"""
