"""MME's folders, one for each of its 14 categories.

existence/000000006040.txt             two lines, "question<tab>Yes" and "question<tab>No"
existence/000000006040.jpg
artwork/questions_answers_YN/10002.txt, artwork/images/10002.jpg     in five categories
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dualdiff_jax.data.benchmarks.question import ListedQuestions, Question
from dualdiff_jax.errors import UserError, reason
from dualdiff_jax.files import as_path, read_regular
from dualdiff_jax.files.matching import matching

QUESTIONS, IMAGES = "questions_answers_YN", "images"
ENDINGS = (".jpg", ".jpeg", ".png")
LARGEST = 1 << 16  # bytes of a file with two questions
THREADS = 16


def mme_questions(root: str, categories: tuple[str, ...]) -> ListedQuestions:
    """All questions, two for each image.

    Args:
        root: the folder that holds the categories' folders.
        categories: their names.

    Raises:
        UserError: a category or an image is missing, or a file does not have two lines of a question and an answer.
    """
    folder = as_path(root)
    texts: list[tuple[str, Path, Path]] = []
    for category in categories:
        found = _pairs(folder, category)
        if not found:
            raise UserError(
                f"{folder}: has no questions in {category}/; MME has {', '.join(categories)}, each with NAME.txt "
                f"beside NAME.jpg, or {QUESTIONS}/NAME.txt and {IMAGES}/NAME.jpg"
            )
        texts += [(category, *pair) for pair in found]
    with ThreadPoolExecutor(THREADS) as pool:
        questions = [question for each in pool.map(lambda given: _questions(*given), texts) for question in each]
    return ListedQuestions("mme", root, questions, [file for _, file, _ in texts])


def _pairs(folder: Path, category: str) -> list[tuple[Path, Path]]:
    """(questions, image) of each image of a category."""
    try:
        for asked, shown in ((f"{category}/{QUESTIONS}", f"{category}/{IMAGES}"), (category, category)):
            files = matching(folder, f"{asked}/*.txt")
            if files:
                images = {image.stem: image for image in matching(folder, f"{shown}/*") if image.suffix in ENDINGS}
                return [(file, images.get(file.stem, folder / shown / f"{file.stem}{ENDINGS[0]}")) for file in files]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({reason(error)}); check the folder") from error
    return []


def _questions(category: str, file: Path, image: Path) -> list[Question]:
    try:
        lines = read_regular(file, LARGEST).decode("utf-8-sig", "replace").splitlines()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({reason(error)}); check it and its permissions") from error
    pairs = [tuple(part.strip() for part in line.split("\t")) for line in lines if line.strip()]
    if len(pairs) != 2 or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise UserError(f"{file}: expected two lines, each a question, a tab and Yes or No; copy MME's files again")
    unit = f"{category}/{file.stem}"
    return [
        Question(f"{unit}/{number}", image, pair[0], (pair[1],), types={"category": category}, unit=unit)
        for number, pair in enumerate(pairs, start=1)
    ]
