"""What ``--help``, ``--version``, ``--completion`` and Ctrl-C print: all of it follows from the flags and the modes."""

import importlib.metadata
import platform
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from dualdiff_jax.cli import arguments
from dualdiff_jax.cli.modes import GOES_ON, MODES, SHELLS
from dualdiff_jax.errors import UserError

EVERYWHERE = ("debug", "quiet", "version", "completion")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
REPEATED = ";\n    repeat this option to specify a list of values"  # what absl adds to a help
VALUES = re.compile(r"<([^>]*)>: ")  # and to that of a choice


def asked(argv: Sequence[str]) -> str | None:
    """What --help, --version and --completion print, whatever else is on the command line; None without them.

    Raises:
        UserError: a shell that is not known.
    """
    pairs = (word.lstrip("-").partition("=") for word in argv[1:] if word.startswith("-"))
    given = {name: value for name, _, value in pairs}
    if "--mode" in argv[:-1]:
        given["mode"] = argv[argv.index("--mode") + 1]
    if "help" in given or "h" in given:
        mode = given.get("mode")
        return of_mode(mode, program(argv)) if mode in MODES else overview(program(argv))
    if "version" in given:
        return versions()
    shell = given.get("completion")
    if shell is None:
        return None
    if shell not in SHELLS:
        raise UserError(f"--completion={shell} is no shell that is known; give {', '.join(SHELLS)}")
    return completion(shell)


def program(argv: Sequence[str]) -> str:
    """How the program was started, ``python main.py`` or ``dualdiff``."""
    return "dualdiff" if Path(argv[0]).name.startswith("dualdiff") else "python main.py"


def overview(program: str) -> str:
    """All modes, an example of each, and how to learn more. ``program`` is how it was started."""
    lines = [f"usage: {program} --mode=MODE --FLAG=VALUE ...", ""]
    for mode, (what, example) in MODES.items():
        lines += [f"{mode:13} {what}", f"{'':13} {program} --mode={mode} {example}"]
    lines += ["", f"{program} --mode=MODE --help lists the flags of a mode; with no mode: --helpfull"]
    lines += ["", "for all modes:", *_flags(EVERYWHERE)]
    return "\n".join(lines)


def of_mode(mode: str, program: str) -> str:
    """The flags of one mode."""
    what, example = MODES[mode]
    names = sorted(name for name, modes in arguments.USED_BY.items() if mode in modes)
    return "\n".join([f"{mode}: {what}", "", f"{program} --mode={mode} {example}", "", *_flags(names, mode)])


def versions() -> str:
    """This program's version, those of what it runs on, and the devices."""
    import jax

    lines = [f"dualdiff_jax {_version('dualdiff-jax')}", f"python {platform.python_version()}"]
    lines += [f"{name} {_version(name)}" for name in PACKAGES]
    try:
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})"
    except RuntimeError as error:  # no platform of JAX_PLATFORMS can be used
        devices = f"none ({str(error).splitlines()[0]})"
    return "\n".join([*lines, f"devices {devices}"])


def stopped() -> str:
    """What is printed after Ctrl-C."""
    goes_on = flags.FLAGS.is_parsed() and arguments.MODE.value in GOES_ON and not arguments.OVERWRITE.value
    return "stopped; the same command goes on from what is saved" if goes_on else "stopped"


def completion(shell: str) -> str:
    """A script that completes modes, flags and their values; ``eval "$(dualdiff --completion=bash)"``."""
    names = sorted({*arguments.USED_BY, *EVERYWHERE, "mode", "help"})
    values = {"mode": list(MODES)}
    for name in arguments.USED_BY:
        known = getattr(flags.FLAGS[name].parser, "enum_values", None)
        if known:
            values[name] = [str(value) for value in known]
    switches = {"help", *(name for name in names if _is_switch(name))}
    if shell == "fish":
        needs = {name: "" if name in switches else " -r" for name in names}
        needs |= {name: f" -x -a {' '.join(words)!r}" for name, words in values.items()}
        return "\n".join(f"complete -c dualdiff -l {name}{needs[name]}" for name in names)
    words = " ".join(f"--{name}" if name in switches else f"--{name}=" for name in names)
    cases = "\n".join(
        f"    --{name}=*) COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"${{whole#*=}}\")) ;;"
        for name, words in values.items()
    )
    script = BASH.format(cases=cases, words=words)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


BASH = """\
_dualdiff() {{
  local line="${{COMP_LINE:0:$COMP_POINT}}"
  local whole="${{line##* }}"
  case "$whole" in
{cases}
    --*=*) COMPREPLY=($(compgen -f -- "${{whole#*=}}")) ;;
    *) COMPREPLY=($(compgen -W '{words}' -- "$whole")) ;;
  esac
  [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
}}
complete -o default -F _dualdiff dualdiff"""


def _is_switch(name: str) -> bool:
    return name in flags.FLAGS and flags.FLAGS[name].boolean


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: a checkout)" if package == "dualdiff-jax" else "(not installed)"


def _flags(names: Sequence[str], mode: str = "") -> Iterator[str]:
    for name in names:
        text = " ".join(flags.FLAGS[name].help.replace(REPEATED, "").split())
        if name in arguments.USED_BY:
            text = text.partition(": ")[2]  # the modes
        if values := VALUES.match(text):
            text = f"{text[values.end() :]} ({values[1]})"
        text = arguments.MEANINGS.get(name, {}).get(mode, text)
        yield from _flag(f"[no]{name}" if _is_switch(name) else name, text)


def _flag(name: str, text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    return textwrap.wrap(text, width, initial_indent=f"  --{name:20} ", subsequent_indent=" " * 25)
