// No cached texts: every text goes through the queue and the model. RATE requests per second (20), TEXTS each (4).
import { predict, refuseUnlessReady } from './lib/service.js';
import { rate, steady } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { freshTexts, random } from './lib/texts.js';

const texts = Number(__ENV.TEXTS || 4);
// Use a different SEED for every run, because texts of earlier runs are cached.
const seed = Number(__ENV.SEED || Date.now() % 1e9);

export const options = {
  scenarios: { unique: steady(rate(20), 120) },
  summaryTrendStats: trends,
  thresholds: {
    errors: ['rate==0'],
    refused: ['rate==0'],
    cache_hits: ['rate==0'],
    dropped_iterations: ['count==0'],
    'http_req_duration{name:predict}': [`p(99)<${__ENV.P99_MS || 250}`],
  },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('unique');

export default function () {
  const draw = random(seed + __VU * 1000003 + __ITER);
  predict(freshTexts(texts, `${seed}-${__VU}-${__ITER}`, draw));
}
