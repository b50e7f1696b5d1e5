"""The style sheet of a report."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #69747c; --line: #d9dee2; --paper: #fff; --good: #2f7d4f; --base: #b4bcc2;
  --under: #a8480c; --words: #3b6fb6; --pixels: #8a5a9e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebee; --soft: #9aa5ad; --line: #39424a; --paper: #171b1f; --good: #5dbb84; --base: #59636b;
    --under: #f0a060; --words: #7ba7e8; --pixels: #c294d6; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
.wide + .wide { margin-top: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
td:first-child.words { min-width: 4rem; }
.verdict { font-size: 1.1rem; font-weight: 600; margin: 1.2rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); }
.headline { display: flex; gap: 1.4rem 3rem; margin: 1.4rem 0; flex-wrap: wrap; align-items: end; }
.headline .floor .figure { font-size: 1.3rem; font-weight: 500; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; background: var(--good); }
.key.base { background: var(--base); }
.figure { font-size: 2.4rem; font-weight: 650; line-height: 1.1; }
.bar { position: relative; height: .55rem; background: color-mix(in srgb, var(--line) 60%, transparent); }
.bar { border-radius: 3px; min-width: 14rem; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--good); }
.bar i.base { background: var(--base); }
td.best { font-weight: 650; }
.under { color: var(--under); font-size: .8rem; font-weight: 600; }
.scores tr.mean td { font-weight: 650; border-top: 2px solid var(--line); }
.scores td .under { display: block; white-space: normal; }
.scores td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem 2rem; }
.curves figure { margin: 0; }
.curves svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; }
.curves text { fill: var(--soft); }
.curves .axis { stroke: var(--line); }
.curves polyline { fill: none; stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; color: var(--soft); margin: .3rem 0; }
.legend i { display: inline-block; width: 1.1rem; height: 0; border-top: 2.5px solid; vertical-align: middle; margin-right: .35rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .8rem; min-width: 0; }
.card h4 { font-size: .8rem; font-weight: 600; color: var(--soft); margin: .6rem 0 .2rem; }
.card h4:first-child { margin-top: 0; }
.items { display: flex; flex-wrap: wrap; gap: .5rem; }
.item { flex: 0 1 7rem; min-width: 5.5rem; font-size: .75rem; line-height: 1.35; overflow-wrap: anywhere; }
.item.wide { flex: 1 1 12rem; }
.item img { display: block; max-width: 100%; max-height: 6rem; border-radius: 4px; border: 1px solid var(--line); }
.item.right img { border: 2px solid var(--good); }
.item.right b { color: var(--good); }
td.pool { color: var(--soft); font-weight: 600; padding-top: 1rem; }
td .soft { display: block; font-size: .8rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; border: 1px solid var(--line); }
pre { padding: .8rem; border-radius: 6px; }
code { font-size: .85rem; overflow-wrap: anywhere; }
summary { cursor: pointer; }
details { margin: .6rem 0; }
h2 .soft { font-weight: 400; }
@media (max-width: 40rem) {
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; }
  .headline { gap: 1rem 3rem; }
  .scores, .scores tbody { display: block; }
  .scores tr:first-child { display: none; }
  .scores tr { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); border-bottom: 1px solid var(--line); padding: .4rem 0; }
  .scores td { border: 0; padding: .1rem .2rem; white-space: normal; text-align: left; }
  .scores td::before { content: attr(data-of); display: block; font-size: .7rem; font-weight: 400; color: var(--soft); }
  .scores tr td:first-child, .scores td.bars { grid-column: 1 / -1; }
  .scores tr.mean td { border-top: 0; }
  th, td { padding: .3rem .2rem; }
  td.words, td:first-child.words { min-width: 5.5rem; }
}
"""
