// The summary of every run: a short table on standard output, and all metrics as JSON in the file SUMMARY.
const round = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2));

function figures(metric) {
  const v = metric.values;
  if (metric.type === 'trend') {
    return `avg ${round(v.avg)}  med ${round(v.med)}  p95 ${round(v['p(95)'])}  p99 ${round(v['p(99)'])}  max ${round(v.max)}`;
  }
  if (metric.type === 'rate') return `${(v.rate * 100).toFixed(2)} %  (${v.passes} of ${v.passes + v.fails})`;
  if (metric.type === 'counter') return `${v.count}  (${round(v.rate)}/s)`;
  return `${v.value}`;
}

const LEFT_OUT = /^(http_req_(blocked|connecting|tls_handshaking|sending|receiving|waiting)|http_req_duration\{expected|data_|group_|vus)/;

export const trends = ['avg', 'med', 'p(95)', 'p(99)', 'max'];

export function summary(name) {
  return (data) => {
    const lines = [`k6 ${name}: ${round(data.state.testRunDurationMs / 1000)} s`];
    let failed = 0;
    for (const key of Object.keys(data.metrics).sort()) {
      const metric = data.metrics[key];
      if (!LEFT_OUT.test(key)) lines.push(`  ${key.padEnd(36)} ${figures(metric)}`);
      for (const [rule, outcome] of Object.entries(metric.thresholds || {})) {
        failed += outcome.ok ? 0 : 1;
        lines.push(`    ${outcome.ok ? 'passed' : 'FAILED'}: ${rule}`);
      }
    }
    lines.push(failed ? `${failed} thresholds FAILED` : 'all thresholds passed', '');
    const files = { stdout: lines.join('\n') };
    if (__ENV.SUMMARY) files[__ENV.SUMMARY] = JSON.stringify(data, null, 2);
    return files;
  };
}
