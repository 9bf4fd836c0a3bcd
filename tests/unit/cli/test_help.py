"""What the program prints of itself: every mode and flag once, examples that parse, completions that a shell takes."""

import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from dualdiff_jax import progress
from dualdiff_jax.cli import arguments, help, main
from dualdiff_jax.cli.modes import MODES
from dualdiff_jax.training.telemetry.sinks import ProgressLine

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def flags_as_they_were():
    saved = flags.FLAGS.flag_values_dict()
    flags.FLAGS.unparse_flags()
    yield
    for name, value in saved.items():
        flags.FLAGS[name].value = value
        flags.FLAGS[name].present = 0
    flags.FLAGS.mark_as_parsed()


def python(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_help_of_a_mode_has_its_flags_and_an_example_that_it_takes(mode, monkeypatch):
    text = help.of_mode(mode, "dualdiff")
    named = {
        line.split()[0].removeprefix("--").removeprefix("[no]") for line in text.splitlines() if line.startswith("  --")
    }
    assert named == {name for name, modes in arguments.USED_BY.items() if mode in modes}
    example = next(line for line in text.splitlines() if line.startswith("dualdiff"))
    assert example in help.overview("dualdiff").replace(" " * 14, "")
    monkeypatch.chdir(ROOT)
    words = shlex.split(example)
    assert f"--mode={mode}" in words
    arguments.check_flags(flags.FLAGS(words) and mode)
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("mode", "own", "others"),
    [
        ("inspect-data", "records of each source to look at", "evaluations"),
        ("score", "evaluations for each score", "records of each source"),
        ("list-images", "caption of pictures without one", "to be scored"),
        ("joint", "pairs of image and text; default: 1", "images for each image"),
    ],
)
def test_a_mode_says_only_what_a_flag_means_in_it(mode, own, others):
    text = " ".join(help.of_mode(mode, "dualdiff").split())
    assert own in text and others not in text


def test_all_that_a_flag_means_is_in_the_full_help():
    found = flags.FLAGS["samples"].help
    assert found == "score, inspect-data: evaluations for each score; or records of each source to look at"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], "usage: python main.py --mode=MODE"),
        (["--mode=score", "--help"], "score: how well texts fit an image"),
        (["--mode", "score", "--nonsense=3", "-h"], "score: how well texts fit an image"),
        (["--mode=none", "--help"], "usage: python main.py --mode=MODE"),
        (["--version"], f"jax {jax.__version__}\n"),
        (["--completion=fish"], "complete -c dualdiff -l mode -x -a 'train generate"),
        (["--completion=fish"], "complete -c dualdiff -l model -r\n"),
        (["--completion=fish"], "complete -c dualdiff -l quiet\n"),
    ],
)
def test_what_is_asked_of_the_program_is_answered_whatever_else_is_wrong(words, expected):
    assert expected in (help.asked(["main.py", *words]) or "")


def test_nothing_is_answered_that_was_not_asked():
    assert help.asked(["main.py", "--mode=generate", "--prompt=--help", "--prompt=version"]) is None
    done = python("main.py", "--completion=tcsh")
    assert done.returncode == 1 and "--completion=tcsh is no shell that is known; give bash, zsh, fish" in done.stderr


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("dualdiff --mo", {"--mode=", "--model="}),
        ("dualdiff --mode=in", {"infill", "inpaint", "inspect-data"}),
        ("dualdiff --mode=train --conf", {"--config="}),
        ("dualdiff --sampler=h", {"heun"}),
        ("dualdiff --qui", {"--quiet"}),
    ],
)
def test_bash_completes_modes_flags_and_values(line, found):
    script = "\n".join(
        [
            help.completion("bash"),
            f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}",
            "_dualdiff 2>/dev/null",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert set(done.stdout.split()) == found, done.stderr


def test_a_reader_who_leaves_early_sees_no_traceback():
    done = subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} main.py --help | true"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--mode=encode-data"], "stopped; the same command goes on from what is saved\n"),
        (["--mode=evaluate", "--overwrite"], "stopped\n"),
        (["--mode=generate"], "stopped\n"),
    ],
)
def test_an_interrupted_command_says_whether_it_goes_on_and_ends_with_130(monkeypatch, capsys, words, told):
    def interrupt(*_, **__):
        flags.FLAGS(["main.py", *words])
        raise KeyboardInterrupt

    monkeypatch.setattr(main.app, "run", interrupt)
    with pytest.raises(SystemExit, match="^130$"):
        main.run()
    assert capsys.readouterr().err == told


def test_a_bar_has_a_rate_and_the_time_left(monkeypatch, capsys):
    now = iter((100.0, 102.0, 104.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = progress.bar("importing", "MB", 10)
    for count in (10, 50, 90):
        show(count, 90)
    shown = capsys.readouterr().err.split("\r")[1:]
    assert shown[0].startswith("importing [###...") and "1/9 MB" in shown[0] and "left" not in shown[0]
    assert "5/9 MB  2 MB/s  0:00:02 left" in shown[1]
    assert "9/9 MB  2 MB/s" in shown[2] and shown[2].endswith("\n")


def test_quiet_silences_bars_and_the_line_of_a_run(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_silenced", False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert progress.bar("importing") is not None
    progress.silence()
    assert progress.bar("importing") is None
    ProgressLine(3).write(1, {"examples_per_second": 1.0, "seconds_left": 1.0})
    assert capsys.readouterr().err == ""


def test_transformers_does_not_say_that_torch_is_missing(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('hidden')")
    code = (
        "import sys, importlib.util, os\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "{}\n"
        "assert os.environ.get('TRANSFORMERS_NO_ADVISORY_WARNINGS') is None\n"
    )
    ours = "from dualdiff_jax.runtime.tokenizer_class import t5_tokenizer_class; t5_tokenizer_class()"
    assert "PyTorch was not found" in python("-c", code.format("import transformers")).stderr
    assert python("-c", code.format(ours)).stderr == ""
