"""The report's style sheet: light or dark as the reader's system is, from 360 px to a wide screen."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  --paper: #f7f6f3; --card: #ffffff; --ink: #1d2225; --soft: #5d666d; --line: #e4e1da;
  --accent: #0d6e66; --accent-soft: #e2f0ee; --right: #1c7a4f; --right-soft: #e3f3ea;
  --wrong: #b1492b; --wrong-soft: #f8e9e3; --bar: #c9cfcd; --code: #f1efe9;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181a; --card: #1d2124; --ink: #e9ecec; --soft: #9ba5aa; --line: #31373b;
    --accent: #5cc4b8; --accent-soft: #1b3431; --right: #68c795; --right-soft: #19342a;
    --wrong: #ee9473; --wrong-soft: #3a241c; --bar: #48525a; --code: #15181a;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 52px; }
h1 { font-size: clamp(1.9rem, 4.6vw, 3rem); line-height: 1.1; letter-spacing: -0.025em; margin: 6px 0 16px; }
h2 { font-size: clamp(1.35rem, 2.6vw, 1.75rem); letter-spacing: -0.015em; line-height: 1.2; margin: 0 0 8px; }
h3 { font-size: 1.02rem; line-height: 1.35; margin: 0; overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 74ch; }
a { color: var(--accent); }
section { padding: 44px 0 0; scroll-margin-top: 8px; }
section > p { color: var(--soft); margin-bottom: 18px; }
.eyebrow { color: var(--accent); font-weight: 650; font-size: .86rem; letter-spacing: .04em; margin: 0; }
.lead { font-size: 1.12rem; max-width: 64ch; }
.hero { display: grid; grid-template-columns: 1fr 330px; gap: 44px; align-items: start; }
.hero figure { padding-top: 6px; }
.hero figcaption { text-align: center; }
.soft, figcaption { color: var(--soft); }
.small { font-size: .87rem; }
nav { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 22px; }
nav a {
  text-decoration: none; font-size: .9rem; padding: 5px 13px; border: 1px solid var(--line);
  border-radius: 99px;
  background: var(--card); color: var(--ink);
}
nav a:hover { border-color: var(--accent); color: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px;
  margin-top: 26px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px 18px; }
.tile b { display: block; font-size: 1.85rem; line-height: 1.15; letter-spacing: -0.02em; }
.tile b small { font-size: 1rem; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.tile span { color: var(--soft); font-size: .9rem; line-height: 1.4; display: block; margin-top: 3px; }
.grid { display: grid; gap: 18px; }
.scenes { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }
.pair { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }
.top { align-items: start; }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 10px; }
figcaption { font-size: .87rem; line-height: 1.45; padding-top: 8px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 16px 18px 18px; min-width: 0; }
.head { display: flex; gap: 12px; align-items: flex-start; justify-content: space-between; margin: 0 0 12px; }
.maps .head { min-height: 2.8em; }
.maps .card { display: flex; flex-direction: column; }
.maps figure { margin-top: auto; }
.pill { font-size: .8rem; font-weight: 600; padding: 2px 10px; border-radius: 99px; white-space: nowrap;
  background: var(--code); color: var(--soft); }
.pill.right { background: var(--right-soft); color: var(--right); }
.pill.wrong { background: var(--wrong-soft); color: var(--wrong); }
.chips { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px; }
.chips.few { max-width: 560px; }
.chips.five { grid-template-columns: repeat(5, minmax(0, 1fr)); }
.chip img { aspect-ratio: 1; object-fit: cover; border: 3px solid var(--line); border-radius: 9px; }
.chip.right img { border-color: var(--right); }
.chip figcaption { font-size: .78rem; line-height: 1.35; padding-top: 5px; }
.chip .where, .chip .file { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  overflow: hidden; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 12px; }
.wide { margin-top: 18px; overflow-x: auto; }
thead th { font-size: .85rem; }
.chip .score { display: flex; justify-content: space-between; color: var(--ink);
  font-variant-numeric: tabular-nums; }
.mark.right { color: var(--right); font-weight: 700; }
.mark.wrong { color: var(--soft); }
.long { display: grid; grid-template-columns: minmax(220px, 300px) 1fr; gap: 24px; align-items: start; }
.long + .long { margin-top: 18px; }
blockquote { margin: 0 0 14px; padding-left: 14px; border-left: 3px solid var(--accent); max-width: 78ch; }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: 5px 12px; align-items: center;
  font-size: .87rem;
  font-variant-numeric: tabular-nums; max-width: 520px; margin-bottom: 12px; }
.bars div { background: var(--code); border-radius: 4px; height: 12px; }
.bars i { display: block; height: 12px; border-radius: 4px; background: var(--bar); }
.bars i.mine { background: var(--accent); }
.bars .mine { font-weight: 650; color: var(--accent); }
.strip { position: relative; height: 58px; margin: 0 9px 8px; max-width: 720px; font-size: .8rem;
  color: var(--soft);
  font-variant-numeric: tabular-nums; }
.strip::before { content: ""; position: absolute; left: 0; right: 0; top: 37px; height: 2px;
  background: var(--line); }
.strip i { position: absolute; top: 31px; width: 14px; height: 14px; margin-left: -7px; border-radius: 50%;
  background: var(--accent); opacity: .65; }
.strip i.absent { background: var(--wrong); opacity: 1; }
.strip .least { position: absolute; left: -7px; }
.strip .most { position: absolute; right: -7px; }
.legend { display: flex; flex-wrap: wrap; gap: 8px 22px; align-items: center; font-size: .87rem;
  color: var(--soft);
  margin-bottom: 16px; }
.legend span { display: inline-flex; align-items: center; gap: 8px; }
.legend img { width: 120px; height: 10px; border-radius: 5px; }
.key { display: inline-block; width: 20px; height: 12px; border: 2px solid #fff; outline: 1px solid #333;
  background: #777; }
.ring { display: inline-block; width: 12px; height: 12px; border: 3px solid #2cbcab; border-radius: 50%; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tr:last-child th, tr:last-child td { border-bottom: 0; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  overflow-x: auto;
  font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0; }
pre .soft { user-select: none; }
ul { padding-left: 20px; margin: 0; max-width: 78ch; }
li { margin-bottom: 7px; overflow-wrap: anywhere; }
.alert { border-color: var(--wrong); }
footer { padding: 44px 28px 60px; color: var(--soft); font-size: .87rem; }
@media (max-width: 720px) {
  main, header, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 30px; }
  section { padding-top: 36px; }
  .hero { grid-template-columns: 1fr; gap: 18px; }
  .hero figcaption { text-align: left; }
  .tile:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .tile { padding: 12px 14px; }
  .tile b { font-size: 1.5rem; }
  .scenes { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px; }
  .long { grid-template-columns: 1fr; gap: 14px; }
  .long figure { order: 1; }
  .long figure img { max-width: 240px; }
  .card { padding: 13px 13px 15px; }
  .chips { gap: 7px; }
  .chips.five { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .chip .where { display: none; }
  th { white-space: normal; }
}
@media print { nav { display: none; } .card, .tile, figure { break-inside: avoid; } }
"""
