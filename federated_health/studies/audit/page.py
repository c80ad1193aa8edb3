"""The page of an audit: how much can be found out, by whom, and what privacy costs."""

from collections.abc import Mapping
from typing import Any

from federated_health.ml.privacy_plan import PROMISE
from federated_health.report.formatting import (
    INTERVAL,
    figure,
    number_of,
    with_interval,
)
from federated_health.report.page import Block, Bullets, Caution, Page, Picture, Section, Table, Text
from federated_health.report.sections import FOOTER, figures_table, model_card, settings_section
from federated_health.report.tradeoff import Panel, draw_tradeoff
from federated_health.studies.audit.figures import ATTACKS, ENCRYPTED
from federated_health.studies.audit.membership import FALSE_POSITIVE_RATE
from federated_health.studies.audit.plan import AVERAGES, FINAL, UPDATES, Plan
from federated_health.studies.audit.tables import (
    NOTHING,
    TARGETS,
    auc_rows,
    interval_of,
    inversion_rows,
    one_model_rows,
    rate_rows,
    strongest,
)

RATE = "true-positive rate at 1 % false positives"
assert FALSE_POSITIVE_RATE == 0.01  # as the words say

WHO = (
    "the final model: anybody who is given it",
    "one hospital's updates: the server, and whoever operates it, who see each hospital's weights before and after its "
    "local training in each round; with encrypted averaging they hold ciphertexts and none of these",
    "the rounds' averages: every hospital, in every setting, since it trains on from them",
)
MEANING = (
    "An attack's ROC-AUC is the chance that it finds a training patient more likely to be one than a patient of the "
    "same hospital who was not trained on: 0.5 is guessing, 1 is certainty. The share of training patients that it "
    f"names while it names at most 1 % of the others ({RATE}) says whether it is sure of some; 0.01 is guessing."
)
INVERSION = (
    "How many of the columns of its patients can be rebuilt from one update of the smallest hospital, when so many "
    "patients are in it. Categories count when they are the same, measurements within half a standard deviation. "
    "Every rebuilt patient is assigned to a true one as well as can be; so are the guesses, of patients of the same "
    "hospital whom the model was not trained on: one typical patient for all, or random ones. What is not clearly "
    "above the guesses gives nothing away."
)


def page_of_audit(plan: Plan, figures: Mapping[str, Any]) -> Page:
    """Everything that an audit found, as a page.

    Args:
        figures: see `figures_of_audit`.
    """
    patients = sum(len(one.train) for one in plan.hospitals.values())
    return Page(
        title=f"The attack on ourselves: {plan.task.name}",
        lead=f"{number_of(patients, 'training patient')} of {number_of(len(plan.hospitals), 'hospital')}. Who can find "
        "out whether a patient was trained on, or what was recorded of them; and what it costs to prevent it.",
        sections=(
            _choice(figures, plan.runs),
            _attacks(figures),
            _by_hospital(plan, figures),
            *([_inversion(plan, figures)] if plan.sizes else []),
            _method(plan),
            settings_section(
                next(iter(plan.privacies.values())),
                [
                    ("federations attacked in each setting", str(plan.runs)),
                    ("federations of all rows in each setting", str(plan.wholes)),
                    ("privacy settings", ", ".join(figures)),
                    ("SHA-256 of the schema", plan.task.schema_hash),
                ],
                leave_out=frozenset({"appraisal", "dp-epsilon", "encrypt", "max-update-norm", "min-hospitals"}),
            ),
            model_card(plan.task, list(plan.hospitals), ["This audit's models are not kept."]),
        ),
        footer=FOOTER,
    )


def _table(caption: str, rows: Mapping[str, Mapping[str, str]], note: str = "", first: str = "privacy") -> Table:
    columns = list(next(iter(rows.values())))
    cells = {name: list(row.values()) for name, row in rows.items()}
    return figures_table(caption, cells, columns, note=note, first=first)


def _choice(figures: Mapping[str, Any], runs: int) -> Section:
    panels = [
        Panel(
            title=f"{words}: {quantity}",
            marks={
                privacy: (one["attacked"]["roc_auc"], interval_of(found[key]))
                for privacy, one in figures.items()
                if (found := strongest(one, target))
            },
            reference=reference,
        )
        for target, words in (
            (FINAL, "final model"),
            (UPDATES, "updates"),
            (AVERAGES, "averages"),
        )
        for key, quantity, reference in (
            ("roc_auc", "AUC", 0.5),
            ("true_positive_rate", "found at 1 %", FALSE_POSITIVE_RATE),
        )
    ]
    worth = {
        privacy: {
            "ROC-AUC, all rows": figure(one["whole"]["roc_auc"]),
            "ROC-AUC, attacked": figure(one["attacked"]["roc_auc"]),
        }
        for privacy, one in figures.items()
    }
    rows = {privacy: {**worth[privacy], **row} for privacy, row in auc_rows(figures).items()}
    told = "; ".join(f"{name}: {', '.join(f'{key} {cell}' for key, cell in row.items())}" for name, row in rows.items())
    blocks: list[Block] = [
        Text(words=MEANING),
        Picture(
            svg=draw_tradeoff(panels, across="held-out ROC-AUC of the models that were attacked"),
            alt=f"Strength of the attacks against the worth of the models. {told}.",
            caption=f"Left: ROC-AUC of the attack; right: {RATE}; each with its {INTERVAL}. Dashed: guessing. Every "
            "picture has a vertical scale of its own. Good choices lie low and to the right. Encrypted averaging gives "
            "the same models as plain averaging, and so lies on it, but for the updates, of which the server has none.",
        ),
        _table(
            f"ROC-AUC of attacks ({INTERVAL})",
            rows,
            note="ROC-AUC, all rows: of models of all training rows, over all held-out patients. The attacked models "
            "were trained on half of the rows each. Of several attacks on the same, the strongest; see below for all. "
            f"{NOTHING}: nothing to attack.",
        ),
        _table(
            f"The attack on a single final model: {list(ATTACKS[FINAL])[-1]} (mean {INTERVAL} of {runs} models)",
            one_model_rows(figures),
            note="The intervals above are of the mean over all attacked models, and so find what is too little to be "
            "seen in one. Who has one model has this interval; models like guessing: the share of those whose "
            "own interval holds 0.5, which is 95 % where there is nothing to be found.",
        ),
        _table(
            f"{RATE[0].upper()}{RATE[1:]} ({INTERVAL})",
            rate_rows(figures),
            note=_false_positives(figures),
        ),
    ]
    if ENCRYPTED in figures:
        words = (
            "With encrypted averaging the server holds ciphertexts and no key: there is nothing to be attacked, and no "
            "figure is made up for it (the project's tests search such a server's memory for updates). The averages "
            "are decrypted by every hospital, as the final model is by all: what these give away, encryption does not "
            "hide; differential privacy does."
        )
        blocks.append(Caution(words=words))
    return Section(title="The choice", blocks=tuple(blocks))


def _false_positives(figures: Mapping[str, Any]) -> str:
    found = strongest(next(iter(figures.values())), FINAL)
    assert found is not None, "a final model is always there"
    others = found["patients"] // 2
    return (
        f"Of about {others:,} patients who were not trained on, 1 % is "
        f"{number_of(found['false_positives'], 'patient')}: with so few, the rate says little."
    )


def _attacks(figures: Mapping[str, Any]) -> Section:
    rows = {
        f"{privacy}: {way}, on {TARGETS[target]}": {
            "ROC-AUC": with_interval(interval_of(found["roc_auc"])),
            RATE: with_interval(interval_of(found["true_positive_rate"])),
        }
        for privacy, one in figures.items()
        for target, ways in one["attacks"].items()
        if ways is not None and privacy != ENCRYPTED
        for way, found in ways.items()
    }
    return Section(
        title="Every attack",
        blocks=(
            Text(words="Who sees what:"),
            Bullets(items=WHO),
            _table(f"Membership inference ({INTERVAL})", rows, first="attack"),
        ),
        folded=True,
    )


def _by_hospital(plan: Plan, figures: Mapping[str, Any]) -> Section:
    tables = []
    for target, words in TARGETS.items():
        rows = {
            f"{name} ({number_of(len(one.train), 'row')})": {
                privacy: with_interval(interval_of(found["roc_auc"]))
                for privacy, of in figures.items()
                if privacy != ENCRYPTED and (found := of["hospitals"][name][target])
            }
            for name, one in plan.hospitals.items()
        }
        caption = f"ROC-AUC of {list(ATTACKS[target])[-1]} on {words} ({INTERVAL})"
        tables.append(_table(caption, rows, first="hospital"))
    return Section(title="Hospital by hospital", blocks=tuple(tables))


def _inversion(plan: Plan, figures: Mapping[str, Any]) -> Section:
    rows = inversion_rows(figures)
    caption = f"Columns of {plan.smallest}'s patients that are recovered from the first round's update"
    return Section(
        title="Patients rebuilt from an update",
        blocks=(
            Text(words=INVERSION),
            _table(
                caption,
                rows,
                note=f"Means over {number_of(plan.draws, 'draw')} of patients. {NOTHING}: nothing to attack.",
            ),
        ),
    )


def _method(plan: Plan) -> Section:
    return Section(
        title="How this was found out",
        blocks=(
            Bullets(
                items=(
                    f"In each setting {plan.runs} federations were trained, each on a random half of every hospital's "
                    "training rows, so that those in and out are patients of the same kind. Each federation is "
                    "attacked with the others as shadow models.",
                    "Loss threshold (Yeom et al. 2018): a patient with a small loss was trained on. LiRA (Carlini et "
                    "al. 2022): the likelihood ratio of what is seen of a patient, from shadow models with and without "
                    "that patient.",
                    "LiRA on loss drops: by how much a hospital's update lowers the patient's loss, over all rounds "
                    "(cf. Nasr et al. 2019). LiRA on gradient shares: the share that the patient's own gradient has in "
                    "the first rounds' updates, by regression on the gradients of all candidates: this attacker knows "
                    "the records of all candidates and asks which of them took part.",
                    "Gradient inversion: dummy patients are changed until training on them gives the update (Zhu et "
                    "al. 2019, Geiping et al. 2020); of a single patient, the exact solution (Phong et al. 2018).",
                    "Intervals are a bootstrap over patients, given the trained models: a patient is drawn with all "
                    "that every federation says of them.",
                    f"Differential privacy: {PROMISE}.",
                    "An attack that fails is no proof that none succeeds; the promise of differential privacy holds "
                    "for every attack.",
                )
            ),
        ),
    )
