"""National identity, tax and social security numbers, by the check digits and dates that their countries put into them.

A number whose check is weak (one in ten fits by chance) counts only as its country writes it, or after a word for it.
The checks are python-stdnum's where it has them; own_checks.py has the others.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stdnum.au import tfn
from stdnum.be import nn
from stdnum.br import cnpj, cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer
from stdnum.tr import tckimlik
from stdnum.us import itin, ssn
from stdnum.za import idnr as za_id

from cloudcrest.governance.detectors import own_checks
from cloudcrest.governance.detectors.hits import Hit, Segment


class _Rule(NamedTuple):
    """A form and its check. `confidence`: without a word for it before; with one it is sure."""

    what: str
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    confidence: float
    context: re.Pattern[str]
    has_letter: bool
    """Whether all that fits has a letter."""


_SURE = 0.92
_LIKELY = 0.8
_FAIR = 0.6
_WEAK = 0.2
"""Alone it says too little."""
_FEWEST_DIGITS = 4
_LETTER = re.compile("[A-Za-z]")


def _rule(what: str, form: str, is_valid: Callable[[str], bool], confidence: float, context: str) -> _Rule:
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{form})(?![A-Za-z0-9])")
    return _Rule(
        what,
        pattern,
        is_valid,
        confidence,
        re.compile(rf"(?:{context})[^0-9\n]{{0,24}}$"),
        has_letter=re.search(r"\[A-[A-Z]|STFGM|XYZ", form) is not None,
    )


_RULES = (
    _rule("Chinese resident identity number", r"[1-9]\d{5}(?:18|19|20)\d{9}[0-9Xx]", lambda n: ric.is_valid(n.upper()), _SURE, r"身份证|身份證|identity|id"),
    _rule("US social security number", r"\d{3}-\d{2}-\d{4}", ssn.is_valid, _LIKELY, r"ssn|social security"),
    _rule("US social security number", r"\d{9}|\d{3} \d{2} \d{4}", ssn.is_valid, _WEAK, r"ssn|social security"),
    _rule("US taxpayer number (ITIN)", r"9\d{2}-\d{2}-\d{4}", itin.is_valid, _FAIR, r"itin|taxpayer"),
    _rule("UK national insurance number", r"[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", own_checks.is_nino, _LIKELY, r"national insurance|nino|ni number"),
    _rule("UK NHS number", r"\d{3}[ -]?\d{3}[ -]?\d{4}", nhs.is_valid, _WEAK, r"nhs"),
    _rule("Indian Aadhaar number", r"[2-9]\d{3} \d{4} \d{4}", aadhaar.is_valid, _FAIR, r"aadhaar|aadhar|uidai|आधार"),
    _rule("Indian Aadhaar number", r"[2-9]\d{11}", aadhaar.is_valid, _WEAK, r"aadhaar|aadhar|uidai|आधार"),
    _rule("Indian PAN", r"[A-Z]{3}[ABCFGHLJPTK][A-Z]\d{4}[A-Z]", pan.is_valid, _FAIR, r"\bpan\b|permanent account"),
    _rule("Brazilian CPF", r"\d{3}\.\d{3}\.\d{3}-\d{2}", cpf.is_valid, _SURE, r"cpf"),
    _rule("Brazilian CPF", r"\d{11}", cpf.is_valid, _WEAK, r"cpf"),
    _rule("Brazilian CNPJ", r"\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}", cnpj.is_valid, _SURE, r"cnpj"),
    _rule("Brazilian CNPJ", r"\d{14}", cnpj.is_valid, _WEAK, r"cnpj"),
    _rule("Spanish DNI", r"\d{8}[ -]?[A-HJ-NP-TV-Z]", dni.is_valid, _LIKELY, r"dni|nif"),
    _rule("Spanish NIE", r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]", nie.is_valid, _LIKELY, r"nie"),
    _rule("French social security number", r"[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}", nir.is_valid, _LIKELY, r"insee|sécurité sociale|nir"),
    _rule("Italian fiscal code", r"[A-Za-z]{6}\d{2}[A-EHLMPRSTa-ehlmprst]\d{2}[A-Za-z]\d{3}[A-Za-z]", codicefiscale.is_valid, _SURE, r"codice fiscale"),
    _rule("German tax id", r"[1-9]\d ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid, _WEAK, r"steuer-?id|steueridentifikationsnummer|idnr|tax id|tin"),
    _rule("German tax id", r"[1-9]\d \d{3} \d{3} \d{3}", idnr.is_valid, _FAIR, r"steuer-?id"),
    _rule("Dutch BSN", r"\d{9}|\d{4}\.\d{2}\.\d{3}", bsn.is_valid, _WEAK, r"bsn|burgerservicenummer|sofi"),
    _rule("Belgian national number", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", nn.is_valid, _SURE, r"rijksregister|registre national"),
    _rule("Polish PESEL", r"\d{11}", pesel.is_valid, _WEAK, r"pesel"),
    _rule("Swiss AHV number", r"756\.?\d{4}\.?\d{4}\.?\d{2}", ahv.is_valid, _LIKELY, r"ahv|avs"),
    _rule("Swedish personal number", r"(?:\d{2})?\d{6}[-+]\d{4}", personnummer.is_valid, _FAIR, r"personnummer"),
    _rule("Danish CPR number", r"\d{6}-\d{4}", cpr.is_valid, _WEAK, r"cpr"),
    _rule("Norwegian birth number", r"\d{6} ?\d{5}", fodselsnummer.is_valid, _WEAK, r"fødselsnummer|fodselsnummer"),
    _rule("Finnish personal code", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", hetu.is_valid, _LIKELY, r"hetu|henkilötunnus"),
    _rule("Korean resident number", r"\d{6}-[0-9]\d{6}", rrn.is_valid, _LIKELY, r"주민등록번호|resident registration"),
    _rule("Japanese My Number", r"\d{4}[ -]?\d{4}[ -]?\d{4}", my_number.is_valid, _WEAK, r"my ?number|マイナンバー|個人番号"),
    _rule("Singapore NRIC or FIN", r"[STFGM]\d{7}[A-Z]", own_checks.is_nric, _LIKELY, r"nric|fin"),
    _rule("Hong Kong identity card", r"[A-Z]{1,2}\d{6}\([0-9A]\)?", own_checks.is_hkid, _LIKELY, r"hkid|identity card|身份證"),
    _rule("Hong Kong identity card", r"[A-Z]{1,2}\d{6}[0-9A]", own_checks.is_hkid, _WEAK, r"hkid|identity card|身份證"),
    _rule("Taiwanese identity number", r"[A-Z][1289]\d{8}", own_checks.is_taiwan_id, _FAIR, r"身分證|身份證|national id"),
    _rule("Turkish identity number", r"[1-9]\d{10}", tckimlik.is_valid, _WEAK, r"t\.?c\.? ?kimlik|kimlik no|tckn"),
    _rule("Mexican CURP", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d", curp.is_valid, _SURE, r"curp"),
    _rule("South African identity number", r"\d{13}", za_id.is_valid, _WEAK, r"\bid\b|identity"),
    _rule("Canadian social insurance number", r"\d{3}[ -]?\d{3}[ -]?\d{3}", sin.is_valid, _WEAK, r"\bsin\b|social insurance"),
    _rule("Australian tax file number", r"\d{3} ?\d{3} ?\d{3}", tfn.is_valid, _WEAK, r"tfn|tax file"),
)  # fmt: skip


def national_ids(segment: Segment) -> Iterator[Hit]:
    """Numbers whose check holds, as sure as form, check and context make them."""
    text = segment.text
    if segment.digits < _FEWEST_DIGITS:
        return
    has_letter = _LETTER.search(text) is not None
    for rule in _RULES:
        if rule.has_letter and not has_letter:
            continue
        for match in rule.pattern.finditer(text):
            if rule.is_valid(match[0]):
                is_named = rule.context.search(segment.context(match.start())) is not None
                confidence = _SURE if is_named else rule.confidence
                yield Hit(match.start(), match.end(), "national_id", rule.what, confidence)
