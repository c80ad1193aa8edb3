"""Turn a data set into one CSV per hospital: client_1.csv, client_2.csv, ... and manifest.json.

`python create_dataset.py`, or `python create_dataset.py --source heart.csv --by dirichlet --hospitals 5`.

Its flags and steps (read a source, divide its rows, write the files) are in `federated_health/cli/create_dataset.py`.
"""

from federated_health import interrupts  # isort: skip  # first

interrupts.begin_script(__name__)  # Ctrl-C ends a script during the imports below, too

import utils
from federated_health.cli.create_dataset import main

if __name__ == "__main__":
    utils.run_script(main)
