"""The stylesheet of the HTML report: system fonts, light and dark, blue and orange (told apart by the colour-blind).

Blue is this model and what holds, orange is what is bad or was before, grey is what it is compared with.
"""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --raised: #ffffff; --ink: #1a1d21; --soft: #59626c; --rule: #dfe2e6; --grid: #e9ebee;
  --band: #f1f3f5; --blue: #14589e; --orange: #b4480a; --grey: #77808a;
  --blue-rgb: 20 88 158; --orange-rgb: 217 95 14;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --raised: #1a1e22; --ink: #e4e7ea; --soft: #9aa4ae; --rule: #323940; --grid: #272d33;
    --band: #1e2328; --blue: #74b3f5; --orange: #f29a55; --grey: #8b95a0;
    --blue-rgb: 84 150 220; --orange-rgb: 222 120 45;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums lining-nums; overflow-wrap: anywhere;
}
main, header, nav, footer { max-width: 66rem; margin: 0 auto; padding: 0 2rem; }
header { padding-top: 3rem; }
h1, h2, .outcome {
  font-family: Charter, "Bitstream Charter", "Sitka Text", Cambria, "Liberation Serif", Georgia, serif;
  font-weight: 600; line-height: 1.2; letter-spacing: -0.005em;
}
h1 { font-size: 2.3rem; margin: 0.1rem 0 0.7rem; }
h2 { font-size: 1.5rem; margin: 0 0 0.3rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 2rem 0 0.4rem; }
p { margin: 0 0 0.7rem; max-width: 44rem; }
a { color: var(--blue); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
.kicker { margin: 0; color: var(--soft); font-size: 0.875rem; }
.lead { color: var(--soft); font-size: 0.9375rem; margin-bottom: 1.2rem; }
.note, figcaption, caption { color: var(--soft); font-size: 0.8125rem; line-height: 1.45; }
header dl, .facts dl { display: flex; flex-wrap: wrap; gap: 0.3rem 2rem; margin: 0; font-size: 0.875rem; }
header dl div { display: flex; gap: 0.45rem; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
nav { margin-top: 1.4rem; font-size: 0.875rem; }
nav ul {
  display: flex; flex-wrap: wrap; gap: 0.25rem 1.2rem; margin: 0; padding: 0.6rem 0;
  list-style: none; border-block: 1px solid var(--rule);
}
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { padding-top: 2.6rem; scroll-margin-top: 0; }
section + section { margin-top: 2.6rem; border-top: 1px solid var(--rule); }
section.verdict { padding-top: 2.2rem; }
.outcome { display: flex; align-items: center; gap: 0.6rem; font-size: 1.75rem; margin: 0 0 0.4rem; }
.outcome svg { width: 1.5rem; height: 1.5rem; flex: none; }
.promoted .outcome { color: var(--blue); }
.kept .outcome, .held .outcome { color: var(--orange); }
.reason { font-size: 1.0625rem; max-width: 50rem; margin-bottom: 1.4rem; }
.checks { list-style: none; margin: 0; padding: 0; border-top: 1px solid var(--rule); font-size: 0.9375rem; }
.checks li {
  display: grid; grid-template-columns: 5.5rem 11rem minmax(0, 1fr); gap: 0 1rem; align-items: baseline;
  padding: 0.5rem 0;
  border-bottom: 1px solid var(--rule);
}
.checks .name { font-weight: 600; }
.checks .detail { color: var(--soft); font-size: 0.875rem; }
.checks .failed .detail { color: var(--ink); }
.mark { display: inline-flex; align-items: baseline; gap: 0.4rem; color: var(--blue); white-space: nowrap; }
.failed .mark { color: var(--orange); font-weight: 600; }
.mark svg { width: 0.85rem; height: 0.85rem; flex: none; position: relative; top: 0.1rem; }
.warnings { margin: 1.6rem 0 0; padding: 0.1rem 0 0.1rem 1rem; border-left: 3px solid var(--orange); }
.warnings h3 { margin: 0 0 0.2rem; }
.warnings ul { margin: 0; padding-left: 1.1rem; font-size: 0.9375rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.6rem 3rem; }
.pair > * { min-width: 0; }
figure { margin: 0 0 0.6rem; max-width: 29rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figcaption { margin-top: 0.3rem; }
.title { font-weight: 600; font-size: 0.9375rem; margin: 0 0 0.3rem; }
.said { font-size: 0.9375rem; }
dl > div { min-width: 0; }
.key { display: inline-flex; align-items: center; gap: 0.35rem; margin-right: 1rem; white-space: nowrap; }
.key svg { width: 1.6rem; height: 0.75rem; flex: none; }
.scroll { overflow-x: auto; margin-bottom: 0.8rem; }
.scroll:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.875rem; line-height: 1.4; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { padding: 0.36rem 0.9rem 0.36rem 0; text-align: right; vertical-align: top; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
thead th {
  color: var(--soft); font-weight: 500; white-space: normal; border-bottom: 1px solid var(--grey);
  vertical-align: bottom;
}
tbody tr { border-bottom: 1px solid var(--rule); }
tbody th { font-weight: 400; text-align: left; }
tr > :first-child { text-align: left; }
td small, th small { display: block; color: var(--soft); font-size: 0.75rem; }
.names th:first-child { white-space: normal; min-width: 7rem; max-width: 18rem; overflow-wrap: break-word; }
.low { color: var(--orange); font-weight: 600; }
.tag { color: var(--soft); font-size: 0.75rem; }
td svg { display: block; width: 9rem; height: 1.1rem; }
.matrix { border-spacing: 2px; border-collapse: separate; }
.matrix tbody tr { border: 0; }
.matrix th, .matrix td { padding: 0; border: 0; vertical-align: middle; }
.matrix tbody th { padding-right: 0.6rem; text-align: right; max-width: 9rem; }
.matrix tbody th, .matrix thead th span { overflow: hidden; text-overflow: ellipsis; }
.matrix thead th { vertical-align: bottom; }
.matrix thead th span {
  display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); max-height: 8rem; padding: 0.3rem 0;
}
.matrix td { width: 2.9rem; min-width: 2.4rem; height: 2.3rem; text-align: center; background: var(--band); }
.matrix thead th { text-align: center; }
.matrix td.zero { color: var(--soft); opacity: 0.65; }
.matrix td.right { background: rgb(var(--blue-rgb) / var(--a)); }
.matrix td.wrong { background: rgb(var(--orange-rgb) / var(--a)); }
.rows { list-style: none; margin: 0; padding: 0; }
.rows li { padding: 0.9rem 0; border-top: 1px solid var(--rule); }
.rows .head {
  display: flex; flex-wrap: wrap; gap: 0 1.2rem; margin: 0 0 0.25rem; font-size: 0.875rem; max-width: none;
}
.rows .head b { font-weight: 600; }
.rows .row { color: var(--soft); }
.quote { margin: 0; max-width: 50rem; font-size: 0.9375rem; line-height: 1.75; }
.quote .for { background: rgb(var(--orange-rgb) / var(--a)); }
.quote .against { background: rgb(var(--blue-rgb) / var(--a)); }
.quote span[style] { border-radius: 0.15rem; padding: 0.1rem 0.15rem; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
.gap { color: var(--soft); font-size: 0.8125rem; white-space: nowrap; }
.swatch { display: inline-block; width: 1.6rem; height: 0.8rem; border-radius: 0.15rem; }
.swatch.for { background: rgb(var(--orange-rgb) / 0.5); }
.swatch.against { background: rgb(var(--blue-rgb) / 0.5); }
details { margin: 0.5rem 0; font-size: 0.9375rem; }
summary { cursor: pointer; color: var(--blue); font-size: 0.875rem; }
details .quote { margin-top: 0.5rem; }
pre {
  margin: 0.7rem 0 0; padding: 0.9rem 1rem; overflow-x: auto; background: var(--band); border-radius: 0.25rem;
  font: 0.8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
.facts dl { gap: 0.9rem 2.6rem; }
.facts { margin-bottom: 1.6rem; }
.facts dt { font-size: 0.8125rem; }
.lineage dl { display: block; margin: 0; font-size: 0.875rem; }
.lineage dl div {
  display: grid; grid-template-columns: 12rem minmax(0, 1fr); gap: 1rem; padding: 0.35rem 0;
  border-bottom: 1px solid var(--rule);
}
.rows .note { max-width: 50rem; margin-top: 0.35rem; }
.statement {
  font-family: Charter, "Bitstream Charter", "Sitka Text", Cambria, "Liberation Serif", Georgia, serif;
  font-size: 1.25rem; line-height: 1.35; margin-bottom: 1.2rem;
}
footer { padding-top: 2.5rem; padding-bottom: 4rem; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
svg text.strong { fill: var(--ink); }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--grey); stroke-width: 1; }
.band { fill: var(--band); }
.guide { stroke: var(--grey); stroke-width: 1; stroke-dasharray: 3 3; fill: none; }
.s-blue { stroke: var(--blue); } .s-orange { stroke: var(--orange); } .s-grey { stroke: var(--grey); }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.dashed { stroke-dasharray: 5 4; }
.f-blue { fill: var(--blue); } .f-orange { fill: var(--orange); } .f-grey { fill: var(--grey); }
.hollow { fill: var(--paper); stroke-width: 1.6; }
.cell-right { fill: rgb(var(--blue-rgb)); } .cell-wrong { fill: rgb(var(--orange-rgb)); }
@media (max-width: 40rem) {
  main, header, nav, footer { padding-left: 1.1rem; padding-right: 1.1rem; }
  header { padding-top: 1.6rem; }
  h1 { font-size: 1.8rem; }
  section { padding-top: 2rem; }
  section + section { margin-top: 2rem; }
  .outcome { font-size: 1.5rem; }
  .checks li { grid-template-columns: minmax(0, 1fr) auto; }
  .checks .name { grid-column: 1; grid-row: 1; }
  .checks .mark { grid-column: 2; grid-row: 1; }
  .checks .detail { grid-column: 1 / -1; }
  .lineage dl div { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .matrix td { width: 2.5rem; }
  th, td { padding-right: 0.6rem; }
  .names th:first-child { min-width: 5.5rem; }
  td svg { width: 6rem; }
}
@media print {
  section, li, figure, table { break-inside: avoid; }
  nav { display: none; }
}
"""
