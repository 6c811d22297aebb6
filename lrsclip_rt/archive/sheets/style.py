"""The contact sheet's style: light or dark as the reader's system is, from 360 px to a wide screen."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  --paper: #f6f6f4; --card: #fff; --ink: #1b2124; --soft: #5b666c; --line: #e2e2dc; --well: #eceeeb;
  --accent: #0d6e66; --accent-soft: #dfeeec; --warm: #b1492b; --sea: #eaf0f1; --bar: #d5dad8;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1c2124; --ink: #e8ecec; --soft: #9aa6ab; --line: #2f363a; --well: #101315;
    --accent: #5cc4b8; --accent-soft: #1a3330; --warm: #ee9473; --sea: #181f23; --bar: #394247;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
header, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 44px; }
.eyebrow { margin: 0; color: var(--accent); font-weight: 650; font-size: .84rem; letter-spacing: .05em; }
h1 { margin: 6px 0 12px; font-size: clamp(1.5rem, 3.6vw, 2.35rem); line-height: 1.16; letter-spacing: -.02em;
  max-width: 40ch; overflow-wrap: anywhere; text-wrap: balance; }
h1.long { font-size: clamp(1.1rem, 2vw, 1.35rem); line-height: 1.4; letter-spacing: -.005em;
  max-width: 74ch; text-wrap: pretty; }
h2 { margin: 0 0 12px; font-size: 1.15rem; letter-spacing: -.01em; }
.lead { margin: 0 0 14px; color: var(--soft); max-width: 78ch; }
.lead b { color: var(--ink); }
.pills { display: flex; flex-wrap: wrap; gap: 8px; margin: 0 0 4px; padding: 0; list-style: none; }
.pills li { border: 1px solid var(--line); background: var(--card); border-radius: 99px; padding: 3px 12px;
  font-size: .86rem; overflow-wrap: anywhere; }
.overview { display: grid; grid-template-columns: minmax(0, 1.5fr) minmax(0, 1fr); gap: 18px;
  margin: 22px 0 30px; align-items: start; }
.overview.alone { grid-template-columns: 1fr; }
.panel, .card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
.panel { padding: 18px 20px; min-width: 0; }
.panel + .panel { margin-top: 18px; }
.panel p { margin: 0 0 10px; color: var(--soft); font-size: .93rem; }
.panel p:last-child { margin-bottom: 0; }
.gauge { position: relative; height: 10px; border-radius: 5px; background: var(--bar); margin: 30px 0 8px; }
.gauge i { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 5px; background: var(--accent); }
.gauge.absent i { background: var(--warm); }
.gauge u { position: absolute; top: -6px; bottom: -6px; width: 2px; background: var(--ink); }
.gauge span { position: absolute; top: -27px; font-size: .78rem; color: var(--soft); white-space: nowrap;
  transform: translateX(-50%); }
.map { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
.map .sea { fill: var(--sea); }
.map .edge { fill: none; stroke: var(--line); }
.map .grid { stroke: var(--line); stroke-width: 1; }
.map .area { fill: var(--warm); fill-opacity: .07; stroke: var(--warm); stroke-dasharray: 5 4;
  fill-rule: evenodd; }
.map .hit { fill: var(--accent); fill-opacity: .2; stroke: var(--accent); stroke-width: 1.4; }
.map a:hover .hit, .map a:focus .hit { fill-opacity: .5; }
.map .dot { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; }
.map .rank { fill: var(--card); font-weight: 700; font-size: 10.5px; text-anchor: middle; }
.map .lon { fill: var(--soft); text-anchor: middle; }
.map .lat { fill: var(--soft); stroke: var(--sea); stroke-width: 3; paint-order: stroke; }
.map .said { fill: var(--soft); }
.map .scale { fill: none; stroke: var(--soft); stroke-width: 1.5; }
ol.sentences { margin: 0; padding: 0; list-style: none; counter-reset: s; }
ol.sentences li { counter-increment: s; position: relative; padding: 0 0 9px 28px; font-size: .93rem;
  line-height: 1.42; overflow-wrap: anywhere; }
ol.sentences li::before { content: counter(s); position: absolute; left: 0; top: 2px; width: 19px;
  height: 19px; border-radius: 6px; background: var(--accent-soft); color: var(--accent); font-size: .76rem;
  font-weight: 700; text-align: center; line-height: 19px; }
ol.sentences .gone { color: var(--warm); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(232px, 1fr)); gap: 18px;
  padding-bottom: 10px; }
.card { overflow: hidden; display: flex; flex-direction: column; scroll-margin-top: 14px; min-width: 0; }
.card:target { outline: 3px solid var(--accent); outline-offset: 2px; }
.picture { position: relative; aspect-ratio: 1; background: var(--well); display: grid;
  place-items: center; }
.picture img { width: 100%; height: 100%; object-fit: contain; display: block; }
.picture p { margin: 0; padding: 18px; color: var(--soft); font-size: .84rem; text-align: center;
  overflow-wrap: anywhere; max-height: 100%; overflow: hidden; }
.picture b { position: absolute; left: 10px; top: 10px; min-width: 28px; height: 28px; padding: 0 8px;
  border-radius: 9px; background: rgb(16 22 24 / .82); color: #fff; font-size: .88rem; line-height: 28px;
  text-align: center; }
.body { padding: 12px 14px 14px; display: flex; flex-direction: column; gap: 6px; flex: 1; }
.numbers { display: flex; align-items: baseline; justify-content: space-between; gap: 10px;
  font-variant-numeric: tabular-nums; }
.numbers strong { font-size: 1.14rem; letter-spacing: -.01em; }
.numbers span { color: var(--soft); font-size: .86rem; }
.bar { height: 6px; border-radius: 3px; background: var(--bar); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.source { font-weight: 600; font-size: .93rem; line-height: 1.35; overflow-wrap: anywhere; }
dl { margin: 0; display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 2px 10px; font-size: .83rem;
  font-variant-numeric: tabular-nums; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.zs { display: grid; grid-template-columns: auto minmax(0, 1fr) auto; gap: 3px 8px; align-items: center;
  font-size: .78rem; color: var(--soft); font-variant-numeric: tabular-nums; margin-top: auto;
  padding-top: 4px; }
.none { border: 1px dashed var(--line); border-radius: 14px; padding: 34px 24px; color: var(--soft);
  text-align: center; margin-bottom: 20px; }
footer { padding-top: 22px; padding-bottom: 50px; color: var(--soft); font-size: .84rem;
  overflow-wrap: anywhere; }
@media (max-width: 820px) { .overview { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 560px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 26px; }
  .overview { margin: 16px 0 20px; gap: 12px; }
  .panel { padding: 13px 13px; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .body { padding: 9px 10px 11px; }
  .numbers { flex-wrap: wrap; gap: 0 8px; }
  dl { grid-template-columns: minmax(0, 1fr); }
  dt { display: none; }
  .map { font-size: 19px; }
  .map .dot { r: 15px; }
  .map .rank { font-size: 17px; transform: translateY(2px); }
}
@media print { .card, .panel { break-inside: avoid; } }
"""
