"""The text of an exception for a hospital's own log, without what may be a patient's value.

Rows are numbers, so numbers are replaced, apart from those in shapes such as (None, 28) and in names such as float32 or
dense_1. Quoted strings may be cells of a CSV, so they are replaced, apart from names of layers, modules and the like.
"""

import re

MAX_CHARACTERS = 400
REPLACEMENT = "#"

_SHAPE = r"[\[(](?:\d+|None)?(?:, ?(?:\d+|None))*,?[\])]"
_SHAPE_FOLLOWS = r"(?:\b[Ss]hapes?\b ?(?:=|:|of|is|was)? ?|\bTensorShape\(|\bIn\[\d\]: ?)"
_SHAPES = re.compile(rf"{_SHAPE_FOLLOWS}({_SHAPE}(?:(?:,| vs\.?| and| with)? ?{_SHAPE})*)")
_UNKNOWN_SIZE = re.compile(rf"(?={_SHAPE})[\[(](?=[^\])]*None)[^\])]*[\])]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_./:-]*(?:\d{1,3}[A-Za-z_./:-]*)*")
_NUMBER = re.compile(r"(?<![A-Za-z_\d])[-+]?(?:0[xX][0-9a-fA-F]+|\d+(?:[.,:/-]\d+)*\.?\d*(?:[eE][-+]?\d+)?)|\d{4,}")
_QUOTED = re.compile(
    r"(?<!\w)(?P<quote>['\"])(?P<text>.*?)(?P=quote)(?!\w)|[\u2018\u201c].*?[\u2019\u201d]|(?<!\w)['\"\u2018\u201c].*",
    re.DOTALL,
)
_BEFORE_NAME = re.compile(r"\b(?:layer|node|op|operation|module named|attribute|argument|function) $")


def describe_error(error: BaseException) -> str:
    """The exception's type, and its text on one line without quoted strings and numbers."""
    text = redact(" ".join(str(error).split()))
    if len(text) > MAX_CHARACTERS:  # TensorFlow's begins with what failed, and ends with why
        text = f"{text[: MAX_CHARACTERS // 4]} ... {text[-3 * MAX_CHARACTERS // 4 :]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def redact(text: str) -> str:
    """A text on one line without numbers and quoted strings that may be values; see the module."""
    text = _QUOTED.sub(lambda match: match[0] if _is_name(match, text) else f"'{REPLACEMENT}'", text)
    parts, end = [], 0
    spans = [match.span(1) for match in _SHAPES.finditer(text)] + [m.span() for m in _UNKNOWN_SIZE.finditer(text)]
    for start, stop in sorted(spans):
        if start >= end:
            parts += [_NUMBER.sub(REPLACEMENT, text[end:start]), text[start:stop]]
            end = stop
    return "".join([*parts, _NUMBER.sub(REPLACEMENT, text[end:])])


def _is_name(match: re.Match[str], text: str) -> bool:
    """Whether a quoted string is a name in the program, as the words around it say."""
    if match["text"] is None or not _NAME.fullmatch(match["text"]):
        return False
    return _BEFORE_NAME.search(text[: match.start()]) is not None or text[match.end() :].startswith(" object ")
