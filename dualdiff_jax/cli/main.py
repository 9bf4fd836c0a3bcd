"""The command line: parses the flags (``arguments``) and runs the mode that they name.

``python main.py`` in a checkout and ``dualdiff`` after ``pip install`` are the same program.
"""

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # silences the compiler's chatter; read when jax is imported

from absl import app, flags

from dualdiff_jax import progress
from dualdiff_jax.cli import (
    arguments,
    check,
    compare,
    data,
    edit,
    evaluations,
    given_texts,
    help,
    joint,
    options,
    pictures,
    plan,
    sample,
    text_flags,
    train,
)
from dualdiff_jax.cli.app import serve_page
from dualdiff_jax.cli.modes import MODES
from dualdiff_jax.cli.processes import processes, together
from dualdiff_jax.cli.run_config import run_config
from dualdiff_jax.errors import StuckError, UserError
from dualdiff_jax.files import as_path, bucket_fault, check_holds_arrays, is_bucket
from dualdiff_jax.runtime import environment


def run() -> None:
    """Parses the command line and runs its mode; after an error the process exits with 1, after Ctrl-C with 130."""
    for stream in (sys.stdout, sys.stderr):  # what the terminal's encoding does not have is escaped, not lost
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name in ("mode", "debug", "quiet", *arguments.USED_BY):  # --help lists the flags of the script in argv[0]
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    try:
        app.run(main, flags_parser=_parse)
    except BrokenPipeError:  # whoever read the results has left, as ``| head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print(help.stopped(), file=sys.stderr)
        sys.exit(130)  # as in a shell


def main(argv: list[str]) -> None:
    """Runs the mode of the parsed flags. A ``UserError`` is printed on stderr, and the process exits with 1.

    Args:
        argv: the program's name and the arguments that are not flags, which --mode=compare alone takes.
    """
    level = logging.DEBUG if arguments.DEBUG.value else logging.ERROR if arguments.QUIET.value else logging.WARNING
    if arguments.QUIET.value:
        progress.silence()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, stream=sys.stderr, force=True)
    try:
        if len(argv) > 1 and arguments.MODE.value != "compare":
            raise UserError(f"{argv[1]!r} is not a flag; flags look like --name=value")
        if arguments.MODE.value is None:
            raise UserError(f"there is no --mode; give --mode={'|'.join(MODES)}")
        arguments.check_flags(arguments.MODE.value)
        environment.prepare()
        COMMANDS[arguments.MODE.value](*argv[1:])
    except UserError as error:
        if arguments.DEBUG.value:
            raise
        if isinstance(error, StuckError):
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        sys.exit(f"error: {error}")
    except OSError as error:  # a bucket that refuses to be read, or does not answer
        if arguments.DEBUG.value or not is_bucket(str(error.filename)):
            raise
        sys.exit(f"error: {bucket_fault(error)}")


def _parse(argv: list[str]) -> list[str]:
    """absl's parser; a fault of a flag or of the config file is one line on stderr, and the process exits with 1.

    Returns:
        The program's name and the arguments that are not flags.
    """
    try:
        asked = help.asked(argv)
    except UserError as error:
        _exit(argv, str(error))
    if asked is not None:
        print(asked)
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        if not error.flagname.startswith("config."):
            _exit(argv, str(error))
        _exit(argv, f"--{error.flagname} changes a field of a config file; give --config=FILE too")
    except (
        UserError,
        flags.Error,
        AttributeError,
        KeyError,
        ValueError,
    ) as error:  # the last three: no such field, or wrong type
        _exit(argv, str(error.args[0] if error.args else error))
    except Exception as error:  # a config file is code, which may raise anything
        if "--debug" in argv:
            raise
        _exit(argv, f"the config file cannot be loaded ({type(error).__name__}: {error}); --debug shows where")


def _exit(argv: list[str], fault: str) -> NoReturn:
    sys.exit(f"error: {' '.join(fault.split())} ({help.program(argv)} --help lists the flags)")


def _required(flag: flags.FlagHolder[str | None]) -> str:
    if not flag.value:
        raise UserError(f"--mode={arguments.MODE.value} needs --{flag.name}=...")
    return flag.value


def _as_json() -> bool:
    return arguments.FORMAT.value == "json"


def _generate() -> None:
    sample.generate(
        _required(arguments.MODEL), arguments.PROMPT.value, _required(arguments.OUTPUT), **options.prompted()
    )


def _from_images(command: Callable[..., None], **own: Any) -> None:
    command(
        _required(arguments.MODEL),
        arguments.IMAGE.value,
        _required(arguments.OUTPUT),
        fit=arguments.FIT.value,
        strength=arguments.STRENGTH.value,
        **own,
    )


def _edit() -> None:
    _from_images(edit.edit, prompts=arguments.PROMPT.value, **options.prompted())


def _inpaint() -> None:
    _from_images(edit.inpaint, prompts=arguments.PROMPT.value, masks=arguments.MASK.value, **options.prompted())


def _variations() -> None:
    _from_images(edit.variations, count=arguments.COUNT.value, **options.drawing())


def _caption() -> None:
    sample.caption(
        _required(arguments.MODEL),
        arguments.IMAGE.value,
        arguments.OUTPUT.value,
        anchor_end=arguments.ANCHOR_END.value,
        early_stop=text_flags.EARLY_STOP.value,
        **options.writing(),
    )


def _answer() -> None:
    sample.answer(
        _required(arguments.MODEL),
        arguments.IMAGE.value,
        arguments.QUESTION.value,
        arguments.OUTPUT.value,
        anchor_end=arguments.ANCHOR_END.value,
        early_stop=text_flags.EARLY_STOP.value,
        **options.writing(),
    )


def _infill() -> None:
    sizes = arguments.TOKENS_PER_BLANK.value
    given_texts.infill(
        _required(arguments.MODEL),
        arguments.IMAGE.value,
        arguments.TEXT.value,
        arguments.OUTPUT.value,
        tokens_per_blank=sizes[0] if len(sizes) == 1 else sizes,
        **options.writing(),
    )


def _score() -> None:
    given_texts.score(
        _required(arguments.MODEL),
        arguments.IMAGE.value,
        arguments.TEXT.value,
        arguments.QUESTION.value,
        arguments.OUTPUT.value,
        samples=arguments.SAMPLES.value,
        per_token=arguments.PER_TOKEN.value,
        anchor_end=arguments.ANCHOR_END.value,
        **options.reading(),
        **options.loading(),
    )


def _plan() -> None:
    if arguments.SEARCH.value and arguments.OF.value != "train":
        raise UserError(
            f"--search finds batches for training, not for --of={arguments.OF.value}; leave one of the two out"
        )
    plan.plan(
        run_config(),
        _required(arguments.TOPOLOGY),
        arguments.OF.value,
        is_search=arguments.SEARCH.value,
        as_json=_as_json(),
    )


def _inspect_data() -> None:
    given, samples = arguments.OUTPUT.value, arguments.SAMPLES.value or data.LOOKED_AT
    may_replace = arguments.OVERWRITE.value or given is None
    data.inspect_data(run_config(), given or "runs/inspect-data", samples, overwrite=may_replace, as_json=_as_json())


def _list_images() -> None:
    pictures.list_images(
        _required(arguments.IMAGES),
        arguments.TEXT.value,
        overwrite=arguments.OVERWRITE.value,
        as_json=_as_json(),
    )


def _train() -> None:
    config, folder = run_config(), _required(arguments.WORKDIR)
    check_holds_arrays(as_path(folder))
    with processes():
        train.run_training(config, folder, as_json=_as_json())


def _encode_data() -> None:
    config, folder = run_config(), _required(arguments.OUTPUT)
    with processes():
        data.encode_data(config, folder, arguments.MODEL.value, progress.bar("encoding"), as_json=_as_json())


def _check() -> None:
    check.check(run_config(), _required(arguments.WORKDIR), as_json=_as_json())


def _evaluate() -> None:
    evaluations.evaluate(
        arguments.TASK.value,
        arguments.MODEL.value,
        arguments.DATA.value,
        arguments.OUTPUT.value,
        questions=options.evaluating(),
        drawing=options.drawing_benchmarks(),
        scoring=options.scoring_images(),
    )


def _compare(*folders: str) -> None:
    compare.compare(folders, as_json=_as_json())


COMMANDS: dict[str, Callable[..., None]] = {
    "train": _train,
    "generate": together(_generate),
    "edit": together(_edit),
    "inpaint": together(_inpaint),
    "variations": together(_variations),
    "joint": together(lambda: joint.draw_pairs(_required(arguments.MODEL), _required(arguments.OUTPUT))),
    "caption": together(_caption),
    "answer": together(_answer),
    "infill": together(_infill),
    "score": together(_score),
    "app": lambda: serve_page(_required(arguments.MODEL)),
    "plan": _plan,
    "list-images": _list_images,
    "inspect-data": _inspect_data,
    "encode-data": _encode_data,
    "check": together(_check),
    "evaluate": together(_evaluate),
    "compare": _compare,
}
