"""Tables as LaTeX: nothing of a cell is taken as a command, and figures are rounded as on the page."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated_health.ml.verdicts import Difference, Interval
from federated_health.report.formatting import MINUS
from federated_health.report.latex import escape, latex_table
from federated_health.report.page import Table

COMMANDS = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textasciigrave": "`",
    "textendash": "\N{EN DASH}",
    "textemdash": "\N{EM DASH}",
    "ldots": "…",
    **{symbol: symbol for symbol in "{}$&#%_"},
    ",": " ",
}
MATH = {
    "-": MINUS,
    r"\pm": "±",
    r"\times": "\N{MULTIPLICATION SIGN}",
    r"\leq": "≤",
    r"\geq": "≥",
    r"\mu": "μ",
    r"^{\circ}": "°",
}
TOKENS = re.compile(
    r"\\text(?:super|sub)script\{(?P<raised>[^{}]*)\}|\\(?P<command>[a-zA-Z]+|.)(?:\{\})?|\$(?P<math>[^$]*)\$"
    r"|\{(?P<group>.?)\}|(?P<tie>~)|(?P<plain>[^\\{}$&#%_^~])",
    re.DOTALL,
)
"""What text of a LaTeX document may consist of; `typeset` fails on everything else."""


def typeset(text: str) -> str:
    """The characters that LaTeX prints; fails if a special character is left as it is, or a command is not known."""
    printed, place = "", 0
    for token in TOKENS.finditer(text):
        assert token.start() == place, f"at {text[place:]!r}"
        place = token.end()
        if token["command"] is not None:
            printed += COMMANDS[token["command"]]
        elif token["math"] is not None:
            printed += MATH[token["math"]]
        else:
            printed += token["raised"] or token["group"] or (" " if token["tie"] else token["plain"] or "")
    assert place == len(text), f"at {text[place:]!r}"
    return printed


@pytest.mark.parametrize(
    "text", ["\\{}$&#%_~^<>|`", "a [b] *", r"50 % of \input{x} & $y_1$", "\\\\ [1em]", "a--b, ''c''"]
)
def test_special_characters_are_printed_as_they_are(text: str) -> None:
    assert typeset(escape(text)) == text


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn", "Zl", "Zp", "Co", "Cf"))))
def test_any_text_is_printed_as_it_is_but_for_raised_characters_and_spaces(text: str) -> None:
    def plain(character: str) -> str:
        if character in "\N{HYPHEN}\N{NON-BREAKING HYPHEN}":
            return "-"
        kind, *codes = unicodedata.decomposition(character).split() or [""]
        is_raised = kind in ("<super>", "<sub>")
        return "".join(plain(chr(int(code, 16))) for code in codes) if is_raised else character

    expected = "".join(map(plain, text)).replace("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}")
    spaces = {ord(character): " " for character in map(chr, range(0x3001)) if unicodedata.category(character) == "Zs"}
    assert typeset(escape(text)).translate(spaces) == expected.translate(spaces)


@given(st.text("-',`?!ab[*", max_size=6))
def test_no_two_characters_join_to_another_one(text: str) -> None:
    assert not re.search(r"--|''|,,|[?!]`|``", escape(text))


def test_ends_of_lines_and_control_characters_are_spaces() -> None:
    assert escape("a\nb\tc\x00d\x7f") == "a b c d "


def test_signs_and_raised_characters_have_commands() -> None:
    assert escape(f"{MINUS}0.5 ± 0.1") == r"$-$0.5 $\pm$ 0.1"
    assert escape("R² 10⁻³ H₂O") == (
        r"R\textsuperscript{2} 10\textsuperscript{$-$}\textsuperscript{3} H\textsubscript{2}O"
    )
    assert escape("0.1\N{EN DASH}0.2, ≤ 5 µg") == r"0.1\textendash{}0.2, $\leq$ 5 $\mu$g"


def test_a_table_has_rules_a_caption_a_label_and_rounded_figures() -> None:
    table = Table(
        caption="Figures of 95 %",
        columns=("hospital", "verdict", "n", "R²", "change"),
        rows=(
            ("a_b", "gains", 1234, 0.123456, Difference(value=0.0359, low=-0.0131, high=0.0622, p_value=0.01)),
            ("[x", "loses", 1, None, Interval(value=None, low=None, high=None)),
            ("all", "", 1235, -0.5, ""),
        ),
        note="A note & more.",
        last=1,
    )
    assert latex_table(table, "figures-of-95") == (
        "% Needs \\usepackage{booktabs}\n"
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{Figures of 95 \\%}\n"
        "\\label{tab:figures-of-95}\n"
        "\\begin{tabular}{llrrr}\n"
        "\\toprule\n"
        "hospital & verdict & n & R\\textsuperscript{2} & change \\\\\n"
        "\\midrule\n"
        "a\\_b & gains & 1,234 & 0.123 & +0.036 ($-$0.013 to +0.062) \\\\\n"
        "{[}x & loses & 1 & \\textendash{} & \\textendash{} \\\\\n"
        "\\midrule\n"
        "all &  & 1,235 & $-$0.500 &  \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\par\\smallskip\n"
        "{\\footnotesize A note \\& more.\\par}\n"
        "\\end{table}\n"
    )


@pytest.mark.parametrize(("name", "needs"), [("a", ""), ("Köln", "fontenc"), ("東京", "XeLaTeX")])
def test_the_first_line_says_what_the_preamble_needs(name: str, needs: str) -> None:
    first = latex_table(Table(caption="c", columns=(name,), rows=()), "c").splitlines()[0]
    assert first.startswith("% Needs \\usepackage{booktabs}")
    assert needs in first
    assert ("fontenc" in first, "XeLaTeX" in first) == (needs == "fontenc", needs == "XeLaTeX")


@given(
    st.lists(st.lists(st.text(max_size=4), min_size=2, max_size=2), max_size=3),
    st.text(max_size=5),
    st.integers(0, 3),
)
def test_every_row_has_all_cells_and_braces_are_closed(rows: list[list[str]], caption: str, last: int) -> None:
    table = Table(caption=caption, columns=("x", "y"), rows=tuple(map(tuple, rows)), last=min(last, len(rows)))
    text = latex_table(table, "t")
    plain = re.sub(r"\\[{}&]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("\\\\\n") == len(rows) + 1
    assert plain.count("&") == len(rows) + 1
