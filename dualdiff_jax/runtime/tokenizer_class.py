"""The class of T5's tokenizer, without transformers' warning about a missing torch, which nothing here needs."""

import os
from typing import Any

QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def t5_tokenizer_class() -> Any:
    """transformers' ``T5TokenizerFast``. The import takes two seconds; only callers that read text wait for it."""
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
