// The page: a drawing or an image goes to the network after every stroke, and what it did is shown glimpse by glimpse.

import { open } from "./network.js";

const MOMENT = 500; // milliseconds between two glimpses
const LARGEST = 1024; // pixels on the longer side of an image that is opened
const LISTED = 5; // names beside a bar

const part = (id) => document.getElementById(id);
const pixels = part("pixels");
const squares = part("squares");
const shown = part("shown");
const pen = pixels.getContext("2d", { willReadFrequently: true });
const still = matchMedia("(prefers-reduced-motion: reduce)");

let network;
let about;
let found = [];
let timer;
let cursor = null; // where the keyboard's pen is, and whether it is down

function problem(text) {
  part("problem").textContent = text;
}

/** An empty canvas of that size and colour, and a pen. */
function empty(width, height, ground) {
  pixels.width = width; // which forgets everything, the pen too
  pixels.height = height;
  pen.fillStyle = ground;
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.strokeStyle = "#fff";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = about.stroke;
  problem("");
}

/** The canvas as the network takes images: planes of grey, as Pillow makes it of colours, or of colour; 0 to 1. */
function image() {
  const { width, height } = pixels;
  const { data } = pen.getImageData(0, 0, width, height);
  const { channels } = network.settings;
  const planes = new Float32Array(channels * width * height);
  for (let n = 0, from = 0; n < width * height; n++, from += 4) {
    const [red, green, blue] = [data[from], data[from + 1], data[from + 2]];
    if (channels === 1) {
      planes[n] = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) / 255;
    } else {
      [red, green, blue].forEach((value, c) => (planes[c * width * height + n] = value / 255));
    }
  }
  return { data: planes, width, height };
}

function look(watch) {
  const began = performance.now();
  found = network.look(image());
  const took = performance.now() - began;
  part("speed").textContent =
    `${pixels.width}×${pixels.height} pixels, ${found.length} glimpses in ${took.toFixed(0)} ms.`;
  shown.max = found.length;
  drawGlimpses();
  clearTimeout(timer);
  if (watch && !still.matches) {
    show(0);
    const next = () => {
      show(Number(shown.value) + 1);
      if (shown.value < shown.max) timer = setTimeout(next, MOMENT);
    };
    timer = setTimeout(next, MOMENT);
  } else {
    show(found.length);
  }
}

const share = (value) => (value > 0.999 ? ">99.9%" : value < 0.001 ? "<0.1%" : `${(100 * value).toFixed(1)}%`);

/** A glimpse's belief in a few words. */
function said({ beliefs, present, spread }) {
  const { answer, names } = network.settings;
  if (answer === "number") return `${names[0]} ${beliefs[0].toPrecision(4)} ± ${spread.toPrecision(2)}`;
  if (answer === "labels") return names.filter((_, n) => present[n]).join(", ") || "none of its labels";
  const best = beliefs.indexOf(Math.max(...beliefs));
  return `${names[best]} (${share(beliefs[best])})`;
}

function show(count) {
  shown.value = count;
  part("count").textContent = `${count} of ${found.length}`;
  drawSquares(count);
  [...part("glimpses").children].forEach((item, n) => item.classList.toggle("hidden", n >= count));
  const last = found[count - 1];
  part("answer").textContent = last ? said(last) : "It has not looked yet.";
  part("bars").replaceChildren(...(last && network.settings.answer !== "number" ? bars(last.beliefs) : []));
}

function bars(beliefs) {
  const order = beliefs.map((_, n) => n).sort((a, b) => beliefs[b] - beliefs[a]);
  return order.slice(0, LISTED).map((n) => {
    const [item, name, bar, value] = ["li", "span", "progress", "span"].map((tag) => document.createElement(tag));
    name.textContent = network.names[n];
    value.textContent = share(beliefs[n]);
    bar.value = beliefs[n];
    bar.setAttribute("aria-label", `probability of ${network.names[n]}`);
    item.append(name, bar, value);
    return item;
  });
}

/** A number's place beside its square where no other number lies, tried corner by corner. */
function apart(left, top, side, size, taken, { width, height }) {
  const corners = [
    [left, top - size],
    [left + side - size, top - size],
    [left, top + side],
    [left + side - size, top + side],
    [left - size, top],
    [left + side, top],
  ].map(([x, y]) => [Math.min(Math.max(x, 0), width - size), Math.min(Math.max(y, 0), height - size)]);
  const free = ([x, y]) => taken.every(([a, b]) => Math.abs(a - x) >= size || Math.abs(b - y) >= size);
  let at = corners.find(free) ?? corners[0];
  while (!free(at) && at[0] + 2 * size <= width) at = [at[0] + size, at[1]];
  taken.push(at);
  return at;
}

function drawSquares(count) {
  const zoom = (squares.clientWidth * devicePixelRatio) / pixels.width;
  squares.width = Math.round(pixels.width * zoom);
  squares.height = Math.round(pixels.height * zoom);
  const brush = squares.getContext("2d");
  const size = Math.max(14 * devicePixelRatio, squares.width / 24);
  brush.font = `bold ${0.8 * size}px system-ui, sans-serif`;
  brush.textAlign = "center";
  brush.textBaseline = "middle";
  brush.lineWidth = Math.max(2, size / 8);
  const taken = [];
  const boxes = found.slice(0, count).map(({ x, y, scale }, n) => {
    const side = network.patch * scale * zoom;
    const left = (((x + 1) / 2) * (pixels.width - 1) + 0.5) * zoom - side / 2;
    const top = (((y + 1) / 2) * (pixels.height - 1) + 0.5) * zoom - side / 2;
    const colour = about.colours[n % about.colours.length];
    brush.strokeStyle = colour;
    brush.strokeRect(left, top, side, side);
    return { left, top, side, colour };
  });
  boxes.forEach(({ left, top, side, colour }, n) => {
    const [a, b] = apart(left, top, side, size, taken, squares); // after all squares, so that none crosses a number
    brush.fillStyle = colour;
    brush.fillRect(a, b, size, size);
    brush.fillStyle = "#000";
    brush.fillText(n + 1, a + size / 2, b + size / 2);
  });
  if (cursor) {
    brush.strokeStyle = cursor.down ? "#ff5252" : "#ffffff";
    const size = 2 * about.stroke * zoom;
    brush.strokeRect(cursor.x * zoom - size / 2, cursor.y * zoom - size / 2, size, size);
  }
}

function drawGlimpses() {
  const items = found.map((glimpse, n) => {
    const item = document.createElement("li");
    const canvas = document.createElement("canvas");
    const { data, side, channels } = glimpse.patch;
    canvas.width = canvas.height = side;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `what glimpse ${n + 1} showed`);
    canvas.style.setProperty("--colour", about.colours[n % about.colours.length]);
    const brush = canvas.getContext("2d");
    const picture = brush.createImageData(side, side);
    for (let at = 0; at < side * side; at++) {
      for (let c = 0; c < 3; c++) {
        picture.data[4 * at + c] = 255 * data[(channels === 1 ? 0 : c) * side * side + at];
      }
      picture.data[4 * at + 3] = 255;
    }
    brush.putImageData(picture, 0, 0);
    const text = document.createElement("div");
    text.textContent = `${n + 1}, ×${glimpse.scale}: ${said(glimpse)}`;
    item.append(canvas, text);
    return item;
  });
  part("glimpses").replaceChildren(...items);
}

// Drawing.

function line(from, to) {
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  pen.stroke();
}

function where(event) {
  const box = pixels.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * pixels.width,
    y: ((event.clientY - box.top) / box.height) * pixels.height,
  };
}

function listen() {
  let last = null;
  pixels.addEventListener("pointerdown", (event) => {
    pixels.setPointerCapture(event.pointerId);
    cursor = null;
    last = where(event);
    line(last, last);
  });
  pixels.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const next = where(each);
      line(last, next);
      last = next;
    }
    look(false);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pixels.addEventListener(end, () => {
      if (last) look(true);
      last = null;
    });
  }
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pixels.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    cursor ??= { x: pixels.width / 2, y: pixels.height / 2, down: false };
    const before = { ...cursor };
    if (step) {
      cursor.x = Math.min(pixels.width, Math.max(0, cursor.x + step[0]));
      cursor.y = Math.min(pixels.height, Math.max(0, cursor.y + step[1]));
    } else {
      cursor.down = !cursor.down;
    }
    if (cursor.down) line(before, cursor);
    look(false);
  });
  pixels.addEventListener("blur", () => {
    cursor = null;
    drawSquares(Number(shown.value));
  });
  shown.addEventListener("input", () => {
    clearTimeout(timer);
    show(Number(shown.value));
  });
  part("clear").addEventListener("click", () => {
    empty(about.side, about.side, "#000");
    look(false);
  });
  part("again").addEventListener("click", () => look(true));
  part("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) await openImage(file);
  });
  addEventListener("resize", () => drawSquares(Number(shown.value)));
}

async function openImage(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    problem(`${file.name} cannot be read as an image; open another.`);
    return;
  }
  const longest = Math.min(network.settings.longest ?? LARGEST, LARGEST);
  const ratio = Math.min(1, longest / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((length) => Math.max(1, Math.round(length * ratio)));
  empty(width, height, "#fff"); // behind what is transparent
  pen.drawImage(picture, 0, 0, pixels.width, pixels.height);
  look(true);
}

try {
  about = await (await fetch("page.json")).json();
  network = await open("");
  part("hint").textContent = about.hint;
  empty(about.side, about.side, "#000");
  listen();
  look(false);
} catch (error) {
  problem(`The network could not be opened (${error.message}). A page needs a server: python -m http.server in its folder.`);
}
