"""Score patients with a saved model: add `risk`, the predicted probability, and `prediction`, 1 or 0, to a CSV.

`python predict.py runs/first/model.keras patients.csv --out risk.csv`

Its flags and steps are in `federated_health/cli/predict.py`.
"""

from federated_health import interrupts  # isort: skip  # first

interrupts.begin_script(__name__)  # Ctrl-C ends a script during the imports below, too

import utils
from federated_health.cli.predict import main

if __name__ == "__main__":
    utils.run_script(main)
