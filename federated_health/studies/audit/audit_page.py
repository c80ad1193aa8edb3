"""The report of an audit: what each attacker finds out, and what privacy costs. The console shows its tables, too."""

from collections.abc import Mapping
from typing import Any

from federated_health.ml.privacy_plan import GUARANTEE
from federated_health.ml.verdicts import Interval
from federated_health.report import formatting, sections
from federated_health.report.page import Block, Caution, Page, Picture, Section
from federated_health.report.panels import panels_of
from federated_health.report.tradeoff import Panel, draw_tradeoff
from federated_health.studies.audit.attacks import ATTACKS, ENCRYPTED
from federated_health.studies.audit.membership import FALSE_POSITIVE_RATE, GUESSING
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, UPDATES, AuditPlan

Figures = Mapping[str, Any]
"""Privacy setting -> figures, or a part of these (see `audit_figures`)."""

Rows = dict[str, dict[str, str]]
"""Name -> column -> cell."""

TARGETS = {FINAL: "the final model", UPDATES: "one hospital's updates", AVERAGES: "the rounds' averages"}
RATE = f"true-positive rate at {FALSE_POSITIVE_RATE * 100:g} % false positives"
WHO = [
    "the final model: anyone who receives it",
    "one hospital's updates: the server, and whoever operates it, who see each hospital's weights before and after its "
    "local training in each round; with encrypted averaging they hold ciphertexts and none of these",
    "the rounds' averages: every hospital, under every setting, since it continues training from them",
]
MEANING = (
    "An attack's ROC-AUC is the probability that it ranks a training patient above a patient of the same hospital who "
    "was not used for training: 0.5 is guessing, 1 is certainty. The share of training patients that it finds while it "
    f"names at most 1 % of the others ({RATE}) shows whether it is certain about some; 0.01 is guessing."
)
INVERSION = (
    "Share of the columns of patients that can be reconstructed from one update of the smallest hospital, by the "
    "number of patients in it. Categories count if they are equal, measurements if they are within half a standard "
    "deviation. Every reconstructed patient is assigned to a true one as well as possible. Guesses are assigned in the "
    "same way. They come from the held-out patients of the hospital: one typical patient for all, or random ones. "
    "Only a share that is clearly above the guesses reveals something."
)


def audit_page(plan: AuditPlan, figures: Figures) -> Page:
    """The report of an audit."""
    patients = sum(len(hospital.train) for hospital in plan.hospitals.values())
    return Page(
        title=f"Privacy audit: {plan.task.name}",
        lead=f"{formatting.number_of(patients, 'training patient')} of "
        f"{formatting.number_of(len(plan.hospitals), 'hospital')}. Who can find out whether a patient's "
        "record was used for training, or what it holds? And what does it cost to prevent that?",
        sections=[
            _choice(figures, plan.half_runs),
            _attacks(figures),
            _by_hospital(plan, figures),
            *([_inversion(plan, figures)] if plan.sizes else []),
            _method(plan),
            sections.settings_section(
                next(iter(plan.privacies.values())),
                {
                    "runs attacked under each setting": str(plan.half_runs),
                    "runs of all rows under each setting": str(plan.full_runs),
                    "privacy settings": ", ".join(figures),
                    "SHA-256 of the schema": plan.task.schema_hash,
                },
                leave_out=frozenset(
                    {"appraisal", "dp-epsilon", "secure-aggregation", "max-update-norm", "min-hospitals"}
                ),
            ),
            sections.model_card(panels_of(plan.task), list(plan.hospitals), ["This audit's models are not kept."]),
        ],
    )


def strongest_attack(figures: Figures, target: str) -> Figures | None:
    """Figures of the attack on a target with the greatest ROC-AUC; None if there is nothing to attack.

    The greatest of several is slightly too great, which overstates the risk rather than understating it.
    """
    attacks: Figures = figures["attacks"][target] or {}
    return max(attacks.values(), key=lambda attack: attack["roc_auc"]["value"] or 0.0, default=None)


def strength_rows(figures: Figures, key: str) -> Rows:
    """The strongest attack: privacy -> target -> its `roc_auc` or `true_positive_rate`."""
    return {
        privacy: {name: _cell(strongest_attack(entry, target), key) for target, name in TARGETS.items()}
        for privacy, entry in figures.items()
    }


def one_model_rows(figures: Figures) -> Rows:
    """The attack on a single final model: privacy -> its interval, and the share of models at chance level."""
    rows = {}
    for privacy, entry in figures.items():
        attack = entry["attacks"][FINAL][_last_attack(FINAL)]
        guessing = formatting.percent_of(attack["undecided"])
        rows[privacy] = {"ROC-AUC, one model": _cell(attack, "one_model"), "models at chance level": guessing}
    return rows


def inversion_rows(figures: Figures) -> Rows:
    """Shares of columns recovered: privacy -> rows in the update -> cell; then what guesses recover."""
    first = next(iter(figures.values()))
    sources = {privacy: (entry, "update") for privacy, entry in figures.items()}
    if ENCRYPTED in figures:
        sources[f"{ENCRYPTED}: the average"] = (first, "average")
    sources |= {"guess: typical patient": (first, "typical"), "guess: random patients": (first, "random")}
    return {
        name: {
            formatting.number_of(int(rows), "row"): formatting.percent_of(shares[key])
            for rows, shares in entry["inversion"].items()
        }
        for name, (entry, key) in sources.items()
    }


def _last_attack(target: str) -> str:
    return list(ATTACKS[target])[-1]


def _cell(attack: Figures | None, key: str) -> str:
    """A figure of an attack with its interval."""
    return formatting.with_interval(Interval(**attack[key])) if attack else formatting.NOT_DEFINED


def _choice(figures: Figures, runs: int) -> Section:
    panels = [
        Panel(
            title=f"{label}: {quantity}",
            marks={
                privacy: (entry["attacked"]["roc_auc"], Interval(**attack[key]))
                for privacy, entry in figures.items()
                if (attack := strongest_attack(entry, target))
            },
            reference=reference,
        )
        for target, label in ((FINAL, "final model"), (UPDATES, "updates"), (AVERAGES, "averages"))
        for key, quantity, reference in (
            ("roc_auc", "AUC", GUESSING),
            ("true_positive_rate", "found at 1 %", FALSE_POSITIVE_RATE),
        )
    ]
    rows = {
        privacy: {
            "ROC-AUC, all rows": formatting.figure(figures[privacy]["whole"]["roc_auc"]),
            "ROC-AUC, attacked": formatting.figure(figures[privacy]["attacked"]["roc_auc"]),
            **row,
        }
        for privacy, row in strength_rows(figures, "roc_auc").items()
    }
    alt = "; ".join(f"{name}: {', '.join(f'{key} {cell}' for key, cell in row.items())}" for name, row in rows.items())
    final = figures[next(iter(figures))]["attacks"][FINAL][_last_attack(FINAL)]
    blocks: list[Block] = [
        MEANING,
        Picture(
            svg=draw_tradeoff(panels, across="held-out ROC-AUC of the models that were attacked"),
            alt=f"Strength of the attacks against the quality of the models. {alt}.",
            caption=f"Left: ROC-AUC of the attack; right: {RATE}; each with its {formatting.INTERVAL}. Dashed: "
            "guessing. Every panel has its own vertical scale. Good choices lie low and to the right. "
            "Encrypted averaging gives the same models as plain averaging, so both coincide, except for updates, "
            "which the server lacks.",
        ),
        sections.figures_table(
            f"ROC-AUC of attacks ({formatting.INTERVAL})",
            rows,
            first="privacy",
            note="ROC-AUC, all rows: models of all training rows, on all held-out patients. The attacked models were "
            "trained on half of the rows each. For each target, the strongest attack is shown; all are listed below. "
            f"{formatting.NOT_DEFINED}: nothing to attack.",
        ),
        sections.figures_table(
            f"The attack on a single final model: {_last_attack(FINAL)} (mean {formatting.INTERVAL} of {runs} models)",
            one_model_rows(figures),
            first="privacy",
            note="The intervals above are of the mean over all attacked models, so they show effects that are too "
            "small to be seen in one model. An attacker with one model has this interval. Models at chance level: "
            "those whose own interval contains 0.5; about 95 % if the attack finds nothing.",
        ),
        sections.figures_table(
            f"{RATE[0].upper()}{RATE[1:]} ({formatting.INTERVAL})",
            strength_rows(figures, "true_positive_rate"),
            first="privacy",
            note=f"Of about {final['patients'] // 2:,} patients who were not used for training, 1 % is "
            f"{formatting.number_of(final['false_positives'], 'patient')}: the rate is too noisy to interpret.",
        ),
    ]
    if ENCRYPTED in figures:
        caution = (
            "With encrypted averaging the server holds ciphertexts and no key. There is nothing to attack, so no "
            "figure is shown (the project's tests search such a server's memory for updates). Every hospital decrypts "
            "the averages, and so the final model: encryption does not hide what these reveal; differential privacy "
            "does."
        )
        blocks.append(Caution(caution))
    return Section("Attacks and model quality", blocks)


def _attacks(figures: Figures) -> Section:
    rows = {
        f"{privacy}: {name}, on {TARGETS[target]}": {
            "ROC-AUC": _cell(attack, "roc_auc"),
            RATE: _cell(attack, "true_positive_rate"),
        }
        for privacy, entry in figures.items()
        for target, attacks in entry["attacks"].items()
        if privacy != ENCRYPTED
        for name, attack in attacks.items()
    }
    table = sections.figures_table(f"Membership inference ({formatting.INTERVAL})", rows, first="attack")
    return Section("All attacks", ["Who sees what:", WHO, table], folded=True)


def _by_hospital(plan: AuditPlan, figures: Figures) -> Section:
    tables: list[Block] = []
    for target, label in TARGETS.items():
        rows = {
            f"{name} ({formatting.number_of(len(hospital.train), 'row')})": {
                privacy: _cell(entry["hospitals"][name][target], "roc_auc")
                for privacy, entry in figures.items()
                if privacy != ENCRYPTED
            }
            for name, hospital in plan.hospitals.items()
        }
        caption = f"ROC-AUC of {_last_attack(target)} on {label} ({formatting.INTERVAL})"
        tables.append(sections.figures_table(caption, rows))
    return Section("Hospital by hospital", tables)


def _inversion(plan: AuditPlan, figures: Figures) -> Section:
    table = sections.figures_table(
        f"Columns of {plan.smallest}'s patients that are recovered from the first round's update",
        inversion_rows(figures),
        first="privacy",
        note=f"Means over {formatting.number_of(plan.draws, 'draw')} of patients. "
        f"{formatting.NOT_DEFINED}: nothing to attack.",
    )
    return Section("Patients reconstructed from an update", [INVERSION, table])


def _method(plan: AuditPlan) -> Section:
    items = [
        f"Under each setting {plan.half_runs} runs were trained, each on a random half of every hospital's training "
        "rows, so that members and non-members are patients of the same kind. Each run is attacked with the others as "
        "shadow models.",
        "Loss threshold (Yeom et al. 2018): a small loss marks a training patient. LiRA (Carlini et al. 2022): "
        "the likelihood ratio of a patient's statistic, from shadow models with and without that patient.",
        "LiRA on loss drops: by how much a hospital's update lowers the patient's loss, over all rounds (cf. Nasr et "
        "al. 2019). LiRA on gradient shares: the share of the patient's own gradient in the first rounds' updates, by "
        "regression on the gradients of all candidates. This attacker knows the records of all candidates and asks "
        "which of them took part.",
        "Gradient inversion: dummy patients are changed until training on them gives the update (Zhu et al. 2019, "
        "Geiping et al. 2020); for a single patient, the exact solution (Phong et al. 2018).",
        "Intervals are a bootstrap over patients, given the trained models: a patient is drawn together with the "
        "figures of every run.",
        f"Differential privacy: {GUARANTEE}.",
        "An attack that fails does not prove that none succeeds; the guarantee of differential privacy holds for every "
        "attack.",
    ]
    return Section("Methods", [items])
