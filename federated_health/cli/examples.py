"""Commands that --help shows as examples."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "server.py": (
        "python server.py --hospitals 4 --rounds 30 --out runs/first",
        'python server.py --strategy fedprox --strategy-args "proximal-mu=0.1"',
        "python server.py --tls server-tls --address 10.0.0.5:8080",
        "python server.py --resume runs/first",
    ),
    "client.py": (
        "python client.py --hospital 1",
        "python client.py --data /path/to/patients.csv --check",
        "python client.py --data /path/to/patients.csv --name my-hospital --out my-results",
        "python client.py --data /path/to/patients.csv --tls my-tls --server fl.example.org:8080",
        "python client.py --show-egress data/egress-cleveland.jsonl",
    ),
    "create_dataset.py": (
        "python create_dataset.py",
        "python create_dataset.py --source heart.csv --by dirichlet --hospitals 5 --plot",
        "python create_dataset.py --source readmission --patients 40000",
        "python create_dataset.py --by size --ratios 8,4,2,1 --out data",
    ),
    "predict.py": (
        "python predict.py runs/first/model.keras data/example_patients.csv",
        "python predict.py runs/first/model.keras patients.csv --out risk.csv",
    ),
    "subcommands": (
        "python -m federated_health demo",
        "python -m federated_health evidence --jobs 2",
        "python -m federated_health certificates show server-tls",
    ),
    "demo": (
        "python -m federated_health demo",
        "python -m federated_health demo --task readmission --rounds 10",
        "python -m federated_health demo --encrypt --dp-epsilon 2",
    ),
    "evidence": (
        "python -m federated_health evidence",
        "python -m federated_health evidence --strategies fedavg,fedprox,fedyogi",
        "python -m federated_health evidence --folds 3 --repeats 1 --no-tune --rounds 10 --out runs/quick",
    ),
    "audit": (
        "python -m federated_health audit",
        "python -m federated_health audit --shadows 8 --epsilons 2,8 --out runs/quick-audit",
    ),
    "superlink": (
        "python -m federated_health superlink --tls server-tls --hospitals authority/issued --address 0.0.0.0:9092",
        "python -m federated_health superlink --tls server-tls --hospitals cleveland.pem hungary.pem --name heart",
    ),
    "supernode": (
        "python -m federated_health supernode --tls cleveland-tls --data patients.csv --superlink fl.example.org:9092",
        "python -m federated_health supernode --tls cleveland-tls --data patients.csv --dp-budget 4",
    ),
    "certificates": (
        'python -m federated_health certificates init --authority authority --name "Heart federation"',
        "python -m federated_health certificates request --tls cleveland-tls --name cleveland",
        "python -m federated_health certificates sign cleveland-tls/request.pem --authority authority",
    ),
    "certificates init": (
        'python -m federated_health certificates init --authority authority --name "Heart federation"',
        "python -m federated_health certificates init --authority authority --days 1825",
    ),
    "certificates request": (
        "python -m federated_health certificates request --tls server-tls --server --host fl.example.org",
        "python -m federated_health certificates request --tls cleveland-tls --name cleveland",
    ),
    "certificates sign": (
        "python -m federated_health certificates sign cleveland-tls/request.pem --authority authority",
        "python -m federated_health certificates sign request.pem --authority authority --out answer.pem --days 90",
    ),
    "certificates revoke": ("python -m federated_health certificates revoke cleveland --authority authority",),
    "certificates renew": ("python -m federated_health certificates renew --tls cleveland-tls",),
    "certificates show": (
        "python -m federated_health certificates show cleveland-tls",
        "python -m federated_health certificates show cleveland-tls/request.pem",
    ),
}
"""Examples by script, or by subcommand of `python -m federated_health`."""
