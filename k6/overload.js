// More than the workers can do: RATE requests a second (400) of TEXTS (16) unknown texts, each with a budget of
// WAIT_S seconds (2). What cannot be done is refused at once; what is answered is answered in time.
import { predict, refuseUnlessReady } from './lib/mill.js';
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
    // If nothing is refused, this was no overload.
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
