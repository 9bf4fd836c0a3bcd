"""Normal forms of short answers, in which VQA benchmarks compare them.

VQAv2        ``vqaEval.py`` of GT-Vision-Lab/VQA at a013f00: punctuation, then digits and articles
OKVQA, ...   ``EvalAIAnswerProcessor`` of Pythia (mmf at c46b3b3), which LLaVA and lmms-eval 0.7.3 use: first lowers the
             text, drops commas and question marks and splits off ``'s``

Peculiarities of the originals, kept because figures depend on them: a sign is deleted everywhere if a space precedes
or follows it anywhere or if a comma stands between digits, and becomes a space otherwise; the points that do not
precede a digit go, but only the first 32 of them, since the originals pass a flag in the place of the count.
"""

import re

SIGNS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
POINTS_REMOVED = int(re.UNICODE)
NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS.split())} | {"none": "0"}

# A word that lost one of its apostrophes gets it back.
WHOLE = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in WHOLE.split() for place, sign in enumerate(word) if sign == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"  # the one that the originals turn round

_POINT = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"\d,+\d")


def stripped(answer: str) -> str:
    """``answer`` in one line without space around it: what VQAv2 compares where all annotators agree."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqav2_form(answer: str) -> str:
    """The form of a ``stripped`` answer that VQAv2 compares where annotators differ."""
    return _plain_words(_without_signs(answer, _COMMA_IN_NUMBER))


def evalai_form(answer: str) -> str:
    """The form that OKVQA, TextVQA and VizWiz compare."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(_without_signs(stripped(answer), _COMMAS_IN_NUMBER))


def vizwiz_form(answer: str) -> str:
    """``evalai_form``, with every answer that begins with "unanswer" as "unanswerable"."""
    form = evalai_form(answer)
    return "unanswerable" if form.startswith("unanswer") else form


def _without_signs(text: str, comma_in_number: re.Pattern) -> str:
    has_number = comma_in_number.search(text) is not None
    form = text
    for sign in SIGNS:
        deleted = has_number or f"{sign} " in text or f" {sign}" in text
        form = form.replace(sign, "" if deleted else " ")
    return _POINT.sub("", form, count=POINTS_REMOVED)


def _plain_words(text: str) -> str:
    words = (DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
