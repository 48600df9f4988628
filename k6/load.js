// The acceptance load: 10 users, GET /health, then POST /predict.
// CACHE_RATE: share of requests with the three fixed texts (0.95). P99_MS: threshold for /predict (100).
import { sleep } from 'k6';
import { health, predict, refuseUnlessReady } from './lib/service.js';
import { acceptance } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { acceptanceTexts } from './lib/texts.js';

const known = Number(__ENV.CACHE_RATE || 0.95);
// Users repeat without a pause. PAUSE_S is for machines that the load generator alone would saturate.
const pauseS = Number(__ENV.PAUSE_S || 0);

export const options = {
  scenarios: { load: acceptance },
  summaryTrendStats: trends,
  thresholds: {
    errors: ['rate==0'],
    refused: ['rate==0'],
    checks: ['rate==1'],
    // The original requirement of this load: p(99)<2000 and ten requests per second.
    http_req_duration: ['p(99)<2000'],
    'http_req_duration{name:predict}': [`p(99)<${__ENV.P99_MS || 100}`],
    http_reqs: ['rate>10'],
  },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('load');

export default function () {
  health();
  predict(acceptanceTexts(known, Math.random));
  if (pauseS) sleep(pauseS);
}
