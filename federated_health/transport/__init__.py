"""Two grids that carry Flower's Message API: hospitals over long-lived gRPC streams, and hospitals in process.

Flower's own SuperNode starts a process for every message, which imports TensorFlow every time. Here a hospital's
process stays, and messages travel over one stream of Flower's gRPC service `FlowerService.Join`, each as the one tensor
of a `FitIns` or `FitRes`. Only this package touches Flower's internals; apps and strategies do not know it.

A stream begins with metadata: the hospital's name and the terms that both sides must share (task, schema). The server
accepts by sending its initial metadata, or refuses with a status that says why. It ends the stream with OK when the run
is over. A hospital whose own check says that it may not join says so in the metadata, and is refused.
"""

from federated_health.transport.capacity import check_room
from federated_health.transport.channels import check_address
from federated_health.transport.grids import InProcessGrid, hospital_context, server_context
from federated_health.transport.stream_client import join_federation, report_unfit
from federated_health.transport.stream_server import StreamGrid, serve_streams

__all__ = [
    "InProcessGrid",
    "StreamGrid",
    "check_address",
    "check_room",
    "hospital_context",
    "join_federation",
    "report_unfit",
    "serve_streams",
    "server_context",
]
