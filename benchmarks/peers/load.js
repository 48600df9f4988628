// The same load for Millrace and its peers: USERS users repeat without a pause for SECONDS. With KNOWN=0 every text is
// new, TEXTS each; otherwise this share of requests has the three fixed texts of the acceptance load.
import http from 'k6/http';
import { check } from 'k6';
import { Counter, Rate } from 'k6/metrics';
import { acceptanceTexts, freshTexts, random } from '../../k6/lib/texts.js';

const known = Number(__ENV.KNOWN);
const count = Number(__ENV.TEXTS);
const seed = Date.now() % 1e9;
const answered = new Counter('texts_answered');
const errors = new Rate('errors');

export const options = {
  scenarios: { load: { executor: 'constant-vus', vus: Number(__ENV.USERS), duration: `${__ENV.SECONDS}s`, gracefulStop: '10s' } },
  summaryTrendStats: ['med', 'p(99)', 'max'],
};

// infinity has OpenAI's shape of requests; BentoML and infinity answer with the list itself.
const body = (texts) => (__ENV.FORM === 'infinity' ? { model: 'default', input: texts } : { text: texts });
const complete = (answer, texts) => {
  const found = answer.json();
  const predictions = Array.isArray(found) ? found : found.predictions;
  return predictions.length === texts.length && predictions.every((labels) => labels.length === 2 && labels[0].label);
};

export const handleSummary = (data) => ({ [__ENV.SUMMARY]: JSON.stringify(data) });

export default function () {
  const texts = known > 0
    ? acceptanceTexts(known, Math.random)
    : freshTexts(count, `${seed}-${__VU}-${__ITER}`, random(seed + __VU * 1000003 + __ITER));
  const answer = http.post(__ENV.URL, JSON.stringify(body(texts)), { headers: { 'Content-Type': 'application/json' } });
  const good = check(answer, { 'every text has its labels': (r) => r.status === 200 && complete(r, texts) });
  errors.add(!good);
  if (good) answered.add(texts.length);
}
