// A trained classifier in a browser: the network's own two files, config.json and model.safetensors, and plain arithmetic.
// Every part has the name that it has in Python; vectors are Float32Array, images are planes one after the other.

const get = async (name) => {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer;
};

/** The network in a folder of this site. */
export async function open(folder) {
  const config = await (await get(`${folder}config.json`)).json();
  return new Network(config.arguments, tensors(await (await get(`${folder}model.safetensors`)).arrayBuffer()));
}

/** Tensors of a safetensors file, by name: a length, a description in JSON, and numbers. */
function tensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const described = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  delete described.__metadata__;
  const found = {};
  for (const [name, { dtype, data_offsets: [begin, end] }] of Object.entries(described)) {
    if (dtype !== "F32") throw new Error(`${name}: expected float32, got ${dtype}`);
    found[name] = new Float32Array(buffer.slice(8 + length + begin, 8 + length + end));
  }
  return found;
}

const relu = (x) => x.map((v) => Math.max(0, v));
const sigmoid = (v) => 1 / (1 + Math.exp(-v));
function concat(...parts) {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
}

/** The lower one of an even number, as torch has it. */
const median = (x) => Float32Array.from(x).sort()[(x.length - 1) >> 1];
const argmax = (x) => x.reduce((best, v, n) => (v > x[best] ? n : best), 0);

/** W x + b, of as many outputs as there are biases. */
function linear(x, weight, bias) {
  const out = new Float32Array(bias.length);
  const inputs = x.length;
  const given = new Float64Array(x); // numbers are computed in these
  for (let row = 0, at = 0; row < out.length; row++, at += inputs) {
    // Four sums, none of which waits for another.
    let a = bias[row];
    let b = 0;
    let c = 0;
    let d = 0;
    let n = 0;
    for (; n + 3 < inputs; n += 4) {
      a += weight[at + n] * given[n];
      b += weight[at + n + 1] * given[n + 1];
      c += weight[at + n + 2] * given[n + 2];
      d += weight[at + n + 3] * given[n + 3];
    }
    for (; n < inputs; n++) a += weight[at + n] * given[n];
    out[row] = a + b + (c + d);
  }
  return out;
}

/** The ReLU of the largest of every 2 by 2 of a 3 by 3 convolution with a border of zeros. */
function convolve({ data, channels, side }, weight, bias) {
  const wide = side + 2;
  const padded = new Float64Array(channels * wide * wide);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < side; y++) {
      padded.set(data.subarray((c * side + y) * side, (c * side + y + 1) * side), (c * wide + y + 1) * wide + 1);
    }
  }
  const half = side >> 1;
  const out = new Float32Array(bias.length * half * half);
  const plane = new Float64Array(side * side);
  for (let o = 0; o < bias.length; o++) {
    plane.fill(bias[o]);
    for (let c = 0; c < channels; c++) addTaps(plane, padded, c * wide * wide, side, weight, (o * channels + c) * 9);
    for (let y = 0; y < half; y++) {
      for (let x = 0; x < half; x++) {
        const at = 2 * y * side + 2 * x;
        const most = Math.max(plane[at], plane[at + 1], plane[at + side], plane[at + side + 1]);
        out[(o * half + y) * half + x] = Math.max(0, most);
      }
    }
  }
  return { data: out, channels: bias.length, side: half };
}

/** Adds a plane's part of a convolution: all nine taps at once, and of a row of windows each reads but three numbers. */
function addTaps(plane, padded, from, side, weight, at) {
  const wide = side + 2;
  const w0 = weight[at];
  const w1 = weight[at + 1];
  const w2 = weight[at + 2];
  const w3 = weight[at + 3];
  const w4 = weight[at + 4];
  const w5 = weight[at + 5];
  const w6 = weight[at + 6];
  const w7 = weight[at + 7];
  const w8 = weight[at + 8];
  for (let y = 0, to = 0; y < side; y++) {
    let upper = from + y * wide;
    let middle = upper + wide;
    let lower = middle + wide;
    let a = padded[upper++];
    let b = padded[upper++];
    let d = padded[middle++];
    let e = padded[middle++];
    let g = padded[lower++];
    let h = padded[lower++];
    for (let x = 0; x < side; x++) {
      const c = padded[upper++];
      const f = padded[middle++];
      const i = padded[lower++];
      plane[to++] += w0 * a + w1 * b + w2 * c + (w3 * d + w4 * e + w5 * f) + (w6 * g + w7 * h + w8 * i);
      a = b;
      b = c;
      d = e;
      e = f;
      g = h;
      h = i;
    }
  }
}

export class Network {
  constructor(settings, weights) {
    this.settings = { contrast: false, aim: "middle", calibration: null, longest: null, scale_toll: 0, ...settings };
    this.weights = weights;
    this.patch = settings.patch;
    this.names = settings.names;
  }

  /** A layer's weight and bias. */
  layer(name) {
    return [this.weights[`prediction.${name}.weight`], this.weights[`prediction.${name}.bias`]];
  }

  /**
   * Every glimpse at an image, and what is believed after it.
   *
   * image: { data, width, height }, planes of grey or of red, green and blue, from 0 to 1. Each glimpse has
   * x and y, in [-1, 1] between the centres of the first and last pixels; scale, pixels under one of its own; patch, what
   * it shows; and beliefs, of each name, of a number its mean. Labels have present, a number has spread.
   */
  look(image) {
    const { glimpses, scales, contrast, scale_toll: toll } = this.settings;
    const seen = contrast ? inContrast(image) : image;
    const view = averaged(seen, this.settings.view);
    const aim = this.aim(view);
    let upper = this.initial(this.readView(view));
    let lower = null;
    const used = scales.map(() => 0);
    const found = [];
    for (let n = 1; n <= glimpses; n++) {
      if (n > 1) {
        const r1 = this.output(lower, "lower");
        const size = Math.max(1e-12, Math.sqrt(r1.reduce((sum, v) => sum + v * v, 0)));
        upper = this.recur("upper", r1.map((v) => v / size), upper);
      }
      const raw = linear(this.output(upper, "upper"), ...this.layer("policy_head"));
      const [x, y] = aim.map((from, n) => Math.tanh(from + raw[n]));
      const chosen = argmax(raw.subarray(4).map((v, n) => v - toll * used[n]));
      used[chosen]++;
      const patch = this.glimpse(seen, x, y, scales[chosen]);
      const features = this.readGlimpse(patch, x, y, chosen);
      lower ??= this.initial(new Float32Array(this.units("lower")));
      lower = this.recur("lower", features, lower);
      const mean = this.output(lower, "lower").map((v) => v / n);
      found.push({ x, y, scale: scales[chosen], patch, ...this.answer(linear(mean, ...this.layer("head.read"))) });
    }
    return found;
  }

  answer(outputs) {
    const { answer, calibration, unit } = this.settings;
    if (answer === "number") {
      const spread = Math.exp(Math.min(3, Math.max(-5, outputs[1]))) * unit[1];
      return { beliefs: [outputs[0] * unit[1] + unit[0]], spread };
    }
    if (answer === "labels") {
      return { beliefs: [...outputs].map(sigmoid), present: [...outputs].map((v, n) => v > (calibration?.[n] ?? 0)) };
    }
    const scores = [...outputs].map((v) => v / (calibration?.[0] ?? 1));
    const most = Math.max(...scores);
    const shares = scores.map((v) => Math.exp(v - most));
    const all = shares.reduce((sum, v) => sum + v, 0);
    return { beliefs: shares.map((v) => v / all) };
  }

  // The recurrent layers. The state of an LSTM is its output and its memory, one after the other.

  gates() {
    return { relu: 1, gru: 3, lstm: 4 }[this.settings.recurrence];
  }

  units(layer) {
    return this.weights[`prediction.${layer}.unit.bias_hh`].length / this.gates();
  }

  initial(output) {
    return this.settings.recurrence === "lstm" ? concat(output, new Float32Array(output.length)) : output;
  }

  output(state, layer) {
    return state.subarray(0, this.units(layer));
  }

  recur(layer, inputs, state) {
    const of = (part) => ["weight", "bias"].map((kind) => this.weights[`prediction.${layer}.unit.${kind}_${part}`]);
    const size = this.units(layer);
    const before = state.subarray(0, size);
    const [i, h] = [linear(inputs, ...of("ih")), linear(before, ...of("hh"))];
    const gate = (n, unit) => i[n * size + unit] + h[n * size + unit];
    if (this.settings.recurrence === "relu") return i.map((v, n) => Math.max(0, v + h[n]));
    if (this.settings.recurrence === "gru") {
      return before.map((old, n) => {
        const [reset, keep] = [sigmoid(gate(0, n)), sigmoid(gate(1, n))];
        const next = Math.tanh(i[2 * size + n] + reset * h[2 * size + n]);
        return (1 - keep) * next + keep * old;
      });
    }
    const memory = state
      .subarray(size)
      .map((old, n) => sigmoid(gate(1, n)) * old + sigmoid(gate(0, n)) * Math.tanh(gate(2, n)));
    return concat(memory.map((v, n) => sigmoid(gate(3, n)) * Math.tanh(v)), memory);
  }

  // What is seen.

  readGlimpse(patch, x, y, chosen) {
    const { network, scales } = this.settings;
    const name = "glimpse_network";
    let what;
    if (network === "conv") {
      what = linear(this.convolutions({ ...patch }, `${name}.what.0`).data, ...this.layer(`${name}.what.2`));
    } else {
      const hidden = relu(linear(patch.data, ...this.layer(`${name}.what.1`)));
      what = linear(hidden, ...this.layer(`${name}.what.3`));
    }
    const action = Float32Array.from([x, y, ...scales.map((_, n) => Number(n === chosen))]);
    const hidden = relu(linear(action, ...this.layer(`${name}.where.0`)));
    const where = linear(hidden, ...this.layer(`${name}.where.2`));
    return what.map((v, n) => Math.max(0, v + where[n]));
  }

  /** What the policy's place is a difference from, see centre_of_contrast of wsram.glimpse.policies. */
  aim({ data, channels, side }) {
    if (this.settings.aim !== "contrast") return [0, 0];
    const size = side * side;
    const apart = new Float32Array(size);
    for (let c = 0; c < channels; c++) {
      const values = data.subarray(c * size, (c + 1) * size);
      const background = median(values);
      for (let n = 0; n < size; n++) apart[n] += Math.abs(values[n] - background) / channels;
    }
    const middle = (n) => (2 * n + 1) / side - 1;
    const [across, down] = [(n) => n % side, (n) => Math.floor(n / side)].map((at) =>
      apart.reduce((sum, v, n) => sum + v * middle(at(n)), 0),
    );
    const mass = Math.max(1e-3, apart.reduce((sum, v) => sum + v, 0));
    const [trust] = this.weights["prediction.trust"];
    return [across, down].map((moment) => trust * Math.atanh(Math.min(0.95, Math.max(-0.95, moment / mass))));
  }

  readView(view) {
    if (this.settings.network === "fc") return relu(linear(view.data, ...this.layer("view_network.read")));
    const { data, channels, side } = this.convolutions(view, "view_network.layers");
    const [across, down] = [new Float32Array(channels), new Float32Array(channels)];
    for (let c = 0, at = 0; c < channels; c++) {
      let mass = 0.1;
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++, at++) {
          mass += data[at];
          across[c] += data[at] * place(x, side);
          down[c] += data[at] * place(y, side);
        }
      }
      across[c] /= mass;
      down[c] /= mass;
    }
    return relu(linear(concat(data, across, down), ...this.layer("view_network.read")));
  }

  convolutions(image, name) {
    return convolve(convolve(image, ...this.layer(`${name}.0`)), ...this.layer(`${name}.3`));
  }

  /** What the sensor sees: means of k by k pixels, and between four of them an interpolation. */
  glimpse(image, x, y, k) {
    const side = this.patch;
    const corner = (at, length) => (((at + 1) * (length - 1)) / 2 - (k - 1) / 2) / k - (side - 1) / 2;
    const [left, top] = [corner(x, image.width), corner(y, image.height)];
    const whole = this.settings.sensor === "nearest";
    const [column, row] = [left, top].map((v) => Math.floor(whole ? v + 0.5 : v));
    const [fx, fy] = whole ? [0, 0] : [left - column, top - row];
    const wide = side + 1;
    const channels = this.settings.channels;
    const data = new Float32Array(channels * side * side);
    const cells = new Float32Array(wide * wide);
    for (let c = 0; c < channels; c++) {
      const plane = image.data.subarray(c * image.width * image.height);
      for (let r = 0; r < wide; r++) {
        for (let s = 0; s < wide; s++) cells[r * wide + s] = cell(plane, image, column + s, row + r, k);
      }
      for (let r = 0; r < side; r++) {
        for (let s = 0; s < side; s++) {
          const at = r * wide + s;
          const upper = cells[at] + fx * (cells[at + 1] - cells[at]);
          const lower = cells[at + wide] + fx * (cells[at + wide + 1] - cells[at + wide]);
          data[(c * side + r) * side + s] = upper + fy * (lower - upper);
        }
      }
    }
    return { data, channels, side };
  }
}

const place = (n, side) => (side > 1 ? -1 + (2 * n) / (side - 1) : -1);

/** The mean of a cell of k by k pixels of a plane; outside the image everything is black. */
function cell(plane, { width, height }, column, row, k) {
  let sum = 0;
  for (let y = Math.max(0, row * k); y < Math.min(height, (row + 1) * k); y++) {
    for (let x = Math.max(0, column * k); x < Math.min(width, (column + 1) * k); x++) sum += plane[y * width + x];
  }
  return sum / (k * k);
}

/** The whole image averaged down, or up, to a square. */
function averaged({ data, width, height }, side) {
  const channels = data.length / (width * height);
  const out = new Float32Array(channels * side * side);
  const bounds = (n, length) => [Math.floor((n * length) / side), Math.ceil(((n + 1) * length) / side)];
  for (let c = 0, at = 0; c < channels; c++) {
    for (let r = 0; r < side; r++) {
      const [top, bottom] = bounds(r, height);
      for (let s = 0; s < side; s++, at++) {
        const [left, right] = bounds(s, width);
        let sum = 0;
        for (let y = top; y < bottom; y++) {
          for (let x = left; x < right; x++) sum += data[(c * height + y) * width + x];
        }
        out[at] = sum / ((bottom - top) * (right - left));
      }
    }
  }
  return { data: out, channels, side };
}

/** Every image as its difference from its background, see wsram.glimpse.contrast. */
function inContrast({ data, width, height }) {
  const size = width * height;
  const apart = new Float32Array(data.length);
  for (let c = 0; c < data.length / size; c++) {
    const sparse = [];
    for (let y = 0; y < height; y += 2) {
      for (let x = 0; x < width; x += 2) sparse.push(data[c * size + y * width + x]);
    }
    const background = median(sparse);
    for (let n = c * size; n < (c + 1) * size; n++) apart[n] = Math.abs(data[n] - background);
  }
  const most = apart.reduce((best, v) => Math.max(best, v), 0.1);
  return { data: apart.map((v) => v / most), width, height };
}
