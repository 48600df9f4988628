// More load than the workers can compute: RATE requests per second (400) with TEXTS (16) unknown texts and a budget of
// WAIT_S seconds (2). Requests that cannot be answered in time must be refused at once; the others must be in time.
import { predict, refuseUnlessReady } from './lib/service.js';
import { rate, steady } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { freshTexts, random } from './lib/texts.js';

const texts = Number(__ENV.TEXTS || 16);
const waitS = Number(__ENV.WAIT_S || 2);
const seed = Number(__ENV.SEED || Date.now() % 1e9);

export const options = {
  scenarios: { overload: steady(rate(400), 120) },
  summaryTrendStats: trends,
  thresholds: {
    errors: ['rate==0'],
    // Without refusals there was no overload.
    refused: ['rate>0', 'rate<1'],
    texts_answered: [`rate>${__ENV.GOODPUT || 100}`],
    'http_req_duration{name:predict}': [`max<${waitS * 1000 + 1000}`],
  },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('overload');

export default function () {
  const draw = random(seed + __VU * 1000003 + __ITER);
  predict(freshTexts(texts, `${seed}-${__VU}-${__ITER}`, draw), { Prefer: `wait=${waitS}` });
}
