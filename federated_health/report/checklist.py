"""The items of TRIPOD+AI (Collins et al. 2024, BMJ 385:e078378), with what is known of them and what is open.

The wording of the items is this project's own, and shorter than the published one, which a publication should use.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from federated_health import __version__
from federated_health.data.tasks import Task
from federated_health.names import MODEL
from federated_health.report.formatting import list_some, number_of
from federated_health.report.page import Block, Page, Section, Table

if TYPE_CHECKING:
    from federated_health.report.run_page import RunSummary

TITLE = "TRIPOD+AI checklist"

OPEN = "open: to be stated by the authors"

ITEMS: Mapping[str, Mapping[str, str]] = {
    "title, abstract and introduction": {
        "1": "title: kind of study, population, outcome",
        "2": "abstract by the abstract checklist",
        "3a": "medical background, and earlier models",
        "3b": "who the model is for, and what it decides",
        "3c": "known inequalities of care between groups",
        "4": "aim: development, evaluation or both",
    },
    "methods": {
        "5a": "sources of the data",
        "5b": "dates of the data and of follow-up",
        "6a": "setting, number and place of hospitals",
        "6b": "who was included",
        "6c": "treatments that patients received",
        "7": "preparation and checks of the data",
        "8a": "outcome, and when it was assessed",
        "8b": "assessors of a subjective outcome",
        "8c": "blinding of the outcome's assessors",
        "9a": "choice of predictors",
        "9b": "predictors and how they were measured",
        "9c": "assessors of subjective predictors",
        "10": "sample size",
        "11": "missing values",
        "12a": "division into training and evaluation",
        "12b": "coding and scaling of predictors",
        "12c": "kind of model, its training and tuning",
        "12d": "differences between hospitals",
        "12e": "figures of performance",
        "12f": "recalibration of the model",
        "12g": "how predictions are computed",
        "13": "imbalance of the classes",
        "14": "fairness between groups",
        "15": "output of the model, and decisions by it",
        "16": "differences of training and evaluation data",
        "17": "approval by an ethics committee",
    },
    "open science": {
        "18a": "funding",
        "18b": "conflicts of interest",
        "18c": "study protocol",
        "18d": "registration of the study",
        "18e": "access to the data",
        "18f": "access to the code",
        "19": "involvement of patients and the public",
    },
    "results": {
        "20a": "flow of patients, outcomes, follow-up",
        "20b": "characteristics of the patients, missing values",
        "20c": "characteristics beside those of training data",
        "21": "numbers of patients and outcomes per analysis",
        "22": "the complete model",
        "23a": "performance with intervals, in subgroups too",
        "23b": "performance per hospital",
        "24": "results of recalibration",
    },
    "discussion": {
        "25": "interpretation, fairness included",
        "26": "limitations",
        "27a": "use with poor or missing inputs",
        "27b": "who uses the model, with which knowledge",
        "27c": "next research",
    },
}
"""Part -> item -> what it is about."""


PLACES: Mapping[str, tuple[str, ...]] = {
    "10": ("Sample size",),
    "12c": ("Network",),
    "12d": ("Benefit of joining",),
    "12e": ("How good the model is",),
    "12f": ("Risks recalibrated at each hospital",),
    "14": ("Subgroups",),
    "18e": ("What each hospital sent",),
    "18f": ("Settings, versions and hashes",),
    "20b": ("Data of each hospital", "Data of this hospital"),
    "21": ("Participants",),
    "22": ("Settings, versions and hashes",),
    "23a": ("How good the model is", "Subgroups"),
    "23b": ("Benefit of joining",),
    "24": ("Risks recalibrated at each hospital",),
    "26": ("Intended use and limits",),
    "27a": ("Intended use and limits",),
}
"""Item -> titles of sections that have something on it."""


def checklist_section(known: Mapping[str, str]) -> Section:
    """The checklist, folded: a table for each part.

    Args:
        known: item -> what this page knows of it, or where on the page it is; other items are open.
    """
    number = sum(map(len, ITEMS.values()))
    blocks: list[Block] = [
        f"What a report of a prediction model should state (TRIPOD+AI, Collins et al. 2024), in this project's own "
        f"wording. {len(known):,} of {number:,} items are filled in, at least in part, from what is known here. The "
        "authors of the study add the others.",
    ]
    for part, items in ITEMS.items():
        rows = tuple((item, words, known.get(item, OPEN)) for item, words in items.items())
        blocks.append(
            Table(
                caption=f"TRIPOD+AI: {part}",
                columns=("item", "about", "here"),
                rows=rows,
                words=("about", "here"),
            )
        )
    return Section(TITLE, blocks, folded=True)


def known_of_task(task: Task) -> dict[str, str]:
    """What a task's declaration says of the items, in runs and in studies."""
    label = task.label
    return {
        "8a": f"{label.name}: {label.meaning}. When it was assessed is {OPEN}",
        "9b": f"{list_some((column.name for column in task.columns), ', ')}; meanings, units and codes are in the task "
        f"{task.name}. When and how they were measured is {OPEN}",
        "1": f"a model of several hospitals for {label.meaning}. Population and wording are {OPEN}",
        "7": "columns, codes, units and ranges of every table were checked",
        "11": "no patient was left out: a missing code is a code of its own, a missing measurement is the mean with a "
        "flag",
        "12b": "measurements are scaled by the mean and variance over all hospitals' training patients; each code of a "
        "category is an input of its own",
        "18e": "records stayed at the hospitals",
        "18f": f"federated-health {__version__}",
    }


def with_checklist(page: Page, known: Mapping[str, str]) -> Page:
    """The page with the checklist as its last section; items also say where they are on the page.

    Args:
        known: see `checklist_section`.
    """
    titles = {section.title for section in page.sections}
    places = {item: [title for title in wanted if title in titles] for item, wanted in PLACES.items()}
    seen = {item: f"see {' and '.join(found)}" for item, found in places.items() if found}
    both = {item: f"{text}; {seen[item]}" if item in seen else text for item, text in known.items()}
    return replace(page, sections=[*page.sections, checklist_section({**seen, **both})])


def known_of_run(run: "RunSummary") -> dict[str, str]:
    """What a run says of the items."""
    config, hospitals = run.config, sorted(run.registrations) or ([run.hospital] if run.hospital else [])
    known = known_of_task(run.task) | {
        "4": "development of a model, and its evaluation on held-out patients of the same hospitals",
        "5a": f"one table per hospital, {list_some(hospitals, ', ')}. Where they come from is {OPEN}",
        "12a": "a quarter of each hospital's patients was held out by a hash of each patient, and never used for "
        "training",
        "12c": f"{config.network.model}, trained by federated averaging ({config.strategy}) in "
        f"{number_of(config.rounds, 'round')} of {number_of(config.local_epochs, 'local epoch')}. How settings were "
        f"chosen is {OPEN}",
        "12g": f"by predict.py from {MODEL}",
        "13": "none: every row counts the same",
        "22": f"{MODEL}, whose hash is on this page",
    }
    if config.class_weights:
        known["13"] = (
            f"losses of the classes are weighted by {list_some(map('{:.3g}'.format, config.class_weights), ', ')}"
        )
    if run.task.label.kind == "binary":
        known["15"] = f"a risk from 0 to 1; predicted positive from a risk of {config.threshold:.3g} on"
    return known
