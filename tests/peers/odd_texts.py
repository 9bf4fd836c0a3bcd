"""Random answers of the kinds that trip scorers: signs, numbers, articles, contractions, other scripts, nothing."""

import random

from dualdiff_jax.evaluation.metrics.vqa_answers import CONTRACTIONS, DIGITS, SIGNS

WORDS = [
    *("a", "an", "the", "The", "AN", "yes", "no", "Yes", "NO", "not", "y", "N", "red", "Red", "dog's", "dogs'", "cat"),
    *(
        "3.5",
        ".5",
        "5.",
        "1,000",
        "1,,000",
        "1,000.50",
        "10",
        "2",
        "one.",
        "u.s.a.",
        "a.m.",
        "12:30",
        "50%",
        "$5",
        "١,٢",
    ),
    *(
        "café",
        "naïve",
        "東京",
        "ß",
        "Straße",
        "ａ",
        "🙂",
        "\u2028x",
        "it’s",
        "unanswerable",
        "Unanswerable.",
        "unanswered",
    ),
    *("A", "B.", "(C)", "(A)", "D", "USA", "A)", "Answer:", "B,", "...", "." * 40, "'", "''", '"', "-", "--", "\x00"),
]
JOINTS = [" ", " ", " ", "", "  ", "\n", "\t", ", ", ". ", "/", "-", "' "]


def texts(seed: int) -> "Texts":
    return Texts(random.Random(seed))


class Texts:
    """Draws from one generator."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self._words = [*WORDS, *CONTRACTIONS, *CONTRACTIONS.values(), *DIGITS]

    def word(self) -> str:
        word = self.rng.choice(self._words)
        return self.rng.choice([word, word, word, word.upper(), word.capitalize(), self.rng.choice(SIGNS) + word])

    def answer(self, longest: int = 4) -> str:
        """Up to ``longest`` words; one of seventeen is empty or space."""
        if not self.rng.randrange(17):
            return self.rng.choice(["", " ", "\n", "."])
        return "".join(self.word() + self.rng.choice(JOINTS) for _ in range(self.rng.randint(1, longest)))

    def varied(self, answer: str) -> str:
        """Another way of writing an answer, or the same."""
        ways = [
            answer,
            answer,
            answer.upper(),
            f" {answer}",
            f"the {answer}",
            f"{answer}.",
            f"{answer},",
            f"{answer}\n",
        ]
        return self.rng.choice(ways)

    def annotations(self) -> tuple[str, list[str]]:
        """A prediction and the answers of 1 to 10 annotators, who often agree."""
        pool = [self.answer() for _ in range(self.rng.randint(1, 4))]
        alike = not self.rng.randrange(3)
        answers = [self.rng.choice(pool) for _ in range(self.rng.randint(1, 10))]
        if not alike:
            answers = [self.varied(answer) for answer in answers]
        prediction = self.varied(self.rng.choice(pool)) if self.rng.randrange(8) else self.answer()
        return prediction, answers
