// Numbers as people read them.

export const grouped = (number) => number.toLocaleString("en");

export const count = (number, thing) => `${grouped(number)} ${thing}${number === 1 ? "" : "s"}`;

export const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

export const short = (number) => number.toLocaleString("en", { maximumSignificantDigits: 4 });

export function rate(number) {
  if (number === null || number === undefined) return "–";
  return number.toLocaleString("en", { maximumFractionDigits: number < 10 ? 1 : 0 });
}

export function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === Infinity) return "more than a minute";
  return seconds < 1 ? `${Math.max(1, Math.round(1000 * seconds))} ms` : `${seconds.toFixed(1)} s`;
}
