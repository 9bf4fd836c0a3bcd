"""A brush that paints a mask over a picture: white where the picture is drawn anew.

Its value is {"picture": data URL or None, "mask": data URL or None}: the server sets the picture, the browser the mask,
of the picture's own size. The canvas is scaled to the page's width, so that pictures of few pixels can be painted too.
"""

from typing import Any

from dualdiff_jax.app.door import gr

TEMPLATE = """\
<div class="brush">
  <canvas aria-label="paint the part that is drawn anew" hidden></canvas>
  <p class="empty">Choose a picture; then paint here what is drawn anew.</p>
  <div class="tools" hidden><label>Brush <input type="range" min="2" max="60" value="20"></label>
  <button type="button">Clear</button></div>
</div>"""
STYLE = """\
.brush canvas { width: 100%; max-height: 420px; object-fit: contain; image-rendering: pixelated; cursor: crosshair;
  touch-action: none; border: 1px solid var(--border-color-primary); }
.brush .tools { display: flex; gap: 1rem; align-items: center; flex-wrap: wrap; }
.brush [hidden] { display: none; }
.brush button { padding: 0.2rem 0.8rem; border: 1px solid var(--border-color-primary); border-radius: 4px; }
.brush .empty { color: var(--body-text-color-subdued); }
"""
SCRIPT = """\
const canvas = element.querySelector("canvas"), context = canvas.getContext("2d");
const tools = element.querySelector(".tools"), empty = element.querySelector(".empty");
const mask = document.createElement("canvas"), paint = mask.getContext("2d");
let picture = null, last = null;

function show() {
  context.globalAlpha = 1;
  context.drawImage(picture, 0, 0);
  context.globalAlpha = 0.6;
  context.drawImage(mask, 0, 0);
}
function hand_over(is_painted) {
  props.value = {picture: null, mask: is_painted ? solid() : null};
  trigger("change");
}
function solid() {
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [mask.width, mask.height];
  const drawn = whole.getContext("2d");
  drawn.fillRect(0, 0, whole.width, whole.height);
  drawn.drawImage(mask, 0, 0);
  return whole.toDataURL("image/png");
}
function clear() {
  paint.clearRect(0, 0, mask.width, mask.height);
  show();
}
function load(value) {
  if (!value || !value.picture) return;
  const image = new Image();
  image.onload = () => {
    picture = image;
    for (const each of [canvas, mask]) [each.width, each.height] = [image.width, image.height];
    canvas.hidden = tools.hidden = false;
    empty.hidden = true;
    clear();
    hand_over(false);
  };
  image.src = value.picture;
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  return [
    (event.clientX - box.left - (box.width - scale * canvas.width) / 2) / scale,
    (event.clientY - box.top - (box.height - scale * canvas.height) / 2) / scale,
    scale,
  ];
}
function stroke(event) {
  const [x, y, scale] = place(event);
  const width = Math.max(element.querySelector("input").value / scale, 1);
  paint.strokeStyle = paint.fillStyle = "white";
  paint.lineCap = paint.lineJoin = "round";
  paint.lineWidth = width;
  paint.beginPath();
  paint.moveTo(...(last || [x, y]));
  paint.lineTo(x, y);
  paint.stroke();
  paint.fillRect(Math.floor(x), Math.floor(y), 1, 1);
  last = [x, y];
  show();
}
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", event => { if (event.buttons) stroke(event); });
canvas.addEventListener("pointerup", () => { last = null; hand_over(true); });
element.querySelector("button").addEventListener("click", () => { clear(); hand_over(false); });
watch("value", () => load(props.value));
load(props.value);
"""


def brush(name: str) -> Any:
    """Makes the component; ``uploads.receive_mask`` checks what a browser sends."""
    value = {"picture": None, "mask": None}
    return gr.HTML(value, html_template=TEMPLATE, css_template=STYLE, js_on_load=SCRIPT, elem_id=name)
