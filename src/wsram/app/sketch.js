// A drawing as strokes; after each the page gets it as the data URL of a PNG, light on dark.
const canvas = element.querySelector("canvas"), draw = canvas.getContext("2d");
const side = canvas.width, step = 6, strokes = [];
let pen = {x: side / 2, y: side / 2}, stroke = null, keys = false;

function paint() {
  draw.fillStyle = "black";
  draw.fillRect(0, 0, side, side);
  draw.lineWidth = 22;
  draw.lineCap = draw.lineJoin = "round";
  draw.strokeStyle = "white";
  for (const points of strokes) {
    draw.beginPath();
    draw.moveTo(points[0].x, points[0].y);
    for (const point of points) draw.lineTo(point.x, point.y);
    draw.stroke();
  }
}

// Where the keyboard's pen is: on the screen alone, not in the drawing.
function point() {
  if (!keys) return;
  draw.beginPath();
  draw.arc(pen.x, pen.y, 8, 0, 2 * Math.PI);
  draw.fillStyle = stroke ? "#e69f00" : "#56b4e9";
  draw.fill();
}

function send() {
  stroke = null;
  paint();
  props.value = strokes.length ? canvas.toDataURL("image/png") : "";
  point();
  trigger("input");
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {x: (event.clientX - box.left) * side / box.width, y: (event.clientY - box.top) * side / box.height};
}

function begin(at) {
  stroke = [at];
  strokes.push(stroke);
  paint();
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  keys = false;
  canvas.setPointerCapture(event.pointerId);
  begin(place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke || keys) return;
  for (const each of event.getCoalescedEvents?.() ?? [event]) stroke.push(place(each));
  paint();
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { if (stroke && !keys) send(); });
canvas.addEventListener("keydown", (event) => {
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!way && event.key !== " ") return;
  event.preventDefault();
  keys = true;
  if (way) {
    pen = {x: Math.min(side, Math.max(0, pen.x + step * way[0])), y: Math.min(side, Math.max(0, pen.y + step * way[1]))};
    if (stroke) stroke.push(pen);
    paint();
    point();
  } else if (stroke) {
    send();
  } else {
    begin(pen);
    point();
  }
});
canvas.addEventListener("blur", () => { if (stroke) send(); keys = false; paint(); });
element.querySelector(".undo").addEventListener("click", () => { strokes.pop(); send(); });
element.querySelector(".clear").addEventListener("click", () => { strokes.length = 0; send(); });
paint();
