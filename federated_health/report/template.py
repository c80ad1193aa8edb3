"""HTML template and style sheet of a page, as Python text, since Flower's app bundles leave out HTML files."""

TEMPLATE = """\
{% set numbers = namespace(table=0, figure=0) %}
{% macro verdict(tone, text) %}
<span class="symbol" aria-hidden="true">{{ symbols[tone] }}</span> {{ text }}
{% endmacro %}
{% macro show(block) %}
{% set kind = block.__class__.__name__ %}
{% if kind == "str" %}
<p>{{ block }}</p>
{% elif kind == "Caution" %}
<p class="caution" role="note"><strong>Note</strong> {{ block.text }}</p>
{% elif kind == "list" %}
<ul class="bullets">{% for item in block %}<li>{{ item }}</li>{% endfor %}</ul>
{% elif kind == "dict" %}
<dl class="facts">
{% for name, value in block.items() %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl>
{% elif kind == "Cards" %}
<ul class="cards">
{% for card in block["items"] %}
<li class="card {{ card.tone }}"><h3>{{ card.name }}</h3>
<p class="verdict">{{ verdict(card.tone, card.verdict) }}</p>
<p>{{ card.text }}</p></li>
{% endfor %}
</ul>
{% elif kind == "Strip" %}
<div class="strip"><h2>{{ block.title }}</h2><ul>
{% for part in block.parts %}
<li class="{{ part.tone }}" style="flex-grow: {{ part.number or 1 }}">
{% if part.number is not none %}<strong>{{ part.number }}</strong>{% endif %}
{{ verdict(part.tone, part.text) }}</li>
{% endfor %}
</ul></div>
{% elif kind == "Numbers" %}
<dl class="numbers">
{% for number in block["items"] %}
<div><dt>{{ number.name }}</dt><dd><strong>{{ number.value }}</strong> {{ number.text }}</dd></div>
{% endfor %}
</dl>
{% elif kind == "Table" %}
{% set numbers.table = numbers.table + 1 %}
<div class="table">
<div class="scroll" role="region" tabindex="0" aria-label="Table {{ numbers.table }}: {{ block.caption }}">
<table><caption><div><span>Table {{ numbers.table }}</span> {{ block.caption }}</div></caption>
<thead><tr>{% for column in block.columns %}
<th scope="col"{{ " class=words"|safe if column in block.words }}>{{ column }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for row in block.shown_rows %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}
<td{{ " class=words"|safe if block.columns[loop.index] in block.words }}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if block.shown_note %}<p class="aside">{{ block.shown_note }}</p>{% endif %}
</div>
{% elif kind == "Picture" %}
{% set numbers.figure = numbers.figure + 1 %}
<figure{{ " class=small"|safe if block.is_small }}>
{% if block.title %}<h3>{{ block.title }}</h3>{% endif %}
<div class="picture" style="--width: {{ block.width }}px" role="img" aria-label="{{ block.alt }}">
{{ block.svg|own_ids("figure%d_" % numbers.figure)|safe }}</div>
<figcaption><span>Figure {{ numbers.figure }}</span> {{ block.caption }}</figcaption>
</figure>
{% elif kind == "Folded" %}
<details><summary>{{ block.title }}</summary><div class="blocks">
{% for inner in block.blocks %}{{ show(inner) }}{% endfor %}
</div></details>
{% endif %}
{% endmacro %}
<!DOCTYPE html>
<html lang="en" id="top">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ page.title }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>{{ page.title }}</h1><p class="lead">{{ page.lead }}</p>
{% if page.byline %}
<ul class="byline">{% for fact in page.byline %}<li>{{ fact }}</li>{% endfor %}</ul>
{% endif %}
</header>
{% if page.summary %}
<section class="overview" aria-label="Overview">
{% for block in page.summary %}{{ show(block) }}{% endfor %}
</section>
{% endif %}
<div class="columns">
<nav aria-labelledby="contents"><h2 id="contents">Contents</h2><ol>
{% for section in page.sections %}<li><a href="#{{ section.slug }}">{{ section.title }}</a></li>{% endfor %}
</ol></nav>
<main id="content" tabindex="-1">
{% for section in page.sections %}
<section id="{{ section.slug }}">
{% if section.folded %}<details><summary>{% endif %}
<h2>{{ section.title }}</h2>
{% if section.folded %}</summary>{% endif %}
<div class="blocks">
{% for block in section.blocks %}{{ show(block) }}{% endfor %}
</div>
{% if section.folded %}</details>{% endif %}
</section>
{% endfor %}
</main>
</div>
<footer><p>{{ footer }}</p></footer>
</body>
</html>
"""

STYLE = """\
:root {
color-scheme: light dark;
--paper: #ffffff; --panel: #f6f7f9; --ink: #1c2127; --muted: #545d68; --line: #d5dae0; --grid: #e1e5ea;
--link: #0a5a8f; --shade: #4fa3dc; --note: #fff6df; --note-edge: #b97a00;
--good: #0b5f45; --good-back: #def3ea; --neutral: #444c56; --neutral-back: #e8ebef;
--bad: #94300c; --bad-back: #fce7de; --mixed: #6f4d00; --mixed-back: #fbeec6;
--series-1: #0072b2; --series-2: #c04a00; --series-3: #007d5c; --series-4: #a8497f; --series-5: #8a6a00;
--series-6: #4d5fb8;
}
@media screen and (prefers-color-scheme: dark) { :root {
--paper: #13171b; --panel: #1b2026; --ink: #e8ebee; --muted: #a5afba; --line: #39424c; --grid: #2b333b;
--link: #82c3f2; --shade: #1f6aa5; --note: #2a2415; --note-edge: #e0a83a;
--good: #86dfbc; --good-back: #12352a; --neutral: #c6ced6; --neutral-back: #2b333b;
--bad: #ffb08e; --bad-back: #44200f; --mixed: #f0cd7a; --mixed-back: #3a2f10;
--series-1: #5ab4ea; --series-2: #ff8c42; --series-3: #35c79d; --series-4: #e79ac4; --series-5: #e3c04a;
--series-6: #a3b1ff;
} }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 2rem 4rem; max-width: 77rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
a { color: var(--link); text-underline-offset: .2em; text-decoration-thickness: .06em; }
:focus-visible { outline: .15rem solid var(--link); outline-offset: .2rem; border-radius: .15rem; }
.skip { position: absolute; left: 1rem; top: -5rem; padding: .5rem 1rem; background: var(--paper); }
.skip:focus { top: 1rem; z-index: 2; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; }
h1 { margin: 0 0 .5rem; font-size: clamp(1.625rem, 1.4rem + 1.2vw, 2.125rem); }
h1 { font-weight: 650; letter-spacing: -.02em; }
.lead { margin: 0; max-width: 56rem; font-size: 1.125rem; line-height: 1.45; text-wrap: pretty; }
.byline { display: flex; flex-wrap: wrap; margin: .5rem 0 0; padding: 0; max-width: none; list-style: none; }
.byline li { margin: 0; color: var(--muted); font-size: .9375rem; }
.byline li:not(:last-child)::after { content: "·"; margin: 0 .5rem; }
p, ul, ol, dl { margin: 0 0 1rem; max-width: 42rem; }
li + li { margin-top: .3rem; }
main { min-width: 0; }
main:focus { outline: none; }
.overview { display: grid; gap: 1.5rem 2.5rem; margin: 1.5rem 0 0; }
.overview > * { margin: 0; min-width: 0; }
.strip h2 { margin: 0 0 .5rem; color: var(--muted); font-size: .9375rem; font-weight: 600; }
.strip ul { display: flex; flex-wrap: wrap; gap: .25rem; margin: 0; padding: 0; max-width: none; list-style: none; }
.strip li { flex: 1 1 auto; margin: 0; padding: .5rem .9rem; border-radius: .35rem; }
.strip li { font-size: .9375rem; white-space: nowrap; }
.strip strong { margin-right: .25rem; font-size: 1.25rem; font-weight: 650; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 12rem), 1fr)); gap: 1rem 2.5rem; }
.numbers { max-width: none; }
.numbers div { padding-top: .65rem; border-top: 2px solid var(--line); }
.numbers dt { color: var(--ink); font-size: .9375rem; font-weight: 600; }
.numbers dd { color: var(--muted); font-size: .875rem; line-height: 1.4; }
.numbers strong {
  display: block; color: var(--ink); font-size: 2.25rem; font-weight: 620; line-height: 1.15; letter-spacing: -.02em;
}
.columns { margin-top: 2.5rem; border-top: 1px solid var(--line); }
nav { padding: 1.25rem 0 0; }
nav h2 { margin: 0 0 .5rem; color: var(--muted); font-size: .9375rem; font-weight: 600; }
nav ol { margin: 0; padding: 0; list-style: none; columns: 13rem 3; column-gap: 2rem; font-size: .9375rem; }
nav li { margin: 0; padding: .2rem 0; break-inside: avoid; line-height: 1.35; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
main > section { margin-top: 2.5rem; scroll-margin-top: 1rem; }
main > section:has(> details) { margin-top: 0; }
main > section:not(:has(> details)) + section:has(> details) { margin-top: 2.5rem; }
main > section:has(> details) + section:has(> details) summary { border-top: 0; }
section > h2, summary h2 { margin: 0 0 .9rem; font-size: 1.375rem; font-weight: 620; letter-spacing: -.01em; }
summary { cursor: pointer; padding: .7rem 0; border-block: 1px solid var(--line); font-weight: 600; }
summary h2 { display: inline; margin: 0 0 0 .25rem; font-size: 1.0625rem; }
details[open] > summary { margin-bottom: 1.25rem; }
.blocks details > summary { padding: .35rem 0; border: 0; font-size: .9375rem; color: var(--link); }
.blocks > * { margin: 0 0 1.1rem; }
.blocks > :last-child { margin-bottom: 0; }
.caution {
  padding: .8rem 1.1rem; max-width: none; background: var(--note);
  border-left: .25rem solid var(--note-edge); border-radius: .2rem;
}
.caution strong { margin-right: .35rem; }
.bullets { padding-left: 1.25rem; }
.bullets li::marker { color: var(--muted); }
figure { min-width: 0; }
figure h3 { margin: 0 0 .6rem; font-size: 1rem; font-weight: 620; }
.scroll {
  overflow-x: auto;  /* and a shadow on the right for as long as there is more to scroll to */
  background:
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to left, var(--line), transparent) right / .6rem 100% no-repeat scroll;
}
table { border-collapse: collapse; width: 100%; font-size: .9rem; line-height: 1.4; }
caption, figcaption { text-align: left; font-size: .9375rem; line-height: 1.45; }
caption { padding-bottom: .6rem; }
caption div { position: sticky; left: 0; width: fit-content; max-width: min(42rem, 100vw - 2rem); }
caption span, figcaption span { margin-right: .35rem; font-weight: 650; white-space: nowrap; }
figcaption, .aside { margin: .7rem 0 0; color: var(--muted); }
figcaption { max-width: 42rem; font-size: .875rem; }
figcaption span { color: var(--ink); }
.aside { max-width: none; font-size: .875rem; line-height: 1.45; columns: 26rem 2; column-gap: 2rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 500; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; border-bottom: 1px solid var(--muted); }
tbody th {
  position: sticky; left: 0; min-width: 7rem; max-width: 14rem; background: var(--paper); overflow-wrap: anywhere;
}
td { min-width: 4rem; max-width: 22rem; white-space: nowrap; }
td.words { max-width: none; white-space: normal; }
td:not(.words), thead th + th:not(.words) { text-align: right; }
.picture { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--width)), 1fr)); gap: .75rem; }
.picture svg {
  display: block; width: 100%; max-width: calc(1.3 * var(--width)); height: auto;
  font-family: inherit; overflow: visible;
}
.axis { grid-column: 1 / -1; margin: 0; color: var(--muted); font-size: .8125rem; line-height: 1.3; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem;
  padding: 0; max-width: none; list-style: none;
}
.card {
  margin: 0; padding: 1rem 1.1rem; background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
}
.card h3 { margin: 0 0 .5rem; font-size: 1.0625rem; font-weight: 620; overflow-wrap: anywhere; }
.card p { margin: 0; font-size: .9375rem; line-height: 1.5; }
.card .verdict {
  display: inline-block; margin-bottom: .6rem; padding: .1rem .6rem; border-radius: 1rem;
  font-size: .875rem; font-weight: 600;
}
.symbol { margin-right: .1rem; font-size: .75em; }
.good .verdict, .strip .good { color: var(--good); background: var(--good-back); }
.mixed .verdict, .strip .mixed { color: var(--mixed); background: var(--mixed-back); }
.neutral .verdict, .strip .neutral { color: var(--neutral); background: var(--neutral-back); }
.bad .verdict, .strip .bad { color: var(--bad); background: var(--bad-back); }
.unknown .verdict, .strip .unknown { color: var(--muted); background: var(--panel); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2rem; }
.facts { max-width: none; }
.facts div { display: grid; grid-template-columns: 10rem minmax(0, 1fr); gap: 1rem; }
.facts div { padding: .4rem 0; border-bottom: 1px solid var(--grid); font-size: .9375rem; line-height: 1.45; }
dt { color: var(--muted); overflow-wrap: anywhere; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted); }
footer p { margin: 0; font-size: .875rem; }
@media screen and (min-width: 64rem) {
  .overview:has(> .numbers + figure) { grid-template-columns: 14.5rem minmax(0, 1fr); }
  .overview > .strip { grid-column: 1 / -1; }
  .overview > .numbers:has(+ figure) { grid-template-columns: 1fr; align-content: start; }
  .columns { display: grid; grid-template-columns: 10.5rem minmax(0, 1fr); gap: 0 2.5rem; }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; padding: 2.5rem 0 1rem; }
  nav ol { columns: auto; font-size: .875rem; }
}
@media print, (min-width: 48rem) {
  .blocks { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 2rem; align-items: start; }
  .blocks > :not(figure) { grid-column: 1 / -1; }
  /* A picture without another beside it has its caption there. */
  .blocks > figure:not(figure + figure):not(:has(+ figure)) {
    grid-column: 1 / -1; display: grid; grid-template-columns: inherit; gap: 0 2rem; align-items: start;
  }
  .blocks > figure.small:not(figure + figure):not(:has(+ figure)) { display: block; }
  .blocks > figure:not(figure + figure):not(:has(+ figure)) > h3 { grid-column: 1 / -1; }
}
@media (max-width: 34rem) {
  body { padding: 1.25rem .9rem 3rem; }
  tbody th { min-width: 6.25rem; max-width: 7.5rem; }
  .facts div { grid-template-columns: 1fr; gap: 0; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  @page { size: A4; margin: 18mm 18mm 20mm; }
  :root { color-scheme: light; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10.5pt; line-height: 1.45; }
  nav, .skip { display: none; }
  a { color: inherit; text-decoration: none; }
  h1 { font-size: 22pt; }
  .lead { font-size: 12pt; }
  .blocks { gap: 0 6mm; }
  main > section, main > section:has(> details) { margin-top: 9mm; }
  section > h2, summary h2 { font-size: 14pt; }
  .columns { border: 0; margin: 0; }
  .numbers { grid-template-columns: repeat(3, 1fr); }
  h2, h3, summary, caption { break-after: avoid; }
  p, li { orphans: 3; widows: 3; }
  /* What is folded is printed: the browser hides it in this box, not in an element of ours. */
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
  summary { padding: 0; border: 0; list-style: none; }
  summary h2 { margin: 0; }
  summary::-webkit-details-marker { display: none; }
  details > summary { margin-bottom: 4mm; }
  figure, .card, .caution, .facts div, tr, .table:not(:has(tbody tr:nth-child(16))) { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; background: none; }
  table { font-size: 8.5pt; }
  th, td { padding-right: 2mm; }
  tbody th, td { position: static; min-width: 0; max-width: none; }
  td { white-space: normal; }
  .cards { grid-template-columns: 1fr 1fr; gap: 3mm; }
  .picture svg { max-height: 215mm; }
}
"""
