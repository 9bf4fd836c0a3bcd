"""``Question``, which every benchmark yields, and random access to all of a split."""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from dualdiff_jax.data.decoding import ImageSource
from dualdiff_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Question:
    """One image and what is asked about it.

    Attributes:
        question_id: the publisher's, as text.
        image: its path, the bytes of the encoded file, or a decoded image.
        text: the question; "" asks for a caption.
        truths: the answers of all annotators, the captions, or the right option's letter; none where they are held
            back.
        options: of a multiple choice, A first.
        types: the kinds that the publisher sorts the question into, such as {"answer_type": "number"}.
        unit: equal for questions that count only together, such as the two of an MME image.
    """

    question_id: str
    image: ImageSource
    text: str
    truths: tuple[str, ...]
    options: tuple[str, ...] = ()
    types: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unit: str = ""


class Questions(abc.ABC):
    """Random access to the questions of a split, which many threads may read at once.

    Attributes:
        name: of the data set and its split, for messages.
        root: the folder of its files.
        is_answered: whether the publisher gives the truths.
    """

    name: str
    root: str
    is_answered: bool = True

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Question:
        """The question; its image is not decoded. Raises ``DataError`` if it is damaged."""

    @abc.abstractmethod
    def files(self) -> list[Path]:
        """The files that hold the questions, without the image files."""

    def holds_images(self) -> bool:
        """Whether ``files`` hold the images too."""
        return False

    def head(self, index: int) -> Question:
        """What a fingerprint looks at: here the same as ``__getitem__``."""
        return self[index]


class JoinedQuestions(Questions):
    """Several lists of questions as one.

    Args:
        name: of all.
        parts: at least one, of one root.
    """

    def __init__(self, name: str, parts: list[Questions]):
        self.name, self.root = name, parts[0].root
        self.is_answered = all(part.is_answered for part in parts)
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, index: int) -> Question:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    def files(self) -> list[Path]:
        return [file for part in self._parts for file in part.files()]


class ListedQuestions(Questions):
    """Questions that fit into memory; their images are files of their own.

    Args:
        name: of the data set and its split.
        root: the folder of its files.
        questions: at least one.
        files: that hold them.

    Raises:
        UserError: there is no question.
    """

    def __init__(self, name: str, root: str, questions: list[Question], files: list[Path]):
        if not questions:
            raise UserError(f"{root}: {name} has no questions; check the folder")
        self.name, self.root, self._questions, self._files = name, root, questions, files
        self.is_answered = any(question.truths for question in questions)

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> Question:
        return self._questions[index]

    def files(self) -> list[Path]:
        return self._files
