"""A server and a hospital without Keras as processes of their own, for tests that kill or cut them off.

`python -m tests.support.stream_peers serve HOST:PORT [LARGEST]` asks every hospital again and again; `join HOST:PORT
NAME` answers, each time with one more. Both print a line for each event. KEEPALIVE is read from the environment.
"""

import os
import sys
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federated_health.transport import channels
from federated_health.transport.interface import hospital_context
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import serve_streams
from tests.support.wire import UNWRITTEN

TERMS = {"task": "heart-disease", "column sex": "sex: 0 female, 1 male"}


def say(words: str) -> None:
    print(words, flush=True)


def serve(address: str, max_message_bytes: str = "1048576") -> None:
    with serve_streams(address, TERMS, say, max_message_bytes=int(max_message_bytes)) as grid:
        say("listening")
        while True:
            for node, name in grid.names().items():
                (reply,) = grid.send_and_receive([Message(RecordDict(), node, "query")], timeout=5)
                if reply.has_error():
                    say(f"error {name} {reply.error.reason}")
                else:
                    say(f"answer {name} {reply.content.config_records['answer']['number']!r}")
            for problem in grid.take_problems():
                say(f"problem {problem.hospital} {problem.reason}")
            time.sleep(0.05)


def join(address: str, name: str) -> None:
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        number = int(str(context.node_config.setdefault("answers", 0))) + 1
        context.node_config["answers"] = number
        return Message(RecordDict({"answer": ConfigRecord({"number": number})}), reply_to=message)

    context = hospital_context(name, {})
    where = {"name": name, "address": address, "agreement": TERMS, "wait": 60.0, "ledger": UNWRITTEN}
    join_run(app, context, **where, announce=say, prepare=lambda: None)  # type: ignore[arg-type]  # mixed values


if __name__ == "__main__":
    channels.KEEPALIVE_SECONDS = float(os.environ.get("KEEPALIVE", channels.KEEPALIVE_SECONDS))
    channels.CHANNEL_OPTIONS = channels.channel_options(channels.KEEPALIVE_SECONDS)
    part = serve if sys.argv[1] == "serve" else join
    part(*sys.argv[2:])
