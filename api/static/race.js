// The mill race: texts gather in the pond, the wheel turns as fast as texts are computed, batches leave as rafts.
// It asks for animation frames only while something moves and the picture can be seen.

const FRAME_MS = 33;
const MAX_DROPS = 90;
const MAX_RAFTS_WAITING = 10;
const RAFT_GAP = 14;
const DRIFT_PX_S = 46;
// A raft leaves a picture of any width within this time: until then, the picture is drawn 30 times a second.
const CROSSING_S = 8;
// For how long a batch that was shown at once, from its answer, may still come in a frame of /stats.
const EXPECTED_MS = 4000;

export class Race {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.flow = 0;
    this.wanted = 0;
    this.level = 0;
    this.wantedLevel = 0;
    this.drops = 0;
    this.mine = 0;
    this.expected = [];
    this.moving = false;
    this.visible = true;
    this.angle = 0;
    this.clock = 0;
    this.rafts = [];
    this.waiting = [];
    this.before = performance.now();
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.readColours();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.readColours();
      this.draw();
    });
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.wake();
    }).observe(canvas);
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** Takes the newest frame (how much waits and flows) and the batches that are new since the last one. */
  take(frame, batches) {
    const waiting = frame.now.waiting + frame.in_flight;
    this.wanted = Math.min(Math.log10(1 + frame.now.worked) / 2.7, 1);
    this.wantedLevel = Math.min(Math.log10(1 + waiting) / 4, 1);
    this.drops = Math.min(waiting, MAX_DROPS);
    this.waiting.push(...batches.filter(({ size }) => !this.shown(size)));
    this.waiting.splice(0, this.waiting.length - MAX_RAFTS_WAITING);
    this.wake();
  }

  /** The visitor has sent this many texts; they have their own colour until they are answered. */
  own(count) {
    this.mine = Math.min(count, MAX_DROPS);
    this.wake();
  }

  /** An answer has come: its batch leaves as a raft, with the visitor's own texts in their colour. */
  answered(size, count) {
    this.mine = 0;
    if (size) {
      this.waiting.push({ size, mine: Math.min(size, count) });
      this.expected.push({ size, until: performance.now() + EXPECTED_MS });
      this.flow = Math.max(this.flow, 0.3);
    }
    this.wake();
  }

  /** Whether a batch of a frame has been shown already, when its answer came. */
  shown(size) {
    const now = performance.now();
    this.expected = this.expected.filter(({ until }) => until > now);
    const index = this.expected.findIndex((one) => one.size === size);
    if (index >= 0) this.expected.splice(index, 1);
    return index >= 0;
  }

  /** Stops the mill, because the connection is lost. */
  still() {
    this.wanted = 0;
    this.drops = 0;
    this.waiting = [];
    this.wake();
  }

  get atRest() {
    return !this.wanted && !this.drops && !this.mine && !this.rafts.length && !this.waiting.length && this.flow < 0.01 && Math.abs(this.level - this.wantedLevel) < 0.01;
  }

  /** Draws the newest state, and goes on drawing until nothing moves any more. */
  wake() {
    if (this.calm.matches) return this.settle();
    if (this.moving || this.atRest || !this.visible || document.hidden) return;
    this.moving = true;
    this.canvas.parentElement.classList.add("flowing");
    this.before = performance.now();
    requestAnimationFrame((now) => this.turn(now));
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    const names = ["water", "water-soft", "water-faint", "deep", "wood", "amber", "amber-soft", "line", "quiet", "card", "red", "green"];
    this.colour = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw();
  }

  turn(now) {
    this.moving = this.visible && !document.hidden && !this.calm.matches && !this.atRest;
    if (this.moving) requestAnimationFrame((next) => this.turn(next));
    this.canvas.parentElement.classList.toggle("flowing", !this.atRest);
    const spent = now - this.before;
    if (this.moving && spent < FRAME_MS) return;
    this.before = now;
    this.move(Math.min(spent, 500) / 1000);
    this.draw();
  }

  settle() {
    this.flow = this.wanted;
    this.level = this.wantedLevel;
    this.canvas.parentElement.classList.toggle("flowing", this.wanted > 0 || this.drops > 0);
    for (let step = 0; step < 12; step += 1) this.move(0.1);
    this.draw();
  }

  get wheel() {
    const radius = Math.min(this.height * 0.31, 78);
    return { x: this.width * 0.36, y: this.height * 0.52, radius };
  }

  move(seconds) {
    this.flow += (this.wanted - this.flow) * Math.min(seconds * 1.5, 1);
    this.level += (this.wantedLevel - this.level) * Math.min(seconds * 1.2, 1);
    this.clock += seconds * (0.25 + this.flow);
    this.angle += seconds * this.flow * 1.5;
    const start = this.wheel.x + this.wheel.radius * 0.75;
    const drift = Math.max(DRIFT_PX_S * (0.55 + this.flow), (this.width - start) / CROSSING_S);
    const speed = drift * (1 + this.waiting.length / MAX_RAFTS_WAITING);
    for (const raft of this.rafts) raft.gone += speed * seconds;
    this.rafts = this.rafts.filter((raft) => start + raft.gone < this.width + 20);
    const last = this.rafts.at(-1);
    if (this.waiting.length && (!last || last.gone > RAFT_GAP)) {
      const { size, mine = 0 } = this.waiting.shift();
      const shape = raftShape(size);
      this.rafts.push({ size, mine, ...shape, gone: -shape.width });
    }
  }

  draw() {
    const { context, width, height } = this;
    if (!width) return;
    context.clearRect(0, 0, width, height);
    this.hills();
    this.house();
    this.stream();
    this.pond();
    this.drawWheel();
    for (const raft of this.rafts) this.drawRaft(raft);
    this.bank();
  }

  get lower() {
    return this.height * 0.74;
  }

  get upper() {
    return this.height * (0.47 - 0.2 * this.level);
  }

  wave(x, phase, size) {
    return size * (Math.sin(x / 47 + this.clock * 1.7 + phase) + 0.6 * Math.sin(x / 23 - this.clock * 2.3 + phase));
  }

  water(from, to, top, phase, fill) {
    const { context, height } = this;
    context.beginPath();
    context.moveTo(from, height);
    for (let x = from; x < to + 6; x += 6) context.lineTo(x, top(x) + this.wave(x, phase, 1.2 + this.flow * 1.3));
    context.lineTo(to + 6, height);
    context.closePath();
    context.fillStyle = fill;
    context.fill();
  }

  pond() {
    const { context, colour, wheel } = this;
    const edge = wheel.x - wheel.radius * 0.55;
    const lip = this.upper;
    const crest = wheel.y - wheel.radius * 0.86;
    const fall = (x) => (x < edge - 60 ? lip : lip + (Math.max(lip, crest) - lip) * ease((x - edge + 60) / 60));
    this.water(0, edge, (x) => fall(x) - 5, 2, colour["water-faint"]);
    this.water(0, edge, fall, 0, colour["water-soft"]);
    for (let drop = 0; drop < Math.max(this.drops, this.mine); drop += 1) {
      context.fillStyle = drop < this.mine ? colour.amber : colour.water;
      const x = 14 + ((drop * 61.8 + this.clock * 9) % (edge - 34));
      const y = lip + 14 + ((drop * 37.3) % Math.max(this.height - lip - 34, 10)) + Math.sin(this.clock + drop) * 2;
      context.beginPath();
      context.arc(x, y, 2.6, 0, 7);
      context.fill();
    }
  }

  stream() {
    const { colour, wheel, width, lower } = this;
    this.water(wheel.x - wheel.radius * 0.55, width, () => lower - 4, 1, colour["water-faint"]);
    this.water(wheel.x - wheel.radius * 0.55, width, () => lower, 3, colour["water-soft"]);
  }

  hills() {
    const { context, colour, width, height } = this;
    context.fillStyle = colour.line;
    for (const [alpha, base, size, turn] of [[0.25, 0.42, 0.16, 0.4], [0.4, 0.58, 0.12, 2.1]]) {
      context.globalAlpha = alpha;
      context.beginPath();
      context.moveTo(0, height);
      for (let x = 0; x <= width + 8; x += 8) {
        const share = x / Math.max(width, 600);
        context.lineTo(x, height * (base - size * Math.sin(share * 5 + turn) - 0.05 * Math.sin(share * 11 + turn)));
      }
      context.lineTo(width, height);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  house() {
    const { context, colour, wheel, height } = this;
    const left = wheel.x - wheel.radius * 0.2;
    const wide = wheel.radius * 1.9;
    const eaves = height * 0.3;
    context.fillStyle = colour.line;
    context.globalAlpha = 0.55;
    context.fillRect(left, eaves, wide, height - eaves);
    context.beginPath();
    context.moveTo(left - 12, eaves);
    context.lineTo(left + wide / 2, height * 0.07);
    context.lineTo(left + wide + 12, eaves);
    context.fill();
    context.globalAlpha = 1;
    context.fillStyle = this.flow > 0.08 ? colour.amber : colour.card;
    context.globalAlpha = 0.35 + 0.4 * this.flow;
    context.fillRect(left + wide * 0.68, eaves + 16, 15, 20);
    context.globalAlpha = 1;
  }

  drawWheel() {
    const { context, colour, wheel } = this;
    context.save();
    context.translate(wheel.x, wheel.y);
    context.rotate(this.angle);
    context.strokeStyle = colour.wood;
    context.lineCap = "round";
    context.lineWidth = 3;
    for (const share of [1, 0.8]) {
      context.beginPath();
      context.arc(0, 0, wheel.radius * share, 0, 7);
      context.stroke();
    }
    for (let spoke = 0; spoke < 12; spoke += 1) {
      context.rotate(Math.PI / 6);
      context.lineWidth = spoke % 2 ? 2 : 2.6;
      context.beginPath();
      context.moveTo(spoke % 2 ? wheel.radius * 0.8 : 0, 0);
      context.lineTo(wheel.radius * 1.1, 0);
      context.stroke();
    }
    context.beginPath();
    context.arc(0, 0, 6, 0, 7);
    context.fillStyle = colour.amber;
    context.fill();
    context.restore();
  }

  drawRaft(raft) {
    const { context, colour, lower, wheel } = this;
    const x = wheel.x + wheel.radius * 0.75 + raft.gone;
    const y = lower + this.wave(x + raft.width / 2, 3, 1.2 + this.flow * 1.3) - raft.height + 5;
    context.globalAlpha = Math.min(Math.max((this.width - x - raft.width) / 60, 0), 1);
    context.fillStyle = colour.wood;
    context.beginPath();
    context.roundRect(x, y, raft.width, raft.height, 4);
    context.fill();
    if (raft.mine) {
      context.strokeStyle = colour.amber;
      context.lineWidth = 2;
      context.stroke();
    }
    for (let text = 0; text < Math.min(raft.size, 48); text += 1) {
      context.fillStyle = text < raft.mine ? colour["amber-soft"] : colour.card;
      context.beginPath();
      context.arc(x + 8 + Math.floor(text / raft.rows) * 7, y + 7 + (text % raft.rows) * 7, 2.3, 0, 7);
      context.fill();
    }
    context.fillStyle = colour.quiet;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(String(raft.size), x + raft.width / 2, y - 5);
    context.globalAlpha = 1;
  }

  bank() {
    const { context, colour, width, height } = this;
    context.fillStyle = colour.water;
    context.globalAlpha = 0.12;
    context.fillRect(0, height - 10, width, 10);
    context.globalAlpha = 1;
  }
}

/** The rows of texts on a raft, up to three, and its size. */
function raftShape(size = 1) {
  const shown = Math.min(size, 48);
  const rows = shown > 12 ? 3 : shown > 4 ? 2 : 1;
  return { rows, width: 9 + Math.ceil(shown / rows) * 7, height: 7 + rows * 7 };
}

function ease(share) {
  const bounded = Math.min(Math.max(share, 0), 1);
  return bounded * bounded * (3 - 2 * bounded);
}
