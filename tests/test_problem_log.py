"""Problems are counted by hospital and reason, with a limit, and described in lines."""

import json

from federated_health.server.problem_log import MAX_REASONS, OTHER_REASONS, ProblemLog

LOST = "its connection was lost, or it sent more than 2 MiB at once"


def example() -> ProblemLog:
    problems = ProblemLog()
    for _ in range(3):
        problems.count("b", "its weights are not all finite")
    problems.count("b", "its loss is out of range")
    problems.count("a", LOST, has_answered=False)
    problems.absent.update(["b", "c"])
    problems.absent.update(["c"])
    problems.repeated_rounds = 2
    problems.resumed_after += [0, 7]
    problems.opposed_updates.update(["c", "c"])
    return problems


def test_json_is_ordered_by_name() -> None:
    assert example().to_json() == {
        "rejected": {"b": {"its loss is out of range": 1, "its weights are not all finite": 3}},
        "unanswered": {"a": {LOST: 1}},
        "absent": {"b": 1, "c": 2},
        "repeated_rounds": 2,
        "resumed_after": [0, 7],
        "data_warnings": {},
        "opposed_updates": {"c": 2},
    }


def test_counting_continues_after_a_restart_from_json() -> None:
    other = ProblemLog()
    other.absent.update(["z"])
    other.restore(json.loads(json.dumps(example().to_json())))
    assert other.to_json() == example().to_json()
    content = example().to_json()
    other.restore(content)
    other.resumed_after.append(9)
    assert content["resumed_after"] == [0, 7]
    other.count("b", "its loss is out of range")
    other.count("b", "its connection was lost", has_answered=False)
    other.absent.update(["b"])
    assert other.to_json()["rejected"]["b"]["its loss is out of range"] == 2
    assert other.to_json()["unanswered"]["b"] == {"its connection was lost": 1}
    assert other.to_json()["absent"]["b"] == 2


def test_a_hospital_cannot_fill_the_file_with_reasons_of_its_own() -> None:
    problems = ProblemLog()
    for number in range(1000):
        problems.count("a", f"reason {number}", has_answered=False)
    problems.count("a", "reason 3", has_answered=False)
    reasons = problems.to_json()["unanswered"]["a"]
    assert len(reasons) == MAX_REASONS + 1
    assert reasons[OTHER_REASONS] == 1000 - MAX_REASONS
    assert reasons["reason 3"] == 2


def test_there_is_a_line_per_hospital_with_its_reasons_and_their_numbers() -> None:
    a, b, c, *_ = example().describe()
    assert a.startswith("a: 1 message ")
    assert LOST in a
    assert b.startswith("b: 4 replies ")
    assert '"its loss is out of range", "its weights are not all finite" (3)' in b
    assert "1 round " in b
    assert c.startswith("c: 2 rounds ")


def test_repeated_rounds_and_restarts_have_lines_of_their_own() -> None:
    *_, repeated, resumed = example().describe()
    assert repeated.startswith("2 attempts ")
    assert resumed.endswith(" after rounds 0, 7")


def test_a_run_without_problems_has_no_lines() -> None:
    assert ProblemLog().describe() == []
