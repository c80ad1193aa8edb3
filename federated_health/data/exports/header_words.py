"""What words in headers and code tables mean, in the languages of hospitals that are likely to use a draft.

For drafts only. Each line of CONCEPTS is one concept; a word of four or more letters also stands for
words that begin with it, and one of five or more for words that end in it, such as German compounds.
"""

import re
import unicodedata
from collections.abc import Mapping
from difflib import SequenceMatcher

from federated_health.data.columns import Column

CONCEPTS: Mapping[str, str] = {
    "age": "age alter lebensalter edad eta leeftijd ans",
    "sex": "sex gender geschlecht geschl sexe sexo genre sesso geslacht",
    "birth": "birth birthdate dob geb gebdat geburt geburtsdatum naissance naiss ne nee ddn nacimiento nascita",
    "admission": "admission admit admdt aufn aufndat aufnahme entree hospitalisation ingreso ricovero adm",
    "discharge": "discharge disch entl entldat entlass sortie alta dimissione dis",
    "death": "death died dead deceased mortality alive survived verstorben lebt tod exitus deces decede vivant muerte",
    "stay": "stay los verweildauer liegedauer liegetage sejour duree estancia",
    "patient": "patient pat patid patnr pid ipp mrn patienten",
    "glucose": "glucose gluc blutzucker bz glukose glycemie glucemia",
    "cholesterol": "cholesterol cholesterin chol colesterol",
    "systolic": "systolic systol syst sys sbp rrsys pas trestbps",
    "diastolic": "diastolic diastol diast dia dbp rrdia pad",
    "heart rate": "hr puls pulse herzfrequenz herzfreq hf thalach",
    "weight": "weight wt gewicht poids peso gew",
    "height": "height groesse grosse koerpergroesse taille talla",
    "bmi": "bmi imc",
    "temperature": "temperature temp temperatur",
    "creatinine": "creatinine crea krea kreatinin",
    "hba1c": "hba1c a1c hba",
    "smoking": "smoker smoking smoke raucher rauchen nikotin fumeur tabac tabagisme fumador",
    "diabetes": "diabetes diabetic diabete diabetiker dm",
    "insulin": "insulin insuline insulina",
    "diagnoses": "diagnoses diagnosis diagnosen diagnose diagnostics diagnostic dx",
    "medications": "medications medication medikamente medikament medicaments drugs",
    "readmission": "readmission readmitted readmis wiederaufnahme rehospitalisation rehosp",
    "stroke": "stroke schlaganfall schlaganfalle apoplex avc ictus",
    "earlier": "earlier prior previous fruhere fruherer vorherige anterieur antecedent previo",
    "fibrillation": "fibrillation afib vorhofflimmern vhf fa",
    "thrombolysis": "thrombolysis thrombolyse lysis lyse tpa rtpa",
    "onset": "onset symptom beginn debut delai inicio",
}

NEUTRAL = frozenset(
    {
        *("total", "score", "value", "level", "result", "given", "of", "the"),
        *("wert", "messwert", "ergebnis", "niveau", "valeur", "de", "du", "la", "le"),
    }
)
"""Words that say nothing about which column it is."""

UNIT_NAMES: Mapping[str, str] = {
    "years": "years year yrs yr y jahre jahr ans a",
    "days": "days day d tage tag jours jour j",
    "hours": "hours hour hrs hr h stunden std heures",
    "minutes": "minutes minute mins min minuten",
}
"""Units of time and their names, folded."""

CIRCUMSTANCES = frozenset({"birth", "admission", "discharge", "patient"})
"""Concepts that a column's meaning often mentions without being about them: *blood pressure on admission*."""

CODE_WORDS: Mapping[str, frozenset[str]] = {
    "female": frozenset({"female", "f", "w", "weiblich", "frau", "woman", "femme", "feminin", "mujer", "femenino"}),
    "male": frozenset({"male", "m", "mannlich", "maennlich", "mann", "man", "homme", "h", "masculin", "hombre"}),
    "yes": frozenset({"yes", "y", "ja", "j", "oui", "o", "si", "true", "wahr", "vrai", "positive", "positiv"}),
    "no": frozenset({"no", "n", "nein", "non", "false", "falsch", "faux", "negative", "negativ", "none"}),
}
"""What a code means -> words for it, folded."""


def fold(text: str) -> str:
    """Lower-case letters and digits of a text, without accents, with single spaces for everything else."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall("[a-z0-9]+", plain))


def split_unit(header: str) -> tuple[str, str | None]:
    """A header without the unit in brackets at its end, and this unit."""
    found = re.fullmatch(r"(.*?)\s*[(\[]([^()\[\]]{1,20})[)\]]", header)
    return (found[1], found[2].strip()) if found else (header, None)


def names_unit(header: str, unit: str) -> bool:
    """Whether a header says that its column is in this unit: in brackets, or as its last words."""
    name, said = split_unit(header)
    if said is not None:
        return _plain_unit(said) == _plain_unit(unit)
    words, unit_words = fold(name).split(), fold(_with_names(unit)).split()
    last = words[len(words) - len(unit_words) :] if 0 < len(unit_words) < len(words) else []
    return bool(last) and (last == unit_words or _plain_unit(" ".join(last)) == _plain_unit(unit))


def _plain_unit(unit: str) -> str:
    folded = fold(_with_names(unit)).replace(" ", "")
    return next((name for name, names in UNIT_NAMES.items() if folded in names.split()), folded)


def _with_names(unit: str) -> str:
    """A unit without the characters that `fold` would drop."""
    for sign, name in (("\u00b5", "u"), ("\u03bc", "u"), ("%", " percent ")):
        unit = unit.replace(sign, name)
    return unit


def concepts_of(text: str) -> frozenset[str]:
    """The concepts of which a text has a word."""
    # camelCase and PatID count as two words, and so do letters before digits
    words = {*fold(text).split(), *fold(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)).split()}
    return frozenset(concept for concept, known in CONCEPTS.items() if any(_is_word(w, known) for w in words))


def _is_word(word: str, known: str) -> bool:
    stems = known.split()
    return word in stems or any(
        (len(stem) >= 4 and word.startswith(stem)) or (len(stem) >= 5 and word.endswith(stem)) for stem in stems
    )


def similarity(column: Column, header: str) -> tuple[float, str]:
    """How well a header fits a column, from 0 to 1, and why; from 0.9 on it is the same name or means the same."""
    name, _ = split_unit(header)
    words = [word for word in fold(name).split() if word not in NEUTRAL]
    own, meaning = fold(column.name).split(), fold(column.meaning).split()
    if not words:
        return 0, ""
    if "".join(words) == "".join(own):
        return 1, "same name"
    if words == meaning:
        return 0.95, "the words of its meaning"
    about, of_meaning = concepts_of(name), concepts_of(column.meaning)
    about -= CIRCUMSTANCES & of_meaning  # on admission, where the task says so, too
    if about and about in (concepts_of(column.name), of_meaning - CIRCUMSTANCES):
        return 0.9, f"the header is about {' and '.join(sorted(about))}"
    common = {word for word in {*words} & {*own, *meaning} if len(word) > 3}
    if about & (concepts_of(column.name) | of_meaning) or common:
        return 0.6, "some of the same words"
    ratio = SequenceMatcher(None, "".join(words), "".join(own)).ratio()
    return (0.5, "a similar name") if ratio >= 0.75 else (0, "")


def meaning_of_cell(cell: str, meanings: Mapping[int, str]) -> int | None:
    """The task's code that a code word means; None if that is not clear."""
    folded = fold(cell)
    for code, meaning in meanings.items():
        if folded and folded == fold(meaning):
            return code
    for words in CODE_WORDS.values():
        fitting = [code for code, meaning in meanings.items() if fold(meaning) in words]
        if folded in words and len(fitting) == 1:
            return fitting[0]
    return None
