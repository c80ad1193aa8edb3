"""Cost of differential privacy in figures on held-out patients, over 20 split seeds; prints JSON.

Each split seed is one run of the four hospitals in process, without privacy and at every epsilon and delta. Figures are
exact, from the hospitals' own scores; `noise_of_...` is what the server shows, less the exact figure.

The noise comes from the operating system's entropy, so two executions print slightly different figures. The defaults of
the dp- settings were chosen on the split seeds 100 to 111 (`--first-split 100 --splits 12 --settings ...`), not on
these.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import federate, quieten, summarise, write_uci

from federated_health.data.hospital import load_hospital
from federated_health.setting_fields import Value
from federated_health.settings import Settings

TARGETS = {
    (1e-5, 8.0): 0.88,
    (1e-5, 2.0): 0.87,
    (1e-5, 1.0): 0.86,
    (1e-3, 8.0): 0.89,
    (1e-3, 2.0): 0.88,
    (1e-3, 1.0): 0.87,
}
"""(delta, epsilon) -> targeted ROC-AUC over all held-out patients."""

FIGURES = ("accuracy", "f1", "roc_auc", "brier")


def measure(hospitals: dict[str, Path], settings: Settings, split_seed: int) -> dict[str, float]:
    """Exact held-out figures of one run, and with differential privacy the noise in what the server shows of them."""
    task = settings.task_declaration
    outcome = federate([load_hospital(path, task, name, split_seed) for name, path in hospitals.items()], settings)
    figures = {name: outcome.exact[name] for name in (*FIGURES, "mean_roc_auc")}
    if not settings.dp_epsilon:
        return figures
    shown = outcome.federation
    noise = {name: (shown[name] if shown[name] is not None else 0.5) - figures[name] for name in FIGURES}
    stated = {f"stated_noise_of_{name}": shown.get(f"{name}_noise", 0.0) for name in FIGURES}
    hospital_noise = [figures.get("accuracy_noise", 0.0) for figures in outcome.hospitals.values()]
    return {
        **figures,
        **{f"noise_of_{name}": value for name, value in noise.items()},
        **stated,
        "stated_noise_of_a_hospital_s_accuracy": float(np.mean(hospital_noise)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=20, help="split seeds (default: %(default)s)")
    parser.add_argument("--first-split", type=int, default=0, help="the first split seed (default: %(default)s)")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="other than the defaults")
    flags = parser.parse_args()
    quieten()
    defaults = Settings().to_config()
    others = {name: type(defaults[name])(value) for name, value in (setting.split("=") for setting in flags.settings)}
    with tempfile.TemporaryDirectory() as folder:
        hospitals = write_uci(Path(folder))

        def figures(changes: dict[str, Value]) -> dict[str, dict[str, float]]:
            settings = Settings.from_config({**others, **changes})
            seeds = range(flags.first_split, flags.first_split + flags.splits)
            return summarise([measure(hospitals, settings, seed) for seed in seeds])

        result: dict[str, Any] = {"settings": {**defaults, **others}, "split_seeds": flags.splits, "plain": figures({})}
        result["private"] = []
        for (delta, epsilon), target in TARGETS.items():
            settings = Settings.from_config({**defaults, **others, "dp-epsilon": epsilon, "dp-delta": delta})
            plan = settings.privacy_plan("0" * 16)
            assert plan is not None
            result["private"].append(
                {
                    "epsilon": epsilon,
                    "delta": delta,
                    "noise_multiplier": plan.noise_multiplier,
                    "evaluation_noise": plan.evaluation_noise,
                    "exchange_epsilons": plan.exchange_epsilons,
                    "wanted": target,
                    **figures({"dp-epsilon": epsilon, "dp-delta": delta}),
                }
            )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
