// An hour of moderate traffic with mostly cached texts, to find leaks, slowdowns and losses. RATE requests per second
// (30).
import { health, predict, refuseUnlessReady } from './lib/service.js';
import { rate, steady } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { acceptanceTexts, freshTexts, random } from './lib/texts.js';

const seed = Number(__ENV.SEED || Date.now() % 1e9);

export const options = {
  scenarios: { soak: steady(rate(30), 3600) },
  summaryTrendStats: trends,
  thresholds: {
    errors: ['rate==0'],
    refused: ['rate==0'],
    dropped_iterations: ['count==0'],
    'http_req_duration{name:predict}': [`p(99)<${__ENV.P99_MS || 250}`],
  },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('soak');

export default function () {
  const draw = random(seed + __VU * 1000003 + __ITER);
  if (__ITER % 50 === 0) health();
  predict(draw() < 0.8 ? acceptanceTexts(0.95, draw) : freshTexts(2, `${seed}-${__VU}-${__ITER}`, draw));
}
