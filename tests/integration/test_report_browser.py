"""The page in a browser: accessible, on paper and on a phone, without a script, an error or a request.

The tests need playwright and axe-playwright-python (requirements-dev.txt) and a Chromium on the machine.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.hospital.egress_page import page_of_ledger
from federated_health.hospital.ledger_page import summarise
from federated_health.report.page import Page, render
from tests.support.example_report import HOSPITALS, page
from tests.support.example_run import Replies, benefit, evaluation, page_of
from tests.support.studies import Labels, study_of
from tests.test_egress_page import ACCEPTED, WITHHELD
from tests.test_ledger_page import LINES

pytestmark = pytest.mark.slow

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

WIDTHS = {"desk": 1280, "tablet": 768, "phone": 360}
Opener = Callable[..., AbstractContextManager[Any]]

OVERLAPS = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    const shared = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left))
                           * Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
    const outside = boxes.filter(([, box]) => box.left < frame.left - 2 || box.right > frame.right + 2
                                           || box.top < frame.top - 2 || box.bottom > frame.bottom + 2);
    const pairs = boxes.flatMap(([words, box], place) => boxes.slice(place + 1)
        .filter(([, other]) => shared(box, other) > 0.12 * Math.min(box.width * box.height, other.width * other.height))
        .map(([others]) => `${words} over ${others}`));
    return [...pairs, ...outside.map(([words]) => `${words} outside`)];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield instance
        instance.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Opener:
    """Opens a page from a file; fails if it requests anything else, or logs an error."""

    @contextmanager
    def opened(
        *,
        width: str = "desk",
        scheme: str = "light",
        strained: bool = False,
        of: Callable[[], Page] | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        file = tmp_path / "report.html"
        file.write_text(render(of() if of else page(strained=strained)), encoding="utf-8")
        viewport = {"width": WIDTHS[width], "height": 800}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        shown = context.new_page()
        requests: list[str] = []
        errors: list[str] = []
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto(file.as_uri())
        yield shown
        context.close()
        assert [url for url in requests if not url.startswith("data:,")] == [file.as_uri()]
        assert errors == []

    return opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", ["desk", "phone"])
def test_axe_finds_no_violation_in_any_block_or_chart(opened: Opener, width: str, scheme: str) -> None:
    with opened(width=width, scheme=scheme, bypass_csp=True) as shown:  # so that axe may run
        shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        results = axe_api.Axe().run(shown)
        assert results.violations_count == 0, results.generate_report()
        assert len(results.response["passes"]) > 20


@pytest.mark.parametrize("width", WIDTHS)
def test_wide_tables_scroll_sideways_and_the_page_does_not(opened: Opener, width: str) -> None:
    with opened(width=width, strained=True) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        assert shown.evaluate("document.documentElement.scrollWidth") == WIDTHS[width]
        widths = shown.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.scroll'))")
        assert widths[1] < WIDTHS[width]
        assert widths[0] > widths[1] or width != "phone"
        for name in ("svg", ".card", ".facts", "figcaption", "caption div"):
            edges = shown.evaluate(
                f"[...document.querySelectorAll('{name}')].map(e => e.getBoundingClientRect().right)"
            )
            assert edges
            assert max(edges) <= WIDTHS[width]


def test_text_of_pictures_does_not_overlap_or_leave_them(opened: Opener) -> None:
    with opened(strained=True) as shown:
        assert shown.evaluate("document.querySelectorAll('svg text').length") > 500
        assert shown.evaluate(OVERLAPS) == []


def test_text_of_pictures_is_large_enough_on_a_phone(opened: Opener) -> None:
    with opened(width="phone") as shown:
        assert_text_is_large_enough(shown)


def assert_text_is_large_enough(shown: Any) -> None:
    """At least 11 px for all text of pictures, as the browser draws it."""
    shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    sizes = shown.evaluate(
        "[...document.querySelectorAll('svg text, .axis')].map(text => parseFloat(getComputedStyle(text).fontSize)"
        " * (text.getScreenCTM ? text.getScreenCTM().a ** 2 + text.getScreenCTM().b ** 2 : 1) ** .5)"
    )
    assert len(sizes) > 30
    assert min(sizes) >= 11


@pytest.mark.parametrize("strained", [False, True])
def test_the_first_screen_of_a_desk_holds_the_overview(opened: Opener, strained: bool) -> None:
    with opened(strained=strained) as shown:
        assert_overview_is_above_the_fold(shown)


def assert_overview_is_above_the_fold(shown: Any) -> None:
    """The question, the verdicts, three numbers and the forest plot, within 1280 x 800 pixels."""
    bottoms = shown.evaluate(
        "['.lead', '.byline', '.strip li:last-child', '.numbers div:nth-child(3)', '.overview svg']"
        ".map(name => document.querySelector(name).getBoundingClientRect().bottom)"
    )
    assert max(bottoms) <= 800
    left, right = shown.evaluate(
        "[...document.querySelectorAll('.overview svg')].map(e => e.getBoundingClientRect().top)"
    )
    assert left == right  # both figures side by side


def test_consecutive_pictures_stand_two_abreast_except_on_a_phone(opened: Opener) -> None:
    places = "[...document.querySelectorAll('#pictures figure')].map(e => [e.getBoundingClientRect().x, e.offsetTop])"
    for width, columns in (("desk", 2), ("tablet", 2), ("phone", 1)):
        with opened(width=width) as shown:
            found = shown.evaluate(places)
            assert len(found) > 4
            assert len({x for x, _ in found}) == columns
            assert (found[0][1] == found[1][1]) == (columns == 2)


def test_the_row_names_of_a_wide_table_stay_in_view_on_a_phone(opened: Opener) -> None:
    with opened(width="phone") as shown:
        name = "document.querySelector('#figures tbody th').getBoundingClientRect().left"
        before = shown.evaluate(name)
        shown.evaluate("document.querySelector('#figures .scroll').scrollLeft = 200")
        assert shown.evaluate("document.querySelector('#figures .scroll').scrollLeft") == 200
        assert shown.evaluate(name) == before


def test_pictures_use_the_font_and_the_colours_of_the_page(opened: Opener) -> None:
    inks = []
    for scheme in ("light", "dark"):
        with opened(scheme=scheme) as shown:
            styles = "getComputedStyle(document.querySelector('svg text')).fontFamily"
            assert shown.evaluate(styles) == shown.evaluate("getComputedStyle(document.body).fontFamily")
            inks.append(shown.evaluate("getComputedStyle(document.querySelector('svg text')).fill"))
            assert shown.evaluate("getComputedStyle(document.body).backgroundColor") != inks[-1]
    assert inks[0] != inks[1]


def test_folded_sections_are_printed_in_light_colours(opened: Opener) -> None:
    folded = "document.querySelector('details p')"
    with opened(scheme="dark") as shown:
        dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert not shown.evaluate(f"{folded}.checkVisibility()")
        shown.emulate_media(media="print", color_scheme="dark")
        assert shown.evaluate(f"{folded}.checkVisibility() && {folded}.getBoundingClientRect().height > 0")
        assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
        assert shown.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_keyboard_reaches_the_content_tables_and_folded_sections(opened: Opener) -> None:
    with opened() as shown:
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "skip"
        assert shown.evaluate("document.activeElement.getBoundingClientRect().top >= 0")
        reached = set()
        for _ in range(20):
            shown.keyboard.press("Tab")
            reached.add(shown.evaluate("document.activeElement.className || document.activeElement.tagName"))
        assert {"A", "scroll", "SUMMARY"} <= reached


# The pages of a run and of a study


@cache
def page_of_a_run() -> Page:
    """Every verdict, a hospital that misses the first round, and one that releases no scores."""
    few = evaluation(tp=16, fp=1, tn=1, fn=2, roc_auc=0.75, cells=False)
    return page_of(
        {
            "cleveland": Replies(benefit=benefit((0.05, 0.01, 0.09))),
            "hungary": Replies(train=60, losses=(None, 0.3), benefit=benefit((-0.1, -0.2, -0.01))),
            "switzerland": Replies(final=few, benefit=benefit(None)),
            "va-long-beach": Replies(),
        }
    )


@cache
def page_of_many_hospitals() -> Page:
    return page_of({f"{'long-name-' * 5}{number:03}": Replies() for number in range(60)})


@cache
def page_of_a_small_study() -> Page:
    """Four hospitals with overlapping scores, one of them without a verdict; two strategies."""

    def score(hospital: str, model: str, labels: Labels) -> npt.NDArray[np.float64]:
        noise = np.random.default_rng(list(f"{hospital}{model}".encode())).normal(size=len(labels))
        return 1.5 * labels.astype(np.float64) - 0.5 + noise

    labels = {name: [1, 0] * 30 for name in HOSPITALS} | {"switzerland": [1] * 40 + [0] * 3}
    return study_of(labels, score, strategies=("fedavg", "fedyogi")).page


@cache
def page_of_an_egress_ledger() -> Page:
    """With accepted terms, a suppressed release, an error, and a value that no release explains."""
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "egress-a.jsonl"
        ledger.write_text("".join([ACCEPTED, WITHHELD, *LINES]))
        return page_of_ledger(summarise(ledger), "0" * 64)


PAGES = [page_of_a_run, page_of_many_hospitals, page_of_a_small_study, page_of_an_egress_ledger]


@pytest.mark.parametrize(
    ("of", "width", "scheme"),
    [
        (page_of_a_run, "desk", "light"),
        (page_of_a_run, "phone", "dark"),
        (page_of_a_small_study, "desk", "dark"),
        (page_of_a_small_study, "phone", "light"),
        (page_of_many_hospitals, "phone", "light"),
        (page_of_an_egress_ledger, "desk", "light"),
        (page_of_an_egress_ledger, "phone", "dark"),
    ],
)
def test_axe_finds_no_violation_in_a_real_report(
    opened: Opener, of: Callable[[], Page], width: str, scheme: str
) -> None:
    with opened(of=of, width=width, scheme=scheme, bypass_csp=True) as shown:  # so that axe may run
        shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        results = axe_api.Axe().run(shown)
        assert results.violations_count == 0, results.generate_report()
        assert len(results.response["passes"]) > 20


@pytest.mark.parametrize("of", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_real_report_does_not_scroll_sideways_and_its_text_does_not_overlap(
    opened: Opener, of: Callable[[], Page], width: str
) -> None:
    with opened(of=of, width=width) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
        assert shown.evaluate("document.documentElement.scrollWidth") == WIDTHS[width]
        assert shown.evaluate(OVERLAPS) == []


@pytest.mark.parametrize("of", [page_of_a_run, page_of_many_hospitals])
def test_the_first_screen_of_a_real_report_holds_the_overview(opened: Opener, of: Callable[[], Page]) -> None:
    with opened(of=of) as shown:
        assert_overview_is_above_the_fold(shown)


def test_text_of_a_real_report_is_large_enough_on_a_phone(opened: Opener) -> None:
    with opened(of=page_of_a_run, width="phone") as shown:
        assert_text_is_large_enough(shown)


def test_tables_of_real_reports_fit_on_a_desk(opened: Opener) -> None:
    for of in (page_of_a_run, page_of_a_small_study, page_of_an_egress_ledger):
        with opened(of=of) as shown:
            shown.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
            wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
            # Tables of subgroups have more intervals beside each other than fit, and scroll in their own box.
            assert [label for label in shown.evaluate(f"{wide}.map(e => e.ariaLabel)") if not is_of_groups(label)] == []


def is_of_groups(label: str) -> bool:
    return "subgroups" in label


def test_a_real_report_is_a_few_pages_of_a4(opened: Opener) -> None:
    with opened(of=page_of_a_run) as shown:
        printed = shown.pdf(prefer_css_page_size=True)
        sizes = set(re.findall(rb"/MediaBox \[([^\]]*)\]", printed))
        assert {tuple(round(float(edge)) for edge in size.split()) for size in sizes} == {(0, 0, 595, 842)}
        assert 5 <= printed.count(b"/Type /Page\n") <= 20
