"""The class of T5's tokenizer, without the warning of transformers that torch, which nothing here needs, is missing."""

import os
from typing import Any

QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def t5_tokenizer_class() -> Any:
    """transformers' ``T5TokenizerFast``. The import takes two seconds, for which no caller that reads no text waits."""
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"
    try:
        from transformers import T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        if before is None:
            del os.environ[QUIET]
        else:
            os.environ[QUIET] = before
    return T5TokenizerFast
