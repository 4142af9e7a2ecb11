"""The words that the rule model knows. English, few, and chosen to be right where they match rather than to match much.

An entry is the last word of what is said, and what has to stand before it (a pattern over the words before, each
followed by one space; None: nothing). It sees no meaning: who quotes, reports, jokes or asks for help with the same
words is flagged as well, and who says it otherwise is not. A guard model does better (docs/how/guardrails.md).
"""

import re

_ASKS = r"(?:how (?:to|do i|can i|do you|would i)|instructions (?:to|for)|steps to|recipe for|guide to|tell me how to|teach me to) "
_A = r"(?:a |an |the |my |some |your )?(?:\w+ )?"
_MAKE = r"(?:make|making|build|building|create|creating|construct|assemble|synthesi[sz]e|cook) "
_GET = r"(?:buy|buying|get|sell|order) "
_DO = r"(?:kill|murder|stab|shoot|strangle|poison|hurt|beat|torture|behead|rape) "
_I_WILL = r"(?:i will|i ll|i am going to|i m going to|im going to|i want to|i wanna|i m gonna|im gonna|going to|we will|gonna) "
_PEOPLE = r"(?:jews|muslims|blacks|immigrants|gays|women|christians|refugees|foreigners|arabs|asians|mexicans|whites|migrants)"

_ENTRIES: tuple[tuple[str, float, str, str | None], ...] = (
    # category, score, last words, what stands before
    ("self-harm/intent", 0.95, "myself", rf"{_I_WILL}(?:kill|hang|hurt|harm|cut|shoot|starve) "),
    ("self-harm/intent", 0.95, "life", rf"{_I_WILL}(?:end|take) my (?:own )?"),
    ("self-harm/intent", 0.9, "suicide", rf"(?:{_I_WILL}|thinking (?:of|about) )commit(?:ting)? "),
    ("self-harm/intent", 0.85, "suicidal", r"i (?:am|m|feel) (?:so |very )?"),
    ("self-harm/instructions", 0.95, "suicide", rf"(?:{_ASKS}|ways to |best way to )commit "),
    ("self-harm/instructions", 0.95, "myself", rf"(?:{_ASKS}|ways to |best way to )(?:kill|hang|cut|starve) "),
    ("self-harm/instructions", 0.95, "yourself", rf"(?:{_ASKS}|ways to |best way to )(?:kill|hang|cut|starve) "),
    ("harassment/threatening", 0.95, "you", rf"{_I_WILL}{_DO}"),
    ("harassment/threatening", 0.95, "family", rf"{_I_WILL}{_DO}your "),
    ("harassment", 0.9, "yourself", r"(?:go |just |you should |please )(?:kill|hang|drown|shoot) "),
    ("harassment", 0.9, "kys", None),
    ("harassment", 0.85, "die", r"(?:go|you should|hope you|deserve to) (?:and |all )?"),
    ("harassment", 0.8, "idiot retard loser bitch whore moron", r"you (?:are |re )?(?:a |an |such a |such an )?(?:stupid |fucking |worthless |dumb |pathetic )+"),
    ("harassment", 0.8, "bitch retard whore cunt", r"you (?:are |re )?(?:a |an |such a )?"),
    ("hate/threatening", 0.97, "jews muslims blacks immigrants gays women christians refugees foreigners arabs asians mexicans whites migrants", r"(?:kill|exterminate|gas|hang|shoot|eradicate|burn|lynch) (?:all |every |the |all the |those )+"),
    ("hate/threatening", 0.95, "die exterminated killed eradicated gassed", rf"{_PEOPLE} (?:must|should|deserve to|have to|need to) (?:all )?(?:be )?"),
    ("hate", 0.9, "vermin subhuman subhumans parasites cockroaches animals scum filth inferior", rf"{_PEOPLE} are (?:all |just |nothing but |like )?"),
    ("hate", 0.85, "jews muslims blacks immigrants gays women christians refugees foreigners arabs asians mexicans whites migrants", r"i (?:really )?(?:hate|despise) (?:all |the |all the |those )?"),
    ("hate", 0.9, "supremacy", r"(?:believe in|long live|for|heil) white "),
    ("hate", 0.9, "nigger niggers kike kikes faggot faggots spic spics gook gooks raghead ragheads", None),
    ("illicit/violent", 0.95, "bomb bombs explosive explosives grenade napalm ied molotov", rf"(?:{_ASKS}){_MAKE}{_A}"),
    ("illicit/violent", 0.95, "gun weapon silencer rifle", rf"(?:{_ASKS})(?:{_MAKE}|{_GET}|3d print )(?:an? )?(?:untraceable |ghost |illegal |unregistered )+"),
    ("illicit/violent", 0.97, "ricin sarin anthrax vx tabun novichok", rf"(?:{_ASKS}){_MAKE}{_A}"),
    ("illicit/violent", 0.95, "someone somebody him her wife husband neighbor neighbour", rf"(?:{_ASKS})(?:kill|murder|poison|strangle) (?:my |a )?"),
    ("illicit", 0.95, "meth methamphetamine heroin fentanyl mdma crack lsd cocaine", rf"(?:{_ASKS})(?:{_MAKE}|{_GET}){_A}"),
    ("illicit", 0.9, "card cards", rf"(?:{_ASKS})(?:clone|steal|skim|forge) (?:a |stolen )?credit "),
    ("illicit", 0.9, "money passport passports id ids", rf"(?:{_ASKS})(?:{_MAKE}|forge |print )(?:a )?(?:counterfeit |fake |forged )+"),
    ("illicit", 0.9, "car house account bank", rf"(?:{_ASKS})(?:hotwire|break into|hack into|rob) (?:a |an |someone s |my neighbor s )?"),
    ("illicit", 0.9, "malware ransomware keylogger virus botnet", rf"(?:{_ASKS}){_MAKE}{_A}"),
    ("illicit", 0.85, "murder hitman", r"(?:get away with|hire a|hire someone to) "),
    ("sexual/minors", 0.97, "porn pornography nudes erotica", r"(?:child|kiddie|underage|teen|preteen|minor) "),
    ("sexual/minors", 0.97, "child children minor minors kid kids preteen underage", r"(?:sex with|naked|nude|nudes of|erotic|porn of|porn with|rape of) (?:a |an |the |young |little |small |some ){0,3}"),
    ("sexual", 0.85, "blowjob handjob cumshot gangbang creampie deepthroat bukkake milf", None),
    ("sexual", 0.8, "porn pornography erotica hentai", r"(?:write|watch|send|show|make|hardcore|explicit|some) (?:me )?(?:\w+ )?"),
    ("sexual", 0.85, "cock pussy dick", r"(?:suck|lick|hard|wet|my|your|his|her) "),
    ("sexual", 0.8, "sex", r"(?:hardcore|explicit|anal|oral|rough|have|group) "),
    ("violence/graphic", 0.9, "entrails intestines guts brains", r"(?:spilled|spilling|ripped|tore|splattered|pulled) (?:out )?(?:his |her |their |the |my )?"),
    ("violence/graphic", 0.85, "decapitated disemboweled disembowelled dismembered eviscerated", r"(?:was|were|got|be|been|he|she|they) "),
    ("violence", 0.9, "him her them everyone everybody people", rf"{_I_WILL}{_DO}(?:all )?(?:these |those |of )?"),
    ("violence", 0.9, "school schools mosque church synagogue mall", rf"{_I_WILL}(?:shoot up|bomb|blow up|attack|burn down) (?:a |the |my |this )?"),
    ("violence", 0.85, "massacre bloodbath genocide", rf"(?:{_I_WILL}|let us |let s |we need a |start a )(?:commit |start |cause )?(?:a )?"),
)  # fmt: skip


def _by_last_word() -> dict[str, list[tuple[str, float, re.Pattern[str] | None]]]:
    table: dict[str, list[tuple[str, float, re.Pattern[str] | None]]] = {}
    for category, score, words, before in _ENTRIES:
        pattern = None if before is None else re.compile(rf"(?:^| )(?:{before})$")
        for word in words.split():
            table.setdefault(word, []).append((category, score, pattern))
    return table


LEXICON = _by_last_word()
"""By last word: category, score, and what has to stand before."""
