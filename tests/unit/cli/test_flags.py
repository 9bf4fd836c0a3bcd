"""Which flags each mode accepts, that it reads all of them, and what a faulty command line is answered."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from absl import flags
from absl.testing import flagsaver

from dualdiff_jax.cli import arguments, joint, main, processes, run_config, text_flags

ROOT = Path(__file__).parents[3]

TOGETHER = "coordinator num_processes process_id initialization_timeout"
LOADING = f"model output overwrite format seed height width dtype t5_bits {TOGETHER}"
READING = f"{LOADING} length fit"
WRITING = (
    f"{READING} order steps certainty threshold entropy_bound block_length remask temperature top_p "
    "repetition_penalty guidance_scale guidance_null exit_margin"
)
TEXTS = f"image {WRITING}"
DRAWING = f"{LOADING} steps sampler sigmas sigma_shift"
PROMPTED = (
    f"prompt guidance_scale guidance_rule guidance_interval zero_init_steps negative_prompt images_per_prompt {DRAWING}"
)
ACCEPTED = {
    "train": f"config workdir format {TOGETHER}",
    "generate": PROMPTED,
    "edit": f"image fit strength {PROMPTED}",
    "inpaint": f"image fit strength mask {PROMPTED}",
    "variations": f"image fit strength count {DRAWING}",
    "joint": f"prompt count steps length guidance_scale sigma_shift temperature {LOADING}",
    "caption": f"anchor_end early_stop {TEXTS}",
    "answer": f"question anchor_end early_stop {TEXTS}",
    "infill": f"text tokens_per_blank {TEXTS}",
    "score": f"image text question samples per_token anchor_end {READING}",
    "app": "model dtype t5_bits host port",
    "plan": "config format topology of search",
    "list-images": "images text overwrite format",
    "inspect-data": "config output overwrite samples format",
    "encode-data": f"config model output format {TOGETHER}",
    "check": f"config workdir format {TOGETHER}",
    "evaluate": f"task data split limit suffix question choose_by words sampling_batch images weights resize "
    "sampler sigmas sigma_shift guidance_rule guidance_interval zero_init_steps negative_prompt images_per_prompt "
    f"{WRITING}",
    "compare": "format",
}
VALUES = {
    "config": ROOT / "configs" / "demo.py",
    "workdir": "w",
    "model": "m",
    "prompt": "a three",
    "image": "a.png",
    "question": "which?",
    "text": "a _",
    "tokens_per_blank": 2,
    "per_token": "true",
    "anchor_end": "false",
    "task": "vqav2",
    "data": "d",
    "split": "val",
    "limit": 3,
    "suffix": "Answer.",
    "choose_by": "score",
    "words": "plain",
    "sampling_batch": 4,
    "images": "i",
    "weights": "inception.pth",
    "resize": "clean-fid",
    "output": "o",
    "overwrite": "true",
    "samples": 3,
    "format": "json",
    "seed": 3,
    "height": 8,
    "width": 8,
    "steps": 3,
    "guidance_scale": 3,
    "negative_prompt": "a photo",
    "sampler": "heun",
    "sigmas": "1,0.5",
    "sigma_shift": "resolution",
    "guidance_rule": "cfg_zero_star",
    "guidance_interval": "0.2,0.8",
    "zero_init_steps": 2,
    "images_per_prompt": 2,
    "strength": 0.5,
    "mask": "m.png",
    "count": 2,
    "length": 8,
    "dtype": "float32",
    "t5_bits": "8",
    "order": "confidence",
    "certainty": "margin",
    "threshold": 0.8,
    "entropy_bound": 0.2,
    "block_length": 4,
    "remask": 0.1,
    "temperature": 0.5,
    "top_p": 0.9,
    "repetition_penalty": 1.2,
    "guidance_null": "text",
    "exit_margin": 5.0,
    "early_stop": "false",
    "fit": "letterbox",
    "topology": "v5e:2x2",
    "of": "train",
    "search": "true",
    "host": "0.0.0.0",
    "port": 0,
    "coordinator": "localhost:1",
    "num_processes": 1,
    "process_id": 0,
    "initialization_timeout": 3,
}


@pytest.fixture
def command(monkeypatch):
    """Parses a command line and runs its mode in this process; raises ``SystemExit`` as the program does."""
    monkeypatch.setattr(main.environment, "prepare", lambda: None)
    monkeypatch.setattr(main.logging, "basicConfig", lambda **_: None)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        with flagsaver.flagsaver():
            main.main(main._parse(sys.argv))

    return run


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The modes that ran, in place of doing their work."""
    found: list[str] = []
    monkeypatch.setattr(main, "COMMANDS", {mode: lambda mode=mode: found.append(mode) for mode in arguments.MODES})
    return found


def given(*names: str) -> list[str]:
    return [f"--{name}={VALUES[name]}" for name in names]


def error_of(call: Callable[..., None], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        call(*arguments)
    assert isinstance(error.value.code, str)  # printed on stderr; the exit status is 1
    return error.value.code


def test_the_table_has_every_mode_and_every_flag():
    assert set(ACCEPTED) == set(arguments.MODES) == set(main.COMMANDS)
    assert set(VALUES) == set(arguments.USED_BY) == {name for names in ACCEPTED.values() for name in names.split()}


@pytest.mark.parametrize("flag", VALUES)
@pytest.mark.parametrize("mode", ACCEPTED)
def test_a_mode_accepts_its_flags_and_names_any_other(command, ran, mode, flag):
    if flag in ACCEPTED[mode].split():
        command(f"--mode={mode}", *given(flag))
        assert ran == [mode]
    else:
        message = error_of(command, f"--mode={mode}", *given(flag))
        users = "|".join(m for m in arguments.MODES if flag in ACCEPTED[m].split())
        assert message == f"error: --mode={mode} does not use --{flag} (for --mode={users}); leave it out"
        assert ran == []


def test_all_flags_that_a_mode_does_not_use_are_named_at_once(command, ran):
    message = error_of(command, "--mode=train", *given("config", "workdir", "seed", "topology"), "--nosearch")
    assert re.findall(r"--(\w+) \(for", message) == ["seed", "topology", "search"]
    assert message.endswith("; leave them out") and ran == []


@pytest.mark.parametrize("mode", ACCEPTED)
def test_a_mode_reads_each_flag_that_it_accepts_and_no_other(command, monkeypatch, mode):
    read: set[str] = set()

    class Spy:
        def __init__(self, holder: flags.FlagHolder):
            self._holder, self.name = holder, holder.name

        @property
        def value(self):
            read.add(self.name)
            return self._holder.value

    for module in (arguments, text_flags):
        for name, holder in list(vars(module).items()):
            if isinstance(holder, flags.FlagHolder):
                monkeypatch.setattr(module, name, Spy(holder))
    for module in (
        "sample",
        "edit",
        "given_texts",
        "plan",
        "train",
        "data",
        "check",
        "evaluations",
        "compare",
        "pictures",
    ):
        monkeypatch.setattr(main, module, MagicMock())
    monkeypatch.setattr(joint, "joint", MagicMock())
    monkeypatch.setitem(sys.modules, "dualdiff_jax.app.page", MagicMock())  # which imports Gradio
    monkeypatch.setattr(run_config, "resolve", lambda config: config)
    monkeypatch.setattr(processes, "distributed_run", lambda *_: contextlib.nullcontext())
    command(f"--mode={mode}", *given(*ACCEPTED[mode].split()))
    assert read - {"mode", "debug", "quiet"} == set(ACCEPTED[mode].split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "there is no --mode; give --mode=train|generate|edit|inpaint|variations|joint|caption|answer|",
        ),
        (["--mode=paint"], "flag --mode=paint"),
        (["--mode=train", "config"], "'config' is not a flag; flags look like --name=value"),
        (["--mod=train"], "Unknown command line flag 'mod'. Did you mean: mode, model ?"),
        (["--mode=generate", "--seed=-1"], "flag --seed=-1"),
        (["--mode=generate", "--seed=1,a"], "flag --seed=1,a"),
        (["--mode=generate", "--sigmas=1,1.5"], "flag --sigmas=1,1.5: give numbers from 0 to 1, separated by commas"),
        (
            ["--mode=score", *given("model", "image", "text"), "--question= "],
            "a question is empty; ask something in --question",
        ),
        (
            ["--mode=caption", *given("model", "image"), "--guidance_null=text"],
            "--guidance_null=text masks a prompt, and a caption has none; leave it out",
        ),
        (["--mode=generate", "--sampler=ddim"], "flag --sampler=ddim"),
        (["--mode=edit", "--model=m", "--output=o", "--image=i"], 'there is no prompt; give --prompt="..."'),
        (["--mode=edit", "--model=m", "--output=o", "--prompt=a"], "there is no image; give --image=FILE"),
        (
            ["--mode=edit", "--model=m", "--output=o", "--prompt=a", "--image=i", "--strength=0"],
            "strength is 0.0; give",
        ),
        (
            ["--mode=inpaint", "--model=m", "--output=o", "--prompt=a", "--image=i"],
            "there is no mask; give --mask=FILE",
        ),
        (
            ["--mode=generate", "--model=m", "--output=o", "--prompt=a", "--seed=1,2,3"],
            "--seed has 3 numbers for 1 prompts or images; give one, or one for each",
        ),
        (["--mode=generate", "--output=o", "--prompt=a"], "--mode=generate needs --model="),
        (["--mode=generate", "--model=m", "--prompt=a"], "--mode=generate needs --output="),
        (["--mode=generate", "--model=m", "--output=o"], 'there is no prompt; give --prompt="..."'),
        (["--mode=generate", "--model=m", "--output=o", "--prompt= "], "a prompt is empty; describe the image"),
        (["--mode=caption", "--model=m"], "there is no image; give --image=FILE"),
        (["--mode=answer", "--model=m", "--image=i"], "an image or a question is missing"),
        (["--mode=infill", "--model=m", "--image=i"], "an image or a text is missing"),
        (["--mode=score", "--model=m", "--text=a"], "an image or a text is missing"),
        (["--mode=score", "--model=m", "--image=i", "--text= "], "a text is empty; write something in --text"),
        (["--mode=train", "--workdir=w"], "--mode=train needs --config=FILE"),
        (["--mode=evaluate", "--model=m", "--output=o"], "--mode=evaluate needs --data="),
        (["--mode=evaluate", *given("model", "output", "data")], "there is no task; give --task=vqav2|okvqa|"),
        (["--mode=evaluate", *given("model", "output", "data"), "--task=nlvr"], "flag --task=nlvr"),
        (
            ["--mode=evaluate", *given("model", "output", "data", "task", "task")],
            "--task=vqav2 is given more than once; give each task once",
        ),
        (
            ["--mode=evaluate", *given("model", "output", "data", "task"), "--question=a", "--question=b"],
            "--question is given 2 times; an evaluation asks one about every image",
        ),
        (
            ["--mode=evaluate", *given("model", "output", "data", "task"), "--seed=1,2"],
            "--seed has 2 numbers; an evaluation takes one",
        ),
        (
            ["--mode=evaluate", *given("model", "output", "data", "task", "steps"), "--order=threshold"],
            "--steps is given, but --order=threshold takes as many as a text needs; leave one out",
        ),
        (["--mode=compare", "a"], "--mode=compare takes two folders, found 1; give --mode=compare A B"),
        (["--mode=compare", "a", "b"], "a: has no evaluation; name a folder that --mode=evaluate wrote"),
        (["--mode=train", *given("config")], "--mode=train needs --workdir="),
        (["--mode=plan", *given("config")], "--mode=plan needs --topology="),
        (["--mode=train", *given("config"), "--workdir=hdfs://bucket/w"], "hdfs://bucket/w"),
        (
            ["--mode=plan", *given("config", "topology"), "--search", "--of=text_to_image"],
            "--search finds batches for training, not for --of=text_to_image; leave one of the two out",
        ),
        (
            ["--mode=train", "--config.train.steps=3", "--workdir=w"],
            "--config.train.steps changes a field of a config file; give --config=FILE too",
        ),
        (["--mode=train", "--config=configs/none.py", "--workdir=w"], "configs/none.py: cannot be loaded"),
        (["--mode=train", *given("config"), "--config.trian.steps=3"], 'Did you mean "train"'),
        (["--mode=train", *given("config"), "--config.train.steps=abc"], "--config.train.steps=abc"),
    ],
)
def test_a_faulty_command_line_is_answered_with_one_line(command, arguments, message):
    found = error_of(command, *arguments)
    assert found.startswith("error: ") and message in found and "\n" not in found


@pytest.mark.parametrize("flag", arguments.PATHS)
def test_an_empty_path_is_refused(command, ran, flag):
    mode = arguments.USED_BY[flag][0]
    assert f"--{flag} is empty; give a path" in error_of(command, f"--mode={mode}", f"--{flag}=") and ran == []


def test_a_config_file_that_fails_is_one_line_too(command, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config():\n    return undefined\n")
    found = error_of(command, "--mode=train", f"--config={tmp_path / 'broken.py'}", "--workdir=w")
    assert "the config file cannot be loaded (NameError: name 'undefined' is not defined)" in found
    with pytest.raises(NameError):
        command("--mode=train", f"--config={tmp_path / 'broken.py'}", "--workdir=w", "--debug")
