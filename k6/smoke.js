// A ten-second check: the service runs, answers, caches, and refuses invalid requests.
import http from 'k6/http';
import { check } from 'k6';
import { errors, health, key, predict, refuseUnlessReady, url } from './lib/service.js';
import { users } from './lib/profiles.js';
import { summary, trends } from './lib/summary.js';
import { acceptanceTexts, freshTexts, random } from './lib/texts.js';

export const options = {
  scenarios: { smoke: users(2, 10) },
  summaryTrendStats: trends,
  thresholds: {
    errors: ['rate==0'],
    refused: ['rate==0'],
    checks: ['rate==1'],
    texts_answered: ['count>0'],
    cache_hits: ['rate>0'],
    'http_req_duration{name:predict}': ['p(99)<2000'],
  },
};

export const setup = refuseUnlessReady;
export const handleSummary = summary('smoke');

export default function () {
  health();
  predict(acceptanceTexts(0.95, Math.random));
  predict(freshTexts(2, `${__VU}-${__ITER}`, random(__VU * 100003 + __ITER)));

  const wrong = http.post(`${url}/predict`, JSON.stringify({ text: 'not a list' }), {
    headers: key,
    tags: { name: 'wrong' },
    responseCallback: http.expectedStatuses(422),
  });
  errors.add(!check(wrong, { 'a string is 422': (r) => r.status === 422 && r.json('detail').length > 0 }));
}
