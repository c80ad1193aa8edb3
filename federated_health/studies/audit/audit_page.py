"""The report of an audit: what each attacker finds out, and what privacy costs. The console shows its tables, too."""

from collections.abc import Mapping
from typing import Any

from federated_health.ml.privacy_plan import GUARANTEE
from federated_health.ml.verdicts import Interval
from federated_health.report import formatting, sections
from federated_health.report.cells import Cell, Percent, show
from federated_health.report.page import Block, Caution, Page, Picture, Section
from federated_health.report.panels import panels_of
from federated_health.report.tradeoff import Panel, draw_tradeoff
from federated_health.studies.audit.attacks import ATTACKS, SECURE_AGGREGATION
from federated_health.studies.audit.drawn_hospital import PATIENTS
from federated_health.studies.audit.membership import FALSE_POSITIVE_RATE, GUESSING, largest_roc_auc
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, HELD_OUT, HELD_OUT_SUM, UPDATES, AuditPlan
from federated_health.studies.study import describe_left_out

Figures = Mapping[str, Any]
"""Privacy setting -> figures, or a part of these (see `audit_figures`)."""

Rows = dict[str, dict[str, Cell]]
"""Name -> column -> cell."""

TARGETS = {
    FINAL: "the final model",
    UPDATES: "one hospital's updates",
    AVERAGES: "the rounds' averages",
    HELD_OUT: "held-out: one hospital's sums",
    HELD_OUT_SUM: "held-out: sums over all hospitals",
}
SMALL_HOSPITAL = {
    "means": ("measurements whose mean is known", "share"),
    "added": ("measurements of a patient who is added later", "share"),
    "added_whole": ("the same, if the hospital has all its patients", "share"),
    "members": ("who was trained on, ROC-AUC", "figure"),
    "found": ("training patients found at 1 % false positives", "share"),
    "registered": ("who is held out, from the registration, ROC-AUC", "figure"),
    "held_out": ("who is held out, from all sums, ROC-AUC", "figure"),
    "exact": ("hospitals whose held-out patients are all told", "share"),
    "outcomes": ("outcomes of held-out patients, from their columns", "share"),
    "predicted": ("the same, guessed by the final model", "share"),
    "counted": ("measurement and outcome of held-out patients, by crafted weights", "share"),
    "isolated": ("patients rebuilt from one update, by crafted weights", "figure"),
    "singled_out": ("who was trained on, if other hospitals get other weights, ROC-AUC", "figure"),
}
"""Finding -> its words and its kind (see `small_hospital.attack_small_hospital`)."""

RATE = f"true-positive rate at {FALSE_POSITIVE_RATE * 100:g} % false positives"
WHO = [
    "the final model: anyone who receives it",
    "one hospital's updates: the server, and whoever operates it, who see each hospital's weights before and after its "
    "local training in each round; with secure aggregation they see none of these",
    "the rounds' averages: the server and every hospital, under every setting, since hospitals continue training from "
    "them",
    "sums over held-out rows, such as outcome counts per round: the server; with secure aggregation those over all "
    "hospitals only",
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


def audit_page(
    plan: AuditPlan, figures: Figures, few: Mapping[str, float | None], left_out: Mapping[str, str] | None = None
) -> Page:
    """The report of an audit.

    Args:
        few: see `sums_of_few`.
        left_out: hospital that is not in the plan -> why.
    """
    patients = sum(len(hospital.train) for hospital in plan.hospitals.values())
    others = f" {formatting.capitalise(describe_left_out(left_out))}." if left_out else ""
    return Page(
        title=f"Privacy audit: {plan.task.name}",
        lead=f"{formatting.number_of(patients, 'training patient')} of "
        f"{formatting.number_of(len(plan.hospitals), 'hospital')}.{others} Who can find out whether a patient's "
        "record was used for training, or what it holds? And what does it cost to prevent that?",
        sections=[
            _choice(plan, figures),
            _attacks(figures),
            _by_hospital(plan, figures),
            *([_inversion(plan, figures)] if plan.sizes else []),
            *([_small_hospital(plan, figures)] if plan.drawn else []),
            _sums_of_few(few),
            _method(plan),
            sections.settings_section(
                next(iter(plan.privacies.values())),
                {
                    "runs attacked under each setting": str(plan.half_runs),
                    "runs of all rows under each setting": str(plan.full_runs),
                    f"hospitals of {PATIENTS} patients drawn under each setting": str(plan.drawn),
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
    rows: Rows = {}
    for privacy, entry in figures.items():
        attack = entry["attacks"][FINAL][_last_attack(FINAL)]
        guessing = Percent(attack["undecided"])
        rows[privacy] = {"ROC-AUC, one model": _cell(attack, "one_model"), "models at chance level": guessing}
    return rows


def control_rows(plan: AuditPlan, figures: Figures) -> Rows:
    """Whether the strongest attack on a final model finds something, and how much it might: privacy -> column -> cell.

    The control asks the same scores for halves of the rows that were not trained on, about which they know nothing.
    """
    rows: Rows = {}
    for privacy, entry in figures.items():
        attacks = entry["attacks"][FINAL]
        name = max(attacks, key=lambda attack: attacks[attack]["roc_auc"]["value"] or 0.0)
        settings = plan.privacies.get(privacy)
        epsilon, delta = (settings.dp_epsilon, settings.dp_delta) if settings else (0.0, 0.0)
        rows[privacy] = {
            "attack": name,
            "ROC-AUC": _cell(attacks[name], "roc_auc"),
            "control": Interval(**entry["control"][name]),
            "largest possible": largest_roc_auc(epsilon, delta) if epsilon else 1.0,
        }
    return rows


def inversion_rows(figures: Figures) -> Rows:
    """Shares of columns recovered: privacy -> rows in the update -> cell; then what guesses recover."""
    first = next(iter(figures.values()))
    sources = {privacy: (entry, "update") for privacy, entry in figures.items()}
    sources |= {"guess: typical patient": (first, "typical"), "guess: random patients": (first, "random")}
    return {
        name: {
            formatting.number_of(int(rows), "row"): Percent(shares[key]) for rows, shares in entry["inversion"].items()
        }
        for name, (entry, key) in sources.items()
    }


def small_hospital_rows(figures: Figures) -> Rows:
    """What the server finds out of a small hospital: finding -> privacy -> mean over the drawn hospitals."""
    return {
        words: {privacy: _finding(entry["small_hospital"][finding], kind) for privacy, entry in figures.items()}
        for finding, (words, kind) in SMALL_HOSPITAL.items()
    }


def _finding(value: float | None, kind: str) -> Cell:
    return Percent(value) if kind == "share" else value


def _last_attack(target: str) -> str:
    return list(ATTACKS[target])[-1]


def _cell(attack: Figures | None, key: str) -> Interval | None:
    """A figure of an attack with its interval."""
    return Interval(**attack[key]) if attack else None


def _choice(plan: AuditPlan, figures: Figures) -> Section:
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
        for target, label in ((FINAL, "final model"), (UPDATES, "updates"), (HELD_OUT, "held-out rows"))
        for key, quantity, reference in (
            ("roc_auc", "AUC", GUESSING),
            ("true_positive_rate", "found at 1 %", FALSE_POSITIVE_RATE),
        )
    ]
    rows = {
        privacy: {
            "ROC-AUC, all rows": figures[privacy]["whole"]["roc_auc"],
            "ROC-AUC, attacked": figures[privacy]["attacked"]["roc_auc"],
            **row,
        }
        for privacy, row in strength_rows(figures, "roc_auc").items()
    }
    alt = "; ".join(
        f"{name}: {', '.join(f'{key} {show(cell)}' for key, cell in row.items())}" for name, row in rows.items()
    )
    final = figures[next(iter(figures))]["attacks"][FINAL][_last_attack(FINAL)]
    blocks: list[Block] = [
        MEANING,
        Picture(
            svg=draw_tradeoff(panels, across="held-out ROC-AUC of the models that were attacked"),
            alt=f"Strength of the attacks against the quality of the models. {alt}.",
            caption=f"Left: ROC-AUC of the attack; right: {RATE}; each with its {formatting.INTERVAL}. Dashed: "
            "guessing. Every panel has its own vertical scale. Good choices lie low and to the right. "
            "Secure aggregation gives the same models as plain averaging, so both coincide, except for what the server "
            "then lacks.",
        ),
        sections.figures_table(
            f"ROC-AUC of attacks ({formatting.INTERVAL})",
            rows,
            first="privacy",
            note="ROC-AUC, all rows: models of all training rows, on all held-out patients. The attacked models were "
            "trained on half of the rows each. For each target, the strongest attack is shown; all are listed below. "
            f"{formatting.NOT_DEFINED}: the server does not see it.",
        ),
        sections.figures_table(
            f"The attack on a single final model: {_last_attack(FINAL)} (mean {formatting.INTERVAL} "
            f"of {plan.half_runs} models)",
            one_model_rows(figures),
            first="privacy",
            note="The intervals above are of the mean over all attacked models, so they show effects that are too "
            "small to be seen in one model. An attacker with one model has this interval. Models at chance level: "
            "those whose own interval contains 0.5; about 95 % if the attack finds nothing.",
        ),
        sections.figures_table(
            f"What an attack on a final model may find (mean {formatting.INTERVAL})",
            control_rows(plan, figures),
            first="privacy",
            note="Control: the same scores, asked about halves of the rows that were not those of the training; 0.5 "
            "shows that the attack does not overstate itself. Largest possible: the ROC-AUC that no attack exceeds, by "
            "the trade-off function of epsilon and delta.",
        ),
        sections.figures_table(
            f"{RATE[0].upper()}{RATE[1:]} ({formatting.INTERVAL})",
            strength_rows(figures, "true_positive_rate"),
            first="privacy",
            note=f"Of about {final['patients'] // 2:,} patients who were not used for training, 1 % is "
            f"{formatting.number_of(final['false_positives'], 'patient')}: the rate is too noisy to interpret.",
        ),
    ]
    caution = (
        "With secure aggregation the server sees no update and no sums of one hospital, but those over all hospitals: "
        "the averages and the sums over all held-out rows, which are attacked here. It does not hide what these, and "
        "the final model, reveal; differential privacy does."
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
        if privacy != SECURE_AGGREGATION  # those that it has are the plain ones
        for name, attack in attacks.items()
    }
    table = sections.figures_table(f"Membership inference ({formatting.INTERVAL})", rows, first="attack")
    return Section("All attacks", ["Who sees what:", WHO, table], folded=True)


def _by_hospital(plan: AuditPlan, figures: Figures) -> Section:
    tables: list[Block] = []
    for target, label in TARGETS.items():
        rows = {
            f"{name} ({formatting.number_of(len(patients), 'row')})": {
                privacy: _cell(entry["hospitals"][name][target], "roc_auc")
                for privacy, entry in figures.items()
                if privacy != SECURE_AGGREGATION
            }
            for name, patients in plan.patients(target).items()
        }
        caption = f"ROC-AUC of {_last_attack(target)} on {label} ({formatting.INTERVAL})"
        tables.append(sections.figures_table(caption, rows))
    return Section("Hospital by hospital", tables)


def _inversion(plan: AuditPlan, figures: Figures) -> Section:
    table = sections.figures_table(
        f"Columns of {plan.smallest}'s patients that are recovered from the first round's update",
        inversion_rows(figures),
        first="privacy",
        note=f"Means over {formatting.number_of(plan.draws, 'draw')} of patients. With {SECURE_AGGREGATION} the server "
        "has the average of all hospitals' updates.",
    )
    return Section("Patients reconstructed from an update", [INVERSION, table])


def _small_hospital(plan: AuditPlan, figures: Figures) -> Section:
    text = (
        f"A hospital takes part with {PATIENTS} patients, who were drawn from one of the others. The curious server "
        "knows the records of all patients of the hospital from which they were drawn, and asks who was trained on and "
        "who is held out. For the outcomes, it knows the held-out patients' columns. For the other attacks it knows no "
        "record: it subtracts two registrations, before and after one patient was added, or sends weights of its own "
        "making. These count held-out patients above a value, one question per round, or move along the rows of single "
        "patients. Numbers of rows are known under every setting."
    )
    table = sections.figures_table(
        f"A hospital with {PATIENTS} patients (means of {formatting.number_of(plan.drawn, 'draw')})",
        small_hospital_rows(figures),
        first="finding",
        note="ROC-AUC: 0.5 is guessing. With secure aggregation, patients that are counted or rebuilt are those of all "
        "hospitals together, and nothing tells which hospital has them.",
    )
    return Section("What a curious server learns of a small hospital", [text, table])


def sums_of_few_rows(few: Mapping[str, float | None]) -> Rows:
    """How often sums over few patients have one solution, by their number."""
    return {
        formatting.number_of(int(patients), "patient"): {"all values told": Percent(share)}
        for patients, share in few.items()
    }


def _sums_of_few(few: Mapping[str, float | None]) -> Section:
    text = (
        "Two registrations that differ by a few patients give the number, the sum and the sum of squares of these "
        "patients' values. Measurements are mostly recorded in whole numbers, so a search finds every set of values "
        "with these sums. If there is only one, the values are told."
    )
    caption = "Sums over few patients that have one solution (mean over measurements in whole numbers)"
    table = sections.figures_table(caption, sums_of_few_rows(few), first="patients")
    return Section("What sums over few patients tell", [text, table])


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
        "Subset recovery (Dinur and Nissim 2003): each released sum over held-out rows, under weights that the server "
        "knows, is an equation about which candidates are among them. Whole numbers that solve all equations, or else "
        "the closest fractions, are the attack's scores.",
        f"Differential privacy: {GUARANTEE}.",
        "An attack that fails does not prove that none succeeds; the guarantee of differential privacy holds for every "
        "attack.",
    ]
    return Section("Methods", [items])
