"""The benchmark of bytes per round: the meter, and its figures of a federation."""

import socket
import threading

import bytes_per_round
import light_federation
import pytest


def read(connection: socket.socket, number: int) -> bytes:
    """Exactly this many bytes: a socket with a timeout does not support MSG_WAITALL."""
    content = b""
    while len(content) < number and (more := connection.recv(number - len(content))):
        content += more
    return content


def test_a_meter_counts_each_direction_separately() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert len(read(connection, 100)) == 100
                connection.sendall(bytes(70_000))

        answering = threading.Thread(target=answer)
        answering.start()
        with light_federation.metered(f"127.0.0.1:{server.getsockname()[1]}") as meter:
            host, port = meter.address.split(":")
            with socket.create_connection((host, int(port)), timeout=10) as hospital:
                hospital.sendall(bytes(100))
                assert len(read(hospital, 70_000)) == 70_000
            assert (meter.from_hospitals, meter.to_hospitals) == (100, 70_000)
        answering.join()


def case(weights: int, **times: float) -> dict[str, float]:
    return {"weights": weights, **{f"{way}_times": factor for way, factor in times.items()}}


def test_the_worst_direction_of_the_relevant_sizes_is_judged() -> None:
    cases = [
        case(689, message_to_hospital=1.4, socket_to_hospital=1.6),
        case(100_000, message_to_hospital=1.01, socket_to_hospital=1.02),
        case(1_000_000, message_to_hospital=1.2, socket_to_hospital=1.0),
    ]
    found = {name: (target["figure"], target["reached"]) for name, target in bytes_per_round.judge(cases).items()}
    assert found == {
        "message, from 100000 weights on": (1.2, False),
        "socket, from 100000 weights on": (1.02, True),
        "message, default model": (1.4, True),
        "socket, default model": (1.6, False),
    }


@pytest.mark.slow
def test_a_message_has_more_bytes_than_its_weights_and_fewer_than_the_socket_carries() -> None:
    few, many = (bytes_per_round.count(50_000, rounds, tls=False) for rounds in (3, 5))
    for found in (few, many):
        assert found["bytes_of_weights"] == 200_000
        for way in ("to_hospital", "from_hospital"):
            assert 200_000 < found[f"message_{way}"] < found[f"socket_{way}"] < 202_000
    assert few["message_to_hospital"] == pytest.approx(
        many["message_to_hospital"], abs=2
    )  # independent of the number of rounds
