"""A number that a flag does not take is refused where it is parsed, in one sentence that says what is allowed."""

import pytest

from tests.unit.cli.test_flags import command, error_of  # noqa: F401


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=generate", "--sigmas=1,nan"], "flag --sigmas=1,nan: give numbers from 0 to 1, separated by commas"),
        (["--mode=generate", "--seed=1.5"], "flag --seed=1.5: give whole numbers from 0 to 18446744073709551615"),
        (["--mode=generate", "--steps=10001"], "flag --steps=10001: give a whole number from 1 to 10000"),
        (["--mode=generate", "--height=0"], "flag --height=0: give a whole number from 1 to 16384"),
        (["--mode=generate", "--guidance_scale=nan"], "flag --guidance_scale=nan: give a number from 0 to 1000"),
        (["--mode=edit", "--strength=nan"], "flag --strength=nan: give a number from 0 to 1"),
        (["--mode=caption", "--temperature=inf"], "flag --temperature=inf: give a number from 0 to 100"),
        (["--mode=caption", "--block_length=2.5"], "flag --block_length=2.5: give a whole number from 1 to 8192"),
        (["--mode=infill", "--tokens_per_blank=0"], "flag --tokens_per_blank=0: 0 is not a positive integer"),
        *(
            (
                ["--mode=joint", f"--sigma_shift={shift}"],
                f"flag --sigma_shift={shift}: give a number from 0.001 to 1000,",
            )
            for shift in ("size", "nan", "inf", "0")
        ),
    ],
)
def test_a_number_out_of_bounds_is_answered_with_its_flag_and_what_is_allowed(command, arguments, message):  # noqa: F811
    found = error_of(command, *arguments)
    assert found.startswith(f"error: {message}") and "\n" not in found
