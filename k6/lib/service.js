// A client of the service that counts every response as good, refused or wrong.
import http from 'k6/http';
import { check, fail } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';

export const url = __ENV.BASE_URL || 'http://127.0.0.1:8000';
// For services that ask for one.
export const key = __ENV.API_KEY ? { Authorization: `Bearer ${__ENV.API_KEY}` } : {};

// Refusals (429, 503, 504) are not errors. They are counted separately, and must state when to retry.
const REFUSALS = [429, 503, 504];
http.setResponseCallback(http.expectedStatuses(200, 201, 202, 204, ...REFUSALS));

export const errors = new Rate('errors');
export const refused = new Rate('refused');
export const answered = new Counter('texts_answered');
const refusedMs = new Trend('refused_ms', true);
const hits = new Rate('cache_hits');
const batchSize = new Trend('batch_size');

// Server-Timing: where the time of one request went.
const PARTS = ['cache', 'queue', 'batch', 'tokenize', 'model', 'total'];
const partMs = Object.fromEntries(PARTS.map((part) => [part, new Trend(`server_${part}_ms`, true)]));

function readTiming(header) {
  for (const entry of (header || '').split(',')) {
    const [name, ...params] = entry.trim().split(';');
    for (const param of params) {
      const [key, value] = param.split('=');
      const figure = Number((value || '').replace(/"/g, ''));
      if (key === 'dur' && name in partMs) partMs[name].add(figure);
      if (key === 'desc' && name === 'batch' && figure > 0) batchSize.add(figure);
    }
  }
}

// The setup() of every script: figures of a service that is not ready would be meaningless.
export function refuseUnlessReady() {
  const answer = http.get(`${url}/readyz`, { tags: { name: 'readyz' } });
  if (answer.status !== 200) {
    fail(`${url} is not ready (status ${answer.status}): start it with \`make run\`, or give BASE_URL`);
  }
}

export function health() {
  const answer = http.get(`${url}/health`, { tags: { name: 'health' } });
  errors.add(!check(answer, { 'health is 200': (r) => r.status === 200 }));
}

const rightShape = (answer, count) => {
  const predictions = answer.json('predictions');
  return predictions.length === count && predictions.every((pair) => pair.length >= 2 && pair[0].label);
};

// Sends no Content-Type header, like many clients. Returns true if the texts were classified.
export function predict(texts, headers = {}) {
  const answer = http.post(`${url}/predict`, JSON.stringify({ text: texts }), {
    headers: { ...key, ...headers },
    tags: { name: 'predict' },
  });
  if (REFUSALS.includes(answer.status)) {
    refused.add(true);
    refusedMs.add(answer.timings.duration);
    errors.add(!check(answer, {
      'a refusal states when to retry': (r) => r.status === 504 || Number(r.headers['Retry-After']) >= 0,
    }));
    return false;
  }
  refused.add(false);
  const good = check(answer, {
    'predict is 200': (r) => r.status === 200,
    'one prediction per text': (r) => r.status === 200 && rightShape(r, texts.length),
  });
  errors.add(!good);
  if (good) {
    answered.add(texts.length);
    hits.add(answer.headers['X-Cache'] === 'HIT');
    readTiming(answer.headers['Server-Timing']);
  }
  return good;
}
