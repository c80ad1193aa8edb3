"""What a run needs to go on after its server died: a file a round, and a history beside them that grows.

A folder holds the two newest checkpoints, so that a torn one costs a round, and `history.jsonl`, of which each of them
says up to where it is its own.
"""

from federated_health.server.checkpoints.checkpoint import Checkpoint, check_settings, settings_hash
from federated_health.server.checkpoints.folder import CheckpointFolder

__all__ = ["Checkpoint", "CheckpointFolder", "check_settings", "settings_hash"]
