"""Very many light hospitals in one process, in an event loop: `python light_streams.py HOST:PORT FIRST LAST [TLS]`.

The same messages as light_hospitals.py's, and a connection a hospital, but no thread, ledger or coming back: hundreds
of threads a process are more than two cores can switch between, which would hide what the server costs.
"""

import asyncio
import sys
import uuid
from pathlib import Path

import grpc
import light_hospitals
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from federated_health.data.tasks import HEART_DISEASE
from federated_health.messages.task_agreement import write_agreement
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.transport.channels import CHANNEL_OPTIONS, PROTOCOL, unwrap, wrap
from federated_health.transport.interface import call_app, hospital_context
from federated_health.transport.listening import open_files
from federated_health.transport.stream_client import JOIN_METHOD


def open_channel(address: str, name: str, identities: Path | None) -> grpc.aio.Channel:
    if identities is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    tls = load_identity(identities / name, Role.HOSPITAL)
    credentials = grpc.ssl_channel_credentials(tls.authority_bytes, tls.read_key(), tls.certificate_bytes)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


async def take_part(app: ClientApp, address: str, name: str, identities: Path | None) -> None:
    """One hospital, until the run is over."""
    context = hospital_context(name, {})
    agreement = write_agreement({"protocol": PROTOCOL, **HEART_DISEASE.agreement})
    metadata = (("hospital", name), ("terms", agreement), ("process", uuid.uuid4().hex))
    async with open_channel(address, name, identities) as channel:
        join = channel.stream_stream(JOIN_METHOD, ClientMessage.SerializeToString, ServerMessage.FromString)
        call = join(metadata=metadata, wait_for_ready=True)
        async for question in call:
            reply = call_app(app, message_from_proto(unwrap(question.fit_ins.parameters)), context)
            wrapped = wrap(message_to_proto(reply))
            await call.write(ClientMessage(fit_res=ClientMessage.FitRes(parameters=wrapped)))


async def take_all(address: str, first: int, last: int, identities: Path | None = None) -> None:
    """Hospitals of these numbers."""
    open_files(2 * (last - first) + 100)
    app = light_hospitals.light_app()
    names = [f"hospital-{number}" for number in range(first, last)]
    await asyncio.gather(*(take_part(app, address, name, identities) for name in names))


if __name__ == "__main__":
    asyncio.run(take_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(Path, sys.argv[4:])))
