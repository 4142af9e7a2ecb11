"""All detectors, by the family that policies know them as. A new one is a file beside this and two lines here."""

from functools import cache

from cloudcrest.governance.detectors.hits import Detector


@cache
def detectors() -> dict[str, Detector]:
    """They are loaded when the first of them is wanted: most gateways guard nobody, and their checks take 5 MB."""
    from cloudcrest.governance.detectors.card import cards
    from cloudcrest.governance.detectors.email import emails
    from cloudcrest.governance.detectors.iban import ibans
    from cloudcrest.governance.detectors.national_id import national_ids
    from cloudcrest.governance.detectors.network import addresses
    from cloudcrest.governance.detectors.passport import passports
    from cloudcrest.governance.detectors.phone import phones
    from cloudcrest.governance.detectors.secret import secrets

    return {
        "email": emails,
        "phone": phones,
        "card": cards,
        "iban": ibans,
        "passport": passports,
        "national_id": national_ids,
        "ip_address": addresses,
        "secret": secrets,
    }
