"""Our scores are those of the code that papers score with, on thousands of odd answers each."""

import itertools
import random
import statistics

import numpy as np
import pytest

from dualdiff_jax.evaluation.metrics.caption_scores import CaptionScores
from dualdiff_jax.evaluation.metrics.exact_match import ExactMatch
from dualdiff_jax.evaluation.metrics.metric import standard_error
from dualdiff_jax.evaluation.metrics.multiple_choice import LETTERS, MultipleChoice, infer_letter, parse_letter
from dualdiff_jax.evaluation.metrics.open_answers import is_open_answer_right, open_candidates
from dualdiff_jax.evaluation.metrics.vqa_accuracy import VqaAccuracy
from dualdiff_jax.evaluation.metrics.vqa_answers import vizwiz_form
from dualdiff_jax.evaluation.metrics.yes_no import GROUPS, SPLITS, Mme, Pope, mme_answer, pope_answer
from tests.peers import official
from tests.peers.odd_texts import texts

pytestmark = pytest.mark.peers
RECORDS = 20_000


def test_vqav2_scores_as_its_official_script():
    records = [texts(seed).annotations() for seed in range(RECORDS)]
    metric = VqaAccuracy("vqav2")
    ours = [metric.update(prediction, answers) for prediction, answers in records]
    theirs = official.Vqa().accuracies(records)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert len({*np.round(ours, 9)}) > 15  # not all right or all wrong
    assert metric.result().score == pytest.approx(statistics.mean(theirs), abs=1e-9)


@pytest.mark.parametrize("benchmark, task", [("okvqa", "ok_vqa"), ("textvqa", "textvqa"), ("vizwiz", "vizwiz_vqa")])
def test_other_vqa_scores_as_lmms_eval(benchmark, task):
    process = getattr(official.lmms_eval(f"tasks.{task}.utils"), f"{task}_process_results")
    metric, scores, joined = VqaAccuracy(benchmark), set(), 0
    for seed in range(RECORDS):
        prediction, answers = texts(seed).annotations()
        given = [prediction, *answers]
        if benchmark == "vizwiz":  # lmms-eval leaves out the rule for "unanswer..."
            joined += any(vizwiz_form(answer) == "unanswerable" for answer in given)
            given = ["unanswerable" if vizwiz_form(answer) == "unanswerable" else answer for answer in given]
        theirs = process({"answers": list(given[1:]), "question_id": 0}, [given[0]])["exact_match"]
        ours = metric.update(prediction, answers)
        assert ours == pytest.approx(theirs, abs=1e-9), (prediction, answers)
        scores.add(round(ours, 9))
    assert len(scores) > 15
    assert joined > 100 or benchmark != "vizwiz"


def test_gqa_scores_as_lmms_eval():
    evaluate = official.exact_match()
    metric, theirs = ExactMatch(), []
    for seed in range(RECORDS):
        draw = texts(seed)
        answer = draw.answer()
        prediction = draw.varied(answer) if draw.rng.randrange(3) else draw.answer()
        prediction, answer = (text.replace("\0", "") for text in (prediction, answer))  # numpy's strings end there
        theirs.append(
            evaluate([prediction.strip()], [answer], ignore_case=True, ignore_punctuation=True)["exact_match"]
        )
        assert metric.update(prediction, answer) == theirs[-1], (prediction, answer)
    assert 0.2 < metric.result().score < 0.8
    assert metric.result().score == pytest.approx(np.mean(theirs), abs=1e-9)


def yes_or_no(seed: int) -> str:
    draw = texts(seed)
    start = draw.rng.choice(
        ["yes", "Yes", "no", "No", "", "not", "I know", "n", "Y.", "n.o", "yes,", "no,", "NO", " no"]
    )
    return start + draw.rng.choice(["", ".", ". no", ", ", " ", "\n"]) + draw.rng.choice(["", draw.answer()])


def test_pope_scores_as_its_official_script(tmp_path):
    rng = random.Random(0)
    metric = Pope()
    for number, split in enumerate(SPLITS):
        records = [(yes_or_no(seed * 3 + number), rng.choice(["yes", "no"])) for seed in range(RECORDS // 3)]
        for prediction, answer in records:
            metric.update(prediction, answer, split)
        theirs, ours = official.pope(tmp_path, records), metric.result().parts
        names = ("accuracy", "precision", "recall", "f1", "yes_share")
        for name, key in zip(names, ("Accuracy", "Precision", "Recall", "F1 score", "Yes ratio"), strict=True):
            assert ours[f"{split}/{name}"] == pytest.approx(theirs[key], abs=1e-9)
        # The share of each answer alone, so that no two faults cancel.
        for prediction, answer in records[:200]:
            alone = official.pope_accuracy(tmp_path, prediction, answer)
            assert alone == (pope_answer(prediction) == answer), prediction


def test_mme_scores_as_lmms_eval():
    peer = official.lmms_eval("tasks.mme.utils")
    peer.eval_logger.disable("lmms_eval")
    rng = random.Random(0)
    for group, names in GROUPS.items():
        assert set(peer.eval_type_dict[group.capitalize()]) == set(names)
        metric, theirs = Mme(group), []
        for image in range(RECORDS // 4):
            category = names[image % len(names)]
            for question in range(2):
                prediction, answer = yes_or_no(2 * image + question), rng.choice(["Yes", "No"])
                metric.update(prediction, answer, category, str(image))
                assert (mme_answer(prediction) or "other") == peer.parse_pred_ans(prediction), prediction
                doc = {"answer": answer, "category": category, "question_id": str(image)}
                (score,) = peer.mme_process_results(doc, [prediction]).values()
                theirs.append(score)
        assert metric.result().score == pytest.approx(peer.mme_aggregate_results(theirs), abs=1e-9)
        assert metric.result().score > 0


def choice_text(seed: int, options: list[str]) -> str:
    draw = texts(seed)
    letters = LETTERS[: len(options) + 1]
    form = draw.rng.choice(["({})", "{}", "{}.", "{} ", "Answer: {}", "{})", "{}.x", "it is ({}) or"])
    pieces = [form.format(draw.rng.choice(letters)) for _ in range(draw.rng.randrange(3))]
    pieces += [draw.rng.choice(options) for _ in range(draw.rng.randrange(3))]
    pieces += [draw.word() for _ in range(draw.rng.randrange(7))]
    draw.rng.shuffle(pieces)
    return draw.rng.choice([" ", " ", ""]).join(pieces)


def test_multiple_choice_is_parsed_as_lmms_eval_parses_mmmu(monkeypatch):
    peer = official.lmms_eval("tasks._task_utils.mmmu_mcq_utils")
    monkeypatch.setattr(peer.random, "choice", lambda choices: None)  # where it picks at random, we find nothing
    metric, right, found = MultipleChoice(), [], {}
    for seed in range(RECORDS):
        rng = random.Random(-seed - 1)
        options = [texts(seed * 10 + index).answer(2) for index in range(rng.randint(1, 9))]
        text, answer = choice_text(seed, options), rng.choice(LETTERS[: len(options)])
        index, letters = peer.get_multi_choice_info(options)
        theirs = peer.parse_mmmu_multi_choice_response(text, letters, index)
        assert parse_letter(text, options) == theirs, (text, options)
        found[theirs] = found.get(theirs, 0) + 1
        right.append(float(theirs == answer))
        metric.update(text, answer, options)
    assert found[None] > 500 and found["B"] > 500 and found["E"] > 100
    assert metric.result().score == pytest.approx(np.mean(right), abs=1e-9)


def test_mmbench_letters_are_inferred_as_lmms_eval_infers_them():
    peer, found = official.mmbench(), {}
    for seed in range(RECORDS):
        rng = random.Random(-seed - 1)
        options = [texts(seed * 10 + index).answer(2) for index in range(rng.randint(2, 4))]
        text = choice_text(seed, options)
        theirs = peer.can_infer(text, dict(zip(LETTERS, options, strict=False))) or None
        assert infer_letter(text, options) == theirs, (text, options)
        found[theirs] = found.get(theirs, 0) + 1
    assert found[None] > 500 and min(found[letter] for letter in "ABCD") > 500 and found["E"] > 10


def open_text(seed: int) -> str:
    draw = texts(seed)
    keys = ["the answer is ", "so ", "= ", "thus x = ", "Therefore ", "it could be ", "", ""]
    numbers = ["3.14159", "-2", "1,000", "1e5", ".5", "12,34", "0.5.", "10%", "2.5E-3", "x", "7"]
    pieces = []
    for _ in range(draw.rng.randint(1, 3)):
        pieces.append(draw.rng.choice(keys) + draw.rng.choice([*numbers, draw.answer(2), draw.word()]))
    return draw.rng.choice([". ", "\n", " ", ". The "]).join(pieces)


def test_open_questions_of_mmmu_score_as_lmms_eval():
    peer, right = official.mmmu_open(), 0
    for seed in range(RECORDS):
        text, rng = open_text(seed), random.Random(-seed - 1)
        answers = [rng.choice((text if rng.randrange(2) else open_text(-seed)).split() or ["x"])]
        answers += [texts(seed * 7 + 2).answer(2) or "y" for _ in range(rng.randrange(2))]
        candidates = peer.parse(text)
        assert sorted(map(repr, open_candidates(text))) == sorted(map(repr, candidates)), text
        theirs = peer.score(answers if len(answers) > 1 else answers[0], candidates)
        assert is_open_answer_right(text, answers) == theirs, (text, answers)
        right += theirs
    assert 0.1 * RECORDS < right < 0.95 * RECORDS


CAPTION_WORDS = "a the man dog rides red on with two of street bike , . ' -- café 3.5 tall"


def captions(records: int) -> list[tuple[str, list[str]]]:
    rng = random.Random(0)

    def caption() -> str:
        return " ".join(rng.choice(CAPTION_WORDS.split()) for _ in range(rng.randint(0, 9)))

    return [(caption(), [caption() or "dog" for _ in range(rng.randint(1, 5))]) for _ in range(records)]


def test_caption_scores_of_words_are_pycocoevalcaps():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    records = captions(5_000)
    metric = CaptionScores(tokenized=True)
    for record in records:
        metric.update(*record)
    result = metric.result()
    truth = {index: references for index, (_, references) in enumerate(records)}
    said = {index: [prediction] for index, (prediction, _) in enumerate(records)}
    cider, each = Cider().compute_score(truth, said)
    expected = {
        f"BLEU-{size + 1}": value for size, value in enumerate(Bleu(4).compute_score(truth, said, verbose=0)[0])
    }
    assert result.parts == pytest.approx(expected | {"ROUGE-L": Rouge().compute_score(truth, said)[0]}, abs=1e-9)
    assert result.score == pytest.approx(cider, abs=1e-9)
    assert result.standard_error == pytest.approx(np.std(each, ddof=1) / np.sqrt(len(each)), abs=1e-9)
    assert result.standard_error == standard_error([float(value) for value in each])


def test_caption_scores_of_raw_text_are_those_of_the_whole_coco_evaluation():
    """With the PTB tokenizer and METEOR, both of which run in Java."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    records = [
        (f"{said} A Man's (red) dog, isn't it?", [*truth, "A man's (red) dog\non a street!"])
        for said, truth in captions(500)
    ]
    metric = CaptionScores(meteor=True)
    for record in records:
        metric.update(*record)
    tokenize = PTBTokenizer().tokenize
    truth = tokenize({index: [{"caption": text} for text in found] for index, (_, found) in enumerate(records)})
    said = tokenize({index: [{"caption": text}] for index, (text, _) in enumerate(records)})
    bleu = Bleu(4).compute_score(truth, said, verbose=0)[0]
    expected = dict(zip([f"BLEU-{size}" for size in range(1, 5)], bleu, strict=True))
    expected |= {"ROUGE-L": Rouge().compute_score(truth, said)[0], "METEOR": Meteor().compute_score(truth, said)[0]}
    assert metric.result().parts == pytest.approx(expected, abs=1e-9)
    assert metric.result().score == pytest.approx(Cider().compute_score(truth, said)[0], abs=1e-9)
    assert all(0.01 < value < 1 for value in itertools.islice(expected.values(), 4))
