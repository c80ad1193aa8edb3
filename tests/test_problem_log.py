"""Problems are counted by hospital and reason, with a limit, and described in lines."""

import json

from federated_health.server.history import MAX_REASONS, OTHER_REASONS, ProblemLog

LOST = "its connection was lost, or it sent more than 2 MiB at once"


def problems() -> ProblemLog:
    one = ProblemLog()
    for _ in range(3):
        one.count("b", "its weights are not all finite")
    one.count("b", "its loss is out of range")
    one.count("a", LOST, has_answered=False)
    one.absent.update(["b", "c"])
    one.absent.update(["c"])
    one.repeated_rounds = 2
    one.resumed_after += [0, 7]
    return one


def test_counts_are_ordered_by_name() -> None:
    assert problems().to_json() == {
        "rejected": {"b": {"its loss is out of range": 1, "its weights are not all finite": 3}},
        "unanswered": {"a": {LOST: 1}},
        "absent": {"b": 1, "c": 2},
        "repeated_rounds": 2,
        "resumed_after": [0, 7],
    }


def test_counts_continue_after_json() -> None:
    other = ProblemLog()
    other.absent.update(["z"])
    other.restore(json.loads(json.dumps(problems().to_json())))
    assert other.to_json() == problems().to_json()
    content = problems().to_json()
    other.restore(content)
    other.resumed_after.append(9)
    assert content["resumed_after"] == [0, 7]
    other.count("b", "its loss is out of range")
    other.count("b", "its connection was lost", has_answered=False)
    other.absent.update(["b"])
    assert other.to_json()["rejected"]["b"]["its loss is out of range"] == 2
    assert other.to_json()["unanswered"]["b"] == {"its connection was lost": 1}
    assert other.to_json()["absent"]["b"] == 2


def test_a_hospital_s_own_words_cannot_fill_the_file() -> None:
    one = ProblemLog()
    for number in range(1000):
        one.count("a", f"reason {number}", has_answered=False)
    one.count("a", "reason 3", has_answered=False)
    reasons = one.to_json()["unanswered"]["a"]
    assert len(reasons) == MAX_REASONS + 1
    assert reasons[OTHER_REASONS] == 1000 - MAX_REASONS
    assert reasons["reason 3"] == 2


def test_the_lines_say_who_what_and_how_often() -> None:
    assert problems().describe() == [
        'a: 1 message got no reply: "its connection was lost, or it sent more than 2 MiB at once"',
        'b: 4 replies were rejected: "its loss is out of range", "its weights are not all finite" (3); '
        "1 round without it",
        "c: 2 rounds without it",
        "2 times a round was repeated",
        "the server was interrupted, and the run resumed after round 0, 7",
    ]
    assert ProblemLog().describe() == []
