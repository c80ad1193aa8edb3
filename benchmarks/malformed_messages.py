"""Valid replies of every kind, corrupted in many ways, and the server's whole path from bytes to figures.

For `decoder.py`, which tries very many, and for the tests, which try a few.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as AnyProto
from hypothesis import strategies as st
from light_hospitals import ROWS  # and finds the project

from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import Evaluation, Registration, TrainingScores, Update
from federated_health.messages.validation import read_evaluation, read_registration, read_training_scores, read_update
from federated_health.ml.calibration import Calibration
from federated_health.ml.networks import Network, initial_weights, weight_shapes
from federated_health.ml.normalisation import ColumnSums
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.ml.verdicts import Comparison, Difference, Interval
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import ReplyCollector
from federated_health.transport.framing import Receiver, UndecodableError, serialise_reply
from federated_health.transport.in_process import InProcessTransport

TASK = HEART_DISEASE
NODE = 7
SHAPES = weight_shapes(TASK, Network())
LARGE_SHAPES = {"hidden/kernel": (300, 100), "hidden/bias": (100,), "logit/kernel": (100, 200)}
"""Shapes of weights of which two arrays follow the header in chunks."""

MAX_BYTES = 2**20
"""Limit of a message's bytes, as for a server with small weights."""

MAX_ADDED = MAX_BYTES // 4
"""Limit of the bytes that a repetition adds."""

Reader = Callable[[int, RecordDict], object]
Operation = tuple[str, int]
Example = tuple[str, list[Operation], str]
"""Kind of the original, operations in order, and the kind as which it is read."""


def _originals() -> dict[str, RecordDict]:
    cells = np.array([[5.0, -1.0, 0.5], [7.0, 2.0, 0.0]])
    middle = np.array([(column.low + column.high) / 2 for column in TASK.measurements])
    counts = Counts(true_positives=12, false_positives=8, true_negatives=18, false_negatives=2, loss_sum=9.5)
    columns = len(TASK.columns)
    full = np.full(len(middle), float(ROWS))
    lower, higher = Interval(value=0.7, low=0.5, high=0.85), Interval(value=0.75, low=0.5, high=0.9)
    difference = Difference(value=0.05, low=-0.1, high=0.25, p_value=0.3)
    return {
        "introduction": Registration(
            name="cleveland",
            train_examples=ROWS,
            test_examples=ROWS,
            sums=ColumnSums(count=full, total=ROWS * middle, squares=ROWS * middle**2),
        ).to_content(),
        "update": Update(weights=initial_weights(TASK, Network(), 1), examples=ROWS, loss=0.6).to_content(),
        "large_update": Update(
            weights={name: np.ones(shape, np.float32) for name, shape in LARGE_SHAPES.items()}, examples=ROWS, loss=0.6
        ).to_content(),
        "evaluation": Evaluation(counts=counts).to_content(),
        "final": Evaluation(
            counts=Counts(true_positives=12, true_negatives=12, false_positives=16, squared_error_sum=3.5),
            roc_auc=0.75,
            scores={"positives": cells, "negatives": np.array([[28.0, 0.25, 1.5]])},
        ).to_content(),
        "scores": TrainingScores(positives=cells, negatives=cells).to_content(),
        "appraisal": Benefit(
            comparisons={
                "roc_auc": Comparison(own=lower, federated=higher, difference=difference),
                "brier": Comparison(own=higher, federated=lower, difference=difference),
            },
            calibration=dict.fromkeys(("own", "federated"), Calibration(slope=0.9, intercept=-0.2)),
            importance=np.linspace(-1, 1, columns),
            observed=np.full(columns, 30.0),
        ).to_content(),
    }


TARGET = target_of(TASK)
READERS: Mapping[str, Reader] = {
    "introduction": lambda _node, content: read_registration(content, TASK.measurements),
    "update": lambda _node, content: read_update(content, SHAPES, ROWS),
    "numpy_update": lambda _node, content: read_update(content, SHAPES, ROWS),
    "large_update": lambda _node, content: read_update(content, LARGE_SHAPES, ROWS),
    "evaluation": lambda _node, content: read_evaluation(content, TARGET, ROWS),
    "final": lambda _node, content: read_evaluation(content, TARGET, ROWS, final=True),
    "scores": lambda _node, content: read_training_scores(content, ROWS),
    "appraisal": lambda _node, content: Benefit.from_content(content, TASK, ROWS, ROWS),
}


class _NoApp:
    """A placeholder for a grid's app, which is never called."""


Original = tuple[ProtoMessage, list[bytes]]
"""A message's header, and the chunks that follow it."""


def original_messages() -> dict[str, Original]:
    """A valid reply of each kind, one with arrays in NumPy's format, and an error reply."""
    InProcessTransport(_NoApp(), {})  # type: ignore[arg-type]  # gives this process the identity that messages need
    asked = Message(RecordDict(), NODE, "query")
    asked.metadata.__dict__["_message_id"] = "0123456789abcdef"
    contents = _originals()
    originals = {}
    for kind, content in contents.items():
        header, *chunks = serialise_reply(Message(content, reply_to=asked))[1].parts()
        originals[kind] = ProtoMessage.FromString(header), chunks
    originals["numpy_update"] = message_to_proto(Message(contents["update"], reply_to=asked)), []
    originals["error"] = message_to_proto(Message(Error(3, "OSError at the hospital"), reply_to=asked)), []
    return originals


def receive(parts: Sequence[bytes], kind: str) -> str:
    """Process a hospital's bytes as a server that waits for this kind of reply.

    Args:
        parts: what gRPC receives, one after the other.

    Returns:
        What the first part that ends the wait leads to: `accepted`, `error reply`, `malformed`, `not a message`,
        `too large` or `wrong chunk`; or `incomplete` if the wait does not end.

    Raises:
        Exception: an unexpected error, which would end the server.
    """
    receiver, outcomes = Receiver(MAX_BYTES), []
    for part in parts:
        try:
            if (reply := receiver.add(part)) is not None:
                outcomes.append(_examine(reply, kind))
        except UndecodableError as error:
            words = {"more than": "too large", "chunk": "wrong chunk"}
            outcomes.append(next((words[word] for word in words if word in str(error)), "not a message"))
    return outcomes[0] if outcomes else "incomplete"


def _examine(reply: Message, kind: str) -> str:
    """What becomes of a message that is decoded."""
    transport: Any = SimpleNamespace(names=lambda: {NODE: "cleveland"})
    problems = ProblemLog()
    accepted = ReplyCollector(transport, 1.0, problems).accept([reply], {}, READERS[kind])
    reasons = [*chain(*problems.rejected.values(), *problems.unanswered.values())]
    if len(accepted) + len(reasons) != 1:
        raise AssertionError("a reply is neither accepted nor rejected")
    if accepted:
        return "accepted"
    if not reasons[0].isprintable() or len(reasons[0]) > 300:
        raise AssertionError("the reason is not a short line")
    return "error reply" if reply.has_error() else "malformed"


# Corruption

NUMBERS = [0, 1, -1, 2, 5, 39, 41, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1]
RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 0),
}
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e39, 1e308, -1e308, math.inf, -math.inf, math.nan]
WORDS = [
    *("", "a", "metrics", "arrays", "hospital", "name", "num-examples", "count", "train-loss", "roc_auc", "positives"),
    *(
        "numpy.ndarray",
        "raw",
        "torch",
        "float32",
        "object",
        "|O",
        "federation",
        "A",
        "x" * 3000,
        "\0",
        "\n",
        "\u202e\U0001f600",
    ),
    *("hidden/kernel", "logit/bias", "importance", "own-roc-auc", "true_positives", "equal-weight"),
]
HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }" % ("9" * 18),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 99999), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '|V2147483647', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': [('a', '<f4', 99999)], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1L,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1.0,), }",
    "{'descr': '\\d', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4,' * 999, 'shape': ()}",
    "(" * 5000,
    "-" * 9000 + "1",
    "[" * 150 + "]" * 150,
    "{" + "1:1," * 2000 + "}",
    "__import__('os').abort()",
    "9" * 9000,
    "\0",
    "",
]


def _npy(header: str, draw: random.Random) -> bytes:
    version = draw.choice([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff"])
    length = draw.choice([len(header), len(header), 0, 65535])
    return b"\x93NUMPY" + version + min(length, 65535).to_bytes(2, "little") + header.encode() + bytes(4)


def _fields(message: AnyProto) -> list[tuple[Any, FieldDescriptor]]:
    """Every field that is set, at any depth, with the message that holds it."""
    found = []
    for descriptor, value in message.ListFields():
        found.append((message, descriptor))
        if descriptor.type == FieldDescriptor.TYPE_MESSAGE:
            for item in value[:50] if descriptor.is_repeated else [value]:
                found.extend(_fields(item))
    return found


def _scalar(descriptor: FieldDescriptor, draw: random.Random) -> Any:
    match descriptor.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if descriptor.type == FieldDescriptor.TYPE_BYTES:
            return draw.choice([b"", draw.randbytes(40), _npy(draw.choice(HEADERS), draw)])
        case FieldDescriptor.CPPTYPE_STRING:
            return draw.choice(WORDS)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return draw.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
    low, high = RANGES[descriptor.cpp_type]
    return draw.choice([number for number in NUMBERS if low <= number <= high])


def _change_field(message: ProtoMessage, draw: random.Random) -> None:
    """Change the value of a field."""
    fields = _fields(message)
    if not fields:
        return
    holder, field = draw.choice(fields)
    if field.is_repeated:
        items = getattr(holder, field.name)
        match draw.choice(["delete", "repeat", "reverse", "many", "set"]):
            case "delete":
                del items[draw.randrange(len(items))]
            case "repeat":
                items.extend([items[draw.randrange(len(items))]] * draw.choice([1, 1, 2, 70]))
            case "reverse":
                reversed_items = list(items)[::-1]
                del items[:]
                items.extend(reversed_items)
            case "many":
                size = items[0].ByteSize() if field.type == FieldDescriptor.TYPE_MESSAGE else 8
                items.extend([items[0]] * min(draw.choice([1_001, 5_000, 100_001]), MAX_ADDED // (size + 3)))
            case "set" if field.type != FieldDescriptor.TYPE_MESSAGE:
                items[draw.randrange(len(items))] = _scalar(field, draw)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        holder.ClearField(field.name)
    else:
        setattr(holder, field.name, _scalar(field, draw))


def _change_type(message: ProtoMessage, draw: random.Random) -> None:
    """Set a field that was not set, or another member of a oneof: another type of value or record, or also an error."""
    holder = draw.choice([message, *(holder for holder, _ in _fields(message))])
    field = draw.choice(holder.DESCRIPTOR.fields)
    if field.is_repeated:
        items = getattr(holder, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            items.add()
        else:
            items.append(_scalar(field, draw))
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(holder, field.name).SetInParent()
    else:
        setattr(holder, field.name, _scalar(field, draw))


def _swap_fields(message: ProtoMessage, draw: random.Random) -> None:
    """Swap the values of two fields of the same type."""
    fields = [found for found in _fields(message) if not found[1].is_repeated]
    holder, field = draw.choice(fields) if fields else (message, None)
    same = [found for found in fields if field is not None and found[1].type == field.type]
    if field is None or field.type == FieldDescriptor.TYPE_MESSAGE:
        return
    other, twin = draw.choice(same)
    first, second = getattr(holder, field.name), getattr(other, twin.name)
    try:
        setattr(holder, field.name, second)
        setattr(other, twin.name, first)
    except ValueError:
        return  # out of the other field's range


def _corrupt_bytes(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    end = min(len(content), place + draw.choice([1, 2, 8, 60]))
    match draw.choice(["flip", "flip", "flip", "cut", "gone", "insert", "delete", "twice", "length", "garbage"]):
        case "flip" if place < len(content):
            return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        case "cut":
            return content[:place]
        case "gone":
            return content[place:]
        case "insert":
            return content[:place] + draw.randbytes(draw.choice([1, 3, 50])) + content[place:]
        case "delete":
            return content[:place] + content[end:]
        case "twice":
            return content[:end] + content[place:]
        case "length":  # a varint of up to ten bytes, at any position
            claim = draw.choice([b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 12])
            return content[:place] + claim + content[place + 1 :]
        case "garbage":
            return draw.randbytes(draw.choice([0, 1, 10, 200]))
    return content


def _corrupt_parts(parts: list[bytes], draw: random.Random) -> list[bytes]:
    """Change the order, the number or the sizes of a message's parts."""
    place = draw.randrange(len(parts))
    before, part, after = parts[:place], parts[place], parts[place + 1 :]
    match draw.choice(["drop", "repeat", "swap", "split", "empty", "cut", "extend", "join", "header"]):
        case "drop":
            return [*before, *after]
        case "repeat":
            return [*before, part, part, *after]
        case "swap":
            return [*after, part, *before]
        case "split":
            end = draw.randrange(len(part) + 1)
            return [*before, part[:end], part[end:], *after]
        case "empty":
            return [*before, b"", part, *after]
        case "cut":
            return [*before, part[:-1], *after]
        case "extend":
            return [*before, part + bytes(draw.choice([1, 4, MAX_ADDED])), *after]
        case "join":
            return [*before, part + b"".join(after)]
    return [*parts[: place + 1], parts[0], *after]  # a second header in the middle


def corrupt(original: Original, operations: list[Operation]) -> list[bytes]:
    """The parts of a message after all operations: first on the header's fields, then on its bytes, then on parts."""
    header, chunks = original
    corrupted = ProtoMessage()
    corrupted.CopyFrom(header)
    by_name = {"field": _change_field, "type": _change_type, "swap": _swap_fields}
    for name, seed in operations:
        if name in by_name:
            by_name[name](corrupted, random.Random(seed))
    content = corrupted.SerializeToString()
    for name, seed in operations:
        if name == "bytes":
            content = _corrupt_bytes(content, random.Random(seed))
    parts = [content, *chunks]
    for name, seed in operations:
        if name == "parts" and parts:
            parts = _corrupt_parts(parts, random.Random(seed))
    return parts


def examples() -> st.SearchStrategy[Example]:
    """Replies of every kind with up to three operations, most often read as their own kind."""
    kinds = sorted(READERS)
    names = st.sampled_from(["field", "field", "field", "type", "type", "swap", "bytes", "bytes", "parts"])
    operations = st.lists(st.tuples(names, st.integers(0, 2**32)), min_size=1, max_size=3)
    own = st.sampled_from([*kinds]).flatmap(lambda kind: st.tuples(st.just(kind), operations, st.just(kind)))
    other = st.tuples(st.sampled_from([*kinds, "error"]), operations, st.sampled_from(kinds))
    return st.one_of(own, own, other)
