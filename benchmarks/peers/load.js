// The same load for Millrace and its peers: USERS users repeat for SECONDS. With KNOWN=0 every text is
// new, TEXTS each; otherwise this share of requests has the three fixed texts of the acceptance load.
import { sleep } from 'k6';
import http from 'k6/http';
import { Counter, Rate, Trend } from 'k6/metrics';
import { acceptanceTexts, freshTexts, random } from '../../k6/lib/texts.js';

// The shapes of requests, and where answers have the list of each text's labels.
const FORMS = {
  predictions: { body: (texts) => ({ text: texts }), labels: (found) => found.predictions },
  list: { body: (texts) => ({ text: texts }), labels: (found) => found },
  infinity: { body: (texts) => ({ model: 'default', input: texts }), labels: (found) => found.data },
  triton: {
    body: (texts) => ({ inputs: [{ name: 'text', datatype: 'BYTES', shape: [texts.length, 1], data: texts }] }),
    labels: ({ outputs: [{ shape: [rows, columns], data }] }) =>
      Array.from({ length: rows }, (_, at) => data.slice(at * columns, (at + 1) * columns).map((label) => ({ label }))),
  },
};

const known = Number(__ENV.KNOWN);
const count = Number(__ENV.TEXTS);
const form = FORMS[__ENV.FORM];
const seed = Date.now() % 1e9;
const texts = new Counter('texts');
const requests = new Counter('requests');
const took = new Trend('took');
const errors = new Rate('errors');

// Users wait for their last answers, so that slow ones count and none is left for the next load.
export const options = {
  scenarios: { load: { executor: 'constant-vus', vus: Number(__ENV.USERS), duration: `${__ENV.SECONDS}s`, gracefulStop: '60s' } },
  summaryTrendStats: ['med', 'p(99)'],
};

// An answer counts only if it has both labels of every text.
const complete = (answer, number) => {
  if (answer.status !== 200) return false;
  try {
    const found = form.labels(answer.json());
    return found.length === number && found.every((labels) => labels.length === 2 && labels.every((each) => each.label));
  } catch {
    return false;
  }
};

export const handleSummary = (data) => ({ [__ENV.SUMMARY]: JSON.stringify(data) });

export default function () {
  const sent = known > 0
    ? acceptanceTexts(known, Math.random)
    : freshTexts(count, `${seed}-${__VU}-${__ITER}`, random(seed + __VU * 1000003 + __ITER));
  const answer = http.post(__ENV.URL, JSON.stringify(form.body(sent)), { headers: { 'Content-Type': 'application/json' } });
  const good = complete(answer, sent.length);
  errors.add(!good);
  if (good) {
    texts.add(sent.length);
    requests.add(1);
    took.add(answer.timings.duration);
    return;
  }
  if (__ITER === 0) console.error(`${answer.status}: ${answer.error || answer.body.slice(0, 300)}`);
  // Refusals are cheap: asking again at once would take the processor from a service that is still starting.
  sleep(1);
}
