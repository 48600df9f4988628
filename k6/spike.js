// A tenfold step of unknown texts and back. Refusals are allowed while workers are added; errors are not.
// RATE is the request rate before the step (10), TEXTS the number of texts per request (4).
import { predict, refuseUnlessReady } from './lib/service.js';
import { rate, step } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { freshTexts, random } from './lib/texts.js';

const texts = Number(__ENV.TEXTS || 4);
const seed = Number(__ENV.SEED || Date.now() % 1e9);

export const options = {
  scenarios: { spike: step(rate(10)) },
  summaryTrendStats: trends,
  thresholds: {
    errors: ['rate==0'],
    refused: [`rate<${__ENV.REFUSED || 0.5}`],
    'http_req_duration{name:predict}': ['p(99)<10500'],
  },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('spike');

export default function () {
  const draw = random(seed + __VU * 1000003 + __ITER);
  predict(freshTexts(texts, `${seed}-${__VU}-${__ITER}`, draw));
}
