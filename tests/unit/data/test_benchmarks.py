"""Questions of benchmarks in their publishers' layouts: the right image, options and truth for each id."""

import base64
import csv

import pytest

from dualdiff_jax.data.benchmarks.karpathy import karpathy_questions
from dualdiff_jax.data.benchmarks.mmbench import MMBenchQuestions
from dualdiff_jax.data.benchmarks.mme import mme_questions
from dualdiff_jax.data.benchmarks.mmmu import MMMUQuestions
from dualdiff_jax.data.records.index import IndexCache
from dualdiff_jax.errors import UserError
from tests import benchmark_layouts
from tests.benchmark_layouts import picture

FILES = ("MMBench_DEV_EN.tsv", "other.tsv")


def mmbench(root):
    found = MMBenchQuestions(str(root), FILES, "dev_en", IndexCache())
    return [found[index] for index in range(len(found))]


def test_each_rotation_of_mmbench_has_the_same_right_option_under_another_letter(tmp_path):
    benchmark_layouts.write_mmbench(tmp_path)
    questions = mmbench(tmp_path)
    assert [len([q for q in questions if q.unit == str(unit)]) for unit in range(3)] == [3, 4, 4]
    for unit, right in enumerate(("one", "two", "three")):
        turned = [question for question in questions if question.unit == str(unit)]
        assert {q.options["ABCD".index(q.truths[0])] for q in turned} == {right}
        assert len({q.truths[0] for q in turned}) == len({q.options for q in turned}) == len(turned)
        assert all(q.image == picture(min(unit, 1)) for q in turned)  # the third row names the second's image
        assert [int(q.question_id) for q in turned] == [unit + 1_000_000 * n for n in range(len(turned))]


def write_table(root, rows, names=("index", "question", "A", "B", "answer", "image")):
    with (root / FILES[0]).open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows([names, *rows])


def test_a_circular_file_of_mmbench_is_taken_as_it_is(tmp_path):
    image = base64.b64encode(picture(0)).decode()
    write_table(tmp_path, [[7, "which?", "x", "y", "A", image], [1_000_007, "which?", "y", "x", "B", "7"]])
    found = mmbench(tmp_path)
    assert [(q.question_id, q.unit, q.options, q.truths) for q in found] == [
        ("7", "7", ("x", "y"), ("A",)),
        ("1000007", "7", ("y", "x"), ("B",)),
    ]


def test_a_split_of_mmbench_without_answers_says_so(tmp_path):
    image = base64.b64encode(picture(0)).decode()
    write_table(tmp_path, [[7, "which?", "x", "y", image]], ("index", "question", "A", "B", "image"))
    found = MMBenchQuestions(str(tmp_path), FILES, "test_en", IndexCache())
    assert not found.is_answered and found[0].truths == ()


def test_only_the_hint_nan_is_none(tmp_path):
    image, names = base64.b64encode(picture(0)).decode(), ("index", "question", "hint", "A", "B", "answer", "image")
    hints = ["nanotubes are small", "nan", "", " a hint "]
    rows = [[n, "which?", hint, "x", "y", "A" if n else "", image] for n, hint in enumerate(hints)]
    write_table(tmp_path, rows, names)
    questions = mmbench(tmp_path)
    assert [q.text for q in questions[::2]] == ["nanotubes are small which?", "which?", "which?", "a hint which?"]
    assert MMBenchQuestions(str(tmp_path), FILES, "dev_en", IndexCache()).is_answered  # though its first row is not


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, "which?", "x", "", "A", "9" * 90], "row 1 has 1 options"),
        ([1, "which?", "x", "y", "C", "9" * 90], "row 1 has 2 options and the answer 'C'"),
        ([1, "which?", "x", "y", "AB", "9" * 90], "row 1 has 2 options and the answer 'AB'"),
        ([1, "which?", "x", "y", "A", "4"], "row 1 has no image"),
        (["a", "which?", "x", "y", "A", "4"], "a row has the index 'a'"),
    ],
)
def test_faults_of_mmbench(tmp_path, row, message):
    write_table(tmp_path, [row])
    with pytest.raises(UserError, match=message):
        mmbench(tmp_path)


@pytest.mark.parametrize(("options", "message"), [("xy  ", None), ("x yz", "D and no B"), (" xyz", "D and no A")])
def test_an_option_of_mmbench_without_the_one_before_is_refused(tmp_path, options, message):
    """The letters of the others, and of the answer, would be of other options."""
    names = ("index", "question", "A", "B", "C", "D", "answer", "image")
    image = base64.b64encode(picture(0)).decode()
    write_table(tmp_path, [[1, "which?", *options, "B", image]], names)
    if message is None:
        assert {q.options["ABCD".index(q.truths[0])] for q in mmbench(tmp_path)} == {"y"}
        return
    with pytest.raises(UserError, match=f"MMBench_DEV_EN.tsv: row 1 has option {message}; copy the file again"):
        mmbench(tmp_path)


def test_a_foreign_table_is_no_mmbench(tmp_path):
    (tmp_path / FILES[1]).write_text("a\tb\n1\t2\n")
    with pytest.raises(UserError, match="lacks the columns index, question, A, B, image"):
        mmbench(tmp_path)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(UserError, match="there is none of MMBench_DEV_EN.tsv, other.tsv here"):
        mmbench(tmp_path)


def test_mmmu_has_the_image_that_a_question_names_first(tmp_path):
    benchmark_layouts.write_mmmu(tmp_path)
    found = MMMUQuestions(str(tmp_path), "validation")
    questions = {question.question_id: question for question in (found[index] for index in range(len(found)))}
    assert len(questions) == 6
    opened, chosen = questions["validation_Art_0"], questions["validation_Basic_Medical_Science_2"]
    assert opened.image == picture(0) and opened.truths == ("3", "three") and not opened.options
    assert chosen.image == picture(9) and chosen.truths == ("B",) and chosen.options == ("one", "two", "three")
    assert chosen.types == {"subject": "Basic_Medical_Science", "question_type": "multiple-choice"}
    with pytest.raises(UserError, match="no file matches"):
        MMMUQuestions(str(tmp_path), "test")


def test_mme_pairs_two_questions_with_their_image(tmp_path):
    benchmark_layouts.write_mme(tmp_path)
    found = mme_questions(str(tmp_path), ("OCR", "artwork"))
    assert [found[index].unit for index in range(len(found))] == ["OCR/0001"] * 2 + ["artwork/0001"] * 2
    assert [found[index].truths[0] for index in range(4)] == ["Yes", "No"] * 2
    assert found[0].image == tmp_path / "OCR/0001.png"
    assert found[2].image == tmp_path / "artwork/images/0001.jpg"


def test_karpathys_split_has_its_own_images(tmp_path):
    benchmark_layouts.write_karpathy(tmp_path)
    found = karpathy_questions(str(tmp_path), "test", IndexCache())
    assert [found[index].question_id for index in range(len(found))] == ["0", "2"]
    assert found[1].image == tmp_path / "val2014/COCO_val2014_000000000002.jpg"
    assert found[0].truths == ("A red digit.", "One.") and found[0].text == ""
    with pytest.raises(UserError, match="has no questions"):
        karpathy_questions(str(tmp_path), "restval", IndexCache())
